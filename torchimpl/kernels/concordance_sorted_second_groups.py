"""Second derivatives of scalar InfoNCE: the sums of a group of rows over the blocks of its window.

The groups of rows and blocks of sources are those of the loss. With the slopes b_ij of
`concordance_sorted_second_rows`, z = y_j - n_i and U = uy_j - un_i, a row needs

    Σ_j p_ij z^k and Σ_j p_ij U z^k, k = 0, 1, 2:   b_ij - b_in = z U - (x_i-n_i) U - (ux_i-un_i) z,

six polynomials in its place from two sets of moments of the sources, with weights w_j and w_j μ_j. Here μ_j,
ξ_i and ω_i are uy_j, ux_i and un_i minus what all uy of the group have in common: a constant added to ux and
uy costs few digits. For the sums over rows, with y_j = d + v_j in the block around d, g_i = x_i - d and
ν_i = n_i - d,

    b_ij - β_i = K_i - μ_j g_i - ξ_i v_j + μ_j v_j,   K_i = (x_i-n_i) ω_i + ξ_i ν_i + b_in - β_i,

so that a group adds to a source a polynomial in v_j plus μ_j times another one, from six sets of moments of
the rows. Every product is formed per row before the moments are: no power of x is expanded.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from torchimpl.kernels.compiled import digest_of
from torchimpl.kernels.concordance_sorted import (
    RHO,
    TERMS,
    Array,
    Places,
    compiled,
    excess,
    find_windows,
    halves,
    weight,
)
from torchimpl.kernels.concordance_sorted_blocks import cut, strip_of_sources
from torchimpl.kernels.concordance_sorted_second_rows import (
    SecondRows,
    SecondSources,
    Units,
    second_row,
    settle,
)
from torchimpl.kernels.concordance_sorted_second_series import (
    MOMENTS,
    add_columns,
    add_powers,
    add_row_sums,
    joined_series,
    three_series,
)
from torchimpl.kernels.elementary_cpu import CONTRACT

SOURCES = (
    "concordance_sorted",
    "concordance_sorted_blocks",
    "concordance_sorted_second_groups",
    "concordance_sorted_second_rows",
    "concordance_sorted_second_series",
    "elementary_cpu",
    "negative_binomial_constants",
)
# a row whose other sources weigh less than 1/4 of its own is summed alone: 1 - p_ii keeps its digits
DOMINATED = 0.25
# beside τ, about 1, so short a distance is none, and its reciprocal is still a number
TINY = 1e-300
# beyond, products of two distances and a number could overflow: such rows go alone, whatever it costs
FARTHEST = 1e280
# rows or sources that are worked on at a time
LANES = 256


@compiled
def place_rows(
    rows: SecondRows, start: int, stop: int, centre: float, middle: float, radius: float, area: float,
    weights: Array, t: Array, shift: Array,
) -> None:  # fmt: skip
    """Weights of the point `middle` for rows of a group, their places in [-1, 1], and middle - n."""
    inverse = 1.0 / radius if radius > 0.0 else 0.0
    xs, anchors = rows.x[start:stop], rows.anchor[start:stop]
    for i in range(stop - start):
        x, n = xs[i], anchors[i]
        high, low = halves(x, n)
        weights[i] = weight(area * excess(high, low, n, middle))
        t[i] = (x - centre) * inverse
        shift[i] = middle - n


@compiled
def weigh_rows(
    rows: SecondRows, start: int, middle: float, mean_u: float, reach: float, area: float,
    weights: Array, part: Array, rest: Array, work: Array,
) -> None:  # fmt: skip
    """Weights of the rows of a group: three for the powers of v, three for those times μ·reach."""
    inverse = 1.0 / reach
    for i in range(len(part)):
        x, n = rows.x[start + i], rows.anchor[start + i]
        g, along, w = x - middle, rows.u[start + i] - mean_u, weights[i] * part[i]
        k = (x - n) * (rows.u_anchor[start + i] - mean_u) + along * (n - middle) + rest[i]
        # a row without weight contributes nothing, however far it is
        counts = w != 0.0
        far = area * (g * inverse)
        work[0, i] = w * (along - area * k * g) if counts else 0.0
        work[1, i] = w * area * (k + along * g) if counts else 0.0
        work[2, i] = -w * area * along if counts else 0.0
        work[3, i] = w * (far * g - inverse) if counts else 0.0
        work[4, i] = -2.0 * w * far
        work[5, i] = w * area * inverse


@compiled
def extent(centre: float, radius: float, first: float, last: float) -> float:
    """No row of a group is farther than this from a source of its window; at least 1."""
    return max(1.0, abs(centre - first), abs(centre - last)) + radius


@compiled
def common(u: Array) -> float:
    """The smallest of numbers within a factor of 2 of each other (differences to it are exact), else 0."""
    lowest, highest, shared = u[0], u[0], 0.0
    for value in u:
        lowest, highest = min(lowest, value), max(highest, value)
    if lowest > 0.0 and highest <= 2.0 * lowest:
        shared = lowest
    if highest < 0.0 and lowest >= 2.0 * highest:
        shared = highest
    return shared


@compiled
def block(y: Array, starts: Places, k: int) -> tuple[int, int, float, float]:
    """First source and the one behind the last, middle and half width."""
    low, high = starts[k], starts[k + 1]
    width = 0.5 * (y[high - 1] - y[low])
    return low, high, y[low] + width, width if width > TINY else 0.0


@compiled
def second_group(
    rows: SecondRows, begin: int, end: int, centre: float, radius: float, sources: SecondSources,
    starts: Places, blocks: int, units: Units, space: Array, strip: Array,
) -> int:  # fmt: skip
    """All rows of a group with all sources of its window, by blocks; dominated rows alone: how many."""
    first, last, size = starts[0], starts[blocks], end - begin
    weights, z = space[0], space[1]
    mean_u = common(sources.u[first:last])
    reach = extent(centre, radius, sources.y[first], sources.y[last - 1])
    sums, part, rest = np.zeros((6, size)), np.zeros(size), np.zeros(size)
    moments, series = np.empty((6, MOMENTS)), np.empty((3, TERMS))
    joined = np.empty((2, TERMS + 2))
    for k in range(blocks):
        low, high, middle, width = block(sources.y, starts, k)
        moments[:2] = 0.0
        for j in range(low, high, LANES):
            stop = min(j + LANES, high)
            here = slice(j - first, stop - first)
            strip_of_sources(sources.y[j:stop], centre, middle, width, units.area, weights[here], z[here])
            for s in range(stop - j):
                strip[0, s] = weights[j - first + s]
                strip[1, s] = strip[0, s] * (sources.u[j + s] - mean_u)
            add_powers(strip[0], z[here], stop - j, moments[0])
            add_powers(strip[1], z[here], stop - j, moments[1])
        product = units.area * radius * width
        for i in range(begin, end, LANES):
            stop = min(i + LANES, end)
            scale, t, shift = strip[0, : stop - i], strip[1, : stop - i], strip[2, : stop - i]
            place_rows(rows, i, stop, centre, middle, radius, units.area, scale, t, shift)
            here = slice(i - begin, stop - begin)
            for s in range(2):
                three_series(moments[s], product, width, series)
                add_row_sums(
                    scale, t, shift, series, sums[3 * s, here], sums[3 * s + 1, here], sums[3 * s + 2, here]
                )
    alone = 0
    for i in range(begin, end):
        if rows.own_place[i] == rows.anchor_place[i] and sums[0, i - begin] - 1.0 < DOMINATED:
            second_row(rows, i, sources, units, space[2], space[3])
            alone += 1
        else:
            rest[i - begin] = settle(rows, i, units, mean_u, sums, i - begin)
            part[i - begin] = rows.cotangent[i] * rows.share[i]
            sources.by_y[rows.own_place[i]] -= rows.cotangent[i] * (rows.u[i] - rows.u_own[i])
    for k in range(blocks):
        low, high, middle, width = block(sources.y, starts, k)
        moments[:] = 0.0
        for i in range(begin, end, LANES):
            stop = min(i + LANES, end)
            here = slice(i - begin, stop - begin)
            scale, t, shift = strip[6, : stop - i], strip[7, : stop - i], strip[0, : stop - i]
            place_rows(rows, i, stop, centre, middle, radius, units.area, scale, t, shift)
            weigh_rows(rows, i, middle, mean_u, reach, units.area, scale, part[here], rest[here], strip)
            for s in range(6):
                add_powers(strip[s], t, stop - i, moments[s])
        product = units.area * radius * width
        joined_series(moments[:3], product, width, joined[0])
        joined_series(moments[3:], product, width, joined[1])
        here = slice(low - first, high - first)
        add_columns(
            weights[here], z[here], sources.u[low:high], mean_u, reach, joined[0], joined[1],
            sources.by_y[low:high],
        )  # fmt: skip
    return alone


@compiled
def second_rows(rows: SecondRows, sources: SecondSources, units: Units, pair_cost: float) -> tuple[int, int]:
    """All rows, in the groups that `concordance_sorted_sums.sum_rows` makes of them.

    Args:
        rows: all rows.
        sources: all sources.
        units: 2/τ.
        pair_cost: cost of a pair alone in terms of that of a row or source of a block.

    Returns:
        How many rows went into groups, and how many of those were summed alone.
    """
    tau, count = 2.0 / units.area, len(rows.x)
    space, strip = np.empty((4, count)), np.empty((8, LANES))
    starts = np.empty(count + 1, np.int64)
    cell = math.sqrt(2.0 * RHO * tau)
    start, grouped, alone = 0, 0, 0
    while start < count:
        stop = start + 1
        while stop < count:
            width = rows.x[stop] - rows.x[start]
            hull = sources.y[rows.last[stop] - 1] - sources.y[rows.first[start]]
            if width > cell and width * hull > 2.0 * RHO * tau:
                break
            stop += 1
        first, last = rows.first[start], rows.last[stop - 1]
        pairs = 0.0
        for i in range(start, stop):
            pairs += rows.last[i] - rows.first[i]
        size, width, blocks = stop - start, rows.x[stop - 1] - rows.x[start], 0
        radius = 0.5 * width if width > TINY else 0.0
        centre = rows.x[start] + radius
        reach = extent(centre, radius, sources.y[first], sources.y[last - 1])
        if units.area * reach * reach < FARTHEST and pairs * pair_cost > size + last - first:
            blocks = cut(sources.y, first, last, centre, radius, tau, starts, math.inf, -math.inf)
        if blocks == 0 or pairs * pair_cost <= size * blocks + last - first:
            for i in range(start, stop):
                second_row(rows, i, sources, units, space[2], space[3])
        else:
            grouped += size
            alone += second_group(
                rows, start, stop, centre, radius, sources, starts, blocks, units, space, strip
            )
        start = stop
    return grouped, alone


def compile_second(key: str) -> Any:
    """The kernel; Numba looks its cache up by the value of `key`, because the kernel's closure holds it."""

    @njit(nogil=True, cache=True, error_model="numpy", fastmath=set(CONTRACT))
    def kernel(
        rows: SecondRows, sources: SecondSources, units: Units, found: Places, reach: float, pair_cost: float
    ) -> tuple[int, int, int]:
        find_windows(rows.x, sources.y, rows.own_place, reach, rows.first, rows.last, found)
        grouped, alone = second_rows(rows, sources, units, pair_cost)
        return grouped, alone, len(key)

    return kernel


second_kernel = compile_second(digest_of(SOURCES))
