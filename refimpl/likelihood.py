"""Oracle of the negative log-likelihood of the negative binomial with mean mu and dispersion r.

    value = mean of -log p(floor(y); mu, r)  (or sum, or none), averaged over the replicates if there are two

Where no mass is (y < 0, or mu = 0 < y) the value is +inf for finite inputs and saturates at the largest
float64.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from refimpl.arithmetic import FLOAT64_MAX, to_float
from refimpl.checks import Array, check_reduction, same_shape
from refimpl.masked import cotangent_array
from refimpl.negative_binomial_tables import (
    LOG_MASS,
    LOG_SLOPE_MU,
    LOG_SLOPE_R,
    Table,
    log_mass_table,
    pulled_back_slope,
    total,
)
from refimpl.quantile import REPLICATES, unpack_replicate
from refimpl.scaled import Scaled, normalised, sc, sc_add, sc_div, sc_neg, sc_pair


def nll_loss(
    model_outputs: Mapping[str, Any], batch: Mapping[str, Any], *, reduction: str = "mean"
) -> float | Array:
    """Mean of -log p, over one replicate or averaged over r1 and r2 (half the sum of both results).

    Args:
        model_outputs: {"mu", "r"}, or {"r1": {"mu", "r"}, "r2": {"mu", "r"}}; each (B,), (B, 1)
            or one number.
        batch: {"reads": (B,)}, or {"r1": {"reads": (B,)}, "r2": {"reads": (B,)}}.
        reduction: "mean", "sum" or "none".

    Returns:
        A float, saturated at the largest float64; for "none" a float64 array. NaN, r <= 0 or mu < 0 gives
        NaN, y = inf gives inf, an empty batch 0.

    Raises:
        KeyError: a key is missing.
        TypeError: data is not real.
        ValueError: shapes that are not the same batch, unknown reduction, an element beyond MAX_TERMS.

    Example:
        >>> outputs = {"mu": [1.0, 1.0], "r": [1.0, 1.0]}  # p_k = 2^-(k+1)
        >>> bool(nll_loss(outputs, {"reads": [0, 2]}) == 2 * np.log(2.0))
        True
    """
    check_reduction(reduction)
    replicates = unpack_likelihood(model_outputs, batch, reduction)
    tables = [log_mass_table(*replicate) for replicate in replicates]
    if reduction == "none":
        return _elementwise(replicates, tables)
    values = [
        _reduced(y, table, float(y.size) if reduction == "mean" and y.size else 1.0)
        for (y, _, _), table in zip(replicates, tables, strict=True)
    ]
    return _average(values)


def nll_loss_gradient(
    model_outputs: Mapping[str, Any],
    batch: Mapping[str, Any],
    cotangent: ArrayLike = 1.0,
    *,
    reduction: str = "mean",
) -> dict[str, Any]:
    """Gradient of `nll_loss`, nested like model_outputs and in its shapes.

    Args:
        model_outputs: as for the value.
        batch: as for the value.
        cotangent: a number; for reduction "none" an array of the result's shape (or a number for all).
        reduction: as for the value.

    Returns:
        {"mu", "r"} or {"r1": {"mu", "r"}, "r2": {"mu", "r"}}; one number for all gets the sum over the batch.
        Where y < 0 it is 0, at mu = 0 < y it is -inf in mu.

    Raises:
        KeyError: as the value.
        TypeError: as the value.
        ValueError: as the value, or the cotangent has the wrong shape.

    Example:
        >>> nll_loss_gradient({"mu": [1.0], "r": [1.0]}, {"reads": [3]})["mu"]
        array([-1.])
    """
    check_reduction(reduction)
    replicates = unpack_likelihood(model_outputs, batch, reduction)
    gradients = []
    for y, mu, r in replicates:
        tables = log_mass_table(y, mu, r)
        weight = -cotangent_array(cotangent, y.shape if reduction == "none" else (), y.shape)
        divisor = float(len(replicates) * (y.size if reduction == "mean" else 1))
        gradients.append(
            {
                "mu": pulled_back_slope(tables, LOG_SLOPE_MU, weight, divisor, mu.shape),
                "r": pulled_back_slope(tables, LOG_SLOPE_R, weight, divisor, r.shape),
            }
        )
    sources = [model_outputs] if len(replicates) == 1 else [model_outputs[name] for name in REPLICATES]
    for gradient, source in zip(gradients, sources, strict=True):
        for key in gradient:
            gradient[key] = gradient[key].reshape(np.shape(source[key]))
    return gradients[0] if len(gradients) == 1 else dict(zip(REPLICATES, gradients, strict=True))


def unpack_likelihood(
    model_outputs: Mapping[str, Any], batch: Mapping[str, Any], reduction: str
) -> list[tuple[Array, Array, Array]]:
    """Return [(y, mu, r)] of the one or the two replicates, parameters 0-dim or in the shape of the reads."""
    if not any(name in model_outputs for name in REPLICATES):
        return [unpack_replicate(model_outputs, batch)]
    replicates = [unpack_replicate(model_outputs, batch, name) for name in REPLICATES]
    if reduction == "none":
        same_shape("batch['r1']['reads']", replicates[0][0], "batch['r2']['reads']", replicates[1][0])
    return replicates


def _elementwise(replicates: list[tuple[Array, Array, Array]], tables: list[Table]) -> Array:
    y = replicates[0][0]
    result = np.zeros(y.size)
    for i in range(y.size):
        column = slice(i, i + 1)
        values = [
            _reduced(counts.reshape(-1)[column], (table[0][:, column], table[1][:, column]), 1.0)
            for (counts, _, _), table in zip(replicates, tables, strict=True)
        ]
        result[i] = _average(values)
    return result.reshape(y.shape)


def _reduced(y: Array, table: Table, divisor: float) -> Scaled:
    """-(sum of log p) / divisor; inf in place of it where y = inf, the largest float64 where no mass is."""
    log_masses = table[0][LOG_MASS]
    if np.isnan(log_masses).any():
        return math.nan, 0.0, 0
    if np.isposinf(y).any():
        return math.inf, 0.0, 0
    if np.isneginf(log_masses).any():
        return normalised(FLOAT64_MAX, 0.0, 2)  # beyond the range, so that halving it saturates still
    return sc_div(sc_neg(total(log_masses, table[1][LOG_MASS])), sc(divisor))


def _average(values: list[Scaled]) -> float:
    """Mean of one or two values, rounded and saturated once."""
    result = values[0]
    if len(values) == 2:
        finite = all(math.isfinite(value[0]) for value in values)
        result = sc_div(sc_add(*values), sc(2.0)) if finite else sc(values[0][0] + values[1][0])
    value = to_float(sc_pair(result))
    return min(value, FLOAT64_MAX) if math.isfinite(result[0]) else value
