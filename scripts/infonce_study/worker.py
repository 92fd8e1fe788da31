"""What is measured in a process of its own, so that any interpreter that has a peer can do it.

    python -m scripts.infonce_study.worker JOB.json RESULT.json

`JOB` is {"task": one of `TASKS`, ...} with the arguments of that function; `RESULT` is what it returns.
"""

from __future__ import annotations

import functools
import json
import math
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from scripts.infonce_study import memory, ours
from scripts.infonce_study.methods import METHODS, Loss

LEAST_ROUNDS, MOST_ROUNDS = 3, 60
SAMPLE = 5e-3  # a shorter call is repeated until a sample is this long
SLOW = 1.0  # a first call as long as that is not repeated to find out
Case = tuple[Tensor, Tensor, float]


def inputs(
    batch: int, features: int, *, sphere: bool, dtype: torch.dtype = torch.float32, tau: float = 0.1
) -> Case:
    """Correlated replicates that require gradients, and the temperature."""
    g = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(batch, features, generator=g, dtype=torch.float64) for _ in range(2))
    y = x + 0.3 * noise
    if sphere:
        x, y = (torch.nn.functional.normalize(side, dim=1) for side in (x, y))
    return *(side.to(dtype).requires_grad_() for side in (x, y)), tau


def evaluate(loss: Loss, case: Case) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Value and both gradients."""
    x, y, tau = case
    value = loss(x, y, tau)
    gx, gy = torch.autograd.grad(value, (x, y))
    return value.detach(), (gx, gy)


def reason(error: Exception) -> str:
    """One line of an exception."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:100]


def built(names: list[str]) -> tuple[dict[str, Loss], dict[str, str]]:
    """The losses that can be built here, and why the others cannot."""
    found: dict[str, Loss] = {}
    missing: dict[str, str] = {}
    for name in names:
        try:
            found[name] = METHODS[name].build()
        except Exception as error:  # noqa: BLE001 - why a peer is missing goes into the table
            missing[name] = reason(error)
    return found, missing


def release(name: str) -> str:
    """The release of the distribution behind a method."""
    try:
        return version(METHODS[name].package)
    except PackageNotFoundError:
        return "unknown"


def differences(loss: Loss, name: str, batch: int, features: int, dtype: torch.dtype) -> dict[str, float]:
    """How far value and gradients are from ours, relative to ours; the gradients by their largest component.

    On the sphere only the tangential part of a gradient means anything.
    """
    # a temperature that grows with the squared distances: at a lower one the formulas are not finite
    tau = 0.1 if METHODS[name].sphere else 0.1 * features
    case = inputs(batch, features, sphere=METHODS[name].sphere, dtype=dtype, tau=tau)
    value, gradients = evaluate(loss, case)
    own, own_gradients = evaluate(METHODS["ours"].build(), case)
    worst = 0.0
    for side, g, true in zip(case[:2], gradients, own_gradients, strict=True):
        pair = [g.double(), true.double()]
        if METHODS[name].sphere:
            at = side.detach().double()
            pair = [part - (part * at).sum(1, keepdim=True) * at for part in pair]
        off = float((pair[0] - pair[1]).abs().max() / pair[1].abs().max())
        worst = max(worst, off if math.isfinite(off) else math.inf)
    off = abs(float(value) / float(own) - 1.0)
    return {"value": off if math.isfinite(off) else math.inf, "gradient": worst}


def times(names: list[str], batch: int, features: int, seconds: float, *, agree: bool) -> dict[str, Any]:
    """Seconds of forward and backward, medians of rounds in which everyone runs once, and ratios to ours.

    Args:
        names: methods; the first is ours.
        batch: rows.
        features: numbers a row.
        seconds: after so long no further round begins, once there are enough.
        agree: also how far each is from ours, in float32 and float64.
    """
    found, missing = built(names)
    result: dict[str, Any] = {name: {"missing": text} for name, text in missing.items()}
    runs: dict[str, Callable[[], object]] = {}
    repeats: dict[str, int] = {}
    for name, loss in found.items():
        case = inputs(batch, features, sphere=METHODS[name].sphere)
        result[name] = {"version": release(name)}
        try:
            start = perf_counter()
            value, gradients = evaluate(loss, case)
            first = perf_counter() - start
            finite = all(bool(part.isfinite().all()) for part in (value, *gradients))
            result[name]["finite"] = finite
            if agree:
                for dtype in (torch.float32, torch.float64):
                    form = str(dtype).removeprefix("torch.")
                    result[name][form] = differences(loss, name, batch, features, dtype)
            runs[name] = lambda loss=loss, case=case: evaluate(loss, case)
            repeats[name] = 1 if first > SLOW else max(1, math.ceil(SAMPLE / timed(runs[name], 1)))
        except Exception as error:  # noqa: BLE001 - what a peer raises goes into the table
            result[name]["failed"] = reason(error)
            runs.pop(name, None)
    samples = alternating(runs, repeats, seconds)
    for name, sample in samples.items():
        result[name]["seconds"] = median(sample)
        result[name]["ratio"] = median(a / b for a, b in zip(sample, samples[names[0]], strict=True))
        result[name]["rounds"] = len(sample)
    return result


def timed(run: Callable[[], object], repeat: int) -> float:
    """Seconds of one call, the mean of a few."""
    start = perf_counter()
    for _ in range(repeat):
        run()
    return (perf_counter() - start) / repeat


def alternating(
    runs: dict[str, Callable[[], object]], repeats: dict[str, int], seconds: float
) -> dict[str, list[float]]:
    """Samples of everyone, round by round; every second round in reverse."""
    samples: dict[str, list[float]] = {name: [] for name in runs}
    end = perf_counter() + seconds
    for number in range(MOST_ROUNDS):
        if number >= LEAST_ROUNDS and perf_counter() >= end:
            break
        for name in list(runs) if number % 2 else reversed(list(runs)):
            samples[name].append(timed(runs[name], repeats[name]))
    return samples


def peaks(name: str, shapes: list[list[int]]) -> list[int | str | None]:
    """Bytes by which one forward and backward pass raises resident memory, for each (B, D).

    None where the system keeps no account; a string where the call fails.
    """
    found, missing = built([name])
    if missing:
        return [missing[name]] * len(shapes)
    return [_peak(found[name], name, *shape) for shape in shapes]


def _peak(loss: Loss, name: str, batch: int, features: int) -> int | str | None:
    method = METHODS[name]
    # its limit of recompilations would let a formula run that is not compiled
    torch.compiler.reset()
    case = inputs(batch, features, sphere=method.sphere)
    warm = case if method.compiles else inputs(memory.WARM, features, sphere=method.sphere)
    try:
        evaluate(loss, warm)
        return memory.peak_extra(lambda: evaluate(loss, case))
    except OSError:
        return None
    except Exception as error:  # noqa: BLE001 - what a peer raises goes into the table
        return reason(error)


def growth(batches: list[int], seconds: float) -> dict[str, list[float]]:
    """Samples of our loss of scalars, by batch size, all sizes in every round."""
    runs: dict[str, Callable[[], object]] = {}
    for batch in batches:
        case = inputs(batch, 1, sphere=False)
        runs[str(batch)] = lambda case=case: evaluate(METHODS["ours"].build(), case)
        runs[str(batch)]()
    repeats = {name: max(1, math.ceil(SAMPLE / timed(run, 1))) for name, run in runs.items()}
    return alternating(runs, repeats, seconds)


def curve(way: str, features: int, batches: list[int], longest: float) -> list[float | None]:
    """Median seconds by batch size of one of our implementations or of another method.

    None from the first size on whose call would be longer than `longest` if time were quadratic in the
    batch, and where the way is not offered.
    """
    if way in METHODS:
        loss = METHODS[way].build()
    elif way in ours.implementations(features):
        loss = functools.partial(ours.loss, eps=0.0, impl=way)
    else:
        return [None] * len(batches)
    found: list[float | None] = []
    for before, batch in zip([batches[0], *batches], batches, strict=False):
        if found and found[-1] * (batch / before) ** 2 > longest:
            break
        case = inputs(batch, features, sphere=False)
        evaluate(loss, case)
        run = {"run": lambda case=case: evaluate(loss, case)}
        repeat = max(1, math.ceil(SAMPLE / timed(run["run"], 1)))
        found.append(median(alternating(run, {"run": repeat}, 0.0)["run"]))
    return found + [None] * (len(batches) - len(found))


TASKS: dict[str, Callable[..., Any]] = {"times": times, "peaks": peaks, "growth": growth, "curve": curve}


def main(source: str, target: str) -> None:
    """One job."""
    torch.set_num_threads(1)
    job = json.loads(Path(source).read_text(encoding="utf-8"))
    with warnings.catch_warnings():  # what a peer warns of is its own affair
        warnings.simplefilter("ignore")
        found = TASKS[job.pop("task")](**job)
    Path(target).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
