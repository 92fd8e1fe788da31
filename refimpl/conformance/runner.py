"""Run the catalogue against a target."""

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from refimpl.conformance.adapters import Adapter, get_adapter
from refimpl.conformance.catalogue import CATALOGUE
from refimpl.conformance.examine import Part, Plan, examine
from refimpl.conformance.formats import FORMATS
from refimpl.conformance.properties import PROPERTIES
from refimpl.conformance.report import Report
from refimpl.conformance.target import Subject, Target

__all__ = ["DEFAULT_EXAMPLES", "Job", "jobs", "verify"]

DEFAULT_EXAMPLES = 8
DEFAULT_LIMIT = 60.0
Progress = Callable[[str, str], None]


@dataclass(frozen=True)
class Job:
    """One loss in one dtype."""

    loss: str
    dtype: str


def jobs(target: Target, losses: Sequence[str], dtypes: Sequence[str], adapter: Adapter) -> list[Job]:
    """What there is to do for the losses that the target has, in the order of the catalogue."""
    return [
        Job(loss, dtype)
        for loss in losses
        if target.has(loss) and (not CATALOGUE[loss].call or "torch" in adapter.features)
        for dtype in dtypes
        if dtype in CATALOGUE[loss].dtypes and dtype in adapter.dtypes
    ]


def verify(
    target: Any,
    losses: Sequence[str] | None = None,
    dtypes: Sequence[str] | None = None,
    *,
    properties: Sequence[str] | None = None,
    families: Sequence[str] | None = None,
    mapping: Mapping[str, str] | None = None,
    adapter: str | Adapter = "torch",
    device: str = "cpu",
    max_examples: int = DEFAULT_EXAMPLES,
    seed: int = 0,
    time_limit: float = DEFAULT_LIMIT,
    progress: Progress | None = None,
    first_only: bool = False,
) -> Report:
    """Hold every loss of a module against its oracle and its bound.

    Args:
        target: the importable name of a module (it is then run in a process of its own, so that nothing it
            does can take this one down), a module, or any object with the losses as attributes.
        losses: names of the losses, all by default; what the target lacks is reported as missing.
        dtypes: names of the input dtypes; all four by default.
        properties: names of the properties; all by default.
        families: names of the hazards; all by default.
        mapping: where losses live that have another name, {"masked_mse": "my.pkg:fn"}.
        adapter: "torch", "numpy", "jax" or an object of the adapter protocol.
        device: where the arrays live, "cpu" or "cuda".
        max_examples: batches of every hazard family, for every loss and dtype.
        seed: equal seeds draw equal batches.
        time_limit: seconds that a property may take for a loss in a dtype, and that a call may hang.
        progress: called with the loss and the dtype before each is tried.
        first_only: stop at the first violation and leave its input as it is, to reject many candidates fast.

    Raises:
        ValueError: for a loss, dtype, property or family that nobody knows, max_examples < 1, time_limit <= 0.
        ImportError: the target or a mapped module cannot be imported.

    Example:
        >>> import torch
        >>> class Mine:
        ...     @staticmethod
        ...     def masked_mse(x_recon, x, mask, *, reduction="mean"):
        ...         return ((x_recon - x)[mask] ** 2).mean()
        >>> verify(Mine, ["masked_mse"], ["float32"], max_examples=2).ok
        False
    """
    chosen = _known("loss", losses, list(CATALOGUE))
    forms = _known("dtype", dtypes, list(FORMATS))
    asked = _known("property", properties, list(PROPERTIES))
    all_families = list(dict.fromkeys(family for loss in chosen for family in CATALOGUE[loss].families))
    hazards = _known("family", families, all_families)
    if max_examples < 1:
        raise ValueError(f"max_examples must be at least 1, got {max_examples}")
    if not time_limit > 0.0:
        raise ValueError(f"time_limit must be above 0 seconds, got {time_limit}")
    plan = Plan(tuple(asked), tuple(hazards), max_examples, seed, time_limit, first_only)
    found = Target(import_module(target) if isinstance(target, str) else target, mapping)
    uses = get_adapter(adapter, device)
    start = time.monotonic()
    parts: list[Part] = []
    for job in jobs(found, chosen, forms, uses):
        if progress is not None:
            progress(job.loss, job.dtype)
        parts.append(examine(Subject(found, CATALOGUE[job.loss], uses), FORMATS[job.dtype], plan))
        if first_only and parts[-1].violations:
            break
    return assemble(found, uses, device, plan, chosen, parts, time.monotonic() - start)


def assemble(
    target: Target,
    adapter: Adapter,
    device: str,
    plan: Plan,
    losses: Sequence[str],
    parts: Sequence[Part],
    seconds: float,
) -> Report:
    """One report of all parts."""
    present = [loss for loss in losses if target.has(loss)]
    subjects = {loss: Subject(target, CATALOGUE[loss], adapter) for loss in present}
    return Report(
        target.name,
        adapter.name,
        device,
        plan.seed,
        plan.max_examples,
        tuple(cell for part in parts for cell in part.cells),
        tuple(violation for part in parts for violation in part.violations),
        tuple(loss for loss in losses if loss not in present),
        {loss: subject.left_out for loss, subject in subjects.items() if subject.left_out},
        sum(part.declined for part in parts),
        environment(adapter.name),
        seconds,
    )


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


def _known(what: str, names: Sequence[str] | None, known: Sequence[str]) -> list[str]:
    if names is None:
        return list(known)
    for name in names:
        if name not in known:
            raise ValueError(f"{what} {name!r} is not one of {', '.join(known)}")
    return list(dict.fromkeys(names))
