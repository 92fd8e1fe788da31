"""Many cases of one loss in one format: how many, the largest error / bound, what is beyond it."""

import math
import zlib
from dataclasses import dataclass, field

import hypothesis
import numpy as np
from hypothesis import HealthCheck, Phase, given, settings

from refimpl.conformance.catalogue import CATALOGUE
from refimpl.conformance.formats import FORMATS
from tests.direct import EVALUATIONS
from tests.direct.draws import RANDOM, random_batch
from tests.direct.orders import ORDERS
from tests.direct.trial import applies, try_batch

TRUTH_EVERY = 20
SHARP = 0.05  # a bound of which no straightforward evaluation ever uses this share says little
KEPT = 3  # violations shown for every task; all are counted


@dataclass(frozen=True)
class Task:
    """So many cases of one family (or random ones) of a loss in a format."""

    loss: str
    form: str
    family: str
    count: int
    seed: int
    part: int = 0


@dataclass
class Tally:
    """What the cases of a loss in a format have shown."""

    cases: int = 0
    truths: int = 0
    declined: int = 0
    unsettled: int = 0
    value: tuple[float, str] = (0.0, "")
    gradient: tuple[float, str] = (0.0, "")
    failed: int = 0
    violations: list[str] = field(default_factory=list)

    def merge(self, other):
        """Add another tally; of equal ratios the first one stays."""
        for name in ("cases", "truths", "declined", "unsettled", "failed"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.value = max(self.value, other.value, key=lambda pair: pair[0])
        self.gradient = max(self.gradient, other.gradient, key=lambda pair: pair[0])
        self.violations += other.violations

    def add(self, spec, batch, orders=ORDERS):
        """Try one batch; what is not finite is passed over, what the oracle declines is counted."""
        if not applies(batch):
            self.unsettled += 1
            return
        try:
            trial = try_batch(spec, batch, with_truth=self.cases % TRUTH_EVERY == 0, orders=orders)
        except ValueError as declined:
            if "MAX_TERMS" not in str(declined):
                raise
            self.declined += 1
            return
        self.cases += 1
        self.truths += trial.truths > 0
        self.failed += bool(trial.violations)
        self.violations += trial.violations[: max(KEPT - len(self.violations), 0)]
        of_value, of_gradient = ((ratio, batch.family) for ratio in (trial.value, trial.gradient))
        self.merge(Tally(value=of_value, gradient=of_gradient if trial.inexact else (0.0, "")))


QUICK, SLOW = ("masked", "Composite"), ("quantile", "nll", "concordance_loss", "wrapper")


def _weight(loss):
    """Random cases in proportion: more of what takes a millisecond, fewer of what takes several."""
    if any(part in loss for part in QUICK):
        return 3.0
    return 0.5 if any(part in loss for part in SLOW) else 1.0


def plan(cases, seed, losses=None, *, share=0.08, chunk=100):
    """Tasks for at least so many cases: about `share` of them from the families, the rest random.

    A family that has few different batches, or some that do not count, gives fewer than asked: the random
    cases make up for half of all that the families could give.
    """
    chosen = [CATALOGUE[loss] for loss in losses or EVALUATIONS]
    cells = [(spec, form) for spec in chosen for form in spec.dtypes]
    families = [(spec, form, family) for spec, form in cells for family in spec.families]
    each = max(1, int(cases * share / len(families)))
    tasks = [Task(spec.name, form, family, each, seed) for spec, form, family in families]
    unit = cases * (1.0 - share / 2.0) / sum(_weight(spec.name) for spec, _ in cells)
    for spec, form in cells:
        rest = math.ceil(unit * _weight(spec.name))
        parts = range(-(-rest // chunk))
        tasks += [Task(spec.name, form, RANDOM, min(chunk, rest - chunk * i), seed, i) for i in parts]
    return tasks


def run(task):
    """The tally of one task."""
    spec, form, tally = CATALOGUE[task.loss], FORMATS[task.form], Tally()
    key = zlib.crc32(f"{task.seed} {task.loss} {task.form} {task.family} {task.part}".encode())
    if task.family == RANDOM:
        rng = np.random.default_rng(key)
        for _ in range(task.count):
            tally.add(spec, random_batch(spec, form, rng))
        return tally

    @hypothesis.seed(key)
    @settings(
        max_examples=task.count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(spec.strategy(task.family, form))
    def tried(batch):
        tally.add(spec, batch)

    tried()
    return tally
