"""Error bounds of InfoNCE between replicates.

With u the working roundoff, t its smallest subnormal, a_ij = d_ij / tau, z_ij = a_ii - a_ij and e_i the
exponent log eps + a_ii of the eps term, a straightforward evaluation (differences squared and summed, log
domain) rounds

    a_ij:  difference (twice in the square), square, D - 1 additions, tau, division: gamma(D + 4) a_ij; the
           underflow of D squares and the quotient, (D + 1) t max(1, 1 / tau)
    z_ij:  the errors of a_ii and a_ij, u |z_ij| for their difference, u |z_ij - m_i| for the shift by the
           largest exponent m_i >= 0
    e_i:   the error of a_ii, (4 + 1) u |log eps|, u (|e_i| + |e_i - m_i|)

and each exponential 4 u. The sum adds (B + 1) u. Call the total of these delta_ij. The positive's own term is
exp(0) = 1, exact while m_i = 0. A logarithm of a sum of positive terms with shares p moves by at most
log(sum_j p_ij exp(delta_ij)): tiny losses, log1p of a small rest, keep their relative accuracy, because the
exact 1 has delta = 0. Logarithm and last addition add 5 u L_i.

Gradients: p_ij is in error by p_ij (exp(eta) - 1), eta = delta_ij + (error of L_i) + u (4 + |log p_ij|), at
most by 1;

    g_x_i:  2 / (B tau) {sum_j [error of p_ij + gamma(B + 8) p'_ij] |x_i - y_j| + gamma(B + 8) |x_i - y_i|}
    g_y_j:  the same with the sum over i, p'_ij = p_ij + error of p_ij what the computed share may be,

for differences, products, B additions, the last subtraction and the factor 2 / (B tau). What underflows adds
(B + 2) t max(1, 2 / (B tau)). Where B differences could overflow an evaluation may shrink everything by a
power of two, with two bits to spare: beside numbers next to the largest, t is larger by 32 B max|x, y| over
the largest finite number. The expansion x^2 + y^2 - 2 x y has errors of u x^2 / tau instead of u d / tau, and
is outside at a common offset.

The wrapper's residuals reads - mu are rounded once, u |residual|, and counts that the working precision
cannot hold once more; both move the coordinates and go through the same formulas.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from numpy.typing import ArrayLike

from refimpl.bounds.precision import Array, Bound, Precision, gamma
from refimpl.checks import aligned, as_float64
from refimpl.concordance import (
    concordance_loss_nce_gradient,
    concordance_loss_nce_wrapper_gradient,
)

# squares of 1e308 over 1e-300 need its range; where long double is float64 the bound is infinite there
_Long: TypeAlias = npt.NDArray[np.longdouble]

_LARGEST = float(np.finfo(np.float64).max)
_FUNCTION = 4  # roundings allowed to one exp, log or log1p: two units in the last place
_REPLICATES = ("r1", "r2")
_OWN_ROUNDOFF = float(np.finfo(np.longdouble).eps)


@dataclass(frozen=True)
class _Points:
    """Coordinates (B, D) of both sides, exact to long double, and how far the computed ones may be off."""

    x: _Long
    y: _Long
    x_error: _Long
    y_error: _Long


@dataclass(frozen=True)
class _Terms:
    """Rows L_i with their errors, shares p_ij with their errors."""

    values: _Long
    value_errors: _Long
    shares: _Long
    share_errors: _Long


def concordance_loss_nce(
    res1: ArrayLike,
    res2: ArrayLike,
    tau: float = 0.1,
    *,
    precision: Precision,
    eps: float = 1e-8,
    reduction: str = "mean",
) -> Bound:
    """Bound of `concordance_loss_nce`, value and gradient; the module's docstring derives it.

    Unit roundoff: u = 2^-53 for float64, 2^-24 for all others.
    Roundings on the worst path: D + 4 of a distance, 2 of an exponent, 4 of the exponential, B + 1 of the
    sum, 5 of the logarithm and last addition, B + 1 of the mean; B + 8 more in a gradient.
    Condition: sum p_ij (a_ii + a_ij) / L_i, the distances weighted by the shares p_ij of the pairs.
    Accumulations: over the D features, the B pairs of a row or column and the B rows, each in any order, tree
    and chunking.

    Args:
        res1: as for the loss.
        res2: as for the loss.
        tau: as for the loss.
        precision: formats of the computation.
        eps: as for the loss.
        reduction: as for the loss.

    Returns:
        Bound with a float value (an array for "none") and the gradient (g_res1, g_res2) for cotangent 1.

    Raises:
        TypeError: as the loss.
        ValueError: as the loss.

    Example:
        >>> from refimpl.bounds.precision import precision
        >>> bound = concordance_loss_nce([0.0, 1.0], [0.0, 1.0], 1.0, precision=precision("float32"))
        >>> 1e-8 < bound.value < 1e-6
        True
    """
    gradient = concordance_loss_nce_gradient(res1, res2, tau, eps=eps, reduction=reduction)
    shape = np.shape(res1)
    x, y = (_flat(as_float64("res1", side).astype(np.longdouble)) for side in (res1, res2))
    points = _Points(x, y, np.zeros_like(x), np.zeros_like(y))
    value, errors = _bound(points, tau, eps, reduction, precision)
    rounded = [
        precision.rounded_result(np.clip(g, -_LARGEST, _LARGEST), e.reshape(shape))
        for g, e in zip(gradient, errors, strict=True)
    ]
    return Bound(value, tuple(rounded))


def concordance_loss_nce_wrapper(
    model_outputs: Mapping[str, Any], batch: Mapping[str, Any], *, precision: Precision, **options: Any
) -> Bound:
    """Bound of `concordance_loss_nce_wrapper`; its gradient is nested like the oracle's.

    The residuals are rounded once to the working format. Where one does not fit into it the bound is
    infinite: the loss of a saturated residual is finite, and nothing more is promised of it.

    Unit roundoff, roundings, condition and accumulations are those of `concordance_loss_nce`, and one
    rounding of a residual more (two where a count does not fit into the mantissa), with the condition
    2 sum_k |x_ik - y_jk| (|x_ik| + |y_jk|) / d_ij for a distance.

    Args:
        model_outputs: as for the loss.
        batch: as for the loss.
        precision: formats of the computation.
        **options: tau, eps, reduction.

    Returns:
        Bound; a 0-dim mu has the sum of its elements' bounds and the roundings of that sum.

    Raises:
        KeyError: as the loss.
        TypeError: as the loss.
        ValueError: as the loss.

    Example:
        >>> from refimpl.bounds.precision import precision
        >>> outputs = {"r1": {"mu": [1.0, 2.0]}, "r2": {"mu": [1.0, 1.5]}}
        >>> reads = {"r1": {"reads": [1, 3]}, "r2": {"reads": [2, 2]}}
        >>> concordance_loss_nce_wrapper(outputs, reads, precision=precision("float64")).value < 1e-13
        True
    """
    exact = concordance_loss_nce_wrapper_gradient(model_outputs, batch, **options)
    sides, moved = [], []
    for replicate in _REPLICATES:
        reads = as_float64("reads", batch[replicate]["reads"])
        mu = aligned("mu", as_float64("mu", model_outputs[replicate]["mu"]), "reads", reads)
        residual = _flat(reads.astype(np.longdouble) - mu.astype(np.longdouble))
        u = precision.work_roundoff
        sides.append(residual)
        moved.append(
            u * np.abs(residual) + u * np.abs(_flat(reads)) * ~_representable(_flat(reads), precision)
        )
    tau, eps = float(options.get("tau", 0.1)), float(options.get("eps", 1e-8))
    reduction = options.get("reduction", "mean")
    value, errors = _bound(_Points(*sides, *moved), tau, eps, reduction, precision)
    if any(bool(np.any(np.abs(side) > precision.work_max)) for side in sides):
        value, errors = value + np.inf, (errors[0] + np.inf, errors[1] + np.inf)
    first, second = (side.astype(np.float64) for side in sides)
    sizes = concordance_loss_nce_gradient(first, second, tau, eps=eps, reduction=reduction)
    gradient: dict[str, dict[str, Array]] = {}
    for replicate, error, size in zip(_REPLICATES, errors, sizes, strict=True):
        outputs = model_outputs[replicate]
        shape = np.shape(outputs["mu"])
        total = error if shape else error.sum() + size.size * precision.work_roundoff * np.abs(size).sum()
        centre = np.clip(exact[replicate]["mu"], -_LARGEST, _LARGEST)
        gradient[replicate] = {"mu": precision.rounded_result(centre, np.reshape(total, shape))}
        if "r" in outputs:
            gradient[replicate]["r"] = np.zeros(np.shape(outputs["r"]))
    return Bound(value, gradient)


def _flat(values: Any) -> Any:
    return values.reshape(values.shape[0], int(np.prod(values.shape[1:])))


def _representable(values: Array, precision: Precision) -> npt.NDArray[np.bool_]:
    """Whether the working precision holds each number, as far as its mantissa goes."""
    fraction, _ = np.frexp(values)
    scaled = fraction / precision.work_roundoff
    return np.asarray(scaled == np.rint(scaled))


def _bound(
    points: _Points, tau: float, eps: float, reduction: str, precision: Precision
) -> tuple[float | Array, tuple[Array, Array]]:
    """Value bound, and both gradients' errors (B, D) in the working precision."""
    batch = points.x.shape[0]
    if points.x.size == 0:
        empty = np.zeros(points.x.shape)
        return (np.zeros(batch) if reduction == "none" else 0.0), (empty, empty.copy())
    with np.errstate(all="ignore"):
        terms = _terms(points, np.longdouble(tau), eps, precision)
        value = _reduced(terms, reduction, precision)
        divisor = np.longdouble(batch if reduction == "mean" else 1)
        return value, _gradient_errors(points, terms, 2 / (divisor * np.longdouble(tau)), precision)


def _terms(points: _Points, tau: np.longdouble, eps: float, precision: Precision) -> _Terms:
    u, tiny = precision.work_roundoff, precision.work_tiny
    batch, features = points.x.shape
    gap = np.abs(points.x[:, None] - points.y[None])
    moved = points.x_error[:, None] + points.y_error[None]
    a = (gap**2).sum(axis=2) / tau
    # the last term is what this float64 or long double evaluation itself gets wrong
    a_error = (
        gamma(features + 4, u) * a
        + ((2 * gap + moved) * moved).sum(axis=2) / tau
        + features * _OWN_ROUNDOFF * a
    )
    a_error += (features + 1) * tiny * max(np.longdouble(1), 1 / tau)
    own, own_error = np.diag(a)[:, None], np.diag(a_error)[:, None]

    log_eps = np.log(np.longdouble(eps)) if eps > 0 else -np.longdouble(np.inf)
    z = np.concatenate([own - a, own + log_eps], axis=1)
    shift = np.maximum(z.max(axis=1, keepdims=True), 0)
    error = np.concatenate([own_error + a_error, own_error + (_FUNCTION + 1) * u * abs(log_eps)], axis=1)
    error += u * (np.abs(z) + np.abs(z - shift)) + (_FUNCTION + batch + 1) * u
    diagonal = np.arange(batch)
    error[diagonal, diagonal] = np.where(shift[:, 0] > 0, u * shift[:, 0] + (_FUNCTION + batch + 1) * u, 0)

    total = np.exp(z - shift)
    rest = total.sum(axis=1) - np.where(shift[:, 0] > 0, 0, 1)
    rest = np.where(shift[:, 0] > 0, rest, _without_diagonal(total).sum(axis=1))
    values = np.where(shift[:, 0] > 0, shift[:, 0] + np.log(rest), np.log1p(rest))
    log_shares = z - values[:, None]
    value_errors = _moved_logarithm(log_shares, error) + (_FUNCTION + 1) * u * values + (batch + 4) * tiny
    eta = error + value_errors[:, None] + u * (_FUNCTION + np.abs(log_shares))
    shares = np.exp(log_shares)
    share_errors = np.minimum(np.exp(log_shares + _log_expm1(eta)), 1) + tiny
    return _Terms(values, value_errors, shares[:, :batch], share_errors[:, :batch])


def _without_diagonal(total: _Long) -> _Long:
    kept = total.copy()
    np.fill_diagonal(kept, 0)
    return kept


def _log_expm1(x: _Long) -> _Long:
    """Logarithm of e^x - 1 for x >= 0, without overflow; -inf at 0."""
    return np.where(x > 1, x + np.log1p(-np.exp(-x)), np.log(np.expm1(np.minimum(x, 1))))


def _moved_logarithm(log_shares: _Long, error: _Long) -> _Long:
    """log(sum_j p_ij exp(error_ij)) = log1p(sum_j p_ij expm1(error_ij))."""
    terms = np.where(np.isneginf(log_shares), -np.inf, log_shares + _log_expm1(error))
    return np.asarray(np.logaddexp(0, np.logaddexp.reduce(terms, axis=1)))


def _reduced(terms: _Terms, reduction: str, precision: Precision) -> float | Array:
    batch = terms.values.size
    if reduction == "none":
        return precision.rounded_result(_float64(terms.values), _saturated(terms.values, terms.value_errors))
    total, error = terms.values.sum(), terms.value_errors.sum()
    error += (batch + 1) * precision.work_roundoff * (total + error) + precision.work_tiny
    divisor = batch if reduction == "mean" else 1
    exact, allowed = total / divisor, error / divisor + precision.work_tiny
    return precision.rounded_scalar(float(_float64(exact)), float(_saturated(exact, allowed)))


def _saturated(exact: _Long, error: _Long) -> Array:
    """Float64 error; beyond the float64 range the same relative error, of the maximum."""
    relative = np.minimum(error / np.maximum(exact, np.longdouble(_LARGEST)), 1) * _LARGEST
    return np.asarray(np.where(exact > _LARGEST, relative, _float64(error)), np.float64)


def _float64(error: _Long) -> Array:
    return np.where(error < _LARGEST, error, _LARGEST).astype(np.float64)  # NaN stands for inf - inf


def _gradient_errors(
    points: _Points, terms: _Terms, factor: np.longdouble, precision: Precision
) -> tuple[Array, Array]:
    batch = terms.values.size
    rounding = gamma(batch + 8, precision.work_roundoff)
    weight = terms.share_errors + rounding * (terms.shares + terms.share_errors)
    gap = np.abs(points.x[:, None] - points.y[None])
    own = np.abs(points.x - points.y)
    moved = points.x_error[:, None] + points.y_error[None]
    own_moved = points.x_error + points.y_error
    terms_of_both = weight[..., None] * gap + (terms.shares + terms.share_errors)[..., None] * moved
    common = rounding * own + own_moved
    largest = max(np.abs(points.x).max(), np.abs(points.y).max())
    shrunk = max(np.longdouble(1), 32 * batch * (largest / np.longdouble(precision.work_max)))
    # a product or partial sum that underflows
    underflow = (batch + 2) * (precision.work_tiny * shrunk) * max(np.longdouble(1), factor)
    return (
        _float64(factor * (terms_of_both.sum(axis=1) + common) + underflow),
        _float64(factor * (terms_of_both.sum(axis=0) + common) + underflow),
    )
