"""The Pearson bound: pivot-first evaluations stay inside, come near, and careless ones fall outside."""

import itertools

import numpy as np
import pytest

from refimpl.bounds.pearson import negative_pearson_loss as bound_of
from refimpl.bounds.pearson import negative_pearson_loss_wrapper as wrapper_bound_of
from refimpl.bounds.precision import error_ratio, precision
from refimpl.pearson import negative_pearson_loss, negative_pearson_loss_gradient

FORMATS = {"float32": np.float32, "float64": np.float64}


def summed(values, order):
    """Sum in the dtype of the values: pairwise, one by one, or from the back."""
    if order == "pairwise":
        return values.sum(dtype=values.dtype)
    return np.cumsum(values if order == "forward" else values[::-1], dtype=values.dtype)[-1]


def pivot_first(side, order):
    raw = side - side[0]
    return raw - summed(raw, order) / side.dtype.type(side.size)


def mean_first(side, order):
    return side - summed(side, order) / side.dtype.type(side.size)


def largest_derivative(a):
    """Derivative of max |p - mean(p)|, the ties sharing it."""
    signs = np.where(np.abs(a) == 1, np.sign(a), a.dtype.type(0))
    return (signs - signs.mean(dtype=a.dtype)) / a.dtype.type(np.count_nonzero(signs))


def direct(p, t, eps, order, centre=pivot_first):
    """Value and gradients in the dtype of p, the loss as the contract writes it."""
    kind = p.dtype.type
    c, d = centre(p, order), centre(t, order)
    scale_c, scale_d = np.abs(c).max(), np.abs(d).max()
    c, d = c / scale_c, d / scale_d
    norm_c, norm_d = np.sqrt(summed(c * c, order)), np.sqrt(summed(d * d, order))
    dot, product = summed(c * d, order), norm_c * norm_d
    value = np.clip(-dot / max(product, kind(eps)), kind(-1), kind(1))
    if product >= eps:
        gp = -(d / norm_d + value * (c / norm_c)) / norm_c / scale_c
        gt = -(c / norm_c + value * (d / norm_d)) / norm_d / scale_d
    else:
        gp = -(d - dot * largest_derivative(c)) / (kind(eps) * scale_c)
        gt = -(c - dot * largest_derivative(d)) / (kind(eps) * scale_d)
    assert value.dtype == gp.dtype == kind
    return value, gp, gt


def ratios(name, p, t, eps=1e-8, centre=pivot_first):
    """Largest error / bound of value and gradients over the orders of summation."""
    kind, formats = FORMATS[name], precision(name)
    p, t = p.astype(kind), t.astype(kind)
    bound = bound_of(p, t, eps, precision=formats)
    exact, gradients = negative_pearson_loss(p, t, eps), negative_pearson_loss_gradient(p, t, eps)
    worst = [0.0, 0.0]
    for order in ("pairwise", "forward", "backward"):
        value, *got = direct(p, t, eps, order, centre)
        worst[0] = max(worst[0], float(error_ratio(value, exact, bound.value, formats.scalar_max)))
        for g, true, allowed in zip(got, gradients, bound.gradient, strict=True):
            worst[1] = max(worst[1], error_ratio(g, true, allowed, formats.result_max, overflows=True).max())
    return worst


def layouts(rng):
    """Pairs (p, t) by hazard; none is constant."""
    n = int(rng.integers(2, 200))
    p, noise = rng.normal(size=n), rng.normal(size=n)
    yield p, noise
    yield p, p
    yield p, -p + 1e-3 * noise
    yield 1e6 + p, noise
    yield 1e3 + p, -1e4 + p
    yield p * 1e-15, noise * 1e15
    yield rng.poisson(3.0, n) + np.eye(n)[0] * 9, rng.poisson(3.0, n) + np.eye(n)[1] * 9
    yield p + np.eye(n)[0] * 1e4, noise
    yield np.sign(p) * np.abs(p) ** 9, noise


@pytest.mark.parametrize(("name", "eps"), list(itertools.product(FORMATS, [1e-8, 3.0, 1e3])))
def test_pivot_first_evaluation_is_inside(name, eps):
    rng = np.random.default_rng(int(eps) + 1)
    for _ in range(25):
        for p, t in layouts(rng):
            if name == "float32" and np.ptp(p.astype(np.float32)) == 0:
                continue
            value, gradient = ratios(name, p, t, eps)
            assert value <= 1.0
            assert gradient <= 1.0


@pytest.mark.parametrize("name", FORMATS)
def test_bound_is_used(name):
    """At least 5 % of the bound is reached: it says something."""
    rng = np.random.default_rng(7)
    reached = [ratios(name, p, t) for _ in range(25) for p, t in layouts(rng)]
    assert min(np.max(reached, axis=0)) >= 0.05


@pytest.mark.parametrize("name", FORMATS)
def test_subtracting_the_raw_mean_is_outside(name):
    rng = np.random.default_rng(2)
    offset = {"float32": 1e6, "float64": 1e15}[name]
    p = offset + rng.normal(size=100)
    t = p - offset + 0.1 * rng.normal(size=100)
    assert max(ratios(name, p, t)) <= 1.0
    value, gradient = ratios(name, p, t, centre=mean_first)
    assert value > 1.0
    assert gradient > 1.0


def test_float32_accumulation_in_float64_is_outside():
    rng = np.random.default_rng(4)
    p, t = rng.normal(size=(2, 50))

    def rounded(side, order):
        return pivot_first(side, order).astype(np.float32).astype(np.float64)

    value, gradient = ratios("float64", p, t, centre=rounded)
    assert value > 1.0
    assert gradient > 1.0


@pytest.mark.parametrize("flat", [[0.1, 0.1, 0.1], [1e12], []])
def test_constant_is_exact(flat):
    for pair in ((flat, np.arange(len(flat))), (np.arange(len(flat)), flat)):
        bound = bound_of(*pair, precision=precision("float32"))
        assert bound.value == 0.0
        assert not np.any(bound.gradient)


def test_never_nan_for_extreme_input():
    tiny, huge = [0.0, 5e-324, 1e-323], [1.7e308, -1.7e308, 5.0]
    for name, (p, t) in itertools.product(FORMATS, itertools.product((tiny, huge), repeat=2)):
        for eps in (0.0, 1.0, 2.0, 1e300):
            bound = bound_of(p, t, eps, precision=precision(name))
            assert not np.isnan(bound.value)
            assert not np.isnan(bound.gradient).any()


def test_wrapper_splits_the_gradient():
    rng = np.random.default_rng(8)
    mu, reads = rng.gamma(2.0, size=(2, 5)), rng.poisson(3.0, size=(2, 5))
    outputs = {"r1": {"mu": mu[0][:, None], "r": np.ones(5)}, "r2": {"mu": np.array(1.0)}}
    batch = {"r1": {"reads": reads[0]}, "r2": {"reads": reads[1]}}
    formats = precision("float64")
    whole = bound_of(np.r_[mu[0], np.ones(5)], reads.ravel(), precision=formats)
    got = wrapper_bound_of(outputs, batch, precision=formats)
    assert got.value == whole.value
    assert np.array_equal(got.gradient["r1"]["mu"][:, 0], whole.gradient[0][:5])
    assert got.gradient["r1"]["r"].tolist() == [0.0] * 5
    assert got.gradient["r2"]["mu"].shape == ()
    assert got.gradient["r2"]["mu"] >= whole.gradient[0][5:].sum()
