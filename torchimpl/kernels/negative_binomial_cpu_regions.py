"""The regions of the CPU kernel but the fraction: count 0, the series, the quadrature, and their prefactor.

The formulas and guards are those of `negative_binomial_regions`, where they are explained; here they stand
lane by lane. Each stage reads B, MU, R and writes CDF, SF, D_MU, D_R.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numba import types

from torchimpl.kernels import negative_binomial_constants as constants
from torchimpl.kernels.elementary_cpu import (
    exp,
    expm1,
    fused,
    inlined,
    instruction,
    log,
    log1p,
    multiply_add,
    polynomial,
    sum_error,
)
from torchimpl.kernels.negative_binomial_cpu_lanes import (
    BEND,
    CDF,
    D_MU,
    D_R,
    DENSITY,
    DIFF,
    LANES,
    MU,
    NEAR_MINUS_1,
    ROOM,
    SCALE,
    SCORE,
    SF,
    SHIFT,
    T0,
    T1,
    T2,
    T3,
    T4,
    T5,
    T6,
    T7,
    B,
    C,
    R,
    S,
    X,
    Y,
    atanh_wide,
    log_minus_digamma,
    phi1,
    phi1_near,
    phi1_sharp,
    room_for_sums,
    stage,
)
from torchimpl.kernels.negative_binomial_regions import (
    INVERSE_SQRT_2PI,
    QUADRATURE_DROP,
    QUADRATURE_WIDEST,
    SERIES_TERMS,
)

NODES, WEIGHTS = np.array(constants.NODES), np.array(constants.WEIGHTS)

stirling = polynomial(constants.STIRLING)
exp_tail = polynomial(constants.EXP_TAIL)


def divided_difference(coefficients: Sequence[float]) -> Callable[..., float]:
    """Compile (v, u) -> (v p(v) - u p(u)) / (v - u), p the polynomial: without the subtraction."""

    @instruction
    def evaluate(_context: Any, _v: Any, _u: Any) -> Any:
        def code(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            v, u = arguments
            last, *others = (context.get_constant(types.float64, c) for c in reversed(coefficients))
            value = quotient = last
            for coefficient in others:
                value = multiply_add(builder, value, v, coefficient)
                quotient = multiply_add(builder, quotient, u, value)
            return quotient

        return types.float64(types.float64, types.float64), code

    return evaluate


stirling_difference = divided_difference(constants.STIRLING)


@stage
def prefactor(w: np.ndarray) -> None:
    """f0 = x^r y^b / B(r, b) in Loader's deviance form, and what is computed on the way; dF/dmu = -f0/mu."""
    for i in range(LANES):
        b, mu, r = w[B + i], w[MU + i], w[R + i]
        room = room_for_sums(max(b, mu, r))
        room_r, room_mu = room * r, room * mu
        s = room_r + room_mu
        # a count this far above r + mu leaves f0 near exp(-b x)
        most = s * 1e307
        beyond = b > most and room * b / s * r > 1e4
        b = min(b, most)
        room_b = room * b
        c = room_r + room_b
        x, y = room_r / s, room_mu / s
        diff = mu - b
        shift = -room * diff / s
        c_over_s, log_mu = c / s, log(mu)
        bend = phi1_sharp(shift, c_over_s)
        # 1 + z = (c/s)(mu/b) = y (c/b) may be too small for a number, its logarithm is not
        diff_over_b = diff / b
        z, mu_over_b, apart = x * diff_over_b, mu / b, c_over_s > 1e290
        one_plus_z = y * (c / room_b) if apart else c_over_s * mu_over_b
        near = phi1_sharp(z, one_plus_z)
        far = z - (log(c_over_s) + log_mu - log(b))
        other = near if apart or mu_over_b > 1e-300 else far
        v_b, v_c = 1.0 / b, room / c
        # first-order effect of what rounding took from shift and z
        over_s, lost_s, lost_diff = 1.0 / s, sum_error(room_r, room_mu, s), sum_error(mu, -b, diff)
        lost_x = (fused(-x, s, room_r) - x * lost_s) * over_s
        lost_shift = (fused(-shift, s, -room * diff) - room * lost_diff - shift * lost_s) * over_s
        lost_over_b = (fused(-diff_over_b, b, diff) + lost_diff) * v_b
        lost_z = fused(x, diff_over_b, -z) + x * lost_over_b + diff_over_b * lost_x
        lost_shift = 0.0 if c_over_s < NEAR_MINUS_1 else lost_shift
        lost_z = 0.0 if one_plus_z < NEAR_MINUS_1 else lost_z
        effect = r * v_c * diff * (lost_z / mu_over_b - lost_shift)
        first, second = r * bend, b * other
        deviance = first + second
        rest = sum_error(first, second, deviance) + fused(r, bend, -first) + fused(b, other, -second) + effect
        # far out, where something overflowed on the way, nothing is put back
        rest = rest if abs(rest) <= 1e-12 * deviance else 0.0
        small = r < 1.0
        # Gamma(r) = Gamma(1+r)/r below 1, where Stirling's formula fails
        raised = r + (1.0 if small else 0.0)
        v_r = 1.0 / raised
        log_ratio = log1p(r) - log(r)
        stirlings = v_c * stirling(v_c) - v_b * stirling(v_b) - v_r * stirling(v_r)
        stirlings = stirlings + (1.0 - r * log_ratio) if small else stirlings
        exponent = stirlings - deviance
        rest = sum_error(stirlings, -deviance, exponent) - rest
        rest = rest if abs(rest) <= 1e-12 * deviance else 0.0
        exponent = -math.inf if beyond else exponent
        root = 1.0 / math.sqrt(raised) if small else math.sqrt(r)
        size = INVERSE_SQRT_2PI * math.sqrt(room_b / c) * root
        density = exp(exponent)
        density = size * (density + density * rest)
        scale = min(r, 1.0)
        # f0/mu where f0 itself underflows
        faint = size * exp(exponent + (log(scale) - log_mu + rest))
        curvature = log_minus_digamma(v_r) - log_minus_digamma(v_c)
        score = 0.5 * (b - (1.0 if small else 0.0)) * v_r * v_c + curvature
        score = r * score + (1.0 - r * log_ratio) if small else score
        w[D_MU + i] = -(density * (scale / mu) if density > 1e-280 else faint)
        w[X + i], w[Y + i], w[ROOM + i], w[S + i], w[C + i] = x, y, room, s, c
        w[DIFF + i], w[BEND + i], w[SHIFT + i], w[SCALE + i] = diff, bend, shift, scale
        w[DENSITY + i], w[SCORE + i] = density, score


@inlined
def assemble(w: np.ndarray, i: int, tail: float, tail_slope: float) -> None:
    """Results from the small tail over min(r, 1) and its derivative in r; the tail is F where mu >= b."""
    upper = w[DIFF + i] >= 0.0
    # f0 = 0: nothing is left of the tail, whatever overflowed on the way
    gone = w[DENSITY + i] == 0.0
    tail = 0.0 if gone else w[SCALE + i] * tail
    slope = 0.0 if gone else (tail_slope if upper else -tail_slope)
    rest = 1.0 - tail
    w[CDF + i] = tail if upper else rest
    w[SF + i] = rest if upper else tail
    w[D_R + i] = slope


@stage
def zero_count(w: np.ndarray) -> None:
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
        w[CDF + i], w[SF + i] = cdf, -expm1(-exponent)
        w[D_MU + i], w[D_R + i] = -cdf * x, -cdf * bend


@stage
def series(w: np.ndarray) -> None:
    """Small r and small k·x: alternating series in the log domain; S keeps its digits however small r is."""
    x, y, power, total, slope = T0, T1, T2, T3, T4
    for i in range(LANES):
        s = w[R + i] + w[MU + i]
        w[x + i], w[y + i] = w[R + i] / s, w[MU + i] / s
        w[power + i], w[total + i], w[slope + i] = 1.0, 0.0, 0.0
    for m in range(1, SERIES_TERMS + 1):
        n = float(m)
        over_n = 1.0 / n
        for i in range(LANES):
            grown = w[power + i] * ((n - w[B + i]) * w[x + i] * over_n)
            inverse = 1.0 / (w[R + i] + n)
            term = grown * inverse
            w[power + i] = grown
            w[total + i] += term
            w[slope + i] += term * (w[y + i] * n - w[R + i] * inverse)
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
        scaled = r * w[total + i]
        log_cdf = r * log_cx + from_b - from_1 + log1p(scaled)
        cdf = exp(log_cdf)
        share = cdf / (1.0 + scaled)
        digamma_b = 0.5 * v_c + log_minus_digamma(v_c)
        digamma_1 = 0.5 * v_1 + log_minus_digamma(v_1)
        gain = (w[total + i] + w[slope + i]) / (1.0 + scaled)
        w[CDF + i], w[SF + i] = cdf, -expm1(log_cdf)
        w[D_MU + i] = -(r / mu) * share * exp(b * log1p(-w[x + i]))
        w[D_R + i] = cdf * (log_cx - digamma_b + digamma_1 + w[y + i] + gain)


@inlined
def bending(weight: float, t: float) -> tuple[float, float, float]:
    """e^t - 1, weight·(e^t - 1) and K = log(1 - weight + weight·e^t) - weight·t, up to sign."""
    second = t * t * exp_tail(t)
    growth = t + second
    v = weight * growth
    u = v / (v + 2.0)
    square = u * u
    return growth, v, weight * second - (v * u - 2.0 * (u * square) * atanh_wide(square))


@stage
def quadrature(w: np.ndarray) -> None:
    """Both r and b large: T = f0 ∫ exp(-|lam| t - c K(t)) dt by Gauss-Legendre on the part that matters."""
    weight, sign, distance, end, total, bent, pull, turn = T0, T1, T2, T3, T4, T5, T6, T7
    prefactor(w)
    drop, widest = QUADRATURE_DROP, QUADRATURE_WIDEST
    for i in range(LANES):
        upper = w[DIFF + i] >= 0.0
        near, far = (w[X + i] if upper else w[Y + i]), (w[Y + i] if upper else w[X + i])
        swap = far <= 0.5
        weight_i, sign_i = (far if swap else near), (1.0 if swap else -1.0)
        distance_i = abs(w[X + i] * w[DIFF + i])
        pull_i = w[C + i] / w[ROOM + i]
        spread = w[C + i] * (near * far / w[ROOM + i])
        # where the integrand has fallen by e^-drop: quadratic guess and one Newton step
        guess = 2.0 * drop / (distance_i + math.sqrt(distance_i * distance_i + 2.0 * drop * spread))
        guess = min(guess, widest)
        growth, v, k = bending(weight_i, sign_i * guess)
        fallen = drop - distance_i * guess - w[C + i] * (k / w[ROOM + i])
        step = fallen / (distance_i + spread * (sign_i * growth) / (1.0 + v))
        w[end + i] = min(max(guess + step, 0.0), widest)
        w[weight + i], w[sign + i], w[distance + i], w[pull + i] = weight_i, sign_i, distance_i, pull_i
        w[turn + i] = 1.0 if upper == swap else -1.0
        w[total + i], w[bent + i] = 0.0, 0.0
    for j in range(NODES.size):
        node, share = NODES[j], WEIGHTS[j]
        for i in range(LANES):
            t = w[end + i] * node
            growth, _, k = bending(w[weight + i], w[sign + i] * t)
            integrand = exp(-(w[distance + i] * t) - w[C + i] * (k / w[ROOM + i]))
            # the score at the m reached by t: phi1((b-m)/(r+m)), through K where it is not small
            away = growth if w[turn + i] > 0.0 else -growth / (1.0 + growth)
            move = w[ROOM + i] * w[MU + i] * away
            z = -(w[ROOM + i] * w[DIFF + i] + move) / (w[S + i] + move)
            u = z / (2.0 + z)
            square = u * u
            small = phi1_near(z, u, min(square, 0.0625))
            tilt = w[Y + i] if w[DIFF + i] >= 0.0 else -w[Y + i]
            large = z - ((w[SHIFT + i] - w[BEND + i]) - (k + tilt * t))
            w[total + i] += share * integrand
            w[bent + i] += share * (integrand * (small if square <= 0.0625 else large))
    for i in range(LANES):
        # f0 last: it is what may be subnormal
        whole = w[end + i] * w[total + i]
        slope = w[SCORE + i] * whole - w[end + i] * w[bent + i]
        assemble(w, i, w[DENSITY + i] * whole, w[DENSITY + i] * slope)
