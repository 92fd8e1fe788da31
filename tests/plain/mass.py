"""Log probability of a negative binomial with mean mu and size r, and its score in r, elementwise and flat.

With s = r + mu and phi(z) = z - log(1 + z), two terms >= 0 hold all that is large:

    log p = -r phi((k - mu) / s) - k phi((r / s) (mu - k) / k) + log(r / (2 pi k (r + k))) / 2
            + the Stirling errors of r + k, less those of r and k
    d log p / dr = sum_{i < k} phi(1 / (r + i)) - phi((k - mu) / s)
"""

import numpy as np

from tests.plain.common import LONG, Long, each
from tests.plain.functions import phi, reciprocal_phi, stirling_error

MAX_TERMS = 2_000_000
IMPOSSIBLE = LONG(2) ** 16_000  # -log 0: finite, and beyond every format after any division
PI = 4 * np.arctan(LONG(1))


def log_mass(k: Long, mu: Long, r: Long) -> Long:
    """Log p at k >= 0, 0 < mu < inf, r > 0; r = inf is the Poisson distribution."""
    limit = np.isinf(r)
    count, size = np.where(k > 0, k, 1), np.where(limit, 1, r)
    total = size + mu
    share = np.where(limit, 1, size / total)
    growth = np.where(limit, 1, (size + count) / total)
    of_size = phi((count - mu) / total, growth)
    of_count = phi(share * ((mu - count) / count), mu / count * growth)
    spread = 2 * PI * count * np.where(limit, 1, (size + count) / size)
    change = np.where(limit, 0, stirling_error(size + count) - stirling_error(size))
    deviance = np.where(limit, 0, size * of_size) + count * of_count
    general = change - stirling_error(count) - deviance - np.log(spread) / 2
    return np.where(k > 0, general, np.where(limit, -mu, -size * np.log1p(mu / size)))


def harmonic(start: np.longdouble, count: int) -> Long:
    """The sums of phi(1 / (start + i)) over i < n, for n = 0 ... count; ValueError where that is too much."""
    if count > MAX_TERMS:
        raise ValueError(f"a count of {count} needs more than MAX_TERMS = {MAX_TERMS} terms")
    return np.concatenate([np.zeros(1, LONG), np.cumsum(reciprocal_phi(start + np.arange(count)))])


def score(k: Long, mu: Long, r: Long) -> Long:
    """Derivative of log p in r at finite k >= 0 and mu >= 0; 0 in the Poisson limit."""
    limit = np.isinf(r)
    size = np.where(limit, 1, r)
    total = size + mu
    rises = each(lambda n, start: harmonic(start, int(n))[-1], np.where(limit, 0, k), size)
    return np.where(limit, 0, rises - phi((k - mu) / total, (size + k) / total))
