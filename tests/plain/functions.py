"""The two functions of one number that the negative binomial needs, to the accuracy of long double."""

import numpy as np

from tests.plain.common import LONG, Long

SERIES = 0.05  # below, phi(z) = z^2 / 2 - z^3 / 3 + ...; beyond, z - log(1 + z) loses six bits at most
TERMS = 18  # 0.05^18 = 4e-24
SHIFT = 20
# B_2n / (2n (2n - 1)); the first one left out is 6e-22 at 20
STIRLING = tuple(
    LONG(top) / LONG(bottom)
    for top, bottom in (
        (1, 12),
        (-1, 360),
        (1, 1260),
        (-1, 1680),
        (1, 1188),
        (-691, 360_360),
        (1, 156),
        (-3617, 122_400),
    )
)


def phi(z: Long, ratio: Long) -> Long:
    """z - log(1 + z), given also 1 + z, which z itself may be too close to -1 to tell."""
    result = z - np.log(ratio)
    near = np.abs(z) < SERIES
    small = z[near]
    series = np.zeros_like(small)
    for n in range(TERMS + 1, 1, -1):
        series = (1 if n % 2 == 0 else -1) / LONG(n) + small * series
    result[near] = small * small * series
    return result


def reciprocal_phi(x: Long) -> Long:
    """phi(1 / x) = 1 / x - log(1 + 1 / x) for x > 0."""
    inverse = 1 / x
    return phi(inverse, 1 + inverse)


def stirling_error(x: Long) -> Long:
    """log Gamma(x) - [(x - 1/2) log x - x + log(2 pi) / 2] for x > 0.

    From x to x + 1 it falls by (x + 1/2) log(1 + 1/x) - 1; from 20 on the asymptotic series is exact enough.
    """
    near = x < SHIFT
    result = np.zeros_like(x)
    steps = x[near][:, None] + np.arange(SHIFT)
    result[near] = ((steps + 0.5) * np.log1p(1 / steps) - 1).sum(axis=1)
    inverse = 1 / np.where(near, x + SHIFT, x)
    series = np.zeros_like(x)
    for coefficient in reversed(STIRLING):
        series = coefficient + inverse * inverse * series
    return result + inverse * series
