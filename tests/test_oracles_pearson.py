"""The Pearson oracle against exact fractions: 1 ulp over the whole float64 range, exact on small integers."""

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refimpl.pearson import (
    negative_pearson_loss,
    negative_pearson_loss_gradient,
    negative_pearson_loss_wrapper,
    negative_pearson_loss_wrapper_gradient,
)

MAX = float(np.finfo(np.float64).max)


@pytest.fixture(autouse=True)
def _digits():
    with mpmath.workprec(20000):  # squares of 2^+-1074, their products and roots
        yield


def mpf(value: Fraction) -> mpmath.mpf:
    return mpmath.mpf(value.numerator) / value.denominator


def ulps(got: float, true: mpmath.mpf) -> float:
    if not math.isfinite(got):
        return 0.0 if abs(true) > MAX and (got > 0) == (true > 0) else math.inf
    return float(abs(mpmath.mpf(got) - true) / math.ulp(min(float(abs(true)), MAX)))


def textbook(p, t, eps):
    """Value and gradients by the definition, on 20000-bit numbers centred as fractions."""
    n = len(p)
    devs = []
    for side in (p, t):
        exact = [Fraction(v) for v in side]
        mean = sum(exact) / n
        devs.append([mpf(v - mean) for v in exact])
    if not any(devs[0]) or not any(devs[1]):
        return 0, [[0] * n, [0] * n]
    norms = [mpmath.sqrt(sum(d * d for d in dev)) for dev in devs]
    scales = [max(abs(d) for d in dev) for dev in devs]
    dot = sum(a * b for a, b in zip(*devs, strict=True))
    if norms[0] / scales[0] * (norms[1] / scales[1]) < eps:
        value = -dot / (scales[0] * scales[1] * eps)
        return value, [
            [derivative_by_parts(dev, other, dot, eps, i) for i in range(n)]
            for dev, other in (devs, devs[::-1])
        ]
    value = -dot / (norms[0] * norms[1])
    gradients = []
    for (own, other), (own_norm, other_norm) in ((devs, norms), (devs[::-1], norms[::-1])):
        gradients.append(
            [-(b / other_norm + value * a / own_norm) / own_norm for a, b in zip(own, other, strict=True)]
        )
    return value, gradients


def derivative_by_parts(dev, other, dot, eps, i):
    """d/dp_i of -dot / (m_p m_t eps), the largest magnitude m_p as the mean of the tied ones."""
    n, scale, other_scale = len(dev), max(map(abs, dev)), max(map(abs, other))
    tied = [j for j in range(n) if abs(dev[j]) == scale]
    d_scale = sum(mpmath.sign(dev[j]) * ((i == j) - mpmath.mpf(1) / n) for j in tied) / len(tied)
    return -(other[i] / scale - dot * d_scale / scale**2) / (other_scale * eps)


def assert_matches(p, t, eps=1e-8):
    value, gradients = textbook(p, t, eps)
    got = negative_pearson_loss(p, t, eps)
    assert ulps(got, mpmath.mpf(value)) <= 1.0
    assert -1.0 <= got <= 1.0
    for side, true in zip(negative_pearson_loss_gradient(p, t, eps), gradients, strict=True):
        for g, exact in zip(side, true, strict=True):
            if abs(exact) < mpmath.mpf(2) ** -4000:  # what 20000 bits leave of an exact zero
                assert abs(g) <= 5e-324
            else:
                assert ulps(float(g), exact) <= 1.0


anything = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def pairs(draw, element, most=6):
    n = draw(st.integers(1, most))
    p = np.array(draw(st.lists(element, min_size=n, max_size=n)))
    t = np.array(draw(st.lists(element, min_size=n, max_size=n)))
    relation = draw(st.sampled_from(["free", "free", "identical", "opposite", "nearly"]))
    if relation == "identical":
        t = p.copy()
    elif relation == "opposite":
        t = -p
    elif relation == "nearly":
        t = np.nextafter(p, t)
    return p, t


@given(pairs(anything), st.sampled_from([0.0, 1e-8, 1.0, 1.3, 2.5, 50.0]))
def test_any_finite_input(pair, eps):
    assert_matches(*pair, eps)


@given(
    pairs(st.floats(-3.0, 3.0)),
    st.sampled_from([1e-300, 1e-30, 1.0, 1e6, 1e290]),
    st.sampled_from([0.0, 1e6, 1e12]),
)
def test_scale_and_offset(pair, scale, offset):
    assert_matches((pair[0] + offset) * scale, pair[1] / 3, 1e-8)


@given(pairs(st.integers(-3, 3).map(float)), st.sampled_from([0.0, 1.5, 2.0, 3.0, 10.0]))
def test_integers_ties_and_the_floor(pair, eps):
    assert_matches(*pair, eps)


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=1, max_size=12))
def test_small_integers_are_correctly_rounded(rows):
    """value^2 is a fraction; the float next to its root on either side brackets it."""
    p, t = (np.array(side, dtype=float) for side in zip(*rows, strict=True))
    n = len(rows)
    covariance = n * sum(a * b for a, b in rows) - sum(a for a, _ in rows) * sum(b for _, b in rows)
    product = math.prod(n * sum(r[s] ** 2 for r in rows) - sum(r[s] for r in rows) ** 2 for s in (0, 1))
    got = negative_pearson_loss(p, t)
    if product == 0 or covariance == 0:
        assert got == 0.0
        return
    square = Fraction(covariance**2, product)
    half = Fraction(math.ulp(got)) / 2
    assert (abs(Fraction(got)) - half) ** 2 <= square <= (abs(Fraction(got)) + half) ** 2
    assert (got > 0) == (covariance < 0)


@pytest.mark.parametrize("constant", [0.1, 1e12, -5e-324, MAX, 0.0])
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_constant_is_recognised_exactly(constant, size):
    flat, other = np.full(size, constant), np.arange(size, dtype=float)
    for pair in ((flat, other), (other, flat), (flat, flat)):
        assert negative_pearson_loss(*pair) == 0.0
        assert not np.any(negative_pearson_loss_gradient(*pair))
    if size > 1 and constant:
        flat[0] = np.nextafter(constant, 1.0)
        assert negative_pearson_loss(flat, other) != 0.0


def test_nothing_counts():
    assert negative_pearson_loss(np.zeros((0, 3)), np.zeros((0, 3))) == 0.0
    assert [g.shape for g in negative_pearson_loss_gradient(np.zeros((0, 3)), np.zeros((0, 3)))] == [
        (0, 3)
    ] * 2


def test_gradient_overflows_to_infinity():
    g, _ = negative_pearson_loss_gradient([0.0, 5e-324, 1e-323], [1.0, -1.0, 2.0])
    assert np.isinf(g).sum() == 2 or np.isinf(g).sum() == 3
    assert not np.isnan(g).any()


def test_cotangent_scales():
    p, t = np.array([0.3, -1.0, 2.0]), np.array([1.0, 0.5, -0.7])
    for one, scaled in zip(
        negative_pearson_loss_gradient(p, t),
        negative_pearson_loss_gradient(p, t, cotangent=-4.0),
        strict=True,
    ):
        assert np.array_equal(scaled, -4.0 * one)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_not_finite(bad):
    p = np.array([1.0, bad, 2.0])
    assert math.isnan(negative_pearson_loss(p, np.arange(3.0)))
    assert math.isnan(negative_pearson_loss(np.ones(3), p))
    assert np.isnan(negative_pearson_loss_gradient(p, np.arange(3.0))).all()


def test_wrapper_concatenates():
    rng = np.random.default_rng(5)
    mu1, mu2, reads1, reads2 = rng.normal(size=(4, 6))
    outputs = {"r1": {"mu": mu1[:, None], "r": np.ones((6, 1))}, "r2": {"mu": mu2}}
    batch = {"r1": {"reads": reads1}, "r2": {"reads": reads2[:, None]}}
    together = np.concatenate([mu1, mu2]), np.concatenate([reads1, reads2])
    assert negative_pearson_loss_wrapper(outputs, batch, eps=2.0) == negative_pearson_loss(*together, 2.0)
    g, _ = negative_pearson_loss_gradient(*together, cotangent=3.0)
    got = negative_pearson_loss_wrapper_gradient(outputs, batch, cotangent=3.0)
    assert np.array_equal(got["r1"]["mu"], g[:6, None])
    assert np.array_equal(got["r2"]["mu"], g[6:])
    assert got["r1"]["r"].tolist() == [[0.0]] * 6
    assert "r" not in got["r2"]


def test_wrapper_with_constant_mu():
    outputs = {"r1": {"mu": np.array(1.5)}, "r2": {"mu": np.array([1.0, 2.0])}}
    batch = {"r1": {"reads": [3, 4]}, "r2": {"reads": [1, 5]}}
    g, _ = negative_pearson_loss_gradient([1.5, 1.5, 1.0, 2.0], [3, 4, 1, 5])
    got = negative_pearson_loss_wrapper_gradient(outputs, batch)
    assert got["r1"]["mu"].shape == ()
    assert got["r1"]["mu"] == math.fsum(g[:2])


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: negative_pearson_loss(np.zeros((3, 1)), np.zeros(3)), ValueError, r"\(3, 1\) and \(3,\)"),
        (lambda: negative_pearson_loss([1.0], [1.0], -1.0), ValueError, "eps"),
        (lambda: negative_pearson_loss([1.0], [1.0], math.nan), ValueError, "eps"),
        (lambda: negative_pearson_loss([1.0], [1.0], "x"), TypeError, "eps"),
        (lambda: negative_pearson_loss(["a"], [1.0]), TypeError, "preds"),
        (lambda: negative_pearson_loss_wrapper({}, {}, tau=1.0), TypeError, "tau"),
        (lambda: negative_pearson_loss_wrapper({"r1": {}}, {}), KeyError, "mu"),
    ],
)
def test_refusals(call, error, words):
    with pytest.raises(error, match=words):
        call()
