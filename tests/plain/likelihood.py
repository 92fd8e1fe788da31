"""Negative log-likelihood of counts."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.plain.common import (
    LONG,
    REPLICATES,
    Array,
    Long,
    check_reduction,
    divisor,
    entry,
    reduced,
)
from tests.plain.mass import IMPOSSIBLE, log_mass, score
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
    terms = np.mean([_surprise(*side.flat()) for side in sides], axis=0).reshape(sides[0].y.shape)
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
        slope_mu, slope_r = (slope / shares for slope in _slopes(*side.flat()))
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


def _surprise(y: Long, mu: Long, r: Long) -> Long:
    """-log p; beyond every format where p is 0, inf at y = inf."""
    k = np.floor(y)
    valid, possible = _domain(k, mu, r)
    result = np.where(valid, IMPOSSIBLE, np.nan)
    result[valid & (k == 0) & (mu == 0)] = 0
    result[valid & np.isposinf(k)] = np.inf
    result[possible] = -log_mass(k[possible], mu[possible], r[possible])
    return result


def _slopes(y: Long, mu: Long, r: Long) -> tuple[Long, Long]:
    """Derivatives of -log p in mu and in r."""
    k = np.floor(y)
    valid, possible = _domain(k, mu, r)
    slope_mu, slope_r = (np.where(valid & np.isfinite(k), LONG(0), np.nan) for _ in range(2))
    counted = valid & np.isfinite(k) & (k >= 0)
    slope_r[counted] = -score(k[counted], mu[counted], r[counted])
    without = counted & (mu == 0)
    slope_mu[without] = np.where(k[without] > 0, -np.inf, 1)
    share = np.where(np.isinf(r), 1, r / (r + mu))
    slope_mu[possible] = (share * ((mu - k) / mu))[possible]
    return slope_mu, slope_r


def _domain(k: Long, mu: Long, r: Long) -> tuple[np.ndarray, np.ndarray]:
    """Where the arguments are valid, and where the probability is positive for 0 < mu."""
    valid = ~np.isnan(k) & (mu >= 0) & np.isfinite(mu) & (r > 0)
    return valid, valid & (k >= 0) & np.isfinite(k) & (mu > 0)
