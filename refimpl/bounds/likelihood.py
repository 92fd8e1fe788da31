"""Error bounds of the negative log-likelihood."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from refimpl.bounds.log_mass import log_mass_errors
from refimpl.bounds.precision import Array, Bound, Precision
from refimpl.bounds.rows import Rows, divided, pulled_back, reduced
from refimpl.checks import check_reduction
from refimpl.likelihood import unpack_likelihood
from refimpl.negative_binomial_tables import LOG_MASS, LOG_SLOPE_MU, LOG_SLOPE_R
from refimpl.quantile import REPLICATES


def nll_loss(
    model_outputs: Mapping[str, Any],
    batch: Mapping[str, Any],
    precision: Precision,
    *,
    reduction: str = "mean",
) -> Bound:
    """Bound of `nll_loss`, value and gradient.

    The errors of log p are those of its deviance form (`refimpl.bounds.log_mass`): relative to
    -log p itself, where lgamma(k + r) - lgamma(r) - lgamma(k + 1) + ... loses u (k + r) log(k + r). A mean
    adds its n - 1 additions in any order and the division, two replicates one addition and an exact halving.

    Unit roundoff: u = 2^-53 for float64, 2^-24 for all others.
    Roundings on the worst path: those of one log mass (E + 7 G + 11), n - 1 additions, the division, one
    addition of the replicates.
    Condition: (E + 7 G) / |log p| of an element; the sum follows the sizes of its terms.
    Accumulations: the mean over the batch, and a 0-dim parameter's gradient, in any order and chunking.

    Args:
        model_outputs: as for the loss.
        batch: as for the loss.
        precision: formats of the computation.
        reduction: as for the loss.

    Returns:
        Bound with a float value (an array for "none"), and gradients nested like model_outputs.

    Raises:
        KeyError: as the loss.
        ValueError: as the loss.

    Example:
        >>> from refimpl.bounds.precision import precision
        >>> outputs, batch = {"mu": [1e4], "r": [1e4]}, {"reads": [10_000]}
        >>> 0.0 < nll_loss(outputs, batch, precision("float32")).value < 1e-5  # u r log r would be 5e-3
        True
    """
    check_reduction(reduction)
    replicates = unpack_likelihood(model_outputs, batch, reduction)
    rows = [log_mass_errors(*replicate, precision) for replicate in replicates]
    gradients = []
    for part, (y, mu, r) in zip(rows, replicates, strict=True):
        divisor = float(len(rows) * (y.size if reduction == "mean" and y.size else 1))
        gradients.append(
            {
                key: pulled_back(
                    *divided(part, row, divisor), parameter.shape, precision, weighted=divisor != 1.0
                )
                for key, row, parameter in (("mu", LOG_SLOPE_MU, mu), ("r", LOG_SLOPE_R, r))
            }
        )
    sources = [model_outputs] if len(rows) == 1 else [model_outputs[name] for name in REPLICATES]
    for gradient, source in zip(gradients, sources, strict=True):
        for key in gradient:
            gradient[key] = gradient[key].reshape(np.shape(source[key]))
    nested = gradients[0] if len(rows) == 1 else dict(zip(REPLICATES, gradients, strict=True))
    return Bound(_value(rows, replicates[0][0].shape, reduction, precision), nested)


def _value(rows: list[Rows], shape: tuple[int, ...], reduction: str, precision: Precision) -> float | Array:
    share = 1.0 / len(rows)
    sizes = [np.where(np.isfinite(part.exact[LOG_MASS]), np.abs(part.exact[LOG_MASS]), 0.0) for part in rows]
    errors = [part.error[LOG_MASS] for part in rows]
    if reduction == "none":
        size = sum((share * size for size in sizes), np.zeros(sizes[0].shape))
        error = sum((share * error for error in errors), np.zeros(sizes[0].shape))
        if len(rows) == 2:
            error = error + precision.work_roundoff * (size + error)
        return precision.rounded_result(size, error).reshape(shape)
    divisors = [float(size.size) if reduction == "mean" and size.size else 1.0 for size in sizes]
    parts = [
        reduced(size, error, divisor, precision)
        for size, error, divisor in zip(sizes, errors, divisors, strict=True)
    ]
    if len(rows) == 1:
        return parts[0]
    middle = sum(share * (size / divisor).sum() for size, divisor in zip(sizes, divisors, strict=True))
    return float(share * sum(parts) + precision.scalar_roundoff * middle)
