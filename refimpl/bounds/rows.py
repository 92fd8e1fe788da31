"""Errors of elementwise quantities in the working precision, and what a sum over the batch adds to them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refimpl.bounds.precision import Array, Precision, gamma
from refimpl.checks import as_float64
from refimpl.negative_binomial_tables import SCALED, SHIFT, full

LARGEST = float(np.finfo(np.float64).max)
UNDERFLOWS = 8.0  # products and quotients on the way that may become subnormal


@dataclass(frozen=True)
class Rows:
    """Exact quantities and their errors in the working precision, by row of the oracle's table."""

    exact: Array
    error: Array


def arguments(y: ArrayLike, mu: ArrayLike, r: ArrayLike) -> tuple[Array, Array, Array]:
    """Floored counts, means and dispersions as flat arrays of one size."""
    counts = as_float64("y", y)
    return (
        np.floor(counts.reshape(-1)),
        full("mu", as_float64("mu", mu), counts),
        full("r", as_float64("r", r), counts),
    )


def settled(rows: Rows, edge: NDArray[np.bool_]) -> Rows:
    """Errors 0 at the edges, where constants come back, and never NaN."""
    return Rows(rows.exact, np.where(edge, 0.0, np.nan_to_num(rows.error, nan=LARGEST, posinf=LARGEST)))


def divided(rows: Rows, row: int, divisor: float) -> tuple[Array, Array]:
    """|Exact| / divisor and error / divisor of a row of the log mass.

    A derivative that overflows stands times 2^-SHIFT further down: its quotient may be in range again.
    """
    exact, error = (np.abs(part[row]) / divisor for part in (rows.exact, rows.error))
    further, divisor = row + SCALED, divisor * 2.0**-SHIFT
    scaled = rows.exact[further]
    beyond = np.isinf(rows.exact[row]) & np.isfinite(scaled) & (scaled != 0.0)
    with np.errstate(over="ignore"):
        exact = np.where(beyond, np.abs(scaled) / divisor, exact)
        error = np.where(beyond, rows.error[further] / divisor, error)
    return exact, np.minimum(error, LARGEST)


def pulled_back(
    exact: Array, error: Array, shape: tuple[int, ...], precision: Precision, *, weighted: bool
) -> Array:
    """Bound of a parameter's gradient in its shape; summed over the batch for 0-dim.

    Two roundings for a weight 1 / divisor (both sides are divided already), then n - 1 for the sum in any
    order, then the one into the result's format.
    """
    u, n = precision.work_roundoff, exact.size
    size = np.nan_to_num(np.abs(exact), nan=0.0, posinf=LARGEST)
    own = error
    if weighted:
        own = own + 2.0 * u * size + precision.work_tiny
    if shape == () and n != 1:
        total = own.sum() + gamma(n, u) * (size + own).sum() if n else 0.0
        return np.asarray(precision.rounded_result(size.sum(), total))
    return precision.rounded_result(size, own).reshape(shape)


def reduced(exact: Array, error: Array, divisor: float, precision: Precision) -> float:
    """Bound of sum / divisor of n numbers in any order: their errors, n - 1 additions, the division."""
    u, n = precision.scalar_roundoff, exact.size
    if n == 0:
        return 0.0
    size = np.where(np.isfinite(exact), np.abs(exact), 0.0) / divisor
    spread = (error / divisor).sum()
    additions = gamma(n - 1 + (2 if divisor != 1.0 else 0), u) * (size.sum() + spread)
    return float(min(spread + additions + precision.scalar_tiny, LARGEST))
