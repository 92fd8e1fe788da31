"""The InfoNCE oracle against exact distances and mpmath: 1 ulp over the whole float64 range."""

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refimpl.concordance import (
    concordance_loss_nce,
    concordance_loss_nce_gradient,
    concordance_loss_nce_wrapper,
    concordance_loss_nce_wrapper_gradient,
)

MAX = float(np.finfo(np.float64).max)
DUST = 2.0**-80  # the oracle's stated limit under cancellation, relative to the sum of absolute terms


@pytest.fixture(autouse=True)
def _digits():
    with mpmath.workprec(600):
        yield


def mpf(value: Fraction) -> mpmath.mpf:
    return mpmath.mpf(value.numerator) / value.denominator


def ulps(got: float, true: mpmath.mpf) -> float:
    """Distance in units of the last place of the true value, beyond the largest float as IEEE overflows."""
    if not math.isfinite(got):
        return 0.0 if abs(true) > MAX and (got > 0) == (true > 0) else math.inf
    unit = math.ulp(min(float(abs(true)), MAX))
    return float(abs(mpmath.mpf(got) - true) / unit)


class Exact:
    """InfoNCE of exact fractions: distances without rounding, exponentials with 600 bits."""

    def __init__(self, x, y, tau, eps):
        self.x = [[Fraction(v) for v in row] for row in x]
        self.y = [[Fraction(v) for v in row] for row in y]
        self.tau, self.eps = Fraction(tau), Fraction(eps)
        self.batch = len(x)
        self.values, self.p, self.q = [], [], []
        for i in range(self.batch):
            self._row(i)

    def _row(self, i):
        distances = [
            sum(((a - b) ** 2 for a, b in zip(self.x[i], y, strict=True)), Fraction(0)) for y in self.y
        ]
        nearest = min(distances)
        terms = [mpmath.exp(mpf((nearest - d) / self.tau)) for d in distances]
        own = mpf((distances[i] - nearest) / self.tau)
        eps_exponent = -mpmath.inf
        if self.eps:
            with mpmath.workprec(6000):  # log eps + d / tau cancels
                eps_exponent = mpmath.log(mpf(self.eps)) + mpf(nearest / self.tau)
        shift = max(eps_exponent, mpmath.mpf(0))
        terms = [t * mpmath.exp(-shift) for t in terms]
        extra = mpmath.exp(eps_exponent - shift)
        total = sum(terms) + extra
        self.p.append([t / total for t in terms])
        self.q.append(extra / total)
        if own == 0 and shift == 0:
            rest = sum(t for j, t in enumerate(terms) if j != i) + extra
            self.values.append(mpmath.log1p(rest))
        else:
            with mpmath.workprec(6000):
                self.values.append(own + shift + mpmath.log(total))

    def gradients(self, cotangents):
        """(terms of gx, terms of gy): lists of the summands of each component."""
        features = range(len(self.x[0]))
        gx = [[[] for _ in features] for _ in self.x]
        gy = [[[] for _ in features] for _ in self.x]
        for i in range(self.batch):
            scale = 2 * mpf(cotangents[i] / self.tau)
            others = sum((p for j, p in enumerate(self.p[i]) if j != i), self.q[i])
            for k in features:
                x, y = self.x[i][k], self.y[i][k]
                gx[i][k].append(scale * self.q[i] * mpf(x - y))
                gy[i][k].append(-scale * others * mpf(x - y))
                for j in range(self.batch):
                    if j != i:
                        gx[i][k].append(scale * self.p[i][j] * mpf(self.y[j][k] - y))
                        gy[j][k].append(scale * self.p[i][j] * mpf(x - self.y[j][k]))
        return gx, gy


def assert_gradient(got, terms, limit=1.0):
    for got_row, row in zip(got, terms, strict=True):
        for g, parts in zip(got_row, row, strict=True):
            true, size = sum(parts), sum(abs(t) for t in parts)
            if not math.isfinite(g):
                assert ulps(float(g), true) == 0.0
                continue
            allowed = limit * math.ulp(min(float(abs(true)), MAX)) + DUST * size
            assert abs(mpmath.mpf(float(g)) - true) <= allowed


def assert_matches(x, y, tau, eps):
    exact = Exact(x, y, tau, eps)
    rows = concordance_loss_nce(x, y, tau, eps=eps, reduction="none")
    for got, true in zip(rows, exact.values, strict=True):
        assert ulps(float(got), min(true, mpmath.mpf(MAX))) <= 1.0
    total = sum(exact.values)
    for reduction, true in (("sum", total), ("mean", total / exact.batch)):
        assert (
            ulps(concordance_loss_nce(x, y, tau, eps=eps, reduction=reduction), min(true, mpmath.mpf(MAX)))
            <= 1.0
        )
    gradients = concordance_loss_nce_gradient(x, y, tau, eps=eps)
    for got, terms in zip(gradients, exact.gradients([Fraction(1, exact.batch)] * exact.batch), strict=True):
        assert_gradient(got, terms)


anything = st.floats(allow_nan=False, allow_infinity=False)
taus = st.one_of(
    st.sampled_from([0.1, 1.0, 5e-324, MAX]),
    st.floats(1e-3, 1e3),
    st.floats(5e-324, MAX),
    st.integers(-1074, 1023).map(lambda e: math.ldexp(1.0, e)),
)
epses = st.one_of(st.sampled_from([0.0, 1e-8, 5e-324, 1.0, MAX]), st.floats(0.0, 10.0))


@st.composite
def batches(draw, element):
    shape = (draw(st.integers(1, 5)), draw(st.integers(1, 3)))
    size = shape[0] * shape[1]
    x = np.array(draw(st.lists(element, min_size=size, max_size=size)), dtype=np.float64).reshape(shape)
    y = np.array(draw(st.lists(element, min_size=size, max_size=size)), dtype=np.float64).reshape(shape)
    layout = draw(st.sampled_from(["free", "identical", "close", "swapped"]))
    if layout == "identical":
        y = x.copy()
    elif layout == "close":
        y = np.nextafter(x, y)
    elif layout == "swapped":
        y = x[::-1].copy()
    return x, y


@given(batches(anything), taus, epses)
def test_any_finite_input(batch, tau, eps):
    assert_matches(*batch, tau, eps)


@given(batches(st.floats(-3.0, 3.0)), st.floats(1e-2, 1e2), epses)
def test_ordinary_input(batch, tau, eps):
    assert_matches(*batch, tau, eps)


@given(batches(st.integers(-4, 4).map(float)), st.sampled_from([0.01, 0.1, 1.0, 100.0]), epses)
def test_integers_and_ties(batch, tau, eps):
    assert_matches(*batch, tau, eps)


@given(batches(st.floats(-3.0, 3.0)), st.sampled_from([1e6, 1e12, -1e15]), st.floats(1e-2, 1e2), epses)
def test_common_offset(batch, offset, tau, eps):
    assert_matches(batch[0] + offset, batch[1] + offset, tau, eps)


@given(batches(st.floats(-3.0, 3.0)), st.integers(-1050, 1020), st.floats(1e-3, 10.0), epses)
def test_any_scale_with_its_own_temperature(batch, exponent, tau, eps):
    scaled_tau = min(max(math.ldexp(tau, max(min(2 * exponent, 1020), -1074)), 5e-324), MAX)
    assert_matches(np.ldexp(batch[0], exponent), np.ldexp(batch[1], exponent), scaled_tau, eps)


def test_contract_formula_of_the_gradient():
    """The contract's own form, (x_i - y_i) - sum_j p_ij (x_i - y_j), with 600 bits for its cancellation."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 6, 2))
    exact = Exact(x, y, 0.5, 1e-3)
    gx, gy = concordance_loss_nce_gradient(x, y, 0.5, eps=1e-3)
    for i in range(6):
        for k in range(2):
            row = (
                mpmath.mpf(x[i, k])
                - y[i, k]
                - sum(exact.p[i][j] * (mpmath.mpf(x[i, k]) - y[j, k]) for j in range(6))
            )
            column = sum(exact.p[j][i] * (mpmath.mpf(x[j, k]) - y[i, k]) for j in range(6)) - (
                mpmath.mpf(x[i, k]) - y[i, k]
            )
            assert ulps(gx[i, k], 2 * row / (6 * mpmath.mpf(0.5))) <= 1.0
            assert ulps(gy[i, k], 2 * column / (6 * mpmath.mpf(0.5))) <= 1.0


def test_derivative_of_the_value():
    """Gradient against an exact central difference of the 600-bit value."""
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(2, 4, 2))
    gx, gy = concordance_loss_nce_gradient(x, y, 0.7, eps=1e-3, reduction="sum")
    step = Fraction(1, 2**80)
    for side, gradient in ((0, gx), (1, gy)):
        for i, k in ((0, 0), (3, 1)):
            ends = []
            for sign in (1, -1):
                moved = [[[Fraction(v) for v in row] for row in part] for part in (x, y)]
                moved[side][i][k] += sign * step
                ends.append(sum(Exact(*moved, 0.7, 1e-3).values))
            assert ulps(gradient[i, k], (ends[0] - ends[1]) / (2 * mpf(step))) <= 1.0


@given(batches(st.floats(-3.0, 3.0)), st.data())
def test_cotangent_of_rows(batch, data):
    x, y = batch
    cotangent = np.array(data.draw(st.lists(st.floats(-2.0, 2.0), min_size=len(x), max_size=len(x))))
    gradients = concordance_loss_nce_gradient(x, y, 0.3, reduction="none", cotangent=cotangent)
    terms = Exact(x, y, 0.3, 1e-8).gradients([Fraction(c) for c in cotangent])
    for got, parts in zip(gradients, terms, strict=True):
        assert_gradient(got, parts)


def test_textbook_single_pair_is_zero():
    assert concordance_loss_nce([1e300], [-1e300], 5e-324, eps=0.0) == 0.0
    assert concordance_loss_nce_gradient([1e300], [-1e300], 5e-324, eps=0.0) == (0.0, 0.0)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (4, 0)])
def test_nothing_counts(shape):
    x = np.zeros(shape)
    assert concordance_loss_nce(x, x) == 0.0
    assert concordance_loss_nce(x, x, reduction="none").tolist() == [0.0] * shape[0]
    assert [g.shape for g in concordance_loss_nce_gradient(x, x)] == [shape, shape]


def test_saturation_and_overflow():
    assert concordance_loss_nce([0.0, 1e200], [1e200, 0.0], 1e-3) == MAX
    gx, gy = concordance_loss_nce_gradient([0.0, 1e300], [1e300, 0.0], 1e-300)
    assert gx.tolist() == [-math.inf, math.inf]
    assert gy.tolist() == [math.inf, -math.inf]


def test_features_are_flattened():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(2, 5, 2, 3))
    flat = concordance_loss_nce_gradient(x.reshape(5, 6), y.reshape(5, 6))
    assert concordance_loss_nce(x, y) == concordance_loss_nce(x.reshape(5, 6), y.reshape(5, 6))
    for whole, part in zip(concordance_loss_nce_gradient(x, y), flat, strict=True):
        assert np.array_equal(whole.reshape(5, 6), part)


def test_non_finite_rows():
    x, y = np.array([0.0, 1.0, 2.0]), np.array([0.5, 1.0, 2.5])
    clean = concordance_loss_nce(x, y, reduction="none")
    x[1] = math.nan
    rows = concordance_loss_nce(x, y, reduction="none")
    assert np.isnan(rows).tolist() == [False, True, False]
    assert (rows[[0, 2]] == clean[[0, 2]]).all()
    assert math.isnan(concordance_loss_nce(x, y))
    gx, gy = concordance_loss_nce_gradient(x, y)
    assert np.isnan(gx).tolist() == [False, True, False]
    assert np.isnan(gy).all()
    assert np.isnan(concordance_loss_nce(y, x, reduction="none")).all()


def test_nan_is_not_lost_beside_what_is_beyond_the_range():
    for reduction in ("mean", "sum"):
        assert math.isnan(concordance_loss_nce([1e200, math.nan], [0.0, 1.0], 1.0, reduction=reduction))


def test_one_number_makes_a_row_non_finite():
    x, y = np.zeros((3, 2)), np.ones((3, 2))
    x[1, 0] = math.inf
    assert np.isnan(concordance_loss_nce(x, y, reduction="none")).tolist() == [False, True, False]
    batch = {"r1": {"reads": [1.0, 2.0]}, "r2": {"reads": [1.0, 2.0]}}
    outputs = {"r1": {"mu": [math.nan, 0.0]}, "r2": {"mu": 0.0}}
    rows = concordance_loss_nce_wrapper(outputs, batch, reduction="none")
    assert np.isnan(rows).tolist() == [True, False]


def test_wrapper_is_exact_in_the_residual():
    """Residuals reads - mu that float64 cannot hold."""
    reads = [np.array([3.0, 1e16, 7.0]), np.array([2.0, 1e16, 9.0])]
    mu = [np.array([[0.1], [0.3], [1e-30]]), np.array(0.7)]
    outputs = {"r1": {"mu": mu[0], "r": np.ones((3, 1))}, "r2": {"mu": mu[1], "r": np.array(2.0)}}
    batch = {"r1": {"reads": reads[0]}, "r2": {"reads": reads[1][:, None]}}
    x = [[Fraction(a) - Fraction(b)] for a, b in zip(reads[0], mu[0][:, 0], strict=True)]
    y = [[Fraction(a) - Fraction(0.7)] for a in reads[1]]
    exact = Exact(x, y, 0.5, 1e-8)
    got = concordance_loss_nce_wrapper(outputs, batch, tau=0.5)
    assert ulps(got, sum(exact.values) / 3) <= 1.0
    gradient = concordance_loss_nce_wrapper_gradient(outputs, batch, tau=0.5)
    terms, other = exact.gradients([Fraction(1, 3)] * 3)
    assert gradient["r1"]["mu"].shape == (3, 1)
    assert_gradient(-gradient["r1"]["mu"], terms)
    assert gradient["r2"]["mu"].shape == ()
    assert_gradient([[-float(gradient["r2"]["mu"])]], [[[sum(t) for [t] in other]]], limit=3.0)
    assert gradient["r1"]["r"].tolist() == [[0.0]] * 3
    assert gradient["r2"]["r"].shape == ()


def wrapped(reads_r1, reads_r2):
    """The wrapper's value where both mu are 0."""
    batch = {"r1": {"reads": reads_r1}, "r2": {"reads": reads_r2}}
    return concordance_loss_nce_wrapper({"r1": {"mu": 0.0}, "r2": {"mu": 0.0}}, batch)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: concordance_loss_nce([1.0], [1.0], 0.0), ValueError, "tau"),
        (lambda: concordance_loss_nce([1.0], [1.0], math.inf), ValueError, "tau"),
        (lambda: concordance_loss_nce([1.0], [1.0], math.nan), ValueError, "tau"),
        (lambda: concordance_loss_nce([1.0], [1.0], eps=-1e-9), ValueError, "eps"),
        (lambda: concordance_loss_nce([1.0], [1.0], eps="a"), TypeError, "eps"),
        (lambda: concordance_loss_nce([1.0], [1.0], reduction="batch_mean"), ValueError, "reduction"),
        (lambda: concordance_loss_nce([[1.0]], [1.0]), ValueError, r"\(1, 1\) and \(1,\)"),
        (lambda: concordance_loss_nce(1.0, 1.0), ValueError, "batch axis"),
        (lambda: concordance_loss_nce([True], [1.0]), TypeError, "res1"),
        (lambda: concordance_loss_nce_gradient([1.0], [1.0], cotangent=[1.0]), ValueError, "cotangent"),
        (lambda: concordance_loss_nce_wrapper({}, {}, temperature=1.0), TypeError, "temperature"),
        (lambda: concordance_loss_nce_wrapper({"r1": {}}, {}), KeyError, "mu"),
        (lambda: wrapped([1.0, 2.0], [1.0]), ValueError, r"\['r2'\]\['reads'\] .* \(2,\) and \(1,\)"),
        (lambda: wrapped(1.0, 1.0), ValueError, "batch axis"),
    ],
)
def test_refusals(call, error, words):
    with pytest.raises(error, match=words):
        call()
