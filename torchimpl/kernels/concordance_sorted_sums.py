"""InfoNCE of scalar residuals: the sums over sorted rows and sources, group by group.

For every group of rows the sums over its window are found first, then the sums over rows with the weights
that follow from them. A row whose own source has most of the weight (total below DOMINATED) is summed source
by source, without its own term: 1 - p_ii keeps its digits. There are few such rows in any window, because two
of them, i and k, are apart: (x_i-x_k)(y_i-y_k) > 1.3 τ.

docs/infonce.md derives the error and the cost.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from torchimpl.kernels.compiled import digest_of
from torchimpl.kernels.concordance_sorted import (
    RHO,
    STRIP,
    TERMS,
    Array,
    Places,
    Rows,
    compiled,
    excess,
    find_windows,
    rest_and_moment,
    widened,
)
from torchimpl.kernels.concordance_sorted_blocks import (
    Group,
    add_block_to_columns,
    add_block_to_rows,
    cut,
)
from torchimpl.kernels.elementary_cpu import CONTRACT, exp

SOURCES = (
    "concordance_sorted",
    "concordance_sorted_blocks",
    "concordance_sorted_sums",
    "elementary_cpu",
    "negative_binomial_constants",
)
DOMINATED = 1.25
# a pair alone costs an exponential; a row or source of a block an exponential and two polynomials
PAIR_COST, POINT_COST = 1.4, 8.0


@compiled
def settle(
    rows: Rows, i: int, rest: float, moment: float, scale: float, log_eps: float
) -> tuple[float, float]:
    """Write loss, slope, peak and total of a row.

    Args:
        rows: all rows.
        i: the row.
        rest: sum of all weights but the anchor's 1.
        moment: Σ_j weight_j (y_j - n).
        scale: 2/τ.
        log_eps: log ε.

    Returns:
        p of a source of weight 1, and p of ε.
    """
    x, n, own = rows.x[i], rows.anchor[i], rows.own[i]
    # without ε no distance, not even an infinite one, makes it count
    eps_exponent = log_eps if log_eps == -math.inf else log_eps + 0.5 * scale * (x - n) * (x - n)
    peak = max(0.0, min(eps_exponent, 1e300))
    shrink, eps_weight = math.exp(-peak), math.exp(min(eps_exponent, 1e300) - peak)
    sources = shrink + rest * shrink
    total = sources + eps_weight
    log_sources = math.log1p(rest)
    above = max(log_sources, eps_exponent)
    below = min(log_sources, eps_exponent)
    both = above if below == -math.inf else above + math.log1p(math.exp(below - above))
    rows.loss[i] = both - scale * excess(rows.high[i], rows.low[i], n, own)
    rows.peak[i], rows.total[i] = peak, total
    share, eps_share = shrink / total, eps_weight / total
    rows.slope[i] = eps_share * (x - own) + ((sources / total) * (n - own) + share * moment)
    return share, eps_share


@compiled
def sum_row(
    rows: Rows, i: int, sources: Array, scale: float, log_eps: float, cut_off: float, weights: Array,
    ahead: Array, columns: Array, base: int,
) -> None:  # fmt: skip
    """One row, source by source; its own term is left out of what the others add up to."""
    first, last, place, own = rows.first[i], rows.last[i], rows.anchor_place[i], rows.own_place[i]
    if own == place:
        first, last = widened(rows, i, sources, scale, cut_off)
    high, low, n, x = rows.high[i], rows.low[i], rows.anchor[i], rows.x[i]
    for j in range(first, last):
        ahead[j - first] = sources[j] - n
        weights[j - first] = exp(scale * excess(high, low, n, sources[j]))
    weights[place - first] = 0.0
    rest, moment = rest_and_moment(weights, ahead, last - first)
    share, eps_share = settle(rows, i, rest, moment, scale, log_eps)
    weights[place - first] = 1.0
    if own == place:
        others = rest
    elif first <= own < last:
        others = (rest - weights[own - first]) + 1.0
    else:
        others = rest + 1.0
    rows.own_slope[i] = rows.cotangent[i] * (others * share + eps_share) * (x - rows.own[i])
    if len(columns) == 0:
        return
    if first <= own < last:
        weights[own - first] = 0.0
    factor = rows.cotangent[i] * share
    for j in range(first, last):
        columns[j - base] += factor * weights[j - first] * (x - sources[j])


@compiled
def sum_group(
    rows: Rows, group: Group, sources: Array, starts: Places, blocks: int, scale: float, log_eps: float,
    cut_off: float, columns: Array, base: int, space: Array, strip: Array,
) -> None:  # fmt: skip
    """All rows of a group and all sources of its window, by blocks; rows that own sources dominate, alone."""
    first, begin, end = starts[0], group.begin, group.end
    weights, z, sums = space[0], space[1], np.empty((4, TERMS + 1))
    total, moment, share = np.zeros(end - begin), np.zeros(end - begin), np.zeros(end - begin)
    for k in range(blocks):
        here, block = slice(starts[k] - first, starts[k + 1] - first), sources[starts[k] : starts[k + 1]]
        add_block_to_rows(rows, group, block, scale, weights[here], z[here], total, moment, strip, sums)
    for i in range(begin, end):
        rest = total[i - begin] - 1.0
        if rest < DOMINATED - 1.0 and rows.own_place[i] == rows.anchor_place[i]:
            sum_row(rows, i, sources, scale, log_eps, cut_off, space[2], space[3], columns, base)
        else:
            part, _ = settle(rows, i, max(rest, 0.0), moment[i - begin], scale, log_eps)
            share[i - begin] = part * rows.cotangent[i]
            rows.own_slope[i] = rows.cotangent[i] * (rows.x[i] - rows.own[i])
    if len(columns) == 0:
        return
    for k in range(blocks):
        here, block = slice(starts[k] - first, starts[k + 1] - first), sources[starts[k] : starts[k + 1]]
        slots = columns[starts[k] - base : starts[k + 1] - base]
        add_block_to_columns(rows, group, block, scale, weights[here], z[here], share, slots, strip, sums)


@compiled
def sum_rows(
    rows: Rows, begin: int, end: int, sources: Array, inverse_tau: float, log_eps: float, cut_off: float,
    columns: Array, base: int, count: int, by_blocks: bool,
) -> None:  # fmt: skip
    """Rows begin ... end - 1: their losses and slopes, and what they add to τ/2 dL/dy of other rows' sources.

    Args:
        rows: all rows; the results are written there.
        begin: first row.
        end: behind the last row.
        sources: (B,), sorted.
        inverse_tau: 1/τ.
        log_eps: log ε, -inf for ε = 0.
        cut_off: what weighs less than exp(-cut_off) is left out.
        columns: (count,), added to, from the source `base` on; empty where no gradient is wanted.
        base: first source that any of the rows can see.
        count: how many sources they can see.
        by_blocks: whether rows may be summed in groups; if not, all pairs are.
    """
    scale, tau = 2.0 * inverse_tau, 1.0 / inverse_tau
    space, strip = np.empty((4, count)), np.empty((2, STRIP))
    starts = np.empty(count + 1, np.int64)
    cell = math.sqrt(2.0 * RHO * tau)
    start = begin
    while start < end:
        stop = start + 1
        while stop < end:
            width = rows.x[stop] - rows.x[start]
            hull = sources[rows.last[stop] - 1] - sources[rows.first[start]]
            if width > cell and width * hull > 2.0 * RHO * tau:
                break
            stop += 1
        first, last = rows.first[start], rows.last[stop - 1]
        pairs = 0.0
        for i in range(start, stop):
            pairs += rows.last[i] - rows.first[i]
        size, width = stop - start, rows.x[stop - 1] - rows.x[start]
        radius, blocks = 0.5 * width, 0
        anchors = rows.anchor[start:stop]
        group = Group(start, stop, rows.x[start] + radius, radius, anchors.min(), anchors.max())
        if by_blocks and size > 1 and pairs * PAIR_COST > (size + last - first) * POINT_COST:
            blocks = cut(sources, first, last, group.centre, radius, tau, starts, group.lowest, group.highest)
        if blocks == 0 or pairs * PAIR_COST <= (size * blocks + last - first) * POINT_COST:
            for i in range(start, stop):
                sum_row(rows, i, sources, scale, log_eps, cut_off, space[2], space[3], columns, base)
        else:
            sum_group(
                rows, group, sources, starts, blocks, scale, log_eps, cut_off, columns, base, space, strip
            )
        start = stop


def compile_windows(key: str) -> Any:
    """`find_windows`; Numba looks it up in its cache by the value of `key`: the kernel's closure holds it."""

    @njit(nogil=True, cache=True)
    def kernel(
        xs: Array, ys: Array, own: Places, reach: float, first: Places, last: Places, anchor: Places
    ) -> int:
        find_windows(xs, ys, own, reach, first, last, anchor)
        return len(key)

    return kernel


def compile_sums(key: str) -> Any:
    """`sum_rows`, cached like `compile_windows`."""

    @njit(nogil=True, cache=True, error_model="numpy", fastmath=set(CONTRACT))
    def kernel(
        rows: Rows, sources: Array, inverse_tau: float, log_eps: float, cut_off: float, begin: int, end: int,
        columns: Array, base: int, count: int, by_blocks: bool,
    ) -> int:  # fmt: skip
        sum_rows(rows, begin, end, sources, inverse_tau, log_eps, cut_off, columns, base, count, by_blocks)
        return len(key)

    return kernel


window_kernel = compile_windows(digest_of(SOURCES))
sum_kernel = compile_sums(digest_of(SOURCES))
