"""InfoNCE of points of any dimension on the CPU: a float32 filter finds the pairs that count, exact sums follow.

With centred points, s_ij = x_i·y_j - |y_j|²/2 is τ/2 times the exponent of source j, up to a term of the row. Block
by block of rows, S approximates s in float32, |S_ij - s_ij| <= slack_i. Every source with S_ij >= max_j S_ij - reach -
2 slack_i, the maximum over the other rows' sources, and the row's own source are candidates. What is left out weighs
no more than a chosen part of what the others weigh together: tiny losses keep their accuracy.

The exponents of the candidates are evaluated from differences (see `torchimpl.kernels.concordance`), with the source
nearest to the row as the anchor, the row's own wherever no other is nearer:

    e_ij = 2/τ Σ_k (y_jk - n_k)(x_k - n_k/2 - y_jk/2).

Candidates are gathered feature by feature, so that all loops run over neighbours in memory. Where more than a part of
all sources are candidates, the row is summed over all of them without gathering; where whole blocks are like that, the
next blocks do without the filter.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from torchimpl.kernels.compiled import digest_of
from torchimpl.kernels.elementary_cpu import CONTRACT, inlined, power_of_two, reduced

Array = NDArray[np.float64]
Singles = NDArray[np.float32]
Places = NDArray[np.int64]

SOURCES = ("concordance_blocks_cpu", "elementary_cpu", "negative_binomial_constants")
# sources, or entries of a block, worked on at a time: they stay in the first-level cache
STRIP = 512
FILTER_STRIP = 1024
# S is searched for candidates by groups of so many
GROUP = 16
# a row with more than this part of all sources as candidates is summed over all of them
DENSE = 0.25
# so many blocks at most do without the filter before it is tried again
LONGEST_REST = 16
# how often a row's anchor is chosen
ANCHORS = 4
LOWEST = -708.0
# below every S: no float32 sum overflows on the way
NEVER = -1e30
HUGE = 1e300

loops = njit(nogil=True, error_model="numpy", fastmath=set(CONTRACT))
# sums of what is already computed: any order of them has the same bound
summed = njit(nogil=True, error_model="numpy", fastmath={*CONTRACT, "reassoc", "nsz"})
# maxima of numbers without NaN
ordered = njit(nogil=True, error_model="numpy", fastmath={"nnan", "nsz"})


class Problem(NamedTuple):
    """One batch of B rows with D features, in scaled units, and where its results go."""

    x: Array  # (B, D)
    y: Array  # (B, D)
    columns: Array  # (D, >= B): y feature by feature
    cotangent: Array  # (B,)
    loss: Array  # result (B,)
    nearest: Places  # result (B,)
    normaliser: Array  # result (2, B): largest exponent, and the sum relative to it
    slope: Array  # result (B, D): τ/2 dL/dx times the cotangent; (0, 0) if no slopes are asked for


class Filter(NamedTuple):
    """Float32 points for S, padded with zeros to K features and with sources that never count."""

    x: Singles  # (>= B, K), rows in multiples of 4, K a multiple of 4
    y: Singles  # (K, width)
    bias: Singles  # (width,): -|y|²/2, NEVER for outliers and padding
    slack: Array  # (B,): bound of the error of S, inf where S says nothing
    outliers: Places  # sources that are always candidates
    reach: float  # τ/2 times the exponent below the largest that no longer counts


@inlined
def weight(exponent: float) -> float:
    """The exponential of an exponent below 709; 0 below -708, where subnormal numbers would be slow."""
    n, growth = reduced(max(exponent, LOWEST))
    return (1.0 + growth) * power_of_two(n) if exponent >= LOWEST else 0.0


@loops
def add_products(a: Any, b: Any, s: Any, r: int, k: int, start: int, stop: int) -> None:
    """Four rows of s += a b over four features and a strip of sources."""
    s0, s1, s2, s3 = s[r, start:stop], s[r + 1, start:stop], s[r + 2, start:stop], s[r + 3, start:stop]
    b0, b1, b2, b3 = b[k, start:stop], b[k + 1, start:stop], b[k + 2, start:stop], b[k + 3, start:stop]
    a00, a01, a02, a03 = a[r, k], a[r, k + 1], a[r, k + 2], a[r, k + 3]
    a10, a11, a12, a13 = a[r + 1, k], a[r + 1, k + 1], a[r + 1, k + 2], a[r + 1, k + 3]
    a20, a21, a22, a23 = a[r + 2, k], a[r + 2, k + 1], a[r + 2, k + 2], a[r + 2, k + 3]
    a30, a31, a32, a33 = a[r + 3, k], a[r + 3, k + 1], a[r + 3, k + 2], a[r + 3, k + 3]
    for j in range(stop - start):
        v0, v1, v2, v3 = b0[j], b1[j], b2[j], b3[j]
        s0[j] = s0[j] + a00 * v0 + a01 * v1 + a02 * v2 + a03 * v3
        s1[j] = s1[j] + a10 * v0 + a11 * v1 + a12 * v2 + a13 * v3
        s2[j] = s2[j] + a20 * v0 + a21 * v1 + a22 * v2 + a23 * v3
        s3[j] = s3[j] + a30 * v0 + a31 * v1 + a32 * v2 + a33 * v3


@ordered
def group_maxima(s: Singles, start: int, stop: int, maxima: Singles) -> None:
    """maxima[g] becomes the maximum of the g-th GROUP of s."""
    for g in range(start // GROUP, stop // GROUP):
        most = s[g * GROUP]
        for j in range(g * GROUP + 1, g * GROUP + GROUP):
            most = s[j] if s[j] > most else most
        maxima[g] = most


@loops
def fill_block(known: Filter, begin: int, end: int, s: Singles, maxima: Singles) -> None:
    """S of a block of rows, each row's own source at NEVER, and the maxima of its groups."""
    width, features = len(known.bias), known.x.shape[1]
    a = known.x[begin : begin + len(s)]
    for start in range(0, width, FILTER_STRIP):
        stop = min(width, start + FILTER_STRIP)
        for r in range(0, end - begin, 4):
            for l in range(r, r + 4):
                s[l, start:stop] = known.bias[start:stop]
            for k in range(0, features, 4):
                add_products(a, known.y, s, r, k, start, stop)
            for l in range(r, r + 4):
                if start <= begin + l < stop:
                    s[l, begin + l] = NEVER
                group_maxima(s[l], start, stop, maxima[l])


@ordered
def largest(values: Any) -> Any:
    """The maximum of at least one number."""
    most = values[0]
    for j in range(1, len(values)):
        most = values[j] if values[j] > most else most
    return most


@loops
def find_candidates(
    known: Filter, i: int, count: int, s: Singles, maxima: Singles, places: Places
) -> int:
    """Write the candidates of row i, its own source first; return how many, -1 for more than DENSE of all."""
    places[0] = i
    found = 1
    for place in known.outliers:
        if place != i:
            places[found] = place
            found += 1
    top = float(largest(maxima))
    least = top - known.reach - 2.0 * known.slack[i]
    # a float32 not above it
    limit = np.float32(max(least - 2.0**-22 * abs(least), 0.5 * NEVER))
    most = int(DENSE * count) - GROUP
    for g in range(len(maxima)):
        if maxima[g] >= limit:
            if found > most:
                return -1
            for j in range(g * GROUP, g * GROUP + GROUP):
                places[found] = j
                found += 1 if s[j] >= limit else 0
    return found


@loops
def gather(y: Array, places: Places, found: int, points: Array) -> None:
    """points[k, c] = y[places[c], k]."""
    for c in range(found):
        row = y[places[c]]
        for k in range(len(row)):
            points[k, c] = row[k]


@loops
def add_features(
    points: Array, k: int, start: int, stop: int, anchor: Array, high: Array, low: Array, total: Array
) -> None:
    """Four features' terms of τ/2 e_ij for a strip of sources."""
    p0, p1, p2, p3 = points[k, start:stop], points[k + 1, start:stop], points[k + 2, start:stop], points[k + 3, start:stop]
    n0, n1, n2, n3 = anchor[k], anchor[k + 1], anchor[k + 2], anchor[k + 3]
    h0, h1, h2, h3 = high[k], high[k + 1], high[k + 2], high[k + 3]
    l0, l1, l2, l3 = low[k], low[k + 1], low[k + 2], low[k + 3]
    t = total[start:stop]
    for j in range(stop - start):
        v0, v1, v2, v3 = p0[j], p1[j], p2[j], p3[j]
        first = t[j] + (v0 - n0) * ((h0 - 0.5 * v0) + l0)
        second = first + (v1 - n1) * ((h1 - 0.5 * v1) + l1)
        third = second + (v2 - n2) * ((h2 - 0.5 * v2) + l2)
        t[j] = third + (v3 - n3) * ((h3 - 0.5 * v3) + l3)


@loops
def add_feature(
    points: Array, k: int, start: int, stop: int, anchor: Array, high: Array, low: Array, total: Array
) -> None:
    """One feature's terms of τ/2 e_ij for a strip of sources."""
    p, t = points[k, start:stop], total[start:stop]
    n, h, l = anchor[k], high[k], low[k]
    for j in range(stop - start):
        t[j] += (p[j] - n) * ((h - 0.5 * p[j]) + l)


@njit(nogil=True, error_model="numpy")
def put_anchor(x: Array, points: Array, place: int, anchor: Array, high: Array, low: Array) -> None:
    """The anchor n, and x - n/2 as the sum of two numbers."""
    for k in range(len(x)):
        n = points[k, place]
        half = 0.5 * n
        h = x[k] - half
        back = h - x[k]
        anchor[k], high[k], low[k] = n, h, (x[k] - (h - back)) - (half + back)


@loops
def exponents(points: Array, count: int, anchor: Array, high: Array, low: Array, total: Array) -> None:
    """Evaluate τ/2 e_ij of one row for `count` sources."""
    features = len(anchor)
    for start in range(0, count, STRIP):
        stop = min(count, start + STRIP)
        total[start:stop] = 0.0
        whole = features - features % 4
        for k in range(0, whole, 4):
            add_features(points, k, start, stop, anchor, high, low, total)
        for k in range(whole, features):
            add_feature(points, k, start, stop, anchor, high, low, total)


@summed
def add_up(values: Array) -> float:
    """The sum of all values."""
    total = 0.0
    for j in range(len(values)):
        total += values[j]
    return total


@loops
def weights_of(total: Array, scale: float, top: float) -> None:
    """Turn τ/2 e into exp(e - top)."""
    for j in range(len(total)):
        total[j] = weight(total[j] * scale - top)


@loops
def choose_anchor(
    x: Array, points: Array, count: int, own: int, local: Array, total: Array
) -> tuple[int, float]:
    """Find the nearest source, the own one where no other is nearer, and τ/2 e relative to it, in `total`.

    Distances far beyond the differences that matter choose an anchor that only nears the nearest; the next
    choice, from exponents relative to it, is better. An exponent above 0 may remain: the second result.
    """
    place, top = own, 0.0
    for attempt in range(ANCHORS):
        put_anchor(x, points, place, local[0], local[1], local[2])
        exponents(points, count, local[0], local[1], local[2], total)
        top = largest(total[:count])
        if attempt == ANCHORS - 1 or (top <= 0.0 and (place == own or total[own] < 0.0)):
            break
        if total[own] >= top:
            place = own
        else:
            for j in range(count):
                if total[j] == top:
                    place = j
                    break
    return place, top


@loops
def row_moment(points: Array, weights: Array, count: int, k: int, origin: float, terms: Array) -> float:
    """Σ_j weights_j (points_kj - origin)."""
    p = points[k]
    for j in range(count):
        terms[j] = weights[j] * (p[j] - origin)
    total: float = add_up(terms[:count])
    return total


@loops
def add_dense(columns: Array, weights: Array, count: int, factor: float, x: Array, sums: Array) -> None:
    """sums[k, j] += factor·weights_j (x_k - y_jk) for all sources."""
    for start in range(0, count, STRIP):
        stop = min(count, start + STRIP)
        w = weights[start:stop]
        for k in range(len(x)):
            y, s, v = columns[k, start:stop], sums[k, start:stop], x[k]
            for j in range(stop - start):
                s[j] += (factor * w[j]) * (v - y[j])


@loops
def add_sparse(y: Array, places: Places, weights: Array, found: int, factor: float, x: Array, sums: Array) -> None:
    """sums[j, k] += factor·weights_c (x_k - y_jk) for the gathered sources j = places[c]."""
    for c in range(found):
        w = factor * weights[c]
        if w != 0.0:
            point, s = y[places[c]], sums[places[c]]
            for k in range(len(x)):
                s[k] += w * (x[k] - point[k])


@loops
def settle(
    problem: Problem, i: int, rest: float, top: float, own: float, square: float, log_eps: float
) -> tuple[float, float]:
    """Write loss and normaliser of a row.

    Args:
        problem: the batch.
        i: the row.
        rest: sum of all weights exp(e - top), less 1.
        top: the largest exponent.
        own: the exponent of the row's own source.
        square: d_in/τ.
        log_eps: log ε.

    Returns:
        p of a source of weight 1, and p of ε.
    """
    eps_exponent = log_eps + square
    log_sources = math.log1p(rest) + top
    above, below = max(log_sources, eps_exponent), min(log_sources, eps_exponent)
    both = above if below == -math.inf else above + math.log1p(math.exp(below - above))
    problem.loss[i] = both - own
    eps_exponent = min(eps_exponent, HUGE)
    peak = max(top, eps_exponent)
    shrink, eps_weight = math.exp(top - peak), math.exp(eps_exponent - peak)
    total = (1.0 + rest) * shrink + eps_weight
    problem.normaliser[0, i], problem.normaliser[1, i] = peak, total
    return shrink / total, eps_weight / total


@loops
def sum_row(
    problem: Problem, i: int, points: Array, count: int, own: int, inverse_tau: float, log_eps: float, local: Array,
    space: Array,
) -> tuple[int, float, float]:  # fmt: skip
    """One row over `count` sources: loss, normaliser and slope by x; weights of the others stay in space[0].

    Returns:
        The anchor's place, p of a source of weight 1, and p of all but the own source.
    """
    weights, x = space[0], problem.x[i]
    place, top = choose_anchor(x, points, count, own, local, weights)
    scale = 2.0 * inverse_tau
    square = 0.0
    for k in range(len(x)):
        away = x[k] - points[k, place]
        square += away * away
    top *= scale
    own_exponent = weights[own] * scale
    weights_of(weights[:count], scale, top)
    anchor_weight = weights[place]
    weights[place] = 0.0
    others = add_up(weights[:count])
    # without rounding top is 0 and so is the last term
    share, eps_share = settle(
        problem, i, others + math.expm1(-top), top, own_exponent, square * inverse_tau, log_eps
    )
    weights[place] = anchor_weight
    weights[own] = 0.0
    if place != own:
        others = add_up(weights[:count])
    if len(problem.slope) > 0:
        for k in range(len(x)):
            origin = points[k, own]
            moment = row_moment(points, weights, count, k, origin, space[1])
            problem.slope[i, k] = problem.cotangent[i] * (eps_share * (x[k] - origin) + share * moment)
    return place, share, others * share + eps_share


@loops
def sum_dense(
    problem: Problem, i: int, inverse_tau: float, log_eps: float, local: Array, space: Array, by_feature: Array
) -> None:
    """One row over all sources."""
    count, x = len(problem.x), problem.x[i]
    place, share, others = sum_row(
        problem, i, problem.columns, count, i, inverse_tau, log_eps, local, space
    )
    problem.nearest[i] = place
    if len(problem.slope) > 0:
        add_dense(problem.columns, space[0], count, problem.cotangent[i] * share, x, by_feature)
        for k in range(len(x)):
            by_feature[k, i] -= problem.cotangent[i] * others * (x[k] - problem.y[i, k])


@loops
def sum_sparse(
    problem: Problem, i: int, places: Places, found: int, inverse_tau: float, log_eps: float, local: Array, space: Array,
    room: Array, by_source: Array,
) -> None:  # fmt: skip
    """One row over its candidates, the own source first."""
    x = problem.x[i]
    points = room[: len(x) * found].reshape(len(x), found)
    gather(problem.y, places, found, points)
    place, share, others = sum_row(problem, i, points, found, 0, inverse_tau, log_eps, local, space)
    problem.nearest[i] = places[place]
    if len(problem.slope) > 0:
        add_sparse(problem.y, places, space[0], found, problem.cotangent[i] * share, x, by_source)
        for k in range(len(x)):
            by_source[i, k] -= problem.cotangent[i] * others * (x[k] - problem.y[i, k])


def compiled(key: str) -> Any:
    """The kernel; Numba looks its cache up by the value of `key`, because the kernel's closure holds it."""

    @njit(nogil=True, cache=True, error_model="numpy", fastmath=set(CONTRACT))
    def kernel(
        problem: Problem, known: Filter, begin: int, end: int, block: int, inverse_tau: float, log_eps: float,
        by_source: Array, by_feature: Array,
    ) -> int:  # fmt: skip
        """Rows begin ... end - 1; what they add to τ/2 dL/dy is split among by_source (B, D) and by_feature (D, B).

        Returns:
            How many rows were summed over all sources.
        """
        count, features, width = len(problem.x), problem.x.shape[1], len(known.bias)
        s, maxima = np.empty((block, width), np.float32), np.empty((block, width // GROUP), np.float32)
        places, local, space = np.empty(count + GROUP, np.int64), np.empty((3, features)), np.empty((2, count))
        room = np.empty(features * (int(DENSE * count) + len(known.outliers) + GROUP))
        dense_rows, rest, next_rest = 0, 0, 1
        if len(key) == 0 or width == 0:
            rest = count
        for first in range(begin, end, block):
            last = min(end, first + block)
            dense_here = 0
            filtered = rest == 0
            if filtered:
                fill_block(known, first, last, s, maxima)
            for i in range(first, last):
                found = -1
                if filtered and known.slack[i] < math.inf:
                    found = find_candidates(known, i, count, s[i - first], maxima[i - first], places)
                if found < 0:
                    sum_dense(problem, i, inverse_tau, log_eps, local, space, by_feature)
                    dense_here += 1
                    continue
                sum_sparse(problem, i, places, found, inverse_tau, log_eps, local, space, room, by_source)
            dense_rows += dense_here
            if not filtered:
                rest -= 1
            elif 2 * dense_here > last - first:
                rest, next_rest = next_rest, min(2 * next_rest, LONGEST_REST)
            else:
                next_rest = 1
        return dense_rows

    return kernel


kernel = compiled(digest_of(SOURCES))
