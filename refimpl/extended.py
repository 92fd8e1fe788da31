"""Double-doubles with an unbounded exponent, and exact sums of products, as Numba scalar functions.

A `Wide` (hi, lo, n) stands for (hi + lo) 2^(512 n) with 2^-256 <= |hi| < 2^256 (or zero): squares of 1e308,
quotients by 1e-320 and exponentials of -5000 keep all their 106 bits and neither overflow nor underflow.

An exact sum is a row of 32-bit limbs in int64 (Kulisch's accumulator): products of float64 go in as integers,
so that no cancellation, however deep, costs a bit. It is rounded once, to a `Wide`, when all terms are in.

References: U. Kulisch, "Computer Arithmetic and Validity", ch. 8 (2013).
"""

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from refimpl.arithmetic import DoubleDouble, dd_add, dd_div, dd_mul, dd_scale, kernel
from refimpl.elementary import exp_parts

Wide: TypeAlias = tuple[float, float, int]
Integers: TypeAlias = npt.NDArray[np.int64]

CHUNK = 512
_HIGH = 2.0**256
_LOW = 2.0**-256

_LIMB_BITS = 32
_LIMB = (1 << _LIMB_BITS) - 1
_HALF_BITS = 27
_HALF = (1 << _HALF_BITS) - 1
MANTISSA_BITS = 53
_SPARE_BITS = 64  # room for the sum of 2^31 products, and for its sign

_EXP_IS_ZERO = -8192.0  # e^-8192 times any product of four float64 is below the smallest subnormal


@kernel
def wide(x: DoubleDouble, n: int = 0) -> Wide:
    """Bring x 2^(512 n) into the normal form; non-finite values pass through.

    Example:
        >>> wide((2.0**600, 0.0))
        (3.094850098213451e+26, 0.0, 1)
    """
    if x[0] == 0.0 or not math.isfinite(x[0]):
        return x[0], 0.0, 0
    while abs(x[0]) >= _HIGH:
        x, n = dd_scale(x, -CHUNK), n + 1
    while abs(x[0]) < _LOW:
        x, n = dd_scale(x, CHUNK), n - 1
    return x[0], x[1], n


@kernel
def wide_neg(x: Wide) -> Wide:
    """Negate: -x, exact."""
    return -x[0], -x[1], x[2]


@kernel
def wide_add(x: Wide, y: Wide) -> Wide:
    """Sum x + y with the relative error of `dd_add`, under cancellation too."""
    if not (math.isfinite(x[0]) and math.isfinite(y[0])):
        return x[0] + y[0], 0.0, 0
    if x[0] == 0.0 or (y[0] != 0.0 and y[2] > x[2]):
        x, y = y, x
    gap = x[2] - y[2]
    if y[0] == 0.0 or gap > 1:  # |y| <= 2^-512 |x|
        return x
    return wide(dd_add((x[0], x[1]), dd_scale((y[0], y[1]), -CHUNK * gap)), x[2])


@kernel
def wide_mul(x: Wide, y: Wide) -> Wide:
    """Product x y with the relative error of `dd_mul`."""
    return wide(dd_mul((x[0], x[1]), (y[0], y[1])), x[2] + y[2])


@kernel
def wide_div(x: Wide, y: Wide) -> Wide:
    """Quotient x / y with the relative error of `dd_div`; y is not zero."""
    return wide(dd_div((x[0], x[1]), (y[0], y[1])), x[2] - y[2])


@kernel
def wide_exp(x: Wide) -> Wide:
    """Exponential of x <= 0; e^x below e^-8192 is 0."""
    if x[2] < 0:
        return 1.0, 0.0, 0  # to 2^-256
    if x[2] > 0 or x[0] < _EXP_IS_ZERO:
        return 0.0, 0.0, 0
    s, k = exp_parts((x[0], x[1]))
    chunks = k // CHUNK
    return wide(dd_scale(dd_add((1.0, 0.0), s), k - CHUNK * chunks), chunks)


@kernel
def wide_to_float(x: Wide) -> float:
    """Round to float64; 0 below the range and +-inf above it.

    Example:
        >>> wide_to_float((-1.5, 0.0, 2)), wide_to_float((1.5, 0.0, -2)) == 1.5 * 2.0**-1024
        (-inf, True)
    """
    chunks = min(max(x[2], -4), 4)
    return math.ldexp(x[0] + x[1], CHUNK * chunks)


@kernel
def split(values: npt.NDArray[np.float64], mantissas: Integers, exponents: Integers) -> tuple[int, int]:
    """Write value = mantissa 2^exponent with 53-bit integers, for flat arrays; return the exponents' range.

    Zeros do not count for the range and get its lower end; without a nonzero value it is (0, 0).
    """
    lowest, highest = 1 << 20, -(1 << 20)
    for i in range(values.size):
        fraction, exponent = math.frexp(values[i])
        mantissas[i] = np.int64(math.ldexp(fraction, MANTISSA_BITS))
        exponents[i] = exponent - MANTISSA_BITS
        if mantissas[i] != 0:
            lowest, highest = min(lowest, exponents[i]), max(highest, exponents[i])
    if lowest > highest:
        lowest, highest = 0, 0
    for i in range(values.size):
        if mantissas[i] == 0:
            exponents[i] = lowest
    return lowest, highest


@kernel
def limbs_needed(lowest: int, highest: int) -> int:
    """Limbs that hold any sum of products of numbers with exponents lowest .. highest."""
    return (2 * (highest - lowest) + 2 * MANTISSA_BITS + _SPARE_BITS) // _LIMB_BITS + 3


@kernel
def _add_shifted(limbs: Integers, value: int, shift: int, sign: int) -> None:
    """Add sign value 2^shift for 0 <= value < 2^56."""
    limb, rest = shift // _LIMB_BITS, shift % _LIMB_BITS
    low, high = (value & _LIMB) << rest, (value >> _LIMB_BITS) << rest
    limbs[limb] += sign * (low & _LIMB)
    limbs[limb + 1] += sign * ((low >> _LIMB_BITS) + (high & _LIMB))
    limbs[limb + 2] += sign * (high >> _LIMB_BITS)


@kernel
def add_product(limbs: Integers, a: int, b: int, shift: int, sign: int) -> None:
    """Add sign a b 2^shift to the exact sum, for 53-bit integers a and b and shift >= 0."""
    if a < 0:
        a, sign = -a, -sign
    if b < 0:
        b, sign = -b, -sign
    a1, a0 = a >> _HALF_BITS, a & _HALF
    b1, b0 = b >> _HALF_BITS, b & _HALF
    _add_shifted(limbs, a1 * b1, shift + 2 * _HALF_BITS, sign)
    _add_shifted(limbs, a1 * b0 + a0 * b1, shift + _HALF_BITS, sign)
    _add_shifted(limbs, a0 * b0, shift, sign)


@kernel
def round_sum(limbs: Integers, exponent: int) -> Wide:
    """Return the exact sum times 2^exponent, rounded to 2^-106 relative; the limbs are used up."""
    carry = 0
    for w in range(limbs.size):
        total = limbs[w] + carry
        limbs[w] = total & _LIMB
        carry = total >> _LIMB_BITS
    sign = 1.0
    if carry < 0:
        sign, carry = -1.0, 0
        for w in range(limbs.size):
            total = carry - limbs[w]
            limbs[w] = total & _LIMB
            carry = total >> _LIMB_BITS
    top = limbs.size - 1
    while top > 0 and limbs[top] == 0:
        top -= 1
    value = (0.0, 0.0)
    for place in range(min(5, top + 1)):  # five limbs hold at least 129 bits
        value = dd_add(value, (math.ldexp(sign * limbs[top - place], -_LIMB_BITS * place), 0.0))
    exponent += _LIMB_BITS * top
    chunks = exponent // CHUNK
    return wide(dd_scale(value, exponent - CHUNK * chunks), chunks)
