"""-log pmf and its slopes of any single element: the plain-torch formulas with every guard, as scalar code.

Notation, formulas and guards are those of `torchimpl.kernels.negative_binomial_log_pmf`, name by name.
"""

from __future__ import annotations

import math

from torchimpl.kernels.elementary_cpu import floor, log, log1p
from torchimpl.kernels.negative_binomial import LARGEST
from torchimpl.kernels.negative_binomial_cpu_lanes import log_minus_digamma, phi1, room_for_sums, stage
from torchimpl.kernels.negative_binomial_log_pmf_cpu_lanes import LOG_SQRT_2PI, linear_growth, stirling

INF, NAN = math.inf, math.nan
# slopes beyond the range are kept times the first
SHRINK, GROW = 2.0**-512, 2.0**512


@stage
def is_invalid(k: float, mu: float, r: float) -> bool:
    """Whether the result is NaN."""
    valid = mu >= 0.0 and mu < INF and r > 0.0 and k == k  # noqa: PLR0124 - not NaN
    return not valid


@stage
def zero_exponent(mu: float, r: float) -> tuple[float, float]:
    """-log pmf(0) and its derivative in r."""
    ratio = mu / r
    log_ratio = log1p(ratio) if ratio < 1e300 else log(mu) - log(r)
    exponent = mu - (0.5 * mu) * ratio if ratio < 1e-9 else r * log_ratio
    room = room_for_sums(max(mu, r))
    s = room * r + room * mu
    x, y = room * r / s, room * mu / s
    return exponent, (phi1(-y, x) if x > 0.25 else log_ratio - y)


@stage
def any_value(count: float, mu: float, r: float) -> float:
    """-log pmf(⌊count⌋); inf where the pmf is 0."""
    k = floor(count)
    if is_invalid(k, mu, r):
        return NAN
    if k < 0.0 or k == INF or (mu == 0.0 and k > 0.0):
        return INF
    if mu == 0.0:
        return 0.0
    poisson = r == INF
    r = min(r, LARGEST)
    growth = linear_growth(mu, r)
    mu, r = mu * growth, r * growth
    if k == 0.0:
        return mu if poisson else zero_exponent(mu, r)[0] / growth
    room = room_for_sums(max(k, mu, r))
    s, c = room * r + room * mu, room * r + room * k
    x, c_over_s = (1.0, 1.0) if poisson else (room * r / s, c / s)
    shift = 0.0 if poisson else room * (k - mu) / s
    # 1 + z = (c/s)(mu/k) = (mu/s)(c/k) and each may be no number, its logarithm is
    z, mu_over_k, share = x * ((mu - k) / k), mu / k, 0.0 if poisson else room * mu / s
    apart = c_over_s < 1e-290 or c_over_s > 1e290
    of_r = x * (k - mu) - r * (log(c) - log(s)) if apart else r * phi1(shift, c_over_s)
    if not apart and mu_over_k > 1e-300:
        of_k = phi1(z, c_over_s * mu_over_k)
    elif apart or share > 1e-300:
        of_k = phi1(z, share * (c / (room * k)))
    else:
        of_k = z - (log(c_over_s) + log(mu) - log(k))
    deviance = of_r + k * of_k
    # Gamma(r) = Gamma(1+r)/r below 1, where Stirling's formula fails
    v_r, v_k, v_c = 1.0 / (r + 1.0 if r < 1.0 else r), 1.0 / k, room / c
    stirlings = v_c * stirling(v_c) - v_k * stirling(v_k) - v_r * stirling(v_r)
    if r < 1.0:
        log_r, log1p_r = log(r), log1p(r)
        size = 0.5 * (log(c) - log(room) + log1p_r) - log_r
        size = size - (1.0 - r * (log1p_r - log_r)) + log(growth)
    else:
        size = 0.5 * log1p(k / r)
    value: float = deviance + (LOG_SQRT_2PI + 0.5 * log(k) + size) - stirlings
    return value


@stage
def slope_in_mu(k: float, mu: float, r: float, growth: float, poisson: bool) -> tuple[float, float]:
    """Evaluate x (mu-k)/mu · growth, in the order that neither overflows nor underflows; and shrunk."""
    room = room_for_sums(max(k, mu, r))
    room_r = room * r
    s = room_r + room * mu
    x = 1.0 if poisson else room_r / s
    relative = (mu - k) / mu
    if not abs(relative) < INF:
        slope = ((mu - k) * x) / mu
    elif x > 1e-290:
        slope = x * relative
    else:
        slope = room_r * relative / s
    slope = slope * growth
    return slope, (((mu - k) * x) * SHRINK / mu * growth if abs(slope) == INF else slope * SHRINK)


@stage
def slope_in_r(k: float, mean: float, r: float, growth: float) -> tuple[float, float]:
    """Phi1((k-mu)/s) less the score, and shrunk; `mean` may be 0."""
    room = room_for_sums(max(k, mean, r))
    total, c = room * r + room * mean, room * r + room * k
    c_over_s = min(c / total, 1e300)
    bend = phi1(room * (k - mean) / total, c_over_s)
    small = r < 1.0
    one = 1.0 if small else 0.0
    v_r, v_c = 1.0 / (r + one), room / c
    score = 0.5 * (k - one) * v_r * v_c + (log_minus_digamma(v_r) - log_minus_digamma(v_c))
    if not small:
        slope = bend - score
        return slope, slope * SHRINK
    score = score - (log1p(r) - log(r))
    inverse = 1.0 / r
    if mean < 0.5:
        # r and mu small: (k-mu)/s - 1/r in one fraction, whose two parts would cancel at k = 1
        merged = ((k - 1.0) * r - mean * (1.0 + r)) * (room / total) * inverse
        # the logarithms of the growth in the other two terms cancel
        slope = merged * growth - (log(c_over_s) + score)
    else:
        slope = bend - (score + inverse)
    # beside fractions that overflow nothing else counts; the order keeps them away from subnormal numbers
    numerator = 0.25 * ((k - 1.0) * r) - (0.25 * mean) * (1.0 + r)
    shrunk = numerator * SHRINK * (4.0 * room / total) / r * growth
    slope = slope if abs(slope) < INF else shrunk * GROW
    return slope, (shrunk if abs(slope) == INF else slope * SHRINK)


@stage
def any_slopes(count: float, mu: float, r: float) -> tuple[float, float, float, float]:
    """Both derivatives of -log pmf(⌊count⌋), and both shrunk, which overflow later."""
    k = floor(count)
    if is_invalid(k, mu, r):
        return NAN, NAN, NAN, NAN
    poisson = r == INF
    if k < 0.0 or k == INF:
        # y = inf: the limits; y < 0: the pmf is 0 whatever the parameters are
        limit = INF if k > 0.0 else 0.0
        in_r = 0.0 if poisson else limit
        return -limit, in_r, -limit, in_r
    at_zero = mu == 0.0
    r = min(r, LARGEST)
    growth = linear_growth(mu, r)
    mu, r = mu * growth, r * growth
    if k == 0.0:
        if at_zero:
            return 1.0, 0.0, SHRINK, 0.0
        in_mu, far_mu = slope_in_mu(k, mu, r, 1.0, poisson)
        in_r = 0.0 if poisson else zero_exponent(mu, r)[1]
        return in_mu, in_r, far_mu, in_r * SHRINK
    in_mu, far_mu = (-INF, -INF) if at_zero else slope_in_mu(k, mu, r, growth, poisson)
    # k = 1 at mu = 0: 1/r - 1/r
    if poisson or (at_zero and k == 1.0):
        return in_mu, 0.0, far_mu, 0.0
    in_r, far_r = slope_in_r(k, mu, r, growth)
    return in_mu, in_r, far_mu, far_r
