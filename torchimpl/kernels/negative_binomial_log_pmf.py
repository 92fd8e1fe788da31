"""-log pmf of the negative binomial in deviance form; first and second derivatives by their own formulas.

Notation: k = ⌊y⌋, s = r+mu, c = r+k, x = r/s. Like the CDF's kernel it uses neither lgamma nor digamma, whose
differences lose all digits for large arguments.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchimpl.kernels.negative_binomial import LARGEST, linear_growth
from torchimpl.kernels.negative_binomial_constants import STIRLING, TRIGAMMA_EXCESS
from torchimpl.kernels.negative_binomial_ops import LastDerivatives, batched, times, weigh
from torchimpl.kernels.negative_binomial_regions import (
    horner,
    log_minus_digamma,
    phi1,
    room_for_sums,
    zero_exponent,
)

Three = tuple[Tensor, Tensor, Tensor]
Four = tuple[Tensor, Tensor, Tensor, Tensor]
LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)


class Element(NamedTuple):
    """The arguments made harmless, and what was wrong with them."""

    k: Tensor
    mu: Tensor
    r: Tensor
    growth: Tensor  # (mu, r) were multiplied by it
    invalid: Tensor  # the result is NaN
    impossible: Tensor  # pmf = 0
    at_zero: Tensor  # mu = 0
    is_poisson: Tensor  # r = inf


def shrunk(x: Tensor) -> Tensor:
    """Times 2^-512: for slopes beyond the range whose products with a cotangent may be within."""
    # a literal: torch.compile(dynamic=True) would make a variable of a global
    return x * 2.0**-512


def grown(x: Tensor) -> Tensor:
    """The inverse of `shrunk`."""
    return x * 2.0**512


def prepare(y: Tensor, mu: Tensor, r: Tensor) -> Element:
    """Floor y, sort out the edges, and keep tiny (mu, r) away from subnormal numbers."""
    count = y.floor()
    invalid = ~((mu >= 0.0) & (mu < torch.inf) & (r > 0.0)) | count.isnan()
    at_zero = mu == 0.0
    impossible = (count < 0.0) | (count == torch.inf) | (at_zero & (count > 0.0))
    harmless = invalid | (count < 0.0) | (count == torch.inf)
    k = torch.where(harmless, 0.0, count)
    safe_r = torch.where(harmless, 1.0, r).clamp(max=LARGEST)
    growth = linear_growth(torch.where(harmless, 1.0, mu), safe_r)
    safe_mu = torch.where(harmless | at_zero, 1.0, mu * growth)
    return Element(k, safe_mu, safe_r * growth, growth, invalid, impossible, at_zero, r == torch.inf)


def log_pmf_value(y: Tensor, mu: Tensor, r: Tensor) -> Tensor:
    """-log pmf(⌊y⌋) of float64 tensors of one shape; inf where the pmf is 0."""
    e = prepare(y, mu, r)
    zero, _ = zero_exponent(e.mu, e.r)
    zero = torch.where(e.is_poisson, e.mu, zero / e.growth)
    k = e.k.clamp(min=1.0)
    room = room_for_sums(k, e.mu, e.r)
    s, c = room * e.r + room * e.mu, room * e.r + room * k
    x, c_over_s = torch.where(e.is_poisson, 1.0, room * e.r / s), torch.where(e.is_poisson, 1.0, c / s)
    shift = torch.where(e.is_poisson, 0.0, room * (k - e.mu) / s)
    # 1 + z = (c/s)(mu/k) = (mu/s)(c/k) and each may be no number, its logarithm is
    z, mu_over_k = x * ((e.mu - k) / k), e.mu / k
    share = torch.where(e.is_poisson, 0.0, room * e.mu / s)
    apart = (c_over_s < 1e-290) | (c_over_s > 1e290)
    by_mean = ~apart & (mu_over_k > 1e-300)
    near = phi1(z, torch.where(by_mean, c_over_s * mu_over_k, share * (c / (room * k))))
    far = z - (torch.log(c_over_s) + torch.log(e.mu) - torch.log(k))
    of_r = torch.where(
        apart, x * (k - e.mu) - e.r * (torch.log(c) - torch.log(s)), e.r * phi1(shift, c_over_s)
    )
    deviance = of_r + k * torch.where(apart | by_mean | (share > 1e-300), near, far)
    small = e.r < 1.0
    # Gamma(r) = Gamma(1+r)/r below 1, where Stirling's formula fails
    raised = e.r + small
    v_r, v_k, v_c = raised.reciprocal(), k.reciprocal(), room / c
    stirling = v_c * horner(STIRLING, v_c) - v_k * horner(STIRLING, v_k) - v_r * horner(STIRLING, v_r)
    log_r = torch.log(e.r)
    of_large = 0.5 * torch.log1p(k / e.r)
    of_small = 0.5 * (torch.log(c) - torch.log(room) + torch.log1p(e.r)) - log_r
    of_small = of_small - (1.0 - e.r * (torch.log1p(e.r) - log_r)) + torch.log(e.growth)
    size = LOG_SQRT_2PI + 0.5 * torch.log(k) + torch.where(small, of_small, of_large)
    value = torch.where(e.k == 0.0, zero, deviance + size - stirling)
    value = torch.where(e.at_zero, 0.0, value)
    return torch.where(e.invalid, torch.nan, torch.where(e.impossible, torch.inf, value))


def log_pmf_slopes(y: Tensor, mu: Tensor, r: Tensor) -> Four:
    """The derivatives of -log pmf in mu and r, then both `shrunk`, which overflow later.

    -inf in mu where mu = 0 < k, 0 where y < 0.
    """
    e = prepare(y, mu, r)
    growth = torch.where(e.k == 0.0, 1.0, e.growth)
    room = room_for_sums(e.k, e.mu, e.r)
    room_r = room * e.r
    s, c = room_r + room * e.mu, room_r + room * e.k
    x = torch.where(e.is_poisson, 1.0, room_r / s)
    # x (mu-k)/mu, in the order that neither overflows nor underflows on the way
    relative = (e.mu - e.k) / e.mu
    product = torch.where(x > 1e-290, x * relative, room_r * relative / s)
    d_mu = torch.where(torch.isfinite(relative), product, ((e.mu - e.k) * x) / e.mu)
    d_mu = torch.where(e.at_zero, torch.where(e.k == 0.0, 1.0, -torch.inf), d_mu * growth)

    # the limit mu -> 0 has s = r
    mean, total = torch.where(e.at_zero, 0.0, e.mu), torch.where(e.at_zero, room_r, s)
    c_over_s = (c / total).clamp(max=1e300)  # inf - log(inf) would be NaN
    bend = phi1(room * (e.k - mean) / total, c_over_s)
    small = e.r < 1.0
    raised = e.r + small
    v_r, v_c = raised.reciprocal(), room / c
    curvature = log_minus_digamma(v_r) - log_minus_digamma(v_c)
    score = 0.5 * (e.k - small.to(e.k.dtype)) * v_r * v_c + curvature
    score = torch.where(small, score - (torch.log1p(e.r) - torch.log(e.r)), score)
    _, of_zero = zero_exponent(e.mu, e.r)
    inverse = e.r.reciprocal()
    d_r = bend - torch.where(small, score + inverse, score)
    # r and mu small: (k-mu)/s - 1/r in one fraction, whose two parts would cancel at k = 1
    merged = ((e.k - 1.0) * e.r - mean * (1.0 + e.r)) * (room / total) * inverse
    # the logarithms of the growth in both terms cancel
    rest = torch.log(c_over_s) + score
    d_r = torch.where(small & (mean < 0.5), merged * growth - rest, d_r)
    # beside fractions that overflow nothing else counts; the order keeps them away from subnormal numbers
    numerator = 0.25 * ((e.k - 1.0) * e.r) - (0.25 * mean) * (1.0 + e.r)
    shrunk_r = shrunk(numerator) * (4.0 * room / total) / e.r * growth
    shrunk_mu = shrunk((e.mu - e.k) * x) / e.mu * growth
    d_r = torch.where(small & ~torch.isfinite(d_r), grown(shrunk_r), d_r)
    d_r = torch.where(e.k == 0.0, torch.where(e.at_zero, 0.0, of_zero), d_r)
    # k = 1 at mu = 0: 1/r - 1/r
    d_r = torch.where(e.is_poisson | (e.at_zero & (e.k == 1.0)), 0.0, d_r)
    unreachable = e.impossible & ((y < 0.0) | (y == torch.inf))
    # y = inf: the limits; y < 0: the pmf is 0 whatever the parameters are
    limit = torch.where(y > 0.0, torch.inf, 0.0)
    d_mu = torch.where(unreachable, -limit, d_mu)
    d_r = torch.where(unreachable, torch.where(e.is_poisson, 0.0, limit), d_r)
    d_mu, d_r = torch.where(e.invalid, torch.nan, d_mu), torch.where(e.invalid, torch.nan, d_r)
    far_mu = torch.where(d_mu.isinf() & ~e.impossible, shrunk_mu, shrunk(d_mu))
    far_r = torch.where(d_r.isinf() & ~unreachable, shrunk_r, shrunk(d_r))
    return d_mu, d_r, far_mu, far_r


def log_pmf_curvatures(y: Tensor, mu: Tensor, r: Tensor) -> Three:
    """The second derivatives of -log pmf: in mu, mixed, in r.

    In r: g(r) - g(c) - (k-mu)²/(s² c) with g(z) = trigamma(z) - 1/z.
    """
    e = prepare(y, mu, r)
    k, s = e.k, (e.r + e.mu).clamp(max=LARGEST)
    c = (e.r + k).clamp(max=LARGEST)
    growth = torch.where(k == 0.0, 1.0, e.growth)
    twice = growth * growth
    x = e.r / s
    from_k = torch.where(k == 0.0, 0.0, (k / e.mu) * (e.r / e.mu + 2.0))
    slowness = x / s
    d_mu_mu = torch.where(slowness == 0.0, 0.0, slowness * (from_k - 1.0)) * twice
    d_mu_mu = torch.where(e.at_zero, torch.where(k == 0.0, -e.r.reciprocal(), torch.inf), d_mu_mu)
    mean, total = torch.where(e.at_zero, 0.0, e.mu), torch.where(e.at_zero, e.r, s)
    gap = (mean - k) / total
    d_mu_r = gap / total * twice
    small = e.r < 1.0
    raised = e.r + small
    v_r, v_c = raised.reciprocal(), c.reciprocal()
    step = (k - small.to(k.dtype)) * v_r * v_c
    cubes = v_r**3 * horner(TRIGAMMA_EXCESS, v_r) - v_c**3 * horner(TRIGAMMA_EXCESS, v_c)
    trigammas = 0.5 * step * (v_r + v_c) + cubes
    trigammas = torch.where(small, trigammas + v_r / e.r / e.r, trigammas)
    d_r_r = (trigammas - gap * gap * v_c) * twice
    d_r_r = torch.where(k == 0.0, -((mean / total) ** 2) / e.r, d_r_r)
    flat = torch.where(e.invalid, torch.nan, 0.0)
    unreachable = e.invalid | (e.impossible & ~e.at_zero)
    no_slope = unreachable | e.is_poisson
    return (
        torch.where(unreachable, flat, d_mu_mu),
        torch.where(no_slope, flat, d_mu_r),
        torch.where(no_slope, flat, d_r_r),
    )


@functools.cache
def evaluators(device_type: str) -> tuple[Callable[..., Tensor], Callable[..., Four]]:
    """What evaluates value and slopes on a device: the compiled kernel on the CPU, plain torch elsewhere."""
    if device_type == "cpu":
        # only here: Numba takes a second to import
        module = importlib.import_module(".negative_binomial_log_pmf_cpu", __package__)
        return module.value_cpu, module.slopes_cpu
    return log_pmf_value, log_pmf_slopes


# operators, because torch.compile(dynamic=True) cannot lift float constants out of a Function's body
@torch.library.custom_op("proven_losses::negative_binomial_log_pmf", mutates_args=())
def value_operator(y: Tensor, mu: Tensor, r: Tensor) -> Tensor:
    """`log_pmf_value`."""
    value, _ = evaluators(y.device.type)
    return value(y, mu, r).contiguous()


@torch.library.custom_op("proven_losses::negative_binomial_log_pmf_slopes", mutates_args=())
def slopes_operator(y: Tensor, mu: Tensor, r: Tensor) -> Four:
    """`log_pmf_slopes`."""
    _, slopes = evaluators(y.device.type)
    d_mu, d_r, far_mu, far_r = (slope.contiguous() for slope in slopes(y, mu, r))
    return d_mu, d_r, far_mu, far_r


@torch.library.custom_op("proven_losses::negative_binomial_log_pmf_curvatures", mutates_args=())
def curvatures_operator(y: Tensor, mu: Tensor, r: Tensor) -> Three:
    """`log_pmf_curvatures`."""
    return log_pmf_curvatures(y, mu, r)


@value_operator.register_fake
def _(_y: Tensor, mu: Tensor, _r: Tensor) -> Tensor:
    return mu.new_empty(mu.shape)


@slopes_operator.register_fake
def _(_y: Tensor, mu: Tensor, _r: Tensor) -> Four:
    d_mu, d_r, far_mu, far_r = (mu.new_empty(mu.shape) for _ in range(4))
    return d_mu, d_r, far_mu, far_r


@curvatures_operator.register_fake
def _(_y: Tensor, mu: Tensor, _r: Tensor) -> Three:
    return torch.empty_like(mu), torch.empty_like(mu), torch.empty_like(mu)


value_operator.register_vmap(batched(value_operator, 1))
slopes_operator.register_vmap(batched(slopes_operator, 4))
curvatures_operator.register_vmap(batched(curvatures_operator, 3))


def pulled_back(cotangent: Tensor, slope: Tensor, far: Tensor, parameter: Tensor) -> Tensor:
    """Cotangent · slope, summed for a 0-dim parameter; overflows only where that does.

    Args:
        cotangent: one per element.
        slope: one per element, may have overflowed.
        far: the slope, `shrunk`.
        parameter: whose gradient it is: of the shape of the slope or 0-dim.
    """
    summed = parameter.dim() < slope.dim()
    overflowed = slope.isinf()
    if summed:
        plain = times(cotangent.detach(), slope.detach())
        overflowed = ~torch.isfinite(plain.sum())
    product = times(cotangent, torch.where(overflowed, far, slope))
    product = product.sum() if summed else product
    return torch.where(overflowed, grown(product), product)


def gradients(on_value: Tensor, y: Tensor, mu: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """Of mu and r, from the cotangent of the value; differentiable once more."""
    d_mu, d_r, far_mu, far_r = NegativeLogPMFSlopes.apply(y, mu.expand_as(y), r.expand_as(y))
    return pulled_back(on_value, d_mu, far_mu, mu), pulled_back(on_value, d_r, far_r, r)


class NegativeLogPMF(torch.autograd.Function):
    """(y, mu, r) -> -log pmf, differentiable twice in mu and r, which have the shape of y or are 0-dim."""

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, mu: Tensor, r: Tensor) -> Tensor:
        """The value."""
        value: Tensor = value_operator(y, mu.expand_as(y), r.expand_as(y))
        return value

    @staticmethod
    def setup_context(ctx: Any, inputs: Three, _output: Tensor) -> None:
        """Keep the inputs."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        """Cotangent times slopes."""
        return None, *gradients(cotangents[0], *ctx.saved_tensors)


class NegativeLogPMFSlopes(torch.autograd.Function):
    """(y, mu, r) -> the two derivatives of -log pmf, and both `shrunk`, differentiable once more."""

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, mu: Tensor, r: Tensor) -> Four:
        """The slopes."""
        slopes: Four = slopes_operator(y, mu, r)
        return slopes

    @staticmethod
    def setup_context(ctx: Any, inputs: Three, _output: Four) -> None:
        """Keep the inputs."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        """Cotangents times curvatures."""
        on_mu, on_r = cotangents[0] + shrunk(cotangents[2]), cotangents[1] + shrunk(cotangents[3])
        d_mu_mu, d_mu_r, d_r_r = NegativeLogPMFCurvatures.apply(*ctx.saved_tensors)
        return None, weigh((on_mu, d_mu_mu), (on_r, d_mu_r)), weigh((on_mu, d_mu_r), (on_r, d_r_r))


class NegativeLogPMFCurvatures(LastDerivatives):
    """(y, mu, r) -> the second derivatives of -log pmf."""

    @staticmethod
    def forward(y: Tensor, mu: Tensor, r: Tensor) -> Three:
        """All three."""
        curvatures: Three = curvatures_operator(y, mu, r)
        return curvatures
