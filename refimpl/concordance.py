"""InfoNCE between replicates: value and gradient, right to 1 ulp of float64 for every finite input.

With d_ij = |x_i - y_j|^2 (x = res1, y = res2, rows flattened to D features), row i is

    L_i = d_ii / tau + log(eps + sum_j exp(-d_ij / tau)).

How each step keeps its digits:

* Exponents are differences z_ij = (d_in - d_ij) / tau = sum_k (y_n^2 - y_j^2 - 2 x_i y_n + 2 x_i y_j) / tau,
  exact sums of products: nothing cancels, a common offset of 1e300 included, and no far pair underflows.
* The value anchors at the positive, n = i, L_i = log(1 + sum_{j != i} exp(z_ij) + exp(log eps + d_ii / tau)):
  by log1p where the 1 is the largest term, so that a tiny loss keeps its relative accuracy.
* The gradient anchors at the largest term, so that the exponents that matter are small numbers.
* With p_ij = exp(-d_ij / tau) / (eps + sum_j exp(-d_ij / tau)) and q_i = 1 - sum_j p_ij, the share of eps,

      dL_i / dx_i = 2 / tau [sum_j p_ij (y_j - y_i) + q_i (x_i - y_i)]
      dL_i / dy_j = 2 / tau p_ij (x_i - y_j) for j != i
      dL_i / dy_i = -2 / tau (sum_{j != i} p_ij + q_i) (x_i - y_i),

  in which no probability is formed by subtraction from 1.

Limit: where the terms of a gradient's sum over pairs cancel (probabilities are transcendental, no exact sum
exists) its error is 1 ulp plus 2^-80 times the sum of their absolute values.

Decided where the contract is silent: without a single element (B = 0 or D = 0) value and gradients are 0; a
non-finite res1 makes its row NaN, a non-finite res2 every row, for it counts in each. The wrapper takes
reads - mu as the exact difference, not rounded to float64.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from refimpl.checks import (
    Array,
    aligned,
    as_float64,
    check_options,
    check_reduction,
    entry,
    path_of,
    same_shape,
    unaligned,
)
from refimpl.concordance_kernels import each, gradients, reduce, row_values, to_floats

Settings: TypeAlias = tuple[float, float, str]  # tau, eps, reduction

_REPLICATES = ("r1", "r2")
_OPTIONS = ("tau", "eps", "reduction")


def concordance_loss_nce(
    res1: ArrayLike, res2: ArrayLike, tau: float = 0.1, *, eps: float = 1e-8, reduction: str = "mean"
) -> float | Array:
    """InfoNCE between two replicates: row i is d_ii / tau + log(eps + sum_j exp(-d_ij / tau)).

    Args:
        res1: (B,) or (B, ...), floats; flattened to (B, D).
        res2: same shape.
        tau: temperature, positive and finite.
        eps: added to the sum over exponentials, >= 0 and finite; 0 is textbook InfoNCE.
        reduction: "mean" over the B rows, "sum", or "none" for the rows.

    Returns:
        float, or (B,) float64 for "none": within 1 ulp, at most the largest float64.

    Raises:
        TypeError: res1 or res2 does not hold numbers, tau or eps is not a number.
        ValueError: shapes differ or are 0-dim, tau, eps or reduction is out of its domain.

    Example:
        >>> concordance_loss_nce([0.0, 1.0], [0.0, 1.0], tau=1.0, eps=0.0)
        0.3132616875182228
        >>> concordance_loss_nce([0.0, 1e200], [0.0, -1e200], tau=1e300, reduction="none")
        array([9.99999995e-009, 4.00000000e+100])
    """
    settings = _settings(tau, eps, reduction)
    return _value(*_sides(res1, res2), settings)


def concordance_loss_nce_gradient(
    res1: ArrayLike,
    res2: ArrayLike,
    tau: float = 0.1,
    *,
    eps: float = 1e-8,
    reduction: str = "mean",
    cotangent: ArrayLike = 1.0,
) -> tuple[Array, Array]:
    """Gradient of `concordance_loss_nce`, times the cotangent.

    Args:
        res1: as for the value.
        res2: as for the value.
        tau: as for the value.
        eps: as for the value.
        reduction: as for the value.
        cotangent: number, or (B,) for "none" (a number stands for every row).

    Returns:
        (g_res1, g_res2) in the inputs' shape, +-inf beyond float64; never NaN for finite inputs.

    Raises:
        TypeError: as for the value.
        ValueError: as for the value, or the cotangent has the wrong shape.

    Example:
        >>> concordance_loss_nce_gradient([0.0, 1.0], [0.0, 1.0], tau=1.0, eps=0.0)
        (array([ 0.26894142, -0.26894142]), array([ 0.26894142, -0.26894142]))
    """
    settings = _settings(tau, eps, reduction)
    gx, gy = _gradient(*_sides(res1, res2), settings, cotangent)
    return gx.reshape(np.shape(res1)), gy.reshape(np.shape(res2))


def concordance_loss_nce_wrapper(
    model_outputs: Mapping[str, Any], batch: Mapping[str, Any], **options: Any
) -> float | Array:
    """`concordance_loss_nce` of the residuals reads - mu of both replicates.

    The residuals are exact differences; they are not rounded to float64.

    Args:
        model_outputs: {"r1": {"mu"}, "r2": {"mu"}}, (B,), (B, 1) or 0-dim; "r" is not used for the value.
        batch: {"r1": {"reads"}, "r2": {"reads"}}, (B,) or (B, 1).
        **options: tau, eps, reduction.

    Returns:
        As `concordance_loss_nce`.

    Raises:
        KeyError: a key is missing.
        TypeError: an option is unknown, or as for the loss.
        ValueError: mu and reads are not the same batch, or as for the loss.

    Example:
        >>> outputs = {"r1": {"mu": [[1.0], [1.0]]}, "r2": {"mu": 2.0}}
        >>> reads = {"r1": {"reads": [1, 2]}, "r2": {"reads": [2, 3]}}
        >>> concordance_loss_nce_wrapper(outputs, reads, tau=1.0, eps=0.0)
        0.3132616875182228
    """
    check_options("concordance_loss_nce_wrapper", options, _OPTIONS)
    settings = _settings(**options)
    return _value(*_residuals(model_outputs, batch), settings)


def concordance_loss_nce_wrapper_gradient(
    model_outputs: Mapping[str, Any], batch: Mapping[str, Any], *, cotangent: ArrayLike = 1.0, **options: Any
) -> dict[str, dict[str, Array]]:
    """Gradient of `concordance_loss_nce_wrapper` in mu; r, where given, gets zeros.

    Args:
        model_outputs: as for the value.
        batch: as for the value.
        cotangent: number, or (B,) for "none".
        **options: tau, eps, reduction.

    Returns:
        {"r1": {"mu", "r"}, "r2": {"mu", "r"}}, each in the parameter's own shape.

    Raises:
        KeyError: as for the value.
        TypeError: as for the value.
        ValueError: as for the value.

    Example:
        >>> outputs = {"r1": {"mu": [[1.0], [1.0]]}, "r2": {"mu": 2.0}}
        >>> reads = {"r1": {"reads": [1, 2]}, "r2": {"reads": [2, 3]}}
        >>> concordance_loss_nce_wrapper_gradient(outputs, reads, tau=1.0, eps=0.0)["r1"]["mu"].shape
        (2, 1)
    """
    check_options("concordance_loss_nce_wrapper", options, _OPTIONS)
    settings = _settings(**options)
    gradient = _gradient(*_residuals(model_outputs, batch), settings, cotangent)
    result: dict[str, dict[str, Array]] = {}
    for replicate, part in zip(_REPLICATES, gradient, strict=True):
        outputs = model_outputs[replicate]
        reads_shape = np.shape(batch[replicate]["reads"])
        result[replicate] = {"mu": unaligned(-part.reshape(reads_shape), np.shape(outputs["mu"]))}
        if "r" in outputs:
            result[replicate]["r"] = np.zeros(np.shape(outputs["r"]))
    return result


def _settings(tau: Any = 0.1, eps: Any = 1e-8, reduction: str = "mean") -> Settings:
    """Check the options and fill in their defaults."""
    for name, value in (("tau", tau), ("eps", eps)):
        if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
            raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if not 0.0 < tau < np.inf:
        raise ValueError(f"tau must be positive and finite, got {tau}")
    if not 0.0 <= eps < np.inf:
        raise ValueError(f"eps must be >= 0 and finite, got {eps}")
    check_reduction(reduction)
    return float(tau), float(eps), reduction


def _batch_of_two(name1: str, first: Array, name2: str, second: Array) -> None:
    same_shape(name1, first, name2, second)
    if first.ndim == 0:
        raise ValueError(f"{name1} and {name2} must have a batch axis, got shape ()")


def _sides(res1: ArrayLike, res2: ArrayLike) -> tuple[Array, Array]:
    """Both sides as parts (B, D, 1)."""
    x, y = as_float64("res1", res1), as_float64("res2", res2)
    _batch_of_two("res1", x, "res2", y)
    return _rows(x)[..., None], _rows(y)[..., None]


def _rows(values: Array) -> Array:
    """Flatten (B, ...) to (B, D), which reshape(B, -1) cannot do for B = 0."""
    return values.reshape(values.shape[0], int(np.prod(values.shape[1:])))


def _residuals(model_outputs: Mapping[str, Any], batch: Mapping[str, Any]) -> tuple[Array, Array]:
    """Both residuals as parts (B, D, 2): reads and -mu."""
    sides = []
    for replicate in _REPLICATES:
        mu_path, reads_path = path_of("model_outputs", replicate, "mu"), path_of("batch", replicate, "reads")
        mu = as_float64(mu_path, entry("model_outputs", model_outputs, replicate, "mu"))
        reads = as_float64(reads_path, entry("batch", batch, replicate, "reads"))
        sides.append((reads, aligned(mu_path, mu, reads_path, reads)))
    (reads1, mu1), (reads2, mu2) = sides
    if sorted((reads1.ndim, reads2.ndim)) == [1, 2]:
        reads2, mu2 = (
            aligned("batch['r2']['reads']", part, "batch['r1']['reads']", reads1) for part in (reads2, mu2)
        )
    _batch_of_two("batch['r1']['reads']", reads1, "batch['r2']['reads']", reads2)
    first, second = ((_rows(reads), -_rows(mu)) for reads, mu in ((reads1, mu1), (reads2, mu2)))
    return np.stack(first, axis=-1), np.stack(second, axis=-1)


def _finite_rows(x: Array, y: Array) -> NDArray[np.bool_]:
    rows = np.isfinite(x).all(axis=(1, 2))
    return np.logical_and(rows, np.isfinite(y).all())


def _value(x: Array, y: Array, settings: Settings) -> float | Array:
    tau, eps, reduction = settings
    if x.size == 0:
        return np.zeros(x.shape[0]) if reduction == "none" else 0.0
    finite = _finite_rows(x, y)
    rows = row_values(np.nan_to_num(x), np.nan_to_num(y), tau, eps, finite)
    if reduction == "none":
        values: Array = each(rows)
        return values
    return float(reduce(rows, reduction == "mean"))


def _gradient(x: Array, y: Array, settings: Settings, cotangent: ArrayLike) -> tuple[Array, Array]:
    """Both gradients, (B, D)."""
    tau, eps, reduction = settings
    weights = as_float64("cotangent", cotangent)
    if weights.shape not in {(), x.shape[:1]} or (reduction != "none" and weights.ndim > 0):
        raise ValueError(
            f"cotangent must be a number (or have shape {x.shape[:1]} for 'none'), got {weights.shape}"
        )
    each_row = np.array(np.broadcast_to(weights, x.shape[:1]))
    divisor = float(x.shape[0]) if reduction == "mean" else 1.0
    finite = _finite_rows(x, y)
    gx, gy = gradients(np.nan_to_num(x), np.nan_to_num(y), (tau, eps, divisor), each_row, finite)
    return to_floats(gx), to_floats(gy)
