"""Error bound of the composite loss."""

import numpy as np
from numpy.typing import ArrayLike

from refimpl.bounds.magnitude import magnitude
from refimpl.bounds.precision import Bound, Precision
from refimpl.composite import checked_composite
from refimpl.composite import composite_loss as oracle


def composite_loss(values: ArrayLike, weights: ArrayLike, precision: Precision) -> Bound:
    """Bound of `composite_loss` with respect to given component values.

    Roundings: the float64 weight to the working precision (none in float64), the product, and n - 1 additions
    of the n components that count, in any order:

        value:     Σ |w L| [(1 + u)^(1 or 2) (1 + (n - 1) u) - 1] + n t, and the oracle's own rounding
        gradient:  u |w| + t for the rounded weight, 0 in float64

    with t the smallest subnormal. It follows the sizes of the terms, not the result: where components of
    opposite signs cancel, the bound stays that of their sizes.

    Unit roundoff: u = 2^-53 for float64, 2^-24 for all others.
    Roundings on the worst path: 1 of the weight (float32 only), 1 of the product, n - 1 additions.
    Condition: sum |w L| / |sum w L|.
    Accumulations: any order, tree and chunking of the n - 1 additions.

    Args:
        values: component losses, (K,), exact.
        weights: (K,).
        precision: formats of the computation.

    Returns:
        Bound with a float value and the gradient (g_values,) for cotangent 1.

    Raises:
        TypeError: as the loss.
        ValueError: as the loss.

    Example:
        >>> from refimpl.bounds.precision import precision
        >>> composite_loss([2.0, 3.0], [1.0, 0.0], precision("float64")).gradient
        (array([0., 0.]),)
    """
    exact = oracle(values, weights)
    values, weights = checked_composite(values, weights)
    u, tiny = precision.scalar_roundoff, precision.scalar_tiny
    weight_roundings = int(precision.name != "float64")
    active = (weights != 0.0) & (values != 0.0)
    terms = int(np.count_nonzero(active))
    growth = np.expm1((1 + weight_roundings) * np.log1p(u) + np.log1p(max(terms - 1, 0) * u))
    products = magnitude(values[active]) * magnitude(weights[active])
    error = products.sum().times(growth) + magnitude(terms * tiny)
    gradient = np.where(weights == 0.0, 0.0, weight_roundings * (u * np.abs(weights) + tiny))
    return Bound(precision.rounded_scalar(exact, float(error.to_float())), (gradient,))
