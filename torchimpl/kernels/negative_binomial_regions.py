"""The negative-binomial CDF by region: one function each, all with the same arguments and results.

Notation: b = ⌊y⌋+1, s = r+mu, c = r+b, x = r/s, y = mu/s. F = I_x(r, b). No region uses lgamma, digamma, 1-x
or c-r: each of them would lose all digits somewhere. s and c are kept multiplied by `room`, so that they do
not overflow, and everything proportional to r as r -> 0 is kept over min(r, 1), which cannot underflow.

Every function takes float64 tensors (b, mu, r) of one shape with 0 < mu < inf, 0 < r < inf, b >= 1 inside its
region; outside of it the numbers are meaningless but no exception is raised.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from torchimpl.kernels.negative_binomial_constants import (
    ATANH_NEAR,
    ATANH_WIDE,
    EXP_TAIL,
    LOG_MINUS_DIGAMMA,
    NODES,
    STIRLING,
    WEIGHTS,
)

INVERSE_SQRT_2PI = 1.0 / math.sqrt(2.0 * math.pi)
SERIES_TERMS = 28
# exp(-38) is below half a unit roundoff: what the quadrature cuts off
QUADRATURE_DROP = 38.0
QUADRATURE_WIDEST = 1.6


class Partials(NamedTuple):
    """F, S = 1-F, dF/dmu and dF/dr."""

    cdf: Tensor
    sf: Tensor
    d_mu: Tensor
    d_r: Tensor


class Prefactor(NamedTuple):
    """f0 = x^r y^b / B(r, b) and what is computed on the way."""

    x: Tensor
    y: Tensor
    room: Tensor  # a power of two, 1 almost everywhere
    s: Tensor  # room · (r+mu)
    c: Tensor  # room · (r+b)
    diff: Tensor  # mu - b
    bend: Tensor  # phi1(-diff/s)
    shift: Tensor  # -diff/s
    scale: Tensor  # min(r, 1)
    density: Tensor  # f0 / scale
    score: Tensor  # scale · (d log f0/dr + bend)
    d_mu: Tensor  # -f0/mu


def horner(coefficients: Sequence[float], v: Tensor) -> Tensor:
    """Σ_j coefficients[j] · v^j."""
    total = torch.add(v * coefficients[-1], coefficients[-2])
    for coefficient in reversed(coefficients[:-2]):
        total.mul_(v).add_(coefficient)
    return total


def log_minus_digamma(v: Tensor) -> Tensor:
    """Evaluate log z - digamma(z) - v/2 at v = 1/z, for z >= 1."""
    return v * v * horner(LOG_MINUS_DIGAMMA, 2.0 * v - 1.0)


def phi1(z: Tensor, one_plus_z: Tensor) -> Tensor:
    """Evaluate z - log(1+z) >= 0 without cancellation; 1+z comes as a ratio, exact where z is near -1."""
    w = z / (z + 2.0)
    square = w * w
    near = z * w - 2.0 * (w * square) * horner(ATANH_NEAR, square.clamp(max=0.0625))
    return torch.where(square <= 0.0625, near, z - torch.log(one_plus_z))


def room_for_sums(*addends: Tensor) -> Tensor:
    """A factor under which sums of two addends do not overflow: 1/4 near the largest number, else 1."""
    largest = addends[0]
    for addend in addends[1:]:
        largest = torch.maximum(largest, addend)
    return torch.where(largest > 2.0**1000, 0.25, 1.0).to(largest.dtype)


def prefactor(b: Tensor, mu: Tensor, r: Tensor) -> Prefactor:
    """f0 in Loader's deviance form: exp(-D + Stirling errors), D a sum of two non-negative terms."""
    room = room_for_sums(b, mu, r)
    room_r, room_mu = room * r, room * mu
    s = room_r + room_mu
    # a count this far above r + mu leaves f0 near exp(-b x)
    beyond = (b > s * 1e307) & (room * b / s * r > 1e4)
    b = torch.minimum(b, s * 1e307)
    room_b = room * b
    c = room_r + room_b
    x, y = room_r / s, room_mu / s
    diff = mu - b
    shift = -room * diff / s
    c_over_s, log_mu = c / s, torch.log(mu)
    bend = phi1(shift, c_over_s)
    # 1 + z = (c/s)(mu/b) = y (c/b) may be too small for a number, its logarithm is not
    z, mu_over_b, apart = x * (diff / b), mu / b, c_over_s > 1e290
    near = phi1(z, torch.where(apart, y * (c / room_b), c_over_s * mu_over_b))
    far = z - (torch.log(c_over_s) + log_mu - torch.log(b))
    deviance = r * bend + b * torch.where(apart | (mu_over_b > 1e-300), near, far)
    small = r < 1.0
    # Gamma(r) = Gamma(1+r)/r below 1, where Stirling's formula fails
    raised = r + small
    v_r, v_b, v_c = raised.reciprocal(), b.reciprocal(), room / c
    log_ratio = torch.log1p(r) - torch.log(r)
    exponent = (
        v_c * horner(STIRLING, v_c) - v_b * horner(STIRLING, v_b) - v_r * horner(STIRLING, v_r) - deviance
    )
    exponent = torch.where(small, exponent + (1.0 - r * log_ratio), exponent)
    size = INVERSE_SQRT_2PI * (room_b / c).sqrt_() * torch.where(small, raised.rsqrt(), r.sqrt())
    exponent = torch.where(beyond, -torch.inf, exponent)
    density = size * torch.exp(exponent)
    scale = r.clamp(max=1.0)
    # f0/mu where f0 itself underflows
    faint = size * torch.exp(exponent + (torch.log(scale) - log_mu))
    d_mu = -torch.where(density > 1e-280, density * (scale / mu), faint)
    curvature = log_minus_digamma(v_r) - log_minus_digamma(v_c)
    score = 0.5 * (b - small.to(b.dtype)) * v_r * v_c + curvature
    score = torch.where(small, r * score + (1.0 - r * log_ratio), score)
    return Prefactor(
        x=x,
        y=y,
        room=room,
        s=s,
        c=c,
        diff=diff,
        bend=bend,
        shift=shift,
        scale=scale,
        density=density,
        score=score,
        d_mu=d_mu,
    )


def assemble(p: Prefactor, tail: Tensor, tail_slope: Tensor) -> Partials:
    """Partials from the small tail over min(r, 1) and its derivative in r; the tail is F where mu >= b."""
    upper = p.diff >= 0.0
    tail = p.scale * tail
    # f0 = 0: nothing is left of the tail, whatever overflowed on the way
    gone = p.density == 0.0
    tail = torch.where(gone, 0.0, tail)
    slope = torch.where(gone, 0.0, torch.where(upper, tail_slope, -tail_slope))
    rest = 1.0 - tail
    return Partials(torch.where(upper, tail, rest), torch.where(upper, rest, tail), p.d_mu, slope)


def zero_exponent(mu: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """-log pmf(0) = r log(1 + mu/r) and its derivative in r, phi1(-y)."""
    ratio = mu / r
    # r·log1p(mu/r) where the ratio is tiny (its product with r underflows) or overflows
    log_ratio = torch.where(ratio < 1e300, torch.log1p(ratio), torch.log(mu) - torch.log(r))
    tiny = ratio < 1e-9
    exponent = torch.where(tiny, mu - (0.5 * mu) * ratio, r * log_ratio)
    room = room_for_sums(mu, r)
    s = room * r + room * mu
    x, y = room * r / s, room * mu / s
    return exponent, torch.where(x > 0.25, phi1(-y, x), log_ratio - y)


def zero_count(_b: Tensor, mu: Tensor, r: Tensor) -> Partials:
    """Count 0: F = (1 + mu/r)^-r in closed form."""
    exponent, bend = zero_exponent(mu, r)
    cdf = torch.exp(-exponent)
    room = room_for_sums(mu, r)
    x = room * r / (room * r + room * mu)
    return Partials(cdf, -torch.expm1(-exponent), -cdf * x, -cdf * bend)


def series(b: Tensor, mu: Tensor, r: Tensor) -> Partials:
    """Small r and small k·x: alternating series in the log domain; S keeps its digits however small r is."""
    s, c = r + mu, r + b
    x, y = r / s, mu / s
    power, total, slope = torch.ones_like(r), torch.zeros_like(r), torch.zeros_like(r)
    for n in range(1, SERIES_TERMS + 1):
        power = power * ((n - b) * x * (1.0 / n))
        inverse = (r + n).reciprocal_()
        term = power * inverse
        total += term
        slope.addcmul_(term, torch.addcmul(y * n, r, inverse, value=-1.0))
    v_b, v_c, v_1 = b.reciprocal(), c.reciprocal(), (1.0 + r).reciprocal()
    # log of Gamma(r+b)/(Gamma(b) Gamma(1+r)) x^r: differences of Stirling's formula, proportional to r
    stirling_b = _stirling_difference(v_c, v_b)
    stirling_1 = _stirling_difference(v_1, torch.ones_like(v_1))
    grown = r * v_b
    log1p_grown = torch.where(
        grown < 1e-9, (r - 0.5 * r * grown) * (1.0 - 0.5 * v_b), (b - 0.5) * torch.log1p(grown)
    )
    from_b = log1p_grown - r * v_b * v_c * stirling_b
    from_1 = 0.5 * torch.log1p(r) - r * v_1 * stirling_1
    log_cx = torch.log(c * x)
    far = torch.log(c) - torch.log(s) + torch.log(r)
    log_cx = torch.where(x > 1e-290, log_cx, far) - torch.log1p(r)
    scaled = r * total
    log_cdf = r * log_cx + from_b - from_1 + torch.log1p(scaled)
    cdf = torch.exp(log_cdf)
    share = cdf / (1.0 + scaled)
    digamma_b = 0.5 * v_c + log_minus_digamma(v_c)
    digamma_1 = 0.5 * v_1 + log_minus_digamma(v_1)
    d_r = cdf * (log_cx - digamma_b + digamma_1 + y + (total + slope) / (1.0 + scaled))
    return Partials(cdf, -torch.expm1(log_cdf), -(r / mu) * share * torch.exp(b * torch.log1p(-x)), d_r)


def _stirling_difference(v: Tensor, u: Tensor) -> Tensor:
    """(v R(v) - u R(u)) / (v - u), R the Stirling polynomial: without the subtraction."""
    value = torch.full_like(v, STIRLING[-1])
    quotient = torch.zeros_like(v)
    for coefficient in (*STIRLING[-2::-1], 0.0):
        quotient = torch.addcmul(value, quotient, u)
        value = (value * v).add_(coefficient)
    return quotient


@functools.cache
def gauss_legendre(device: torch.device) -> tuple[Tensor, Tensor]:
    """Nodes, as a column, and weights: copied to the device once, for a copy waits for it."""
    # ordinary tensors even if the first call comes in inference mode
    with torch.inference_mode(mode=False):
        nodes = torch.tensor(NODES, dtype=torch.float64, device=device)
        return nodes[:, None], torch.tensor(WEIGHTS, dtype=torch.float64, device=device)


def quadrature(b: Tensor, mu: Tensor, r: Tensor) -> Partials:
    """Both r and b large: T = f0 ∫ exp(-|lam| t - c K(t)) dt by Gauss-Legendre on the part that matters."""
    p = prefactor(b, mu, r)
    upper = p.diff >= 0.0
    near, far = torch.where(upper, p.x, p.y), torch.where(upper, p.y, p.x)
    distance = (p.x * p.diff).abs_()
    swap = far <= 0.5
    weight = torch.where(swap, far, near)
    sign = swap.to(b.dtype).mul_(2.0).sub_(1.0)
    spread = p.c * (near * far / p.room)

    def bending(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """e^t - 1, weight·(e^t - 1) and K = log(1 - weight + weight·e^t) - weight·t, up to sign."""
        second = t * t * horner(EXP_TAIL, t)
        growth = t + second
        v = weight * growth
        w = v / (v + 2.0)
        square = w * w
        return growth, v, weight * second - (v * w - 2.0 * (w * square) * horner(ATANH_WIDE, square))

    # where the integrand has fallen by e^-QUADRATURE_DROP: quadratic guess and one Newton step
    drop = QUADRATURE_DROP
    end = (2.0 * drop / (distance + (distance * distance + 2.0 * drop * spread).sqrt())).clamp_(
        max=QUADRATURE_WIDEST
    )
    growth, v, k = bending(sign * end)
    step = (drop - distance * end - p.c * (k / p.room)) / (distance + spread * (sign * growth) / (1.0 + v))
    end = (end + step).clamp_(0.0, QUADRATURE_WIDEST)
    nodes, weights = gauss_legendre(b.device)
    t = end * nodes
    growth, v, k = bending(sign * t)
    integrand = torch.exp(-(distance * t) - p.c * (k / p.room))
    total = end * (weights @ integrand)
    # the score at the m reached by t: phi1((b-m)/(r+m)), through K where it is not small
    move = p.room * mu * torch.where(upper == swap, growth, -growth / (1.0 + growth))
    z = -(p.room * p.diff + move) / (p.s + move)
    w = z / (2.0 + z)
    square = w * w
    small = z * w - 2.0 * (w * square) * horner(ATANH_NEAR, square.clamp(max=0.0625))
    large = z - ((p.shift - p.bend) - (k + torch.where(upper, p.y, -p.y) * t))
    bend = torch.where(square <= 0.0625, small, large)
    # f0 last: it is what may be subnormal
    slope = p.score * total - end * (weights @ (integrand * bend))
    return assemble(p, p.density * total, p.density * slope)
