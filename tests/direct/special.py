"""z - log(1 + z), the Stirling error and the score of the dispersion, from additions and library functions.

All in the precision of the arguments. No special function of a wider format is called: what Stirling's series
does not reach is summed up to where it does, in terms of one sign.
"""

import numpy as np

SHIFT = 16  # from here on the series below are right to float64
STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)
LOG_MINUS_DIGAMMA = (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12)


def phi(z, one_plus_z, logarithm=None):
    """z - log(1 + z), by series for |z| <= 0.4; 1 + z or its logarithm is given, without cancellation."""
    logarithm = np.log(one_plus_z) if logarithm is None else logarithm
    w = z / (2 + z)
    square, series = w * w, np.zeros_like(z)
    for j in range(19, -1, -1):
        series = z.dtype.type(1 / (2 * j + 3)) + square * series
    return np.where(np.abs(z) <= 0.4, z * w - 2 * w * square * series, z - logarithm)


def _steps(z, count):
    """z, z + 1, ... in rows, and which of them count."""
    j = np.arange(SHIFT, dtype=z.dtype)
    return z[:, None] + j, j < np.asarray(count, z.dtype)[:, None]


def stirling_error(z):
    """log Gamma(z) - (z - 1/2) log z + z - log(2 pi) / 2 for z >= 1."""
    w, used = _steps(z, np.where(z < SHIFT, SHIFT, 0))
    square = 1 / (2 * w + 1) ** 2
    terms = np.zeros_like(w)
    for j in range(17, 0, -1):  # (w + 1/2) log(1 + 1/w) - 1 = v²/3 + v⁴/5 + ..., v = 1 / (2 w + 1)
        terms = square * (z.dtype.type(1 / (2 * j + 1)) + terms)
    end = np.where(z < SHIFT, z + SHIFT, z)
    series = np.zeros_like(z)
    for coefficient in reversed(STIRLING):
        series = z.dtype.type(coefficient) + series / end / end
    return np.where(used, terms, 0).sum(axis=1, dtype=z.dtype) + series / end


def log_root(r, divisor):
    """log of sqrt(r / divisor) e^(-Stirling error of r); a large r is divided first: logarithms cancel."""
    small = np.where(r < 1, r, 1)
    large = np.where(r < 1, 1, r)
    rest = 1 - small * (np.log1p(small) - np.log(small)) - stirling_error(1 + small)
    low = np.log(small) - np.log1p(small) / 2 + rest - np.log(divisor) / 2
    return np.where(r < 1, low, np.log(large / divisor) / 2 - stirling_error(large))


def root(r):
    """sqrt(r) e^(-Stirling error of r)."""
    small = np.where(r < 1, r, 1)
    large = np.where(r < 1, 1, r)
    rest = 1 - small * (np.log1p(small) - np.log(small)) - stirling_error(1 + small)
    return np.where(
        r < 1, small / np.sqrt(1 + small) * np.exp(rest), np.sqrt(large) * np.exp(-stirling_error(large))
    )


def _score_step(w):
    """1/w - log(1 + 1/w): with v = 1 / (2 w + 1) it is v/w - 2 (v³/3 + v⁵/5 + ...) where that is short."""
    v = 1 / (2 * w + 1)
    square, series = v * v, np.zeros_like(w)
    for j in range(26, -1, -1):
        series = w.dtype.type(1 / (2 * j + 3)) + square * series
    return np.where(w < 0.5, 1 / w - np.log1p(1 / w), v / w - 2 * v * square * series)


def largest_score(b, r):
    """h(r) - h(r + b) with h = log - digamma, b an integer: terms of one sign, nothing cancels."""
    below = np.where(r < SHIFT, np.minimum(b, SHIFT), 0)
    w, used = _steps(r, below)
    terms = np.where(used, _score_step(w), 0)
    z, c, gap = r + below, r + b, b - below
    p, q = 1 / z, 1 / c
    step = gap * p * q  # p - q
    squares_p, squares_q, power = p * p, q * q, np.ones_like(p)
    divided = np.zeros_like(p)
    quotient = np.zeros_like(p)  # (P^m - Q^m) / (P - Q) of the squares
    for coefficient in LOG_MINUS_DIGAMMA:
        quotient = squares_p * quotient + power
        power = power * squares_q
        divided = divided + p.dtype.type(coefficient) * quotient
    return terms.sum(axis=1, dtype=r.dtype) + step * (0.5 + (p + q) * divided)
