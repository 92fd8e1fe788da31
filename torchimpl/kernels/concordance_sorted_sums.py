"""InfoNCE of scalar residuals: the sums over sorted rows and sources, group by group.

For every group of rows the sums over its window are found first, then the sums over rows with the weights
that follow from them. A row whose own source has most of the weight (total below DOMINATED) is summed source
by source, without its own term: 1 - p_ii keeps its digits. There are few such rows in any window, because two
of them, i and k, are apart: (x_i-x_k)(y_i-y_k) > 1.3 τ.

docs/infonce.md derives the error and the cost.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

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
    add_moments,
    add_polynomials,
    add_spread,
    compiled,
    concentrated,
    cut,
    excess,
    find_windows,
    rest_and_moment,
    strip_of_rows,
    strip_of_sources,
    taylor,
    widened,
)
from torchimpl.kernels.elementary_cpu import CONTRACT, exp

SOURCES = (
    "concordance_sorted",
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
def add_pairs_to_rows(
    rows: Rows, begin: int, end: int, sources: Array, scale: float, total: Array, moment: Array
) -> None:
    """A block source by source: what it adds to the sums of the rows of a group."""
    for i in range(begin, end):
        high, low, n = rows.high[i], rows.low[i], rows.anchor[i]
        for source in sources:
            size = exp(scale * excess(high, low, n, source))
            total[i - begin] += size
            moment[i - begin] += size * (source - n)


@compiled
def add_pairs_to_columns(
    rows: Rows, begin: int, end: int, sources: Array, scale: float, share: Array, columns: Array
) -> None:
    """A block source by source: what the rows of a group add to its column sums."""
    for i in range(begin, end):
        if share[i - begin] == 0.0:
            continue
        high, low, n, x = rows.high[i], rows.low[i], rows.anchor[i], rows.x[i]
        for j in range(len(sources)):
            size = exp(scale * excess(high, low, n, sources[j]))
            columns[j] += share[i - begin] * size * (x - sources[j])


class Group(NamedTuple):
    """Rows that are summed together."""

    begin: int
    end: int
    centre: float
    radius: float
    lowest: float  # of their anchors
    highest: float


@compiled
def add_block_to_rows(
    rows: Rows, group: Group, sources: Array, scale: float, weights: Array, z: Array, total: Array,
    moment: Array, strip: Array, sums: Array,
) -> None:  # fmt: skip
    """What one block of sources adds to the sums of a group's rows; leaves its weights and places behind."""
    half_width = 0.5 * (sources[-1] - sources[0])
    middle = sources[0] + half_width
    moments, series, slopes, spread = sums[0], sums[1, :TERMS], sums[2, :TERMS], sums[3]
    moments[:], spread[:] = 0.0, 0.0
    near = group.lowest - middle < 2.0 * half_width and middle - group.highest < 2.0 * half_width
    for j in range(0, len(sources), STRIP):
        stop = min(j + STRIP, len(sources))
        strip_of_sources(sources[j:stop], group.centre, middle, half_width, scale, weights[j:stop], z[j:stop])
        if near:
            add_spread(weights[j:stop], z[j:stop], stop - j, spread)
        strip[0, : stop - j] = weights[j:stop]
        add_moments(strip[0], z[j:stop], stop - j, moments)
    if near and concentrated(spread):
        add_pairs_to_rows(rows, group.begin, group.end, sources, scale, total, moment)
        return
    taylor(moments, scale * group.radius * half_width, half_width, series, slopes)
    for i in range(group.begin, group.end, STRIP):
        stop = min(i + STRIP, group.end)
        here = slice(i - group.begin, stop - group.begin)
        row_weights, t = strip[0, : stop - i], strip[1, : stop - i]
        strip_of_rows(rows, i, stop, group.centre, middle, group.radius, scale, row_weights, t)
        add_polynomials(
            row_weights, t, middle, rows.anchor[i:stop], series, slopes, total[here], moment[here]
        )


@compiled
def add_block_to_columns(
    rows: Rows, group: Group, sources: Array, scale: float, weights: Array, z: Array, share: Array,
    columns: Array, strip: Array, sums: Array,
) -> None:  # fmt: skip
    """What a group's rows add to the column sums of one block of sources."""
    half_width, radius = 0.5 * (sources[-1] - sources[0]), group.radius
    middle = sources[0] + half_width
    moments, series, slopes, spread = sums[0], sums[1, :TERMS], sums[2, :TERMS], sums[3]
    moments[:], spread[:] = 0.0, 0.0
    near = radius > 0.0 and abs(group.centre - middle) - half_width < 2.0 * radius
    for i in range(group.begin, group.end, STRIP):
        stop = min(i + STRIP, group.end)
        row_weights, t = strip[0, : stop - i], strip[1, : stop - i]
        strip_of_rows(rows, i, stop, group.centre, middle, radius, scale, row_weights, t)
        for m in range(stop - i):
            row_weights[m] *= share[i - group.begin + m]
        if near:
            add_spread(row_weights, t, stop - i, spread)
        add_moments(row_weights, t, stop - i, moments)
    if near and concentrated(spread):
        add_pairs_to_columns(rows, group.begin, group.end, sources, scale, share, columns)
        return
    taylor(moments, scale * radius * half_width, radius, series, slopes)
    for j in range(0, len(sources), STRIP):
        stop = min(j + STRIP, len(sources))
        add_polynomials(
            weights[j:stop], z[j:stop], group.centre, sources[j:stop], series, slopes, strip[0, : stop - j],
            columns[j:stop],
        )  # fmt: skip


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
