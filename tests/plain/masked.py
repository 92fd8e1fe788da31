"""Masked squared errors."""

from typing import Any

import numpy as np

from tests.plain.common import (
    Array,
    Long,
    check_reduction,
    check_shapes,
    checked,
    elementwise,
    gradient,
    long,
    scalar,
)

ALLOWED = ("mean", "batch_mean", "sum", "none")


@np.errstate(all="ignore")
def masked_sse(x_recon: Any, x: Any, mask: Any, *, reduction: str = "batch_mean") -> Array:
    """Sum over masked e^2, e = x_recon - x, divided as the reduction says."""
    difference, count = _difference(x_recon, x, mask, reduction)
    if reduction == "none":
        return elementwise(difference**2, x_recon, x)
    return scalar((difference**2).sum() / count, x_recon, x)


@np.errstate(all="ignore")
def masked_sse_gradient(
    x_recon: Any, x: Any, mask: Any, *, reduction: str = "batch_mean", cotangent: float = 1.0
) -> tuple[Array | None, Array | None]:
    """2 e / divisor for x_recon, the negative for x."""
    difference, count = _difference(x_recon, x, mask, reduction)
    slope = 2 * difference / count
    return gradient(slope, cotangent, x_recon), gradient(-slope, cotangent, x)


def masked_mse(x_recon: Any, x: Any, mask: Any, *, reduction: str = "mean") -> Array:
    """`masked_sse`, divided by the number of masked elements unless told otherwise."""
    return masked_sse(x_recon, x, mask, reduction=reduction)


def masked_mse_gradient(
    x_recon: Any, x: Any, mask: Any, *, reduction: str = "mean", cotangent: float = 1.0
) -> tuple[Array | None, Array | None]:
    """That of `masked_sse`."""
    return masked_sse_gradient(x_recon, x, mask, reduction=reduction, cotangent=cotangent)


def _difference(x_recon: Any, x: Any, mask: Any, reduction: str) -> tuple[Long, int]:
    """Differences, 0 where the mask is False, and the divisor."""
    recon, target = checked("x_recon", x_recon), checked("x", x)
    if getattr(mask, "dtype", None) != np.bool_:
        kind = getattr(mask, "dtype", type(mask).__name__)
        raise TypeError(f"mask must be bool, True where an element counts, got {kind}: pass mask != 0")
    check_reduction(reduction, ALLOWED)
    check_shapes(x_recon=recon, x=target, mask=mask)
    if recon.ndim == 0:
        raise ValueError("x_recon must have a batch dimension, got shape ()")
    divisors = {"mean": int(np.count_nonzero(mask)), "batch_mean": len(recon)}
    return np.where(mask, long(recon) - long(target), 0), max(divisors.get(reduction, 1), 1)
