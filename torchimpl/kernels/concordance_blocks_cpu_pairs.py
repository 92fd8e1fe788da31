"""One row of the exact blocks: exponents from differences, the anchor, weights, loss, moments of slopes."""

from __future__ import annotations

import math
from typing import NamedTuple

from numba import njit

from torchimpl.kernels.concordance_blocks_cpu_filter import STRIP, Array, Places, Products, largest, loops
from torchimpl.kernels.elementary_cpu import CONTRACT, exp

Quad = tuple[float, float, float, float]

# how often a row's anchor is chosen
ANCHORS = 4
HUGE = 1e300

# sums of what is already computed, and of products with a difference: any order of them has the same bound
summed = njit(nogil=True, error_model="numpy", fastmath={*CONTRACT, "reassoc", "nsz"})


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
    others: Array  # result (B,): p of all but the own source, that of ε included
    left_out: Array  # result (B,): the largest weight, relative to `others`, that candidates leave out


@loops
def gather(y: Array, places: Places, found: int, points: Array) -> None:
    """points[k, c] = y[places[c], k]."""
    for c in range(found):
        j = places[c]
        for k in range(y.shape[1]):
            points[k, c] = y[j, k]


@loops
def add_features(
    points: Array, k: int, start: int, stop: int, anchor: Array, high: Array, low: Array, total: Array
) -> None:
    """Four features' terms of τ/2 e_ij for a strip of sources."""
    p0, p1, p2, p3 = (
        points[k, start:stop],
        points[k + 1, start:stop],
        points[k + 2, start:stop],
        points[k + 3, start:stop],
    )
    n0, n1, n2, n3 = anchor[k], anchor[k + 1], anchor[k + 2], anchor[k + 3]
    h0, h1, h2, h3 = high[k], high[k + 1], high[k + 2], high[k + 3]
    l0, l1, l2, l3 = low[k], low[k + 1], low[k + 2], low[k + 3]
    t = total[start:stop]
    for j in range(stop - start):
        v0, v1, v2, v3 = p0[j], p1[j], p2[j], p3[j]
        left = (v0 - n0) * ((h0 - 0.5 * v0) + l0) + (v1 - n1) * ((h1 - 0.5 * v1) + l1)
        right = (v2 - n2) * ((h2 - 0.5 * v2) + l2) + (v3 - n3) * ((h3 - 0.5 * v3) + l3)
        # pairs first: the chain of additions is a quarter as long
        t[j] += left + right


@loops
def add_feature(
    points: Array, k: int, start: int, stop: int, anchor: Array, high: Array, low: Array, total: Array
) -> None:
    """One feature's terms of τ/2 e_ij for a strip of sources."""
    p, t = points[k, start:stop], total[start:stop]
    n, most, rest = anchor[k], high[k], low[k]
    for j in range(stop - start):
        t[j] += (p[j] - n) * ((most - 0.5 * p[j]) + rest)


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
    """Turn τ/2 e + origin into exp(e - 2/τ top) and return the sum."""
    result = 0.0
    for start in range(0, len(total), STRIP):
        part = total[start : start + STRIP]
        for j in range(len(part)):
            # differences first: where they are 0 no rounding of a product may make them huge
            part[j] = exp(((part[j] - origin) - top) * scale)
        result += add_up(part)
    return result


@loops
def choose_anchor(
    x: Array, points: Array, count: int, own: int, local: Array, total: Array
) -> tuple[int, float]:
    """Find the nearest source, the own one where no other is nearer; `total` becomes relative to it.

    Before, it holds τ/2 e relative to the own source.

    Distances far beyond the differences that matter choose an anchor that only nears the nearest; the next
    choice, from exponents relative to it, is better. An exponent above 0 may remain: the second result.
    """
    place, top = own, 0.0
    for attempt in range(ANCHORS):
        top = largest(total[:count])
        if attempt == ANCHORS - 1 or (top <= 0.0 and (place == own or total[own] < 0.0)):
            break
        place = own if total[own] >= top else index_of(total, top)
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
def add_strip(p: Array, s: Array, weights: Array, q: int, start: int, stop: int, y: Quad, x: Quad) -> Quad:
    """Four rows and one feature p of a strip: return Σ_j w_qj (p_j - y_q), s_j += Σ_q w_qj (x_q - p_j)."""
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
def add_sparse(
    y: Array, places: Places, weights: Array, found: int, factor: float, x: Array, sums: Array
) -> None:
    """sums[j, k] += factor·weights_c (x_k - y_jk) for the gathered sources j = places[c]."""
    for c in range(found):
        j, w = places[c], factor * weights[c]
        if w != 0.0:
            for k in range(len(x)):
                sums[j, k] += w * (x[k] - y[j, k])


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
    # no weight: the anchor's is 1, but for rounding, and would take the digits of the others
    weights[place] = -HUGE
    others = weigh(weights, origin, scale, top)
    top *= scale
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
