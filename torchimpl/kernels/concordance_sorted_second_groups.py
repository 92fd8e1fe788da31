"""Second derivatives of scalar InfoNCE: the sums of a group of rows over the blocks of its window.

The groups of rows and blocks of sources are those of the loss. With the slopes b_ij of
`concordance_sorted_second_rows`, z = y_j - n_i and U = uy_j - un_i, a row needs

    Σ_j p_ij z^k and Σ_j p_ij U z^k, k = 0, 1, 2:   b_ij - b_in = 2/τ [z U - (x_i-n_i) U - (ux_i-un_i) z],

six polynomials in its place from two sets of moments of the sources, with weights w_j and w_j μ_j. Here μ_j,
ξ_i and ω_i are uy_j, ux_i and un_i minus one uy of the group, so that a constant added to ux and uy costs few
digits. For the sums over rows, with y_j = d + v_j in the block around d, g_i = x_i - d and ν_i = n_i - d,

    b_ij - β_i = K_i - 2/τ [μ_j g_i + ξ_i v_j - μ_j v_j],   K_i = 2/τ [(x_i-n_i) ω_i + ξ_i ν_i] + b_in - β_i,

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
    FACTORIALS,
    RHO,
    TERMS,
    Array,
    Places,
    compiled,
    cut,
    excess,
    find_windows,
    halves,
    strip_of_sources,
    summed,
    weight,
)
from torchimpl.kernels.concordance_sorted_second_rows import (
    SecondRows,
    SecondSources,
    Units,
    second_row,
    settle,
)
from torchimpl.kernels.elementary_cpu import CONTRACT

SOURCES = (
    "concordance_sorted",
    "concordance_sorted_second_groups",
    "concordance_sorted_second_rows",
    "elementary_cpu",
    "negative_binomial_constants",
)
# up to two powers more than the polynomial has, rounded up to a multiple of four
MOMENTS = 4 * ((TERMS + 5) // 4)
# a row whose other sources weigh less than 1/4 of its own is summed alone: 1 - p_ii keeps its digits
DOMINATED = 0.25
# costs of a pair alone and of a row or source of a block
PAIR_COST, POINT_COST = 1.0, 12.0
# rows or sources that are worked on at a time
LANES = 256


@summed
def add_powers(weights: Array, z: Array, count: int, moments: Array) -> None:
    """Add Σ_j weights_j z_j^m to all moments, a multiple of four; the weights are used up."""
    for m in range(0, len(moments), 4):
        m0, m1, m2, m3 = 0.0, 0.0, 0.0, 0.0
        for j in range(count):
            step, term = z[j], weights[j]
            m0 += term
            term *= step
            m1 += term
            term *= step
            m2 += term
            term *= step
            m3 += term
            weights[j] = term * step
        moments[m] += m0
        moments[m + 1] += m1
        moments[m + 2] += m2
        moments[m + 3] += m3


@compiled
def three_series(moments: Array, product: float, width: float, series: Array) -> None:
    """Coefficients of Σ_j w_j v_j^k exp(product·z_j·t) in t, v = width·z, for k = 0, 1, 2: (3, TERMS)."""
    power = 1.0
    for m in range(TERMS):
        factor = power * FACTORIALS[m]
        series[0, m] = factor * moments[m]
        series[1, m] = factor * width * moments[m + 1]
        series[2, m] = factor * width * width * moments[m + 2]
        power *= product


@compiled
def add_row_sums(
    scale: Array, t: Array, shift: Array, series: Array, sum_0: Array, sum_1: Array, sum_2: Array
) -> None:
    """Add scale · Σ_j w_j (v_j + shift)^k exp(...) to the sums k = 0, 1, 2, from the three series."""
    for i in range(len(t)):
        p, q, r = series[0, TERMS - 1], series[1, TERMS - 1], series[2, TERMS - 1]
        for m in range(TERMS - 2, -1, -1):
            p = p * t[i] + series[0, m]
            q = q * t[i] + series[1, m]
            r = r * t[i] + series[2, m]
        away = shift[i]
        sum_0[i] += scale[i] * p
        sum_1[i] += scale[i] * (q + away * p)
        sum_2[i] += scale[i] * (r + away * (2.0 * q + away * p))


@compiled
def joined_series(moments: Array, product: float, width: float, series: Array) -> None:
    """Coefficients in z of Σ_k v^k Σ_i w_ik exp(product·t_i·z), v = width·z: three weights together."""
    series[:] = 0.0
    power = 1.0
    for m in range(TERMS):
        factor = power * FACTORIALS[m]
        series[m] += factor * moments[0, m]
        series[m + 1] += factor * width * moments[1, m]
        series[m + 2] += factor * width * width * moments[2, m]
        power *= product


@compiled
def add_columns(
    weights: Array,
    z: Array,
    u: Array,
    mean_u: float,
    reach: float,
    series: Array,
    by_u: Array,
    columns: Array,
) -> None:
    """Add weights · (P(z) + (u - mean_u)·reach·Q(z))."""
    for j in range(len(z)):
        p, q = series[TERMS + 1], by_u[TERMS + 1]
        for m in range(TERMS, -1, -1):
            p = p * z[j] + series[m]
            q = q * z[j] + by_u[m]
        columns[j] += weights[j] * (p + (u[j] - mean_u) * reach * q)


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
    rows: SecondRows, start: int, middle: float, mean_u: float, reach: float, units: Units,
    weights: Array, part: Array, rest: Array, work: Array,
) -> None:  # fmt: skip
    """Weights of the rows of a group: three for the powers of v, three for those times μ·reach."""
    number, length, inverse = units.number, units.length, 1.0 / reach
    for i in range(len(part)):
        x, n = rows.x[start + i], rows.anchor[start + i]
        g, along = x - middle, rows.u[start + i] - mean_u
        k = length * ((x - n) * (rows.u_anchor[start + i] - mean_u) + along * (n - middle)) + rest[i]
        w = weights[i] * part[i]
        far = w * length * inverse
        work[0, i] = w * (number * along - length * k * g)
        work[1, i] = w * length * (k + length * along * g)
        work[2, i] = -w * length * length * along
        work[3, i] = far * length * g * g - w * number * inverse
        work[4, i] = -2.0 * far * length * g
        work[5, i] = far * length


@compiled
def block(y: Array, starts: Places, k: int) -> tuple[int, int, float, float]:
    """First source and the one behind the last, middle and half width."""
    low, high = starts[k], starts[k + 1]
    width = 0.5 * (y[high - 1] - y[low])
    return low, high, y[low] + width, width


@compiled
def second_group(
    rows: SecondRows, begin: int, end: int, centre: float, radius: float, sources: SecondSources,
    starts: Places, blocks: int, units: Units, space: Array, strip: Array,
) -> None:  # fmt: skip
    """All rows of a group with all sources of its window, by blocks; dominated rows alone."""
    first, last, size = starts[0], starts[blocks], end - begin
    weights, z = space[0], space[1]
    mean_u = rows.u_anchor[(begin + end) // 2]
    reach = max(1.0, abs(centre - sources.y[first]), abs(centre - sources.y[last - 1])) + radius
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
    for i in range(begin, end):
        if rows.own_place[i] == rows.anchor_place[i] and sums[0, i - begin] - 1.0 < DOMINATED:
            second_row(rows, i, sources, units, space[2], space[3])
        else:
            rest[i - begin] = settle(rows, i, units, mean_u, sums, i - begin)
            part[i - begin] = rows.cotangent[i] * rows.share[i]
            along = rows.u[i] - rows.u_own[i]
            sources.by_y[rows.own_place[i]] -= rows.cotangent[i] * units.number * along
    for k in range(blocks):
        low, high, middle, width = block(sources.y, starts, k)
        moments[:] = 0.0
        for i in range(begin, end, LANES):
            stop = min(i + LANES, end)
            here = slice(i - begin, stop - begin)
            scale, t, shift = strip[6, : stop - i], strip[7, : stop - i], strip[0, : stop - i]
            place_rows(rows, i, stop, centre, middle, radius, units.area, scale, t, shift)
            weigh_rows(rows, i, middle, mean_u, reach, units, scale, part[here], rest[here], strip)
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


@compiled
def second_rows(rows: SecondRows, sources: SecondSources, units: Units) -> None:
    """All rows, in the groups that `concordance_sorted_sums.sum_rows` makes of them."""
    tau, count = 2.0 / units.area, len(rows.x)
    space, strip = np.empty((4, count)), np.empty((8, LANES))
    starts = np.empty(count + 1, np.int64)
    cell = math.sqrt(2.0 * RHO * tau)
    start = 0
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
        size, radius, blocks = stop - start, 0.5 * (rows.x[stop - 1] - rows.x[start]), 0
        centre = rows.x[start] + radius
        if size > 1 and pairs * PAIR_COST > (size + last - first) * POINT_COST:
            blocks = cut(sources.y, first, last, centre, radius, tau, starts)
        if blocks == 0 or pairs * PAIR_COST <= (size * blocks + last - first) * POINT_COST:
            for i in range(start, stop):
                second_row(rows, i, sources, units, space[2], space[3])
        else:
            second_group(rows, start, stop, centre, radius, sources, starts, blocks, units, space, strip)
        start = stop


def compile_second(key: str) -> Any:
    """The kernel; Numba looks its cache up by the value of `key`, because the kernel's closure holds it."""

    @njit(nogil=True, cache=True, error_model="numpy", fastmath=set(CONTRACT))
    def kernel(rows: SecondRows, sources: SecondSources, units: Units, found: Places, reach: float) -> int:
        find_windows(rows.x, sources.y, rows.own_place, reach, rows.first, rows.last, found)
        second_rows(rows, sources, units)
        return len(key)

    return kernel


second_kernel = compile_second(digest_of(SOURCES))
