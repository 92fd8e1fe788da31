"""Exponential and logarithm of double-doubles, as Numba scalar functions.

Relative error below 2^-98 (2^-103 measured) wherever the low part of the result does not underflow
(|result| >= 2^-960). Two reductions do the work, and neither loses a small result:

* exp: x = k ln 2 + r with |r| <= ln(2) / 2, then expm1(r) = expm1(r / 2^6) doubled six times by
  expm1(2s) = expm1(s) (2 + expm1(s)), which never adds 1 to something small;
* log1p: one Newton step from the float64 value, l + (f - expm1(l)) / (1 + expm1(l)), quadratic in 2^-53.

The constants are computed here from exact fractions, so that none is copied from anywhere.
"""

import math
from fractions import Fraction

from refimpl.arithmetic import (
    DoubleDouble,
    dd_add,
    dd_div,
    dd_frexp,
    dd_mul,
    dd_scale,
    dd_sub,
    kernel,
)


def _split(value: Fraction) -> DoubleDouble:
    high = float(value)
    return high, float(value - Fraction(high))


_LN2 = sum((Fraction(1, k << k) for k in range(1, 200)), Fraction(0))  # ln 2 = sum 1 / (k 2^k)

# the high part ends in 21 zero bits, so that k times it is exact for |k| < 2^21
_LN2_HIGH = math.ldexp(math.floor(_LN2 * 2**32), -32)
_LN2_REST = _split(_LN2 - Fraction(_LN2_HIGH))
_PER_LN2 = float(1 / _LN2)

_HALVINGS = 6
_TERMS = 14  # (ln(2) / 2^7)^13 / 14! < 2^-133, far below the last bit
_INVERSE_FACTORIALS = tuple(_split(Fraction(1, math.factorial(n))) for n in range(_TERMS, 0, -1))

_TINY = 2.0**-120  # below, expm1(x) = log1p(x) = x to 2^-119
_LOG1P_DIRECT = 0.4  # |f| up to here goes to the Newton step as it is


@kernel
def _multiple_of_ln2(k: float) -> tuple[float, DoubleDouble]:
    """Return k ln 2 as an exact float64 plus a double-double, for an integer |k| < 2^21."""
    return k * _LN2_HIGH, dd_mul(_LN2_REST, (k, 0.0))


@kernel
def _expm1_reduced(r: DoubleDouble) -> DoubleDouble:
    """Return expm1(r) for |r| <= 0.4, relative error a few 2^-104."""
    if abs(r[0]) < _TINY:
        return r
    s = dd_scale(r, -_HALVINGS)
    series = _INVERSE_FACTORIALS[0]
    for coefficient in _INVERSE_FACTORIALS[1:]:
        series = dd_add(coefficient, dd_mul(series, s))
    value = dd_mul(series, s)
    for _ in range(_HALVINGS):
        value = dd_mul(value, dd_add((2.0, 0.0), value))
    return value


@kernel
def exp_parts(x: DoubleDouble) -> tuple[DoubleDouble, int]:
    """Return (s, k) with exp(x) = (1 + s) 2^k, |s| < 0.42: no overflow and no underflow for |x| < 2^20.

    Args:
        x: double-double, |x| < 2^20.

    Example:
        >>> exp_parts((0.0, 0.0))
        ((0.0, 0.0), 0)
    """
    k = math.floor(x[0] * _PER_LN2 + 0.5)
    exact, rest = _multiple_of_ln2(float(k))
    return _expm1_reduced(dd_sub(dd_sub(x, (exact, 0.0)), rest)), int(k)


@kernel
def dd_exp(x: DoubleDouble) -> DoubleDouble:
    """Exponential e^x; 0 and inf beyond the range of float64.

    Args:
        x: double-double.

    Returns:
        Double-double, relative error < 2^-98.

    Example:
        >>> dd_exp((1.0, 0.0))[0]
        2.718281828459045
    """
    if math.isnan(x[0]):
        return x
    if x[0] > 710.0:
        return math.inf, 0.0
    if x[0] < -746.0:
        return 0.0, 0.0
    s, k = exp_parts(x)
    return dd_scale(dd_add((1.0, 0.0), s), k)


@kernel
def dd_expm1(x: DoubleDouble) -> DoubleDouble:
    """Accurate e^x - 1, relative error < 2^-98 also for tiny x.

    Args:
        x: double-double.

    Returns:
        Double-double; -1 at -inf, inf beyond the range of float64.

    Example:
        >>> dd_expm1((1e-300, 0.0))
        (1e-300, 0.0)
    """
    if abs(x[0]) < _TINY:
        return x
    if x[0] < -80.0:  # e^x < 2^-115
        return -1.0, 0.0
    if x[0] > 80.0 or math.isnan(x[0]):
        return dd_exp(x)
    s, k = exp_parts(x)
    if k == 0:
        return s
    return dd_sub(dd_scale(dd_add((1.0, 0.0), s), k), (1.0, 0.0))


@kernel
def _expm1_reduced_wide(x: DoubleDouble) -> DoubleDouble:
    """Return expm1(x) for |x| <= 0.7, through one more doubling."""
    half = _expm1_reduced(dd_scale(x, -1))
    return dd_mul(half, dd_add((2.0, 0.0), half))


@kernel
def _log1p_reduced(f: DoubleDouble) -> DoubleDouble:
    """Return log(1 + f) for |f| <= 0.42 by one Newton step, with its second-order term."""
    if abs(f[0]) < _TINY:
        return f
    start = math.log1p(f[0])
    power = _expm1_reduced_wide((start, 0.0))
    step = dd_div(dd_sub(f, power), dd_add((1.0, 0.0), power))
    correction = dd_sub(step, (0.5 * step[0] * step[0], 0.0))
    return dd_add((start, 0.0), correction)


@kernel
def dd_log(x: DoubleDouble) -> DoubleDouble:
    """Natural logarithm of x, relative error < 2^-98 also next to x = 1.

    Args:
        x: double-double of any magnitude, subnormals included.

    Returns:
        Double-double; -inf at 0, NaN below.

    Example:
        >>> dd_log((1.0, 0.0))
        (0.0, 0.0)
    """
    if not (0.0 < x[0] < math.inf):
        return (math.log(x[0]) if x[0] > 0.0 else (-math.inf if x[0] == 0.0 else math.nan)), 0.0
    mantissa, exponent = dd_frexp(x)
    if mantissa[0] < math.sqrt(0.5):
        mantissa, exponent = dd_scale(mantissa, 1), exponent - 1
    reduced = _log1p_reduced(dd_sub(mantissa, (1.0, 0.0)))
    if exponent == 0:
        return reduced
    exact, rest = _multiple_of_ln2(float(exponent))
    return dd_add((exact, 0.0), dd_add(rest, reduced))


@kernel
def dd_log1p(x: DoubleDouble) -> DoubleDouble:
    """Accurate log(1 + x), relative error < 2^-98 also for tiny x.

    Args:
        x: double-double.

    Returns:
        Double-double; -inf at -1, NaN below.

    Example:
        >>> dd_log1p((-1e-300, 0.0))
        (-1e-300, 0.0)
    """
    if abs(x[0]) <= _LOG1P_DIRECT:
        return _log1p_reduced(x)
    return dd_log(dd_add((1.0, 0.0), x))
