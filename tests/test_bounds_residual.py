"""Straightforward evaluations of the residual loss stay inside the bound, use it, and cheaper ones break it.

Largest error / bound over the cases below: value 0.54, elementwise gradients 0.79, gradient of s 0.53 in
float32; 0.33, 0.61 and 0.27 in float64.
"""

import numpy as np
import pytest

from refimpl.bounds.precision import error_ratio, precision
from refimpl.bounds.residual import compute_residual_mse as bound_of
from refimpl.bounds.residual import replicate_concordance_mse_loss as wrapper_bound
from refimpl.residual import (
    compute_residual_mse,
    compute_residual_mse_gradient,
    replicate_concordance_mse_loss_gradient,
)
from tests.exact import all_orders

SIZES = (1, 2, 3, 40, 300)
REPEATS = 60


def batches(dtype, seed):
    """Random batches, a third of them with residuals that cancel, exactly representable in dtype."""
    rng = np.random.default_rng(seed)
    for size in SIZES:
        for repeat in range(REPEATS):
            y1, mu1, y2, mu2 = rng.normal(size=(4, size)).astype(dtype)
            s = dtype(rng.uniform(0.5, 2.0))
            if repeat % 3 == 1:  # (y1 - mu1) and s (y2 - mu2) agree in all but the last digits
                y2, mu2 = y1, mu1
                s = dtype(1.0) + np.finfo(dtype).eps * dtype(rng.integers(-3, 4))
            if repeat % 3 == 2:
                y1, mu1 = y1 + dtype(1000.0), mu1 + dtype(1000.0)
            yield y1, mu1, y2, mu2, s


def direct(y1, mu1, y2, mu2, s, accumulate):
    """Residuals and sums as anybody would write them: e, [sums of e² in several orders], [sums of g_s]."""
    d2 = y2 - mu2
    e = (y1 - mu1) - s * d2
    by_s = (-(e + e) * d2).astype(accumulate)
    return e, all_orders((e * e).astype(accumulate)), all_orders(by_s)


def worst_ratios(dtype, accumulate, reduction="mean"):
    """Largest error / bound of the value, of the elementwise gradients and of the gradient of s."""
    p, worst = precision(np.dtype(dtype).name), np.zeros(3)
    for batch in batches(dtype, seed=1):
        exact = compute_residual_mse(*batch, reduction=reduction)
        gradient = compute_residual_mse_gradient(*batch, reduction=reduction)
        bound = bound_of(*batch, p, reduction=reduction)
        e, totals, totals_s = direct(*batch, accumulate)
        count = dtype(e.size if reduction == "mean" else 1)
        w = e * (dtype(2) / count)
        elements = (w, -w, -batch[4] * w, batch[4] * w)
        found = [
            [error_ratio(total / count, exact, bound.value, p.scalar_max) for total in totals],
            [
                error_ratio(a, b, c, p.result_max, overflows=True).max()
                for a, b, c in zip(elements, gradient[:4], bound.gradient[:4], strict=True)
            ],
            [
                error_ratio(total / count, gradient[4], bound.gradient[4], p.result_max, overflows=True)
                for total in totals_s
            ],
        ]
        worst = np.maximum(worst, [max(ratios) for ratios in found])
    return worst


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_value_and_gradients_stay_inside_and_use_the_bound(dtype, reduction):
    worst = worst_ratios(dtype, dtype, reduction)
    assert (worst >= 0.2).all(), worst
    assert (worst <= 1.0).all(), worst


def test_accumulating_in_float32_breaks_the_float64_bound():
    assert (worst_ratios(np.float64, np.float32)[[0, 2]] > 1.0).all()


def test_a_negated_ratio_breaks_the_bound():
    p = precision("float32")
    for y1, mu1, y2, mu2, s in batches(np.float32, seed=2):
        wrong = compute_residual_mse(y1, mu1, y2, mu2, -s)
        exact, bound = compute_residual_mse(y1, mu1, y2, mu2, s), bound_of(y1, mu1, y2, mu2, s, p)
        assert error_ratio(wrong, exact, bound.value, p.scalar_max) > 1.0


@pytest.mark.parametrize("name", ["float16", "float32"])
def test_elementwise_value_and_ratio(name):
    p, worst = precision(name), np.zeros(2)
    for *sides, s in batches(np.float16, seed=3):
        batch = [np.asarray(part, np.float32) for part in (*sides, np.full_like(sides[0], s))]
        e, _, _ = direct(*batch, np.float32)
        exact = compute_residual_mse(*batch, reduction="none")
        gradient = compute_residual_mse_gradient(*batch, reduction="none")
        bound = bound_of(*batch, p, reduction="none")
        value = np.minimum(e * e, np.float32(p.result_max)).astype(name)
        g_s = (-(e + e) * (batch[2] - batch[3])).astype(name)
        ratios = (
            error_ratio(value, exact, bound.value, p.result_max),
            error_ratio(g_s, gradient[4], bound.gradient[4], p.result_max, overflows=True),
        )
        worst = np.maximum(worst, [ratio.max() for ratio in ratios])
    assert (worst >= 0.2).all(), worst
    assert (worst <= 1.0).all(), worst


def test_wrapper_nests_and_sums():
    p, rng = precision("float32"), np.random.default_rng(5)
    worst = 0.0
    for size in SIZES:
        mu = np.float32(rng.normal())
        outputs = {"r1": {"mu": mu, "r": mu}, "r2": {"mu": rng.normal(size=(size, 1)).astype(np.float32)}}
        y1, y2 = rng.normal(size=(2, size)).astype(np.float32)
        s = np.float32(1.25)
        batch = {"r1": {"reads": y1}, "r2": {"reads": y2}, "metadata": {"sd_ratio": s}}
        bound = wrapper_bound(outputs, batch, p)
        exact = replicate_concordance_mse_loss_gradient(outputs, batch)
        e, _, _ = direct(y1, mu, y2, outputs["r2"]["mu"].ravel(), s, np.float32)
        assert bound.gradient["r2"]["mu"].shape == (size, 1)
        assert bound.gradient["r1"]["r"] == 0.0
        for total in all_orders(-e * (np.float32(2) / np.float32(size))):
            ratio = error_ratio(
                total, exact["r1"]["mu"], bound.gradient["r1"]["mu"], p.result_max, overflows=True
            )
            worst = max(worst, ratio)
    assert 0.05 <= worst <= 1.0


EXTREMES = (0.0, 5e-324, -1e-160, 1.0, 1e160, -1.7e308, 1.7e308)


@pytest.mark.parametrize("name", ["float32", "float64"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_bounds_of_finite_inputs_are_never_nan(name, reduction):
    p, rng = precision(name), np.random.default_rng(6)
    for _ in range(50):
        y1, mu1, y2, mu2, s = rng.choice(EXTREMES, size=(5, 4))
        for ratio in (s, s[0]):
            bound = bound_of(y1, mu1, y2, mu2, ratio, p, reduction=reduction)
            assert not np.isnan(bound.value).any()
            assert np.all(np.asarray(bound.value) > 0.0)
            for part, argument in zip(bound.gradient, (y1, mu1, y2, mu2, ratio), strict=True):
                assert part.shape == np.shape(argument)
                assert not np.isnan(part).any()


def test_beyond_the_float64_range_the_bound_still_says_something():
    p = precision("float64")
    huge = np.array([1.7e308])
    bound = bound_of(huge, -huge, 0 * huge, 0 * huge, 1.0, p)
    assert 0.0 < bound.value < 1e-14 * p.scalar_max
    assert 0.0 < bound.gradient[0][0] < 1e-14 * p.scalar_max


def test_empty_batch_is_exact():
    empty = np.zeros(0)
    bound = bound_of(empty, empty, empty, empty, 1.0, precision("float32"))
    assert bound.value == 0.0
    assert bound.gradient[4] == 0.0
