"""Double-doubles with an exponent of their own: products of many tiny or huge factors never leave the range.

A scaled number is a tuple `(hi, lo, n)` that stands for (hi + lo) 2^n with 1/2 <= |hi| < 1 (or hi = lo = 0):
106 significant bits and an exponent range that no sum or product of this package exhausts.
"""

import math
from typing import TypeAlias

from refimpl.arithmetic import DoubleDouble, dd_add, dd_div, dd_mul, dd_scale, kernel, two_sum
from refimpl.elementary import dd_exp, dd_expm1, dd_log, dd_log1p

Scaled: TypeAlias = tuple[float, float, int]

LN2_HI = 0.6931471805599453
LN2_LO = 2.3190468138462996e-17  # ln 2 - LN2_HI
# 2^-120 relative to one is far below the last bit of a double-double
NEGLIGIBLE_EXPONENT = -120


@kernel
def normalised(hi: float, lo: float, n: int) -> Scaled:
    """(hi + lo) 2^n with its leading part brought into [1/2, 1).

    Example:
        >>> normalised(12.0, 0.0, 0)
        (0.75, 0.0, 4)
    """
    if hi == 0.0 or not math.isfinite(hi):
        return hi, 0.0, 0
    mantissa, shift = math.frexp(hi)
    return mantissa, math.ldexp(lo, -shift), n + shift


@kernel
def sc(a: float) -> Scaled:
    """The scaled number of one float64."""
    return normalised(a, 0.0, 0)


@kernel
def sc_sum(a: float, b: float) -> Scaled:
    """The exact sum of two float64 whose sum does not overflow."""
    hi, lo = two_sum(a, b)
    return normalised(hi, lo, 0)


@kernel
def sc_neg(x: Scaled) -> Scaled:
    """Negate: -x, exact."""
    return -x[0], -x[1], x[2]


@kernel
def sc_mul(x: Scaled, y: Scaled) -> Scaled:
    """Product x y, relative error <= 5u^2."""
    hi, lo = dd_mul((x[0], x[1]), (y[0], y[1]))
    return normalised(hi, lo, x[2] + y[2])


@kernel
def sc_div(x: Scaled, y: Scaled) -> Scaled:
    """Quotient x / y, relative error <= 10u^2."""
    hi, lo = dd_div((x[0], x[1]), (y[0], y[1]))
    return normalised(hi, lo, x[2] - y[2])


@kernel
def sc_add(x: Scaled, y: Scaled) -> Scaled:
    """Sum x + y, relative error <= 4u^2, under cancellation too.

    Example:
        >>> sc_add((0.75, 0.0, 2), (0.5, 0.0, -1)) == sc(3.25)
        True
    """
    if y[0] == 0.0:
        return x
    if x[0] == 0.0:
        return y
    if x[2] < y[2]:
        x, y = y, x
    shift = y[2] - x[2]
    if shift < -900:  # not even the last bit of x could see it
        return x
    hi, lo = dd_add((x[0], x[1]), (math.ldexp(y[0], shift), math.ldexp(y[1], shift)))
    return normalised(hi, lo, x[2])


@kernel
def sc_sub(x: Scaled, y: Scaled) -> Scaled:
    """Difference x - y, with the error of `sc_add`."""
    return sc_add(x, sc_neg(y))


@kernel
def sc_pair(x: Scaled) -> DoubleDouble:
    """The double-double nearest to x; parts below the subnormals vanish, beyond the maximum is inf.

    Example:
        >>> sc_pair((0.75, 0.0, 2))
        (3.0, 0.0)
    """
    return dd_scale((x[0], x[1]), min(max(x[2], -3000), 3000))


@kernel
def sc_log(x: Scaled) -> Scaled:
    """Natural logarithm of x > 0; a mantissa near one keeps the digits of log(1 +- small)."""
    hi, lo, n = x
    if hi < 0.7071067811865476:
        hi, lo, n = 2.0 * hi, 2.0 * lo, n - 1
    log_hi, log_lo = dd_log((hi, lo))
    hi, lo = dd_add(dd_mul((float(n), 0.0), (LN2_HI, LN2_LO)), (log_hi, log_lo))
    return normalised(hi, lo, 0)


@kernel
def sc_exp(x: Scaled) -> Scaled:
    """exp(x) for x <= 0 of any size; 0 below exp(-2^40), which nothing in this package can tell from 0."""
    if x[2] < NEGLIGIBLE_EXPONENT:
        return sc_add(sc(1.0), x)
    if x[2] > 40:
        return sc(0.0)
    x_hi, x_lo = sc_pair(x)
    turns = math.floor(x_hi / LN2_HI + 0.5)
    shift_hi, shift_lo = dd_mul((turns, 0.0), (LN2_HI, LN2_LO))
    hi, lo = dd_exp(dd_add((x_hi, x_lo), (-shift_hi, -shift_lo)))
    return normalised(hi, lo, int(turns))


@kernel
def sc_one_minus_exp(x: Scaled) -> Scaled:
    """1 - exp(x) for x <= 0, with relative accuracy near 0."""
    if x[2] < NEGLIGIBLE_EXPONENT:
        return sc_neg(x)
    if x[0] * math.ldexp(1.0, min(x[2], 60)) < -60.0:
        return sc_sub(sc(1.0), sc_exp(x))
    hi, lo = dd_expm1(sc_pair(x))
    return normalised(-hi, -lo, 0)


@kernel
def sc_log1p(x: Scaled) -> Scaled:
    """log(1 + x) for x >= 0 of any size."""
    if x[2] < NEGLIGIBLE_EXPONENT:
        return x
    if x[2] > -NEGLIGIBLE_EXPONENT:
        return sc_log(x)
    hi, lo = dd_log1p(sc_pair(x))
    return normalised(hi, lo, 0)


@kernel
def sc_log_ratio_score(x: Scaled) -> Scaled:
    """log(1 + x) - x / (1 + x) for x >= 0, by its series near 0, where it is x^2/2."""
    if x[2] > -8:
        return sc_sub(sc_log1p(x), sc_div(x, sc_add(sc(1.0), x)))
    # sum over n >= 2 of (-x)^n (n-1)/n, from n = 18 down: 2^(-8 * 17) is below the last bit
    total = sc(0.0)
    for n in range(18, 1, -1):
        coefficient_hi, coefficient_lo = dd_div((float(n - 1), 0.0), (float(n), 0.0))
        total = sc_sub(normalised(coefficient_hi, coefficient_lo, 0), sc_mul(x, total))
    return sc_mul(sc_mul(x, x), total)


@kernel
def sc_ratio_below(x: Scaled, y: Scaled, factor: float, threshold: float) -> bool:
    """Whether |x| factor < threshold |y|, in plain float64: a stopping rule, not a result."""
    if y[0] == 0.0:
        return x[0] == 0.0
    shift = min(max(x[2] - y[2], -1000), 1000)
    return abs(math.ldexp(x[0], shift)) * factor < threshold * abs(y[0])
