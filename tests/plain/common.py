"""What every plain loss shares: checks, the reduction, and the way back from extended precision.

All arithmetic happens in `np.longdouble`: 64 bits of significand against the 53 of float64, and exponents
up to 2^16383, so that squares of float64 numbers neither overflow nor underflow and nothing is rescaled.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Long: TypeAlias = npt.NDArray[np.longdouble]

LONG = np.longdouble
REDUCTIONS = ("mean", "sum", "none")
REPLICATES = ("r1", "r2")
FLOATS = (np.float16, np.float32, np.float64)


def checked(name: str, value: Any) -> Array:
    """The argument as an array of floats or integers; TypeError for anything else."""
    kind = getattr(value, "dtype", None)
    if kind is None or not (kind in FLOATS or kind.kind in "iu"):
        what = type(value).__name__ if kind is None else f"an array of {kind}"
        raise TypeError(f"{name} must be an array of float16, float32, float64 or integers, got {what}")
    return np.asarray(value)


def long(array: Array) -> Long:
    """Exactly the same numbers with room for their squares."""
    return array.astype(LONG)


def each(function: Callable[..., Any], *columns: Long) -> Long:
    """The function of every row of the columns, called once for equal rows."""
    known: dict[tuple[Any, ...], Any] = {}
    found = []
    for row in zip(*columns, strict=True):
        if row not in known:
            known[row] = function(*row)
        found.append(known[row])
    return np.array(found, LONG)


def check_shapes(**arrays: Array) -> None:
    """ValueError that names both shapes, unless all are equal."""
    (first, reference), *others = arrays.items()
    for name, array in others:
        if array.shape != reference.shape:
            raise ValueError(
                f"{name} must have the shape of {first}, {reference.shape}, got {array.shape}: "
                "nothing is broadcast"
            )


def check_reduction(reduction: str, allowed: tuple[str, ...] = REDUCTIONS) -> None:
    """ValueError for an unknown reduction."""
    if reduction not in allowed:
        raise ValueError(f"reduction must be one of {', '.join(allowed)}, got {reduction!r}")


def entry(root: str, tree: Any, *keys: str) -> Any:
    """The value below nested keys; KeyError with the path of what is missing."""
    path = root
    for key in keys:
        if not isinstance(tree, Mapping):
            raise TypeError(f"{path} must be a mapping, got {type(tree).__name__}")
        path += f"[{key!r}]"
        if key not in tree:
            raise KeyError(f"{path} is missing, present: {', '.join(map(str, tree))}")
        tree = tree[key]
    return tree


def aligned(name: str, parameter: Array, reads: Array) -> Long:
    """A parameter in the shape of its reads: equal, 0-dim, or one of the two (B, 1) and the other (B,)."""
    columns = {(*reads.shape, 1), reads.shape}
    if reads.ndim == 2 and reads.shape[1] == 1:
        columns.add(reads.shape[:1])
    if parameter.shape == ():
        return long(np.broadcast_to(parameter, reads.shape))
    if parameter.shape not in columns:
        raise ValueError(f"{name} has shape {parameter.shape}, its reads have {reads.shape}")
    return long(parameter).reshape(reads.shape)


def scalar(value: Any, *inputs: Array) -> Array:
    """A reduced value in the promoted dtype of the inputs, float32 at least."""
    return _saturated(value, np.promote_types(_promoted(inputs), np.float32))


def elementwise(values: Long, *inputs: Array) -> Array:
    """Elementwise results in the promoted dtype of the inputs, half by way of float32."""
    dtype = _promoted(inputs)
    return _saturated(_saturated(values, np.promote_types(dtype, np.float32)), dtype)


def reduced(terms: Long, reduction: str, *inputs: Array) -> Array:
    """Mean, sum or the terms themselves; 0 for the mean of nothing."""
    if reduction == "none":
        return elementwise(terms, *inputs)
    return scalar(terms.sum() / divisor(terms.size, reduction), *inputs)


def divisor(count: int, reduction: str) -> int:
    """What the sum is divided by; 1 for the mean of nothing, whose sum is 0."""
    return max(count, 1) if reduction == "mean" else 1


def gradient(slope: Any, cotangent: float, like: Array) -> Array | None:
    """Slopes times the incoming gradient in shape and dtype of the input; None for integers.

    A 0-dim input has stood for every element: its gradient is their sum. An incoming 0 gives 0, whatever
    the slope.
    """
    if like.dtype.kind != "f":
        return None
    slopes = np.asarray(slope, LONG) * LONG(cotangent) if cotangent else np.zeros(np.shape(slope), LONG)
    if like.shape == ():
        return np.asarray(slopes.sum()).astype(like.dtype)
    return slopes.reshape(like.shape).astype(like.dtype)


def _promoted(inputs: tuple[Array, ...]) -> np.dtype[Any]:
    """The widest float among the arrays, among the 0-dim ones only where there is no other."""
    floats = [array for array in inputs if array.dtype.kind == "f"]
    widest = [array.dtype for array in floats if array.ndim] or [array.dtype for array in floats]
    return np.result_type(*widest) if widest else np.dtype(np.float64)


def _saturated(values: Any, dtype: np.dtype[Any]) -> Array:
    """Rounded; what was finite stays so."""
    exact = np.asarray(values)
    largest = np.finfo(dtype).max
    return np.where(np.isfinite(exact), np.clip(exact, -largest, largest), exact).astype(dtype)
