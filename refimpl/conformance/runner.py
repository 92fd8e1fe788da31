"""Run the catalogue against a target: draw batches, judge them, keep the worst ratio and the failures."""

import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

import hypothesis
import numpy as np
from hypothesis import HealthCheck, Phase, given, settings

from refimpl.conformance.batch import Batch, size
from refimpl.conformance.catalogue import CATALOGUE, LossSpec
from refimpl.conformance.demands import DEMANDS, SETUP, unmet
from refimpl.conformance.execution import execute
from refimpl.conformance.extras import EXTRAS
from refimpl.conformance.formats import FORMATS, Format
from refimpl.conformance.properties import Finding, Judgement, judge, truth
from refimpl.conformance.refusals import REFUSALS, accepted
from refimpl.conformance.report import Cell, Report, Violation
from refimpl.conformance.shrink import shrink
from refimpl.conformance.snippet import snippet

__all__ = ["DEFAULT_EXAMPLES", "inspect", "verify"]

DEFAULT_EXAMPLES = 8
ALWAYS = ("visible", "second derivative")  # these look at few batches anyway
IN_TURN = ("determinism", "cotangent", "partial", "")  # one a batch
ATTEMPTS = 150  # at a smaller counterexample
Progress = Callable[[str, str], None]


@dataclass
class _Tally:
    """What the batches of one loss in one dtype have shown so far."""

    first_only: bool
    examples: int = 0
    skipped: int = 0
    value: tuple[float, str] = (0.0, "")
    gradient: tuple[float, str] = (0.0, "")
    counts: dict[str, int] = field(default_factory=dict)
    smallest: dict[str, tuple[Batch, Finding]] = field(default_factory=dict)

    def add(self, batch: Batch, judgement: Judgement) -> None:
        self.examples += 1
        self.value = max(self.value, (judgement.value_ratio, batch.family), key=lambda pair: pair[0])
        self.gradient = max(self.gradient, (judgement.gradient_ratio, batch.family), key=lambda pair: pair[0])
        for finding in judgement.findings:
            self.counts[finding.kind] = self.counts.get(finding.kind, 0) + 1
            known = self.smallest.get(finding.kind)
            if known is None or _simplicity(batch) < _simplicity(known[0]):
                self.smallest[finding.kind] = (batch, finding)


def _simplicity(batch: Batch) -> tuple[bool, int]:
    """Few numbers are simple; none at all is less telling."""
    return size(batch) == 0, size(batch)


def inspect(
    target: ModuleType, spec: LossSpec, batch: Batch, *, extras: Collection[str] = tuple(EXTRAS)
) -> Judgement:
    """Judge the target on one batch; `extras` names what else to ask, with more calls.

    Raises:
        ValueError: where the oracle declines the batch as too expensive.
    """
    exact = truth(spec, batch)
    outcome = execute(target, spec, batch)
    judgement = judge(spec, batch, exact, outcome)
    if outcome.value is None:
        return judgement
    with np.errstate(all="ignore"):
        answers = {kind: EXTRAS[kind](target, spec, batch, exact, outcome) for kind in extras}
    more = (Finding(kind, message) for kind, message in answers.items() if message)
    return replace(judgement, findings=(*judgement.findings, *more))


def _explore(
    target: ModuleType, spec: LossSpec, form: Format, family: str, count: int, *, seed: int, tally: _Tally
) -> None:
    """Judge batches of one family."""

    @hypothesis.seed(zlib.crc32(f"{seed} {spec.name} {form.name} {family}".encode()))
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(spec.strategy(family, form))
    def judged(batch: Batch) -> None:
        if tally.first_only and tally.counts:
            return
        turn = [kind for kind in (IN_TURN[tally.examples % len(IN_TURN)],) if kind]
        try:
            tally.add(batch, inspect(target, spec, batch, extras=(*ALWAYS, *turn)))
        except ValueError as declined:
            if "MAX_TERMS" not in str(declined):
                raise
            tally.skipped += 1

    judged()


def _name(target: ModuleType) -> str:
    """What to write after `import`; an object that is no module goes by its type."""
    return getattr(target, "__name__", type(target).__name__)


def _violation(
    target: ModuleType, spec: LossSpec, batch: Batch, finding: Finding, attempts: int
) -> Violation:
    """The failure on a smaller batch, written down."""
    message = finding.message

    def fails(candidate: Batch) -> bool:
        nonlocal message
        try:
            asked = [kind for kind in EXTRAS if kind == finding.kind]
            findings = inspect(target, spec, candidate, extras=asked).findings
        except ValueError:  # the oracle refuses what shrinking made
            return False
        found = [one.message for one in findings if one.kind == finding.kind]
        message = found[0] if found else message
        return bool(found)

    smaller = shrink(batch, fails, attempts)
    text = snippet(_name(target), spec, smaller, message)
    return Violation(spec.name, batch.form.name, finding.kind, batch.family, message, size(smaller), text)


def _fixed_calls(target: ModuleType, loss: str) -> list[Violation]:
    """Calls that need no batch: those to refuse, and those that must equal another."""
    found = []
    for refusal in REFUSALS.get(loss, ()):
        finding = accepted(target, refusal)
        if finding is not None:
            found.append(_fixed(target, loss, finding, "import torch\n", refusal.call))
    for demand in DEMANDS.get(loss, ()):
        finding = unmet(target, demand)
        if finding is not None:
            found.append(_fixed(target, loss, finding, SETUP, f"print({demand.call}, {demand.equals})"))
    return found


def _fixed(target: ModuleType, loss: str, finding: Finding, setup: str, call: str) -> Violation:
    comment = " ".join(finding.message.split())
    text = f"# {comment}\n{setup}import {_name(target)} as target\n\n{call}\n"
    family = "wrong arguments" if finding.kind == "refusal" else "options"
    return Violation(loss, "float32", finding.kind, family, finding.message, 0, text)


def verify(
    target: Any,
    losses: Sequence[str] | None = None,
    dtypes: Sequence[str] | None = None,
    *,
    max_examples: int = DEFAULT_EXAMPLES,
    seed: int = 0,
    progress: Progress | None = None,
    first_only: bool = False,
) -> Report:
    """Hold every loss of a module against its oracle and its bound.

    Args:
        target: a module, or any object with the losses as attributes.
        losses: names of the losses, all by default; what the target lacks is reported as missing.
        dtypes: names of the input dtypes; all four by default.
        max_examples: batches of every hazard family, for every loss and dtype.
        seed: equal seeds draw equal batches.
        progress: called with the loss and the dtype before each is tried.
        first_only: stop at the first violation and leave its input as it is, to reject many candidates fast.

    Raises:
        ValueError: for a loss or dtype that the catalogue does not know, and max_examples < 1.

    Example:
        >>> import torch
        >>> class Mine:
        ...     @staticmethod
        ...     def masked_mse(x_recon, x, mask, *, reduction="mean"):
        ...         return ((x_recon - x)[mask] ** 2).mean()
        >>> verify(Mine, ["masked_mse"], ["float32"], max_examples=2).ok
        False
    """
    chosen = list(CATALOGUE) if losses is None else list(dict.fromkeys(losses))
    forms = list(FORMATS) if dtypes is None else list(dict.fromkeys(dtypes))
    _known("loss", chosen, list(CATALOGUE))
    _known("dtype", forms, list(FORMATS))
    if max_examples < 1:
        raise ValueError(f"max_examples must be at least 1, got {max_examples}")
    present = [loss for loss in chosen if hasattr(target, loss)]
    cells: list[Cell] = []
    violations: list[Violation] = []
    for loss in present:
        spec = CATALOGUE[loss]
        violations += _fixed_calls(target, loss)
        for dtype in [dtype for dtype in forms if dtype in spec.dtypes]:
            if first_only and violations:
                break
            if progress is not None:
                progress(loss, dtype)
            tally = _Tally(first_only)
            for family in spec.families:
                _explore(target, spec, FORMATS[dtype], family, max_examples, seed=seed, tally=tally)
            cells.append(
                Cell(loss, dtype, tally.examples, tally.skipped, *tally.value, *tally.gradient, tally.counts)
            )
            attempts = 0 if first_only else ATTEMPTS
            violations += [_violation(target, spec, *known, attempts) for known in tally.smallest.values()]
    missing = tuple(loss for loss in chosen if loss not in present)
    return Report(_name(target), seed, max_examples, tuple(cells), tuple(violations), missing)


def _known(what: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"{what} {name!r} is not one of {', '.join(known)}")
