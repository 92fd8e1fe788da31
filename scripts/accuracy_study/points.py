"""The points of the study: drawn afresh from a seed, never picked."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
LARGEST_SIZE = 1e8
# where one region of the implementation ends and another begins, and what it divides by
EDGE_SIZES = (2.0, 6.0, 48.0, 1.0)
EDGE_SHARES = (1.5, 3.0)  # k r/(r+mu)


class Points(NamedTuple):
    """Counts, means and dispersions, one array each."""

    k: Array
    mu: Array
    r: Array

    def rounded(self, dtype: type[np.floating]) -> Points:
        """The same with mu and r as another dtype holds them, exactly."""
        return Points(
            self.k, self.mu.astype(dtype).astype(np.float64), self.r.astype(dtype).astype(np.float64)
        )


def log_uniform(rng: np.random.Generator, low: float, high: float, size: int) -> Array:
    """Uniform in the logarithm."""
    return np.asarray(10.0 ** rng.uniform(np.log10(low), np.log10(high), size))


def counts(rng: np.random.Generator, mu: Array, r: Array) -> Array:
    """One count from the law of each (mu, r)."""
    return rng.poisson(rng.gamma(r, mu / r)).astype(np.float64)


def realistic(rng: np.random.Generator, size: int) -> Points:
    """Sequencing counts: mu .05 to 500, r .1 to 100, k from the law."""
    mu, r = log_uniform(rng, 0.05, 500.0, size), log_uniform(rng, 0.1, 100.0, size)
    return Points(counts(rng, mu, r), mu, r)


def wide(rng: np.random.Generator, size: int) -> Points:
    """Mu 1e-2 to 1e7, r 1e-3 to 1e8, k from the law."""
    mu, r = log_uniform(rng, 1e-2, 1e7, size), log_uniform(rng, 1e-3, LARGEST_SIZE, size)
    return Points(counts(rng, mu, r), mu, r)


def independent(rng: np.random.Generator, size: int) -> Points:
    """Log-uniform and independent: mu 1e-8 to 1e8, r 1e-6 to 1e8, k 0 to 1e7; mostly far out in a tail."""
    k = np.floor(log_uniform(rng, 1.0, 1e7, size)) - 1.0
    return Points(k, log_uniform(rng, 1e-8, 1e8, size), log_uniform(rng, 1e-6, LARGEST_SIZE, size))


def borders(rng: np.random.Generator, size: int) -> Points:
    """Within a thousandth of where the evaluation changes: in r, k + 1, k x and mu against k + 1."""
    near = 1.0 + rng.choice([-1.0, 1.0], size) * 10.0 ** rng.uniform(-16.0, -3.0, size)
    kind = rng.integers(0, 5, size)
    k = np.floor(log_uniform(rng, 1.0, 3e3, size))
    r, mu = log_uniform(rng, 1e-3, 1e4, size), log_uniform(rng, 1e-2, 1e4, size)
    r = np.where(kind == 0, rng.choice(EDGE_SIZES, size) * near, r)
    k = np.where(kind == 1, 47.0 + rng.integers(-1, 3, size), k)
    mu = np.where(kind == 2, (k + 1.0) * near, mu)
    # k r/(r+mu) at its edge, r below 2
    r = np.where(kind >= 3, np.minimum(log_uniform(rng, 1e-6, 2.0, size), 2.0 * near), r)
    share = rng.choice(EDGE_SHARES, size)
    mu = np.where(kind >= 3, np.maximum(r * (k / share - 1.0), r) * near, mu)
    # half of the counts near the mean, so that neither tail is negligible
    spread = np.sqrt(mu + mu * mu / r)
    centre = np.maximum(np.floor(mu + spread * rng.uniform(-3.0, 3.0, size)), 0.0)
    k = np.where((kind == 0) & (rng.random(size) < 0.5), np.minimum(centre, 1e6), k)
    mu = np.where(
        (kind == 1) & (rng.random(size) < 0.5),
        np.maximum((k + 1.0) * rng.uniform(0.3, 2.0, size), mu / 1e4),
        mu,
    )
    return Points(k, mu, r)


def extreme(rng: np.random.Generator, size: int) -> Points:
    """From the smallest subnormal to the largest number; counts to 24, larger ones only with a large r."""
    mu, r = np.exp2(rng.uniform(-1074.0, 1023.9, (2, size)))
    k = rng.integers(0, 25, size).astype(np.float64)
    kind = rng.integers(0, 4, size)
    k = np.where(kind == 0, np.floor(log_uniform(rng, 24.0, 1e15, size)), k)
    r = np.where(kind == 0, np.exp2(rng.uniform(5.0, 1023.9, size)), r)
    mu = np.where(kind <= 1, (k + 1.0) * rng.uniform(0.5, 2.0, size), mu)
    r = np.where(kind == 2, np.maximum(np.minimum(mu, 1e307) * rng.uniform(0.1, 10.0, size), 5e-324), r)
    return Points(k, mu, r)


SETS: dict[str, Callable[[np.random.Generator, int], Points]] = {
    "realistic": realistic,
    "wide": wide,
    "independent": independent,
    "borders": borders,
    "extreme": extreme,
}


def drawn(name: str, size: int, seed: int) -> Points:
    """`size` points of a set; sets are independent of each other for equal seeds."""
    rng = np.random.default_rng([seed, list(SETS).index(name)])
    return SETS[name](rng, size)
