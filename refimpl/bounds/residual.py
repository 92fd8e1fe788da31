"""Error bounds of the residual loss."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from refimpl.bounds.magnitude import Magnitude, difference, magnitude
from refimpl.bounds.precision import Array, Bound, Precision
from refimpl.checks import as_float64, check_reduction
from refimpl.residual import checked_residual, unpack_residual
from refimpl.residual_kernels import gradient_sums, residuals

Pair: TypeAlias = tuple[Magnitude, Magnitude]  # (size of the exact number, error of the computed one)

_LARGEST = float(np.finfo(np.float64).max)


def compute_residual_mse(
    y_r1: ArrayLike,
    mu_tech_r1: ArrayLike,
    y_r2: ArrayLike,
    mu_tech_r2: ArrayLike,
    sd_ratio_r1_to_r2: ArrayLike,
    precision: Precision,
    *,
    reduction: str = "mean",
) -> Bound:
    """Bound of `compute_residual_mse`, value and gradient.

    With d1 = y1 - mu1, d2 = y2 - mu2, e = d1 - s d2 and t the smallest subnormal, the roundings are: one for
    each difference, one for the product, one for the last subtraction,

        E = ((1 + u)² - 1) |d1| + ((1 + u)³ - 1) |s d2| + t           error of e, whatever cancels
        Q = 2 |e| E + E² + u (|e| + E)² + t                           error of e²
        sum: Σ Q + (n - 1) u Σ (e² + Q)                               any order (Jeannerod and Rump 2013)
        mean: the sum's / n, and u each for the division and (n > 1/u) for the count

    Gradients: w = 2 e / n adds two roundings (reciprocal and product; none for "sum" and "none"), s w one
    more, d2 w two more, and where they are summed over the batch, (n - 1) u of the sum of their sizes. A
    product that underflows is off by t, and so is every product it is a factor of, in proportion. Half inputs
    are computed in float32 and rounded once more where the result keeps their dtype; the oracle's own
    rounding is added.

    Unit roundoff: u = 2^-53 for float64, 2^-24 for all others.
    Roundings on the worst path: 3 up to e (difference, product, subtraction), 1 of the square, n - 1
    additions, 1 or 2 of the division; in the gradient of s 3 and 4 more, and n - 1 additions.
    Condition: (|d1| + |s d2|) / |e| of an element; 1 of the sum of squares; sum |w d2| / |sum w d2| in the
    gradient of a 0-dim s.
    Accumulations: both sums over the batch in any order, tree and chunking.

    Args:
        y_r1: as for the loss.
        mu_tech_r1: as for the loss.
        y_r2: as for the loss.
        mu_tech_r2: as for the loss.
        sd_ratio_r1_to_r2: as for the loss.
        precision: formats of the computation.
        reduction: as for the loss.

    Returns:
        Bound with a float value (an array for "none") and the five gradients for cotangent 1.

    Raises:
        TypeError: as the loss.
        ValueError: as the loss.

    Example:
        >>> from refimpl.bounds.precision import precision
        >>> bound = compute_residual_mse([3.0], [1.0], [2.0], [1.0], 2.0, precision("float32"))
        >>> 0.0 < bound.value < 1e-11
        True
    """
    check_reduction(reduction)
    arrays = checked_residual(y_r1, mu_tech_r1, y_r2, mu_tech_r2, sd_ratio_r1_to_r2)
    value, parts, sums = _bounds(arrays, precision, reduction)
    g_d1, g_d2, g_s = (_elementwise(part, precision) for part in parts)
    if np.ndim(sd_ratio_r1_to_r2) == 0:
        g_s = _over_batch(parts[2], sums[2], precision)
    return Bound(value, (g_d1, g_d1.copy(), g_d2, g_d2.copy(), g_s))


def replicate_concordance_mse_loss(
    model_outputs: Mapping[str, Any], batch: Mapping[str, Any], precision: Precision, **options: Any
) -> Bound:
    """Bound of `replicate_concordance_mse_loss`: that of `compute_residual_mse`, nested like model_outputs.

    The gradient of a 0-dim mu is a sum over the batch and has that sum's bound; r has the bound 0. Unit
    roundoff, roundings, condition and accumulations are those of `compute_residual_mse`.

    Example:
        >>> from refimpl.bounds.precision import precision
        >>> outputs = {"r1": {"mu": 1.0}, "r2": {"mu": [[0.0], [0.0]]}}
        >>> batch = {"r1": {"reads": [3, 5]}, "r2": {"reads": [1, 1]}, "metadata": {"sd_ratio": 1.0}}
        >>> replicate_concordance_mse_loss(outputs, batch, precision("float32")).gradient["r2"]["mu"].shape
        (2, 1)
    """
    arrays, reduction = unpack_residual(model_outputs, batch, options)
    value, parts, sums = _bounds(arrays, precision, reduction)
    gradient = {}
    for index, replicate in enumerate(("r1", "r2")):
        shape = as_float64("mu", model_outputs[replicate]["mu"]).shape
        if shape == ():
            bound = _over_batch(parts[index], sums[index], precision)
        else:
            bound = _elementwise(parts[index], precision).reshape(shape)
        gradient[replicate] = {"mu": bound}
        if "r" in model_outputs[replicate]:
            gradient[replicate]["r"] = np.zeros(np.shape(model_outputs[replicate]["r"]))
    return Bound(value, gradient)


def _bounds(
    arrays: list[Array], precision: Precision, reduction: str
) -> tuple[float | Array, list[Pair], tuple[float, float, float]]:
    """Bound of the value; gradients with respect to (y1 - mu1, y2 - mu2, s), as pairs and as exact sums."""
    y1, mu1, y2, mu2, s = (array.ravel() for array in arrays)
    shape, count = arrays[0].shape, arrays[0].size
    u, tiny = precision.work_roundoff, magnitude(np.full(count, precision.work_tiny))
    d1, d2 = difference(y1, mu1), difference(y2, mu2)
    high, _, exponent = residuals(y1, mu1, y2, mu2, s)
    e = magnitude(high, exponent)
    error = d1.times(_growth(2, u)) + d2.times(s).times(_growth(3, u)) + tiny
    squared = e * e
    square_error = (e * error).times(2.0) + error * error + _square(e + error).times(u) + tiny

    divides = reduction == "mean" and count > 0
    divisions = 1 + int(count > 1.0 / u) if divides else 0
    share = 1.0 / count if divides else 1.0
    value: float | Array
    if reduction == "none":
        value = precision.rounded_result(
            np.minimum(squared.to_float(), _LARGEST), square_error.beside(squared)
        ).reshape(shape)
    else:
        size, total = _summed((squared, square_error), precision)
        total = _rounding((size, total), divisions, u)[1].times(share) + magnitude(precision.work_tiny)
        exact = size.times(share)
        error_sum = float(total.beside(exact))
        value = precision.rounded_scalar(min(float(exact.to_float()), _LARGEST), error_sum) if count else 0.0

    w: Pair = (e.times(2.0 * share), error.times(2.0 * share))
    w = _rounding(w, 1 + divisions if divides else 0, u)
    w = w[0], w[1] + tiny
    twice_tiny = tiny.times(2.0)  # the product may come before the factor 2 / n or after it
    by_s = (w[0].times(s), w[1].times(s) + twice_tiny)
    by_d2 = (w[0] * d2, w[1] * d2 + twice_tiny)
    pairs = [w, _rounding(by_s, 1, u), _rounding(by_d2, 2, u)]
    sums = gradient_sums(y1, mu1, y2, mu2, s, np.ones(count), count if divides else 1)
    return value, [(_reshaped(size, shape), _reshaped(off, shape)) for size, off in pairs], sums


def _growth(roundings: int, u: float) -> float:
    """(1 + u)^roundings - 1."""
    return float(np.expm1(roundings * np.log1p(u)))


def _square(x: Magnitude) -> Magnitude:
    return x * x


def _rounding(pair: Pair, roundings: int, u: float) -> Pair:
    """The pair after so many more roundings."""
    size, error = pair
    return size, error + (size + error).times(_growth(roundings, u))


def _summed(pair: Pair, precision: Precision) -> Pair:
    """Sum over all elements in any order: the errors add, and (n - 1) u of the sizes."""
    size, error = pair
    additions = max(int(np.count_nonzero(size.mantissa)) - 1, 0)
    total, total_error = size.sum(), error.sum()
    return total, total_error + (total + total_error).times(additions * precision.work_roundoff)


def _elementwise(pair: Pair, precision: Precision) -> Array:
    """Bound of elementwise gradients in their own dtype."""
    size, error = pair
    return precision.rounded_result(np.minimum(size.to_float(), _LARGEST), error.beside(size))


def _over_batch(pair: Pair, exact: float, precision: Precision) -> Array:
    """Bound of a gradient that is summed over the batch: terms may cancel, so it follows their sizes."""
    _, error = _summed(pair, precision)
    return precision.rounded_result(min(abs(exact), _LARGEST), error.to_float())


def _reshaped(x: Magnitude, shape: tuple[int, ...]) -> Magnitude:
    return Magnitude(x.mantissa.reshape(shape), x.exponent.reshape(shape))
