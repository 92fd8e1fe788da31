"""No straightforward evaluation is beyond its bound, some come near it, and a smaller bound would be noticed.

A sample of what `scripts/sharpness.py` does with a hundred thousand cases.
"""

import importlib
import inspect
import types

import numpy as np
import pytest

from refimpl.bounds.precision import precision
from refimpl.conformance.catalogue import CATALOGUE
from refimpl.conformance.formats import FORMATS
from tests.direct import EVALUATIONS
from tests.direct.draws import RANDOM, random_batch
from tests.direct.orders import ORDERS
from tests.direct.survey import SHARP, Tally, plan, run
from tests.direct.trial import Judge, by_path, try_batch

CASES = {"negative_pearson_loss": 100, "negative_pearson_loss_wrapper": 60}  # others 30
TASKS = 20  # random cases of a cell come in tasks of so many
CELLS = [(loss, form) for loss in EVALUATIONS for form in CATALOGUE[loss].dtypes]


def test_every_loss_has_a_straightforward_evaluation():
    assert set(EVALUATIONS) == set(CATALOGUE)


@pytest.mark.parametrize("loss", EVALUATIONS)
def test_bounds_hold_and_are_used(loss):
    cells = {form: Tally() for form in CATALOGUE[loss].dtypes}
    spec = CATALOGUE[loss]
    count = (CASES.get(loss, 30) + len(spec.families)) * len(cells)
    share = len(spec.families) / (CASES.get(loss, 30) + len(spec.families))
    for task in plan(count, 1, [loss], share=share, chunk=TASKS):
        cells[task.form].merge(run(task))
    for form, tally in cells.items():
        assert not tally.failed, "\n".join(tally.violations)
        assert tally.truths, form
        assert tally.value[0] >= SHARP, (form, tally.value)
        assert not tally.gradient[1] or tally.gradient[0] >= SHARP, (form, tally.gradient)


class Changed:
    """A loss of the catalogue with another bound."""

    def __init__(self, loss, bound):
        spec = CATALOGUE[loss]
        self.name, self.value, self.gradient, self.bound = loss, spec.value, spec.gradient, bound


def batches(loss, form, count=40):
    rng = np.random.default_rng(2)
    return [random_batch(CATALOGUE[loss], FORMATS[form], rng) for _ in range(count)]


def worst_ratios(spec, cases):
    """Largest error / bound of value and gradient."""
    trials = [try_batch(spec, batch) for batch in cases]
    return max(trial.value for trial in trials), max(trial.gradient for trial in trials)


@pytest.mark.parametrize(("loss", "form"), CELLS)
def test_a_twentieth_of_a_bound_is_seen_to_be_too_small(loss, form):
    def shrunk(batch):
        value, gradient = CATALOGUE[loss].bound(batch)
        return SHARP * np.asarray(value), {path: SHARP * part for path, part in by_path(gradient).items()}

    spec, value, gradient = Changed(loss, shrunk), False, (loss, form) == ("CompositeLoss", "float64")
    for batch in batches(loss, form, 200):
        trial = try_batch(spec, batch)
        assert bool(trial.violations) == (max(trial.value, trial.gradient) > 1.0)
        value, gradient = value or trial.value > 1.0, gradient or trial.gradient > 1.0
        if value and gradient:
            return
    pytest.fail(f"value {value}, gradient {gradient}")


def without(module, text, instead):
    """The module of bounds with one piece of its source replaced."""
    source = inspect.getsource(importlib.import_module(f"refimpl.bounds.{module}"))
    assert source.count(text) == 1, f"{text!r} occurs {source.count(text)} times"
    changed = types.ModuleType(f"changed_{module}")
    vars(changed)["__name__"] = f"refimpl.bounds.{module}"
    exec(source.replace(text, instead), vars(changed))
    return changed


DROPPED = [
    ("masked", "masked_sse", "np.log1p(gamma(3, u))", "0.0"),
    ("masked", "masked_sse", "np.log1p((terms - 1) * u)", "0.0"),
    ("masked", "masked_sse", "2 + divisions if divisions else 1", "0"),
    ("pearson", "negative_pearson_loss", "gamma(n, u) * (size_p * size_t).sum() + ", ""),
    ("pearson", "negative_pearson_loss", "u * np.abs(raw) + 2 * u * np.abs(deviations) + ", ""),
    ("concordance", "concordance_loss_nce", "gamma(features + 4, u) * a\n", "0 * a\n"),
    ("concordance", "concordance_loss_nce", "gamma(batch + 8, precision.work_roundoff)", "0.0"),
    ("residual", "compute_residual_mse", "(e * error).times(2.0) + ", ""),
    ("residual", "compute_residual_mse", "additions * precision.work_roundoff", "0.0"),
    ("composite", "CompositeLoss", "np.log1p(max(terms - 1, 0) * u)", "0.0"),
    ("composite", "CompositeLoss", "(1 + weight_roundings) * np.log1p(u)", "0.0"),
    ("negative_binomial", "negative_binomial_cdf", "slope_mu * (16.0 * u + deviance)", "slope_mu * 0.0"),
    ("negative_binomial", "negative_binomial_cdf", "series * (5.0 * z + 14.0 +", "0.0 * (5.0 * z + 14.0 +"),
    ("negative_binomial", "negative_binomial_sf", "u * (of_exponent + 4.0 * exact[S])", "0.0 * exact[S]"),
    (
        "quantile",
        "quantile_absolute_loss",
        "np.where(identical, 0.0, ends",
        "np.where(identical, 0.0, 0 * ends",
    ),
    ("likelihood", "nll_loss", "share * sum(parts)", "0.0 * sum(parts)"),
]


@pytest.mark.parametrize(("module", "loss", "text", "instead"), DROPPED, ids=[case[2] for case in DROPPED])
def test_a_dropped_term_is_seen(module, loss, text, instead):
    """A derivation that forgot one source of error would be noticed by some case."""
    function = getattr(without(module, text, instead), "composite_loss" if loss == "CompositeLoss" else loss)
    spec = CATALOGUE[loss]

    def bound(batch):
        arguments = batch.arguments.values()
        if loss == "CompositeLoss":
            arguments = (batch.arguments["values"], batch.options["weights"])
        options = {} if loss == "CompositeLoss" else batch.options
        found = function(*arguments, **options, precision=precision(batch.form.name))
        parts = found.gradient if isinstance(found.gradient, tuple) else (found.gradient,)
        return found.value, dict(zip(spec.differentiable, parts, strict=True))

    for form in ("float32", "float64"):
        for batch in batches(loss, form, 250):
            if try_batch(Changed(loss, bound), batch).violations:
                return
    pytest.fail("no case noticed")


def test_exact_arithmetic_notices_a_wrong_oracle():
    """The references of `truth` are asked: an oracle that is off by three units is found."""
    batch = batches("masked_sse", "float64", 1)[0]
    spec = Changed("masked_sse", CATALOGUE["masked_sse"].bound)
    assert not try_batch(spec, batch, with_truth=True).violations
    spec.value = lambda given: CATALOGUE["masked_sse"].value(given) * (1.0 + 3.0 * 2.0**-52)
    complaints = try_batch(spec, batch, with_truth=True).violations
    assert any("oracle" in complaint for complaint in complaints)


def test_orders_add_the_same_numbers():
    terms = np.arange(1.0, 300.0).reshape(13, 23)
    for order in ORDERS.values():
        for axis in (0, 1):
            assert np.array_equal(order(terms, axis), terms.sum(axis=axis))
        assert order(np.zeros((3, 0)), 1).tolist() == [0.0, 0.0, 0.0]
        assert order(np.ones(50, np.float32), -1).dtype == np.float32


def test_orders_differ_by_rounding():
    terms = np.random.default_rng(0).normal(size=299).astype(np.float32)
    assert len({float(order(terms, -1)) for order in ORDERS.values()}) > 3


def test_equal_seeds_give_equal_tallies():
    tasks = [task for task in plan(40, 5, ["negative_pearson_loss"]) if task.form == "float32"]
    assert [run(task) for task in tasks] == [run(task) for task in tasks]


def test_a_violation_shows_its_numbers():
    batch = batches("CompositeLoss", "float32", 1)[0]
    judge = Judge(CATALOGUE["CompositeLoss"], batch)
    text = judge.describe("pairwise", *EVALUATIONS["CompositeLoss"](batch, ORDERS["pairwise"]))
    assert f"'{RANDOM}'" in text
    assert "exact" in text
    assert "pairwise" in text
