"""Negative Pearson correlation: value and gradient by exact integers, rounded once after one integer root.

Every float64 is an integer times a power of two, so each side becomes integers P_i on a common exponent.
With the exact integers

    V_p = n sum P_i^2 - (sum P_i)^2,  N = n sum P_i T_i - sum P_i sum T_i,  a_i = n P_i - sum P_i,  b_i alike,

no cancellation exists that could cost a digit:

    value      = -N / sqrt(V_p V_t)
    d / d p_i  = -(b_i V_p - N a_i) / (V_p sqrt(V_p V_t))      (times the power of two)

"Constant" is V = 0, exactly. The root is taken of an integer to 128 bits and the quotient rounded once, hence
<= 1 ulp for every finite input, also next to |value| = 1; scale and offset make no difference to integers.

The floor: the norms rescaled by the largest deviation are sqrt(n V_p) / M_p with M_p = max |a_i|, never below
1, so that eps <= 1 changes nothing. Where a larger eps exceeds their product, the value is
-n N / (M_p M_t eps), and the scales M are part of the function: positions that tie for the largest deviation
share its derivative evenly. Where eps equals the product the floor counts as inactive.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from refimpl.checks import Array, aligned, as_float64, check_options, entry, path_of, same_shape, unaligned

_REPLICATES = ("r1", "r2")
_ROOT_BITS = 130
_MANTISSA_BITS = 53


@dataclass(frozen=True)
class _Side:
    """One side as integers times 2^exponent, with its exact moments."""

    integers: list[int]
    exponent: int

    @property
    def count(self) -> int:
        return len(self.integers)

    def total(self) -> int:
        return sum(self.integers)

    def variance(self) -> int:
        """V = n sum P^2 - (sum P)^2, zero exactly for a constant side."""
        return self.count * sum(p * p for p in self.integers) - self.total() ** 2

    def deviations(self) -> list[int]:
        """a_i = n P_i - sum P."""
        total = self.total()
        return [self.count * p - total for p in self.integers]


def _side(values: Array) -> _Side:
    fractions, exponents = np.frexp(values.ravel())
    mantissas = np.ldexp(fractions, _MANTISSA_BITS).astype(np.int64)
    lowest = int(exponents[mantissas != 0].min(initial=1100))
    shifts = np.where(mantissas == 0, 0, exponents - lowest)
    integers = [m << s for m, s in zip(mantissas.tolist(), shifts.tolist(), strict=True)]
    return _Side(integers, lowest - _MANTISSA_BITS)


def _covariance(p: _Side, t: _Side) -> int:
    """N = n sum P T - sum P sum T."""
    products = sum(a * b for a, b in zip(p.integers, t.integers, strict=True))
    return p.count * products - p.total() * t.total()


def _inverse_root(square: int) -> tuple[int, int]:
    """Integers (c, k) with c 2^-k = 1 / sqrt(square) to 2^-128 relative."""
    k = _ROOT_BITS + square.bit_length() // 2
    return math.isqrt((1 << 2 * k) // square), k


def _rounded(numerator: int, denominator: int, exponent: int) -> float:
    """Round numerator / denominator 2^exponent once, to +-inf beyond float64; the denominator is positive."""
    try:
        return (numerator << max(exponent, 0)) / (denominator << max(-exponent, 0))
    except OverflowError:
        return math.inf if numerator > 0 else -math.inf


def _largest(deviations: Sequence[int]) -> int:
    return max(map(abs, deviations))


def _floored(p: _Side, t: _Side, eps: Fraction) -> bool:
    """Whether the product of the rescaled norms, sqrt(n V_p n V_t) / (M_p M_t), is below eps."""
    if eps <= 1:
        return False
    scales = eps * _largest(p.deviations()) * _largest(t.deviations())
    return p.count**2 * p.variance() * t.variance() < scales**2


def _value(p: _Side, t: _Side, eps: Fraction) -> float:
    product = p.variance() * t.variance()
    if product == 0:
        return 0.0
    covariance = _covariance(p, t)
    if _floored(p, t, eps):
        scales = eps * _largest(p.deviations()) * _largest(t.deviations())
        return float(-p.count * covariance / scales)
    # a square root of the squared quotient is exact where the quotient is: r = +-1, 1/2
    size = abs(covariance)
    k = max(0, _ROOT_BITS - size.bit_length() + (product.bit_length() + 1) // 2)
    root = math.isqrt((size * size << 2 * k) // product)
    return _rounded(-root if covariance > 0 else root, 1, -k)


def _gradient(p: _Side, t: _Side, cotangent: Fraction) -> list[float]:
    """Return d value / d p_i where the floor is inactive, times the cotangent."""
    variance, covariance = p.variance(), _covariance(p, t)
    inverse, k = _inverse_root(variance * t.variance())
    factor, denominator = -inverse * cotangent.numerator, variance * cotangent.denominator
    return [
        _rounded((b * variance - covariance * a) * factor, denominator, -k - p.exponent)
        for a, b in zip(p.deviations(), t.deviations(), strict=True)
    ]


def _floored_gradient(p: _Side, t: _Side, eps: Fraction, cotangent: Fraction) -> list[float]:
    """Return d / d p_i of -n N / (M_p M_t eps), times the cotangent.

    With sigma_i the sign of a deviation that ties for the largest, else 0, and c the number of ties,
    d M_p / d P_i = (n sigma_i - sum sigma) / c, and d N / d P_i = b_i.
    """
    own, other = p.deviations(), t.deviations()
    covariance, scale = _covariance(p, t), _largest(own)
    signs = [(a > 0) - (a < 0) if abs(a) == scale else 0 for a in own]
    ties, balance = sum(map(abs, signs)), sum(signs)
    factor = -p.count * cotangent / (ties * scale * scale * _largest(other) * eps)
    return [
        _rounded(
            (b * ties * scale - covariance * (p.count * sign - balance)) * factor.numerator,
            factor.denominator,
            -p.exponent,
        )
        for b, sign in zip(other, signs, strict=True)
    ]


def _both_gradients(preds: Array, targets: Array, eps: float, cotangent: float) -> tuple[Array, Array]:
    """Both gradients, flat."""
    if not (np.isfinite(preds).all() and np.isfinite(targets).all() and np.isfinite(cotangent)):
        return np.full(preds.size, np.nan), np.full(targets.size, np.nan)
    p, t = _side(preds), _side(targets)
    if p.variance() * t.variance() == 0:
        return np.zeros(preds.size), np.zeros(targets.size)
    exact_eps, exact_cotangent = Fraction(eps), Fraction(cotangent)
    if _floored(p, t, exact_eps):
        pair = [_floored_gradient(a, b, exact_eps, exact_cotangent) for a, b in ((p, t), (t, p))]
    else:
        pair = [_gradient(a, b, exact_cotangent) for a, b in ((p, t), (t, p))]
    return np.array(pair[0]), np.array(pair[1])


def _checked_eps(eps: Any) -> float:
    if isinstance(eps, bool) or not isinstance(eps, (int, float, np.integer, np.floating)):
        raise TypeError(f"eps must be a number, got {type(eps).__name__}")
    if not 0.0 <= eps < np.inf:
        raise ValueError(f"eps must be >= 0 and finite, got {eps}")
    return float(eps)


def _checked_sides(preds: ArrayLike, targets: ArrayLike) -> tuple[Array, Array]:
    p, t = as_float64("preds", preds), as_float64("targets", targets)
    same_shape("preds", p, "targets", t)
    return p, t


def negative_pearson_loss(preds: ArrayLike, targets: ArrayLike, eps: float = 1e-8) -> float:
    """Negative Pearson correlation over all elements: -(sum p t) / (|p| |t|) of the centred p, t.

    Args:
        preds: any shape, floats or integers.
        targets: same shape.
        eps: floor of the product of the norms, each rescaled by its largest deviation; >= 0 and finite.

    Returns:
        float in [-1, 1], within 1 ulp; 0 where a side is constant, has one element or none; NaN where an
        element is not finite.

    Raises:
        TypeError: preds or targets does not hold numbers, or eps is not a number.
        ValueError: shapes differ, or eps is out of its domain.

    Example:
        >>> negative_pearson_loss([1.0, 2.0, 3.0], [1e300, 2e300, 3e300])
        -1.0
        >>> negative_pearson_loss([1.0, 2.0, 4.0], [0.1, 0.1, 0.1])
        0.0
    """
    eps = _checked_eps(eps)
    p, t = _checked_sides(preds, targets)
    if not (np.isfinite(p).all() and np.isfinite(t).all()):
        return math.nan
    return _value(_side(p), _side(t), Fraction(eps))


def negative_pearson_loss_gradient(
    preds: ArrayLike, targets: ArrayLike, eps: float = 1e-8, *, cotangent: float = 1.0
) -> tuple[Array, Array]:
    """Gradient of `negative_pearson_loss`, times the cotangent.

    Args:
        preds: as for the value.
        targets: as for the value.
        eps: as for the value.
        cotangent: number.

    Returns:
        (g_preds, g_targets) in the inputs' shape, within 1 ulp, +-inf beyond float64; both zero where a side
        is constant.

    Raises:
        TypeError: as for the value.
        ValueError: as for the value.

    Example:
        >>> negative_pearson_loss_gradient([-1.0, 0.0, 1.0], [1.0, -2.0, 1.0])[1].tolist()
        [0.28867513459481287, 0.0, -0.28867513459481287]
    """
    eps = _checked_eps(eps)
    p, t = _checked_sides(preds, targets)
    g_preds, g_targets = _both_gradients(p, t, eps, float(cotangent))
    return g_preds.reshape(p.shape), g_targets.reshape(t.shape)


def negative_pearson_loss_wrapper(
    model_outputs: Mapping[str, Any], batch: Mapping[str, Any], **options: Any
) -> float:
    """`negative_pearson_loss` of the mu of both replicates, concatenated, against the reads of both.

    Args:
        model_outputs: {"r1": {"mu"}, "r2": {"mu"}}, (B,), (B, 1) or 0-dim; "r" is not used.
        batch: {"r1": {"reads"}, "r2": {"reads"}}, (B,) or (B, 1).
        **options: eps.

    Returns:
        As `negative_pearson_loss`.

    Raises:
        KeyError: a key is missing.
        TypeError: an option is unknown, or as for the loss.
        ValueError: mu and reads are not the same batch, or as for the loss.

    Example:
        >>> outputs = {"r1": {"mu": [[1.0], [2.0]]}, "r2": {"mu": [3.0, 4.0]}}
        >>> reads = {"r1": {"reads": [2, 4]}, "r2": {"reads": [6, 8]}}
        >>> negative_pearson_loss_wrapper(outputs, reads)
        -1.0
    """
    check_options("negative_pearson_loss_wrapper", options, ("eps",))
    return negative_pearson_loss(*_concatenated(model_outputs, batch), **options)


def negative_pearson_loss_wrapper_gradient(
    model_outputs: Mapping[str, Any], batch: Mapping[str, Any], *, cotangent: float = 1.0, **options: Any
) -> dict[str, dict[str, Array]]:
    """Gradient of `negative_pearson_loss_wrapper` in mu; r, where given, gets zeros.

    Args:
        model_outputs: as for the value.
        batch: as for the value.
        cotangent: number.
        **options: eps.

    Returns:
        {"r1": {"mu", "r"}, "r2": {"mu", "r"}}, each in the parameter's own shape.

    Raises:
        KeyError: as for the value.
        TypeError: as for the value.
        ValueError: as for the value.

    Example:
        >>> outputs = {"r1": {"mu": [[1.0], [2.0]]}, "r2": {"mu": 3.0}}
        >>> reads = {"r1": {"reads": [2, 5]}, "r2": {"reads": [6, 8]}}
        >>> negative_pearson_loss_wrapper_gradient(outputs, reads)["r1"]["mu"].shape
        (2, 1)
    """
    check_options("negative_pearson_loss_wrapper", options, ("eps",))
    sides = _concatenated(model_outputs, batch)
    flat, _ = negative_pearson_loss_gradient(*sides, **options, cotangent=cotangent)
    parts = np.split(flat, [int(np.size(batch["r1"]["reads"]))])
    result: dict[str, dict[str, Array]] = {}
    for replicate, part in zip(_REPLICATES, parts, strict=True):
        outputs = model_outputs[replicate]
        expanded = part.reshape(np.shape(batch[replicate]["reads"]))
        result[replicate] = {"mu": unaligned(expanded, np.shape(outputs["mu"]))}
        if "r" in outputs:
            result[replicate]["r"] = np.zeros(np.shape(outputs["r"]))
    return result


def _concatenated(model_outputs: Mapping[str, Any], batch: Mapping[str, Any]) -> tuple[Array, Array]:
    preds, targets = [], []
    for replicate in _REPLICATES:
        mu_path, reads_path = path_of("model_outputs", replicate, "mu"), path_of("batch", replicate, "reads")
        mu = as_float64(mu_path, entry("model_outputs", model_outputs, replicate, "mu"))
        reads = as_float64(reads_path, entry("batch", batch, replicate, "reads"))
        preds.append(aligned(mu_path, mu, reads_path, reads).ravel())
        targets.append(reads.ravel())
    return np.concatenate(preds), np.concatenate(targets)
