"""InfoNCE of points on the CPU: components of the gradients for which candidates alone are not enough.

What the candidates of a row leave out weighs `Filter.part` of the others together at most. That counts in a
component that is as small, if the difference of the row and its own source is, too: identical replicates, or
features with many ties. Such a row is summed over all sources. Whether a source is seen by too few rows is
known when all rows are done: its column is then summed over all rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from torchimpl.kernels.compiled import digest_of, run_shared
from torchimpl.kernels.concordance_blocks_cpu_filter import Array, Filter, Places, loops
from torchimpl.kernels.concordance_blocks_cpu_pairs import Problem, put_anchor
from torchimpl.kernels.elementary_cpu import CONTRACT, exp

SOURCES = (
    "concordance_blocks_cpu_filter",
    "concordance_blocks_cpu_left_out",
    "concordance_blocks_cpu_pairs",
    "elementary_cpu",
    "negative_binomial_constants",
)


@loops
def needs_more(
    problem: Problem, known: Filter, i: int, others: float, share: float, eps_share: float, moment: Array
) -> bool:
    """Whether what is left out counts in any component of row i's slope.

    Args:
        problem: the batch.
        known: ranges of the sources, and what counts.
        i: the row.
        others: p of all but the own source.
        share: p of a source of weight 1.
        eps_share: p of ε.
        moment: (D,), Σ_j weight_j (y_j - y_i).
    """
    for k in range(len(moment)):
        own = problem.y[i, k]
        away = problem.x[i, k] - own
        size = max(abs(away), abs(eps_share * away + share * moment[k]))
        if known.part * others * max(known.high[k] - own, own - known.low[k]) > known.allowed * size:
            return True
    return False


@loops
def sum_column(problem: Problem, j: int, inverse_tau: float, local: Array, sums: Array) -> None:
    """τ/2 dL/dy_j of the sum of the losses weighted by the cotangents, from all rows."""
    y, scale = problem.y[j], 2.0 * inverse_tau
    anchor, high, low = local[0], local[1], local[2]
    sums[:] = 0.0
    for i in range(len(problem.x)):
        if i == j or problem.cotangent[i] == 0.0:
            continue
        x, exponent = problem.x[i], 0.0
        put_anchor(x, problem.columns, problem.nearest[i], anchor, high, low)
        for k in range(len(y)):
            exponent += (y[k] - anchor[k]) * ((high[k] - 0.5 * y[k]) + low[k])
        size = exp(scale * exponent - problem.normaliser[0, i])
        size *= problem.cotangent[i] / problem.normaliser[1, i]
        if size != 0.0:
            for k in range(len(y)):
                sums[k] += size * (x[k] - y[k])
    for k in range(len(y)):
        sums[k] -= problem.cotangent[j] * problem.others[j] * (problem.x[j, k] - y[k])


def compiled(key: str) -> Any:
    """`sum_column` for many; Numba looks it up in its cache by the value of `key`."""

    @njit(nogil=True, cache=True, error_model="numpy", fastmath=set(CONTRACT))
    def kernel(
        problem: Problem, places: Places, inverse_tau: float, columns: Array, begin: int, end: int
    ) -> int:
        """Write columns[q] of the source places[q], (D,), for begin <= q < end."""
        local = np.empty((3, problem.x.shape[1]))
        for q in range(begin, end):
            sum_column(problem, places[q], inverse_tau, local, columns[q])
        return len(key)

    return kernel


kernel = compiled(digest_of(SOURCES))


def sum_again(problem: Problem, known: Filter, inverse_tau: float, total: Array) -> None:
    """Replace τ/2 dL/dy, `total`, of those sources for which the rows that see them are not enough.

    A row leaves out less than left_out/B of each source, and nothing of the outliers.

    Args:
        problem: the batch, with the results of all rows.
        known: the filter.
        inverse_tau: 1/τ.
        total: (B, D), of the sum of the losses weighted by the cotangents.
    """
    if not problem.left_out.any():
        return
    x, y, cotangent = problem.x, problem.y, np.abs(problem.cotangent)
    # cotangents may be anything
    with np.errstate(all="ignore"):
        weights = problem.left_out * (cotangent / len(x))
        # Σ_i w_i |x_i - y_j| <= Σ_i w_i |x_i - c| + Σ_i w_i |c - y_j|
        centre = 0.5 * (known.low + known.high)
        most = weights @ np.abs(x - centre) + weights.sum() * np.abs(y - centre)
        size = np.maximum(np.abs(total), cotangent[:, None] * np.abs(x - y))
        doubtful = (most > known.allowed * size).any(axis=1)
    doubtful[known.outliers] = False
    places = np.flatnonzero(doubtful)
    if len(places) == 0:
        return
    columns = np.empty((len(places), total.shape[1]))
    run_shared(kernel, (problem, places, inverse_tau, columns), len(places), 1)
    total[places] = columns
