"""The regions of the negative-binomial CDF in Triton, but the fraction: the formulas of their torch twins.

Notation and guards are those of `torchimpl.kernels.negative_binomial_regions`, which explains them. Lanes
that belong to another region compute meaningless numbers; the kernel selects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchimpl.kernels.negative_binomial_cuda_language import (
    ATANH_WIDE,
    ATANH_WIDE_TERMS,
    DROP,
    EXP_TAIL,
    EXP_TAIL_TERMS,
    INFINITY,
    INVERSE_SQRT_2PI,
    NODES,
    NODES_COUNT,
    SERIES_TERMS,
    STIRLING,
    STIRLING_TERMS,
    WEIGHTS,
    WIDEST,
    atanh_share,
    expm1,
    horner,
    log1p,
    log_minus_digamma,
    phi1,
    picked,
    room_for_sums,
)
from torchimpl.kernels.negative_binomial_cuda_triton import jit, tl

if TYPE_CHECKING:
    Four = tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]
    Prefactor = tuple[tl.tensor, ...]


@jit
def prefactor(b: tl.tensor, mu: tl.tensor, r: tl.tensor) -> Prefactor:
    """f0 in Loader's deviance form: (x, y, room, s, c, diff, bend, shift, scale, density, score, d_mu)."""
    room = room_for_sums(tl.maximum(tl.maximum(b, mu), r))
    room_r, room_mu = room * r, room * mu
    s = room_r + room_mu
    # a count this far above r + mu leaves f0 near exp(-b x)
    beyond = (b > s * 1e307) & (room * b / s * r > 1e4)
    b = tl.minimum(b, s * 1e307)
    room_b = room * b
    c = room_r + room_b
    x, y = room_r / s, room_mu / s
    diff = mu - b
    shift = -(room * diff) / s
    c_over_s, log_mu = c / s, tl.log(mu)
    bend = phi1(shift, c_over_s)
    # 1 + z = (c/s)(mu/b) = y (c/b) may be too small for a number, its logarithm is not
    z, mu_over_b, apart = x * (diff / b), mu / b, c_over_s > 1e290
    near = phi1(z, tl.where(apart, y * (c / room_b), c_over_s * mu_over_b))
    far = z - (tl.log(c_over_s) + log_mu - tl.log(b))
    deviance = r * bend + b * tl.where(apart | (mu_over_b > 1e-300), near, far)
    small = r < 1.0
    one_if_small = small.to(tl.float64)
    # Gamma(r) = Gamma(1+r)/r below 1, where Stirling's formula fails
    v_r, v_b, v_c = 1.0 / (r + one_if_small), 1.0 / b, room / c
    below = 1.0 - r * (log1p(r) - tl.log(r))
    stirling_c = v_c * horner(STIRLING, STIRLING_TERMS, v_c)
    stirling_b = v_b * horner(STIRLING, STIRLING_TERMS, v_b)
    stirling_r = v_r * horner(STIRLING, STIRLING_TERMS, v_r)
    exponent = stirling_c - stirling_b - stirling_r - deviance
    exponent = tl.where(small, exponent + below, exponent)
    size = INVERSE_SQRT_2PI * tl.sqrt(room_b / c) * tl.sqrt(tl.where(small, v_r, r))
    exponent = tl.where(beyond, -INFINITY, exponent)
    density = size * tl.exp(exponent)
    scale = tl.minimum(r, 1.0)
    # f0/mu where f0 itself underflows
    faint = size * tl.exp(exponent + (tl.log(scale) - log_mu))
    d_mu = -tl.where(density > 1e-280, density * (scale / mu), faint)
    curvature = log_minus_digamma(v_r) - log_minus_digamma(v_c)
    score = 0.5 * (b - one_if_small) * v_r * v_c + curvature
    score = tl.where(small, r * score + below, score)
    return x, y, room, s, c, diff, bend, shift, scale, density, score, d_mu


@jit
def zero_count(mu: tl.tensor, r: tl.tensor) -> Four:
    """Count 0: F = (1 + mu/r)^-r in closed form."""
    ratio = mu / r
    # r·log1p(mu/r) where the ratio is tiny (its product with r underflows) or overflows
    log_ratio = tl.where(ratio < 1e300, log1p(ratio), tl.log(mu) - tl.log(r))
    exponent = tl.where(ratio < 1e-9, mu - (0.5 * mu) * ratio, r * log_ratio)
    room = room_for_sums(tl.maximum(mu, r))
    s = room * r + room * mu
    x, y = room * r / s, room * mu / s
    bend = tl.where(x > 0.25, phi1(-y, x), log_ratio - y)
    cdf = tl.exp(-exponent)
    return cdf, -expm1(-exponent), -cdf * x, -cdf * bend


@jit
def stirling_difference(v: tl.tensor, u: tl.tensor) -> tl.tensor:
    """(v R(v) - u R(u)) / (v - u), R the Stirling polynomial: without the subtraction."""
    value = tl.full(v.shape, STIRLING[STIRLING_TERMS - 1], tl.float64)
    quotient = value
    for j in tl.static_range(1, STIRLING_TERMS):
        value = tl.fma(value, v, tl.full(v.shape, STIRLING[STIRLING_TERMS - 1 - j], tl.float64))
        quotient = tl.fma(quotient, u, value)
    return quotient


@jit
def series(b: tl.tensor, mu: tl.tensor, r: tl.tensor) -> Four:
    """Small r and small k·x: alternating series in the log domain; S keeps its digits however small r is."""
    s, c = r + mu, r + b
    x, y = r / s, mu / s
    power = tl.full(r.shape, 1.0, tl.float64)
    total = tl.full(r.shape, 0.0, tl.float64)
    slope = total
    for n in tl.static_range(1, SERIES_TERMS + 1):
        power = power * ((n - b) * x * (1.0 / n))
        inverse = 1.0 / (r + n)
        term = power * inverse
        total += term
        slope = tl.fma(term, y * n - r * inverse, slope)
    v_b, v_c, v_1 = 1.0 / b, 1.0 / c, 1.0 / (1.0 + r)
    # log of Gamma(r+b)/(Gamma(b) Gamma(1+r)) x^r: differences of Stirling's formula, proportional to r
    stirling_b = stirling_difference(v_c, v_b)
    stirling_1 = stirling_difference(v_1, tl.full(r.shape, 1.0, tl.float64))
    grown = r * v_b
    log1p_grown = tl.where(grown < 1e-9, (r - 0.5 * r * grown) * (1.0 - 0.5 * v_b), (b - 0.5) * log1p(grown))
    from_b = log1p_grown - r * v_b * v_c * stirling_b
    log1p_r = log1p(r)
    from_1 = 0.5 * log1p_r - r * v_1 * stirling_1
    far = tl.log(c) - tl.log(s) + tl.log(r)
    log_cx = tl.where(x > 1e-290, tl.log(c * x), far) - log1p_r
    scaled = r * total
    log_cdf = r * log_cx + from_b - from_1 + log1p(scaled)
    cdf = tl.exp(log_cdf)
    share = cdf / (1.0 + scaled)
    digamma_b = 0.5 * v_c + log_minus_digamma(v_c)
    digamma_1 = 0.5 * v_1 + log_minus_digamma(v_1)
    d_r = cdf * (log_cx - digamma_b + digamma_1 + y + (total + slope) / (1.0 + scaled))
    return cdf, -expm1(log_cdf), -(r / mu) * share * tl.exp(b * log1p(-x)), d_r


@jit
def bending(weight: tl.tensor, t: tl.tensor) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """e^t - 1, weight·(e^t - 1) and K = log(1 - weight + weight·e^t) - weight·t, up to sign."""
    second = t * t * horner(EXP_TAIL, EXP_TAIL_TERMS, t)
    growth = t + second
    v = weight * growth
    w = v / (v + 2.0)
    square = w * w
    bent = v * w - 2.0 * (w * square) * horner(ATANH_WIDE, ATANH_WIDE_TERMS, square)
    return growth, v, weight * second - bent


@jit
def quadrature(
    x: tl.tensor,
    y: tl.tensor,
    room: tl.tensor,
    s: tl.tensor,
    c: tl.tensor,
    diff: tl.tensor,
    bend: tl.tensor,
    shift: tl.tensor,
    score: tl.tensor,
    mu: tl.tensor,
) -> tuple[tl.tensor, tl.tensor]:
    """Both r and b large: the tail and its derivative in r over f0, by Gauss-Legendre."""
    upper = diff >= 0.0
    near, far = tl.where(upper, x, y), tl.where(upper, y, x)
    distance = tl.abs(x * diff)
    swap = far <= 0.5
    weight = tl.where(swap, far, near)
    sign = 2.0 * swap.to(tl.float64) - 1.0
    # the room is a power of two: its inverse is exact
    unroom = 1.0 / room
    spread = c * (near * far * unroom)
    # where the integrand has fallen by e^-DROP: quadratic guess and one Newton step
    widest = tl.full(x.shape, WIDEST, tl.float64)
    end = 2.0 * DROP / (distance + tl.sqrt(distance * distance + 2.0 * DROP * spread))
    end = tl.minimum(end, widest)
    growth, v, k = bending(weight, sign * end)
    step = (DROP - distance * end - c * (k * unroom)) / (distance + spread * (sign * growth) / (1.0 + v))
    end = tl.minimum(tl.maximum(end + step, 0.0), widest)
    same = upper == swap
    room_mu, room_diff = room * mu, room * diff
    apart, pull = shift - bend, tl.where(upper, y, -y)
    total = tl.full(x.shape, 0.0, tl.float64)
    total_bend = total
    i = tl.full((), 0, tl.int32)
    while i < NODES_COUNT:
        weight_i = picked(WEIGHTS, NODES_COUNT, i)
        t = end * picked(NODES, NODES_COUNT, i)
        growth, v, k = bending(weight, sign * t)
        integrand = weight_i * tl.exp(-(distance * t) - c * (k * unroom))
        # the score at the m reached by t: phi1((b-m)/(r+m)), through K where it is not small
        move = room_mu * tl.where(same, growth, -growth / (1.0 + growth))
        z = -(room_diff + move) / (s + move)
        w = z / (2.0 + z)
        square = w * w
        large = z - (apart - (k + pull * t))
        bend_i = tl.where(square <= 0.0625, atanh_share(z, w, square), large)
        total += integrand
        total_bend = tl.fma(integrand, bend_i, total_bend)
        i += 1
    total = end * total
    return total, score * total - end * total_bend
