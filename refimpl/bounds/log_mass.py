"""Running errors of the log mass of the negative binomial and of its derivatives, by the unit roundoff u.

For a count k >= 1, with D and E as in `refimpl.bounds.negative_binomial` at b = k,

    log p = log(A) / 2 - D + Stirling errors of k + r, -k, -r,   A = r / (2 pi k (k + r))

    log p        E + u (7 G + |log p| + 10),  G = |log A| / 2 + d,  d the Stirling error of r, which is at
                 most 1 / (12 r) and |log(2 pi r)| / 2 + 1
                 A has 4 roundings, 2 u in log(A) / 2. The logarithms of A and of d: two units in the last
                 place, 4 u each. The Stirling errors of k and k + r are below 1/12 and have 16 roundings
                 each: 3 u together. d has 5 u beside its logarithm. Two additions of numbers below G,
                 and one more for what stands in d's logarithm. D comes last: u |log p|.
    d log p/dmu  6 u |d log p/dmu|: r (k - mu) / (mu (mu + r)) has 6 roundings
    d log p/dr   u (8 s + error of phi + |d log p/dr|): s - phi((k - mu) / (r + mu)), s = h(r) - h(r + k); the
                 difference is rounded to u of its terms. So at mu = 0 < k, where phi = phi(k / r) and s > phi
                 are of the size 1/r for small r, k/r^2 for large r.

At k = 0 log p = -L, L = r log1p(mu / r): 6 u L. What underflows adds 8 t, t the smallest subnormal, and
d log p/dmu adds t |k - mu| / mu where r / (r + mu) is subnormal.
"""

import math

import numpy as np
from numpy.typing import ArrayLike

from refimpl.bounds.deviance import deviance_error, largest_score, quiet, score_term_error
from refimpl.bounds.precision import Array, Precision
from refimpl.bounds.rows import LARGEST, UNDERFLOWS, Rows, arguments, settled
from refimpl.negative_binomial_tables import (
    LOG_MASS,
    LOG_SLOPE_MU,
    LOG_SLOPE_R,
    SCALED,
    SHIFT,
    log_mass_table,
)


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
    k, mean, size = arguments(y, mu, r)
    valid = np.isfinite(k) & (k >= 0.0) & np.isfinite(mean) & (size > 0.0)
    edge = ~(valid & (mean > 0.0))
    no_mass = valid & (mean == 0.0) & (k > 0.0) & np.isfinite(size)  # only the score is more than a constant
    k, size = (np.where(valid, part, 1.0) for part in (k, size))
    of_score = _score_error(k, np.where(valid, mean, 1.0), size, exact[LOG_SLOPE_R], precision)
    with np.errstate(all="ignore"):
        # a derivative in r that overflows is 1/r - k/(r + mu): largest_score(r) is 1/r, phi(z) is |z|
        tiny = 2.0**-SHIFT
        ends = 8.0 * tiny / size + 6.0 * np.abs(k - mean) * tiny / (np.where(valid, mean, 1.0) + size)
        of_far = ends + np.abs(exact[LOG_SLOPE_R + SCALED])
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
    error += UNDERFLOWS * precision.work_tiny
    error[LOG_SLOPE_MU + SCALED] = 6.0 * u * np.abs(exact[LOG_SLOPE_MU + SCALED])
    rows = settled(Rows(exact, error), edge)
    constant = edge & ~no_mass
    rows.error[LOG_SLOPE_R] = np.where(constant, 0.0, of_score)
    rows.error[LOG_SLOPE_R + SCALED] = np.where(constant, 0.0, u * of_far)
    return rows


def _score_error(k: Array, mu: Array, r: Array, exact: Array, precision: Precision) -> Array:
    """Error of d log p/dr = s - phi((k-mu)/(r+mu)), s = h(r) - h(r+k); at mu = 0, z = k/r."""
    with np.errstate(all="ignore"):
        score = np.where(k == 0.0, 0.0, largest_score(np.maximum(k, 1.0), r))
        terms = 8.0 * score + score_term_error(k, mu, r) + np.abs(exact)
    error = precision.work_roundoff * terms + UNDERFLOWS * precision.work_tiny
    return np.nan_to_num(error, nan=LARGEST, posinf=LARGEST)
