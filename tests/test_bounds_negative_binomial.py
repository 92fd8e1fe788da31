"""The bounds of the negative binomial: a direct float32 evaluation stays within them and comes near them."""

import math

import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl.bounds.negative_binomial import (
    negative_binomial_cdf,
    negative_binomial_log_pmf,
    negative_binomial_sf,
    poisson_cdf,
)
from refimpl.bounds.precision import error_ratio, precision
from refimpl.negative_binomial import negative_binomial_log_pmf as exact_log_pmf
from refimpl.negative_binomial import (
    negative_binomial_log_pmf_gradient,
    negative_binomial_partials,
)
from tests.budget import examples
from tests.direct.negative_binomial import distribution, log_mass

SINGLE = precision("float32")
LARGEST = SINGLE.work_max
f32 = np.float32
# a bound that no direct evaluation ever uses to this share says nothing
SHARP = 0.05


def phi(z, one_plus_z):
    w = z / (f32(2) + z)
    series = sum((f32(1) / f32(2 * j + 3) * w ** f32(2 * j) for j in range(12)), f32(0))
    small = z * w - f32(2) * w**3 * series
    return np.where(np.abs(z) <= 0.4, small, z - np.log(one_plus_z))


def stirling_error(z):
    """log Gamma(z) - (z - 1/2) log z + z - log(2 pi)/2, the float32 nearest to it."""
    z = z.astype(np.float64)
    return (scipy.special.gammaln(z) - (z - 0.5) * np.log(z) + z - 0.5 * math.log(2 * math.pi)).astype(f32)


def deviance(b, mu, r):
    s, difference = r + mu, mu - b
    first = r * phi(-difference / s, (r + b) / s)
    return first + b * phi((r / s) * difference / b, (r + b) / s * mu / b)


def direct(k, mu, r):
    """F, S, dF/dmu for k >= 1, r >= 1 in float32: prefactor times a sum of positive terms, from its end."""
    b = k + f32(1)
    c, s = r + b, r + mu
    corrections = stirling_error(c) - stirling_error(b) - stirling_error(r)
    prefactor = np.sqrt(b / (f32(2 * math.pi) * c)) * np.sqrt(r) * np.exp(-deviance(b, mu, r) + corrections)
    above = np.ones_like(mu)
    for j in range(400, 0, -1):  # S = prefactor / b (1 + q (b+r)/(b+1) (1 + ...))
        at = b + f32(j - 1)
        above = f32(1) + mu / s * (at + r) / (at + f32(1)) * above
    below = np.ones_like(mu)
    for j in range(int(k.max())):  # F = p_k (1 + k / (q (k-1+r)) (1 + ...))
        at = f32(j + 1)
        used = (at <= k) & (b <= mu)
        below = np.where(
            used, f32(1) + at * s / (mu * (at - f32(1) + r)) * np.where(used, below, f32(1)), below
        )
    with np.errstate(over="ignore", invalid="ignore"):  # of the sum that is not used
        S, F = prefactor / b * above, prefactor * s / (mu * (k + r)) * below
    beyond = b > mu
    return np.where(beyond, f32(1) - S, F), np.where(beyond, S, f32(1) - F), -prefactor / mu


def points(count, seed):
    generator = np.random.default_rng(seed)
    mu, r = (10 ** generator.uniform(*ends, count) for ends in ((-1.5, 1.5), (0.0, 2.0)))
    k = np.maximum(np.floor(mu * 10 ** generator.uniform(-1.0, 0.7, count)), 1.0)
    return k.astype(f32), mu.astype(f32), r.astype(f32)


def test_direct_float32_is_within_and_comes_near():
    k, mu, r = points(2000, 3)
    F, S, _, slope_mu, _ = negative_binomial_partials(k, mu, r)
    of_cdf, of_sf = negative_binomial_cdf(k, mu, r, SINGLE), negative_binomial_sf(k, mu, r, SINGLE)
    got_F, got_S, got_mu = direct(k, mu, r)
    for got, exact, bound in (
        (got_F, F, of_cdf.value),
        (got_S, S, of_sf.value),
        (got_mu, slope_mu, of_cdf.gradient[0]),
    ):
        ratios = error_ratio(got, exact, bound, LARGEST)
        assert SHARP <= ratios.max() <= 1.0
    for got, tail, bound in ((got_F, F, of_cdf.value), (got_S, S, of_sf.value)):
        small = tail < 0.01  # where the rounding of 1 - T plays no part
        assert small.sum() > 50
        assert error_ratio(got, tail, bound, LARGEST)[small].max() >= SHARP


def test_no_reads_float32_is_within_and_comes_near():
    _, mu, r = points(2000, 4)
    k = np.zeros_like(mu)
    F, S, _, slope_mu, slope_r = negative_binomial_partials(k, mu, r)
    exponent, y = r * np.log1p(mu / r), mu / (mu + r)
    got_F = np.exp(-exponent)
    got = (got_F, -np.expm1(-exponent), -got_F * (r / (r + mu)), -got_F * phi(-y, r / (r + mu)))
    of_cdf, of_sf = negative_binomial_cdf(k, mu, r, SINGLE), negative_binomial_sf(k, mu, r, SINGLE)
    for found, exact, bound in zip(
        got, (F, S, slope_mu, slope_r), (of_cdf.value, of_sf.value, *of_cdf.gradient), strict=True
    ):
        ratios = error_ratio(found, exact, bound, LARGEST)
        assert SHARP <= ratios.max() <= 1.0


def test_log_mass_float32_is_within_and_comes_near():
    k, mu, r = points(2000, 5)
    bound = negative_binomial_log_pmf(k, mu, r, SINGLE)
    spread = f32(0.5) * np.log(r / (f32(2 * math.pi) * k * (k + r)))
    corrections = stirling_error(k + r) - stirling_error(k) - stirling_error(r)
    ratios = error_ratio(
        -deviance(k, mu, r) + spread + corrections, exact_log_pmf(k, mu, r), bound.value, LARGEST
    )
    assert SHARP <= ratios.max() <= 1.0
    g_mu, g_r = negative_binomial_log_pmf_gradient(k, mu, r)
    got_mu = r * (k - mu) / (mu * (mu + r))
    r64, k64 = r.astype(np.float64), k.astype(np.float64)
    h = (np.log(r64) - scipy.special.digamma(r64)) - (np.log(r64 + k64) - scipy.special.digamma(r64 + k64))
    got_r = h.astype(f32) - phi((k - mu) / (mu + r), (k + r) / (mu + r))
    for got, exact, allowed in ((got_mu, g_mu, bound.gradient[0]), (got_r, g_r, bound.gradient[1])):
        ratios = error_ratio(got, exact, allowed, LARGEST)
        assert SHARP <= ratios.max() <= 1.0


def test_score_without_mean_float32_is_within_and_comes_near():
    """At mu = 0 < k the derivative of log p in r is a difference of two terms, h(r) - h(r+k) and phi(k/r)."""
    k, _, r = points(2000, 7)
    r64, k64 = r.astype(np.float64), k.astype(np.float64)
    h = (np.log(r64) - scipy.special.digamma(r64)) - (np.log(r64 + k64) - scipy.special.digamma(r64 + k64))
    zero = np.zeros_like(k)
    exact = negative_binomial_log_pmf_gradient(k, zero, r)[1]
    bound = negative_binomial_log_pmf(k, zero, r, SINGLE)
    ratios = error_ratio(h.astype(f32) - phi(k / r, (r + k) / r), exact, bound.gradient[1], LARGEST)
    assert SHARP <= ratios.max() <= 1.0
    assert not bound.value.any(), "-inf is exact"
    assert negative_binomial_log_pmf([3.0], [0.0], [math.inf], SINGLE).gradient[1] == 0.0


def test_a_tail_that_underflows_takes_its_share_of_the_gradient_in_r():
    """T rounded to float32's subnormals before the score multiplies it, and nothing else wrong."""
    r = (10 ** np.linspace(-44.5, -39.0, 200)).astype(f32)
    k, mu = np.full_like(r, 3.0), r * f32(3.0)
    _, S, _, _, slope_r = negative_binomial_partials(k, mu, r)
    lost = (S - S.astype(f32)) / r  # the score is 1/r to twelve digits
    bound = negative_binomial_cdf(k, mu, r, SINGLE).gradient[1]
    assert SHARP <= error_ratio(slope_r + lost, slope_r, bound, LARGEST).max() <= 1.0
    normal = negative_binomial_cdf([3.0], [3e-30], [1e-30], SINGLE).gradient[1]
    assert normal[0] < 1e-4 * abs(negative_binomial_partials([3.0], [3e-30], [1e-30])[4][0])


def test_a_factor_that_underflows_takes_its_share_of_the_slope_of_the_log():
    k, mu, r = np.full(50, 2.0), np.geomspace(1e-6, 1e-3, 50), np.full(50, 5e-324)
    exact = negative_binomial_log_pmf_gradient(k, mu, r)[0]
    got = (k - mu) / mu * (r / (mu + r))
    bound = negative_binomial_log_pmf(k, mu, r, precision("float64")).gradient[0]
    assert SHARP <= error_ratio(got, exact, bound, math.inf).max() <= 1.0


@pytest.mark.parametrize(
    ("k", "mu", "r"),
    [
        (2.0, 1.797e308, 1.0),
        (1.0, 1.797e308, 1.0),
        (39.0, 1.797e308, 1.797e308),
        (2.0, 6.9e307, 8.3e306),
        (60.0, 4e-314, 3e-316),
        (3.0, 8e278, 3e-320),
        (2.0, 1.0, 1e300),
        (0.0, 1e300, 1e-300),
    ],
)
def test_the_ends_of_the_range_have_bounds_of_the_usual_size(k, mu, r):
    """Nothing on the way to a bound overflows or underflows: each is its number times 1e-16 ... 1e-11.

    Only a subnormal mass has lost digits, which the tail above it inherits.
    """
    double = precision("float64")
    F, S, mass, _, _ = negative_binomial_partials(k, mu, r)
    tiny = 64.0 * 5e-324 * max(1.0, float(min(F, S) / mass) if mass > 0.0 else 1.0)
    of_cdf, of_sf = negative_binomial_cdf(k, mu, r, double), negative_binomial_sf(k, mu, r, double)
    of_log = negative_binomial_log_pmf(k, mu, r, double)
    for exact, bound in (
        (F, of_cdf.value),
        (S, of_sf.value),
        (exact_log_pmf(k, mu, r), of_log.value),
    ):
        size = abs(float(exact))
        assert size * 2.0**-53 <= bound <= size * 1e-11 + tiny


def test_gradient_in_r_by_differences_of_scores_is_too_far():
    """dF/dr as -(F log-term) + ...: two terms of size 1/r cancel to 1/r^2 where r >> mu."""
    mu, r, k = f32([2.0]), f32([1e6]), f32([0.0])
    _, _, _, _, slope_r = negative_binomial_partials(k, mu, r)
    naive = np.exp(-r * np.log1p(mu / r)) * (mu / (r + mu) - np.log1p(mu / r))
    assert (
        error_ratio(naive, slope_r, negative_binomial_cdf(k, mu, r, SINGLE).gradient[1], LARGEST).max() > 1.0
    )


def test_swapped_probability_is_too_far():
    """The table of the distribution with probs = r/(r+mu) belongs to the mean r^2/mu."""
    k, mu, r = np.array([4.0]), np.array([7.0]), np.array([2.0])
    j = np.arange(k[0] + 1)
    p = r / (r + mu)
    logs = scipy.special.gammaln(j + r) - scipy.special.gammaln(r) - scipy.special.gammaln(j + 1)
    table = np.exp(logs + j * np.log(p) + r * np.log1p(-p)).sum()
    bound = negative_binomial_cdf(k, mu, r, SINGLE).value
    assert error_ratio(table, negative_binomial_partials(k, mu, r)[0], bound, LARGEST)[0] > 1e4


def test_large_parameters_by_lgamma_are_too_far():
    """At 1e5 lgamma loses what the deviance keeps, also in float64."""
    k, mu, r = np.array([1.001e5]), np.array([1e5]), np.array([1e5])
    log_p = scipy.special.gammaln(k + r) - scipy.special.gammaln(r) - scipy.special.gammaln(k + 1)
    log_p += k * np.log(mu / (mu + r)) - r * np.log1p(mu / r)
    bound = negative_binomial_log_pmf(k, mu, r, precision("float64")).value
    assert error_ratio(log_p, exact_log_pmf(k, mu, r), bound, LARGEST)[0] > 1.0


def test_survival_by_subtraction_is_too_far():
    F, S, *_ = negative_binomial_partials([60.0], 5.0, 5.0)
    bound = negative_binomial_sf([60.0], 5.0, 5.0, precision("float64")).value
    assert error_ratio(1.0 - F, S, bound, LARGEST)[0] > 1.0


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "float64"])
@settings(max_examples=examples(25))
@given(
    k=st.integers(-1, 60),
    mu=st.floats(0.0, 1e300, exclude_min=False),
    r=st.floats(5e-324, 1e300) | st.just(math.inf),
)
def test_bounds_are_numbers(name, k, mu, r):
    for function in (negative_binomial_cdf, negative_binomial_sf, negative_binomial_log_pmf):
        bound = function(float(k), mu, r, precision(name))
        for part in (bound.value, *bound.gradient):
            assert part >= 0.0
    if k >= 0 and mu > 0.0:
        assert negative_binomial_cdf(float(k), mu, r, precision(name)).value > 0.0


def test_half_precision_counts_the_last_rounding():
    k, mu, r = points(200, 6)
    F = negative_binomial_partials(k, mu, r)[0]
    ratios = error_ratio(
        F.astype(np.float16), F, negative_binomial_cdf(k, mu, r, precision("float16")).value, 65504.0
    )
    assert SHARP <= ratios.max() <= 1.0


def test_poisson_bound_is_the_limit():
    bound, limit = poisson_cdf([3.0], [2.0], SINGLE), negative_binomial_cdf([3.0], [2.0], math.inf, SINGLE)
    assert bound.value == limit.value
    assert len(bound.gradient) == 1
    near = negative_binomial_cdf([3.0], [2.0], [1e30], SINGLE)
    assert (
        abs(near.value - bound.value) <= 1e-3 * bound.value
    )  # the same formulas, not a tolerance of a result


def test_the_log_of_a_small_dispersion_pays_for_its_additions():
    """At r = 2e-4 log sqrt and the Stirling error of r are both near -5: two additions round their sum."""
    k, mu, r = (np.array([part]) for part in (1.0, 3.584013579090362, 0.00022651423126057992))
    bound = negative_binomial_log_pmf(k, mu, r, precision("float64")).value
    error = abs(log_mass(k, mu, r)[0] - exact_log_pmf(k, mu, r))
    deviance_alone = 2.0**-53 * (4.0 * 5.1 + 8.0)  # 4 |log sqrt| + 8, without them
    assert deviance_alone < error <= bound


def test_the_series_pays_for_what_cancels_in_it():
    """F = P (1 + r A) with 1 + r A = 1/7: an error of A counts seven times, and more in dF/dr."""
    k, mu, r = f32([71.0]), f32([22.820369720458984]), f32([1.4578417539596558])
    slope = distribution(k, mu, r)[3]
    exact = negative_binomial_partials(k, mu, r)[4]
    bound = negative_binomial_cdf(k, mu, r, SINGLE).gradient[1]
    assert 100.0 * 2.0**-24 * abs(exact) < abs(slope - exact) <= bound


def test_a_bound_of_a_small_result_does_not_underflow():
    """u F is 0 for F = 1.7e-308, and F comes from a logarithm near -709: hundreds of u, each a share of F."""
    F = negative_binomial_partials([2.0], 1.797e308, 1.0)[0]
    assert (
        negative_binomial_cdf([2.0], 1.797e308, 1.0, precision("float64")).value[0] > 709.0 * 2.0**-53 * F[0]
    )
