"""Oracle of the negative-binomial mass, distribution and survival functions and of their gradients.

Mean mu, dispersion (size) r, variance mu + mu^2/r:  F(y) = I_{r/(r+mu)}(r, floor(y)+1), S = 1 - F. Everything
is summed term by term in double-double (`refimpl.negative_binomial_sums`); F and S each have their own relative
accuracy: 1 ulp of float64.

Domain and edges, the same for every function here: y is floored; y < 0 gives F = 0 and mass 0; y = inf gives
F = 1; mu = 0 puts all mass on 0 (with the one-sided derivative in mu); r = inf is the Poisson limit. NaN
anywhere, r <= 0, mu < 0 and mu = inf give NaN at that element.

`y` has any shape; `mu` and `r` have the same shape or none (one number for all).
"""

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from refimpl.arithmetic import DoubleDouble, dd_add, dd_mul, kernel, to_float
from refimpl.checks import Array, as_float64, same_shape
from refimpl.negative_binomial_sums import (
    MAX_TERMS,
    log_mass,
    log_slope_in_mu,
    log_slope_in_r_without_mean,
    sums_or_limit,
)
from refimpl.scaled import sc_pair

# rows of the tables that the kernels fill
F, S, MASS, SLOPE_MU, SLOPE_R = range(5)
LOG_MASS, LOG_SLOPE_MU, LOG_SLOPE_R = range(3)

# (high parts, low parts), each of shape (rows, n): one double-double a quantity and element
Table: TypeAlias = tuple[Array, Array]


@kernel
def _invalid(y: float, mu: float, r: float) -> bool:
    return math.isnan(y) or math.isnan(r) or not (0.0 <= mu < math.inf) or r <= 0.0


@kernel
def _fill(high: Array, i: int, f: float, s: float, mass: float, slope_mu: float) -> None:
    high[F, i], high[S, i], high[MASS, i], high[SLOPE_MU, i], high[SLOPE_R, i] = f, s, mass, slope_mu, 0.0


@kernel
def _distribution(y: Array, mu: Array, r: Array, max_terms: int, high: Array, low: Array) -> int:
    """Fill both tables; return the index of the first element that needs too many terms, or -1."""
    for i in range(y.size):
        k = math.floor(y[i]) if math.isfinite(y[i]) else y[i]
        if _invalid(y[i], mu[i], r[i]):
            high[:, i] = math.nan
        elif k < 0.0:
            _fill(high, i, 0.0, 1.0, 0.0, 0.0)
        elif math.isinf(k):
            _fill(high, i, 1.0, 0.0, 0.0, 0.0)
        elif mu[i] == 0.0:
            at_zero = 1.0 if k == 0.0 else 0.0
            _fill(high, i, 1.0, 0.0, at_zero, -at_zero)
        else:
            result = sums_or_limit(k, mu[i], r[i], max_terms)
            if result[6] < 0:
                return i
            high[F, i], low[F, i] = sc_pair(result[0])
            high[S, i], low[S, i] = sc_pair(result[1])
            high[MASS, i], low[MASS, i] = sc_pair(result[2])
            high[SLOPE_MU, i], low[SLOPE_MU, i] = sc_pair(result[3])
            high[SLOPE_R, i], low[SLOPE_R, i] = sc_pair(result[4])
    return -1


@kernel
def _log_masses(y: Array, mu: Array, r: Array, max_terms: int, high: Array, low: Array) -> int:
    """Fill both tables; return the index of the first element that needs too many terms, or -1."""
    for i in range(y.size):
        k = math.floor(y[i]) if math.isfinite(y[i]) else y[i]
        terms = 1
        if _invalid(y[i], mu[i], r[i]):
            high[:, i] = math.nan
        elif k < 0.0:  # no mass whatever mu and r are
            high[LOG_MASS, i] = -math.inf
        elif math.isinf(k):
            high[LOG_MASS, i], high[LOG_SLOPE_MU, i] = -math.inf, math.inf
            high[LOG_SLOPE_R, i] = 0.0 if math.isinf(r[i]) else -math.inf
        elif mu[i] == 0.0:
            poisson = math.isinf(r[i])
            high[LOG_MASS, i], high[LOG_SLOPE_MU, i] = (0.0, -1.0) if k == 0.0 else (-math.inf, math.inf)
            if k > 0.0 and not poisson:
                slope_r, terms = log_slope_in_r_without_mean(k, r[i], max_terms)
                high[LOG_SLOPE_R, i], low[LOG_SLOPE_R, i] = sc_pair(slope_r)
        else:
            log_p, slope_r, terms = log_mass(k, mu[i], r[i], max_terms)
            high[LOG_MASS, i], low[LOG_MASS, i] = sc_pair(log_p)
            high[LOG_SLOPE_MU, i], low[LOG_SLOPE_MU, i] = sc_pair(log_slope_in_mu(k, mu[i], r[i]))
            high[LOG_SLOPE_R, i], low[LOG_SLOPE_R, i] = sc_pair(slope_r)
        if terms < 0:
            return i
    return -1


@kernel
def _times(high: Array, low: Array, factor: Array, out_high: Array, out_low: Array) -> None:
    """Elementwise products with a float64 factor; 0 where the factor is 0, whatever it multiplies."""
    for i in range(high.size):
        if factor[i] != 0.0:
            out_high[i], out_low[i] = dd_mul((high[i], low[i]), (factor[i], 0.0))


@kernel
def total(high: Array, low: Array) -> DoubleDouble:
    """Sum of n double-doubles."""
    result = (0.0, 0.0)
    for i in range(high.size):
        result = dd_add(result, (high[i], low[i]))
    return result


def _full(name: str, parameter: Array, y: Array) -> Array:
    if parameter.ndim == 0:
        return np.full(y.size, float(parameter))
    same_shape(name, parameter, "y", y)
    return parameter.reshape(-1)


def _table(
    fill: Callable[..., int], rows: int, y: ArrayLike, mu: ArrayLike, r: ArrayLike
) -> tuple[Table, Array, Array, Array]:
    counts, mean, size = as_float64("y", y), as_float64("mu", mu), as_float64("r", r)
    flat, flat_mean, flat_size = counts.reshape(-1), _full("mu", mean, counts), _full("r", size, counts)
    high, low = np.zeros((rows, flat.size)), np.zeros((rows, flat.size))
    failed = fill(flat, flat_mean, flat_size, MAX_TERMS, high, low)
    if failed >= 0:
        index = tuple(int(part) for part in np.unravel_index(failed, counts.shape))
        raise ValueError(
            f"the element at index {index} with mu={flat_mean[failed]!r}, r={flat_size[failed]!r}, "
            f"y={flat[failed]!r} needs more than MAX_TERMS = {MAX_TERMS} summation terms"
        )
    return (high, low), counts, mean, size


def distribution_table(y: ArrayLike, mu: ArrayLike, r: ArrayLike) -> Table:
    """F, S, mass, dF/dmu, dF/dr of the flattened elements as double-doubles, for losses that go on computing.

    Returns:
        (high, low), each of shape (5, n), rows `F`, `S`, `MASS`, `SLOPE_MU`, `SLOPE_R`.
    """
    return _table(_distribution, 5, y, mu, r)[0]


def log_mass_table(y: ArrayLike, mu: ArrayLike, r: ArrayLike) -> Table:
    """log p and its derivatives in mu and r, like `distribution_table`, with 3 rows.

    Returns:
        (high, low), each of shape (3, n), rows `LOG_MASS`, `LOG_SLOPE_MU`, `LOG_SLOPE_R`.
    """
    return _table(_log_masses, 3, y, mu, r)[0]


def _pulled_back(high: Array, low: Array, cotangent: Array, shape: tuple[int, ...]) -> Array:
    """Cotangent times derivative, in the parameter's shape: summed over the batch for a 0-dim parameter."""
    product_high, product_low = np.zeros(high.shape), np.zeros(high.shape)
    _times(high, low, cotangent, product_high, product_low)
    if shape == () and cotangent.size != 1:
        return np.asarray(to_float(total(product_high, product_low)))
    return (product_high + product_low).reshape(shape)


def _gradient(
    fill: Callable[..., int],
    rows: tuple[int, int, int],
    sign: float,
    y: ArrayLike,
    mu: ArrayLike,
    r: ArrayLike,
    cotangent: ArrayLike,
) -> tuple[Array, Array]:
    (high, low), counts, mean, size = _table(fill, rows[0], y, mu, r)
    incoming = as_float64("cotangent", cotangent)
    incoming = sign * _full("cotangent", incoming, counts)
    row_mu, row_r = rows[1], rows[2]
    return (
        _pulled_back(high[row_mu], low[row_mu], incoming, mean.shape),
        _pulled_back(high[row_r], low[row_r], incoming, size.shape),
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
    (high, low), counts, _, _ = _table(_distribution, 5, y, mu, r)
    f, s, mass, slope_mu, slope_r = (high + low).reshape(5, *counts.shape)
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
    """log p at floor(y), -inf where p = 0; finite where p underflows. Arguments and errors as above.

    Example:
        >>> bool(negative_binomial_log_pmf(5000.0, 1.0, 1.0) == -5001 * np.log(2.0))
        True
    """
    (high, low), counts, _, _ = _table(_log_masses, 3, y, mu, r)
    return np.asarray((high + low)[LOG_MASS].reshape(counts.shape))


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
    return _gradient(_distribution, (5, SLOPE_MU, SLOPE_R), 1.0, y, mu, r, cotangent)


def negative_binomial_sf_gradient(
    y: ArrayLike, mu: ArrayLike, r: ArrayLike, cotangent: ArrayLike = 1.0
) -> tuple[Array, Array]:
    """Vector-Jacobian product of the survival function: the negative of `negative_binomial_cdf_gradient`.

    Example:
        >>> negative_binomial_sf_gradient([0.0], [1.0], [1.0])[0]
        array([0.25])
    """
    return _gradient(_distribution, (5, SLOPE_MU, SLOPE_R), -1.0, y, mu, r, cotangent)


def negative_binomial_log_pmf_gradient(
    y: ArrayLike, mu: ArrayLike, r: ArrayLike, cotangent: ArrayLike = 1.0
) -> tuple[Array, Array]:
    """Vector-Jacobian product of log p: r (k-mu) / (mu (mu+r)), and the score in r.

    Arguments, results and errors as `negative_binomial_cdf_gradient`. Where y < 0 there is no mass whatever the
    parameters are, and both are 0; at mu = 0 < y the derivative in mu is +inf.

    Example:
        >>> negative_binomial_log_pmf_gradient([3.0], [1.0], [1.0])[0]
        array([1.])
    """
    return _gradient(_log_masses, (3, LOG_SLOPE_MU, LOG_SLOPE_R), 1.0, y, mu, r, cotangent)


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
