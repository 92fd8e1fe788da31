"""Straightforward evaluations of the masked losses stay inside the bound, use it, and cheaper ones break it.

Largest error / bound over the cases below: value 0.59 (float32), 0.50 (float64), 0.36 (half); gradient 0.99
(half and float32), 0.73 (float64); "none" 0.99 (half), 0.95 (float32), 0.67 (float64).
"""

import numpy as np
import pytest

from refimpl.bounds.masked import masked_mse as bound_mse
from refimpl.bounds.masked import masked_sse as bound_sse
from refimpl.bounds.precision import error_ratio, gamma, precision
from refimpl.masked import masked_mse, masked_sse, masked_sse_gradient
from tests.exact import all_orders

WORK = {"float16": np.float32, "bfloat16": np.float32, "float32": np.float32, "float64": np.float64}
SIZES = (1, 2, 3, 17, 300)
REPEATS = 60


def to_format(values, name):
    """Round float64 or float32 numbers to a format that numpy may not have."""
    if name != "bfloat16":
        return np.asarray(values).astype(name).astype(np.float64)
    bits = np.asarray(values, np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return rounded.astype(np.uint32).view(np.float32).astype(np.float64)


def batches(name, seed):
    """Random batches of several sizes and kinds, in the format, as float64."""
    rng = np.random.default_rng(seed)
    for size in SIZES:
        for repeat in range(REPEATS):
            x, x_recon = rng.normal(size=(2, size))
            if repeat % 3 == 1:  # heavy tails
                x_recon = x_recon * 10.0 ** rng.uniform(-3, 3, size)
            if repeat % 3 == 2:  # a common offset: the differences are exact, the squares are not
                x, x_recon = x + 100.0, x_recon + 100.0
            yield to_format(x_recon, name), to_format(x, name), rng.random(size) < 0.8


def direct(x_recon, x, mask, dtype, accumulate=None):
    """Masked sums of squares as anybody would write them, in several orders."""
    e = x_recon.astype(dtype)[mask] - x.astype(dtype)[mask]
    return all_orders((e * e).astype(accumulate or dtype))


def worst_value_ratio(name, accumulate=None):
    p, worst = precision(name), 0.0
    for x_recon, x, mask in batches(name, seed=1):
        exact = masked_sse(x_recon, x, mask, reduction="sum")
        bound = bound_sse(x_recon, x, mask, p, reduction="sum").value
        mean, mean_bound = exact / max(mask.sum(), 1), bound_mse(x_recon, x, mask, p).value
        for total in direct(x_recon, x, mask, WORK[name], accumulate):
            worst = max(worst, error_ratio(total, exact, bound, p.scalar_max))
            if mask.any():
                quotient = total / total.dtype.type(mask.sum())
                worst = max(worst, error_ratio(quotient, mean, mean_bound, p.scalar_max))
    return worst


@pytest.mark.parametrize("name", list(WORK))
def test_value_stays_inside_and_uses_the_bound(name):
    assert 0.25 <= worst_value_ratio(name) <= 1.0


def test_accumulating_in_float32_breaks_the_float64_bound():
    assert worst_value_ratio("float64", accumulate=np.float32) > 1.0


def test_the_next_narrower_input_format_breaks_the_float32_bound():
    p, worst = precision("float32"), 0.0
    for x_recon, x, mask in batches("float32", seed=2):
        exact = masked_sse(x_recon, x, mask, reduction="sum")
        bound = bound_sse(x_recon, x, mask, p, reduction="sum").value
        coarse = direct(to_format(x_recon, "float16"), to_format(x, "float16"), mask, np.float32)[0]
        worst = max(worst, error_ratio(coarse, exact, bound, p.scalar_max))
    assert worst > 1.0


@pytest.mark.parametrize("name", list(WORK))
@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
def test_gradient_and_elementwise_value(name, reduction):
    p, dtype, worst = precision(name), WORK[name], [0.0, 0.0]
    for x_recon, x, mask in batches(name, seed=3):
        bound = bound_sse(x_recon, x, mask, p, reduction=reduction)
        exact = masked_sse_gradient(x_recon, x, mask, reduction=reduction)[0]
        e = np.where(mask, x_recon.astype(dtype) - x.astype(dtype), dtype(0))
        scale = dtype(2) / dtype(max(mask.sum(), 1)) if reduction == "mean" else dtype(2)
        ratio = error_ratio(
            to_format(e * scale, name), exact, bound.gradient[0], p.result_max, overflows=True
        )
        worst[0] = max(worst[0], ratio.max())
        assert not bound.gradient[1][~mask].any()
        if reduction == "none":
            value = masked_sse(x_recon, x, mask, reduction="none")
            saturated = to_format(np.minimum(e * e, dtype(p.result_max)), name)
            ratio = error_ratio(saturated, value, bound.value, p.result_max)
            worst[1] = max(worst[1], ratio.max())
    # one rounding of a float64 difference is the oracle's own rounding: no error is left to see
    assert (0.0 if name == "float64" and reduction != "mean" else 0.5) <= worst[0] <= 1.0
    assert worst[1] <= 1.0
    assert reduction != "none" or worst[1] >= 0.5


@pytest.mark.parametrize("scale", [1e-45, 1e-38, 1e-30, 1e-23, 1e-19])
def test_underflow_is_inside(scale):
    p, rng = precision("float32"), np.random.default_rng(4)
    for size in SIZES:
        x_recon, x = (rng.normal(size=(2, size)) * scale).astype(np.float32).astype(np.float64)
        mask = np.ones(size, bool)
        exact, bound = masked_mse(x_recon, x, mask), bound_mse(x_recon, x, mask, p)
        for total in direct(x_recon, x, mask, np.float32):
            assert error_ratio(total / np.float32(size), exact, bound.value, p.scalar_max) <= 1.0


def test_far_beyond_the_maximum_only_the_maximum_is_right():
    p, mask = precision("float32"), np.ones(3, bool)
    x_recon, x = np.full(3, 1e30), np.zeros(3)
    exact, bound = masked_mse(x_recon, x, mask), bound_mse(x_recon, x, mask, p)
    assert error_ratio(p.scalar_max, exact, bound.value, p.scalar_max) == 0.0
    assert error_ratio(p.scalar_max / 2, exact, bound.value, p.scalar_max) == np.inf


def test_float64_extremes_have_finite_bounds():
    p = precision("float64")
    for pair in ([1.7e308, -1.7e308], [5e-324, 0.0], [1e200, 1e-200]):
        x_recon, x = np.array(pair), np.array(pair[::-1])
        for reduction in ("sum", "mean", "batch_mean", "none"):
            bound = bound_sse(x_recon, x, np.ones(x.shape, bool), p, reduction=reduction)
            assert np.isfinite(bound.value).all()
            assert np.isfinite(bound.gradient[0]).all()


def test_what_does_not_count_is_exact():
    p = precision("float32")
    same = bound_sse([1.0, np.nan], [1.0, 2.0], [True, False], p)
    assert same.value == 0.0
    assert not same.gradient[0].any()
    assert bound_mse([1.0, 2.0], [1.0, 2.0], [False, False], p).value == 0.0


def test_error_metric():
    nan, inf = np.nan, np.inf
    assert error_ratio(nan, nan, 1.0, 8.0) == 0.0
    assert error_ratio(nan, 1.0, inf, 8.0) == inf
    assert error_ratio(1.0, nan, inf, 8.0) == inf
    assert error_ratio(1.0, 1.0, 0.0, 8.0) == 0.0
    assert error_ratio(1.1, 1.0, 0.0, 8.0) == inf
    # a value saturates: only the maximum is right far beyond it, and inf never is
    assert error_ratio(8.0, 1e9, 1e6, 8.0) == 0.0
    assert error_ratio(7.9, 1e9, 1e6, 8.0) == inf
    assert error_ratio(inf, 1e9, 1e6, 8.0) == inf
    assert error_ratio(7.5, 8.5, 1.0, 8.0) == 1.0
    # inf in the input: any non-finite value
    assert error_ratio(nan, inf, nan, 8.0) == 0.0
    assert error_ratio(8.0, inf, nan, 8.0) == inf
    # a gradient overflows with the right sign, and never to NaN
    assert error_ratio(inf, 9.0, 1.0, 8.0, overflows=True) == 0.0
    assert error_ratio(-inf, 9.0, 1.0, 8.0, overflows=True) == inf
    assert error_ratio(inf, 6.9, 1.0, 8.0, overflows=True) == inf
    assert error_ratio(nan, inf, 1.0, 8.0, overflows=True) == inf
    assert error_ratio(8.0, 1e9, 1e6, 8.0, overflows=True) > 1.0
    assert error_ratio(0.0, inf, 1e290, 8.0, overflows=True) > 1.0


def test_precision_table():
    for name in ("float16", "float32", "float64"):
        p, info = precision(name), np.finfo(name)
        assert p.result_roundoff == float(info.eps) / 2
        assert p.result_tiny == float(info.smallest_subnormal)
        assert p.result_max == float(info.max)
    assert precision("bfloat16").result_roundoff == 2.0**-8
    assert precision("bfloat16").result_max == 3.3895313892515355e38
    assert gamma(1, 0.25) == 0.25 / 0.75
    with pytest.raises(ValueError, match=r"one of 'float16', .* got 'int8'"):
        precision("int8")
