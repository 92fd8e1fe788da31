"""Error bounds of the negative-binomial distribution functions, the log mass, and their gradients.

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
T, r < mu, r < 2 and z = (k + 1 + r) r / (r + mu) <= 4.5
            + u F r (4 + 4 |log z| + 60 + 4 e^z)
            log F is r times the sum of log z, a difference of two Stirling errors (20 coefficients with three
            operations each) and an alternating series, whose term z^n / (n! (n + r)) comes with 2n + 2
            roundings: in all 4 e^z.
F, S        that of T, + u F or u S: the subtraction from one.
dF/dmu      u |dF/dmu| (16 + E): the prefactor over mu. k = 0: -F x, u |dF/dmu| (6 L + 8).
dF/dr       u (T s + |dF/dr|) (96 + E)
            dF/dr = T s - (an integral), s the largest score: each term of T and its derivative, so twice T's
            roundings; near its zero only T s says what is lost. The series' part as above, without the factor
            r. k = 0: -F phi(-y).
log mass    E + u (7 G + |log p| + 10) at b = k, G = |log A| / 2 + d, A = r / (2 pi k (k + r)), d the Stirling
            error of r, at most 1/(12 r) and |log(2 pi r)| / 2 + 1: A has 4 roundings, 2 u in log A / 2; two
            units in the last place, 4 u, of that logarithm and of d's; those of k and k + r are below 1/12
            and 16 roundings each, 3 u; d has 5 u beside its logarithm; two additions of numbers below G, and
            for its factor in d's logarithm one more; D comes last, u |log p|. k = 0: 6 u L. d/dmu = r (k-mu) / (mu (mu+r)) has 6 roundings; d/dr = s - phi((k-mu)/(r+mu)) has
            u (8 s + error of phi + |d/dr|): the difference is rounded to u of its terms. So at mu = 0 < k,
            where phi = phi(k/r) and s > phi are of the size 1/r for small r, k/r^2 for large r.

What underflows: every result adds 8 t, t the smallest subnormal, and the rounding to its own format. For
k >= 1 dF/dmu adds t/mu where the prefactor is subnormal (below t/u), dF/dr adds 8 t s where T is, and
d log p/dmu adds t |k-mu|/mu where r/(r+mu) is: the absolute error of one factor times the other one. What
underflows is off by itself at most, so prefactor and T by no more than twice themselves.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refimpl.bounds.deviance import deviance_error, largest_score, quiet, score_term_error
from refimpl.bounds.precision import Array, Bound, Precision, gamma
from refimpl.checks import as_float64
from refimpl.negative_binomial_tables import (
    LOG_MASS,
    LOG_SLOPE_MU,
    LOG_SLOPE_R,
    SLOPE_MU,
    SLOPE_R,
    F,
    S,
    distribution_table,
    full,
    log_mass_table,
)

_LARGEST = float(np.finfo(np.float64).max)
_SMALLEST = 2.0**-1074
_UNDERFLOWS = 8.0  # products and quotients on the way that may become subnormal


@dataclass(frozen=True)
class Rows:
    """Exact quantities and their errors in the working precision, by row of the oracle's table."""

    exact: Array
    error: Array


def _arguments(y: ArrayLike, mu: ArrayLike, r: ArrayLike) -> tuple[Array, Array, Array]:
    counts = as_float64("y", y)
    return (
        np.floor(counts.reshape(-1)),
        full("mu", as_float64("mu", mu), counts),
        full("r", as_float64("r", r), counts),
    )


def _settled(rows: Rows, edge: NDArray[np.bool_]) -> Rows:
    """Errors 0 at the edges, where constants come back, and never NaN."""
    return Rows(rows.exact, np.where(edge, 0.0, np.nan_to_num(rows.error, nan=_LARGEST, posinf=_LARGEST)))


def distribution_errors(y: ArrayLike, mu: ArrayLike, r: ArrayLike, precision: Precision) -> Rows:
    """Errors of F, S, mass, dF/dmu and dF/dr of the flattened elements before the final rounding.

    The row of the mass is that of dF/dmu times its exact factor, which is not used by any loss: it stays 0.
    """
    high, low = distribution_table(y, mu, r)
    exact = high + low
    k, mean, size = _arguments(y, mu, r)
    edge = ~(np.isfinite(k) & (k >= 0.0) & (mean > 0.0) & np.isfinite(mean) & (size > 0.0))
    k, mean, size = (np.where(edge, 1.0, part) for part in (k, mean, size))
    error = np.zeros(exact.shape)
    first = k == 0.0
    for row, general in _general(k, mean, size, exact, precision.work_roundoff).items():
        error[row] = np.where(first, 0.0, general)
    for row, special in _at_zero(mean, size, exact, precision.work_roundoff).items():
        error[row] = np.where(first, special, error[row])
    with np.errstate(over="ignore"):
        score = largest_score(k + 1.0, size)
    _add_underflow(error, exact, mean, score, first, precision)
    return _settled(Rows(exact, error), edge)


def _add_underflow(
    error: Array, exact: Array, mean: Array, score: Array, first: NDArray[np.bool_], precision: Precision
) -> None:
    """What becomes subnormal: an absolute error, which dF/dmu = -prefactor/mu divides by mu.

    So does dF/dr = T s - ... multiply that of T by s. Either loses twice itself at most.
    """
    tiny, normal = precision.work_tiny, precision.work_tiny / precision.work_roundoff
    with np.errstate(all="ignore"):
        tail = np.minimum(exact[F], exact[S])
        # a tail of 0 is one that the oracle's own format cannot hold
        of_tail = np.minimum(_UNDERFLOWS * tiny, 2.0 * tail + _SMALLEST)
        error[SLOPE_R] += np.where((tail < normal) & ~first, of_tail * score, 0.0)
        slope_mu = np.abs(exact[SLOPE_MU])
        of_slope_mu = np.minimum(tiny / mean, 2.0 * slope_mu)
        error[SLOPE_MU] += np.where((mean * slope_mu < normal) & ~first, of_slope_mu, 0.0)
    for row in (F, S, SLOPE_MU, SLOPE_R):
        error[row] += _UNDERFLOWS * tiny


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
        of_log = u * _series_error(b, mu, r)
        tail_error = tail * (48.0 * u + deviance) + exact[F] * (of_log * np.minimum(r, 2.0))
        scale = tail * largest_score(b, r)
        return {
            F: tail_error + u * exact[F],
            S: tail_error + u * exact[S],
            SLOPE_MU: slope_mu * (16.0 * u + deviance),
            SLOPE_R: (scale + slope_r) * (96.0 * u + deviance) + exact[F] * of_log,
        }


@quiet
def _series_error(b: Array, mu: Array, r: Array) -> Array:
    """Error of (log F) / r in units of u where it is summed as an alternating series, else 0."""
    log_z = np.log(b + r) + np.log(r) - np.log(r + mu)  # z itself may underflow
    applies = (r < 2.0) & (r < mu) & (log_z <= math.log(4.5))
    return np.where(applies, 64.0 + 4.0 * np.abs(log_z) + 4.0 * np.exp(np.exp(np.minimum(log_z, 2.0))), 0.0)


def _at_zero(mu: Array, r: Array, exact: Array, u: float) -> dict[int, Array]:
    with np.errstate(all="ignore"):
        exponent = -log_mass_of_zero(mu, r)
        of_exponent = 6.0 * exact[F] * np.minimum(exponent, _LARGEST)
        slope_mu, slope_r = np.abs(exact[SLOPE_MU]), np.abs(exact[SLOPE_R])
        of_phi = score_term_error(np.zeros(mu.size), mu, r)
        return {
            F: u * (of_exponent + 4.0 * exact[F]),
            S: u * (of_exponent + 4.0 * exact[S]),
            SLOPE_MU: u * slope_mu * (6.0 * exponent + 8.0),
            SLOPE_R: u * (slope_r * (6.0 * exponent + 8.0) + exact[F] * of_phi),
        }


@quiet
def log_mass_of_zero(mu: Array, r: Array) -> Array:
    """-r log1p(mu/r) in float64, to measure an error with."""
    z = mu / r
    logarithm = np.where(np.isinf(z), np.log(mu) - np.log(r), np.log1p(z))
    return -np.where(z < 1e-16, mu, r * logarithm)


def log_mass_errors(y: ArrayLike, mu: ArrayLike, r: ArrayLike, precision: Precision) -> Rows:
    """Errors of log p and its derivatives in mu and r of the flattened elements before the final rounding."""
    high, low = log_mass_table(y, mu, r)
    exact = high + low
    k, mean, size = _arguments(y, mu, r)
    valid = np.isfinite(k) & (k >= 0.0) & np.isfinite(mean) & (size > 0.0)
    edge = ~(valid & (mean > 0.0))
    no_mass = valid & (mean == 0.0) & (k > 0.0) & np.isfinite(size)  # only the score is more than a constant
    k, size = (np.where(valid, part, 1.0) for part in (k, size))
    of_score = _score_error(k, np.where(valid, mean, 1.0), size, exact[LOG_SLOPE_R], precision)
    mean = np.where(edge, 1.0, mean)
    u, first, b = precision.work_roundoff, k == 0.0, np.maximum(k, 1.0)
    error = np.zeros(exact.shape)
    with np.errstate(all="ignore"):
        spread = (
            np.log(b) - np.where(np.isinf(size), 0.0, np.log(size) - np.log(b + size)) + math.log(2 * math.pi)
        )
        of_size = np.minimum(1.0 / (12.0 * size), np.abs(np.log(2.0 * math.pi * size)) / 2.0 + 1.0)
        terms = 7.0 * (np.abs(spread) / 2.0 + of_size) + np.abs(exact[LOG_MASS]) + 10.0
        general = deviance_error(b, mean, size, u) + u * terms
        error[LOG_MASS] = np.where(first, -6.0 * u * log_mass_of_zero(mean, size), general)
        error[LOG_SLOPE_MU] = 6.0 * u * np.abs(exact[LOG_SLOPE_MU])
        small = size / (mean + size) < precision.work_tiny / u
        error[LOG_SLOPE_MU] += np.where(small, precision.work_tiny * (np.abs(k - mean) / mean), 0.0)
    error += _UNDERFLOWS * precision.work_tiny
    settled = _settled(Rows(exact, error), edge)
    settled.error[LOG_SLOPE_R] = np.where(edge & ~no_mass, 0.0, of_score)
    return settled


def _score_error(k: Array, mu: Array, r: Array, exact: Array, precision: Precision) -> Array:
    """Error of d log p/dr = s - phi((k-mu)/(r+mu)), s = h(r) - h(r+k); at mu = 0, z = k/r."""
    with np.errstate(all="ignore"):
        score = np.where(k == 0.0, 0.0, largest_score(np.maximum(k, 1.0), r))
        terms = 8.0 * score + score_term_error(k, mu, r) + np.abs(exact)
    error = precision.work_roundoff * terms + _UNDERFLOWS * precision.work_tiny
    return np.nan_to_num(error, nan=_LARGEST, posinf=_LARGEST)


def pulled_back(
    exact: Array, error: Array, divisor: float, shape: tuple[int, ...], precision: Precision
) -> Array:
    """Bound of a parameter's gradient, weights 1 / divisor, in its shape; summed over the batch for 0-dim.

    Two roundings for the weight, then n - 1 for the sum in any order, then the one into the result's format.
    """
    u, n = precision.work_roundoff, exact.size
    size = np.nan_to_num(np.abs(exact), nan=0.0, posinf=_LARGEST) / max(divisor, 1.0)
    own = error / max(divisor, 1.0)
    if divisor != 1.0:
        own = own + 2.0 * u * size + precision.work_tiny
    if shape == () and n != 1:
        total = own.sum() + gamma(n, u) * (size + own).sum() if n else 0.0
        return np.asarray(precision.rounded_result(size.sum(), total))
    return precision.rounded_result(size, own).reshape(shape)


def reduced(exact: Array, error: Array, divisor: float, precision: Precision) -> float:
    """Bound of sum / divisor of n numbers in any order: their errors, n - 1 additions, the division."""
    u, n = precision.scalar_roundoff, exact.size
    if n == 0:
        return 0.0
    size = np.where(np.isfinite(exact), np.abs(exact), 0.0) / divisor
    spread = (error / divisor).sum()
    additions = gamma(n - 1 + (2 if divisor != 1.0 else 0), u) * (size.sum() + spread)
    return float(min(spread + additions + precision.scalar_tiny, _LARGEST))


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
            pulled_back(rows.exact[row], rows.error[row], 1.0, shape, precision)
            for row, shape in ((slope_mu, mu), (slope_r, r))
        ),
    )


def negative_binomial_cdf(y: ArrayLike, mu: ArrayLike, r: ArrayLike, precision: Precision) -> Bound:
    """Bound of `negative_binomial_cdf` and of its gradients for cotangent 1 (derived in the module's text).

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

    Example:
        >>> from refimpl.bounds.precision import precision
        >>> bound = negative_binomial_sf([99.0], [1.0], [1.0], precision("float64"))  # S = 2^-100
        >>> bool(0.0 < bound.value[0] < 2.0**-139)
        True
    """
    rows = distribution_errors(y, mu, r, precision)
    return _elementwise(rows, (S, SLOPE_MU, SLOPE_R), (y, mu, r), precision)


def negative_binomial_log_pmf(y: ArrayLike, mu: ArrayLike, r: ArrayLike, precision: Precision) -> Bound:
    """Bound of `negative_binomial_log_pmf`; 0 where the value is -inf.

    Example:
        >>> from refimpl.bounds.precision import precision
        >>> negative_binomial_log_pmf([1e5], [1e5], [1e5], precision("float64")).value[0] < 1e-13
        np.True_
    """
    rows = log_mass_errors(y, mu, r, precision)
    return _elementwise(rows, (LOG_MASS, LOG_SLOPE_MU, LOG_SLOPE_R), (y, mu, r), precision)


def poisson_cdf(y: ArrayLike, rate: ArrayLike, precision: Precision) -> Bound:
    """Bound of `poisson_cdf`: that of the negative binomial with r = inf; the gradient is (rate,).

    Example:
        >>> from refimpl.bounds.precision import precision
        >>> len(poisson_cdf([3.0], [1.0], precision("float32")).gradient)
        1
    """
    found = negative_binomial_cdf(y, rate, math.inf, precision)
    return Bound(found.value, found.gradient[:1])
