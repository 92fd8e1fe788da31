"""The working memory of the CPU kernel: named rows of LANES numbers, one lane per element.

All rows live in one flat array at constant offsets, which is how the compiler sees that they do not overlap.
Every loop runs over all LANES lanes, whether they are filled or not: no lane is ever handled by a remainder
loop, so an element's result depends on nothing but its own arguments.
"""

from __future__ import annotations

from numba import njit

from torchimpl.kernels.elementary_cpu import CONTRACT, fused, inlined, log, log_and, polynomial, sum_error
from torchimpl.kernels.negative_binomial_constants import ATANH_NEAR, ATANH_WIDE, LOG_MINUS_DIGAMMA

LANES = 32
# a function over all lanes
stage = njit(error_model="numpy", fastmath=set(CONTRACT), nogil=True)

# arguments and results
(B, MU, R, GROWTH, CDF, SF, D_MU, D_R) = range(0, 8 * LANES, LANES)
# what `prefactor` leaves, named as the fields of the plain-torch `Prefactor`
(X, Y, ROOM, S, C, DIFF, BEND, SHIFT, SCALE, DENSITY, SCORE, EXPONENT) = range(8 * LANES, 20 * LANES, LANES)
# free for each region
(T0, T1, T2, T3, T4, T5, T6, T7, T8, T9, T10, T11, T12, T13, T14, T15, T16) = range(
    20 * LANES, 37 * LANES, LANES
)
SIZE = 37 * LANES

# 1+z as a ratio is better than 1 + z below
NEAR_MINUS_1 = 2.0**-10

atanh_near, atanh_wide = polynomial(ATANH_NEAR), polynomial(ATANH_WIDE)
digamma_core = polynomial(LOG_MINUS_DIGAMMA)


@inlined
def log_minus_digamma(v: float) -> float:
    """Evaluate log z - digamma(z) - v/2 at v = 1/z, for z >= 1."""
    return v * v * digamma_core(2.0 * v - 1.0)


@inlined
def phi1_near(z: float, w: float, square: float) -> float:
    """Evaluate z - log(1+z) for w = z/(2+z), w² <= 1/16."""
    return z * w - 2.0 * (w * square) * atanh_near(square)


@inlined
def phi1(z: float, one_plus_z: float) -> float:
    """Evaluate z - log(1+z) >= 0 without cancellation; 1+z comes as a ratio, exact where z is near -1."""
    w = z / (z + 2.0)
    square = w * w
    near = phi1_near(z, w, min(square, 0.0625))
    return near if square <= 0.0625 else z - log(one_plus_z)


@inlined
def phi1_sharp(z: float, one_plus_z: float) -> float:
    """Like `phi1`, to about 1 rounding: its product with a large number is an exponent."""
    base = z + 2.0
    w = z / base
    square = w * w
    # z·w is most of it: what rounding took from w and from the product is put back
    lost = (fused(-w, base, z) - w * sum_error(z, 2.0, base)) / base
    first = z * w
    rest = fused(z, w, -first) + z * lost
    bounded = min(square, 0.25)
    near = first + (rest - 2.0 * (w * bounded) * atanh_wide(bounded))
    use_ratio = one_plus_z < NEAR_MINUS_1
    u = 1.0 + z
    slip = 0.0 if use_ratio else sum_error(1.0, z, u) / u
    far = z - log_and(one_plus_z if use_ratio else u, slip)
    return near if square <= 0.25 else far


@inlined
def room_for_sums(largest: float) -> float:
    """A factor under which sums of two numbers up to `largest` do not overflow."""
    return 0.25 if largest > 2.0**1000 else 1.0
