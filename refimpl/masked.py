"""Oracles of the masked losses: e = x_recon - x over the positions where mask is True.

    sum = Σ_masked e²,  mean = sum / number masked (0 where none is),  batch_mean = sum / B,
    none = e² (0 at visible positions)

Differences are exact, squares and sums double-double with the batch's largest exponent taken out, and the
result is rounded once: <= 1 ulp for any finite float64 input. A visible position is never looked at.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refimpl.arithmetic import dd_frexp, kernel
from refimpl.checks import Array, as_float64, check_mask, check_reduction, same_shape
from refimpl.exact_sum import (
    FloatArray,
    IntArray,
    exact_difference,
    mean_of_squares,
    scaled_product,
    squares,
)

MASKED_REDUCTIONS = ("mean", "sum", "batch_mean", "none")


def masked_sse(
    x_recon: ArrayLike, x: ArrayLike, mask: ArrayLike, *, reduction: str = "batch_mean"
) -> float | Array:
    """Masked sum of squared errors, by default divided by the batch size B.

    Args:
        x_recon: reconstruction, (B, ...), floats or integers.
        x: target, same shape.
        mask: bool, same shape, True = counted.
        reduction: "sum" Σ_masked e², "mean" sum / number masked, "batch_mean" sum / B, "none" e² with 0 at
            visible positions.

    Returns:
        A float, saturated at the largest float64; for "none" a float64 array. NaN at a counted position gives
        NaN, inf gives inf or NaN. An empty batch or mask gives 0.

    Raises:
        TypeError: mask is not bool, or data is not real.
        ValueError: shapes differ, unknown reduction, "batch_mean" without a batch dimension.

    Example:
        >>> masked_sse([[1.0, 5.0], [3.0, 9.0]], [[0.0, 5.0], [1.0, np.nan]], [[True, True], [True, False]])
        2.5
    """
    x_recon, x, mask, divisor = _checked(x_recon, x, mask, reduction)
    high, low, exponent = _differences(x_recon.ravel(), x.ravel(), mask.ravel())
    if reduction == "none":
        return np.asarray(squares(high, low, exponent).reshape(x.shape))
    return float(mean_of_squares(high, low, exponent, divisor))


def masked_mse(
    x_recon: ArrayLike, x: ArrayLike, mask: ArrayLike, *, reduction: str = "mean"
) -> float | Array:
    """Masked mean squared error: `masked_sse` with the default reduction "mean".

    Example:
        >>> masked_mse([[1.0, 5.0], [3.0, 9.0]], [[0.0, 5.0], [1.0, 2.0]], [[True, False], [True, False]])
        2.5
    """
    return masked_sse(x_recon, x, mask, reduction=reduction)


def masked_sse_gradient(
    x_recon: ArrayLike,
    x: ArrayLike,
    mask: ArrayLike,
    cotangent: ArrayLike = 1.0,
    *,
    reduction: str = "batch_mean",
) -> tuple[Array, Array]:
    """Gradient of `masked_sse`: 2 e cotangent / divisor for x_recon, its negative for x, 0 where visible.

    Every element is rounded once on its own and overflows to +-inf; a cotangent of 0 gives 0.

    Args:
        x_recon: as for the value.
        x: as for the value.
        mask: as for the value.
        cotangent: a number; for reduction "none" an array of the result's shape (or a number for all).
        reduction: as for the value.

    Returns:
        (g_x_recon, g_x), float64 arrays of the inputs' shape.

    Raises:
        TypeError: as the value.
        ValueError: as the value, or the cotangent has the wrong shape.

    Example:
        >>> masked_sse_gradient([[3.0, 7.0]], [[1.0, np.nan]], [[True, False]])
        (array([[4., 0.]]), array([[-4.,  0.]]))
    """
    x_recon, x, mask, divisor = _checked(x_recon, x, mask, reduction)
    weights = cotangent_array(cotangent, x.shape if reduction == "none" else (), x.shape)
    gradient = _gradient(x_recon.ravel(), x.ravel(), mask.ravel(), weights.ravel(), divisor).reshape(x.shape)
    return gradient, 0.0 - gradient


def masked_mse_gradient(
    x_recon: ArrayLike, x: ArrayLike, mask: ArrayLike, cotangent: ArrayLike = 1.0, *, reduction: str = "mean"
) -> tuple[Array, Array]:
    """Gradient of `masked_mse`: see `masked_sse_gradient`.

    Example:
        >>> masked_mse_gradient([3.0, 7.0], [1.0, 6.0], [True, True])
        (array([2., 1.]), array([-2., -1.]))
    """
    return masked_sse_gradient(x_recon, x, mask, cotangent, reduction=reduction)


def cotangent_array(cotangent: ArrayLike, shape: tuple[int, ...], full_shape: tuple[int, ...]) -> Array:
    """Expand the cotangent of a result of the given shape to one weight per element of full_shape.

    Raises:
        ValueError: the cotangent is neither a number nor of the result's shape.
    """
    weights = as_float64("cotangent", cotangent)
    if weights.shape not in {(), shape}:
        raise ValueError(f"cotangent must be a number or have shape {shape}, got {weights.shape}")
    return np.array(np.broadcast_to(weights, full_shape))


def _checked(
    x_recon: ArrayLike, x: ArrayLike, mask: ArrayLike, reduction: str
) -> tuple[Array, Array, NDArray[np.bool_], int]:
    """Check the arguments; the last entry is what the sum is divided by."""
    check_reduction(reduction, MASKED_REDUCTIONS)
    x_recon, x, mask = as_float64("x_recon", x_recon), as_float64("x", x), check_mask("mask", mask)
    same_shape("x_recon", x_recon, "x", x)
    same_shape("mask", mask, "x", x)
    if reduction == "batch_mean":
        if x.ndim == 0:
            raise ValueError("reduction 'batch_mean' needs a batch dimension, got shape ()")
        return x_recon, x, mask, x.shape[0]
    return x_recon, x, mask, int(mask.sum()) if reduction == "mean" else 1


@kernel
def _differences(
    x_recon: FloatArray, x: FloatArray, mask: NDArray[np.bool_]
) -> tuple[FloatArray, FloatArray, IntArray]:
    """Exact e = (high + low) 2^exponent at every counted position, 0 elsewhere."""
    high, low = np.zeros(x.size), np.zeros(x.size)
    exponent = np.zeros(x.size, np.int64)
    for i in range(x.size):
        if mask[i]:
            difference, shift = exact_difference(x_recon[i], x[i])
            mantissa, n = dd_frexp(difference)
            high[i], low[i] = mantissa
            exponent[i] = n + shift
    return high, low, exponent


@kernel
def _gradient(
    x_recon: FloatArray, x: FloatArray, mask: NDArray[np.bool_], weights: FloatArray, divisor: int
) -> FloatArray:
    """Elementwise 2 e weight / divisor."""
    high, low, exponent = _differences(x_recon, x, mask)
    gradient = np.zeros(x.size)
    for i in range(x.size):
        if mask[i]:
            gradient[i] = scaled_product((high[i], low[i]), exponent[i] + 1, weights[i], divisor)
    return gradient
