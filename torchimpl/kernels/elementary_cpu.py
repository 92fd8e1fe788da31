"""exp, expm1, log and log1p as straight-line code: loops over them become vector instructions.

A call of the C library keeps a loop scalar. These functions hold nothing but arithmetic, selects and bit
operations, each within 1 ulp (expm1: 2), tested against 50 digits. They are inlined into the loops of the
compiled kernels; `inlined` and `polynomial` are how those kernels write their own.

The only relaxation of IEEE arithmetic is contraction (a·b+c may round once): infinities and NaN are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from numba import njit, types
from numba.extending import intrinsic

from torchimpl.kernels.negative_binomial_constants import ATANH_CORE, EXP_CORE, LN2_HIGH, LN2_LOW

CONTRACT = ("contract",)
inlined = njit(forceinline=True, error_model="numpy", fastmath=set(CONTRACT))

LOG2_E = 1.0 / math.log(2.0)
# adding it leaves the nearest integer in the lowest bits
ROUNDER = 1.5 * 2.0**52
ROUNDER_BITS = 0x4338000000000000
# bits of 2^52, of 1 and of sqrt(1/2), and the mask of a mantissa
TWO_52_BITS = 0x4330000000000000
ONE_BITS = 0x3FF0000000000000
ROOT_HALF_BITS = 0x3FE6A09E667F3BCD
MANTISSA = 0x000FFFFFFFFFFFFF
# 2^52 and the bias of the exponent
TWO_52_AND_BIAS = 2.0**52 + 1023.0
SMALLEST_NORMAL = 2.0**-1022
# beyond these, exp is 0 and inf, expm1 is -1
EXP_LOWEST, EXP_HIGHEST, EXPM1_LOWEST = -746.0, 710.0, -40.0


def instruction(define: Callable[..., Any]) -> Callable[..., Any]:
    """Numba's `intrinsic`, typed as what kernels call."""
    compiled: Callable[..., Any] = intrinsic(define)
    return compiled


@instruction
def bits_of(_context: Any, _x: Any) -> Any:
    """The 64 bits of a float64, as an int64."""

    def code(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.int64))

    return types.int64(types.float64), code


@instruction
def from_bits(_context: Any, _bits: Any) -> Any:
    """The float64 of 64 bits."""

    def code(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.float64))

    return types.float64(types.int64), code


@instruction
def floor(_context: Any, _x: Any) -> Any:
    """The largest integer not above x, as a float64: `math.floor` of Numba makes an int64 of it."""

    def code(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        double = context.get_value_type(types.float64)
        return builder.call(builder.module.declare_intrinsic("llvm.floor", [double]), arguments)

    return types.float64(types.float64), code


@instruction
def fused(_context: Any, _a: Any, _b: Any, _c: Any) -> Any:
    """Evaluate a·b + c with one rounding, by the C library's fma where the processor has none."""

    def code(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return types.float64(types.float64, types.float64, types.float64), code


def multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """LLVM's a·b + c, in one rounding where the processor can."""
    return builder.fadd(builder.fmul(a, b, flags=CONTRACT), c, flags=CONTRACT)


def polynomial(coefficients: Sequence[float]) -> Callable[..., float]:
    """Compile v -> Σ_j coefficients[j] v^j as Horner's scheme, without a loop."""

    @instruction
    def evaluate(_context: Any, _v: Any) -> Any:
        def code(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            last, *others = (context.get_constant(types.float64, c) for c in reversed(coefficients))
            total = last
            for coefficient in others:
                total = multiply_add(builder, total, arguments[0], coefficient)
            return total

        return types.float64(types.float64), code

    return evaluate


exp_core, atanh_core = polynomial(EXP_CORE), polynomial(ATANH_CORE)


@inlined
def power_of_two(exponent: int) -> float:
    """2^exponent for -1022 <= exponent <= 1023."""
    value: float = from_bits((exponent << 52) + ONE_BITS)
    return value


@inlined
def reduced(x: float) -> tuple[int, float]:
    """(n, e^t - 1) with x = n log 2 + t and t within half of log 2 from 0."""
    shifted = x * LOG2_E + ROUNDER
    n = shifted - ROUNDER
    t = (x - n * LN2_HIGH) - n * LN2_LOW
    return bits_of(shifted) - ROUNDER_BITS, t + t * t * exp_core(t)


@inlined
def exp(x: float) -> float:
    """e^x, subnormal results included."""
    n, growth = reduced(min(max(x, EXP_LOWEST), EXP_HIGHEST))
    # two factors: one alone could be out of range where the result is not
    half = n >> 1
    return (1.0 + growth) * power_of_two(half) * power_of_two(n - half)


@inlined
def expm1(x: float) -> float:
    """e^x - 1 for x <= 700."""
    n, growth = reduced(max(x, EXPM1_LOWEST))
    size = power_of_two(n)
    return (size - 1.0) + size * growth


@inlined
def split(x: float) -> tuple[float, float]:
    """(n, m) with x = 2^n m and m in [sqrt(1/2), sqrt(2)), for normal x > 0."""
    shifted = bits_of(x) + (ONE_BITS - ROOT_HALF_BITS)
    n = from_bits((shifted >> 52) | TWO_52_BITS) - TWO_52_AND_BIAS
    return n, from_bits((shifted & MANTISSA) + ROOT_HALF_BITS)


@inlined
def log_of_parts(n: float, f: float, rest: float) -> float:
    """Evaluate n log 2 + log(1+f) + rest; f - (f²/2 - ...) rounds last what is largest."""
    s = f / (2.0 + f)
    half_square = 0.5 * f * f
    square = s * s
    bend = s * (half_square + 2.0 * square * atanh_core(square))
    return n * LN2_HIGH - ((half_square - (bend + (n * LN2_LOW + rest))) - f)


@inlined
def sum_error(a: float, b: float, total: float) -> float:
    """What rounding took from total = a + b."""
    share = total - a
    return (a - (total - share)) + (b - share)


@inlined
def log(x: float) -> float:
    """Natural logarithm of x >= 0, subnormal x, 0 and inf included."""
    return log_and(x, 0.0)


@inlined
def log_and(x: float, rest: float) -> float:
    """Evaluate log(x) + rest, |rest| below 1e-15."""
    tiny = x < SMALLEST_NORMAL
    n, m = split(x * 2.0**54 if tiny else x)
    value = log_of_parts(n - 54.0 if tiny else n, m - 1.0, rest)
    value = -math.inf if x == 0.0 else value
    return x if x == math.inf else value


@inlined
def log1p(x: float) -> float:
    """Evaluate log(1+x) for -0.999 <= x <= 1e300."""
    u = 1.0 + x
    n, m = split(u)
    lost = (1.0 - (u - x)) if n >= 2.0 else (x - (u - 1.0))
    # where no power of two is taken out, x itself is the argument
    whole = n == 0.0
    return log_of_parts(n, x if whole else m - 1.0, 0.0 if whole else lost / u)
