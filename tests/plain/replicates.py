"""The dict form of the arguments: {'r1': {'mu', 'r'}, 'r2': ...} and {'r1': {'reads'}, 'r2': ..., ...}."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.plain.common import REPLICATES, Array, Long, aligned, check_shapes, checked, entry, gradient


def means(
    model_outputs: Mapping[str, Any], batch: Mapping[str, Any]
) -> tuple[list[Array], list[Long], list[Array]]:
    """Reads of both replicates, their means in the same shapes, and the means as they came."""
    reads = [checked(f"{key}.reads", entry("batch", batch, key, "reads")) for key in REPLICATES]
    inputs = [checked(f"{key}.mu", entry("model_outputs", model_outputs, key, "mu")) for key in REPLICATES]
    aligned_means = [
        aligned(f"{key}.mu", mu, y) for key, mu, y in zip(REPLICATES, inputs, reads, strict=True)
    ]
    return reads, aligned_means, inputs


def residuals(model_outputs: Mapping[str, Any], batch: Mapping[str, Any]) -> tuple[list[Long], list[Array]]:
    """Reads - mu of both replicates in one shape, and the inputs that decide the dtype."""
    reads, mus, inputs = means(model_outputs, batch)
    check_shapes(r1=reads[0], r2=reads[1])
    if reads[0].ndim == 0:
        raise ValueError("reads must have a batch dimension, got shape ()")
    return [y - mu for y, mu in zip(reads, mus, strict=True)], [*inputs, *reads]


def nested(model_outputs: Mapping[str, Any], slopes: list[Any], cotangent: float) -> tuple[dict[str, Any]]:
    """Gradients for `mu` of both replicates, nested like the outputs; 0 for an `r` that is not used."""
    found: dict[str, Any] = {}
    for key, slope in zip(REPLICATES, slopes, strict=True):
        side = model_outputs[key]
        found[key] = {"mu": gradient(slope, cotangent, np.asarray(side["mu"]))}
        if "r" in side:
            found[key]["r"] = np.zeros_like(side["r"])
    return (found,)
