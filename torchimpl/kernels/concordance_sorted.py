"""InfoNCE of scalar residuals (D = 1) in O(B log B): sorted windows and blocks of Taylor polynomials.

Rows and sources are sorted. With n the source nearest to row x (the row's own where no other is nearer),

    e_j = ((x-n)² - (x-y_j)²)/τ = 2/τ (y_j - n)(x - n/2 - y_j/2) <= 0

is the exponent of source j; the products are of differences, x - n/2 is kept as a sum of two numbers. Sources
with e_j < -CUT weigh less than a unit roundoff together. Both ends of what is left, the window, move to the
right with x, so that rows next to each other see almost the same sources.

A group of rows x = c + u and a block of sources y = d + v see each other through

    e_j = a(x) + v (2(c-d) - v)/τ + 2uv/τ,   a(x) the exponent of the point d,

one exponential per row, one per source, and a Taylor polynomial of exp(2uv/τ) with |2uv/τ| <= RHO: all terms
are positive, each has its own relative error, and no weight is assumed to be large.

Here are the windows, the blocks and their sums; `concordance_sorted_sums` puts them together. docs/infonce.md
derives the error and the cost.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from torchimpl.kernels.elementary_cpu import CONTRACT, inlined, power_of_two, reduced

Array = NDArray[np.float64]
Places = NDArray[np.int64]

TERMS = 19
RHO = 1.0  # e/19! and what follows is below 3e-17
# rows or sources that are worked on at a time
STRIP = 1024
LOWEST = -708.0
# the exponential of this is 0
LEAST = -746.0
FACTORIALS = np.array([1.0 / math.factorial(m) for m in range(TERMS)])

compiled = njit(nogil=True, error_model="numpy", fastmath=set(CONTRACT))
# sums and products only: any order of them has the same bound
summed = njit(nogil=True, error_model="numpy", fastmath={*CONTRACT, "reassoc", "nsz"})


@inlined
def weight(exponent: float) -> float:
    """The exponential of an exponent below 709; 0 below -708, where subnormal numbers would be slow."""
    n, growth = reduced(max(exponent, LOWEST))
    return (1.0 + growth) * power_of_two(n) if exponent >= LOWEST else 0.0


@inlined
def halves(x: float, n: float) -> tuple[float, float]:
    """The difference x - n/2 as a sum of two numbers."""
    half = 0.5 * n
    high = x - half
    back = high - x
    return high, (x - (high - back)) - (half + back)


@inlined
def excess(high: float, low: float, n: float, y: float) -> float:
    """τ/2 times the exponent of y for the row whose x - n/2 is high + low."""
    return (y - n) * ((high - 0.5 * y) + low)


class Rows(NamedTuple):
    """Sorted rows and what is known or found of each; all of shape (B,)."""

    x: Array
    anchor: Array  # n, the nearest source
    high: Array  # high + low = x - n/2
    low: Array
    own: Array  # the row's own source
    own_place: Places
    anchor_place: Places
    first: Places  # the window
    last: Places
    cotangent: Array
    loss: Array  # result
    slope: Array  # result: τ/2 dL/dx
    own_slope: Array  # result: what the row takes from τ/2 dL/dy of its own source
    peak: Array  # result: the largest exponent, that of ε included
    total: Array  # result: Σ exp(exponent - peak)


@compiled
def find_windows(
    xs: Array, ys: Array, own: Places, reach: float, first: Places, last: Places, anchor: Places
) -> None:
    """The window of every row, first <= j < last, and its anchor.

    Args:
        xs: rows, sorted.
        ys: sources, sorted.
        own: place of each row's own source.
        reach: τ/2 · CUT.
        first: result.
        last: result.
        anchor: result, the place of the nearest source: the row's own where no other is nearer.
    """
    near, left, right, count = 0, 0, 0, len(ys)
    for i in range(len(xs)):
        x = xs[i]
        while near < count and ys[near] < x:
            near += 1
        best = min(near, count - 1)
        if near > 0:
            high, low = halves(x, ys[best])
            if near == count or excess(high, low, ys[best], ys[near - 1]) >= 0.0:
                best = near - 1
        high, low = halves(x, ys[best])
        if excess(high, low, ys[best], ys[own[i]]) >= 0.0:
            best = own[i]
            high, low = halves(x, ys[best])
        n = ys[best]
        while excess(high, low, n, ys[left]) < -reach:
            left += 1
        right = max(right, left)
        while right < count and excess(high, low, n, ys[right]) >= -reach:
            right += 1
        first[i], last[i], anchor[i] = left, right, best


@inlined
def widened(rows: Rows, i: int, sources: Array, scale: float, cut_off: float) -> tuple[int, int]:
    """The window of a row whose own source is nearest, wide enough for what little the others weigh together.

    Relative to the largest of the others, nothing below exp(-cut_off) is worth a look either.
    """
    first, last, place = rows.first[i], rows.last[i], rows.own_place[i]
    high, low, n = rows.high[i], rows.low[i], rows.anchor[i]
    most = -math.inf
    if place > 0:
        most = scale * excess(high, low, n, sources[place - 1])
    if place + 1 < len(sources):
        most = max(most, scale * excess(high, low, n, sources[place + 1]))
    least = max(most - cut_off, LEAST)
    while first > 0 and scale * excess(high, low, n, sources[first - 1]) >= least:
        first -= 1
    while last < len(sources) and scale * excess(high, low, n, sources[last]) >= least:
        last += 1
    return first, last


@summed
def rest_and_moment(weights: Array, ahead: Array, count: int) -> tuple[float, float]:
    """The sum of the weights, and of the weights times `ahead`: a chunk at a time, to round less often."""
    rest, moment = 0.0, 0.0
    for start in range(0, count, STRIP):
        part, part_moment = 0.0, 0.0
        for j in range(start, min(start + STRIP, count)):
            part += weights[j]
            part_moment += weights[j] * ahead[j]
        rest += part
        moment += part_moment
    return rest, moment


@summed
def add_moments(weights: Array, z: Array, count: int, moments: Array) -> None:
    """moments[m] += Σ_j weights_j z_j^m for m = 0 ... TERMS; the weights are used up."""
    for m in range(0, TERMS + 1, 4):
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
def taylor(moments: Array, product: float, radius: float, series: Array, slopes: Array) -> None:
    """Coefficients of Σ_j w_j exp(product·z_j·t) in t, and of the same sum with w_j·radius·z_j."""
    power = 1.0
    for m in range(TERMS):
        factor = power * FACTORIALS[m]
        series[m] = factor * moments[m]
        slopes[m] = radius * factor * moments[m + 1]
        power *= product


@compiled
def add_polynomials(
    scale: Array, t: Array, origin: float, points: Array, series: Array, slopes: Array,
    total: Array, moment: Array,
) -> None:  # fmt: skip
    """Add scale·p(t) to the total and scale·(q(t) + (origin - points)·p(t)) to the moment."""
    for i in range(len(total)):
        v = t[i]
        p, q = series[TERMS - 1], slopes[TERMS - 1]
        for m in range(TERMS - 2, -1, -1):
            p = p * v + series[m]
            q = q * v + slopes[m]
        total[i] += scale[i] * p
        moment[i] += scale[i] * (q + (origin - points[i]) * p)
