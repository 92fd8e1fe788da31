"""Oracle of the composite loss: the weighted sum of the component values.

    value = Σ_k w_k L_k over the components with w_k != 0

The sum is exact (`exact_sum`) and rounded once: <= 1 ulp, whatever cancels.
"""

import math

import numpy as np
from numpy.typing import ArrayLike

from refimpl.arithmetic import kernel
from refimpl.checks import Array, as_float64, same_shape
from refimpl.exact_sum import LIMBS, FloatArray, add_product, read_sum, saturated


def composite_loss(values: ArrayLike, weights: ArrayLike) -> float:
    """Weighted sum of component values.

    Args:
        values: component losses, (K,).
        weights: (K,). A weight of 0 switches its component off, whatever the component holds.

    Returns:
        A float, saturated at +-the largest float64 where all that counts is finite; 0 for K = 0. NaN at a
        component that counts gives NaN, inf gives what IEEE addition gives.

    Raises:
        TypeError: data is not real.
        ValueError: shapes differ or are not one-dimensional.

    Example:
        >>> composite_loss([2.0, np.inf, 3.0], [1.0, 0.0, 0.5])
        3.5
    """
    values, weights = checked_composite(values, weights)
    return float(_weighted_sum(values, weights))


def composite_loss_gradient(values: ArrayLike, weights: ArrayLike, cotangent: float = 1.0) -> tuple[Array]:
    """Gradient of `composite_loss` with respect to the values: (w cotangent,), one array of shape (K,).

    A weight or a cotangent of 0 gives 0; overflow gives +-inf.

    Raises:
        TypeError: as the value.
        ValueError: as the value.

    Example:
        >>> composite_loss_gradient([2.0, np.inf, 3.0], [1.0, 0.0, 0.5], 2.0)
        (array([2., 0., 1.]),)
    """
    values, weights = checked_composite(values, weights)
    if cotangent == 0.0:
        return (np.zeros(values.shape),)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return (np.where(weights == 0.0, 0.0, weights * cotangent),)


def checked_composite(values: ArrayLike, weights: ArrayLike) -> tuple[Array, Array]:
    """Return values and weights as float64, or refuse them as `composite_loss` says."""
    values, weights = as_float64("values", values), as_float64("weights", weights)
    same_shape("values", values, "weights", weights)
    if values.ndim != 1:
        raise ValueError(f"values must be one-dimensional, got shape {values.shape}")
    return values, weights


@kernel
def _weighted_sum(values: FloatArray, weights: FloatArray) -> float:
    limbs = np.zeros(LIMBS, np.int64)
    non_finite = 0.0
    for k in range(values.size):
        if weights[k] == 0.0:
            continue
        if math.isfinite(values[k]) and math.isfinite(weights[k]):
            add_product(limbs, values[k], weights[k], 1.0, 1.0, 0)
        else:
            non_finite += values[k] * weights[k]
    if non_finite != 0.0:
        return non_finite
    total, exponent = read_sum(limbs)
    return saturated(total, exponent)
