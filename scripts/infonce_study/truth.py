"""InfoNCE by brute force: in 80-bit long double for whole batches, in 400 digits for a few rows.

Exponents are taken relative to the nearest source n of a row, as products of differences,

    -(d_ij - d_in)/τ = (y_j - n)(2x - (y_j + n))/τ,   y_j + n an exact sum of two long doubles,

so that their relative error stays near 2^-64 however far everything is. A row's own term is left out of sums
from which it would have to be subtracted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import mpmath
import numpy as np
from numpy.typing import NDArray

from scripts.infonce_study.layouts import Array

Long = NDArray[np.longdouble]
Index = NDArray[np.intp]
# where long double is float64 (Windows, some ARM) nothing below 1e-13 could be judged
WIDE = np.finfo(np.longdouble).nmant >= 63
# a loss of 1e-308 is what is left of two numbers near 1e61
DIGITS = 400
LARGEST_POWER = 16000


class Truth(NamedTuple):
    """Losses of the rows, their mean, and its gradients, (B, D), in long double."""

    rows: Long
    mean: np.longdouble
    gx: Long
    gy: Long


def _products(x: Long, y: Long, nearest: Index) -> Long:
    """-(d_ij - d_in) for the given rows x, n = nearest."""
    total = np.zeros((len(x), len(y)), np.longdouble)
    for k in range(x.shape[1]):
        source, anchor = y[None, :, k], y[nearest, k][:, None]
        high = source + anchor
        back = high - source
        low = (source - (high - back)) + (anchor - back)
        total += (source - anchor) * ((2 * x[:, k, None] - high) - low)
    return total


def _anchored(x: Long, y: Long) -> tuple[Index, Long]:
    """The nearest source of every row, its own one among equals, and `_products` relative to it.

    First by distances, then by the products, which tell more apart; twice, for the second confirms.
    """
    rows = np.arange(len(x))
    distance = np.zeros((len(x), len(y)), np.longdouble)
    for k in range(x.shape[1]):
        distance += (x[:, k, None] - y[None, :, k]) ** 2
    nearest = distance.argmin(1)
    products = _products(x, y, nearest)
    for _ in range(2):
        best = products.argmax(1)
        better = np.where(products[rows, rows] >= products[rows, best], rows, best)
        moved = np.flatnonzero(better != nearest)
        nearest[moved] = better[moved]
        products[moved] = _products(x[moved], y, nearest[moved])
    return nearest, products


class Batch:
    """One batch, and what depends neither on τ nor on ε.

    Args:
        x: (B, D), finite; squares must not overflow long double.
        y: like `x`.
    """

    def __init__(self, x: Array, y: Array) -> None:
        self.x, self.y = x.astype(np.longdouble), y.astype(np.longdouble)
        self.nearest, self.products = _anchored(self.x, self.y)
        self.least = ((self.x - self.y[self.nearest]) ** 2).sum(1)

    def truths(self, tau: float, epses: Sequence[float]) -> list[Truth]:
        """The truth for every ε."""
        with np.errstate(under="ignore", over="ignore", divide="ignore"):
            return self._truths(np.longdouble(tau), epses)

    def _truths(self, tau: np.longdouble, epses: Sequence[float]) -> list[Truth]:
        x, y, nearest = self.x, self.y, self.nearest
        batch, features = x.shape
        rows = np.arange(batch)
        exponents = self.products / tau
        own = -exponents[rows, rows]  # (d_ii - d_in)/τ >= 0
        weights = np.exp(exponents)
        # without the anchor's 1, and without the own term
        anchors = weights[rows, nearest].copy()
        weights[rows, nearest] = 0
        rest = weights.sum(1)
        weights[rows, nearest] = anchors
        weights[rows, rows] = 0
        others = weights.sum(1)

        settings = [_normaliser(rest, self.least / tau, eps) for eps in epses]
        scales = np.stack([np.exp(-shift) / total for shift, total, _ in settings])
        shares = np.stack([extra / total for _, total, extra in settings])
        gx, gy = (np.zeros((len(epses), batch, features), np.longdouble) for _ in range(2))
        for k in range(features):
            pull = (weights * (y[None, :, k] - y[:, k, None])).sum(1)
            reach = scales @ (weights * (x[:, k, None] - y[None, :, k]))
            away = x[:, k] - y[:, k]
            gx[..., k] = scales * pull + shares * away
            gy[..., k] = reach - (scales * others + shares) * away
        found = []
        for e, (shift, total, extra) in enumerate(settings):
            # log1p where the own term is the largest: tiny losses keep their digits
            small = np.log1p(rest + extra)
            losses = np.where((nearest == rows) & (shift == 0), small, own + shift + np.log(total))
            factor = 2 / (tau * batch)
            found.append(Truth(losses, losses.mean(), factor * gx[e], factor * gy[e]))
        return found


def _normaliser(rest: Long, least: Long, eps: float) -> tuple[Long, Long, Long]:
    """The largest exponent m >= 0, the sum relative to exp(m), and the part of ε in it."""
    exponent = least + np.log(np.longdouble(eps))
    shift = np.maximum(exponent, 0)
    extra = np.exp(exponent - shift)
    return shift, np.exp(-shift) * (1 + rest) + extra, extra


def by_digits(x: Array, y: Array, tau: float, eps: float) -> Truth:
    """The same from the definition, with so many digits that nothing cancels; for a few rows."""
    batch, features = x.shape
    with mpmath.workdps(DIGITS):
        points, sources = ([[mpmath.mpf(float(v)) for v in row] for row in side] for side in (x, y))
        t, e = mpmath.mpf(tau), mpmath.mpf(eps)
        losses, gx, gy = [], _zeros(batch, features), _zeros(batch, features)
        for i, row in enumerate(points):
            distance = [mpmath.fsum((a - b) ** 2 for a, b in zip(row, s, strict=True)) for s in sources]
            similarity = [mpmath.exp(-d / t) for d in distance]
            total = mpmath.fsum(similarity) + e
            losses.append(distance[i] / t + mpmath.log(total))
            for k in range(features):
                own = row[k] - sources[i][k]
                gx[i][k] += own
                gy[i][k] -= own
                for j, s in enumerate(sources):
                    part = similarity[j] / total * (row[k] - s[k])
                    gx[i][k] -= part
                    gy[j][k] += part
        factor = 2 / (t * batch)
        return Truth(
            _long(losses),
            _long([mpmath.fsum(losses) / batch])[0],
            *(_long([factor * v for row in side for v in row]).reshape(x.shape) for side in (gx, gy)),
        )


def _zeros(batch: int, features: int) -> list[list[mpmath.mpf]]:
    return [[mpmath.mpf(0)] * features for _ in range(batch)]


def _long(values: Sequence[mpmath.mpf]) -> Long:
    """Rounded to long double, as a sum of two float64 times a power of two."""
    rounded = []
    for value in values:
        mantissa, exponent = mpmath.frexp(value)
        high = float(mantissa)
        sum_of_two = np.longdouble(high) + np.longdouble(float(mantissa - high))
        rounded.append(np.ldexp(sum_of_two, int(max(-LARGEST_POWER, min(LARGEST_POWER, exponent)))))
    return np.array(rounded, np.longdouble)
