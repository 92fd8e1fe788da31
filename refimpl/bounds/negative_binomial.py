"""Error bounds of the negative-binomial distribution functions and their gradients.

They are for an evaluation at O(1) cost in the working precision (unit roundoff u) that follows
`refimpl.bounds.deviance`: T, the smaller of F and S, is the prefactor x^r y^b / B(r, b), b = k + 1, times a
continued fraction or an integral with positive terms, and the larger one is 1 - T. Inputs are exact.

T, k >= 1   u T (48 + E)
            E u: error of the deviance D. Prefactor: two square roots, the exponential, the Stirling errors,
            four products and quotients (16). Continued fraction or quadrature: terms of one sign, 32
            roundings that are not damped.
F, k = 0    u (6 F L + 4 F), and S: u (6 F L + 4 S)
            F = exp(-L), S = -expm1(-L), L = r log1p(mu/r): two roundings of L, and two units in the last
            place, 4 u, for each of the library's functions.
T, r < mu, r < 2 and z = (b + r) x <= 4.5, b = k + 1
            + u r [F (64 + 4 |log z|) + 8 P e^z],  P = x^r / (r B(r, b)) <= 1.13 z^r
            F = P (1 + r A), A = sum of (-x)^n C(k, n) / (n + r), its terms below z^n / (n! (n + r)).
            log P is r times the sum of log z and a difference of two Stirling errors (20 coefficients with
            three operations each). A term of A comes with 5n + 2 roundings (three a step and the two of x),
            their sum with one an addition: 8 e^z in all, which log1p divides by 1 + r A = F / P.
            Gamma(b + r) <= (b + r)^r Gamma(b) (Wendel) and 1 / Gamma(1 + r) <= 1.13 bound P.
F, S        that of T, + u F or u S: the subtraction from one.
dF/dmu      u |dF/dmu| (16 + E): the prefactor over mu. k = 0: -F x, u |dF/dmu| (6 L + 8).
dF/dr       u (T s + |dF/dr|) (96 + E)
            dF/dr = T s - (an integral), s the largest score: each term of T and its derivative, so twice T's
            roundings; near its zero only T s says what is lost. Where the series applies,
            dF/dr = F (log P)' + P (A + r A') adds
            u [F (64 + 4 |log z|) + P e^z (5 z + 14 + 8 r (|log z| + 2))]: a term of A + r A' is at most n + 1
            times one of A and has 5n + 6 roundings, and the error of F counts (log P)' times.
            k = 0: -F phi(-y).

What underflows: every result adds 8 t, t the smallest subnormal, and the rounding to its own format. For
k >= 1, where the prefactor f = A e^-D, A = sqrt(r b / (2 pi (r + b))), or its exponential is subnormal (below
t/u), f is off by t (1 + A): dF/dmu = -f/mu adds that over mu, T = f / (fraction) adds it times T/f, and dF/dr
that times s. Where T itself is subnormal, dF/dr adds 8 t s. What underflows is off by itself at most, so
prefactor and T by no more than twice themselves.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refimpl.bounds.deviance import deviance_error, largest_score, score_term_error
from refimpl.bounds.log_mass import log_mass_errors, log_mass_of_zero
from refimpl.bounds.precision import Array, Bound, Precision
from refimpl.bounds.rows import LARGEST, UNDERFLOWS, Rows, arguments, pulled_back, settled
from refimpl.negative_binomial_tables import (
    LOG_MASS,
    LOG_SLOPE_MU,
    LOG_SLOPE_R,
    MASS,
    SLOPE_MU,
    SLOPE_R,
    F,
    S,
    distribution_table,
)

_SMALLEST = 2.0**-1074


def distribution_errors(y: ArrayLike, mu: ArrayLike, r: ArrayLike, precision: Precision) -> Rows:
    """Errors of F, S, mass, dF/dmu and dF/dr of the flattened elements before the final rounding.

    The row of the mass is that of dF/dmu times its exact factor, which is not used by any loss: it stays 0.
    """
    high, low = distribution_table(y, mu, r)
    exact = high + low
    k, mean, size = arguments(y, mu, r)
    edge = ~(np.isfinite(k) & (k >= 0.0) & (mean > 0.0) & np.isfinite(mean) & (size > 0.0))
    k, mean, size = (np.where(edge, 1.0, part) for part in (k, mean, size))
    error = np.zeros(exact.shape)
    first = k == 0.0
    for row, general in _general(k, mean, size, exact, precision.work_roundoff).items():
        error[row] = np.where(first, 0.0, general)
    for row, special in _at_zero(mean, size, exact, precision.work_roundoff).items():
        error[row] = np.where(first, special, error[row])
    with np.errstate(all="ignore"):
        score = largest_score(k + 1.0, size)
        scale = np.sqrt((k + 1.0) / (2.0 * math.pi) / (1.0 + (k + 1.0) / size))
        share = np.where(np.isinf(size), 1.0, (size / 2.0 + k / 2.0) / (size / 2.0 + mean / 2.0))
    _add_underflow(error, exact, (mean, mean * share), (score, scale), first, precision)
    return settled(Rows(exact, error), edge)


def _add_underflow(
    error: Array,
    exact: Array,
    mean_and_weight: tuple[Array, Array],
    score_and_scale: tuple[Array, Array],
    first: NDArray[np.bool_],
    precision: Precision,
) -> None:
    """What becomes subnormal: an absolute error, which dF/dmu = -prefactor/mu divides by mu.

    T is the prefactor over a fraction, dF/dr = T s - ... multiplies T by s. Each loses twice itself at most.
    """
    mean, weight = mean_and_weight
    score, scale = score_and_scale
    tiny, normal = precision.work_tiny, precision.work_tiny / precision.work_roundoff
    with np.errstate(all="ignore"):
        tail = np.minimum(exact[F], exact[S])
        # a tail of 0 is one that the oracle's own format cannot hold
        of_tail = np.minimum(UNDERFLOWS * tiny, 2.0 * tail + _SMALLEST)
        error[SLOPE_R] += np.where((tail < normal) & ~first, of_tail * score, 0.0)
        slope_mu = np.abs(exact[SLOPE_MU])
        # mu (r + k)/(r + mu) pmf, which is in range where mu dF/dmu is not
        prefactor = np.maximum(mean * slope_mu, exact[MASS] * weight)
        lost = (prefactor < normal * np.maximum(scale, 1.0)) & ~first
        relative = np.minimum(tiny * (1.0 + scale) / prefactor, 2.0)
        relative = np.where(lost, np.where(np.isnan(relative), 2.0, relative), 0.0)
        error[SLOPE_MU] += relative * slope_mu
        error[SLOPE_R] += relative * tail * score
        error[F] += relative * tail
        error[S] += relative * tail
    for row in (F, S, SLOPE_MU, SLOPE_R):
        error[row] += UNDERFLOWS * tiny


def _general(k: Array, mu: Array, r: Array, exact: Array, u: float) -> dict[int, Array]:
    with np.errstate(all="ignore"):
        b = k + 1.0
        tail, slope_mu, slope_r = (
            np.minimum(exact[F], exact[S]),
            np.abs(exact[SLOPE_MU]),
            np.abs(exact[SLOPE_R]),
        )
        # u times the large factor first: u times a small result may underflow
        deviance = deviance_error(np.maximum(b, 1.0), mu, r, u)
        of_series, of_series_slope = _series_error(b, mu, r, exact[F])
        tail_error = tail * (48.0 * u + deviance) + u * of_series
        scale = tail * largest_score(b, r)
        return {
            F: tail_error + u * exact[F],
            S: tail_error + u * exact[S],
            SLOPE_MU: slope_mu * (16.0 * u + deviance),
            SLOPE_R: (scale + slope_r) * (96.0 * u + deviance) + u * of_series_slope,
        }


def _series_error(b: Array, mu: Array, r: Array, cdf: Array) -> tuple[Array, Array]:
    """Errors of F and of dF/dr in units of u where log F is summed as an alternating series, else 0."""
    with np.errstate(all="ignore"):
        log_z = np.log(b + r) + np.log(r) - np.log(r + mu)  # z itself may underflow
        applies = (r < 2.0) & (r < mu) & (log_z <= math.log(4.5))
        log_z, r = np.where(applies, log_z, 0.0), np.where(applies, r, 0.0)
        z = np.exp(log_z)
        common = cdf * (64.0 + 4.0 * np.abs(log_z))
        series = 1.13 * np.exp(r * log_z + z)  # P e^z
        of_slope = common + series * (5.0 * z + 14.0 + 8.0 * r * (np.abs(log_z) + 2.0))
        return r * (common + 8.0 * series), np.where(applies, of_slope, 0.0)


def _at_zero(mu: Array, r: Array, exact: Array, u: float) -> dict[int, Array]:
    with np.errstate(all="ignore"):
        exponent = -log_mass_of_zero(mu, r)
        of_exponent = 6.0 * exact[F] * np.minimum(exponent, LARGEST)
        slope_mu, slope_r = np.abs(exact[SLOPE_MU]), np.abs(exact[SLOPE_R])
        of_phi = score_term_error(np.zeros(mu.size), mu, r)
        return {
            F: u * (of_exponent + 4.0 * exact[F]),
            S: u * (of_exponent + 4.0 * exact[S]),
            SLOPE_MU: u * slope_mu * (6.0 * exponent + 8.0),
            SLOPE_R: u * (slope_r * (6.0 * exponent + 8.0) + exact[F] * of_phi),
        }


def _elementwise(
    rows: Rows,
    which: tuple[int, int, int],
    shapes: tuple[ArrayLike, ArrayLike, ArrayLike],
    precision: Precision,
) -> Bound:
    y, mu, r = (np.shape(part) for part in shapes)
    value, slope_mu, slope_r = which
    size = np.where(np.isfinite(rows.exact[value]), rows.exact[value], 0.0)
    return Bound(
        precision.rounded_result(size, rows.error[value]).reshape(y),
        tuple(
            pulled_back(rows.exact[row], rows.error[row], shape, precision, weighted=False)
            for row, shape in ((slope_mu, mu), (slope_r, r))
        ),
    )


def negative_binomial_cdf(y: ArrayLike, mu: ArrayLike, r: ArrayLike, precision: Precision) -> Bound:
    """Bound of `negative_binomial_cdf` and of its gradients for cotangent 1 (derived in the module's text).

    Unit roundoff: u = 2^-53 for float64, 2^-24 for all others, whose half results are rounded once more.
    Roundings on the worst path: 48 + E of the tail and the subtraction from one; 96 + E in dF/dr.
    Condition: E, the size of the deviance's terms beside 1; T s / |dF/dr| where dF/dr crosses zero.
    Accumulations: 32 undamped roundings of the fraction or quadrature in its own order; the sum over the
    batch for a 0-dim mu or r in any order and chunking.

    Args:
        y: counts, any shape.
        mu: means, shape of y or none.
        r: dispersions, shape of y or none.
        precision: formats of the computation.

    Returns:
        Bound with a value array in the shape of y and the gradients (mu, r).

    Raises:
        ValueError: as the function.

    Example:
        >>> from refimpl.bounds.precision import precision
        >>> bound = negative_binomial_cdf([3.0], [1.0], [1.0], precision("float64"))
        >>> bool(0.0 < bound.value[0] < 1e-14)
        True
    """
    rows = distribution_errors(y, mu, r, precision)
    return _elementwise(rows, (F, SLOPE_MU, SLOPE_R), (y, mu, r), precision)


def negative_binomial_sf(y: ArrayLike, mu: ArrayLike, r: ArrayLike, precision: Precision) -> Bound:
    """Bound of `negative_binomial_sf`: relative to S where S is small.

    Unit roundoff, roundings, condition and accumulations are those of `negative_binomial_cdf`.

    Example:
        >>> from refimpl.bounds.precision import precision
        >>> bound = negative_binomial_sf([99.0], [1.0], [1.0], precision("float64"))  # S = 2^-100
        >>> bool(0.0 < bound.value[0] < 2.0**-139)
        True
    """
    rows = distribution_errors(y, mu, r, precision)
    return _elementwise(rows, (S, SLOPE_MU, SLOPE_R), (y, mu, r), precision)


def negative_binomial_log_pmf(y: ArrayLike, mu: ArrayLike, r: ArrayLike, precision: Precision) -> Bound:
    """Bound of `negative_binomial_log_pmf`; 0 where the value is -inf. `refimpl.bounds.log_mass` derives it.

    Unit roundoff: u = 2^-53 for float64, 2^-24 for all others.
    Roundings on the worst path: E + 7 G + 10 and the last one; 6 in d/dmu, 8 and those of phi in d/dr.
    Condition: (E + 7 G) / |log p|; (s + phi) / |s - phi| in d/dr.
    Accumulations: none but a 0-dim parameter's sum over the batch, in any order and chunking.

    Example:
        >>> from refimpl.bounds.precision import precision
        >>> negative_binomial_log_pmf([1e5], [1e5], [1e5], precision("float64")).value[0] < 1e-13
        np.True_
    """
    rows = log_mass_errors(y, mu, r, precision)
    return _elementwise(rows, (LOG_MASS, LOG_SLOPE_MU, LOG_SLOPE_R), (y, mu, r), precision)


def negative_binomial_log_prob(y: ArrayLike, mu: ArrayLike, r: ArrayLike, precision: Precision) -> Bound:
    """Bound of `negative_binomial_log_prob`: 0 where the value saturates, elsewhere that of the log mass.

    Unit roundoff, roundings, condition and accumulations are those of `negative_binomial_log_pmf`.

    Example:
        >>> from refimpl.bounds.precision import precision
        >>> negative_binomial_log_prob([-1.0], [2.0], [2.0], precision("float64")).value
        array([0.])
    """
    return negative_binomial_log_pmf(y, mu, r, precision)


def poisson_cdf(y: ArrayLike, rate: ArrayLike, precision: Precision) -> Bound:
    """Bound of `poisson_cdf`: that of the negative binomial with r = inf; the gradient is (rate,).

    Unit roundoff, roundings, condition and accumulations are those of `negative_binomial_cdf`.

    Example:
        >>> from refimpl.bounds.precision import precision
        >>> len(poisson_cdf([3.0], [1.0], precision("float32")).gradient)
        1
    """
    found = negative_binomial_cdf(y, rate, math.inf, precision)
    return Bound(found.value, found.gradient[:1])
