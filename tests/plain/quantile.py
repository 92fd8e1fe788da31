"""Distance of the two replicates' quantiles."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.plain.common import (
    REPLICATES,
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
from tests.plain.tails import Tails, tails


@dataclass(frozen=True)
class Replicate:
    """Counts and parameters as they came, and the latter in the shape of the counts."""

    y: Array
    inputs: dict[str, Array]
    parameters: dict[str, Long]

    def flat(self) -> tuple[Long, Long, Long]:
        """Counts, means and sizes, flat."""
        return long(self.y).ravel(), self.parameters["mu"].ravel(), self.parameters["r"].ravel()

    def gradients(self, slope_mu: Long, slope_r: Long, cotangent: float) -> dict[str, Array | None]:
        """Slopes in shape and dtype of the inputs."""
        slopes = {"mu": slope_mu, "r": slope_r}
        return {key: gradient(slope, cotangent, self.inputs[key]) for key, slope in slopes.items()}


def replicate(root: str, model: Any, path: tuple[str, ...], y: Any, *, columns: bool) -> Replicate:
    """One replicate, checked; only the dict wrappers align (B, 1) with (B,)."""
    counts = checked("reads" if columns else "y", y)
    inputs = {key: checked(key, entry(root, model, *path, key)) for key in ("mu", "r")}
    if not columns:
        for key, array in inputs.items():
            if array.ndim:
                check_shapes(y=counts, **{key: array})
    return Replicate(counts, inputs, {key: aligned(key, array, counts) for key, array in inputs.items()})


@np.errstate(all="ignore")
def quantile_absolute_loss(
    model_r1: Mapping[str, Any], model_r2: Mapping[str, Any], y_r1: Any, y_r2: Any, *, reduction: str = "mean"
) -> Array:
    """Mean |F(y1; mu1, r1) - F(y2; mu2, r2)|."""
    return _value(_core_replicates(model_r1, model_r2, y_r1, y_r2), reduction)


@np.errstate(all="ignore")
def quantile_absolute_loss_gradient(
    model_r1: Mapping[str, Any],
    model_r2: Mapping[str, Any],
    y_r1: Any,
    y_r2: Any,
    *,
    reduction: str = "mean",
    cotangent: float = 1.0,
) -> tuple[dict[str, Array | None], ...]:
    """The sign of the difference times dF of either side."""
    return _gradients(_core_replicates(model_r1, model_r2, y_r1, y_r2), reduction, cotangent)


@np.errstate(all="ignore")
def quantile_absolute_loss_wrapper(
    model_outputs: Mapping[str, Any], batch: Mapping[str, Any], *, reduction: str = "mean"
) -> Array:
    """`quantile_absolute_loss` of the reads."""
    return _value(wrapped_replicates(model_outputs, batch), reduction)


@np.errstate(all="ignore")
def quantile_absolute_loss_wrapper_gradient(
    model_outputs: Mapping[str, Any],
    batch: Mapping[str, Any],
    *,
    reduction: str = "mean",
    cotangent: float = 1.0,
) -> tuple[dict[str, Any]]:
    """Nested like the outputs."""
    found = _gradients(wrapped_replicates(model_outputs, batch), reduction, cotangent)
    return (dict(zip(REPLICATES, found, strict=True)),)


def wrapped_replicates(model_outputs: Any, batch: Any) -> list[Replicate]:
    """Both replicates of the dict form; as many reads in one as in the other."""
    both = [
        replicate("model_outputs", model_outputs, (key,), entry("batch", batch, key, "reads"), columns=True)
        for key in REPLICATES
    ]
    check_shapes(r1=both[0].y, r2=both[1].y)
    return both


def _core_replicates(model_r1: Any, model_r2: Any, y_r1: Any, y_r2: Any) -> list[Replicate]:
    both = [
        replicate("model_r1", model_r1, (), y_r1, columns=False),
        replicate("model_r2", model_r2, (), y_r2, columns=False),
    ]
    check_shapes(y_r1=both[0].y, y_r2=both[1].y)
    return both


def _difference(first: Tails, second: Tails) -> Long:
    """F1 - F2, between survival functions where both F are near 1."""
    return np.where(first.cdf + second.cdf > 1, second.sf - first.sf, first.cdf - second.cdf)


def _inputs(both: list[Replicate]) -> list[Array]:
    return [array for side in both for array in side.inputs.values()]


def _value(both: list[Replicate], reduction: str) -> Array:
    check_reduction(reduction)
    distance = np.abs(_difference(*(tails(*side.flat()) for side in both)))
    return reduced(distance.reshape(both[0].y.shape), reduction, *_inputs(both))


def _gradients(
    both: list[Replicate], reduction: str, cotangent: float
) -> tuple[dict[str, Array | None], ...]:
    check_reduction(reduction)
    found = [tails(*side.flat()) for side in both]
    difference = _difference(*found)
    weight = np.sign(difference) / divisor(difference.size, reduction)
    return tuple(
        side.gradients(sign * weight * part.slope_mu, sign * weight * part.slope_r, cotangent)
        for side, part, sign in zip(both, found, (1, -1), strict=True)
    )
