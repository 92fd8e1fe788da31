"""Running errors of the negative binomial's prefactor in deviance form, in units of the unit roundoff.

With s = r + mu and a count b:  phi(z) = z - log(1 + z),  z1 = (b - mu) / s,  z2 = (r/s)(mu - b) / b,

    D = r phi(z1) + b phi(z2),   x^r y^b / B(r, b) = sqrt(r b / (2 pi (r + b))) exp(-D + Stirling errors)

D is a sum of two terms >= 0 made from the exact difference mu - b: nothing cancels, unlike in lgamma(r + b) -
lgamma(r) - lgamma(b) + ..., whose terms are r log r.
"""

from collections.abc import Callable

import numpy as np

from refimpl.bounds.precision import Array

# |z| up to here phi(z) is a series with terms of one magnitude; beyond, z - log(1 + z) as it stands
SERIES_LIMIT = 0.4


def quiet(function: Callable[..., Array]) -> Callable[..., Array]:
    """Let infinities and their NaN pass silently: they are replaced where a bound is put together."""

    def wrapped(*arguments: Array) -> Array:
        with np.errstate(all="ignore"):
            return function(*arguments)

    wrapped.__doc__ = function.__doc__
    wrapped.__name__ = function.__name__
    return wrapped


def _phi(z: Array, one_plus_z: Array) -> Array:
    near = np.abs(z) < 1e-3  # z^2/2 - z^3/3 + z^4/4 is right to 1e-9 here: enough to measure an error with
    return np.where(near, z * z * (0.5 - z / 3 + z * z / 4), np.maximum(z - np.log(one_plus_z), 0.0))


def _phi_error(z: Array, one_plus_z: Array) -> Array:
    """Error of phi(z) in units of u.

    z comes with 5 roundings, and z phi'(z)/phi(z) <= 2.4 for |z| <= 0.4; the series adds 5. Beyond, z counts
    its 5 roundings, the ratio 1 + z its 4, the logarithm and the subtraction one each.
    """
    phi, logarithm = _phi(z, one_plus_z), np.abs(np.log(one_plus_z))
    return np.where(np.abs(z) <= SERIES_LIMIT, 17.0 * phi, 5.0 * np.abs(z) + 4.0 + logarithm + phi)


@quiet
def deviance_error(b: Array, mu: Array, r: Array) -> Array:
    """Error of D in units of u, for b > 0: of both phi, and two roundings each of product and sum."""
    s = r + mu
    x = np.where(np.isinf(r), 1.0, r / s)
    z1, z2 = (b - mu) / s, x * (mu - b) / b
    plus1, plus2 = (r + b) / s, (mu / s) * ((r + b) / b)
    plus2 = np.where(np.isinf(r), mu / b, plus2)
    first = r * (_phi_error(z1, plus1) + 2.0 * _phi(z1, plus1))
    second = b * (_phi_error(z2, plus2) + 2.0 * _phi(z2, plus2))
    # r phi(z1) -> (b - mu)^2 / (2 s) -> 0 in the Poisson limit
    return np.where(np.isinf(r), 0.0, np.nan_to_num(first, nan=0.0)) + second


@quiet
def score_term_error(k: Array, mu: Array, r: Array) -> Array:
    """Error of phi((k - mu) / (r + mu)), the part of the score that depends on mu, in units of u."""
    s = r + mu
    return np.where(np.isinf(r), 0.0, _phi_error((k - mu) / s, (r + k) / s))


@quiet
def largest_score(b: Array, r: Array) -> Array:
    """h(r) - h(r + b) with h = log - digamma, the score's supremum over mu, to 1 % (h ~ 1/(2z) + 1/(12z^2)).

    For r < 1, h(r) = h(1 + r) + 1/r - log1p(1/r).
    """
    c = r + b
    shift = np.where(r < 1.0, 1.0, 0.0)
    a = r + shift
    extra = np.where(r < 1.0, 1.0 / r - np.log1p(1.0 / r), 0.0)
    between = (b - shift) / (2.0 * c) / a + (1.0 / a - 1.0 / c) * (1.0 / a + 1.0 / c) / 12.0
    return np.where(np.isinf(r), 0.0, np.maximum(extra + between, 0.0))
