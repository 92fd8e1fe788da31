"""Oracle of the quantile loss: two replicates must sit at the same quantile of their distributions.

    value = mean |F(y1; mu1, r1) - F(y2; mu2, r2)|  (or sum, or none),  F the negative-binomial CDF

F and S = 1 - F come as double-doubles; the difference is taken between the pair that is smaller, so that it
keeps its relative accuracy where both F are near 1. At a tie the derivative of |.| is 0.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from refimpl.arithmetic import FLOAT64_MAX, dd_sub, kernel
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
from refimpl.masked import cotangent_array
from refimpl.negative_binomial_tables import (
    SLOPE_MU,
    SLOPE_R,
    F,
    S,
    Table,
    distribution_table,
    mean_of,
    pulled_back,
)

OPTIONS = ("reduction",)
REPLICATES = ("r1", "r2")
Gradient = dict[str, Array]
Replicate = tuple[Array, Array, Array]  # y, mu, r


@kernel
def _differences(
    high1: Array, low1: Array, high2: Array, low2: Array, high: Array, low: Array, sign: Array
) -> None:
    """|F1 - F2| and the sign of F1 - F2 for every element."""
    for i in range(high1.shape[1]):
        if high1[F, i] + high2[F, i] <= 1.0:
            difference = dd_sub((high1[F, i], low1[F, i]), (high2[F, i], low2[F, i]))
        else:
            difference = dd_sub((high2[S, i], low2[S, i]), (high1[S, i], low1[S, i]))
        sign[i] = np.sign(difference[0])
        high[i], low[i] = abs(difference[0]), difference[1] * (-1.0 if difference[0] < 0.0 else 1.0)


def quantile_absolute_loss(
    model_r1: Mapping[str, Any],
    model_r2: Mapping[str, Any],
    y_r1: ArrayLike,
    y_r2: ArrayLike,
    *,
    reduction: str = "mean",
) -> float | Array:
    """Mean of |F(y1; mu1, r1) - F(y2; mu2, r2)|.

    Args:
        model_r1: {"mu", "r"} of replicate 1, each of the shape of the counts or one number.
        model_r2: the same of replicate 2.
        y_r1: counts of replicate 1, (B,) or any shape.
        y_r2: counts of replicate 2, same shape.
        reduction: "mean", "sum" or "none".

    Returns:
        A float; for "none" a float64 array. An empty batch gives 0; NaN, r <= 0 or mu < 0 gives NaN.

    Raises:
        KeyError: a model lacks "mu" or "r".
        TypeError: data is not real.
        ValueError: shapes differ, unknown reduction, an element beyond the oracle's MAX_TERMS.

    Example:
        >>> model = {"mu": [1.0, 1.0], "r": [1.0, 1.0]}
        >>> quantile_absolute_loss(model, model, [0.0, 5.0], [1.0, 5.0])  # (|1/2 - 3/4| + 0) / 2
        0.125
    """
    check_reduction(reduction)
    arguments = unpacked(model_r1, model_r2, y_r1, y_r2)
    return _value(arguments, reduction)


def quantile_absolute_loss_gradient(
    model_r1: Mapping[str, Any],
    model_r2: Mapping[str, Any],
    y_r1: ArrayLike,
    y_r2: ArrayLike,
    cotangent: ArrayLike = 1.0,
    *,
    reduction: str = "mean",
) -> tuple[Gradient, Gradient]:
    """Gradient of `quantile_absolute_loss` in mu and r of both replicates: +-sign(F1 - F2) dF cotangent / B.

    Args:
        model_r1: as for the value.
        model_r2: as for the value.
        y_r1: as for the value.
        y_r2: as for the value.
        cotangent: a number; for reduction "none" an array of the result's shape (or a number for all).
        reduction: as for the value.

    Returns:
        ({"mu", "r"}, {"mu", "r"}) in the parameters' shapes; one number for all gets the sum over the batch.

    Raises:
        KeyError: as the value.
        TypeError: as the value.
        ValueError: as the value, or the cotangent has the wrong shape.

    Example:
        >>> model = {"mu": [1.0], "r": [1.0]}
        >>> quantile_absolute_loss_gradient(model, model, [0.0], [1.0])[0]["mu"]  # F1 < F2, dF1/dmu = -1/4
        array([0.25])
    """
    check_reduction(reduction)
    first, second = _gradients(unpacked(model_r1, model_r2, y_r1, y_r2), cotangent, reduction)
    return first, second


def quantile_absolute_loss_wrapper(
    model_outputs: Mapping[str, Any], batch: Mapping[str, Any], **options: Any
) -> float | Array:
    """`quantile_absolute_loss` of nested dicts.

    Args:
        model_outputs: {"r1": {"mu", "r"}, "r2": {"mu", "r"}}, each (B,), (B, 1) or one number.
        batch: {"r1": {"reads": (B,)}, "r2": {"reads": (B,)}}.
        **options: reduction.

    Raises:
        KeyError: a key is missing.
        TypeError: unknown option, or data is not real.
        ValueError: shapes that are not the same batch, or as the loss.

    Example:
        >>> outputs = {name: {"mu": [[1.0]], "r": [[1.0]]} for name in ("r1", "r2")}
        >>> quantile_absolute_loss_wrapper(outputs, {"r1": {"reads": [0]}, "r2": {"reads": [1]}})
        0.25
    """
    arguments, reduction = unpack_quantile(model_outputs, batch, options)
    return _value(arguments, reduction)


def quantile_absolute_loss_wrapper_gradient(
    model_outputs: Mapping[str, Any], batch: Mapping[str, Any], cotangent: ArrayLike = 1.0, **options: Any
) -> dict[str, Gradient]:
    """Gradient of `quantile_absolute_loss_wrapper`, nested like model_outputs and in its shapes.

    Example:
        >>> outputs = {name: {"mu": [[1.0]], "r": [[1.0]]} for name in ("r1", "r2")}
        >>> batch = {"r1": {"reads": [0]}, "r2": {"reads": [1]}}
        >>> quantile_absolute_loss_wrapper_gradient(outputs, batch)["r2"]["mu"]
        array([[-0.25]])
    """
    arguments, reduction = unpack_quantile(model_outputs, batch, options)
    gradients = _gradients(arguments, cotangent, reduction)
    for name, gradient in zip(REPLICATES, gradients, strict=True):
        for key in gradient:
            gradient[key] = gradient[key].reshape(np.shape(model_outputs[name][key]))
    return dict(zip(REPLICATES, gradients, strict=True))


def unpack_quantile(
    model_outputs: Mapping[str, Any], batch: Mapping[str, Any], options: Mapping[str, Any]
) -> tuple[list[Replicate], str]:
    """Return [(y, mu, r) of r1, of r2], parameters 0-dim or in the shape of the reads, and the reduction."""
    check_options("quantile_absolute_loss_wrapper", options, OPTIONS)
    reduction = options.get("reduction", "mean")
    check_reduction(reduction)
    arguments = [unpack_replicate(model_outputs, batch, name) for name in REPLICATES]
    same_shape("batch['r1']['reads']", arguments[0][0], "batch['r2']['reads']", arguments[1][0])
    return arguments, reduction


def unpack_replicate(model_outputs: Mapping[str, Any], batch: Mapping[str, Any], *name: str) -> Replicate:
    """Return (y, mu, r) of one replicate (without a name, of the batch itself), aligned with the reads."""
    reads_path = path_of("batch", *name, "reads")
    reads = as_float64(reads_path, entry("batch", batch, *name, "reads"))
    parameters = []
    for key in ("mu", "r"):
        path = path_of("model_outputs", *name, key)
        parameter = as_float64(path, entry("model_outputs", model_outputs, *name, key))
        # one number stays one number, so that its gradient is summed before it is rounded
        parameters.append(parameter if parameter.ndim == 0 else aligned(path, parameter, reads_path, reads))
    return reads, parameters[0], parameters[1]


def unpacked(
    model_r1: Mapping[str, Any], model_r2: Mapping[str, Any], y_r1: ArrayLike, y_r2: ArrayLike
) -> list[Replicate]:
    """Return [(y, mu, r) of r1, of r2], checked: one shape, parameters 0-dim or in it."""
    arguments = []
    for root, model, y_name, y in (
        ("model_r1", model_r1, "y_r1", y_r1),
        ("model_r2", model_r2, "y_r2", y_r2),
    ):
        counts = as_float64(y_name, y)
        mu, r = (as_float64(path_of(root, key), entry(root, model, key)) for key in ("mu", "r"))
        for key, parameter in (("mu", mu), ("r", r)):
            if parameter.ndim:
                same_shape(path_of(root, key), parameter, y_name, counts)
        arguments.append((counts, mu, r))
    same_shape("y_r1", arguments[0][0], "y_r2", arguments[1][0])
    return arguments


def compared(arguments: list[Replicate]) -> tuple[list[Table], Array, Array, Array]:
    """The two distribution tables, |F1 - F2| as (high, low), and the sign of the difference."""
    tables = [distribution_table(*replicate) for replicate in arguments]
    high, low, sign = (np.zeros(arguments[0][0].size) for _ in range(3))
    _differences(*tables[0], *tables[1], high, low, sign)
    return tables, high, low, sign


def _value(arguments: list[Replicate], reduction: str) -> float | Array:
    _, high, low, _ = compared(arguments)
    if reduction == "none":
        return np.asarray(high.reshape(arguments[0][0].shape))
    return min(mean_of(high, low, float(high.size) if reduction == "mean" else 1.0), FLOAT64_MAX)


def _gradients(arguments: list[Replicate], cotangent: ArrayLike, reduction: str) -> list[Gradient]:
    tables, high, _, sign = compared(arguments)
    shape = arguments[0][0].shape
    weight = cotangent_array(cotangent, shape if reduction == "none" else (), shape)
    divisor = float(high.size) if reduction == "mean" else 1.0
    gradients = []
    for table, (_, mu, r), side in zip(tables, arguments, (1.0, -1.0), strict=True):
        signed = side * sign.reshape(shape) * weight
        gradients.append(
            {
                "mu": pulled_back((table[0][SLOPE_MU], table[1][SLOPE_MU]), signed, divisor, mu.shape),
                "r": pulled_back((table[0][SLOPE_R], table[1][SLOPE_R]), signed, divisor, r.shape),
            }
        )
    return gradients
