"""Mean squared difference of the replicates' residuals."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.plain.common import (
    Array,
    Long,
    aligned,
    check_reduction,
    check_shapes,
    checked,
    divisor,
    entry,
    gradient,
    long,
    reduced,
)
from tests.plain.replicates import nested, residuals

NAMES = ("y_r1", "mu_tech_r1", "y_r2", "mu_tech_r2")


@np.errstate(all="ignore")
def compute_residual_mse(
    y_r1: Any,
    mu_tech_r1: Any,
    y_r2: Any,
    mu_tech_r2: Any,
    sd_ratio_r1_to_r2: Any,
    *,
    reduction: str = "mean",
) -> Array:
    """Mean of ((y1 - mu1) - s (y2 - mu2))^2."""
    arrays, (first, second), ratio = _arguments(
        (y_r1, mu_tech_r1, y_r2, mu_tech_r2), sd_ratio_r1_to_r2, reduction
    )
    return reduced((first - ratio * second) ** 2, reduction, *arrays)


@np.errstate(all="ignore")
def compute_residual_mse_gradient(
    y_r1: Any,
    mu_tech_r1: Any,
    y_r2: Any,
    mu_tech_r2: Any,
    sd_ratio_r1_to_r2: Any,
    *,
    reduction: str = "mean",
    cotangent: float = 1.0,
) -> tuple[Array | None, ...]:
    """With w = 2 e / n: w, -w, -s w, s w and -w (y2 - mu2)."""
    arrays, (first, second), ratio = _arguments(
        (y_r1, mu_tech_r1, y_r2, mu_tech_r2), sd_ratio_r1_to_r2, reduction
    )
    slope = _slope(first, second, ratio, reduction)
    slopes = (slope, -slope, -ratio * slope, ratio * slope)
    found = [gradient(part, cotangent, array) for part, array in zip(slopes, arrays, strict=True)]
    if isinstance(sd_ratio_r1_to_r2, (float, int)) and not isinstance(sd_ratio_r1_to_r2, np.generic):
        return (*found, None)
    return (*found, gradient(-slope * second, cotangent, np.asarray(sd_ratio_r1_to_r2)))


@np.errstate(all="ignore")
def replicate_concordance_mse_loss(
    model_outputs: Mapping[str, Any], batch: Mapping[str, Any], *, reduction: str = "mean"
) -> Array:
    """`compute_residual_mse` of both replicates with the batch's sd_ratio."""
    check_reduction(reduction)
    (first, second), inputs = residuals(model_outputs, batch)
    return reduced((first - _batch_ratio(batch, first) * second) ** 2, reduction, *inputs)


@np.errstate(all="ignore")
def replicate_concordance_mse_loss_gradient(
    model_outputs: Mapping[str, Any],
    batch: Mapping[str, Any],
    *,
    reduction: str = "mean",
    cotangent: float = 1.0,
) -> tuple[dict[str, Any]]:
    """-w and s w for the two means."""
    check_reduction(reduction)
    (first, second), _ = residuals(model_outputs, batch)
    ratio = _batch_ratio(batch, first)
    slope = _slope(first, second, ratio, reduction)
    return nested(model_outputs, [-slope, ratio * slope], cotangent)


def _arguments(
    values: tuple[Any, ...], sd_ratio: Any, reduction: str
) -> tuple[list[Array], tuple[Long, Long], Long]:
    arrays = [checked(name, value) for name, value in zip(NAMES, values, strict=True)]
    check_reduction(reduction)
    check_shapes(**dict(zip(NAMES, arrays, strict=True)))
    ratio = _ratio("sd_ratio_r1_to_r2", sd_ratio, arrays[0])
    y1, mu1, y2, mu2 = (long(array) for array in arrays)
    return arrays, (y1 - mu1, y2 - mu2), ratio


def _ratio(name: str, value: Any, like: Array) -> Long:
    plain = np.asarray(float(value)) if isinstance(value, (float, int)) else value
    return aligned(name, checked(name, plain), like)


def _batch_ratio(batch: Mapping[str, Any], like: Array) -> Long:
    return _ratio("sd_ratio", entry("batch", batch, "metadata", "sd_ratio"), like)


def _slope(first: Long, second: Long, ratio: Long, reduction: str) -> Long:
    """Derivative in e of its reduced square."""
    return 2 * (first - ratio * second) / divisor(first.size, reduction)
