"""Products of centred points: the float32 filter of the exact blocks, and exponents in float64.

`torchimpl.kernels.concordance_blocks` derives the bounds.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from torchimpl.kernels.elementary_cpu import CONTRACT

Array = NDArray[np.float64]
Singles = NDArray[np.float32]
Places = NDArray[np.int64]

# sources, or entries of a block, worked on at a time: they stay in the first-level cache
STRIP = 512
FILTER_STRIP = 1024
# S is searched for candidates by groups of so many
GROUP = 16
# a row with more than this part of all sources as candidates is summed over all of them
DENSE = 0.25
# below every S: no float32 sum overflows on the way
NEVER = -1e30

loops = njit(nogil=True, error_model="numpy", fastmath=set(CONTRACT))
# maxima of numbers without NaN
ordered = njit(nogil=True, error_model="numpy", fastmath={"nnan", "nsz"})


class Filter(NamedTuple):
    """Float32 points for S, padded with zeros to K features and with sources that never count."""

    x: Singles  # (>= B, K), rows in multiples of 4, K a multiple of 4
    y: Singles  # (K, width)
    bias: Singles  # (width,): -|y|²/2, NEVER for outliers and padding
    slack: Array  # (B,): bound of the error of S, inf where S says nothing
    outliers: Places  # sources that are always candidates
    reach: float  # τ/2 times the exponent below the largest that no longer counts
    part: float  # what is left out weighs at most this part of the others together
    allowed: float  # what may be left out of a component of a gradient, as a part of it
    low: Array  # (D,): the least and the largest of each feature, but for outliers
    high: Array


class Products(NamedTuple):
    """Centred points for s_ij in float64, padded with zeros to K features; empty where too coarse."""

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
            most = max(most, s[j])
        maxima[g] = most


@loops
def fill_block(known: Filter, begin: int, end: int, s: Singles, maxima: Singles) -> None:
    """S of a block of rows, each row's own source at NEVER, and the maxima of its groups."""
    width, features = len(known.bias), known.x.shape[1]
    a = known.x[begin : begin + len(s)]
    for start in range(0, width, FILTER_STRIP):
        stop = min(width, start + FILTER_STRIP)
        for r in range(0, end - begin, 4):
            for row in range(r, r + 4):
                s[row, start:stop] = known.bias[start:stop]
            for k in range(0, features, 4):
                add_products(a, known.y, s, r, k, start, stop)
            for row in range(r, r + 4):
                if start <= begin + row < stop:
                    s[row, begin + row] = NEVER
                group_maxima(s[row], start, stop, maxima[row])


@ordered
def largest(values: Any) -> Any:
    """The maximum of at least one number."""
    most = values[0]
    whole = len(values) - len(values) % GROUP
    # by groups: one long chain of maxima stays scalar
    for start in range(0, whole, GROUP):
        part = values[start]
        for j in range(start + 1, start + GROUP):
            part = max(part, values[j])
        most = max(most, part)
    for j in range(whole, len(values)):
        most = max(most, values[j])
    return most


@loops
def find_candidates(
    known: Filter, i: int, count: int, s: Singles, maxima: Singles, groups: Places, places: Places
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
    # no branch depends on a comparison: half of them would be guessed wrong
    hits = 0
    for g in range(len(maxima)):
        groups[hits] = g
        hits += 1 if maxima[g] >= limit else 0
    for h in range(hits):
        if found > most:
            return -1
        start = groups[h] * GROUP
        for j in range(start, start + GROUP):
            places[found] = j
            found += 1 if s[j] >= limit else 0
    return found


@loops
def fill_products(known: Products, rows: Places, s: Array) -> None:
    """s_ij of a bundle of rows."""
    a = np.empty((len(rows), known.x.shape[1]))
    for q in range(len(rows)):
        a[q] = known.x[rows[q]]
    for start in range(0, len(known.bias), STRIP):
        stop = min(len(known.bias), start + STRIP)
        for q in range(0, len(rows), 4):
            for row in range(q, q + 4):
                s[row, start:stop] = known.bias[start:stop]
            for k in range(0, a.shape[1], 4):
                add_products(a, known.y, s, q, k, start, stop)
