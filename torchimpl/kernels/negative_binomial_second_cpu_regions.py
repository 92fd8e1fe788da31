"""The regions of the CPU kernel of second derivatives but the fraction: count 0, the series, the quadrature.

F and its first derivatives are those of `negative_binomial_cpu_regions`; here what remains after a second
derivative in r is written lane by lane. T is the small tail, as there. Where r < 1, T/r and r^2 times second
derivatives are what is computed, so that nothing of the size of 1/r cancels.
"""

from __future__ import annotations

import math

import numpy as np

from torchimpl.kernels import negative_binomial_constants as constants
from torchimpl.kernels.elementary_cpu import exp, inlined, log, log1p, polynomial
from torchimpl.kernels.negative_binomial_cpu_lanes import (
    BEND,
    D_MU,
    DENSITY,
    DIFF,
    GROWTH,
    LANES,
    MU,
    ROOM,
    SCALE,
    SCORE,
    SHIFT,
    SIZE,
    T0,
    T1,
    T2,
    T3,
    T4,
    T5,
    T6,
    T7,
    T8,
    T9,
    B,
    C,
    R,
    S,
    X,
    Y,
    log_minus_digamma,
    phi1,
    phi1_near,
    room_for_sums,
    stage,
)
from torchimpl.kernels.negative_binomial_cpu_regions import (
    bending,
    prefactor,
    stirling_difference,
)
from torchimpl.kernels.negative_binomial_regions import QUADRATURE_WIDEST, SERIES_TERMS

# results, and what the fraction needs beyond the slots of the kernel of first derivatives
(D_MU_MU, D_MU_R, D_R_R, RATE, DD_VALUE, DD_NUMERATOR, LOG_DENSITY) = range(SIZE, SIZE + 7 * LANES, LANES)
SECOND_SIZE = SIZE + 7 * LANES
# f0 below the first may have lost digits; up to the second count its logarithm is a short sum
FAINT, FEW = 1e-307, 64.0

# terms of the series beyond those of F: a factor n^2 for two derivatives
SECOND_TERMS = SERIES_TERMS + 4

# exp(-46) is 1e-4 of a unit roundoff: far out, the square of the score is thousands of times that nearby
SECOND_DROP = 46.0
NODES, WEIGHTS = np.array(constants.FINE_NODES), np.array(constants.FINE_WEIGHTS)

trigamma_core = polynomial(constants.TRIGAMMA_CENTRED)


@inlined
def trigamma_excess(v: float) -> float:
    """Evaluate trigamma(z) - v - v²/2 at v = 1/z, for z >= 1."""
    return v * v * v * trigamma_core(2.0 * v - 1.0)


@inlined
def score_jet(b: float, r: float, v_c: float) -> tuple[float, float]:
    """(smax, d smax/dr), smax = h(r) - h(r+b), h = log - digamma; (r smax - 1, r² d smax/dr + 1) if r < 1.

    v_c is 1/(r+b).
    """
    small = r < 1.0
    # Gamma(r) = Gamma(1+r)/r below 1
    raised, reach = r + (1.0 if small else 0.0), b - (1.0 if small else 0.0)
    v_r = 1.0 / raised
    apart = 0.5 * reach * v_r * v_c
    value = apart + (log_minus_digamma(v_r) - log_minus_digamma(v_c))
    slope = -(apart * (v_r + v_c) + (trigamma_excess(v_r) - trigamma_excess(v_c)))
    log_ratio = log1p(r) - log(r)
    return (r * (value - log_ratio), r * (v_r + r * slope)) if small else (value, slope)


@stage
def closed_forms(w: np.ndarray) -> None:
    """d²F/dmu² = dF/dmu (x (k-mu)/mu - 1/s) and d²F/dmu dr = dF/dmu · d log f0/dr, from the prefactor."""
    for i in range(LANES):
        mu, d_mu, density = w[MU + i], w[D_MU + i], w[DENSITY + i]
        pull = w[X + i] * (w[B + i] - 1.0 - mu)
        score = w[SCORE + i] - w[SCALE + i] * w[BEND + i]
        # a product with a factor that has underflowed to 0 is 0, not 0·inf
        straight = d_mu / mu * pull - d_mu * (w[ROOM + i] / w[S + i])
        w[D_MU_MU + i] = 0.0 if d_mu == 0.0 else straight
        w[D_MU_R + i] = 0.0 if density == 0.0 else -(density / mu) * score
        w[LOG_DENSITY + i] = 0.0
    for i in range(LANES):
        if w[DENSITY + i] <= FAINT and w[B + i] <= FEW:
            faint_forms(w, i)


@inlined
def faint_forms(w: np.ndarray, i: int) -> None:
    """The closed forms where f0 underflows and they need not: f0/min(r, 1) by its logarithm."""
    b, mu, r = w[B + i], w[MU + i], w[R + i]
    log_mu, log_s = log(mu), log(w[S + i]) - log(w[ROOM + i])
    ratio = mu / r
    logarithm = -r * (log1p(ratio) if ratio < 1e300 else log_mu - log(r))
    # Gamma(r+b)/(Gamma(r) Gamma(b)) y^b as a product
    logarithm += log(max(r, 1.0)) + (log_mu - log_s)
    for j in range(1, int(b)):
        logarithm += log(r + j) - log(float(j)) + (log_mu - log_s)
    # the last factor of the results comes first, for the same reason; only the fraction has one here
    logarithm += log(w[GROWTH + i])
    w[GROWTH + i] = 1.0
    pull = w[X + i] * (b - 1.0 - mu) - w[Y + i]
    score = w[SCORE + i] - w[SCALE + i] * w[BEND + i]
    size = exp(logarithm + log(w[SCALE + i]) - 2.0 * log_mu)
    mixed = exp(logarithm - log_mu)
    w[D_MU_MU + i] = 0.0 if size == 0.0 else -size * pull
    w[D_MU_R + i] = 0.0 if mixed == 0.0 else -mixed * score
    w[LOG_DENSITY + i] = logarithm


@stage
def zero_count_second(w: np.ndarray) -> None:
    """Count 0: F = (1 + mu/r)^-r in closed form."""
    for i in range(LANES):
        mu, r = w[MU + i], w[R + i]
        ratio = mu / r
        # r·log1p(mu/r) where the ratio is tiny (its product with r underflows) or overflows
        log_ratio = log1p(ratio) if ratio < 1e300 else log(mu) - log(r)
        exponent = mu - (0.5 * mu) * ratio if ratio < 1e-9 else r * log_ratio
        room = room_for_sums(max(mu, r))
        s = room * r + room * mu
        x, y = room * r / s, room * mu / s
        bend = phi1(-y, x) if x > 0.25 else log_ratio - y
        cdf = exp(-exponent)
        w[D_MU_MU + i] = cdf * x * (x + room / s)
        w[D_MU_R + i] = cdf * (x * bend - y * (room / s))
        w[D_R_R + i] = cdf * (bend * bend) + cdf / r * y * y


@stage
def series_second(w: np.ndarray) -> None:
    """Small r and small k·x: F (L'' + L'²), L = log F with one more derivative of each of its terms."""
    x, y, power, total, first, second = T0, T1, T2, T3, T4, T5
    prefactor(w)
    closed_forms(w)
    for i in range(LANES):
        s = w[R + i] + w[MU + i]
        w[x + i], w[y + i] = w[R + i] / s, w[MU + i] / s
        w[power + i], w[total + i], w[first + i], w[second + i] = 1.0, 0.0, 0.0, 0.0
    for m in range(1, SECOND_TERMS + 1):
        n = float(m)
        over_n = 1.0 / n
        for i in range(LANES):
            r = w[R + i]
            grown = w[power + i] * ((n - w[B + i]) * w[x + i] * over_n)
            inverse = 1.0 / (r + n)
            term = grown * inverse
            # d log term/d log r, and its derivative in log r
            share = r * inverse
            rise = w[y + i] * n - share
            turn = -n * (w[x + i] * w[y + i] + share * inverse)
            w[power + i] = grown
            w[total + i] += term
            w[first + i] += term * rise
            w[second + i] += term * (rise * rise + turn)
    for i in range(LANES):
        b, mu, r = w[B + i], w[MU + i], w[R + i]
        s, c = r + mu, r + b
        v_b, v_c, v_1 = 1.0 / b, 1.0 / c, 1.0 / (1.0 + r)
        # log of Gamma(r+b)/(Gamma(b) Gamma(1+r)) x^r: differences of Stirling's formula, proportional to r
        grown, log1p_r = r * v_b, log1p(r)
        near = (r - 0.5 * r * grown) * (1.0 - 0.5 * v_b)
        log1p_grown = near if grown < 1e-9 else (b - 0.5) * log1p(grown)
        from_b = log1p_grown - r * v_b * v_c * stirling_difference(v_c, v_b)
        from_1 = 0.5 * log1p_r - r * v_1 * stirling_difference(v_1, 1.0)
        far = log(c) - log(s) + log(r)
        log_cx = (log(c * w[x + i]) if w[x + i] > 1e-290 else far) - log1p_r
        whole = 1.0 + r * w[total + i]
        cdf = exp(r * log_cx + from_b - from_1 + log1p(r * w[total + i]))
        digamma_b = 0.5 * v_c + log_minus_digamma(v_c)
        digamma_1 = 0.5 * v_1 + log_minus_digamma(v_1)
        gain = (w[total + i] + w[first + i]) / whole
        slope = log_cx - digamma_b + digamma_1 + w[y + i] + gain
        # trigamma(c) - trigamma(1+r); the rest of L'' is over r
        above = v_c + 0.5 * v_c * v_c + trigamma_excess(v_c)
        below = v_1 + 0.5 * v_1 * v_1 + trigamma_excess(v_1)
        over_r = w[y + i] * w[y + i] + (w[first + i] + w[second + i]) / whole
        rest = (above - below) - gain * gain + slope * slope
        w[D_R_R + i] = cdf * rest + cdf * over_r / r


@stage
def quadrature_second(w: np.ndarray) -> None:
    """Both r and b large: T'' = f0 ∫ (g² + dg/dr) exp(-|lam| t - c K(t)) dt, g the score at m(t)."""
    weight, sign, distance, end, total, moment, turn = T0, T1, T2, T3, T4, T5, T6
    steepest, change, over_c = T7, T8, T9
    prefactor(w)
    closed_forms(w)
    drop, widest = SECOND_DROP, QUADRATURE_WIDEST
    for i in range(LANES):
        upper = w[DIFF + i] >= 0.0
        near, far = (w[X + i] if upper else w[Y + i]), (w[Y + i] if upper else w[X + i])
        swap = far <= 0.5
        weight_i, sign_i = (far if swap else near), (1.0 if swap else -1.0)
        distance_i = abs(w[X + i] * w[DIFF + i])
        spread = w[C + i] * (near * far / w[ROOM + i])
        # where the integrand has fallen by e^-drop: quadratic guess and one Newton step
        guess = 2.0 * drop / (distance_i + math.sqrt(distance_i * distance_i + 2.0 * drop * spread))
        guess = min(guess, widest)
        growth, v, k = bending(weight_i, sign_i * guess)
        fallen = drop - distance_i * guess - w[C + i] * (k / w[ROOM + i])
        step = fallen / (distance_i + spread * (sign_i * growth) / (1.0 + v))
        w[end + i] = min(max(guess + step, 0.0), widest)
        w[weight + i], w[sign + i], w[distance + i] = weight_i, sign_i, distance_i
        w[turn + i] = 1.0 if upper == swap else -1.0
        w[over_c + i] = w[ROOM + i] / w[C + i]
        w[steepest + i], w[change + i] = score_jet(w[B + i], w[R + i], w[over_c + i])
        w[total + i], w[moment + i] = 0.0, 0.0
    for j in range(NODES.size):
        node, share = NODES[j], WEIGHTS[j]
        for i in range(LANES):
            t = w[end + i] * node
            growth, _, k = bending(w[weight + i], w[sign + i] * t)
            integrand = share * exp(-(w[distance + i] * t) - w[C + i] * (k / w[ROOM + i]))
            # the bend at the m reached by t: phi1((b-m)/(r+m)), through K where it is not small
            away = growth if w[turn + i] > 0.0 else -growth / (1.0 + growth)
            move = w[ROOM + i] * w[MU + i] * away
            z = -(w[ROOM + i] * w[DIFF + i] + move) / (w[S + i] + move)
            u = z / (2.0 + z)
            square = u * u
            small = phi1_near(z, u, min(square, 0.0625))
            tilt = w[Y + i] if w[DIFF + i] >= 0.0 else -w[Y + i]
            large = z - ((w[SHIFT + i] - w[BEND + i]) - (k + tilt * t))
            score = w[steepest + i] - (small if square <= 0.0625 else large)
            w[total + i] += integrand
            # the derivative of phi1 in r is -z²/c
            w[moment + i] += integrand * (score * score + z * z * w[over_c + i])
    for i in range(LANES):
        # f0 last: it is what may be subnormal
        curvature = w[DENSITY + i] * (w[end + i] * (w[moment + i] + w[change + i] * w[total + i]))
        curvature = 0.0 if w[DENSITY + i] == 0.0 else curvature
        w[D_R_R + i] = curvature if w[DIFF + i] >= 0.0 else -curvature
