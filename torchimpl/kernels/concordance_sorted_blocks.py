"""InfoNCE of scalar residuals: a group of rows and a block of sources, by polynomials or pair by pair.

The window of a group is cut into blocks. Polynomials about the middle of a block lose digits of first moments
where all weight of the block is in one place; such a block is summed pair by pair.

docs/infonce.md derives the error and the cost.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from torchimpl.kernels.concordance_sorted import (
    RHO,
    STRIP,
    TERMS,
    Array,
    Places,
    Rows,
    add_moments,
    add_polynomials,
    compiled,
    excess,
    summed,
    taylor,
    weight,
)
from torchimpl.kernels.elementary_cpu import exp, inlined

# exponents in a block differ by at most so much: none of its exponentials leaves the range
SPREAD = 100.0
# near the anchors less, so that no source has all the weight of a block just because it is the nearest
NEAR_SPREAD = 4.0
# first moments lose digits where all weight of a block is in one place: variance relative to its half width
LEAST_VARIANCE = 1.0 / 16.0


@inlined
def width_of_spread(ahead: float, room: float) -> float:
    """How wide a block may be, from `ahead` on: squared distances from 0 differ by at most `room`."""
    square = ahead * ahead
    if ahead >= 0.0:
        return room / (ahead + math.sqrt(square + room))
    if square <= room:
        return math.sqrt(room) - ahead
    return room / (-ahead + math.sqrt(square - room))


@inlined
def width_aside(source: float, lowest: float, highest: float) -> float:
    """How wide a block from `source` on may be to stay its own width away from all points in between."""
    if source > highest:
        return 2.0 * (source - highest)
    return (lowest - source) / 1.5


@compiled
def cut(
    sources: Array, first: int, last: int, centre: float, radius: float, tau: float, starts: Places,
    lowest: float, highest: float,
) -> int:  # fmt: skip
    """Cut a window into blocks; return how many, their starts in `starts`, `last` behind them.

    A block is so narrow that |2uv/τ| <= RHO, that it is not wider than a few standard deviations of the
    kernel, and that its exponents, seen from the group's centre, differ by at most SPREAD; where it is
    not its own width away from all anchors, which are between `lowest` and `highest`, by at most NEAR_SPREAD.
    """
    widest = 2.0 * math.sqrt(RHO * tau)
    if radius > 0.0:
        widest = min(widest, RHO * tau / radius)
    count, j = 0, first
    while j < last:
        starts[count] = j
        count += 1
        ahead = sources[j] - centre
        aside = width_aside(sources[j], lowest, highest)
        width = max(
            width_of_spread(ahead, NEAR_SPREAD * tau), min(width_of_spread(ahead, SPREAD * tau), aside)
        )
        limit = sources[j] + min(widest, width)
        step = 1
        while j + step < last and sources[j + step] <= limit:
            step *= 2
        low, high = j + step // 2, min(j + step, last)
        while low < high:
            middle = (low + high) // 2
            if sources[middle] <= limit:
                low = middle + 1
            else:
                high = middle
        j = max(low, j + 1)
    starts[count] = last
    return count


@compiled
def strip_of_sources(
    sources: Array, centre: float, middle: float, radius: float, scale: float, weights: Array, z: Array
) -> None:
    """Weights and places in [-1, 1] of sources in the block around `middle`, seen from the group's centre."""
    apart = 2.0 * (centre - middle)
    # a quotient, not a product with 1/radius: that one overflows for subnormal numbers
    divisor = radius if radius > 0.0 else 1.0
    for j in range(len(sources)):
        v = sources[j] - middle
        weights[j] = weight(0.5 * scale * v * (apart - v))
        z[j] = v / divisor


@compiled
def strip_of_rows(
    rows: Rows, start: int, stop: int, centre: float, middle: float, radius: float, scale: float,
    weights: Array, t: Array,
) -> None:  # fmt: skip
    """Weights of the point `middle` for rows of a group, and their places in [-1, 1]."""
    divisor = radius if radius > 0.0 else 1.0
    x, n, high, low = rows.x[start:stop], rows.anchor[start:stop], rows.high[start:stop], rows.low[start:stop]
    for i in range(stop - start):
        weights[i] = weight(scale * excess(high[i], low[i], n[i], middle))
        t[i] = (x[i] - centre) / divisor


@summed
def add_spread(weights: Array, z: Array, count: int, spread: Array) -> None:
    """Add Σ_j |weights_j| z_j^m to spread[m], for m = 0, 1, 2."""
    s0, s1, s2 = 0.0, 0.0, 0.0
    for j in range(count):
        size = abs(weights[j])
        s0 += size
        s1 += size * z[j]
        s2 += size * z[j] * z[j]
    spread[0] += s0
    spread[1] += s1
    spread[2] += s2


@inlined
def concentrated(spread: Array) -> bool:
    """Whether nearly all weight is in one place, by the sums of `add_spread`."""
    mean = spread[1] / spread[0]
    found: bool = spread[2] < (LEAST_VARIANCE + mean * mean) * spread[0]
    return found


class Group(NamedTuple):
    """Rows that are summed together."""

    begin: int
    end: int
    centre: float
    radius: float
    lowest: float  # of their anchors
    highest: float


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
