"""Run the catalogue against a target."""

import difflib
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from refimpl.conformance.adapters import Adapter, get_adapter
from refimpl.conformance.alarm import interruptible
from refimpl.conformance.catalogue import CATALOGUE
from refimpl.conformance.examine import examine
from refimpl.conformance.formats import FORMATS
from refimpl.conformance.plan import Part, Plan
from refimpl.conformance.properties import PROPERTIES
from refimpl.conformance.report import Report
from refimpl.conformance.request import Facts, Opened, Request, imported, load_specs
from refimpl.conformance.supervisor import Supervisor
from refimpl.conformance.target import Target
from refimpl.conformance.worker import Task

__all__ = ["DEFAULT_EXAMPLES", "DEFAULT_LIMIT", "Progress", "environment", "known", "verify"]

DEFAULT_EXAMPLES = 8
DEFAULT_LIMIT = 60.0
Progress = Callable[[str, str, int, int], None]


def verify(
    target: Any = None,
    losses: Sequence[str] | None = None,
    dtypes: Sequence[str] | None = None,
    *,
    properties: Sequence[str] | None = None,
    families: Sequence[str] | None = None,
    mapping: Mapping[str, str] | None = None,
    specs: Sequence[str] = (),
    adapter: str | Adapter = "torch",
    device: str = "cpu",
    max_examples: int = DEFAULT_EXAMPLES,
    seed: int = 0,
    time_limit: float = DEFAULT_LIMIT,
    jobs: int = 1,
    progress: Progress | None = None,
    first_only: bool = False,
) -> Report:
    """Hold every loss of a module against its oracle and its bound.

    A target that is named (a string, or nothing but a mapping) is imported and called in worker processes:
    what hangs, exits or crashes there becomes a violation of "returns", and the rest goes on. What it prints
    is not shown. A target that is handed over as an object is called in this process; there only what hangs
    in Python code can be interrupted, and a crash is a crash. Platforms other than POSIX have no workers: a
    name is imported here.

    Args:
        target: the importable name of a module, a module, or any object with the losses as attributes; None
            where every loss is mapped.
        losses: names of the losses; by default all, or where there is no target those that are mapped. What
            the target lacks is reported as missing.
        dtypes: names of the input dtypes; all four by default.
        properties: names of the properties; all by default. That a call returns is asked in any case.
        families: names of the hazards; all by default.
        mapping: where losses live that have another name, {"masked_mse": "my.pkg:fn"}.
        specs: names of modules that register losses of your own (see `register`); they are imported here and
            in the workers.
        adapter: "torch", "numpy", "jax", "module:attribute" or an object of the adapter protocol.
        device: where the arrays live, "cpu" or "cuda".
        max_examples: batches of every hazard family, for every loss and dtype.
        seed: equal seeds draw equal batches.
        time_limit: seconds that a property may take for a loss in a dtype, and that a call may hang.
        jobs: worker processes at once, for a target that is named. The report does not depend on it.
        progress: called before each loss and dtype with these two, how many were begun before, how many there
            are.
        first_only: stop at the first violation and leave its input as it is, to reject many candidates fast.

    Raises:
        ValueError: for a loss, dtype, property or family that nobody knows, neither target nor mapping,
            max_examples < 1, jobs < 1, time_limit <= 0.
        ImportError: the target, a mapped module or one of `specs` cannot be imported.
        AttributeError: a mapped module lacks the function.
        TypeError: the adapter is none, or cannot be sent to a worker.
        RuntimeError: the engine failed in a worker.

    Example:
        >>> import torch
        >>> class Mine:
        ...     @staticmethod
        ...     def masked_mse(x_recon, x, mask, *, reduction="mean"):
        ...         return ((x_recon - x)[mask] ** 2).mean()
        >>> verify(Mine, ["masked_mse"], ["float32"], max_examples=2).ok
        False
    """
    load_specs(tuple(specs))
    places = dict(mapping or {})
    if target is None and not places:
        raise ValueError("target is needed where no loss is mapped")
    known("loss", list(places), list(CATALOGUE))
    default = list(places) if target is None else list(CATALOGUE)
    chosen = tuple(known("loss", losses, list(CATALOGUE)) if losses is not None else default)
    forms = tuple(known("dtype", dtypes, list(FORMATS)))
    asked = known("property", properties, list(PROPERTIES))
    all_families = list(dict.fromkeys(family for loss in chosen for family in CATALOGUE[loss].families))
    hazards = known("family", families, all_families)
    for name, number in (("max_examples", max_examples), ("jobs", jobs)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    if not time_limit > 0.0:
        raise ValueError(f"time_limit must be above 0 seconds, got {time_limit}")
    plan = Plan(tuple(asked), tuple(hazards), max_examples, seed, time_limit, first_only)
    start = time.monotonic()
    named = target is None or isinstance(target, str)
    if named and os.name == "posix":
        request = Request(target, places, chosen, forms, adapter, device, tuple(specs))
        with Supervisor(request, jobs) as supervisor:
            facts, parts = _isolated(supervisor, plan, progress)
    else:
        found = Target(imported(target) if isinstance(target, str) else target, places)
        bench = Opened(found, get_adapter(adapter, device))
        facts = bench.facts(chosen, forms)
        with interruptible():
            parts = _here(bench, facts, plan, progress)
    return Report(
        facts.target,
        facts.adapter,
        device,
        seed,
        max_examples,
        tuple(cell for part in parts for cell in part.cells),
        tuple(violation for part in parts for violation in part.violations),
        facts.missing,
        facts.left_out,
        sum(part.declined for part in parts),
        environment(facts.adapter),
        time.monotonic() - start,
    )


def _isolated(supervisor: Supervisor, plan: Plan, progress: Progress | None) -> tuple[Facts, list[Part]]:
    """All parts, found by worker processes."""
    facts = supervisor.facts()
    tasks = [Task(job, plan) for job in facts.jobs]

    def started(index: int) -> None:
        if progress is not None:
            progress(tasks[index].job.loss, tasks[index].job.dtype, index, len(tasks))

    return facts, supervisor.run(tasks, started, first_only=plan.first_only)


def _here(bench: Opened, facts: Facts, plan: Plan, progress: Progress | None) -> list[Part]:
    """All parts, found in this process."""
    parts: list[Part] = []
    for job in facts.jobs:
        if progress is not None:
            progress(job.loss, job.dtype, len(parts), len(facts.jobs))
        parts.append(examine(bench.subject(job.loss), FORMATS[job.dtype], plan))
        if plan.first_only and parts[-1].violations:
            break
    return parts


def environment(framework: str) -> dict[str, str]:
    """Versions and machine, for a report.

    Example:
        >>> sorted(environment("numpy"))
        ['hypothesis', 'machine', 'numpy', 'proven-losses', 'python']
    """
    found = {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}
    for package in ("proven-losses", framework, "numpy", "hypothesis"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def known(what: str, names: Sequence[str] | None, names_known: Sequence[str]) -> list[str]:
    """The names asked for, each once; all where none is.

    Raises:
        ValueError: nobody knows one of them; the message has the nearest.

    Example:
        >>> known("loss", ["maskd_mse"], ["masked_mse", "nll_loss"])
        Traceback (most recent call last):
            ...
        ValueError: unknown loss 'maskd_mse'; nearest: masked_mse
    """
    if names is None:
        return list(names_known)
    for name in names:
        if name not in names_known:
            near = difflib.get_close_matches(name, names_known, n=3, cutoff=0.4)
            words = f"nearest: {', '.join(near)}" if near else f"known: {', '.join(names_known)}"
            raise ValueError(f"unknown {what} {name!r}; {words}")
    return list(dict.fromkeys(names))
