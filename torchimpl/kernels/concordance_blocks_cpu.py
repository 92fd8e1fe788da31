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
from torchimpl.kernels.elementary_cpu import CONTRACT, exp

Array = NDArray[np.float64]
Singles = NDArray[np.float32]
Places = NDArray[np.int64]
Quad = tuple[float, float, float, float]

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
# rows that are summed over all sources together
BUNDLE = 16
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


class Products(NamedTuple):
    """Centred points for s_ij in float64, padded with zeros to K features; empty where that is not good enough."""

    x: Array  # (B, K), K a multiple of 4
    y: Array  # (K, width)
    bias: Array  # (width,): -|y|²/2
    slack: float  # bound of the error of s_ij


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
def add_exponents(points: Array, start: int, stop: int, local: Array, total: Array) -> None:
    """Evaluate τ/2 e_ij of one row, whose anchor is in `local`, for a strip of sources."""
    features = points.shape[0]
    total[start:stop] = 0.0
    whole = features - features % 4
    for k in range(0, whole, 4):
        add_features(points, k, start, stop, local[0], local[1], local[2], total)
    for k in range(whole, features):
        add_feature(points, k, start, stop, local[0], local[1], local[2], total)


@loops
def exponents(x: Array, points: Array, count: int, place: int, local: Array, total: Array) -> None:
    """Evaluate τ/2 e_ij of one row for `count` sources, with the anchor at `place`."""
    put_anchor(x, points, place, local[0], local[1], local[2])
    for start in range(0, count, STRIP):
        add_exponents(points, start, min(count, start + STRIP), local, total)


@summed
def add_up(values: Array) -> float:
    """The sum of all values."""
    total = 0.0
    for j in range(len(values)):
        total += values[j]
    return total


@loops
def weigh(total: Array, origin: float, scale: float, top: float) -> float:
    """Turn τ/2 e + origin into exp(e - top) and return the sum."""
    result = 0.0
    for start in range(0, len(total), STRIP):
        part = total[start : start + STRIP]
        for j in range(len(part)):
            part[j] = exp((part[j] - origin) * scale - top)
        result += add_up(part)
    return result


@loops
def choose_anchor(
    x: Array, points: Array, count: int, own: int, local: Array, total: Array
) -> tuple[int, float]:
    """Find the nearest source, the own one where no other is nearer; τ/2 e relative to it replaces that to the own.

    Distances far beyond the differences that matter choose an anchor that only nears the nearest; the next
    choice, from exponents relative to it, is better. An exponent above 0 may remain: the second result.
    """
    place, top = own, 0.0
    for attempt in range(ANCHORS):
        top = largest(total[:count])
        if attempt == ANCHORS - 1 or (top <= 0.0 and (place == own or total[own] < 0.0)):
            break
        if total[own] >= top:
            place = own
        else:
            place = index_of(total, top)
        exponents(x, points, count, place, local, total)
    return place, top


@loops
def index_of(values: Array, value: float) -> int:
    """The first place of a value that is there."""
    place = 0
    while values[place] != value:
        place += 1
    return place


@summed
def moments_of_row(points: Array, weights: Array, k: int, a: float, b: float, c: float, d: float) -> tuple[
    float, float, float, float
]:  # fmt: skip
    """Σ_j weights_j (points_j - origin) for four features from the k-th on, with their origins a ... d."""
    p0, p1, p2, p3 = points[k], points[k + 1], points[k + 2], points[k + 3]
    s0, s1, s2, s3 = 0.0, 0.0, 0.0, 0.0
    for j in range(len(weights)):
        w = weights[j]
        s0 += w * (p0[j] - a)
        s1 += w * (p1[j] - b)
        s2 += w * (p2[j] - c)
        s3 += w * (p3[j] - d)
    return s0, s1, s2, s3


@summed
def moment_of_row(point: Array, weights: Array, origin: float) -> float:
    """Σ_j weights_j (point_j - origin)."""
    total = 0.0
    for j in range(len(weights)):
        total += weights[j] * (point[j] - origin)
    return total


@summed
def add_strip(
    p: Array, s: Array, weights: Array, q: int, start: int, stop: int, y: Quad, x: Quad
) -> Quad:
    """One feature of a strip of sources p and four rows: s_j += Σ_q w_qj (x_q - p_j), return Σ_j w_qj (p_j - y_q)."""
    w0, w1 = weights[q, start:stop], weights[q + 1, start:stop]
    w2, w3 = weights[q + 2, start:stop], weights[q + 3, start:stop]
    y0, y1, y2, y3 = y
    x0, x1, x2, x3 = x
    v, t = p[start:stop], s[start:stop]
    m0, m1, m2, m3 = 0.0, 0.0, 0.0, 0.0
    for j in range(stop - start):
        at, a, b, c, d = v[j], w0[j], w1[j], w2[j], w3[j]
        t[j] += (a * (x0 - at) + b * (x1 - at)) + (c * (x2 - at) + d * (x3 - at))
        m0 += a * (at - y0)
        m1 += b * (at - y1)
        m2 += c * (at - y2)
        m3 += d * (at - y3)
    return m0, m1, m2, m3


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
def normalise(
    problem: Problem, i: int, points: Array, own: int, place: int, origin: float, top: float, own_term: float,
    inverse_tau: float, log_eps: float, weights: Array,
) -> tuple[float, float, float]:  # fmt: skip
    """From τ/2 e + origin to the weights of all but the own source, and the row's loss and normaliser.

    Args:
        problem: the batch.
        i: the row.
        points: (D, count), the sources.
        own: place of the row's own source.
        place: that of the anchor.
        origin: what is added to the exponents.
        top: τ/2 times the largest exponent.
        own_term: τ/2 times that of the own source.
        inverse_tau: 1/τ.
        log_eps: log ε.
        weights: (count,), the exponents; result.

    Returns:
        p of a source of weight 1, p of all but the own source, and p of ε.
    """
    x, scale, square = problem.x[i], 2.0 * inverse_tau, 0.0
    for k in range(len(x)):
        away = x[k] - points[k, place]
        square += away * away
    top *= scale
    # no weight: the anchor's is 1, but for rounding, and would take the digits of the others
    weights[place] = -HUGE
    others = weigh(weights, origin, scale, top)
    share, eps_share = settle(
        problem, i, others + math.expm1(-top), top, own_term * scale, square * inverse_tau, log_eps
    )
    weights[place] = math.exp(-top)
    weights[own] = 0.0
    if place != own:
        others = add_up(weights)
    return share, others * share + eps_share, eps_share


@loops
def anchor_by_products(
    known: Products, s: Array, x: Array, points: Array, own: int, local: Array
) -> tuple[int, float, float, float]:
    """The anchor from s_j of one row: its place and s_j, τ/2 e at most and, exact, of the own source."""
    place, top = own, largest(s)
    # nearest up to the error: a tie is the own source's
    if s[own] < top - 2.0 * known.slack:
        place = index_of(s, top)
    origin = s[place]
    put_anchor(x, points, place, local[0], local[1], local[2])
    own_term = 0.0
    for k in range(len(x)):
        v = points[k, own]
        own_term += (v - local[0, k]) * ((local[1, k] - 0.5 * v) + local[2, k])
    return place, origin, max(top - origin, own_term), own_term


@loops
def fill_products(known: Products, rows: Places, s: Array) -> None:
    """s_ij of a bundle of rows."""
    a = np.empty((len(rows), known.x.shape[1]))
    for q in range(len(rows)):
        a[q] = known.x[rows[q]]
    for start in range(0, len(known.bias), STRIP):
        stop = min(len(known.bias), start + STRIP)
        for q in range(0, len(rows), 4):
            for l in range(q, q + 4):
                s[l, start:stop] = known.bias[start:stop]
            for k in range(0, a.shape[1], 4):
                add_products(a, known.y, s, q, k, start, stop)


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
    problem: Problem, known: Products, rows: Places, used: int, inverse_tau: float, log_eps: float, local: Array,
    bundle: Array, by_feature: Array,
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
    eps_share, others = np.zeros(used), np.zeros(used)
    for q in range(used):
        i, weights, x = rows[q], bundle[q, :count], problem.x[rows[q]]
        if len(known.bias) > 0:
            place, origin, top, own_term = anchor_by_products(known, weights, x, points, i, local[q])
        else:
            place, top = choose_anchor(x, points, count, i, local[q], weights)
            origin, own_term = 0.0, weights[i]
        problem.nearest[i] = place
        share, others[q], eps_share[q] = normalise(
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
            by_feature[k, i] -= problem.cotangent[i] * others[q] * away


@loops
def sum_sparse(
    problem: Problem, i: int, places: Places, found: int, inverse_tau: float, log_eps: float, local: Array,
    weights: Array, room: Array, by_source: Array,
) -> None:  # fmt: skip
    """One row over its candidates, the own source first."""
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
        return
    cotangent, own, slope, moment = problem.cotangent[i], problem.y[i], problem.slope[i], local[0]
    add_sparse(problem.y, places, weights, found, cotangent * share, x, by_source)
    whole = features - features % 4
    for k in range(0, whole, 4):
        moment[k], moment[k + 1], moment[k + 2], moment[k + 3] = moments_of_row(
            points, weights[:found], k, own[k], own[k + 1], own[k + 2], own[k + 3]
        )
    for k in range(whole, features):
        moment[k] = moment_of_row(points[k], weights[:found], own[k])
    for k in range(features):
        away = x[k] - own[k]
        slope[k] = cotangent * (eps_share * away + share * moment[k])
        by_source[i, k] -= cotangent * others * away


def compiled(key: str) -> Any:
    """The kernel; Numba looks its cache up by the value of `key`, because the kernel's closure holds it."""

    @njit(nogil=True, cache=True, error_model="numpy", fastmath=set(CONTRACT))
    def kernel(
        problem: Problem, known: Filter, products: Products, begin: int, end: int, block: int, inverse_tau: float,
        log_eps: float, by_source: Array, by_feature: Array,
    ) -> int:  # fmt: skip
        """Rows begin ... end - 1; what they add to τ/2 dL/dy is split among by_source (B, D) and by_feature (D, B).

        Returns:
            How many rows were summed over all sources.
        """
        count, features, width = len(problem.x), problem.x.shape[1], len(known.bias)
        s, maxima = np.empty((block, width), np.float32), np.empty((block, width // GROUP), np.float32)
        places, local, weights = np.empty(count + GROUP, np.int64), np.empty((BUNDLE, 3, features)), np.empty(count)
        room = np.empty(features * (int(DENSE * count) + len(known.outliers) + GROUP))
        bundle, rows = np.empty((BUNDLE, problem.columns.shape[1])), np.empty(BUNDLE, np.int64)
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
                    found = find_candidates(known, i, count, s[i - first], maxima[i - first], places)
                if found >= 0:
                    sum_sparse(
                        problem, i, places, found, inverse_tau, log_eps, local[0], weights, room, by_source
                    )
                    continue
                rows[waiting] = i
                waiting += 1
                dense_rows += 1
                if waiting == BUNDLE:
                    sum_bundle(
                        problem, products, rows, waiting, inverse_tau, log_eps, local, bundle, by_feature
                    )
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
        return dense_rows + 0 * len(key)

    return kernel


kernel = compiled(digest_of(SOURCES))
