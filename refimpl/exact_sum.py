"""Exact sums of products of up to four float64, and scaled sums of squares, as Numba scalar loops.

The accumulator is one long fixed-point number (Kulisch): `LIMBS` int64 limbs of 32 bits, where bit 0 of
limb 0 stands for 2^-LOWEST. Every product of four finite float64 (and of exact differences of two) fits
without rounding, so a sum is exact whatever cancels, for up to 2^26 terms. It is read out once, as a
double-double mantissa with its own exponent.

Quantities that may leave the float64 range are kept as (mantissa, n), the double-double mantissa m and value
m 2^n; arrays of them as three arrays (high, low, exponent).
"""

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from refimpl.arithmetic import (
    FLOAT64_MAX,
    DoubleDouble,
    dd,
    dd_add,
    dd_div,
    dd_frexp,
    dd_mul,
    dd_scale,
    kernel,
    to_float_scaled,
    two_prod,
    two_sum,
)

Scaled: TypeAlias = tuple[DoubleDouble, int]
FloatArray: TypeAlias = NDArray[np.float64]
IntArray: TypeAlias = NDArray[np.int64]

LIMB_BITS = 32
LIMB_MASK = (1 << LIMB_BITS) - 1
LOWEST = (
    137 * LIMB_BITS
)  # 4 * 1074 bits of four subnormal factors, and a mantissa's trailing zeros below them
LIMBS = 137 + 131  # 4 * 1025 bits of four factors up to 2^1025, and the carries of 2^26 terms
PIECE_BITS = 27  # half a mantissa: shifted by up to 31 bits it stays inside an int64
PIECE_MASK = (1 << PIECE_BITS) - 1


@kernel
def _add_piece(limbs: IntArray, sign: int, piece: int, position: int) -> None:
    """Add sign * piece at the bit `position`."""
    index = position // LIMB_BITS
    shifted = piece << (position % LIMB_BITS)
    limbs[index] += sign * (shifted & LIMB_MASK)
    limbs[index + 1] += sign * (shifted >> LIMB_BITS)


@kernel
def add_float(limbs: IntArray, a: float, n: int) -> None:
    """Add a 2^n exactly, a finite."""
    if a == 0.0:
        return
    mantissa, exponent = math.frexp(a)
    integer = int(math.ldexp(abs(mantissa), 53))
    sign = 1 if mantissa > 0.0 else -1
    position = exponent + n - 53 + LOWEST
    _add_piece(limbs, sign, integer & PIECE_MASK, position)
    _add_piece(limbs, sign, integer >> PIECE_BITS, position + PIECE_BITS)


@kernel
def add_product(limbs: IntArray, a: float, b: float, c: float, d: float, n: int) -> None:
    """Add a b c d 2^n exactly, all factors finite (pass 1.0 for those not needed)."""
    a, exponent_a = math.frexp(a)
    b, exponent_b = math.frexp(b)
    c, exponent_c = math.frexp(c)
    d, exponent_d = math.frexp(d)
    n += exponent_a + exponent_b + exponent_c + exponent_d
    for of_two in two_prod(a, b):
        for of_three in two_prod(of_two, c):
            for of_four in two_prod(of_three, d):
                add_float(limbs, of_four, n)


@kernel
def _carry(limbs: IntArray) -> None:
    """Bring every limb but the last into [0, 2^32); the last one then carries the sign."""
    for index in range(LIMBS - 1):
        limbs[index + 1] += limbs[index] >> LIMB_BITS
        limbs[index] &= LIMB_MASK


@kernel
def read_sum(limbs: IntArray) -> Scaled:
    """Read the accumulated sum as (mantissa, n), relative error < 2^-104; clears the accumulator."""
    _carry(limbs)
    sign = 1.0
    if limbs[LIMBS - 1] < 0:
        sign = -1.0
        for index in range(LIMBS):
            limbs[index] = -limbs[index]
        _carry(limbs)
    top = LIMBS - 1
    while top > 0 and limbs[top] == 0:
        top -= 1
    total = dd(0.0)
    for depth in range(min(5, top + 1)):  # five limbs hold at least 129 significant bits
        total = dd_add(total, dd(math.ldexp(sign * limbs[top - depth], -LIMB_BITS * depth)))
    for index in range(LIMBS):
        limbs[index] = 0
    mantissa, exponent = dd_frexp(total)
    return mantissa, exponent + LIMB_BITS * top - LOWEST


@kernel
def exact_difference(a: float, b: float) -> Scaled:
    """Difference a - b = x 2^n, exact for finite a and b; n is 1 where it could overflow, else 0."""
    if min(abs(a), abs(b)) > 2.0**900:
        return two_sum(0.5 * a, -0.5 * b), 1
    return two_sum(a, -b), 0


@kernel
def saturated(x: DoubleDouble, n: int) -> float:
    """Value of x 2^n rounded to float64; a finite x saturates at +-the largest float64, inf and NaN stay."""
    value = to_float_scaled(x, n)
    if math.isinf(value) and math.isfinite(x[0]):
        return math.copysign(FLOAT64_MAX, value)
    return value


@kernel
def squares(high: FloatArray, low: FloatArray, exponent: IntArray) -> FloatArray:
    """Elementwise (m 2^n)^2, rounded and saturated."""
    result = np.empty(high.size)
    for i in range(high.size):
        element = (high[i], low[i])
        result[i] = saturated(dd_mul(element, element), 2 * exponent[i])
    return result


@kernel
def mean_of_squares(high: FloatArray, low: FloatArray, exponent: IntArray, count: int) -> float:
    """Sum of (m_i 2^(n_i))^2, divided by count, rounded once and saturated; 0 where count is 0.

    The elements share the largest exponent, so the sum neither overflows nor underflows: what is lost of an
    element 2^500 times smaller than the largest one is below 2^-1000 of the sum. Every term is positive, so
    the relative error is at most 4u^2 for each addition.
    """
    if count == 0:
        return 0.0
    top = 0
    any_counts = False
    for i in range(high.size):
        if high[i] != 0.0 and (not any_counts or exponent[i] > top):
            top = exponent[i]
            any_counts = True
    total = dd(0.0)
    for i in range(high.size):
        element = dd_scale((high[i], low[i]), exponent[i] - top)
        total = dd_add(total, dd_mul(element, element))
    return saturated(dd_div(total, dd(float(count))), 2 * top)


@kernel
def scaled_product(x: DoubleDouble, n: int, factor: float, count: int) -> float:
    """Value of x 2^n factor / count, rounded once, overflowing to +-inf; 0 where factor or count is 0."""
    if count == 0 or factor == 0.0:
        return 0.0
    mantissa, exponent = dd_frexp(dd(factor))
    product = dd_div(dd_mul(x, mantissa), dd(float(count)))
    return to_float_scaled(product, n + exponent)
