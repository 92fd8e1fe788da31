"""Ways in which residuals of two replicates can lie; each aims at one weakness of an implementation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Batch = tuple[Array, Array]
Layout = Callable[[np.random.Generator, int, int], Batch]

APART = 1e12
OFFSET = 1e6
OPPOSED = 100.0
TEETH = 32
ZEROS = 0.8


def normal(rng: np.random.Generator, batch: int, features: int) -> Batch:
    """Replicates that agree up to a third of their spread."""
    x = rng.standard_normal((batch, features))
    return x, x + 0.3 * rng.standard_normal((batch, features))


def normal_wide(rng: np.random.Generator, batch: int, features: int) -> Batch:
    """The same, 100 times as wide: most pairs do not count."""
    x, y = normal(rng, batch, features)
    return 100.0 * x, 100.0 * y


def independent(rng: np.random.Generator, batch: int, features: int) -> Batch:
    """Replicates that have nothing in common."""
    x, y = rng.standard_normal((2, batch, features))
    return x, y


def identical(rng: np.random.Generator, batch: int, features: int) -> Batch:
    """Every row equals its source."""
    x = rng.standard_normal((batch, features))
    return x, x.copy()


def identical_far(rng: np.random.Generator, batch: int, features: int) -> Batch:
    """Every row equals its source, and all others are 1,000 away: losses underflow."""
    x = 1e3 * np.stack([rng.permutation(batch) for _ in range(features)], axis=1)
    return x, x.copy()


def two_far(rng: np.random.Generator, batch: int, features: int) -> Batch:
    """Two clusters, 2,000 apart; a row and its source are in the same one."""
    x, y = normal(rng, batch, features)
    centre = np.where(np.arange(batch) % 2, 1e3, -1e3)[:, None]
    return x + centre, y + centre


def opposed(rng: np.random.Generator, batch: int, features: int) -> Batch:
    """All rows on one side, all sources on the other, 100 apart."""
    x, y = rng.standard_normal((2, batch, features))
    x[:, 0] -= OPPOSED / 2
    y[:, 0] += OPPOSED / 2
    return x, y


def cauchy(rng: np.random.Generator, batch: int, features: int) -> Batch:
    """Heavy tails on both sides."""
    x = rng.standard_cauchy((batch, features))
    return x, x + 0.3 * rng.standard_cauchy((batch, features))


def cauchy_wide(rng: np.random.Generator, batch: int, features: int) -> Batch:
    """Heavy tails, 1,000 times as wide."""
    x, y = cauchy(rng, batch, features)
    return 1e3 * x, 1e3 * y


def _counts(rng: np.random.Generator, batch: int, features: int) -> tuple[Array, Array, Array]:
    """Means, and over-dispersed counts of both replicates around them."""
    mean = np.asarray(rng.gamma(0.5, 10.0, (batch, features)))
    x, y = (rng.poisson(mean).astype(np.float64) for _ in range(2))
    return mean, x, y


def zero_inflated(rng: np.random.Generator, batch: int, features: int) -> Batch:
    """Counts, most of them 0: exact ties by the hundred."""
    _, x, y = _counts(rng, batch, features)
    present = rng.random((batch, features)) >= ZEROS
    return x * present, y * present


def count_residuals(rng: np.random.Generator, batch: int, features: int) -> Batch:
    """Counts less the mean that they share."""
    mean, x, y = _counts(rng, batch, features)
    return x - mean, y - mean


def magnitudes(rng: np.random.Generator, batch: int, features: int) -> Batch:
    """Of either sign and any size from 1e-30 to 1e30; half of the sources near their rows."""
    x, far = rng.choice([-1.0, 1.0], (2, batch, features)) * 10.0 ** rng.uniform(
        -30, 30, (2, batch, features)
    )
    near = x * (1.0 + 1e-3 * rng.standard_normal((batch, features)))
    return x, np.where(np.arange(batch)[:, None] % 2, near, far)


def spread_tight(rng: np.random.Generator, batch: int, features: int) -> Batch:
    """Rows 100 wide, sources 0.01 wide: every source counts for every row."""
    x, y = rng.standard_normal((2, batch, features))
    return 100.0 * x, 0.01 * y


def geometric(rng: np.random.Generator, batch: int, features: int) -> Batch:
    """Powers of two of either sign from 2^-40 to 2^40."""
    signs = rng.choice([-1.0, 1.0], (2, batch, features))
    x, y = signs * np.exp2(rng.integers(-40, 41, (2, batch, features)))
    return x, y


def midpoint(rng: np.random.Generator, batch: int, features: int) -> Batch:
    """Every row exactly half-way between its own source and the next."""
    y = 0.5 * rng.integers(-batch, batch + 1, (batch, features)).astype(np.float64)
    if features == 1:  # next is then nearest, too
        y = np.sort(y, axis=0)
    return 0.5 * (y + np.roll(y, -1, axis=0)), y


def comb(rng: np.random.Generator, batch: int, features: int) -> Batch:
    """Teeth at whole numbers, each 1e-9 thick."""
    tooth = rng.integers(0, TEETH, (batch, features))
    x, y = tooth + 1e-9 * rng.standard_normal((2, batch, features))
    return x, y


def common_offset(rng: np.random.Generator, batch: int, features: int) -> Batch:
    """Everything 1e6 away from 0: x² + y² - 2xy loses all digits of a distance in float32."""
    x, y = normal(rng, batch, features)
    return x + OFFSET, y + OFFSET


def positives_apart(rng: np.random.Generator, batch: int, features: int) -> Batch:
    """Every row 1e12 away from its own source, next to the others'."""
    x, y = rng.standard_normal((2, batch, features))
    side = np.where(np.arange(batch) % 2, APART, 0.0)[:, None]
    return x + side, y + (APART - side)


LAYOUTS: dict[str, Layout] = {
    "normal": normal,
    "normal × 100": normal_wide,
    "independent": independent,
    "identical": identical,
    "identical, far": identical_far,
    "two far clusters": two_far,
    "opposed, 100 apart": opposed,
    "Cauchy": cauchy,
    "Cauchy × 1,000": cauchy_wide,
    "zero-inflated counts": zero_inflated,
    "count residuals": count_residuals,
    "1e-30 to 1e30": magnitudes,
    "spread against tight": spread_tight,
    "geometric, 2^±40": geometric,
    "midpoints": midpoint,
    "comb": comb,
    "common offset 1e6": common_offset,
    "positive pairs 1e12 apart": positives_apart,
}


def drawn(name: str, batch: int, features: int, seed: int) -> Batch:
    """One batch of a layout; layouts are independent of each other for equal seeds."""
    rng = np.random.default_rng([seed, list(LAYOUTS).index(name), features])
    return LAYOUTS[name](rng, batch, features)
