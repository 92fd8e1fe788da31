"""-log pmf and its slopes over lanes of ordinary elements, without any guard.

Ordinary: 0 <= k <= 2^200 and 2^-200 <= mu, r <= 2^200. No product or quotient below leaves the range there,
so that the formulas are those of the plain-torch `negative_binomial_log_pmf` with all its guards at rest.
"""

from __future__ import annotations

import numpy as np

from torchimpl.kernels.elementary_cpu import fused, inlined, log, log1p, log_and, polynomial, sum_error
from torchimpl.kernels.negative_binomial import LINEAR_STEPS
from torchimpl.kernels.negative_binomial_constants import STIRLING
from torchimpl.kernels.negative_binomial_cpu_lanes import (
    LANES,
    log_minus_digamma,
    phi1,
    phi1_near,
    stage,
)

# arguments; results
(K, MU, R, VALUE, D_MU, D_R) = range(0, 6 * LANES, LANES)
# what the value leaves for the slopes: log((1+r)/r) below r = 1 and 0 above, log(c/s), phi1((k-mu)/s)
(LOG_RAISE, LOG_RATIO, BEND) = range(6 * LANES, 9 * LANES, LANES)
SIZE = 9 * LANES

SMALLEST_ORDINARY, LARGEST_ORDINARY = 2.0**-200, 2.0**200
LOG_SQRT_2PI = 0.9189385332046727

(STEP_0, FACTOR_0), (STEP_1, FACTOR_1) = LINEAR_STEPS

stirling = polynomial(STIRLING)


@inlined
def linear_growth(mu: float, r: float) -> float:
    """The exact factor by which (mu, r) may grow where the law is linear in them; 1 almost everywhere."""
    size = mu + r
    return (FACTOR_0 if size < STEP_0 else 1.0) * (FACTOR_1 if size < STEP_1 else 1.0)


@stage
def zero_value(w: np.ndarray) -> None:
    """Count 0: r log(1 + mu/r)."""
    for i in range(LANES):
        mu, r = w[MU + i], w[R + i]
        ratio = mu / r
        log_ratio = log1p(ratio)
        w[LOG_RATIO + i] = log_ratio
        w[VALUE + i] = mu - (0.5 * mu) * ratio if ratio < 1e-9 else r * log_ratio


@stage
def zero_slopes(w: np.ndarray) -> None:
    """Count 0: x, and phi1(-y)."""
    for i in range(LANES):
        mu, r = w[MU + i], w[R + i]
        s = r + mu
        x, y = r / s, mu / s
        w[D_MU + i] = x
        w[D_R + i] = phi1(-y, x) if x > 0.25 else w[LOG_RATIO + i] - y


@stage
def value(w: np.ndarray) -> None:
    """Count 1 and more: two deviances, the size of the peak, three Stirling errors."""
    for i in range(LANES):
        k, mu, r = w[K + i], w[MU + i], w[R + i]
        s, c, v_k = r + mu, r + k, 1.0 / k
        c_over_s, shift = c / s, (k - mu) / s
        log_ratio = log(c_over_s)
        w_r = shift / (shift + 2.0)
        square = w_r * w_r
        near = phi1_near(shift, w_r, min(square, 0.0625))
        bend = near if square <= 0.0625 else shift - log_ratio
        z = (r / s) * ((mu - k) / k)
        deviance = r * bend + k * phi1(z, c_over_s * (mu / k))
        small = r < 1.0
        # Gamma(r) = Gamma(1+r)/r below 1, where Stirling's formula fails
        raised = r + (1.0 if small else 0.0)
        v_r, v_c, ratio = 1.0 / raised, 1.0 / c, raised / r
        # what rounding took from 1+r and from the quotient is put back
        lost = sum_error(1.0 if small else 0.0, r, raised) + fused(-ratio, r, raised)
        log_raise = log_and(ratio, lost * v_r)
        stirlings = v_c * stirling(v_c) - v_k * stirling(v_k) - v_r * stirling(v_r)
        size = LOG_SQRT_2PI + 0.5 * log(k * (c / r) * ratio)
        size = size - (1.0 - r * log_raise) if small else size
        w[LOG_RAISE + i], w[LOG_RATIO + i], w[BEND + i] = log_raise, log_ratio, bend
        w[VALUE + i] = deviance + size - stirlings


@stage
def slopes(w: np.ndarray) -> None:
    """Count 1 and more: x (mu-k)/mu, and phi1((k-mu)/s) - (h(r) - h(c)), h = log - digamma."""
    for i in range(LANES):
        k, mu, r = w[K + i], w[MU + i], w[R + i]
        s, c, inverse = r + mu, r + k, 1.0 / r
        w[D_MU + i] = (r / s) * ((mu - k) / mu)
        small = r < 1.0
        one = 1.0 if small else 0.0
        v_r, v_c = 1.0 / (r + one), 1.0 / c
        curvature = log_minus_digamma(v_r) - log_minus_digamma(v_c)
        score = 0.5 * (k - one) * v_r * v_c + curvature - w[LOG_RAISE + i]
        apart = w[BEND + i] - (score + (inverse if small else 0.0))
        # r and mu small: (k-mu)/s - 1/r in one fraction, whose two parts would cancel at k = 1
        merged = ((k - 1.0) * r - mu * (1.0 + r)) / s * inverse - (w[LOG_RATIO + i] + score)
        w[D_R + i] = merged if small & (mu < 0.5) else apart
