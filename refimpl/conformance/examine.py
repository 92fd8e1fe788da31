"""Ask all properties of one loss in one dtype: draw batches, judge them, keep the smallest that fails."""

import time
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import hypothesis
import numpy as np
from hypothesis import HealthCheck, Phase, given, settings

from refimpl.conformance.alarm import Overdue, alarm
from refimpl.conformance.batch import Batch, size
from refimpl.conformance.draws import steady
from refimpl.conformance.formats import Format
from refimpl.conformance.outcome import Outcome
from refimpl.conformance.plan import HANGS, SHRINKING, Listen, Part, Plan
from refimpl.conformance.properties import PROPERTIES, Finding, Probe, Property
from refimpl.conformance.properties.judge import Judgement, judge, truth
from refimpl.conformance.report import Cell, Violation
from refimpl.conformance.shrink import shrink
from refimpl.conformance.snippet import snippet
from refimpl.conformance.target import Subject, raised

__all__ = ["abandoned", "examine", "inspect"]

ATTEMPTS = 150  # at a smaller counterexample


@dataclass
class _Tally:
    """What the batches of one loss in one dtype have shown so far."""

    eligible: dict[str, int] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)
    violated: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    ratios: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    smallest: dict[str, tuple[Batch, Finding]] = field(default_factory=dict)
    declined: int = 0
    hangs: int = 0

    def add_ratio(self, name: str, family: str, ratio: float | None) -> None:
        if ratio is not None:
            self.ratios.setdefault(name, {}).setdefault(family, []).append(ratio)

    def add(self, batch: Batch, finding: Finding) -> None:
        name = finding.property
        self.violated[name] = self.violated.get(name, 0) + 1
        known = self.smallest.get(name)
        if known is None or _simplicity(batch) < _simplicity(known[0]):
            self.smallest[name] = (batch, finding)


def _simplicity(batch: Batch) -> tuple[bool, int]:
    """Few numbers are simple; none at all is less telling."""
    return size(batch) == 0, size(batch)


def inspect(
    subject: Subject, batch: Batch, names: tuple[str, ...] = tuple(PROPERTIES)
) -> tuple[Finding, ...]:
    """Ask the named properties about one batch, however rarely a run would ask them.

    Raises:
        ValueError: where the oracle declines the batch as too expensive.
    """
    batch = subject.settled(batch)
    probe, judgement = _answer(subject, batch)
    found = [Finding(*pair) for pair in judgement.findings if pair[0] in names]
    if probe.outcome.value is not None:
        for name in names:
            one = PROPERTIES[name]
            able = one.fits(subject, batch.form) and (one.independent or not judgement.findings)
            if one.kind == "batch" and able and _in_families(one, batch):
                found += [finding for finding in (one.about(probe),) if finding]
    return tuple(found)


def _answer(subject: Subject, batch: Batch) -> tuple[Probe, Judgement]:
    exact = truth(subject.spec, batch)
    outcome = subject.execute(batch)
    with np.errstate(all="ignore"):
        return Probe(subject, batch, exact, outcome), judge(subject.spec, batch, exact, outcome)


def _in_families(one: Property, batch: Batch) -> bool:
    return not one.families or batch.family in one.families


class _Examination:
    """One loss in one dtype."""

    def __init__(self, subject: Subject, form: Format, plan: Plan, listen: Listen) -> None:
        self.subject, self.form, self.plan, self.listen = subject, form, plan, listen
        self.tally = _Tally()
        able = [PROPERTIES[name] for name in plan.properties if PROPERTIES[name].fits(subject, form)]
        self.able = able
        self.answers = tuple(one.name for one in able if one.kind == "answer")
        self.questions = [one for one in able if one.kind == "batch"]

    @property
    def done(self) -> bool:
        found_enough = self.plan.first_only and any(self.tally.violated.values())
        return found_enough or self.tally.hangs >= HANGS

    def explore(self, family: str) -> None:
        """Judge batches of one family."""
        spec, plan = self.subject.spec, self.plan

        @hypothesis.seed(zlib.crc32(f"{plan.seed} {spec.name} {self.form.name} {family}".encode()))
        @settings(
            max_examples=plan.max_examples,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(spec.strategy(family, self.form))
        def judged(batch: Batch) -> None:
            if not self.done and (family, "returns") not in plan.avoid:
                self.look_at(self.subject.settled(batch))

        with steady():
            judged()

    def look_at(self, batch: Batch) -> None:
        """Ask about one batch whatever is due."""
        due = [one for one in self.questions if self.is_due(one, batch)]
        if not (self.answers or due):
            return
        try:
            exact = truth(self.subject.spec, batch)
        except ValueError as declined:
            if "MAX_TERMS" not in str(declined):
                raise
            self.tally.declined += 1
            return
        with self.timed("returns", batch) as late:
            outcome = self.subject.execute(batch)
        if late:
            outcome = Outcome(error=late[0])
        with np.errstate(all="ignore"):
            judgement = judge(self.subject.spec, batch, exact, outcome)
        self.note(batch, judgement)
        if outcome.value is None:
            return
        probe = Probe(self.subject, batch, exact, outcome)
        for one in due:
            # what the plain call shows would be reported again under every other name
            if one.independent or not judgement.findings:
                self.ask(one, probe)

    def note(self, batch: Batch, judgement: Judgement) -> None:
        """Write down what the answer itself shows."""
        for name in self.answers:
            self.tally.asked[name] = self.tally.asked.get(name, 0) + 1
        for name, ratio in (("value", judgement.value_ratio), ("gradient", judgement.gradient_ratio)):
            if name in self.answers:
                self.tally.add_ratio(name, batch.family, ratio)
        for pair in judgement.findings:
            # a call that does not return answers no question, also where "returns" is not one of them
            if pair[0] in self.answers or pair[0] == "returns":
                self.tally.add(batch, Finding(*pair))

    def is_due(self, one: Property, batch: Batch) -> bool:
        """Whether a rarely asked property is asked now."""
        spent = self.tally.seconds.get(one.name, 0.0) > self.plan.time_limit
        if spent or not _in_families(one, batch) or (batch.family, one.name) in self.plan.avoid:
            return False
        count = self.tally.eligible.get(one.name, 0)
        self.tally.eligible[one.name] = count + 1
        turn = zlib.crc32(one.name.encode()) % one.every
        return count % one.every == turn and self.tally.asked.get(one.name, 0) < one.most

    def ask(self, one: Property, probe: Probe) -> None:
        """Ask one property about one batch."""
        finding: Finding | None = None
        with self.timed(one.name, probe.batch) as late, np.errstate(all="ignore"):
            finding = one.about(probe)
        self.tally.asked[one.name] = self.tally.asked.get(one.name, 0) + 1
        finding = Finding("returns", f"{one.name}: {late[0]}") if late else finding
        if finding:
            self.tally.add(probe.batch, finding)

    @contextmanager
    def timed(self, name: str, batch: Batch, family: str | None = None) -> Iterator[list[str]]:
        """Stop what takes longer than the limit or would end the process; what is yielded then says so."""
        late: list[str] = []
        self.listen(name, batch.family if family is None else family, batch)
        start = time.monotonic()
        try:
            with alarm(self.plan.time_limit):
                yield late
        except Overdue:
            late.append(f"did not return within {self.plan.time_limit:g} s")
            self.tally.hangs += 1
        except (SystemExit, KeyboardInterrupt) as error:
            late.append(raised(error))
        self.listen("", "", batch)
        spent = self.tally.seconds.get(name, 0.0) + time.monotonic() - start
        self.tally.seconds[name] = spent

    def fixed(self, *, late: bool) -> Iterator[Violation]:
        """Ask the properties that need no drawn batch: the cheap ones, or those that come late.

        The late ones go on where the drawn batches have found nothing in the plain answers.
        """
        if late and any(self.tally.violated.get(name) for name in self.answers):
            return
        for one in self.able:
            if one.kind != "fixed" or one.late != late or self.done or ("", one.name) in self.plan.avoid:
                continue
            empty = Batch("wrong arguments" if one.name == "refusal" else one.name, self.form, {})
            found = []
            with self.timed(one.name, empty, "") as overdue:
                found = list(one.once(self.subject, self.form, self.plan.seed))
            self.tally.asked[one.name] = max(1, len(found))
            if overdue:
                self.tally.add(empty, Finding("returns", f"{one.name}: {overdue[0]}"))
            self.tally.violated[one.name] = len(found)
            for problem in found:
                batch = problem.batch or empty
                text = problem.snippet or snippet(self.subject, batch, problem.message)
                yield self.violation(one.name, batch, problem.message, text)

    def violation(self, name: str, batch: Batch, message: str, text: str) -> Violation:
        """A violation, written down."""
        return Violation(
            self.subject.spec.name, self.form.name, name, batch.family, message, size(batch), text
        )

    def smaller(self, batch: Batch, finding: Finding) -> Violation:
        """The failure on a smaller batch."""
        name, shown = finding.property, finding
        as_it_is = self.plan.first_only or (SHRINKING, name) in self.plan.avoid

        def fails(candidate: Batch) -> bool:
            nonlocal shown
            self.listen(name, SHRINKING, candidate)
            try:
                with alarm(self.plan.time_limit):
                    found = [one for one in inspect(self.subject, candidate, (name,)) if one.property == name]
            except (ValueError, Overdue, SystemExit, KeyboardInterrupt):
                return False  # the oracle refuses what shrinking made, or the target does not return
            finally:
                self.listen("", "", candidate)
            shown = found[0] if found else shown
            return bool(found)

        hung = "did not return" in finding.message
        smallest = batch if hung or as_it_is else shrink(batch, fails, ATTEMPTS)
        culprit = shown.batch or smallest
        return self.violation(
            name,
            replace(culprit, family=batch.family),
            shown.message,
            snippet(self.subject, culprit, shown.message),
        )

    def cells(self) -> Iterator[Cell]:
        """One for every property that can be asked here."""
        names = dict.fromkeys([*(one.name for one in self.able), *self.tally.violated])
        for name in names:
            ratios = {family: tuple(all_) for family, all_ in self.tally.ratios.get(name, {}).items()}
            spent = self.tally.seconds.get(name, 0.0) > self.plan.time_limit
            yield Cell(
                self.subject.spec.name,
                name,
                self.form.name,
                self.tally.asked.get(name, 0),
                self.tally.violated.get(name, 0),
                spent or self.tally.hangs >= HANGS,
                ratios,
            )


def _silent(_name: str, _family: str, _batch: Batch) -> None:
    """Nobody listens."""


def abandoned(subject: Subject, form: Format, plan: Plan) -> Part:
    """What is left to say of a loss that was given up: every property of it is unfinished."""
    able = [name for name in plan.properties if PROPERTIES[name].fits(subject, form)]
    return Part(tuple(Cell(subject.spec.name, name, form.name, 0, unfinished=True) for name in able), ())


def examine(subject: Subject, form: Format, plan: Plan, listen: Listen = _silent) -> Part:
    """Ask the properties of a plan.

    Args:
        subject: the loss.
        form: the dtype.
        plan: what to ask.
        listen: told of every property, family and batch before it is tried, so that another process knows
            where this one died, and of the property "" when that is over.
    """
    work = _Examination(subject, form, plan, listen)
    with warnings.catch_warnings():
        # what a target warns of is its own affair, and some warnings come only once
        warnings.simplefilter("ignore")
        violations = list(work.fixed(late=False))
        for family in subject.spec.families:
            if not work.done and (not plan.families or family in plan.families):
                work.explore(family)
        violations += work.fixed(late=True)
        violations += [work.smaller(*known) for known in work.tally.smallest.values()]
    return Part(tuple(work.cells()), tuple(violations), work.tally.declined)
