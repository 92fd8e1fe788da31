"""Who says whether a mutant is noticed: the engine, the project's tests, or the unchanged oracle."""

from __future__ import annotations

import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .candidates import ROOT, Mutation
from .difference import DEAR, Oracles, by_oracle
from .loading import loaded, plain_torch
from .plan import LOSSES, ORACLES, TESTS

__all__ = ["DTYPES", "EXAMPLES", "by_engine", "by_tests", "quiet", "rounds"]

DTYPES = ("float32", "float64", "float16")
EXAMPLES = (2, 8)  # few for most mutants, more for those that survive
# asked in every round; the last round asks all that the engine has
EVERYDAY = (
    "returns", "value", "gradient", "finite", "nan", "graph", "dtype", "shape", "inert", "second derivative",
    "determinism", "arguments", "cotangent", "partial", "refusal", "option", "vmap",
)  # fmt: skip
Beat = Callable[[str], None]
Round = tuple[str, str, int, bool]


def rounds(package: str, module: str, examples: int) -> Iterator[Round]:
    """(loss, dtype, examples, all properties) in the order in which they are tried, the cheapest first."""
    losses = (LOSSES if package == "torchimpl" else ORACLES)[module]
    dtypes = DTYPES if package == "torchimpl" else ("float64",)
    for count in [count for count in EXAMPLES if count < examples] + [examples]:
        for dtype in dtypes:
            for loss in losses:
                yield loss, dtype, count, False
    if package == "torchimpl":
        for loss in losses:
            yield loss, "float32", 3, True


def by_engine(
    name: str, package: str, module: str, mutation: Mutation | None, examples: int, beat: Beat
) -> str:
    """What noticed the mutation in the package loaded under `name`; empty where nothing did.

    Args:
        name: what to call the mutant.
        package: "torchimpl" or "refimpl".
        module: the module that is changed: it says which losses judge.
        mutation: the change; None for the unchanged package.
        examples: of every family, in the last of the rounds.
        beat: called before each call of the engine.
    """
    try:
        with loaded(package, name, mutation) as module_found:
            target = Oracles(module_found) if package == "refimpl" else module_found
            if package == "torchimpl":
                plain_torch(module_found)
            for one in rounds(package, module, examples):
                beat(" ".join(map(str, one)))
                found = _verified(target, package, *one)
                if found:
                    return found
            if package == "refimpl":
                return by_oracle(target, ORACLES[module], beat)
    except Exception as error:  # noqa: BLE001 (whatever a mutant raises, it has been noticed)
        return f"raised {type(error).__name__}"
    return ""


def _verified(target: Any, package: str, loss: str, dtype: str, count: int, everything: bool) -> str:
    """What the engine finds in one loss and dtype."""
    from refimpl.conformance import verify  # noqa: PLC0415 (torch and hypothesis load where something runs)
    from refimpl.conformance.catalogue import CATALOGUE  # noqa: PLC0415
    from refimpl.conformance.properties import PROPERTIES  # noqa: PLC0415

    options: dict[str, Any] = {"max_examples": count, "first_only": True}
    if not everything:
        options["properties"] = [one for one in EVERYDAY if one in PROPERTIES]
    elif len(PROPERTIES) == len([one for one in EVERYDAY if one in PROPERTIES]):
        return ""
    if package == "refimpl":
        options["adapter"] = "numpy"
        options["families"] = [one for one in CATALOGUE[loss].families if one not in DEAR]
        if CATALOGUE[loss].call:  # written in PyTorch: `by_oracle` looks at it
            return ""
    report = verify(target, [loss], [dtype], **options)
    if report.missing:
        return f"{loss} missing"
    first = next(iter(report.violations), None)
    return "" if first is None else f"{loss} {dtype} {first.property}"


def by_tests(mutation: Mutation | None, module: str, limit: float) -> str:
    """What the project's tests of a module say, run in a fork of this process; empty where they pass.

    The process that calls this must not have imported torchimpl, and must not have differentiated anything:
    the fork loads the mutant in its place.
    """
    child = os.fork()
    if child == 0:
        os._exit(_tests_in_child(mutation, module))
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return {0: "", 1: "tests", 2: "collection"}.get(code, f"tests, exit status {code}")
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "timeout"


def _tests_in_child(mutation: Mutation | None, module: str) -> int:
    import pytest  # noqa: PLC0415

    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.chdir(ROOT)
    files = [str(Path("tests") / f"{test}.py") for test in TESTS[module]]
    try:
        with loaded("torchimpl", "torchimpl", mutation):
            return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", *files]))
    except BaseException:  # noqa: BLE001 (a mutant that cannot be imported has been noticed)
        return 1


def quiet() -> None:
    """One thread, and no warnings: what a mutant warns of is its own affair."""
    import torch  # noqa: PLC0415

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    sys.setrecursionlimit(3000)
