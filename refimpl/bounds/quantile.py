"""Error bounds of the quantile loss."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refimpl.bounds.negative_binomial import distribution_errors
from refimpl.bounds.precision import Array, Bound, Precision
from refimpl.bounds.rows import Rows, pulled_back, reduced
from refimpl.checks import check_reduction
from refimpl.negative_binomial_tables import SLOPE_MU, SLOPE_R, F, S
from refimpl.quantile import REPLICATES, Replicate, compared, unpack_quantile, unpacked

Gradient = dict[str, Array]


def quantile_absolute_loss(
    model_r1: Mapping[str, Any],
    model_r2: Mapping[str, Any],
    y_r1: ArrayLike,
    y_r2: ArrayLike,
    precision: Precision,
    *,
    reduction: str = "mean",
) -> Bound:
    """Bound of `quantile_absolute_loss`, value and gradient.

    |F1 - F2| has the errors of both F (of both S where F1 + F2 > 1) and one rounding of the subtraction:

        E = e1 + e2 + u |F1 - F2|;   mean: Σ E / n, n - 1 additions in any order, the division

    Where E >= |F1 - F2| the computed sign may be the other one or 0: the gradient's bound is then |dF| (exact
    tie) or 2 |dF| more. Replicates with identical y, mu and r are a tie in any arithmetic: value and gradient
    exactly 0.

    Unit roundoff: u = 2^-53 for float64, 2^-24 for all others.
    Roundings on the worst path: those of one tail (48 + E), the subtraction, n - 1 additions, the division.
    Condition: (F1 + F2) / |F1 - F2|, or (S1 + S2) / |F1 - F2| where F1 + F2 > 1; 1 of the sum.
    Accumulations: the mean over the batch, and a 0-dim parameter's gradient, in any order and chunking.

    Args:
        model_r1: as for the loss.
        model_r2: as for the loss.
        y_r1: as for the loss.
        y_r2: as for the loss.
        precision: formats of the computation.
        reduction: as for the loss.

    Returns:
        Bound with a float value (an array for "none") and the gradients ({"mu", "r"}, {"mu", "r"}).

    Raises:
        KeyError: as the loss.
        ValueError: as the loss.

    Example:
        >>> from refimpl.bounds.precision import precision
        >>> model = {"mu": [1.0], "r": [1.0]}
        >>> quantile_absolute_loss(model, model, [2.0], [2.0], precision("float32")).value
        0.0
        >>> 0.0 < quantile_absolute_loss(model, model, [2.0], [3.0], precision("float32")).value < 1e-4
        True
    """
    check_reduction(reduction)
    value, gradients = _bounds(unpacked(model_r1, model_r2, y_r1, y_r2), precision, reduction)
    return Bound(value, tuple(gradients))


def quantile_absolute_loss_wrapper(
    model_outputs: Mapping[str, Any], batch: Mapping[str, Any], precision: Precision, **options: Any
) -> Bound:
    """Bound of `quantile_absolute_loss_wrapper`: that of the loss, nested like model_outputs.

    Unit roundoff, roundings, condition and accumulations are those of `quantile_absolute_loss`.

    Example:
        >>> from refimpl.bounds.precision import precision
        >>> outputs = {name: {"mu": [[1.0]], "r": [[1.0]]} for name in ("r1", "r2")}
        >>> batch = {"r1": {"reads": [0]}, "r2": {"reads": [1]}}
        >>> bound = quantile_absolute_loss_wrapper(outputs, batch, precision("float32"))
        >>> bound.gradient["r2"]["mu"].shape
        (1, 1)
    """
    arguments, reduction = unpack_quantile(model_outputs, batch, options)
    value, gradients = _bounds(arguments, precision, reduction)
    nested = {
        name: {key: part.reshape(np.shape(model_outputs[name][key])) for key, part in gradient.items()}
        for name, gradient in zip(REPLICATES, gradients, strict=True)
    }
    return Bound(value, nested)


def _identical(arguments: list[Replicate]) -> NDArray[np.bool_]:
    """Whether both replicates hold the same count, mean and dispersion."""
    (y1, mu1, r1), (y2, mu2, r2) = arguments
    same = (np.floor(y1) == np.floor(y2)) & (mu1 == mu2) & (r1 == r2)
    return np.asarray(np.broadcast_to(same, y1.shape)).reshape(-1)


def _bounds(
    arguments: list[Replicate], precision: Precision, reduction: str
) -> tuple[float | Array, list[Gradient]]:
    rows = [distribution_errors(*replicate, precision) for replicate in arguments]
    _, high, low, sign = compared(arguments)
    size = np.nan_to_num(high + low, nan=0.0)
    low_side = rows[0].exact[F] + rows[1].exact[F] <= 1.0
    ends = sum(np.where(low_side, part.error[F], part.error[S]) for part in rows)
    identical = _identical(arguments)
    error = np.where(identical, 0.0, ends + precision.work_roundoff * size)
    divisor = float(size.size) if reduction == "mean" and size.size else 1.0
    value: float | Array
    if reduction == "none":
        value = precision.rounded_result(size, error).reshape(arguments[0][0].shape)
    else:
        value = 0.0 if identical.all() else reduced(size, error, divisor, precision)
    uncertain = ~identical & (error >= size)
    gradients = [
        {
            key: _slope(part, row, sign, uncertain, divisor, parameter.shape, precision)
            for key, row, parameter in (("mu", SLOPE_MU, mu), ("r", SLOPE_R, r))
        }
        for part, (_, mu, r) in zip(rows, arguments, strict=True)
    ]
    return value, gradients


def _slope(
    part: Rows,
    row: int,
    sign: Array,
    uncertain: NDArray[np.bool_],
    divisor: float,
    shape: tuple[int, ...],
    precision: Precision,
) -> Array:
    """Bound of sign dF / divisor: dF's own error, and as much as the sign may be off."""
    slope, error = np.nan_to_num(np.abs(part.exact[row]), nan=0.0), part.error[row]
    tie = sign == 0.0
    own = np.where(tie & ~uncertain, 0.0, error) + np.where(uncertain, np.where(tie, 1.0, 2.0) * slope, 0.0)
    size = np.where(tie, 0.0, slope) / max(divisor, 1.0)
    own = own / max(divisor, 1.0)
    return pulled_back(size, own, shape, precision, weighted=divisor != 1.0)
