"""The sums over arrays: every element's value and derivatives, as double-doubles to go on computing with."""

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refimpl.arithmetic import kernel, to_float
from refimpl.checks import Array, as_float64, same_shape
from refimpl.negative_binomial_sums import MAX_TERMS, log_mass, sums_or_limit
from refimpl.negative_binomial_terms import log_slope_in_mu, log_slope_in_r_without_mean
from refimpl.scaled import Scaled, normalised, sc, sc_add, sc_div, sc_mul, sc_pair

# rows of the tables that the kernels fill
ROWS = 5
F, S, MASS, SLOPE_MU, SLOPE_R = range(ROWS)
LOG_MASS, LOG_SLOPE_MU, LOG_SLOPE_R = range(3)
# two rows further on, a derivative of the log mass is kept times 2^-128: a mean of some that overflow may not
SCALED, SHIFT = 2, 128

IntArray: TypeAlias = NDArray[np.int64]
# (high parts, low parts), each of shape (rows, n): one double-double a quantity and element, whose high part
# is the rounded number
Table: TypeAlias = tuple[Array, Array]


@kernel
def _invalid(y: float, mu: float, r: float) -> bool:
    return math.isnan(y) or math.isnan(r) or not (0.0 <= mu < math.inf) or r <= 0.0


@kernel
def _fill(high: Array, i: int, f: float, s: float, mass: float, slope_mu: float) -> None:
    """One column of the distribution's table at an edge, where nothing depends on r."""
    high[F, i], high[S, i], high[MASS, i], high[SLOPE_MU, i], high[SLOPE_R, i] = f, s, mass, slope_mu, 0.0


@kernel
def fill_distribution(y: Array, mu: Array, r: Array, max_terms: int, high: Array, low: Array) -> int:
    """Fill both tables; return the index of the first element that needs too many terms, or -1."""
    for i in range(y.size):
        k = np.floor(y[i])
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
def _keep(slope: Scaled, row: int, i: int, high: Array, low: Array) -> None:
    high[row, i], low[row, i] = sc_pair(slope)
    high[row + SCALED, i], low[row + SCALED, i] = sc_pair((slope[0], slope[1], slope[2] - SHIFT))


@kernel
def fill_log_masses(y: Array, mu: Array, r: Array, max_terms: int, high: Array, low: Array) -> int:
    """Fill both tables; return the index of the first element that needs too many terms, or -1."""
    for i in range(y.size):
        k = np.floor(y[i])
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
                _keep(slope_r, LOG_SLOPE_R, i, high, low)
        else:
            log_p, slope_r, terms = log_mass(k, mu[i], r[i], max_terms)
            high[LOG_MASS, i], low[LOG_MASS, i] = sc_pair(log_p)
            _keep(log_slope_in_mu(k, mu[i], r[i]), LOG_SLOPE_MU, i, high, low)
            _keep(slope_r, LOG_SLOPE_R, i, high, low)
        if terms < 0:
            return i
    return -1


@kernel
def total(high: Array, low: Array) -> Scaled:
    """Sum of n double-doubles, free of intermediate overflow; a non-finite element makes it non-finite."""
    result = sc(0.0)
    finite = True
    for i in range(high.size):
        finite = finite and math.isfinite(high[i])
        result = sc_add(result, normalised(high[i], low[i], 0))
    return result if finite else sc(high.sum())


@kernel
def mean_of(high: Array, low: Array, divisor: float) -> float:
    """Sum / divisor, rounded once; 0 where there is nothing to add."""
    result = total(high, low)
    if high.size == 0 or not math.isfinite(result[0]):
        return result[0]
    return to_float(sc_pair(sc_div(result, sc(divisor))))


@kernel
def weighted(high: Array, low: Array, shift: IntArray, weight: Array, divisor: float) -> tuple[Array, Array]:
    """Elementwise weight x 2^shift / divisor as double-doubles; 0 where the weight is 0, whatever x is."""
    out_high, out_low = np.zeros(high.size), np.zeros(high.size)
    for i in range(high.size):
        if weight[i] != 0.0:
            if math.isfinite(high[i]) and math.isfinite(weight[i]):
                product = sc_mul(normalised(high[i], low[i], shift[i]), sc(weight[i]))
                out_high[i], out_low[i] = sc_pair(sc_div(product, sc(divisor)))
            else:
                out_high[i] = high[i] * weight[i]
    return out_high, out_low


def full(name: str, parameter: Array, y: Array) -> Array:
    """Return the flattened parameter, one number for all repeated, in the size of y.

    Raises:
        ValueError: the shapes differ.
    """
    if parameter.ndim == 0:
        return np.full(y.size, float(parameter))
    same_shape(name, parameter, "y", y)
    return parameter.reshape(-1)


def table(
    fill: Callable[..., int], y: ArrayLike, mu: ArrayLike, r: ArrayLike
) -> tuple[Table, Array, Array, Array]:
    """Fill a table; return it with y, mu and r as float64 arrays of their own shapes.

    Raises:
        ValueError: shapes differ, or an element needs more than MAX_TERMS terms.
    """
    counts, mean, size = as_float64("y", y), as_float64("mu", mu), as_float64("r", r)
    flat, flat_mean, flat_size = counts.reshape(-1), full("mu", mean, counts), full("r", size, counts)
    high, low = np.zeros((ROWS, flat.size)), np.zeros((ROWS, flat.size))
    failed = fill(flat, flat_mean, flat_size, MAX_TERMS, high, low)
    if failed >= 0:
        index = tuple(int(part) for part in np.unravel_index(failed, counts.shape))
        raise ValueError(
            f"the element at index {index} with mu={flat_mean[failed]}, r={flat_size[failed]}, "
            f"y={flat[failed]} needs more than MAX_TERMS = {MAX_TERMS} summation terms"
        )
    return (high, low), counts, mean, size


def distribution_table(y: ArrayLike, mu: ArrayLike, r: ArrayLike) -> Table:
    """F, S, mass, dF/dmu, dF/dr of the flattened elements as double-doubles, for losses that go on computing.

    Returns:
        (high, low), each of shape (5, n), rows `F`, `S`, `MASS`, `SLOPE_MU`, `SLOPE_R`.
    """
    return table(fill_distribution, y, mu, r)[0]


def log_mass_table(y: ArrayLike, mu: ArrayLike, r: ArrayLike) -> Table:
    """Like `distribution_table`: log p and its derivatives in mu and r.

    Returns:
        (high, low), each of shape (5, n), rows `LOG_MASS`, `LOG_SLOPE_MU`, `LOG_SLOPE_R`, and the two
        derivatives times 2^-`SHIFT` in rows `SCALED` further on.
    """
    return table(fill_log_masses, y, mu, r)[0]


def pulled_back_slope(
    tables: Table, row: int, weight: Array, divisor: float, shape: tuple[int, ...]
) -> Array:
    """`pulled_back` of a row of `log_mass_table`; one that overflows is divided before it is rounded."""
    high, low = tables
    # a true infinity, as at mu = 0 < y, has nothing there
    beyond = np.isinf(high[row]) & np.isfinite(high[row + SCALED]) & (high[row + SCALED] != 0.0)
    taken = tuple(np.where(beyond, part[row + SCALED], part[row]) for part in (high, low))
    return pulled_back((taken[0], taken[1]), weight, divisor, shape, np.where(beyond, SHIFT, 0))


def pulled_back(
    row: tuple[Array, Array],
    weight: Array,
    divisor: float,
    shape: tuple[int, ...],
    shift: IntArray | None = None,
) -> Array:
    """Weight times derivative / divisor in the parameter's shape: summed over the batch for a 0-dim one.

    `shift` is the power of two that an element of the row still lacks.
    """
    lacking = np.zeros(weight.size, np.int64) if shift is None else shift
    high, low = weighted(*row, lacking, weight.reshape(-1), divisor)
    if shape == ():
        return np.asarray(mean_of(high, low, 1.0))
    return np.asarray(high.reshape(shape))
