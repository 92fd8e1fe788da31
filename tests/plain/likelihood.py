"""Negative log-likelihood of counts."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.plain.common import (
    REPLICATES,
    Array,
    check_reduction,
    divisor,
    entry,
    reduced,
)
from tests.plain.mass import slopes, surprise
from tests.plain.negative_binomial import check_values
from tests.plain.quantile import Replicate, replicate, wrapped_replicates


@np.errstate(all="ignore")
def nll_loss(
    model_outputs: Mapping[str, Any],
    batch: Mapping[str, Any],
    *,
    reduction: str = "mean",
    validate: bool = False,
) -> Array:
    """Mean -log p over one replicate, or over both element by element."""
    sides = _sides(model_outputs, batch, reduction, validate=validate)
    terms = np.mean([surprise(*side.flat()) for side in sides], axis=0).reshape(sides[0].y.shape)
    inputs = [array for side in sides for array in side.inputs.values()]
    return reduced(terms, reduction, *inputs)


@np.errstate(all="ignore")
def nll_loss_gradient(
    model_outputs: Mapping[str, Any],
    batch: Mapping[str, Any],
    *,
    reduction: str = "mean",
    validate: bool = False,
    cotangent: float = 1.0,
) -> tuple[dict[str, Any]]:
    """Nested like the outputs."""
    sides = _sides(model_outputs, batch, reduction, validate=validate)
    found = []
    for side in sides:
        shares = len(sides) * divisor(side.y.size, reduction)
        slope_mu, slope_r = (slope / shares for slope in slopes(*side.flat()))
        found.append(side.gradients(slope_mu, slope_r, cotangent))
    return (found[0] if len(found) == 1 else dict(zip(REPLICATES, found, strict=True)),)


def _sides(model_outputs: Any, batch: Any, reduction: str, *, validate: bool) -> list[Replicate]:
    check_reduction(reduction)
    if "mu" in model_outputs:
        sides, names = (
            [replicate("model_outputs", model_outputs, (), entry("batch", batch, "reads"), columns=True)],
            [""],
        )
    else:
        sides, names = wrapped_replicates(model_outputs, batch), [f"{key}." for key in REPLICATES]
    if validate:
        for name, side in zip(names, sides, strict=True):
            check_values(name, side.y, side.inputs["mu"], side.inputs["r"])
    return sides
