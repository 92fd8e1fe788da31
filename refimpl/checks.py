"""What the oracles refuse, in one place: every error names the argument, what came and what is allowed."""

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array: TypeAlias = NDArray[np.float64]

REDUCTIONS = ("mean", "sum", "none")


def as_float64(name: str, value: ArrayLike) -> Array:
    """Convert a real array (float16/32/64 or integer) to a C-contiguous float64 array of the same shape.

    Exact for floats and for integers up to 2^53.

    Raises:
        TypeError: for bool, complex, object and text data.

    Example:
        >>> as_float64("x", np.float16([1.5, 2.0]))
        array([1.5, 2. ])
    """
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} must hold floats or integers, got dtype {array.dtype}")
    return np.array(array, dtype=np.float64, order="C")  # np.ascontiguousarray would turn 0-dim into 1-dim


def same_shape(name_a: str, a: NDArray[Any], name_b: str, b: NDArray[Any]) -> None:
    """Refuse different shapes: no loss broadcasts.

    Raises:
        ValueError: naming both arguments and both shapes.

    Example:
        >>> same_shape("preds", np.zeros(3), "targets", np.zeros((3, 1)))
        Traceback (most recent call last):
        ValueError: preds and targets must have the same shape, got (3,) and (3, 1)
    """
    if a.shape != b.shape:
        raise ValueError(f"{name_a} and {name_b} must have the same shape, got {a.shape} and {b.shape}")


def check_reduction(reduction: str, allowed: tuple[str, ...] = REDUCTIONS) -> None:
    """Refuse an unknown reduction.

    Raises:
        ValueError: naming what came and the allowed ones.

    Example:
        >>> check_reduction("avg")
        Traceback (most recent call last):
        ValueError: reduction must be one of 'mean', 'sum', 'none', got 'avg'
    """
    if reduction not in allowed:
        raise ValueError(f"reduction must be one of {', '.join(map(repr, allowed))}, got {reduction!r}")


def check_mask(name: str, mask: ArrayLike) -> NDArray[np.bool_]:
    """Return the mask as a C-contiguous bool array.

    Raises:
        TypeError: for any other dtype; integer masks index and float masks weigh, neither is meant.

    Example:
        >>> check_mask("mask", np.array([0, 1]))
        Traceback (most recent call last):
        TypeError: mask must be a bool array (True = counted), got dtype int64; use mask.astype(bool)
    """
    array = np.asarray(mask)
    if array.dtype != np.bool_:
        raise TypeError(
            f"{name} must be a bool array (True = counted), got dtype {array.dtype}; use {name}.astype(bool)"
        )
    return np.array(array, dtype=np.bool_, order="C")


def check_options(loss: str, options: Mapping[str, Any], allowed: tuple[str, ...]) -> None:
    """Refuse options that a wrapper does not know.

    Raises:
        TypeError: naming the option and the allowed ones.

    Example:
        >>> check_options("nll_loss", {"tau": 1.0}, ("reduction",))
        Traceback (most recent call last):
        TypeError: nll_loss got an unknown option 'tau', allowed: 'reduction'
    """
    for option in options:
        if option not in allowed:
            names = ", ".join(map(repr, allowed)) or "none"
            raise TypeError(f"{loss} got an unknown option {option!r}, allowed: {names}")


def path_of(root: str, *keys: str) -> str:
    """How an error writes a nested key.

    Example:
        >>> path_of("model_outputs", "r1", "mu")
        "model_outputs['r1']['mu']"
    """
    return root + "".join(f"[{key!r}]" for key in keys)


def entry(root: str, mapping: Mapping[str, Any], *keys: str) -> Any:
    """Look up a nested key.

    Raises:
        KeyError: naming the missing path and the keys that are there.

    Example:
        >>> entry("batch", {"r1": {"reads": 3}}, "r1", "mu")
        Traceback (most recent call last):
        KeyError: "batch['r1']['mu'] is missing, keys present: 'reads'"
    """
    value: Any = mapping
    for depth, key in enumerate(keys):
        if key not in value:
            present = ", ".join(repr(name) for name in value) or "none"
            raise KeyError(f"{path_of(root, *keys[: depth + 1])} is missing, keys present: {present}")
        value = value[key]
    return value


def aligned(path_a: str, a: Array, path_b: str, b: Array) -> Array:
    """Return the parameter a in the shape of the counts b.

    The same shape stays; (B, 1) and (B,) are the same batch; a 0-dim a is a constant for the whole batch.

    Raises:
        ValueError: for any other pair of shapes, naming both paths and both shapes.

    Example:
        >>> aligned("mu", np.zeros((3, 1)), "reads", np.zeros(3)).shape
        (3,)
        >>> aligned("mu", np.zeros(2), "reads", np.zeros(3))
        Traceback (most recent call last):
        ValueError: mu and reads must be the same batch, got shapes (2,) and (3,)
    """
    if a.shape == b.shape:
        return a
    if a.ndim == 0:
        return np.full(b.shape, a[()])
    if sorted((a.ndim, b.ndim)) == [1, 2] and a.shape[:1] == b.shape[:1] and a.size == b.size:
        return a.reshape(b.shape)
    raise ValueError(f"{path_a} and {path_b} must be the same batch, got shapes {a.shape} and {b.shape}")


def unaligned(gradient: Array, shape: tuple[int, ...]) -> Array:
    """Give the gradient of an `aligned` parameter the parameter's own shape back.

    For a 0-dim parameter that is the sum over the batch, correctly rounded from the given (rounded) elements:
    its error is up to half an ulp of every element, which counts where they cancel.

    Example:
        >>> unaligned(np.array([1.0, 1e100, -1e100]), ())
        array(1.)
    """
    if shape != () or gradient.ndim == 0:
        return gradient.reshape(shape)
    if not np.isfinite(gradient).all():
        with np.errstate(invalid="ignore"):
            return np.asarray(gradient.sum())
    # fsum refuses intermediate overflow, so a huge gradient is summed at 2^-64 and scaled back
    exponent = 64 if np.abs(gradient).max(initial=0.0) > 2.0**900 else 0
    with np.errstate(over="ignore"):
        return np.asarray(np.ldexp(math.fsum(np.ldexp(gradient, -exponent).flat), exponent))
