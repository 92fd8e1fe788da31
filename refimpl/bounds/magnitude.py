"""Non-negative arrays with their own exponents, for bounds that neither overflow nor underflow."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refimpl.bounds.precision import Array

_ZERO_EXPONENT = -(2**40)  # below every other one, so that a zero never decides an alignment
_LARGEST = np.finfo(np.float64).max
_SLACK = 1.0 + 2.0**-40  # more than all roundings made inside these few float64 operations


@dataclass(frozen=True, eq=False)
class Magnitude:
    """Array of mantissa 2^exponent with mantissa in [1/2, 1) or 0, closed under +, * and sum.

    Each operation has a relative error of a few 2^-53, which `to_float` pays for.
    """

    mantissa: Array
    exponent: NDArray[np.int64]

    def __add__(self, other: "Magnitude") -> "Magnitude":
        top = np.maximum(self.exponent, other.exponent)
        return _normalised(self._shifted(top) + other._shifted(top), top)

    def __mul__(self, other: "Magnitude") -> "Magnitude":
        return _normalised(self.mantissa * other.mantissa, self.exponent + other.exponent)

    def times(self, factor: ArrayLike) -> "Magnitude":
        """Product with a plain float or array."""
        return self * magnitude(factor)

    def sum(self) -> "Magnitude":
        """Sum over all elements, 0-dim."""
        top = np.asarray(self.exponent.max(initial=_ZERO_EXPONENT))
        return _normalised(np.asarray(self._shifted(top).sum()), top)

    def to_float(self) -> Array:
        """Float64, not below the true number while that is normal; inf beyond the maximum."""
        with np.errstate(over="ignore"):
            return np.asarray(np.ldexp(self.mantissa * _SLACK, np.clip(self.exponent, -3000, 3000)))

    def beside(self, exact: "Magnitude") -> Array:
        """Float64 of this bound on |computed - exact|, where |exact| may exceed the float64 range.

        There the oracle reports the largest float64 (or inf), and a computed result is at least
        exact (1 - bound / exact): the same relative error, taken of the maximum, holds after saturation too.
        """
        top = np.maximum(exact.exponent, _ZERO_EXPONENT // 2)
        relative = self._shifted(top) / np.where(exact.mantissa > 0.0, exact.mantissa, 1.0)
        beyond = np.isinf(exact.to_float()) & (relative < 1.0)
        return np.where(beyond, np.minimum(relative, 1.0) * _LARGEST, self.to_float())

    def _shifted(self, exponent: NDArray[np.int64]) -> Array:
        with np.errstate(over="ignore"):
            return np.asarray(np.ldexp(self.mantissa, np.clip(self.exponent - exponent, -3000, 3000)))


def magnitude(values: ArrayLike, exponent: ArrayLike = 0) -> Magnitude:
    """|values| 2^exponent as a Magnitude.

    Example:
        >>> huge = magnitude([3e300, 0.0]) * magnitude([-3e300, 5.0])
        >>> bool((huge * magnitude(1e-300)).sum().to_float() > 8.9e300)
        True
    """
    return _normalised(np.abs(np.asarray(values, np.float64)), np.asarray(exponent, np.int64))


def difference(a: Array, b: Array) -> Magnitude:
    """|a - b|, also where the float64 difference overflows.

    Example:
        >>> (difference(np.array([1e308]), np.array([-1e308])) * magnitude(0.25)).to_float() >= 5e307
        array([ True])
    """
    halved = np.minimum(np.abs(a), np.abs(b)) > 1.0
    scale = np.where(halved, 0.5, 1.0)
    return magnitude(a * scale - b * scale, halved)


def _normalised(mantissa: Array, exponent: NDArray[np.int64]) -> Magnitude:
    fraction, shift = np.frexp(mantissa)
    zero = _ZERO_EXPONENT * np.ones_like(exponent)
    return Magnitude(np.asarray(fraction), np.where(fraction == 0.0, zero, exponent + shift))
