"""Exact scaling by powers of two: sums of squares that neither overflow nor underflow on the way.

Powers of two are taken from and written into the exponent bits, so they are exact on every device and need no
synchronisation.
"""

from __future__ import annotations

import torch
from torch import Tensor

# floating dtype -> (integer dtype of the same width, mantissa bits, exponent bias)
_LAYOUT = {torch.float32: (torch.int32, 23, 127), torch.float64: (torch.int64, 52, 1023)}


def exponent(magnitude: Tensor) -> Tensor:
    """floor(log2(magnitude)) as integers, within the normal range of the dtype.

    Zero and subnormals give the smallest normal exponent, inf and NaN the largest.

    Args:
        magnitude: float32 or float64, >= 0, any shape.

    Example:
        >>> exponent(torch.tensor([0.75, 1.0, 5.0, 0.0]))
        tensor([  -1,    0,    2, -126], dtype=torch.int32)
    """
    integer, mantissa, bias = _LAYOUT[magnitude.dtype]
    biased = magnitude.detach().contiguous().view(integer) >> mantissa
    return biased.clamp(1, 2 * bias) - bias


def power_of_two(exponents: Tensor, dtype: torch.dtype) -> Tensor:
    """2^exponents exactly, for exponents in the normal range of `dtype`.

    Example:
        >>> power_of_two(torch.tensor([-1, 0, 3]), torch.float32)
        tensor([0.5000, 1.0000, 8.0000])
    """
    integer, mantissa, bias = _LAYOUT[dtype]
    return ((exponents.to(integer) + bias) << mantissa).view(dtype)


def unit_scale(magnitude: Tensor) -> Tensor:
    """The power of two that brings `magnitude` near 1: the product is below 4, and at least 1 if normal.

    Example:
        >>> unit_scale(torch.tensor([0.0, 1.0, 5.0]))
        tensor([8.5071e+37, 1.0000e+00, 2.5000e-01])
    """
    bias = _LAYOUT[magnitude.dtype][2]
    return power_of_two((-exponent(magnitude)).clamp(min=1 - bias), magnitude.dtype)


def largest(x: Tensor) -> Tensor:
    """Return max |x| as a 0-dim tensor outside the graph, 0 for no elements; NaN where an element is NaN.

    Example:
        >>> largest(torch.tensor([1.0, -3.0]))
        tensor(3.)
    """
    x = x.detach()
    return x.abs().amax() if x.numel() else x.new_zeros(())


def rescale(x: Tensor, exponents: Tensor) -> Tensor:
    """Multiply by 2^exponents, for exponents up to twice the normal range, in two halves of the same sign.

    Example:
        >>> rescale(torch.tensor(3.0), torch.tensor(-1))
        tensor(1.5000)
    """
    half = torch.div(exponents, 2, rounding_mode="trunc")
    return x * power_of_two(half, x.dtype) * power_of_two(exponents - half, x.dtype)


def mean_of_squares(e: Tensor, divisor: Tensor | float, tail: torch.dtype) -> Tensor:
    """Σ e² / divisor as a 0-dim tensor of dtype `tail`; overflows only where the true value does.

    Args:
        e: any shape, float32 or float64.
        divisor: >= 1.
        tail: float64, or float32 where the device has no float64: the dtype after the sum.

    Example:
        >>> mean_of_squares(torch.tensor([3e30, 4e30], dtype=torch.float64), 1.0, torch.float64)
        tensor(2.5000e+61, dtype=torch.float64)
    """
    scale = unit_scale(largest(e))
    scaled = e * scale
    inverse = 1.0 / scale
    # one factor at a time: the square of the scale may be out of range where the result is not
    return (scaled * scaled).sum().to(tail) / divisor * inverse * inverse
