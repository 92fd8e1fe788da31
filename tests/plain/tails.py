"""Both tails of a negative binomial and their derivatives, by walking away from k along ratios of masses.

    p_{j-1} / p_j = j (1 + r / mu) / (r + j - 1)     p_{j+1} / p_j = (r + j) q / (j + 1),  q = mu / (r + mu)

Every walk adds positive terms only. F is p_k times the walk down. Where S is not small it is 1 - F; else it
is p_k times the walk up, and where that is endless (r far below mu / k) -expm1(log p_0) - p_1 - ... - p_k.
The derivative in r weighs the masses with their scores, on the side that was summed; that in mu is
-p_k (r + k) / (r + mu).
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from tests.plain.common import LONG, Long, each
from tests.plain.functions import phi
from tests.plain.mass import MAX_TERMS, harmonic, log_mass

NEGLIGIBLE = LONG(2) ** -80
SMALL = LONG(2) ** -10  # 1 - F has ten bits less than F, which has eleven more than float64
VANISHED = -11_000  # log p near the smallest long double: both tails are 0 or 1 in every format

Walk = Callable[[Long], Long]


@dataclass(frozen=True)
class Tails:
    """F, S and the derivatives of F, flat."""

    cdf: Long
    sf: Long
    slope_mu: Long
    slope_r: Long


@dataclass(frozen=True)
class _Point:
    """One element inside the domain."""

    k: int
    mu: np.longdouble
    r: np.longdouble
    log_mass: np.longdouble

    @property
    def mass(self) -> np.longdouble:
        return np.exp(self.log_mass)


def tails(y: Long, mu: Long, r: Long) -> Tails:
    """All four, element by element; NaN outside the domain.

    Raises:
        ValueError: an element needs more than MAX_TERMS terms.
    """
    k = np.floor(y)
    valid = ~np.isnan(k) & (mu >= 0) & np.isfinite(mu) & (r > 0)
    table = np.full((4, k.size), np.nan, LONG)
    table[:, valid & (k < 0)] = np.array([[0], [1], [0], [0]])
    table[:, valid & np.isposinf(k)] = np.array([[1], [0], [0], [0]])
    certain = valid & (k >= 0) & np.isfinite(k) & (mu == 0)
    table[:, certain] = np.array([[1], [0], [0], [0]])
    table[2, certain & (k == 0)] = -1
    inside = np.flatnonzero(valid & (k >= 0) & np.isfinite(k) & (mu > 0))
    logs = log_mass(k[inside], mu[inside], r[inside])
    if inside.size:
        table[:, inside] = each(_element, k[inside], mu[inside], r[inside], logs).T
    return Tails(*table)


def _element(
    k: np.longdouble, mu: np.longdouble, r: np.longdouble, log_p: np.longdouble
) -> tuple[np.longdouble, ...]:
    """F, S, dF/dmu and dF/dr at 0 <= k < inf, 0 < mu < inf, r > 0."""
    at = _Point(int(k), mu, r, log_p)
    nothing, one = LONG(0), LONG(1)
    if at.log_mass < VANISHED:
        above = at.k > at.mu
        return (one, nothing, nothing, nothing) if above else (nothing, one, nothing, nothing)
    poisson = bool(np.isinf(at.r))
    slope_mu = -at.mass * (1 if poisson else (at.r + at.k) / (at.r + at.mu))
    down = _down(at, poisson=poisson)
    cdf = at.mass * down.sum()
    sf = 1 - cdf
    if at.k == 0:
        sf = -np.expm1(at.log_mass)
    elif sf < SMALL:
        if at.r >= 1 or at.k * at.r >= 2 * at.mu:
            up = _up(at, poisson=poisson)
            sf = at.mass * up.sum()
            slope = nothing if poisson else -at.mass * (up * _scores_above(at, up.size)).sum()
            return 1 - sf, sf, slope_mu, slope
        sf = -np.expm1(-at.r * np.log1p(at.mu / at.r)) - at.mass * down[:-1].sum()
        cdf = 1 - sf
    slope = nothing if poisson else at.mass * (down * _scores_below(at, down.size)).sum()
    return cdf, sf, slope_mu, slope


def _scores_below(at: _Point, count: int) -> Long:
    """Scores of k, k - 1, ..., as many as asked for."""
    j = at.k - np.arange(count)
    return harmonic(at.r, at.k)[j] - _pull(at, j)


def _scores_above(at: _Point, count: int) -> Long:
    """Scores of k + 1, k + 2, ..."""
    return harmonic(at.r, at.k + count)[at.k + 1 :] - _pull(at, at.k + 1 + np.arange(count))


def _pull(at: _Point, j: np.ndarray) -> Long:
    """phi((j - mu) / (r + mu))."""
    total = at.r + at.mu
    return phi((j - at.mu) / total, (at.r + j) / total)


def _down(at: _Point, *, poisson: bool) -> Long:
    """p_k, p_{k-1}, ... in units of p_k."""
    if poisson:
        return _walk(lambda m: (at.k - m) / at.mu, at.k, LONG(0), falling=True)
    factor, missing = _quotient((at.r, at.mu), (at.mu,))

    def ratio(m: Long) -> Long:
        j = at.k - m
        return j * factor / (at.r + (j - 1))

    weights = _walk(ratio, at.k, LONG(np.inf), falling=at.r >= 1)
    return weights * (1 + missing * np.arange(weights.size))


def _up(at: _Point, *, poisson: bool) -> Long:
    """p_{k+1}, p_{k+2}, ... in units of p_k."""
    if poisson:
        return _walk(lambda m: at.mu / (at.k + 1 + m), MAX_TERMS, LONG(0), falling=True)[1:]
    factor, missing = _quotient((at.mu,), (at.r, at.mu))

    def ratio(m: Long) -> Long:
        j = at.k + m
        return (at.r + j) * factor / (j + 1)

    weights = _walk(ratio, MAX_TERMS, factor, falling=at.r >= 1)
    return (weights * (1 + missing * np.arange(weights.size)))[1:]


def _quotient(
    top: tuple[np.longdouble, ...], bottom: tuple[np.longdouble, ...]
) -> tuple[np.longdouble, np.longdouble]:
    """Sum over sum, and the relative error of rounding it: the same in every step, it would add up."""
    near = sum(top, LONG(0)) / sum(bottom, LONG(0))
    exact = sum(map(_fraction, top)) / sum(map(_fraction, bottom))
    return near, LONG(float(exact / _fraction(near) - 1))


def _fraction(number: np.longdouble) -> Fraction:
    return Fraction(*number.as_integer_ratio())


def _walk(ratio: Walk, steps: int, limit: np.longdouble, *, falling: bool) -> Long:
    """Products of the first ratios, from the empty one on, until the rest is negligible.

    Args:
        ratio: the factors at the given steps.
        steps: after so many the walk is at its end.
        limit: what later ratios do not exceed, unless they fall anyway.
        falling: whether they fall.
    """
    parts, total, done, length = [np.ones(1, LONG)], LONG(1), 0, 128
    while done < steps:
        length = min(2 * length, steps - done)
        ratios = ratio(np.arange(done, done + length).astype(LONG))
        products = parts[-1][-1] * np.cumprod(ratios)
        parts.append(products)
        total += products.sum()
        done += length
        largest = ratios[-1] if falling else limit
        if largest < 1 and products[-1] * largest <= NEGLIGIBLE * total * (1 - largest):
            return np.concatenate(parts)
    if steps == MAX_TERMS:
        raise ValueError(f"more than MAX_TERMS = {MAX_TERMS} terms are needed")
    return np.concatenate(parts)
