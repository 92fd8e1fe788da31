"""The negative-binomial oracle against Arb, mpmath, exact dyadic values, stored MPFR points and itself."""

import csv
import math
from pathlib import Path

import flint
import mpmath
import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from refimpl.bounds.negative_binomial import distribution_errors
from refimpl.bounds.precision import precision
from refimpl.negative_binomial import (
    negative_binomial_cdf,
    negative_binomial_cdf_gradient,
    negative_binomial_log_pmf,
    negative_binomial_log_pmf_gradient,
    negative_binomial_partials,
    negative_binomial_pmf,
    negative_binomial_sf,
    negative_binomial_sf_gradient,
    poisson_cdf,
    poisson_cdf_gradient,
)
from refimpl.negative_binomial_sums import MAX_TERMS, sum_from_mode, sum_from_zero
from refimpl.negative_binomial_terms import tail_vanishes
from refimpl.scaled import sc_log, sc_pair
from tests.budget import examples

POINTS = Path(__file__).parent / "data" / "negative_binomial_points.csv"
BITS = 192


def log_uniform(low: float, high: float):
    return st.floats(math.log10(low), math.log10(high)).map(lambda exponent: 10.0**exponent)


REALISTIC = st.tuples(st.integers(0, 300), log_uniform(0.05, 500.0), log_uniform(0.1, 100.0))
WIDE = st.tuples(log_uniform(1.0, 300.0).map(math.floor), log_uniform(1e-8, 1e8), log_uniform(1e-6, 1e8))
EXTREME = st.tuples(st.integers(0, 30), log_uniform(1e-300, 1e300), log_uniform(1e-300, 1e300))
ANY = st.floats(5e-324, 1.7976931348623157e308) | st.integers(-1074, 1023).map(lambda n: math.ldexp(1.5, n))
WHOLE_RANGE = st.tuples(st.integers(0, 60), ANY, ANY)
# where something overflows, underflows or cancels wholly
CORNERS = [
    (0, 1e-8, 5e-324),
    (0, 1e300, 1e-300),
    (0, 1.797e308, 0.3),
    (0, 5e-324, 5e-324),
    (1, 1e-310, 1e300),
    (1, 1e-300, 1e100),
    (2, 1.84e-155, 1e-16),
    (2, 1.797e308, 1.0),
    (2, 5e-324, 1e-310),
    (2, 1e-310, 1e-310),
    (2, 5e-324, 5e-324),
    (11, 1e-30, 1e-31),
    (60, 1e-310, 1e-310),
    (60, 1.7976931348623157e308, 1.7976931348623157e308),
    # dF/dr vanishes in the Poisson limit at mu = k, the score at (k - mu)^2 = k
    (1, 1.0, 1e16),
    (1, 1.0, 9.78e89),
    (4, 4.0, 1e300),
    (4, 2.0, 1e16),
    (9, 12.0, 1e60),
    (60, 60.0, 1e20),
    (2000, 2000.0, 1e30),
    (5000, 5000.0, 1e16),
    # exp(-380): next to so large an r the ratio (k + r)/(mu + r) rounds to 1
    (4000, 2500.0, 2.0**70),
]


def ulps(got: float, true: mpmath.mpf) -> float:
    """Distance in units of the true number's last place (of the smallest subnormal where it is tiny)."""
    if true == 0:
        return 0.0 if got == 0.0 else math.inf
    if abs(true) >= mpmath.mpf(2) ** 1024 - mpmath.mpf(2) ** 970:  # rounds to inf
        return 0.0 if math.isinf(got) and (got > 0.0) == (true > 0) else math.inf
    place = (
        mpmath.mpf(math.ulp(float(true))) if abs(true) > mpmath.mpf(2) ** -1074 else mpmath.mpf(2) ** -1074
    )
    return float(abs(mpmath.mpf(got) - true) / place)


@pytest.fixture(autouse=True)
def _digits():
    with mpmath.workprec(BITS), flint.ctx.workprec(BITS):
        yield


def working_bits(mu: float, r: float) -> int:
    """Bits for a reference that loses the ratio of mu and r twice, and the size of the result once."""
    return 1500 + 4 * int(abs(math.log2(mu)) + abs(math.log2(r)))


def arb_tails(k: int, mu: float, r: float) -> tuple[flint.arb, flint.arb]:
    """F and S as balls, each from the direct integral: I_x(r, k+1) and I_y(k+1, r)."""
    a, b = flint.arb(r), flint.arb(k + 1)
    total = a + flint.arb(mu)
    F = (a / total).beta_lower(a, b, regularized=True)
    S = (flint.arb(mu) / total).beta_lower(b, a, regularized=True)
    return F, S


def arb_ulps(got: float, ball: flint.arb, complement: flint.arb) -> float | None:
    """Distance from the better ball of this tail and of one minus the other; None: neither is narrow."""
    candidates = [part for part in (ball, 1 - complement) if part.is_finite()]
    if not candidates:
        return None
    best = min(candidates, key=lambda part: float(part.rad()))
    place = max(math.ulp(float(best.mid())), 2.0**-1074)
    if float(best.rad()) > place / 1000:
        return None
    return float(abs(flint.arb(got) - best).mid()) / place


def exact_gradients(k: int, mu: float, r: float) -> tuple[mpmath.mpf, mpmath.mpf]:
    """dF/dmu and dF/dr by summing mass and score with mpmath."""
    mu, r = mpmath.mpf(mu), mpmath.mpf(r)
    total = mu + r
    mass = mpmath.exp(-r * mpmath.log1p(mu / r))
    score = mu / total - mpmath.log1p(mu / r)
    slope_r = mass * score
    for j in range(k):
        mass *= (j + r) / (j + 1) * mu / total
        score += (mu - j) / ((j + r) * total)
        slope_r += mass * score
    return -mass * (k + r) / total, slope_r


def exact_log_mass(k: int, mu: float, r: float) -> tuple[mpmath.mpf, mpmath.mpf, mpmath.mpf]:
    """log p and its derivatives from the product that the rising factorial is."""
    mu, r = mpmath.mpf(mu), mpmath.mpf(r)
    rising = mpmath.fprod((r + j) / (j + 1) * (mu / (mu + r)) for j in range(k))
    value = mpmath.log(rising) - r * mpmath.log1p(mu / r)
    slope_mu = r * (k - mu) / (mu * (mu + r))
    slope_r = mpmath.fsum(1 / (r + j) for j in range(k)) - mpmath.log1p(mu / r) + (mu - k) / (mu + r)
    return value, slope_mu, slope_r


def exact_tails(k: int, mu: float, r: float) -> tuple[mpmath.mpf, mpmath.mpf, mpmath.mpf]:
    """F, S and the mass by summing with more digits than the range of float64 can cancel."""
    mu, r = mpmath.mpf(mu), mpmath.mpf(r)
    log_zero = -r * mpmath.log1p(mu / r)
    F = mass = mpmath.exp(log_zero)
    for j in range(k):
        mass *= (j + r) / (j + 1) * mu / (mu + r)
        F += mass
    return F, 1 - F if k else -mpmath.expm1(log_zero), mass


def assert_one_ulp(k: int, mu: float, r: float) -> None:
    """All eight quantities of one point against mpmath."""
    F, S, mass, slope_mu, slope_r = (float(part) for part in negative_binomial_partials(float(k), mu, r))
    log_p = float(negative_binomial_log_pmf(float(k), mu, r))
    log_slopes = [float(part) for part in negative_binomial_log_pmf_gradient(float(k), mu, r)]
    with mpmath.workprec(working_bits(mu, r)):
        true = (*exact_tails(k, mu, r), *exact_gradients(k, mu, r), *exact_log_mass(k, mu, r))
        names = ("F", "S", "mass", "dF/dmu", "dF/dr", "log p", "dlog p/dmu", "dlog p/dr")
        got = (F, S, mass, slope_mu, slope_r, log_p, *log_slopes)
        for name, mine, wanted in zip(names, got, true, strict=True):
            assert ulps(mine, wanted) <= 1.0, (name, mine, mpmath.nstr(wanted, 20))


@pytest.mark.parametrize("corner", CORNERS, ids=str)
def test_corners_are_right_to_one_ulp(corner):
    assert_one_ulp(*corner)


@settings(max_examples=examples(60))
@given(WHOLE_RANGE)
def test_the_whole_range_is_right_to_one_ulp(point):
    assert_one_ulp(*point)


@settings(max_examples=examples(30))
@given(st.integers(1, 300), st.integers(8, 1000))
def test_slope_in_r_at_its_poisson_zero(k, exponent):
    assert_one_ulp(k, float(k), 2.0**exponent)


def test_the_way_from_the_mode_keeps_the_slope_at_its_poisson_zero():
    for k, mu, r in ((400.0, 400.0, 1e14), (400.0, 380.0, 1e30), (2000.0, 2000.0, 1e200)):
        one, other = sum_from_zero(k, mu, r, MAX_TERMS), sum_from_mode(k, mu, r, MAX_TERMS)
        for row in (4, 5):
            (a, a_low), (b, b_low) = sc_pair(one[row]), sc_pair(other[row])
            assert abs((a - b) + (a_low - b_low)) <= 2.0**-10 * math.ulp(b)


def numbers_or_none(function, *point):
    """What function gives; None if it refuses the point by naming MAX_TERMS."""
    try:
        return np.asarray(function(*point))
    except ValueError as error:
        if "MAX_TERMS" not in str(error):
            raise
        return None


@pytest.mark.parametrize("k", [0.0, 60.0, 1e6, 1e16, 1e300])
@given(mu=ANY, r=ANY | st.just(math.inf))
def test_numbers_or_a_refusal(k, mu, r):
    """Finite valid input never gives NaN; what cannot be summed is refused by name."""
    for function in (negative_binomial_partials, negative_binomial_log_pmf_gradient):
        got = numbers_or_none(function, k, mu, r)
        assert got is None or not np.isnan(got).any()


def feasible(k: int, mu: float, r: float):
    try:
        return [float(part) for part in negative_binomial_partials(float(k), mu, r)]
    except ValueError as error:
        if "MAX_TERMS" not in str(error):
            raise
        assume(False)


@pytest.mark.parametrize("points", [REALISTIC, WIDE, EXTREME], ids=["realistic", "wide", "extreme"])
def test_both_tails_are_right_to_one_ulp(points):
    seen = []

    @settings(max_examples=examples(30))
    @given(points)
    def check(point):
        k, mu, r = point
        F, S, *_ = feasible(k, mu, r)
        ball_F, ball_S = arb_tails(k, mu, r)
        for got, ball, other in ((F, ball_F, ball_S), (S, ball_S, ball_F)):
            distance = arb_ulps(got, ball, other)
            if distance is not None:
                assert distance <= 1.0
                seen.append(distance)

    check()
    assert len(seen) >= 30, "Arb gave too few balls for this to be a test"


@settings(max_examples=examples(30))
@given(st.one_of(REALISTIC, WIDE, EXTREME))
def test_gradients_are_right_to_one_ulp(point):
    k, mu, r = point
    _, _, _, slope_mu, slope_r = feasible(k, mu, r)
    with mpmath.workprec(working_bits(mu, r)):
        true_mu, true_r = exact_gradients(k, mu, r)
    assert ulps(slope_mu, true_mu) <= 1.0
    assert ulps(slope_r, true_r) <= 1.0


@settings(max_examples=examples(50))
@given(st.one_of(REALISTIC, WIDE, EXTREME))
def test_log_mass_is_right_to_one_ulp(point):
    k, mu, r = point
    got = [float(negative_binomial_log_pmf(float(k), mu, r))]
    got += [float(part) for part in negative_binomial_log_pmf_gradient(float(k), mu, r)]
    with mpmath.workprec(working_bits(mu, r)):
        true = exact_log_mass(k, mu, r)
    for mine, wanted in zip(got, true, strict=True):
        if abs(wanted) < 1e308:
            assert ulps(mine, wanted) <= 1.0


@given(st.integers(0, 60), log_uniform(1e-3, 1e3))
def test_poisson_limit(k, rate):
    with mpmath.workprec(4000):
        rate_ = mpmath.mpf(rate)
        true = mpmath.exp(-rate_) * mpmath.fsum(rate_**j / mpmath.factorial(j) for j in range(k + 1))
        slope = -mpmath.exp(-rate_) * rate_**k / mpmath.factorial(k)
    assert ulps(float(poisson_cdf(float(k), rate)), true) <= 1.0
    assert ulps(float(poisson_cdf_gradient(float(k), rate)[0]), slope) <= 1.0
    assert float(negative_binomial_cdf_gradient(float(k), rate, math.inf)[1]) == 0.0
    assert float(negative_binomial_cdf(float(k), rate, 1e60)) == float(poisson_cdf(float(k), rate))


def test_geometric_is_exact():
    """r = 1, mu = 1: p_k = 2^-(k+1), every number of it a float64."""
    k = np.arange(1000.0)
    F, S, mass, slope_mu, _ = negative_binomial_partials(k, 1.0, 1.0)
    assert np.array_equal(S, 2.0 ** -(k + 1))
    assert np.array_equal(F, 1.0 - 2.0 ** -(k + 1))
    assert np.array_equal(mass, 2.0 ** -(k + 1))
    assert np.array_equal(slope_mu, -(k + 1) * 2.0 ** -(k + 2))


def test_stored_points():
    """Points from 580-bit MPFR that cover every region and border of the usual algorithms: bit for bit."""
    with POINTS.open() as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    assert len(rows) >= 200
    k, mu, r = (np.array([float.fromhex(row[name]) for row in rows]) for name in ("k", "mu", "r"))
    F, S, _, slope_mu, slope_r = negative_binomial_partials(k, mu, r)
    for name, got in (("F", F), ("S", S), ("dF_dmu", slope_mu), ("dF_dr", slope_r)):
        true = np.array([float.fromhex(row[name]) for row in rows])
        assert np.array_equal(got, true), name


@given(st.integers(0, 3000), log_uniform(0.1, 2e3), log_uniform(1.0, 1e6))
def test_the_two_ways_to_sum_agree(k, mu, r):
    one, other = sum_from_zero(float(k), mu, r, MAX_TERMS), sum_from_mode(float(k), mu, r, MAX_TERMS)
    assume(one[6] > 0 and other[6] > 0)
    for first, second in zip(one[:5], other[:5], strict=True):
        (a, a_low), (b, b_low) = sc_pair(first), sc_pair(second)
        # double-double: far closer than the last place of float64, unless the parts are subnormal
        assert abs((a - b) + (a_low - b_low)) <= 2.0**-20 * math.ulp(b) + 2.0**-1073


@pytest.mark.parametrize(
    ("way", "point", "needed"),
    [
        (sum_from_zero, (30.0, 12.0, 3.0), 31),
        (sum_from_zero, (200.0, 12.0, 3.0), 559),  # the upper tail is summed by itself
        (sum_from_mode, (30.0, 12.0, 3.0), 402),
        (sum_from_mode, (90.0, 100.0, 50.0), 450),
        (sum_from_mode, (40.0, 20.0, math.inf), 104),
    ],
)
def test_too_few_terms_give_nothing_and_never_a_part(way, point, needed):
    whole = way(*point, MAX_TERMS)
    assert whole[6] == needed
    assert way(*point, needed) == whole
    for limit in (1, int(point[0]), needed // 2, needed - 2):
        assert way(*point, limit)[6] < 0


def test_agreement_with_scipy():
    generator = np.random.default_rng(1)
    mu, r = 10 ** generator.uniform(-1.3, 2.7, 300), 10 ** generator.uniform(-1.0, 2.0, 300)
    k = np.floor(generator.gamma(r, mu / r))
    errors = distribution_errors(k, mu, r, precision("float64")).error
    # p = r/(r+mu) comes rounded: it stands for a mean that is u / (1 - p) = u (1 + r/mu) off, twice
    _, _, _, slope_mu, _ = negative_binomial_partials(k, mu, r)
    rounded = 2.0 * 2.0**-53 * (1.0 + r / mu) * np.abs(mu * slope_mu)
    for got, mine, row in (
        (scipy.stats.nbinom.cdf(k, r, r / (r + mu)), negative_binomial_cdf(k, mu, r), 0),
        (scipy.stats.nbinom.sf(k, r, r / (r + mu)), negative_binomial_sf(k, mu, r), 1),
    ):
        # its prefactor raises two rounded bases (two roundings each) to the powers r and k + 1
        powers = 2.0 * 2.0**-53 * (k + 1 + r) * np.minimum(mine, 1.0 - mine)
        far = np.abs(got - mine) > errors[row] + rounded + powers
        assert not far.any(), (k[far], mu[far], r[far])


@pytest.mark.parametrize(
    ("y", "mu", "r", "F", "slope_mu", "slope_r"),
    [
        (-1.0, 2.0, 3.0, 0.0, 0.0, 0.0),
        (-0.5, 2.0, 3.0, 0.0, 0.0, 0.0),
        (-math.inf, 2.0, 3.0, 0.0, 0.0, 0.0),
        (math.inf, 2.0, 3.0, 1.0, 0.0, 0.0),
        (0.0, 0.0, 3.0, 1.0, -1.0, 0.0),
        (0.9, 0.0, 3.0, 1.0, -1.0, 0.0),
        (1.0, 0.0, 3.0, 1.0, 0.0, 0.0),
        (-1.0, 0.0, 3.0, 0.0, 0.0, 0.0),
        (0.0, 0.0, math.inf, 1.0, -1.0, 0.0),
        (1e300, 2.0, 3.0, 1.0, 0.0, 0.0),
        (1e9, 2.0, 3.0, 1.0, 0.0, 0.0),
        (3.0, 1e9, 1e9, 0.0, 0.0, 0.0),
        (1e308, 1e300, 1e308, 1.0, 0.0, 0.0),
        (1e300, 1e308, 1e308, 0.0, 0.0, 0.0),
        (math.nan, 2.0, 3.0, math.nan, math.nan, math.nan),
        (1.0, math.nan, 3.0, math.nan, math.nan, math.nan),
        (1.0, 2.0, math.nan, math.nan, math.nan, math.nan),
        (1.0, -2.0, 3.0, math.nan, math.nan, math.nan),
        (1.0, 2.0, 0.0, math.nan, math.nan, math.nan),
        (-1.0, 2.0, -3.0, math.nan, math.nan, math.nan),
        (math.inf, math.inf, 3.0, math.nan, math.nan, math.nan),
        (1.0, math.inf, math.inf, math.nan, math.nan, math.nan),
    ],
)
def test_edges(y, mu, r, F, slope_mu, slope_r):
    got = negative_binomial_partials(y, mu, r)
    wanted = (F, 1.0 - F, slope_mu, slope_r)
    np.testing.assert_array_equal([got[0], got[1], got[3], got[4]], wanted)


def test_log_mass_edges():
    y = np.array([-1.0, 0.0, 2.0, math.inf, math.nan])
    np.testing.assert_array_equal(negative_binomial_log_pmf(y, 0.0, 1.0)[:3], [-math.inf, 0.0, -math.inf])
    np.testing.assert_array_equal(negative_binomial_log_pmf(y[3:], 1.0, 1.0), [-math.inf, math.nan])
    g_mu, g_r = negative_binomial_log_pmf_gradient(y[:3], np.zeros(3), np.full(3, 2.0))
    np.testing.assert_array_equal(g_mu, [0.0, -1.0, math.inf])
    np.testing.assert_array_equal(g_r, [0.0, 0.0, -1 / 6])
    np.testing.assert_array_equal(negative_binomial_pmf(y, 1.0, 1.0), [0.0, 0.5, 0.125, 0.0, math.nan])


def test_constant_parameters_get_the_sum():
    y = np.array([0.0, 3.0, 7.0])
    per_element = negative_binomial_cdf_gradient(
        y, np.full(3, 2.0), np.full(3, 0.5), np.array([1.0, 0.0, -2.0])
    )
    summed = negative_binomial_cdf_gradient(y, 2.0, 0.5, np.array([1.0, 0.0, -2.0]))
    survival = negative_binomial_sf_gradient(y, 2.0, 0.5, np.array([1.0, 0.0, -2.0]))
    for elements, total, opposite in zip(per_element, summed, survival, strict=True):
        assert total.shape == ()
        assert abs(total - math.fsum(elements)) <= sum(map(math.ulp, elements))
        assert opposite == -total
        assert elements[1] == 0.0


def test_zero_cotangent_hides_everything():
    g_mu, g_r = negative_binomial_cdf_gradient([math.nan, 1.0], [1.0, 1.0], [1.0, 1.0], [0.0, 1.0])
    assert g_mu[0] == g_r[0] == 0.0
    assert g_mu[1] == -0.25


def test_errors_name_the_element_and_the_shapes():
    with pytest.raises(
        ValueError, match=r"index \(0, 1\) with mu=1e\+16, r=1e\+16, y=1e\+16 .*MAX_TERMS = 200000"
    ):
        negative_binomial_cdf([[1.0, 1e16]], [[1.0, 1e16]], [[1.0, 1e16]])
    with pytest.raises(ValueError, match=r"mu and y must have the same shape, got \(2,\) and \(2, 1\)"):
        negative_binomial_cdf(np.zeros((2, 1)), np.ones(2), 1.0)
    with pytest.raises(TypeError, match="r must hold floats or integers, got dtype bool"):
        negative_binomial_cdf(1.0, 1.0, np.array([True]))


@pytest.mark.parametrize("size", [2.0**1001, 2.0**1023])
def test_a_tail_from_a_huge_mean_outwards_does_not_vanish(size):
    """Chernoff's bound of the tail from the mean on is 1, at the scale where sums would overflow, too."""
    assert not tail_vanishes(size, size, size, 50.0)
    assert tail_vanishes(size, 0.5 * size, size, 50.0)
    assert tail_vanishes(0.25 * size, 0.5 * size, size, 50.0)


@pytest.mark.parametrize("power", [-50, -70, -100])
def test_a_scaled_logarithm_near_one_keeps_its_digits(power):
    for number in ((0.5, 2.0 ** (power - 1), 1), (1.0 - 2.0**-53, 2.0**-53 + 2.0**power, 0)):
        hi, lo = sc_pair(sc_log(number))
        with mpmath.workdps(60):
            exact = mpmath.log1p(mpmath.mpf(2) ** power)
            # a double-double holds 2^-104 of it
            assert abs(mpmath.mpf(hi) + mpmath.mpf(lo) - exact) <= exact * mpmath.mpf(2) ** -96
