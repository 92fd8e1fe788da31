"""Second derivatives of scalar InfoNCE, row by row: what is known of a row, and its sums source by source.

The gradient of Σ_i c_i L_i is taken along (ux, uy). With n the source nearest to row x and un its uy,

    b_j = (x-y_j)(ux-uy_j),   b_j - b_n = (n-y_j)(ux-uy_j) + (x-n)(un-uy_j)

are τ/2 times the slopes of d_j/τ; the second form does not cancel where the row is far from every source. All
slopes are counted from that of what weighs most: the nearest source, or ε, whose slope is 0. Factors 2/τ come
last, so that no τ makes a product overflow or underflow that the result does not.
"""

from __future__ import annotations

from typing import NamedTuple

from torchimpl.kernels.concordance_sorted import Array, Places, compiled, excess, halves, summed, weight


class SecondRows(NamedTuple):
    """Sorted rows and what is known or found of each; all of shape (B,)."""

    x: Array
    u: Array  # ux
    anchor: Array  # n, the nearest source
    u_anchor: Array
    own: Array  # the row's own source
    u_own: Array
    anchor_place: Places
    own_place: Places
    first: Places  # the window
    last: Places
    cotangent: Array
    share: Array  # p of a source of weight 1
    eps_share: Array  # p of ε
    slope: Array  # result: derivative of the loss along (ux, uy)
    by_x: Array  # result


class SecondSources(NamedTuple):
    """Sorted sources; all of shape (B,)."""

    y: Array
    u: Array  # uy
    by_y: Array  # result, added to: what is multiplied by 2/τ


class Units(NamedTuple):
    """2/τ of a product of two lengths, of one length and of none; inputs are multiplied by a power of two."""

    area: float
    length: float
    number: float


@compiled
def own_slope(rows: SecondRows, i: int) -> float:
    """b_own - b_n of a row."""
    n, u, own, u_own = rows.anchor[i], rows.u[i], rows.own[i], rows.u_own[i]
    slope: float = (n - own) * (u - u_own) + (rows.x[i] - n) * (rows.u_anchor[i] - u_own)
    return slope


@compiled
def set_slope(rows: SecondRows, i: int, units: Units, mean: float) -> None:
    """Write the derivative of the loss from the mean slope, counted from ε or from the anchor."""
    if rows.eps_share[i] > 0.5:
        slope = (rows.x[i] - rows.own[i]) * (rows.u[i] - rows.u_own[i])
    else:
        slope = own_slope(rows, i)
    rows.slope[i] = units.length * (slope - mean)


@compiled
def set_by_x(rows: SecondRows, i: int, units: Units, first: float, second: float) -> None:
    """Write the derivative by x.

    Args:
        rows: all rows.
        i: the row.
        units: 2/τ.
        first: Σ_j p_j (uy_j - u_own) over the sources.
        second: Σ q (x - y), that of ε left out.
    """
    first += rows.eps_share[i] * (rows.u[i] - rows.u_own[i])
    rows.by_x[i] = rows.cotangent[i] * (units.number * (first + units.area * second))


@compiled
def weigh_sources(
    y: Array, uy: Array, x: float, u: float, n: float, un: float, share: float, shift: float, area: float,
    p: Array, slopes: Array,
) -> None:  # fmt: skip
    """Probabilities of the sources of one row and their slopes, b_j - b_n + shift."""
    high, low = halves(x, n)
    away = x - n
    for j in range(len(y)):
        p[j] = share * weight(area * excess(high, low, n, y[j]))
        slope = (n - y[j]) * (u - uy[j]) + away * (un - uy[j]) + shift
        # a source without weight contributes nothing, whatever its slope
        slopes[j] = slope if p[j] > 0.0 else 0.0


@summed
def mean_of(p: Array, slopes: Array, count: int) -> float:
    """Σ_j p_j slopes_j."""
    mean = 0.0
    for j in range(count):
        mean += p[j] * slopes[j]
    return mean


@summed
def second_moments(
    y: Array, uy: Array, n: float, u_own: float, p: Array, q: Array, mean: float
) -> tuple[float, float]:
    """Make q_j = p_j (slope_j - mean) of the slopes; return Σ p_j (uy_j - u_own) and Σ q_j (y_j - n)."""
    first, second = 0.0, 0.0
    for j in range(len(y)):
        q[j] = p[j] * (q[j] - mean)
        second += q[j] * (y[j] - n)
        first += p[j] * (uy[j] - u_own) if p[j] > 0.0 else 0.0
    return first, second


@compiled
def add_to_columns(
    y: Array, uy: Array, x: float, u: float, cotangent: float, area: float, p: Array, q: Array, columns: Array
) -> None:
    """Add c [p_j (u - uy_j) - 2/τ q_j (x - y_j)] to every source of a row."""
    for j in range(len(y)):
        first = p[j] * (u - uy[j]) if p[j] > 0.0 else 0.0
        columns[j] += cotangent * (first - area * q[j] * (x - y[j]))


@compiled
def second_row(
    rows: SecondRows, i: int, sources: SecondSources, units: Units, p: Array, slopes: Array
) -> None:
    """One row, source by source; its own term is left out of what the others add up to."""
    window = slice(rows.first[i], rows.last[i])
    count = rows.last[i] - rows.first[i]
    y, uy = sources.y[window], sources.u[window]
    x, u, n, un = rows.x[i], rows.u[i], rows.anchor[i], rows.u_anchor[i]
    eps_share = rows.eps_share[i]
    anchor_slope = (x - n) * (u - un)
    origin = 0.0 if eps_share > 0.5 else anchor_slope
    weigh_sources(y, uy, x, u, n, un, rows.share[i], anchor_slope - origin, units.area, p, slopes)
    mean = mean_of(p, slopes, count) - eps_share * origin
    set_slope(rows, i, units, mean)
    own = rows.own_place[i] - rows.first[i]
    first, second = second_moments(y, uy, n, rows.u_own[i], p, slopes, mean)
    set_by_x(rows, i, units, first, eps_share * (origin + mean) * (x - n) - second)
    others = eps_share
    if 0 <= own < count:
        p[own] = 0.0
    for j in range(count):
        others += p[j]
    add_to_columns(y, uy, x, u, rows.cotangent[i], units.area, p, slopes, sources.by_y[window])
    sources.by_y[rows.own_place[i]] -= rows.cotangent[i] * others * (u - rows.u_own[i])


@compiled
def settle(rows: SecondRows, i: int, units: Units, mean_u: float, sums: Array, place: int) -> float:
    """Write slope and derivative by x of a row of a group.

    Args:
        rows: all rows.
        i: the row.
        units: 2/τ.
        mean_u: what uy is counted from.
        sums: Σ_j w_j z^k for k = 0, 1, 2, then the same with w_j (uy_j - mean_u): (6, rows of the group).
        place: the row's place in `sums`.

    Returns:
        The slope of the anchor minus the mean slope.
    """
    s0, s1, s2 = sums[0, place], sums[1, place], sums[2, place]
    shift = rows.u_anchor[i] - mean_u
    t0, t1, t2 = sums[3, place] - shift * s0, sums[4, place] - shift * s1, sums[5, place] - shift * s2
    share, eps_share = rows.share[i], rows.eps_share[i]
    away, along = rows.x[i] - rows.anchor[i], rows.u[i] - rows.u_anchor[i]
    anchor_slope = away * along
    ahead = share * (t1 - away * t0 - along * s1)
    rest: float
    if eps_share > 0.5:
        mean = ahead + share * s0 * anchor_slope
        rest, total = anchor_slope - mean, mean
    else:
        mean = ahead - eps_share * anchor_slope
        rest, total = -mean, anchor_slope + mean
    set_slope(rows, i, units, mean)
    first = share * (t0 + s0 * (rows.u_anchor[i] - rows.u_own[i]))
    second = share * (t2 - away * t1 - along * s2 + rest * s1)
    set_by_x(rows, i, units, first, eps_share * total * away - second)
    return rest
