"""Oracle of the negative-binomial mass, distribution and survival functions and of their gradients.

Mean mu, dispersion (size) r, variance mu + mu^2/r:  F(y) = I_{r/(r+mu)}(r, floor(y)+1), S = 1 - F. Everything
is summed term by term in double-double (`refimpl.negative_binomial_sums`); F and S each have their own
relative accuracy: 1 ulp of float64.

Domain and edges, the same for every function here: y is floored; y < 0 gives F = 0 and mass 0; y = inf gives
F = 1; mu = 0 puts all mass on 0 (with the one-sided derivative in mu); r = inf is the Poisson limit. NaN
anywhere, r <= 0, mu < 0 and mu = inf give NaN at that element.

`y` has any shape; `mu` and `r` have the same shape or none (one number for all).
"""

import math

import numpy as np
from numpy.typing import ArrayLike

from refimpl.arithmetic import FLOAT64_MAX
from refimpl.checks import Array, as_float64
from refimpl.negative_binomial_tables import (
    LOG_MASS,
    LOG_SLOPE_MU,
    LOG_SLOPE_R,
    MASS,
    ROWS,
    SLOPE_MU,
    SLOPE_R,
    F,
    S,
    fill_distribution,
    fill_log_masses,
    full,
    pulled_back,
    pulled_back_slope,
    table,
)


def _weight(cotangent: ArrayLike, sign: float, y: Array) -> Array:
    return sign * full("cotangent", as_float64("cotangent", cotangent), y)


def _gradient(
    parameters: tuple[ArrayLike, ArrayLike, ArrayLike], sign: float, cotangent: ArrayLike
) -> tuple[Array, Array]:
    """Of the distribution function."""
    (high, low), y, mu, r = table(fill_distribution, *parameters)
    weight = _weight(cotangent, sign, y)
    return (
        pulled_back((high[SLOPE_MU], low[SLOPE_MU]), weight, 1.0, mu.shape),
        pulled_back((high[SLOPE_R], low[SLOPE_R]), weight, 1.0, r.shape),
    )


def negative_binomial_partials(
    y: ArrayLike, mu: ArrayLike, r: ArrayLike
) -> tuple[Array, Array, Array, Array, Array]:
    """All of one point at once: F, S = 1 - F, mass, dF/dmu, dF/dr, each in the shape of y.

    Args:
        y: counts, any shape; floored.
        mu: means, shape of y or none.
        r: dispersions, shape of y or none.

    Raises:
        ValueError: shapes differ, or an element needs more than MAX_TERMS summation terms.

    Example:
        >>> F, S, mass, slope_mu, slope_r = negative_binomial_partials([1.0], 1.0, 1.0)
        >>> F, S, mass, slope_mu
        (array([0.75]), array([0.25]), array([0.25]), array([-0.25]))
    """
    (high, _), counts, _, _ = table(fill_distribution, y, mu, r)
    f, s, mass, slope_mu, slope_r = high.reshape(ROWS, *counts.shape)
    return f, s, mass, slope_mu, slope_r


def negative_binomial_cdf(y: ArrayLike, mu: ArrayLike, r: ArrayLike) -> Array:
    """F(y) = sum_{j <= y} p_j; arguments and errors as `negative_binomial_partials`.

    Example:
        >>> negative_binomial_cdf(np.array([-1.0, 0.0, 3.7, np.inf]), 1.0, 1.0)  # geometric: 1 - 2^-(k+1)
        array([0.    , 0.5   , 0.9375, 1.    ])
    """
    return negative_binomial_partials(y, mu, r)[F]


def negative_binomial_sf(y: ArrayLike, mu: ArrayLike, r: ArrayLike) -> Array:
    """S(y) = 1 - F(y) with its own relative accuracy; arguments and errors as `negative_binomial_partials`.

    Example:
        >>> float(negative_binomial_sf(199.0, 1.0, 1.0)) == 2.0**-200
        True
    """
    return negative_binomial_partials(y, mu, r)[S]


def negative_binomial_pmf(y: ArrayLike, mu: ArrayLike, r: ArrayLike) -> Array:
    """Mass p at floor(y); arguments and errors as `negative_binomial_partials`.

    Example:
        >>> negative_binomial_pmf(np.array([0.0, 1.0, 2.0]), 1.0, 1.0)
        array([0.5  , 0.25 , 0.125])
    """
    return negative_binomial_partials(y, mu, r)[MASS]


def negative_binomial_log_pmf(y: ArrayLike, mu: ArrayLike, r: ArrayLike) -> Array:
    """Log of the mass at floor(y): finite where that underflows, -inf where it is 0; arguments as above.

    Example:
        >>> bool(negative_binomial_log_pmf(5000.0, 1.0, 1.0) == -5001 * np.log(2.0))
        True
    """
    (high, _), counts, _, _ = table(fill_log_masses, y, mu, r)
    return np.asarray(high[LOG_MASS].reshape(counts.shape))


def negative_binomial_cdf_gradient(
    y: ArrayLike, mu: ArrayLike, r: ArrayLike, cotangent: ArrayLike = 1.0
) -> tuple[Array, Array]:
    """Vector-Jacobian product of the CDF: cotangent dF/dmu and cotangent dF/dr.

    Args:
        y: counts, any shape.
        mu: means, shape of y or none.
        r: dispersions, shape of y or none.
        cotangent: shape of y or none; where it is 0 the result is 0.

    Returns:
        (g_mu, g_r) in the shapes of mu and r; a 0-dim parameter gets the sum over the batch.

    Example:
        >>> g_mu, g_r = negative_binomial_cdf_gradient([0.0, 1.0], [1.0, 1.0], 1.0)
        >>> g_mu, g_r.shape
        (array([-0.25, -0.25]), ())
    """
    return _gradient((y, mu, r), 1.0, cotangent)


def negative_binomial_sf_gradient(
    y: ArrayLike, mu: ArrayLike, r: ArrayLike, cotangent: ArrayLike = 1.0
) -> tuple[Array, Array]:
    """Vector-Jacobian product of the survival function: the negative of `negative_binomial_cdf_gradient`.

    Example:
        >>> negative_binomial_sf_gradient([0.0], [1.0], [1.0])[0]
        array([0.25])
    """
    return _gradient((y, mu, r), -1.0, cotangent)


def negative_binomial_log_pmf_gradient(
    y: ArrayLike, mu: ArrayLike, r: ArrayLike, cotangent: ArrayLike = 1.0
) -> tuple[Array, Array]:
    """Vector-Jacobian product of log p: r (k-mu) / (mu (mu+r)), and the score in r.

    Arguments, results and errors as `negative_binomial_cdf_gradient`. Where y < 0 there is no mass
    whatever the parameters are, and both are 0; at mu = 0 < y the derivative in mu is +inf.

    Example:
        >>> negative_binomial_log_pmf_gradient([3.0], [1.0], [1.0])[0]
        array([1.])
    """
    tables, counts, mean, size = table(fill_log_masses, y, mu, r)
    weight = _weight(cotangent, 1.0, counts)
    return (
        pulled_back_slope(tables, LOG_SLOPE_MU, weight, 1.0, mean.shape),
        pulled_back_slope(tables, LOG_SLOPE_R, weight, 1.0, size.shape),
    )


def negative_binomial_log_prob(y: ArrayLike, mu: ArrayLike, r: ArrayLike) -> Array:
    """`negative_binomial_log_pmf` as a loss gives it: finite for finite input.

    Where no mass is (y < 0; mu = 0 < y) the value saturates at the lowest float64; y = +-inf gives -inf.
    Arguments and errors as `negative_binomial_partials`.

    Example:
        >>> negative_binomial_log_prob([0.0, -1.0, np.inf], 0.0, 1.0)
        array([ 0.00000000e+000, -1.79769313e+308,             -inf])
    """
    log_mass = negative_binomial_log_pmf(y, mu, r)
    return np.where(np.isfinite(as_float64("y", y)), np.maximum(log_mass, -FLOAT64_MAX), log_mass)


def negative_binomial_log_prob_gradient(
    y: ArrayLike, mu: ArrayLike, r: ArrayLike, cotangent: ArrayLike = 1.0
) -> tuple[Array, Array]:
    """Vector-Jacobian product of `negative_binomial_log_prob`: that of the log mass, whatever saturates.

    Example:
        >>> negative_binomial_log_prob_gradient([3.0], [1.0], [1.0])[0]
        array([1.])
    """
    return negative_binomial_log_pmf_gradient(y, mu, r, cotangent)


def poisson_cdf(y: ArrayLike, rate: ArrayLike) -> Array:
    """Poisson CDF at floor(y): the negative binomial with r = inf.

    Example:
        >>> bool(poisson_cdf(0.0, 2.0) == np.exp(-2.0))
        True
    """
    return negative_binomial_cdf(y, rate, math.inf)


def poisson_cdf_gradient(y: ArrayLike, rate: ArrayLike, cotangent: ArrayLike = 1.0) -> tuple[Array]:
    """Vector-Jacobian product of `poisson_cdf`: (cotangent dF/drate,), and dF/drate = -p_k.

    Example:
        >>> bool(poisson_cdf_gradient([0.0], [2.0])[0][0] == -np.exp(-2.0))
        True
    """
    return (negative_binomial_cdf_gradient(y, rate, math.inf, cotangent)[0],)
