"""Error bounds of the negative Pearson correlation.

With u the working roundoff, n elements, e_i = p_i - p_0 and c_i = e_i - mean(e) the exact deviations and M
their largest magnitude, a straightforward evaluation that subtracts a pivot first rounds

    e_i:   u |e_i|; nothing of an offset survives, |e_i| <= 2 M
    mean:  kappa = gamma(n + 1) mean |e|, the same shift for every i
    c_i:   epsilon_i = u |e_i| + 2 u |c_i|, for the subtraction and the division by M

The shift drops out of sum p t up to n kappa_p kappa_t and out of |p|^2 up to n kappa^2, for centred numbers
are orthogonal to constants. With |.| also for norms,

    rho_p = [sum |c_i| epsilon_i + (n kappa^2 + sum epsilon^2) / 2] / |p|^2 + gamma(n) / 2 + u
    A     = [sum (|t| epsilon^p + |p| epsilon^t + epsilon^p epsilon^t) + gamma(n) sum |p t|
             + n kappa_p kappa_t] / (|p| |t|)
    value:  (A + |r| rho) / (1 - rho) with rho = rho_p + rho_t + 3 u, and at most 2

    gradient, with p and t now unit vectors:
    E_i   = (epsilon^t_i + kappa_t) / |t| + |t_i| (rho_t + 2 u)
            + |r| {(epsilon^p_i + kappa_p) / |p| + |p_i| (rho_p + 2 u)} + |p_i| (bound of r) + 2 u |r p_i|
    g_i:    [E_i + gamma(n + 2) mean(|t| + |r p|)] / |p| + |g_i| (rho_p + 3 u), over 1 - rho

where the mean pays for projecting the gradient on centred vectors. Subtracting the mean of the raw numbers
has errors of u |offset| in place of u |e_i|, and is outside. A constant side is recognised exactly: bound 0.
Numbers that the working precision cannot hold (large integer counts) add u |p_i| to epsilon_i.

Where eps > 1 the scales M count as well, with the relative error (max epsilon + kappa) / M each. Where eps is
within the error of the product of norms, or rounding can change which deviations are the largest, the
gradient jumps and its bound is infinite.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from refimpl.bounds.precision import Array, Bound, Precision, gamma
from refimpl.checks import aligned, as_float64
from refimpl.pearson import negative_pearson_loss as oracle
from refimpl.pearson import negative_pearson_loss_gradient as oracle_gradient
from refimpl.pearson import negative_pearson_loss_wrapper_gradient as wrapper_gradient

_REPLICATES = ("r1", "r2")


@dataclass(frozen=True)
class _Side:
    """One side, divided by 2^exponent: deviations, their errors, and what follows from them."""

    exponent: int
    deviations: Array
    errors: Array  # epsilon
    shift: float  # kappa

    @property
    def norm(self) -> float:
        return float(np.sqrt((self.deviations**2).sum()))

    @property
    def largest(self) -> float:
        return float(np.abs(self.deviations).max())

    @property
    def scale_error(self) -> float:
        """Relative error of the largest deviation M."""
        return float(self.errors.max() + self.shift) / self.largest

    def norm_error(self, u: float) -> float:
        """Rho of this side."""
        n = self.deviations.size
        first = (np.abs(self.deviations) * self.errors).sum()
        second = (n * self.shift**2 + (self.errors**2).sum()) / 2
        return float((first + second) / self.norm**2 + gamma(n, u) / 2 + u)

    def unit(self) -> Array:
        return np.abs(self.deviations) / self.norm

    def unit_error(self, u: float) -> Array:
        """Error of the elements of the unit vector."""
        return (self.errors + self.shift) / self.norm + self.unit() * (self.norm_error(u) + 2 * u)


def _side(values: Array, precision: Precision) -> _Side:
    u = precision.work_roundoff
    flat = values.ravel()
    # a quarter, so that the difference of two huge numbers stays finite
    quarter = 2 if np.abs(flat).max() > 1.0 else 0
    scaled = np.ldexp(flat, -quarter)
    raw = scaled - scaled[0]
    exponent = int(np.frexp(np.abs(raw).max())[1])
    raw = np.ldexp(raw, -exponent)
    deviations = raw - raw.mean()
    errors = u * np.abs(raw) + 2 * u * np.abs(deviations) + precision.work_tiny
    fraction, _ = np.frexp(scaled)
    held = fraction / u == np.rint(fraction / u)
    with np.errstate(over="ignore"):
        errors += np.where(held, 0.0, u * np.abs(np.ldexp(scaled, -exponent)))
    shift = gamma(flat.size + 1, u) * np.abs(raw).mean()
    return _Side(exponent + quarter, deviations, errors, float(shift))


def negative_pearson_loss(
    preds: ArrayLike, targets: ArrayLike, eps: float = 1e-8, *, precision: Precision
) -> Bound:
    """Bound of `negative_pearson_loss`, value and gradient; the module's docstring derives it.

    Unit roundoff: u = 2^-53 for float64, 2^-24 for all others.
    Roundings on the worst path: 3 of a deviation beside the n + 1 of the mean, n of the sum of products,
    n / 2 + 1 of each norm, 3 of their product and the quotient. A gradient adds n + 2 for its mean and 5.
    Condition: sum |p t| / (|p| |t|) <= 1 of the products; |e_i| / |c_i| of a deviation, the distance from the
    pivot beside that from the mean; 1 of the norms.
    Accumulations: mean, products and both norms in any order, tree and chunking.

    Args:
        preds: as for the loss.
        targets: as for the loss.
        eps: as for the loss.
        precision: formats of the computation.

    Returns:
        Bound with a float value and the gradient (g_preds, g_targets) for cotangent 1.

    Raises:
        TypeError: as the loss.
        ValueError: as the loss.

    Example:
        >>> from refimpl.bounds.precision import precision
        >>> negative_pearson_loss([1.0, 2.0, 4.0], [2.0, 2.0, 2.0], precision=precision("float32")).value
        0.0
        >>> 1e-8 < negative_pearson_loss([1, 2, 4], [2, 0, 1], precision=precision("float32")).value < 1e-5
        True
    """
    exact, gradients = oracle(preds, targets, eps), oracle_gradient(preds, targets, eps)
    errors = _errors(as_float64("preds", preds), as_float64("targets", targets), eps, precision)
    if errors is None:
        return Bound(0.0, tuple(np.zeros_like(g) for g in gradients))
    value, pair = errors
    rounded = [
        precision.rounded_result(g, error.reshape(g.shape)) for g, error in zip(gradients, pair, strict=True)
    ]
    return Bound(precision.rounded_scalar(exact, value), tuple(rounded))


def negative_pearson_loss_wrapper(
    model_outputs: Mapping[str, Any], batch: Mapping[str, Any], *, precision: Precision, eps: float = 1e-8
) -> Bound:
    """Bound of `negative_pearson_loss_wrapper`; its gradient is nested like the oracle's.

    Unit roundoff, roundings, condition and accumulations are those of `negative_pearson_loss`.

    Args:
        model_outputs: as for the loss.
        batch: as for the loss.
        precision: formats of the computation.
        eps: as for the loss.

    Returns:
        Bound; a 0-dim mu has the sum of its elements' bounds and the roundings of that sum.

    Raises:
        KeyError: as the loss.
        TypeError: as the loss.
        ValueError: as the loss.

    Example:
        >>> from refimpl.bounds.precision import precision
        >>> outputs = {"r1": {"mu": [[1.0], [2.0]]}, "r2": {"mu": [3.0, 5.0]}}
        >>> reads = {"r1": {"reads": [2, 4]}, "r2": {"reads": [5, 8]}}
        >>> bound = negative_pearson_loss_wrapper(outputs, reads, precision=precision("float64"))
        >>> bound.gradient["r1"]["mu"].shape
        (2, 1)
    """
    exact = wrapper_gradient(model_outputs, batch, eps=eps)
    preds, targets, sizes = [], [], []
    for replicate in _REPLICATES:
        reads = as_float64("reads", batch[replicate]["reads"])
        mu = aligned("mu", as_float64("mu", model_outputs[replicate]["mu"]), "reads", reads)
        preds.append(mu.ravel())
        targets.append(reads.ravel())
        sizes.append(reads.size)
    p, t = np.concatenate(preds), np.concatenate(targets)
    whole = negative_pearson_loss(p, t, eps, precision=precision)
    errors = np.split(whole.gradient[0], [sizes[0]])
    elements = np.split(oracle_gradient(p, t, eps)[0], [sizes[0]])
    gradient: dict[str, dict[str, Array]] = {}
    for replicate, error, element in zip(_REPLICATES, errors, elements, strict=True):
        outputs = model_outputs[replicate]
        shape = np.shape(outputs["mu"])
        total = error.reshape(shape) if shape else error.sum()
        if not shape:
            total += element.size * precision.result_roundoff * np.abs(element).sum()
            total = precision.rounded_result(exact[replicate]["mu"], total)
        gradient[replicate] = {"mu": np.asarray(total)}
        if "r" in outputs:
            gradient[replicate]["r"] = np.zeros(np.shape(outputs["r"]))
    return Bound(whole.value, gradient)


def _errors(
    preds: Array, targets: Array, eps: float, precision: Precision
) -> tuple[float, tuple[Array, Array]] | None:
    """Errors of value and flat gradients in the working precision; None where all are exactly 0."""
    if preds.size == 0 or any((side == side.flat[0]).all() for side in (preds, targets)):
        return None
    p, t = _side(preds, precision), _side(targets, precision)
    value, rho = _value_error(p, t, eps, precision.work_roundoff)
    if eps > 0.5 and not _floor_is_clear(p, t, eps, rho):
        infinite = np.full(preds.size, np.inf)
        return value, (infinite, infinite.copy())
    compute = _floored_gradient_error if _product(p, t) < eps else _gradient_error
    with np.errstate(over="ignore"):
        pair = [np.ldexp(compute(a, b, value, eps, precision), -a.exponent) for a, b in ((p, t), (t, p))]
    tiny = (preds.size + 2) * precision.work_tiny
    return value, (pair[0] + tiny, pair[1] + tiny)


def _product(p: _Side, t: _Side) -> float:
    """Product of the rescaled norms."""
    return p.norm / p.largest * (t.norm / t.largest)


def _correlation(p: _Side, t: _Side) -> float:
    return float(abs(p.deviations @ t.deviations)) / (p.norm * t.norm)


def _value_error(p: _Side, t: _Side, eps: float, u: float) -> tuple[float, float]:
    """Error of the value, and rho: the relative error of the denominator."""
    n = p.deviations.size
    rho = p.norm_error(u) + t.norm_error(u) + 3 * u
    size_p, size_t = np.abs(p.deviations), np.abs(t.deviations)
    numerator = (size_t * p.errors + size_p * t.errors + p.errors * t.errors).sum()
    numerator += gamma(n, u) * (size_p * size_t).sum() + n * p.shift * t.shift
    numerator /= p.norm * t.norm
    share, relative = 1.0, rho
    if eps > 1.0:  # the scales do not cancel against each other
        share = min(1.0, _product(p, t) / eps)
        relative += 2 * (p.scale_error + t.scale_error)
    if relative >= 1.0:
        return 2.0, relative
    value = share * (numerator + _correlation(p, t) * relative) / (1 - relative)
    return float(min(2.0, value)), relative


def _floor_is_clear(p: _Side, t: _Side, eps: float, rho: float) -> bool:
    """Whether rounding decides neither which branch of the floor holds nor which deviation is the largest."""
    product = _product(p, t)
    if abs(product - eps) <= rho * (product + eps):
        return False
    return product > eps or all(_largest_is_clear(side) for side in (p, t))


def _largest_is_clear(side: _Side) -> bool:
    close = np.abs(side.deviations) >= side.largest - 2 * (side.errors.max() + side.shift)
    return int(close.sum()) == 1


def _gradient_error(p: _Side, t: _Side, value_error: float, _eps: float, precision: Precision) -> Array:
    """Error of the gradient in p where the floor is inactive, in units of 2^-exponent."""
    u, n = precision.work_roundoff, p.deviations.size
    rho = p.norm_error(u) + t.norm_error(u) + 3 * u
    if rho >= 1.0:
        return np.full(n, np.inf)
    r = _correlation(p, t)
    unit_p, unit_t = p.unit(), t.unit()
    element = t.unit_error(u) + r * p.unit_error(u) + unit_p * value_error + 2 * u * r * unit_p
    element += gamma(n + 2, u) * (unit_t + r * unit_p).mean()
    r_signed = float(p.deviations @ t.deviations) / (p.norm * t.norm)
    signed = t.deviations / t.norm - r_signed * p.deviations / p.norm
    return np.asarray((element + np.abs(signed) * (p.norm_error(u) + 3 * u)) / p.norm / (1 - rho))


def _floored_gradient_error(
    p: _Side, t: _Side, value_error: float, eps: float, precision: Precision
) -> Array:
    """Error of -(t_i / M_t - s h_i) / (M_p eps), s = sum p t / (M_p M_t), h_i = [i is largest] - 1 / n."""
    u, n = precision.work_roundoff, p.deviations.size
    size_t = np.abs(t.deviations) / t.largest
    jump = np.abs(np.where(np.abs(p.deviations) == p.largest, 1.0, 0.0) - 1.0 / n)
    dot = float(abs(p.deviations @ t.deviations)) / (p.largest * t.largest)
    element = (t.errors + t.shift) / t.largest + size_t * (t.scale_error + 2 * u)
    size = size_t + dot * jump
    element += jump * (value_error * eps + 3 * u * dot) + gamma(n + 2, u) * size.mean()
    return np.asarray((element + size * (p.scale_error + 4 * u)) / (p.largest * eps) / (1 - p.scale_error))
