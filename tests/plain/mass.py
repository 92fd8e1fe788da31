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


def surprise(y: Long, mu: Long, r: Long) -> Long:
    """-log p; beyond every format where p is 0, inf where y is infinite."""
    k = np.floor(y)
    valid, possible = _domain(k, mu, r)
    result = np.where(valid, IMPOSSIBLE, np.nan)
    result[valid & (k == 0) & (mu == 0)] = 0
    result[valid & np.isinf(k)] = np.inf
    result[possible] = -log_mass(k[possible], mu[possible], r[possible])
    return result


def slopes(y: Long, mu: Long, r: Long) -> tuple[Long, Long]:
    """Derivatives of -log p in mu and in r."""
    k = np.floor(y)
    valid, possible = _domain(k, mu, r)
    slope_mu, slope_r = (np.where(valid, LONG(0), np.nan) for _ in range(2))
    endless = valid & np.isposinf(k)
    slope_mu[endless], slope_r[endless & np.isfinite(r)] = -np.inf, np.inf
    counted = valid & np.isfinite(k) & (k >= 0)
    slope_r[counted] = -score(k[counted], mu[counted], r[counted])
    without = counted & (mu == 0)
    slope_mu[without] = np.where(k[without] > 0, -np.inf, 1)
    share = np.where(np.isinf(r), 1, r / (r + mu))
    slope_mu[possible] = (share * ((mu - k) / mu))[possible]
    return slope_mu, slope_r


def _domain(k: Long, mu: Long, r: Long) -> tuple[np.ndarray, np.ndarray]:
    """Where the arguments are valid, and where the probability is positive for 0 < mu."""
    valid = ~np.isnan(k) & (mu >= 0) & np.isfinite(mu) & (r > 0)
    return valid, valid & (k >= 0) & np.isfinite(k) & (mu > 0)
