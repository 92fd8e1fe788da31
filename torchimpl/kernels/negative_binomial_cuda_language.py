"""Constants and elementary functions of the CUDA kernel, all float64.

Products and sums are fused where `fma` is written and nowhere else: the launcher forbids the compiler to fuse
on its own, so that the interpreter on the CPU and a GPU do the same arithmetic except for exp and log. log1p
and expm1 are written here because the interpreter has no library to call.
"""

from __future__ import annotations

import math

from torchimpl.kernels import negative_binomial as domain
from torchimpl.kernels import negative_binomial_constants as constants
from torchimpl.kernels import negative_binomial_fraction as fractions
from torchimpl.kernels import negative_binomial_regions as regions
from torchimpl.kernels.negative_binomial_cuda_triton import jit, tl

STIRLING = tl.constexpr(constants.STIRLING)
STIRLING_TERMS = tl.constexpr(len(constants.STIRLING))
LOG_MINUS_DIGAMMA = tl.constexpr(constants.LOG_MINUS_DIGAMMA)
LOG_MINUS_DIGAMMA_TERMS = tl.constexpr(len(constants.LOG_MINUS_DIGAMMA))
ATANH_NEAR = tl.constexpr(constants.ATANH_NEAR)
ATANH_NEAR_TERMS = tl.constexpr(len(constants.ATANH_NEAR))
ATANH_WIDE = tl.constexpr(constants.ATANH_WIDE)
ATANH_WIDE_TERMS = tl.constexpr(len(constants.ATANH_WIDE))
EXP_TAIL = tl.constexpr(constants.EXP_TAIL)
EXP_TAIL_TERMS = tl.constexpr(len(constants.EXP_TAIL))
NODES = tl.constexpr(constants.NODES)
WEIGHTS = tl.constexpr(constants.WEIGHTS)
NODES_COUNT = tl.constexpr(len(constants.NODES))
INVERSE_SQRT_2PI = tl.constexpr(regions.INVERSE_SQRT_2PI)
SERIES_TERMS = tl.constexpr(regions.SERIES_TERMS)
DROP = tl.constexpr(regions.QUADRATURE_DROP)
WIDEST = tl.constexpr(regions.QUADRATURE_WIDEST)
LARGEST = tl.constexpr(domain.LARGEST)
FRACTION_LIMIT = tl.constexpr(domain.FRACTION_LIMIT)
SERIES_LIMIT = tl.constexpr(domain.SERIES_LIMIT)
TERMS_0 = tl.constexpr(domain.FRACTION_TERMS[0])
TERMS_1 = tl.constexpr(domain.FRACTION_TERMS[1])
TERMS_2 = tl.constexpr(domain.FRACTION_TERMS[2])
TERMS_3 = tl.constexpr(domain.FRACTION_TERMS[3])
LINEAR_0 = tl.constexpr(domain.LINEAR_STEPS[0][0])
GROWTH_0 = tl.constexpr(domain.LINEAR_STEPS[0][1])
LINEAR_1 = tl.constexpr(domain.LINEAR_STEPS[1][0])
GROWTH_1 = tl.constexpr(domain.LINEAR_STEPS[1][1])
ROOM_LIMIT = tl.constexpr(2.0**1000)
TINY = tl.constexpr(fractions.TINY)
INFINITY = tl.constexpr(math.inf)


@jit
def horner(coefficients: tl.constexpr, terms: tl.constexpr, v: tl.tensor) -> tl.tensor:
    """Σ_j coefficients[j] · v^j."""
    total = tl.full(v.shape, coefficients[terms - 1], tl.float64)
    for j in tl.static_range(1, terms):
        total = tl.fma(total, v, tl.full(v.shape, coefficients[terms - 1 - j], tl.float64))
    return total


@jit
def picked(table: tl.constexpr, terms: tl.constexpr, i: tl.tensor) -> tl.tensor:
    """table[i]: a chain of selections by a number all lanes share, for a table needs a copy to the device."""
    value = tl.full((), table[0], tl.float64)
    for j in tl.static_range(1, terms):
        value = tl.where(i == j, tl.full((), table[j], tl.float64), value)
    return value


@jit
def log1p(x: tl.tensor) -> tl.tensor:
    """log(1+x) for finite x > -1: what 1+x rounds off is known exactly and comes back to first order."""
    u = 1.0 + x
    return tl.log(u) + (x - (u - 1.0)) / u


@jit
def expm1(x: tl.tensor) -> tl.tensor:
    """e^x - 1 for x <= 0: from -1 downwards nothing cancels, above the polynomial has no 1 to lose."""
    near = tl.maximum(x, -1.0)
    return tl.where(x > -1.0, near + near * near * horner(EXP_TAIL, EXP_TAIL_TERMS, near), tl.exp(x) - 1.0)


@jit
def log_minus_digamma(v: tl.tensor) -> tl.tensor:
    """Evaluate log z - digamma(z) - v/2 at v = 1/z, for z >= 1."""
    return v * v * horner(LOG_MINUS_DIGAMMA, LOG_MINUS_DIGAMMA_TERMS, 2.0 * v - 1.0)


@jit
def atanh_share(z: tl.tensor, w: tl.tensor, square: tl.tensor) -> tl.tensor:
    """Evaluate z - log(1+z) from w = z/(z+2) and square = w² <= 1/16."""
    return z * w - 2.0 * (w * square) * horner(ATANH_NEAR, ATANH_NEAR_TERMS, tl.minimum(square, 0.0625))


@jit
def phi1(z: tl.tensor, one_plus_z: tl.tensor) -> tl.tensor:
    """Evaluate z - log(1+z) >= 0 without cancellation; 1+z comes as a ratio, exact where z is near -1."""
    w = z / (z + 2.0)
    square = w * w
    return tl.where(square <= 0.0625, atanh_share(z, w, square), z - tl.log(one_plus_z))


@jit
def room_for_sums(largest: tl.tensor) -> tl.tensor:
    """A factor under which a sum of two numbers does not overflow: 1/4 near the largest number, else 1."""
    return tl.where(largest > ROOM_LIMIT, 0.25, 1.0).to(tl.float64)
