"""Error bounds of the masked losses."""

import numpy as np
from numpy.typing import ArrayLike

from refimpl.bounds.precision import Array, Bound, Precision, gamma
from refimpl.checks import as_float64, check_mask
from refimpl.masked import masked_sse as oracle
from refimpl.masked import masked_sse_gradient as oracle_gradient

_LARGEST = np.finfo(np.float64).max


def masked_sse(
    x_recon: ArrayLike,
    x: ArrayLike,
    mask: ArrayLike,
    precision: Precision,
    *,
    reduction: str = "batch_mean",
) -> Bound:
    """Bound of `masked_sse`, value and gradient.

    Roundings of one element: the subtraction counts twice in the square, the square once:
    e²(1 + θ), |θ| <= γ3. All terms are positive, so a sum of n non-zero ones in any order adds the relative
    error (n - 1) u (Jeannerod and Rump 2013, no restriction on n). A division by the count adds u, the count
    itself u where it needs more than the working mantissa.

        value:     S [(1 + γ3) (1 + (n - 1) u) (1 + u)^k - 1],  k = 0 for "sum", 1 or 2 else
        "none":    γ3 e²
        gradient:  |g| γ1 for the subtraction, |g| γ3 or γ4 where a count divides (reciprocal, product, count)

    Each product or quotient may underflow by half the smallest subnormal, n squares before the division.
    Half inputs are computed in float32 and rounded once more where the result keeps their dtype; the oracle's
    own rounding is added. Zero terms and visible positions are exact: their bound is 0.

    Unit roundoff: u = 2^-53 for float64, 2^-24 for all others.
    Roundings on the worst path: 3 of an element, n - 1 additions, 1 or 2 of the division.
    Condition: 1. Inputs are exact, so a cancelling difference loses nothing, and all terms are positive.
    Accumulations: any order, tree and chunking of the n - 1 additions.

    Args:
        x_recon: as for the loss.
        x: as for the loss.
        mask: as for the loss.
        precision: formats of the computation.
        reduction: as for the loss.

    Returns:
        Bound with a float value (an array for "none") and the gradient (g_x_recon, g_x) for cotangent 1.

    Raises:
        TypeError: as the loss.
        ValueError: as the loss.

    Example:
        >>> from refimpl.bounds.precision import precision
        >>> bound = masked_sse([[3.0]], [[1.0]], [[True]], precision("float32"), reduction="sum")
        >>> 0.9 < bound.value / (3 * 2.0**-24 * 4.0) < 1.1
        True
    """
    exact = oracle(x_recon, x, mask, reduction=reduction)
    gradient = oracle_gradient(x_recon, x, mask, reduction=reduction)[0]
    counted = check_mask("mask", mask)
    active = counted & (as_float64("x_recon", x_recon) != as_float64("x", x))
    terms = int(np.count_nonzero(active))
    divisor = {"mean": int(counted.sum()), "batch_mean": len(counted) if counted.ndim else 1}.get(
        reduction, 1
    )
    divisions = 0 if reduction in {"sum", "none"} else 1 + _count_roundings(divisor, precision)

    if reduction == "none":
        value: float | Array = _elementwise(exact, active, 3, precision)
    elif terms == 0:
        value = 0.0
    else:
        u = precision.work_roundoff
        factors = np.array([np.log1p(gamma(3, u)), np.log1p((terms - 1) * u), divisions * np.log1p(u)])
        underflow = (terms / divisor + 1.0 + divisions) * precision.work_tiny
        error = float(np.expm1(factors.sum()) * np.float64(exact) + underflow)
        value = precision.rounded_scalar(float(exact), error)
    element = _elementwise(gradient, active, 2 + divisions if divisions else 1, precision)
    return Bound(value, (element, element.copy()))


def masked_mse(
    x_recon: ArrayLike, x: ArrayLike, mask: ArrayLike, precision: Precision, *, reduction: str = "mean"
) -> Bound:
    """Bound of `masked_mse`: `masked_sse` with the default reduction "mean".

    Unit roundoff, roundings, condition and accumulations are those of `masked_sse`.

    Example:
        >>> from refimpl.bounds.precision import precision
        >>> masked_mse([3.0, 1.0], [3.0, 0.0], [True, False], precision("float64")).value
        0.0
    """
    return masked_sse(x_recon, x, mask, precision, reduction=reduction)


def _count_roundings(count: int, precision: Precision) -> int:
    """1 where an integer count may not fit into the working mantissa, else 0."""
    return int(count > 1.0 / precision.work_roundoff)


def _elementwise(exact: ArrayLike, active: ArrayLike, roundings: int, precision: Precision) -> Array:
    """Bound of elements with that many roundings, then rounded to the result's dtype; 0 where not active."""
    size = np.minimum(np.abs(np.asarray(exact, np.float64)), _LARGEST)
    error = gamma(roundings, precision.work_roundoff) * size + precision.work_tiny
    return np.where(active, precision.rounded_result(size, error), 0.0)
