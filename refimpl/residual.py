"""Oracles of the residual loss: replicates must agree in what a model leaves unexplained.

    e_i = (y1_i - mu1_i) - s_i (y2_i - mu2_i),  value = mean e²  (or sum, or none = e²)

Every e_i is summed exactly (`exact_sum`), so nothing is lost where the two residuals cancel; squares and sums
are double-double with the batch's largest exponent taken out; gradients that add over the batch (a scalar s,
a 0-dim mu) are exact sums: <= 1 ulp for any finite float64 input, whatever its condition.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from refimpl.checks import (
    Array,
    aligned,
    as_float64,
    check_options,
    check_reduction,
    entry,
    path_of,
    same_shape,
)
from refimpl.exact_sum import mean_of_squares, squares
from refimpl.masked import cotangent_array
from refimpl.residual_kernels import gradient_elements, gradient_sums, residuals

OPTIONS = ("reduction",)


def compute_residual_mse(
    y_r1: ArrayLike,
    mu_tech_r1: ArrayLike,
    y_r2: ArrayLike,
    mu_tech_r2: ArrayLike,
    sd_ratio_r1_to_r2: ArrayLike,
    *,
    reduction: str = "mean",
) -> float | Array:
    """Mean of ((y1 - mu1) - s (y2 - mu2))².

    Args:
        y_r1: observations of replicate 1, (B, ...), floats or integers.
        mu_tech_r1: their predicted mean, same shape.
        y_r2: observations of replicate 2, same shape.
        mu_tech_r2: their predicted mean, same shape.
        sd_ratio_r1_to_r2: s, a number (0-dim) or one per element (same shape).
        reduction: "mean", "sum" or "none".

    Returns:
        A float, saturated at the largest float64; for "none" a float64 array. A NaN input gives NaN, inf
        gives inf or NaN. An empty batch gives 0.

    Raises:
        TypeError: data is not real.
        ValueError: shapes differ, unknown reduction.

    Example:
        >>> compute_residual_mse([3.0, 5.0], [1.0, 1.0], [2.0, 4.0], [1.0, 1.0], 2.0)
        2.0
    """
    check_reduction(reduction)
    arrays = checked_residual(y_r1, mu_tech_r1, y_r2, mu_tech_r2, sd_ratio_r1_to_r2)
    return _value(arrays, reduction)


def compute_residual_mse_gradient(
    y_r1: ArrayLike,
    mu_tech_r1: ArrayLike,
    y_r2: ArrayLike,
    mu_tech_r2: ArrayLike,
    sd_ratio_r1_to_r2: ArrayLike,
    cotangent: ArrayLike = 1.0,
    *,
    reduction: str = "mean",
) -> tuple[Array, Array, Array, Array, Array]:
    """Gradient of `compute_residual_mse`: with w = 2 e cotangent / B it is (w, -w, -s w, s w, -(y2 - mu2) w).

    The last one is summed over the batch where s is a number. Every entry is rounded once and overflows to
    +-inf; a cotangent of 0 gives 0.

    Args:
        y_r1: as for the value.
        mu_tech_r1: as for the value.
        y_r2: as for the value.
        mu_tech_r2: as for the value.
        sd_ratio_r1_to_r2: as for the value.
        cotangent: a number; for reduction "none" an array of the result's shape (or a number for all).
        reduction: as for the value.

    Returns:
        (g_y_r1, g_mu_tech_r1, g_y_r2, g_mu_tech_r2, g_sd_ratio), float64 arrays of the inputs' shapes.

    Raises:
        TypeError: as the value.
        ValueError: as the value, or the cotangent has the wrong shape.

    Example:
        >>> gradient = compute_residual_mse_gradient([3.0], [1.0], [2.0], [1.0], 1.0)
        >>> [float(part.item()) for part in gradient]
        [2.0, -2.0, -2.0, 2.0, -2.0]
    """
    check_reduction(reduction)
    arrays = checked_residual(y_r1, mu_tech_r1, y_r2, mu_tech_r2, sd_ratio_r1_to_r2)
    elements, sums = _gradient_parts(arrays, cotangent, reduction)
    g_d1, g_d2, g_s = elements
    if np.ndim(sd_ratio_r1_to_r2) == 0:
        g_s = np.asarray(sums[2])
    return g_d1, 0.0 - g_d1, g_d2, 0.0 - g_d2, g_s


def replicate_concordance_mse_loss(
    model_outputs: Mapping[str, Any], batch: Mapping[str, Any], **options: Any
) -> float | Array:
    """`compute_residual_mse` of nested dicts.

    Args:
        model_outputs: {"r1": {"mu": (B,) or (B, 1) or 0-dim}, "r2": {...}}.
        batch: {"r1": {"reads": (B,) or (B, 1)}, "r2": {...}, "metadata": {"sd_ratio": s}} with s a number,
            (B,) or (B, 1).
        **options: reduction, default "mean".

    Returns:
        A float; for reduction "none" an array in the shape of batch["r1"]["reads"].

    Raises:
        KeyError: a missing key, with its path and the keys present.
        TypeError: an unknown option, data that is not real.
        ValueError: shapes that are not the same batch.

    Example:
        >>> outputs = {"r1": {"mu": np.ones((2, 1))}, "r2": {"mu": 1.0}}
        >>> batch = {"r1": {"reads": [3, 5]}, "r2": {"reads": [2, 4]}, "metadata": {"sd_ratio": 2.0}}
        >>> replicate_concordance_mse_loss(outputs, batch)
        2.0
    """
    arrays, reduction = unpack_residual(model_outputs, batch, options)
    return _value(arrays, reduction)


def replicate_concordance_mse_loss_gradient(
    model_outputs: Mapping[str, Any],
    batch: Mapping[str, Any],
    cotangent: ArrayLike = 1.0,
    **options: Any,
) -> dict[str, dict[str, Array]]:
    """Gradient of `replicate_concordance_mse_loss`, nested and shaped like model_outputs ("r" if there).

    Example:
        >>> outputs = {"r1": {"mu": 1.0, "r": 2.0}, "r2": {"mu": [0.0, 0.0], "r": [1.0, 1.0]}}
        >>> batch = {"r1": {"reads": [3, 5]}, "r2": {"reads": [1, 1]}, "metadata": {"sd_ratio": 1.0}}
        >>> gradient = replicate_concordance_mse_loss_gradient(outputs, batch)
        >>> float(gradient["r1"]["mu"]), gradient["r2"]["mu"].tolist(), gradient["r2"]["r"].tolist()
        (-4.0, [1.0, 3.0], [0.0, 0.0])
    """
    arrays, reduction = unpack_residual(model_outputs, batch, options)
    elements, sums = _gradient_parts(arrays, cotangent, reduction)
    gradient = {}
    for index, replicate in enumerate(("r1", "r2")):
        shape = np.shape(model_outputs[replicate]["mu"])
        whole = np.asarray(0.0 - sums[index]) if shape == () else 0.0 - elements[index].reshape(shape)
        gradient[replicate] = {"mu": whole}
        if "r" in model_outputs[replicate]:
            gradient[replicate]["r"] = np.zeros(np.shape(model_outputs[replicate]["r"]))
    return gradient


def unpack_residual(
    model_outputs: Mapping[str, Any], batch: Mapping[str, Any], options: Mapping[str, Any]
) -> tuple[list[Array], str]:
    """Return [y1, mu1, y2, mu2, s] in the shape of the reads of r1, and the reduction."""
    check_options("replicate_concordance_mse_loss", options, OPTIONS)
    reduction = options.get("reduction", "mean")
    check_reduction(reduction)

    def load(root: str, mapping: Mapping[str, Any], *keys: str) -> tuple[str, Array]:
        path = path_of(root, *keys)
        return path, as_float64(path, entry(root, mapping, *keys))

    reads = load("batch", batch, "r1", "reads")
    others = (
        load("model_outputs", model_outputs, "r1", "mu"),
        load("batch", batch, "r2", "reads"),
        load("model_outputs", model_outputs, "r2", "mu"),
        load("batch", batch, "metadata", "sd_ratio"),
    )
    if others[1][1].ndim == 0:  # a count is data, never a constant to expand
        same_shape(*reads, *others[1])
    return [reads[1], *(aligned(*other, *reads) for other in others)], reduction


def checked_residual(*arguments: ArrayLike) -> list[Array]:
    """Return [y1, mu1, y2, mu2, s] as float64 of one shape, or refuse them as `compute_residual_mse` says."""
    names = ("y_r1", "mu_tech_r1", "y_r2", "mu_tech_r2", "sd_ratio_r1_to_r2")
    arrays = [as_float64(name, argument) for name, argument in zip(names, arguments, strict=True)]
    if arrays[4].ndim == 0:
        arrays[4] = np.full(arrays[0].shape, arrays[4][()])
    for name, array in zip(names[1:], arrays[1:], strict=True):
        same_shape(names[0], arrays[0], name, array)
    return arrays


def _value(arrays: list[Array], reduction: str) -> float | Array:
    high, low, exponent = residuals(*(array.ravel() for array in arrays))
    if reduction == "none":
        return np.asarray(squares(high, low, exponent).reshape(arrays[0].shape))
    return float(mean_of_squares(high, low, exponent, high.size if reduction == "mean" else 1))


def _gradient_parts(
    arrays: list[Array], cotangent: ArrayLike, reduction: str
) -> tuple[list[Array], tuple[float, float, float]]:
    """Elementwise gradients with respect to (y1 - mu1, y2 - mu2, s), and their exact sums over the batch."""
    shape = arrays[0].shape
    weights = cotangent_array(cotangent, shape if reduction == "none" else (), shape).ravel()
    y1, mu1, y2, mu2, s = (array.ravel() for array in arrays)
    divisor = weights.size if reduction == "mean" else 1
    elements = gradient_elements(y1, mu1, y2, mu2, s, weights, divisor)
    sums = gradient_sums(y1, mu1, y2, mu2, s, weights, divisor)
    return [part.reshape(shape) for part in elements], sums
