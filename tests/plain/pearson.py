"""Negative Pearson correlation of deviations from the mean."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.plain.common import Array, Long, check_shapes, checked, gradient, long, scalar
from tests.plain.replicates import means, nested


@dataclass(frozen=True)
class _Side:
    """One side: deviations from the mean, their norm and their largest magnitude."""

    deviations: Long
    norm: np.longdouble
    largest: np.longdouble

    def slope_of_largest(self) -> Long:
        """Derivative of the largest magnitude, averaged over those that share it."""
        top = np.sign(self.deviations) * (np.abs(self.deviations) == self.largest)
        signs = top / np.abs(top).sum()
        return np.asarray(signs - signs.mean())


@np.errstate(all="ignore")
def negative_pearson_loss(preds: Any, targets: Any, eps: float = 1e-8) -> Array:
    """-(sum p t) / max(|p| |t|, eps) with p, t the centred sides over their largest deviation."""
    p, t = _pair(preds, targets, eps)
    return scalar(_value_and_slopes(long(p).ravel(), long(t).ravel(), eps)[0], p, t)


@np.errstate(all="ignore")
def negative_pearson_loss_gradient(
    preds: Any, targets: Any, eps: float = 1e-8, *, cotangent: float = 1.0
) -> tuple[Array | None, Array | None]:
    """Gradients in both sides, 0 where one of them is constant."""
    p, t = _pair(preds, targets, eps)
    _, slope_p, slope_t = _value_and_slopes(long(p).ravel(), long(t).ravel(), eps)
    return gradient(slope_p, cotangent, p), gradient(slope_t, cotangent, t)


@np.errstate(all="ignore")
def negative_pearson_loss_wrapper(
    model_outputs: Mapping[str, Any], batch: Mapping[str, Any], *, eps: float = 1e-8
) -> Array:
    """mu of both replicates, one after the other, against the reads of both."""
    p, t, inputs, _ = _joined(model_outputs, batch, eps)
    return scalar(_value_and_slopes(p, t, eps)[0], *inputs)


@np.errstate(all="ignore")
def negative_pearson_loss_wrapper_gradient(
    model_outputs: Mapping[str, Any], batch: Mapping[str, Any], *, eps: float = 1e-8, cotangent: float = 1.0
) -> tuple[dict[str, Any]]:
    """The gradient in the joined means, cut where they were joined."""
    p, t, _, cut = _joined(model_outputs, batch, eps)
    slope = _value_and_slopes(p, t, eps)[1]
    return nested(model_outputs, np.split(slope, [cut]), cotangent)


def _joined(
    model_outputs: Mapping[str, Any], batch: Mapping[str, Any], eps: float
) -> tuple[Long, Long, list[Array], int]:
    _check_eps(eps)
    reads, mus, inputs = means(model_outputs, batch)
    joined = (np.concatenate([long(part).ravel() for part in side]) for side in (mus, reads))
    p, t = joined
    return p, t, [*inputs, *reads], reads[0].size


def _check_eps(eps: float) -> None:
    if not (eps >= 0.0 and math.isfinite(eps)):
        raise ValueError(f"eps must be at least 0 and finite, got {eps}")


def _pair(preds: Any, targets: Any, eps: float) -> tuple[Array, Array]:
    p, t = checked("preds", preds), checked("targets", targets)
    _check_eps(eps)
    check_shapes(preds=p, targets=t)
    return p, t


def _side(values: Long) -> _Side:
    """Differences to the first number lose nothing of a common offset."""
    relative = values - values[0]
    deviations = relative - relative.mean()
    return _Side(deviations, np.sqrt((deviations**2).sum()), np.abs(deviations).max())


def _value_and_slopes(preds: Long, targets: Long, eps: float) -> tuple[Any, Long, Long]:
    nothing = np.zeros_like(preds), np.zeros_like(targets)
    if not (np.all(np.isfinite(preds)) and np.all(np.isfinite(targets))):
        return np.nan, *(side + np.nan for side in nothing)
    if preds.size == 0 or np.all(preds == preds[0]) or np.all(targets == targets[0]):
        return 0.0, *nothing
    p, t = _side(preds), _side(targets)
    if (p.norm / p.largest) * (t.norm / t.largest) < eps:
        total = (p.deviations / p.largest * (t.deviations / t.largest)).sum()
        return -total / eps, _floored_slope(p, t, total, eps), _floored_slope(t, p, total, eps)
    r = np.clip((p.deviations / p.norm * (t.deviations / t.norm)).sum(), -1, 1)
    return -r, _slope(p, t, r), _slope(t, p, r)


def _slope(p: _Side, t: _Side, r: np.longdouble) -> Long:
    """-(t / |t| - r p / |p|) / |p|."""
    return np.asarray((r * (p.deviations / p.norm) - t.deviations / t.norm) / p.norm)


def _floored_slope(p: _Side, t: _Side, total: np.longdouble, eps: float) -> Long:
    """Of -total / eps, total = sum p t / (M_p M_t): only M_p moves besides p."""
    return np.asarray((total * p.slope_of_largest() - t.deviations / t.largest) / p.largest / eps)
