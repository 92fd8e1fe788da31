"""InfoNCE of points of any dimension on the CPU: a float32 filter finds pairs that count, then exact sums.

With centred points, s_ij = x_i·y_j - |y_j|²/2 is τ/2 times the exponent of source j, up to a term of the row.
Block by block of rows, S approximates s in float32, |S_ij - s_ij| <= slack_i. Every source with
S_ij >= max_j S_ij - reach - 2 slack_i, the maximum over the other rows' sources, and the row's own source are
candidates. What is left out weighs no more than a chosen part of what the others weigh together: tiny losses
keep their accuracy. Where it counts in a component of a gradient the row is summed over all sources, see
`concordance_blocks_cpu_left_out`.

The exponents of the candidates are evaluated from differences (see `torchimpl.kernels.concordance`), with the
source nearest to the row as the anchor, the row's own wherever no other is nearer:

    e_ij = 2/τ Σ_k (y_jk - n_k)(x_k - n_k/2 - y_jk/2).

Candidates are gathered feature by feature, so that all loops run over neighbours in memory. Rows for which
more than a part of all sources are candidates are summed over all of them, a bundle of rows at a time; where
whole blocks are like that, the next blocks do without the filter. Where the result will be rounded to
float32, such rows take their exponents from float64 products, as long as their bound allows; all moments are
of differences.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from torchimpl.kernels.compiled import digest_of
from torchimpl.kernels.concordance_blocks_cpu_filter import (
    DENSE,
    GROUP,
    STRIP,
    Array,
    Filter,
    Places,
    Products,
    fill_block,
    fill_products,
    find_candidates,
    loops,
)
from torchimpl.kernels.concordance_blocks_cpu_left_out import needs_more
from torchimpl.kernels.concordance_blocks_cpu_pairs import (
    Problem,
    add_exponents,
    add_sparse,
    add_strip,
    anchor_by_products,
    choose_anchor,
    exponents,
    gather,
    moment_of_row,
    moments_of_row,
    normalise,
    put_anchor,
)
from torchimpl.kernels.elementary_cpu import CONTRACT

SOURCES = (
    "concordance_blocks_cpu",
    "concordance_blocks_cpu_filter",
    "concordance_blocks_cpu_left_out",
    "concordance_blocks_cpu_pairs",
    "elementary_cpu",
    "negative_binomial_constants",
)
# rows that are summed over all sources together
BUNDLE = 16
# so many blocks at most do without the filter before it is tried again
LONGEST_REST = 16


@loops
def add_moments(problem: Problem, rows: Places, weights: Array, moments: Array, by_feature: Array) -> None:
    """moments_qk += Σ_j w_qj (y_jk - y_ik) and by_feature_kj += Σ_q w_qj (x_ik - y_jk), i = rows[q]."""
    points, x, y, count = problem.columns, problem.x, problem.y, len(problem.x)
    for start in range(0, count, STRIP):
        stop = min(count, start + STRIP)
        for q in range(0, len(rows), 4):
            r0, r1, r2, r3 = rows[q], rows[q + 1], rows[q + 2], rows[q + 3]
            for k in range(x.shape[1]):
                m0, m1, m2, m3 = add_strip(
                    points[k],
                    by_feature[k],
                    weights,
                    q,
                    start,
                    stop,
                    (y[r0, k], y[r1, k], y[r2, k], y[r3, k]),
                    (x[r0, k], x[r1, k], x[r2, k], x[r3, k]),
                )
                moments[q, k] += m0
                moments[q + 1, k] += m1
                moments[q + 2, k] += m2
                moments[q + 3, k] += m3


@loops
def sum_bundle(
    problem: Problem, known: Products, rows: Places, used: int, inverse_tau: float, log_eps: float,
    local: Array, bundle: Array, by_feature: Array,
) -> None:  # fmt: skip
    """A bundle of rows over all sources.

    Args:
        problem: the batch.
        known: how to find the exponents by products, with no source where they are not good enough.
        rows: a multiple of four; those from `used` on repeat another one and count for nothing.
        used: how many rows count.
        inverse_tau: 1/τ.
        log_eps: log ε.
        local: (rows, 3, D), work space.
        bundle: (rows, >= B), work space.
        by_feature: added to, τ/2 dL/dy.
    """
    points, count = problem.columns, len(problem.x)
    if len(known.bias) > 0:
        fill_products(known, rows, bundle)
    else:
        for q in range(used):
            put_anchor(problem.x[rows[q]], points, rows[q], local[q, 0], local[q, 1], local[q, 2])
        for start in range(0, count, STRIP):
            for q in range(used):
                add_exponents(points, start, min(count, start + STRIP), local[q], bundle[q])
    eps_share = np.zeros(used)
    for q in range(used):
        i, weights, x = rows[q], bundle[q, :count], problem.x[rows[q]]
        if len(known.bias) > 0:
            place, origin, top, own_term = anchor_by_products(known, weights, x, points, i, local[q])
        else:
            place, top = choose_anchor(x, points, count, i, local[q], weights)
            origin, own_term = 0.0, weights[i]
        problem.nearest[i] = place
        share, problem.others[i], eps_share[q] = normalise(
            problem, i, points, i, place, origin, top, own_term, inverse_tau, log_eps, weights
        )
        for j in range(count):
            weights[j] *= share * problem.cotangent[i]
    if len(problem.slope) == 0:
        return
    bundle[used : len(rows)] = 0.0
    moments = np.zeros((len(rows), problem.x.shape[1]))
    add_moments(problem, rows, bundle, moments, by_feature)
    for q in range(used):
        i = rows[q]
        for k in range(problem.x.shape[1]):
            away = problem.x[i, k] - problem.y[i, k]
            problem.slope[i, k] = problem.cotangent[i] * eps_share[q] * away + moments[q, k]
            by_feature[k, i] -= problem.cotangent[i] * problem.others[i] * away


@loops
def sum_sparse(
    problem: Problem, known: Filter, i: int, places: Places, found: int, inverse_tau: float, log_eps: float,
    local: Array, weights: Array, room: Array, by_source: Array,
) -> bool:  # fmt: skip
    """One row over its candidates, the own source first; False where they are not enough for the slopes."""
    x, features = problem.x[i], problem.x.shape[1]
    points = room[: features * found].reshape(features, found)
    gather(problem.y, places, found, points)
    exponents(x, points, found, 0, local, weights)
    place, top = choose_anchor(x, points, found, 0, local, weights)
    problem.nearest[i] = places[place]
    share, others, eps_share = normalise(
        problem, i, points, 0, place, 0.0, top, weights[0], inverse_tau, log_eps, weights[:found]
    )
    if len(problem.slope) == 0:
        return True
    cotangent, own, slope, moment = problem.cotangent[i], problem.y[i], problem.slope[i], local[0]
    whole = features - features % 4
    for k in range(0, whole, 4):
        moment[k], moment[k + 1], moment[k + 2], moment[k + 3] = moments_of_row(
            points, weights[:found], k, own[k], own[k + 1], own[k + 2], own[k + 3]
        )
    for k in range(whole, features):
        moment[k] = moment_of_row(points[k], weights[:found], own[k])
    if needs_more(problem, known, i, others, share, eps_share, moment):
        return False
    problem.others[i], problem.left_out[i] = others, known.part * others
    add_sparse(problem.y, places, weights, found, cotangent * share, x, by_source)
    for k in range(features):
        away = x[k] - own[k]
        slope[k] = cotangent * (eps_share * away + share * moment[k])
        by_source[i, k] -= cotangent * others * away
    return True


@loops
def keep(loss: Array, rows: Places, known: Array, count: int) -> None:
    """Write known losses of some rows back; NaN is not known."""
    for q in range(count):
        if not math.isnan(known[q]):
            loss[rows[q]] = known[q]


def compiled(key: str) -> Any:
    """The kernel; Numba looks its cache up by the value of `key`, because the kernel's closure holds it."""

    @njit(nogil=True, cache=True, error_model="numpy", fastmath=set(CONTRACT))
    def kernel(
        problem: Problem, known: Filter, products: Products, begin: int, end: int, block: int,
        inverse_tau: float, log_eps: float, by_source: Array, by_feature: Array,
    ) -> int:  # fmt: skip
        """Rows begin ... end - 1; τ/2 dL/dy is the sum of by_source (B, D) and by_feature (D, B), added to.

        Returns:
            How many rows were summed over all sources.
        """
        count, features, width = len(problem.x), problem.x.shape[1], len(known.bias)
        s, maxima = np.empty((block, width), np.float32), np.empty((block, width // GROUP), np.float32)
        groups = np.empty(width // GROUP + 1, np.int64)
        places, local, weights = (
            np.empty(count + GROUP, np.int64),
            np.empty((BUNDLE, 3, features)),
            np.empty(count),
        )
        room = np.empty(features * (int(DENSE * count) + len(known.outliers) + GROUP))
        bundle, rows = np.empty((BUNDLE, problem.columns.shape[1])), np.empty(BUNDLE, np.int64)
        # of the bundle's rows, NaN if not known yet: a loss is the same with and without slopes
        losses = np.empty(BUNDLE)
        dense_rows, waiting, rest, next_rest = 0, 0, 0, 1
        if width == 0:
            rest = count
        for first in range(begin, end, block):
            last = min(end, first + block)
            dense_before, filtered = dense_rows, rest == 0
            if filtered:
                fill_block(known, first, last, s, maxima)
            for i in range(first, last):
                found = -1
                if filtered and known.slack[i] < math.inf:
                    found = find_candidates(known, i, count, s[i - first], maxima[i - first], groups, places)
                if found >= 0 and sum_sparse(
                    problem, known, i, places, found, inverse_tau, log_eps, local[0], weights, room, by_source
                ):
                    continue
                rows[waiting], losses[waiting] = i, problem.loss[i] if found >= 0 else math.nan
                waiting += 1
                dense_rows += 1
                if waiting == BUNDLE:
                    sum_bundle(
                        problem, products, rows, waiting, inverse_tau, log_eps, local, bundle, by_feature
                    )
                    keep(problem.loss, rows, losses, waiting)
                    waiting = 0
            if not filtered:
                rest -= 1
            elif 2 * (dense_rows - dense_before) > last - first:
                rest, next_rest = next_rest, min(2 * next_rest, LONGEST_REST)
            else:
                next_rest = 1
        if waiting > 0:
            rows[waiting:] = rows[0]
            rows = rows[: waiting + (-waiting) % 4]
            sum_bundle(problem, products, rows, waiting, inverse_tau, log_eps, local, bundle, by_feature)
            keep(problem.loss, rows, losses, waiting)
        return dense_rows + 0 * len(key)

    return kernel


kernel = compiled(digest_of(SOURCES))
