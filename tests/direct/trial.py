"""One case: a batch, evaluated straightforwardly in every order of summation, held against its bound."""

from dataclasses import dataclass
from fractions import Fraction

import mpmath
import numpy as np

from refimpl.bounds.precision import error_ratio, precision
from refimpl.conformance.batch import leaves
from tests.direct import EVALUATIONS
from tests.direct.orders import ORDERS
from tests.direct.truth import BITS
from tests.direct.truth_counts import TRUTHS
from tests.exact import ulps


@dataclass(frozen=True)
class Trial:
    """Largest error / bound of value and gradient over the orders, and what is wrong.

    `inexact`: whether the bound of some gradient is more than 0. `truths` counts the numbers that were held
    against rational or 400-bit arithmetic.
    """

    value: float
    gradient: float
    inexact: bool = True
    truths: int = 0
    violations: tuple[str, ...] = ()


def applies(batch):
    """Whether everything that counts is finite: a bound speaks of rounding, not of NaN and infinity."""
    mask = batch.arguments.get("mask")
    weights = batch.options.get("weights")
    for path, array in leaves(dict(batch.arguments)):
        if path.split(".")[-1] == "r":
            continue  # an infinite dispersion is the Poisson law
        counted = array if mask is None else array[mask]
        counted = counted if weights is None else counted[np.asarray(weights) != 0]
        if not np.isfinite(counted).all():
            return False
    return True


def by_path(gradients):
    """Gradients by argument as float64 arrays by path."""
    return {path: np.asarray(array, np.float64) for path, array in leaves(dict(gradients))}


def _worst(ratios):
    """The largest ratio of every answer."""
    return ratios.reshape(len(ratios), -1).max(axis=1, initial=0.0)


class Judge:
    """Bound and oracle of one batch, to hold any number of answers against."""

    def __init__(self, spec, batch):
        with np.errstate(all="ignore"):
            bound, bounds = spec.bound(batch)
            self.exact, self.exacts = np.asarray(spec.value(batch)), by_path(spec.gradient(batch))
        self.bound, self.bounds = np.asarray(bound), by_path(bounds)
        self.batch, held = batch, precision(batch.form.name)
        self.largest = held.result_max if self.exact.ndim else held.scalar_max
        self.largest_gradient = held.result_max

    def ratios(self, answers):
        """Largest error / bound of value and of the gradients, one row (value, gradient) an answer."""
        values = np.stack([value for value, _ in answers])
        assert values.shape[1:] == self.exact.shape, (values.shape, self.exact.shape)
        worst = np.zeros((len(answers), 2))
        worst[:, 0] = _worst(error_ratio(values, self.exact, self.bound, self.largest))
        for path, exact in self.exacts.items():
            found = np.stack([gradients[path] for _, gradients in answers])
            assert found.shape[1:] == exact.shape, path
            ratio = error_ratio(found, exact, self.bounds[path], self.largest_gradient, overflows=True)
            worst[:, 1] = np.maximum(worst[:, 1], _worst(ratio))
        return worst

    def describe(self, order, value, gradients):
        """The offending numbers."""
        given = {path: array.tolist() for path, array in leaves(dict(self.batch.arguments))}
        lines = [
            f"{self.batch.form.name}, {self.batch.family!r}, {order}, {dict(self.batch.options)}",
            f"  input {given}",
            f"  value {value.tolist()} exact {self.exact.tolist()} bound {self.bound.tolist()}",
        ]
        for path, exact in self.exacts.items():
            found, allowed = gradients[path].tolist(), self.bounds[path].tolist()
            lines.append(f"  {path}: {found} exact {exact.tolist()} bound {allowed}")
        return "\n".join(lines)


def _held(name, actual, oracle, exact, bound, slack, largest, *, saturates):
    """Complaints about an oracle further than 1 ulp (and `slack`), or an answer further than its bound."""
    found = []
    for got, known, true, allowed in zip(actual.ravel(), oracle.ravel(), exact, np.ravel(bound), strict=True):
        if ulps(known, true, saturates=saturates) > 1.0 and abs(Fraction(known) - true) > slack:
            found.append(f"{name}: oracle {known!r} is not {float(true)!r}")
        inside = abs(true) < Fraction(largest) / 2 and np.isfinite(allowed)
        if inside and not (np.isfinite(got) and abs(Fraction(got) - true) <= Fraction(allowed)):
            found.append(f"{name}: {got!r} is not within {allowed!r} of {float(true)!r}")
    return found


def against_truth(loss, judge, value, gradients):
    """(numbers compared, complaints) of oracle and answer against exact arithmetic."""
    with mpmath.workprec(BITS):
        truth = TRUTHS[loss](judge.batch)
        if truth is None:
            return 0, []
        found = _held("value", value, judge.exact, truth.value, judge.bound, 0, judge.largest, saturates=True)
        count = len(truth.value)
        for path, exact in truth.gradients.items():
            count += len(exact)
            slack = truth.slack.get(path, Fraction(0))
            found += _held(
                path,
                gradients[path],
                judge.exacts[path],
                exact,
                judge.bounds[path],
                slack,
                judge.largest_gradient,
                saturates=False,
            )
    return count, found


def try_batch(spec, batch, *, with_truth=False, orders=ORDERS):
    """Evaluate in every order and judge.

    Raises:
        ValueError: the oracle declines the batch as too expensive.
    """
    judge, evaluate = Judge(spec, batch), EVALUATIONS[spec.name]
    violations, truths = [], 0
    with np.errstate(all="ignore"):
        answers = [evaluate(batch, total) for total in orders.values()]
    ratios = judge.ratios(answers)
    for order, answer, row in zip(orders, answers, ratios.tolist(), strict=True):
        if not max(row) <= 1.0:
            violations.append(f"{spec.name}, {row}\n{judge.describe(order, *answer)}")
    if with_truth:
        truths, complaints = against_truth(spec.name, judge, *answers[-1])
        violations += [f"{spec.name}, {judge.describe(order, *answers[-1])}\n  {c}" for c in complaints]
    inexact = any(bound.any() for bound in judge.bounds.values())
    return Trial(*ratios.max(axis=0).tolist(), inexact, truths, tuple(violations))
