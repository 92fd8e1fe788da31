"""Running errors of the negative binomial's prefactor in deviance form, by the unit roundoff u.

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
_LARGEST = float(np.finfo(np.float64).max)


def quiet(function: Callable[..., Array]) -> Callable[..., Array]:
    """Let infinities and their NaN pass silently: they are replaced where a bound is put together."""

    def wrapped(*arguments: Array) -> Array:
        with np.errstate(all="ignore"):
            return function(*arguments)

    wrapped.__doc__ = function.__doc__
    wrapped.__name__ = function.__name__
    return wrapped


def _phi(z: Array, log_one_plus_z: Array) -> Array:
    near = np.abs(z) < 1e-3  # z^2/2 - z^3/3 + z^4/4 is right to 1e-9 here: enough to measure an error with
    return np.where(near, z * z * (0.5 - z / 3 + z * z / 4), np.maximum(z - log_one_plus_z, 0.0))


def _phi_error(z: Array, log_one_plus_z: Array) -> Array:
    """Error of phi(z) in units of u.

    z comes with 5 roundings, and z phi'(z)/phi(z) <= 2.4 for |z| <= 0.4; the series adds 5. Beyond, z counts
    its 5 roundings, the ratio 1 + z its 4, the logarithm and the subtraction one each.
    """
    phi, logarithm = _phi(z, log_one_plus_z), np.abs(log_one_plus_z)
    return np.where(np.abs(z) <= SERIES_LIMIT, 17.0 * phi, 5.0 * np.abs(z) + 4.0 + logarithm + phi)


@quiet
def deviance_error(b: Array, mu: Array, r: Array, u: float) -> Array:
    """Error of D for b > 0: of both phi, and two roundings each of product and sum.

    The logarithms of quotients are differences of logarithms here: the quotient may underflow where D counts.
    """
    scale = _scale(mu, r)
    b, mu, r = b * scale, mu * scale, r * scale  # D is homogeneous
    s, poisson = r + mu, np.isinf(r)
    x = np.where(poisson, 1.0, r / s)
    z1, z2 = (b - mu) / s, x * ((mu - b) / b)
    beyond = np.abs(z1) > 1e300  # s is subnormal: r z1 is in range, and phi(z1) = z1
    z1 = np.where(beyond, 0.0, z1)
    plus1 = np.log(r + b) - np.log(s)
    plus2 = np.log(mu) - np.log(b) + np.where(poisson, 0.0, plus1)
    first = r * (_phi_error(z1, plus1) + 2.0 * _phi(z1, plus1))
    first = np.where(beyond, 8.0 * x * np.abs(b - mu), first)
    second = b * (_phi_error(z2, plus2) + 2.0 * _phi(z2, plus2))
    # r phi(z1) -> (b - mu)^2 / (2 s) -> 0 in the Poisson limit
    return u * (np.where(poisson, 0.0, first) + second) / scale


def _scale(mu: Array, r: Array) -> Array:
    """A power of two that keeps mu + r in range."""
    return np.where(np.maximum(mu, np.where(np.isinf(r), 0.0, r)) > 2.0**1000, 2.0**-4, 1.0)


@quiet
def score_term_error(k: Array, mu: Array, r: Array) -> Array:
    """Error of phi((k - mu) / (r + mu)), the part of the score that depends on mu, in units of u; mu >= 0."""
    scale = _scale(mu, r)
    k, mu, r = k * scale, mu * scale, r * scale
    s = r + mu
    return np.where(np.isinf(r), 0.0, _phi_error((k - mu) / s, np.log(r + k) - np.log(s)))


@quiet
def largest_score(b: Array, r: Array) -> Array:
    """h(r) - h(r + b) with h = log - digamma, the score's supremum over mu, to 1 % (h ~ 1/(2z) + 1/(12z^2)).

    For r < 1, h(r) = h(1 + r) + 1/r - log1p(1/r).
    """
    c = r + b
    shift = np.where(r < 1.0, 1.0, 0.0)
    a = r + shift
    inverse = np.minimum(1.0 / r, _LARGEST)
    extra = np.where(r < 1.0, inverse - np.log1p(inverse), 0.0)
    between = (b - shift) / (2.0 * c) / a + (1.0 / a - 1.0 / c) * (1.0 / a + 1.0 / c) / 12.0
    return np.where(np.isinf(r), 0.0, np.maximum(extra + between, 0.0))
