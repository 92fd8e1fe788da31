"""InfoNCE between replicates, row by row: memory for one row of the B x B distances at a time."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.plain.common import (
    LONG,
    REDUCTIONS,
    Array,
    Long,
    check_reduction,
    check_shapes,
    checked,
    divisor,
    gradient,
    long,
    reduced,
)
from tests.plain.replicates import nested, residuals


@np.errstate(all="ignore")
def concordance_loss_nce(
    res1: Any, res2: Any, tau: float = 0.1, *, eps: float = 1e-8, reduction: str = "mean"
) -> Array:
    """Row i: d_ii / tau + log(eps + sum_j exp(-d_ij / tau))."""
    first, second = _sides(res1, res2, tau, eps, reduction)
    rows, _, _ = _rows(long(first), long(second), tau, eps)
    return reduced(rows, reduction, first, second)


@np.errstate(all="ignore")
def concordance_loss_nce_gradient(
    res1: Any,
    res2: Any,
    tau: float = 0.1,
    *,
    eps: float = 1e-8,
    reduction: str = "mean",
    cotangent: float = 1.0,
) -> tuple[Array | None, Array | None]:
    """2 / tau times (own difference - differences averaged with the shares), for either side."""
    first, second = _sides(res1, res2, tau, eps, reduction)
    rows, slope_x, slope_y = _rows(long(first), long(second), tau, eps)
    count = divisor(rows.size, reduction)
    return gradient(slope_x / count, cotangent, first), gradient(slope_y / count, cotangent, second)


@np.errstate(all="ignore")
def concordance_loss_nce_wrapper(
    model_outputs: Mapping[str, Any],
    batch: Mapping[str, Any],
    *,
    tau: float = 0.1,
    eps: float = 1e-8,
    reduction: str = "mean",
) -> Array:
    """`concordance_loss_nce` of reads - mu."""
    _check_options(tau, eps, reduction)
    (x, y), inputs = residuals(model_outputs, batch)
    return reduced(_rows(x, y, tau, eps)[0], reduction, *inputs)


@np.errstate(all="ignore")
def concordance_loss_nce_wrapper_gradient(
    model_outputs: Mapping[str, Any],
    batch: Mapping[str, Any],
    *,
    tau: float = 0.1,
    eps: float = 1e-8,
    reduction: str = "mean",
    cotangent: float = 1.0,
) -> tuple[dict[str, Any]]:
    """Residuals fall as mu grows: minus the gradient in the residuals."""
    _check_options(tau, eps, reduction)
    (x, y), _ = residuals(model_outputs, batch)
    rows, *slopes = _rows(x, y, tau, eps)
    count = divisor(rows.size, reduction)
    return nested(model_outputs, [-slope / count for slope in slopes], cotangent)


def _check_options(tau: float, eps: float, reduction: str) -> None:
    if not (tau > 0.0 and math.isfinite(tau)):
        raise ValueError(f"tau must be positive and finite, got {tau}")
    if not (eps >= 0.0 and math.isfinite(eps)):
        raise ValueError(f"eps must be at least 0 and finite, got {eps}")
    check_reduction(reduction, REDUCTIONS)


def _sides(res1: Any, res2: Any, tau: float, eps: float, reduction: str) -> tuple[Array, Array]:
    first, second = checked("res1", res1), checked("res2", res2)
    _check_options(tau, eps, reduction)
    check_shapes(res1=first, res2=second)
    if first.ndim == 0:
        raise ValueError("res1 must have a batch dimension, got shape ()")
    return first, second


def _rows(res1: Long, res2: Long, tau: float, eps: float) -> tuple[Long, Long, Long]:
    """Every row's loss, and the gradients of their sum."""
    batch = len(res1)
    x, y = (side.reshape(batch, math.prod(side.shape[1:])) for side in (res1, res2))
    rows, slope_x, slope_y = np.zeros(batch, LONG), np.zeros_like(x), np.zeros_like(y)
    if x.size == 0:
        return rows, slope_x.reshape(res1.shape), slope_y.reshape(res2.shape)
    log_eps = np.log(LONG(eps))
    whole = bool(np.all(np.isfinite(y)))
    for i in range(batch):
        if not (whole and np.all(np.isfinite(x[i]))):
            rows[i] = slope_x[i] = np.nan
            continue
        gaps = x[i] - y
        scaled = (gaps**2).sum(axis=1) / LONG(tau)
        rows[i], shares = _row(scaled[i] - scaled, scaled[i] + log_eps, i)
        pull = shares[:, None] * gaps
        slope_x[i] = gaps[i] - pull.sum(axis=0)
        slope_y += pull
        slope_y[i] -= gaps[i]
    factor = 2 / LONG(tau)
    return rows, (factor * slope_x).reshape(res1.shape), (factor * slope_y).reshape(res2.shape)


def _row(exponents: Long, of_eps: np.longdouble, own: int) -> tuple[Any, Long]:
    """log(sum_j exp(exponents_j) + exp(of_eps)) and the shares of the sum; exponents[own] is 0."""
    top = max(exponents.max(), of_eps, LONG(0))
    terms, rest = np.exp(exponents - top), np.exp(of_eps - top)
    if top > 0:
        total = terms.sum() + rest
        return top + np.log(total), terms / total
    others = terms.sum(where=np.arange(terms.size) != own) + rest
    return np.log1p(others), terms / (1 + others)
