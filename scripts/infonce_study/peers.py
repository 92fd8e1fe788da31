"""Plan and results of the side-by-side table: time, memory and agreement of every method."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from scripts.infonce_study.child import ask
from scripts.infonce_study.methods import METHODS, Method

# the smallest holds the agreement, and the one peer that builds a table of all triples
BATCHES, FEATURES = (256, 8192), (1, 8, 64)
AGREEMENT = BATCHES[0]
LIMIT = 6e9
Step = Callable[[str], None]
Shape = tuple[int, int]


class Peers(NamedTuple):
    """What was measured, by (B, D) and method."""

    times: dict[Shape, dict[str, Any]]
    memory: dict[Shape, dict[str, int | str | None]]
    batches: tuple[int, ...]


def refusal(method: Method, batch: int, features: int) -> str:
    """Why a method is not run on a shape; empty where it is."""
    if features < method.least:
        return "does not apply"
    need = method.needs(batch, features)
    if need > LIMIT:
        return f"not run: {need / 2**30:,.0f} GiB"
    return ""


def runnable(batch: int, features: int) -> list[str]:
    """The methods that are run on a shape; ours first."""
    return [name for name, method in METHODS.items() if not refusal(method, batch, features)]


def shapes(batches: tuple[int, ...]) -> Iterator[Shape]:
    """All (B, D)."""
    return ((batch, features) for batch in batches for features in FEATURES)


def steps(batches: tuple[int, ...]) -> int:
    """How often `measure` calls its `step`."""
    return len(batches) * len(FEATURES) + len(METHODS)


def measure(python: str, batches: tuple[int, ...], seconds: float, step: Step = lambda _: None) -> Peers:
    """One process a shape for the times, one a method for the memory."""
    times: dict[Shape, dict[str, Any]] = {}
    for batch, features in shapes(batches):
        step(f"time: B = {batch}, D = {features}")
        names = runnable(batch, features)
        arguments = {"names": names, "batch": batch, "features": features, "seconds": seconds}
        times[batch, features] = ask(python, "times", **arguments, agree=batch == AGREEMENT)
    memory: dict[Shape, dict[str, int | str | None]] = {shape: {} for shape in times}
    for name in METHODS:
        step(f"memory: {name}")
        asked = [
            list(shape) for shape in times if name in runnable(*shape) and "seconds" in times[shape][name]
        ]
        if asked:
            found = ask(python, "peaks", name=name, shapes=asked)
            for (batch, features), peak in zip(asked, found, strict=True):
                memory[batch, features][name] = peak
    return Peers(times, memory, batches)


def digits(value: float) -> str:
    """Three significant digits, no exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.{2 - max(0, math.floor(math.log10(max(value, 1e-3))))}f}"


def duration(seconds: float) -> str:
    """Milliseconds, or seconds from one on."""
    return f"{digits(seconds)} s" if seconds >= 1.0 else f"{digits(1e3 * seconds)} ms"


def mebibytes(peak: int | str | None) -> str:
    """A peak of memory."""
    if peak is None:
        return "unknown"
    return peak if isinstance(peak, str) else f"{digits(peak / 2**20)} MiB" if peak >= 2**20 else "< 1 MiB"


def cell(found: Peers, name: str, batch: int, features: int) -> str:
    """Time, ratio to ours, and memory of one method on one shape; or why there are none."""
    refused = refusal(METHODS[name], batch, features)
    if refused:
        return refused
    one = found.times[batch, features].get(name, {"missing": ""})
    for problem in ("missing", "failed"):
        if problem in one:
            return problem
    text = duration(one["seconds"])
    if name != "ours":
        text += f" ({digits(one['ratio'])} ×)"
    text += f", {mebibytes(found.memory[batch, features].get(name))}"
    return text if one["finite"] else f"{text}, **not finite**"


def agreement(found: Peers, name: str, form: str, features: int) -> str:
    """How far value and gradient of a method are from ours."""
    one = found.times.get((AGREEMENT, features), {}).get(name, {})
    return f"{one[form]['value']:.0e} / {one[form]['gradient']:.0e}" if form in one else "none"


def notes(found: Peers) -> list[str]:
    """A line for every method that is missing or failed."""
    lines: dict[str, str] = {}
    for (batch, features), results in found.times.items():
        for name, one in results.items():
            for problem in ("missing", "failed"):
                if problem in one:
                    where = "" if problem == "missing" else f" at B = {batch}, D = {features}"
                    lines.setdefault(
                        f"{name} {problem}", f"{METHODS[name].title} {problem}{where}: {one[problem]}"
                    )
    return list(lines.values())


def releases(found: Peers) -> dict[str, str]:
    """The release of every method's distribution."""
    return {
        name: f"{METHODS[name].package} {one['version']}"
        for results in found.times.values()
        for name, one in results.items()
        if "version" in one
    }
