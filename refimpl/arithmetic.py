"""Error-free transformations and double-double arithmetic, as Numba scalar functions.

A double-double is a tuple `(hi, lo)` of float64 that stands for the exact sum hi + lo, |lo| <= ulp(hi) / 2:
about 106 significant bits. Below, u = 2^-53. Every function compiles with `kernel` (no fast-math, IEEE
division), works when called from Python, and inlines when called from another kernel.

Range: sums are exact everywhere. A product is exact while |a b| >= 2^-968; below, its low part falls under
the smallest subnormal. Bring operands near one first (`dd_frexp`, `dd_scale`) where such products count.
Non-finite values keep a low part of 0, so that an overflow stays inf and never turns into NaN.

References: Knuth, TAOCP vol. 2, 4.2.2; Dekker, Numer. Math. 18 (1971); Joldes, Muller, Popescu, "Tight and
rigorous error bounds for basic building blocks of double-word arithmetic", ACM TOMS 44 (2017).
"""

import math
from fractions import Fraction
from typing import Any, TypeAlias

from numba import njit, types
from numba.extending import intrinsic, overload

DoubleDouble: TypeAlias = tuple[float, float]

# IEEE division (x / 0 is inf, not an exception) and no re-association: what the proofs below assume
kernel = njit(cache=True, error_model="numpy")

FLOAT64_MAX = math.ldexp(1.0 - 2.0**-53, 1024)


@intrinsic
def _llvm_fma(typing_context: Any, a: Any, b: Any, c: Any) -> Any:  # noqa: ARG001 - numba passes it
    """llvm.fma.f64: one machine instruction, or the C library's exact fma where the processor has none."""
    signature = types.float64(types.float64, types.float64, types.float64)

    def code(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return signature, code


def fma(a: float, b: float, c: float) -> float:
    """Fused a b + c, with one rounding.

    Called from Python it goes through exact fractions (finite arguments only); in kernels it is one
    instruction.

    Example:
        >>> fma(1 + 2.0**-30, 1 - 2.0**-30, -1.0) == -(2.0**-60)
        True
    """
    return float(Fraction(a) * Fraction(b) + Fraction(c))


@overload(fma)
def _fma_in_kernels(a: float, b: float, c: float) -> Any:  # noqa: ARG001 - the names are fma's
    def implementation(a: float, b: float, c: float) -> float:
        return _llvm_fma(float(a), float(b), float(c))  # type: ignore[call-arg]  # numba adds the context

    return implementation


@kernel
def two_sum(a: float, b: float) -> DoubleDouble:
    """(s, e) with s = fl(a + b) and s + e = a + b exactly.

    Example:
        >>> two_sum(1.0, 2.0**-60) == (1.0, 2.0**-60)
        True
    """
    total = a + b
    b_seen = total - a
    error = (a - (total - b_seen)) + (b - b_seen)
    if error != error:  # the sum is inf or NaN  # noqa: PLR0124 - the NaN test that costs one comparison
        error = 0.0
    return total, error


@kernel
def quick_two_sum(a: float, b: float) -> DoubleDouble:
    """`two_sum` for |a| >= |b| (or a = 0), in three operations."""
    total = a + b
    error = b - (total - a)
    if error != error:  # the sum is inf or NaN  # noqa: PLR0124 - as above
        error = 0.0
    return total, error


@kernel
def two_prod(a: float, b: float) -> DoubleDouble:
    """(p, e) with p = fl(a b) and p + e = a b exactly while |a b| >= 2^-968; (p, 0) where p is not finite.

    Example:
        >>> two_prod(1 + 2.0**-30, 1 - 2.0**-30) == (1.0, -(2.0**-60))
        True
    """
    product = a * b
    if not math.isfinite(product):
        return product, 0.0
    return product, fma(a, b, -product)


@kernel
def dd(a: float) -> DoubleDouble:
    """The double-double of one float64."""
    return float(a), 0.0


@kernel
def to_float(x: DoubleDouble) -> float:
    """Round hi + lo once to float64."""
    return x[0] + x[1]


@kernel
def dd_add(x: DoubleDouble, y: DoubleDouble) -> DoubleDouble:
    """Sum x + y, relative error <= 3u^2 / (1 - 4u), under cancellation too (Joldes et al., algorithm 6).

    Example:
        >>> dd_add((1.0, 2.0**-60), (-1.0, 2.0**-70)) == (2.0**-60 + 2.0**-70, 0.0)
        True
    """
    high, high_error = two_sum(x[0], y[0])
    low, low_error = two_sum(x[1], y[1])
    high, middle = quick_two_sum(high, high_error + low)
    return quick_two_sum(high, low_error + middle)


@kernel
def dd_sub(x: DoubleDouble, y: DoubleDouble) -> DoubleDouble:
    """Difference x - y, with the error of `dd_add`."""
    return dd_add(x, (-y[0], -y[1]))


@kernel
def dd_mul(x: DoubleDouble, y: DoubleDouble) -> DoubleDouble:
    """Product x y, relative error <= 5u^2 (Joldes et al., algorithm 12), in the range named above.

    Example:
        >>> dd_mul((3.0, 0.0), (1.0, 2.0**-60)) == (3.0, 3 * 2.0**-60)
        True
    """
    product, error = two_prod(x[0], y[0])
    if not math.isfinite(product):
        return product, 0.0
    cross = x[0] * y[1] + (x[1] * y[0] + x[1] * y[1])
    return quick_two_sum(product, error + cross)


@kernel
def dd_div(x: DoubleDouble, y: DoubleDouble) -> DoubleDouble:
    """Quotient x / y, relative error <= 15u^2 (Joldes et al., algorithm 17); x / 0 as IEEE says.

    Long division with two float64 digits; exact where x, y and x / y are float64.

    Example:
        >>> dd_div((1.0, 0.0), (8.0, 0.0))
        (0.125, 0.0)
    """
    first = x[0] / y[0]
    if first == 0.0 or not math.isfinite(first) or not math.isfinite(y[0]):
        return first, 0.0
    remainder = dd_sub(x, dd_mul(y, (first, 0.0)))
    return quick_two_sum(first, remainder[0] / y[0])


@kernel
def dd_scale(x: DoubleDouble, n: int) -> DoubleDouble:
    """Scaled x 2^n: exact, except where a part becomes subnormal (rounded) or exceeds the maximum (inf)."""
    high = math.ldexp(x[0], n)
    if not math.isfinite(high):
        return high, 0.0
    return quick_two_sum(high, math.ldexp(x[1], n))


@kernel
def dd_frexp(x: DoubleDouble) -> tuple[DoubleDouble, int]:
    """Extended-exponent form (m, n): x = m 2^n, 1/2 <= |m.hi| < 1; n = 0 for 0 and non-finite x.

    Exact, except for what of lo is 2^1074 times smaller than hi.

    Products and quotients of such m neither overflow nor underflow; add or subtract the exponents beside
    them and return to float64 once, with `to_float_scaled`.

    Example:
        >>> dd_frexp((12.0, 0.0))
        ((0.75, 0.0), 4)
    """
    if x[0] == 0.0 or not math.isfinite(x[0]):
        return (x[0], 0.0), 0
    mantissa, exponent = math.frexp(x[0])
    return (mantissa, math.ldexp(x[1], -exponent)), exponent


@kernel
def to_float_scaled(x: DoubleDouble, n: int) -> float:
    """Value of x 2^n rounded to float64 (<= 1 ulp, subnormals included); +-inf beyond the maximum.

    Example:
        >>> to_float_scaled((0.5, 0.0), 1025), to_float_scaled((0.75, 0.0), -1074)
        (inf, 5e-324)
    """
    return to_float(dd_scale(x, n))
