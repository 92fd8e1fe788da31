"""Every refusal in one place, and the dtype rules that all losses share.

A check names the argument, what came and what is allowed; none of them looks at the values inside a tensor.
"""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Iterable
from functools import reduce as fold

import torch
from torch import Tensor

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGER = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
HALF = (torch.float16, torch.bfloat16)


def require_tensor(name: str, value: object) -> Tensor:
    """Return `value` if it is a dense real tensor of a supported dtype.

    Args:
        name: the argument's name, for the message.
        value: what came.

    Raises:
        TypeError: not a tensor, not dense, or complex, bool or quantised.

    Example:
        >>> require_tensor("x", torch.zeros(2)).shape
        torch.Size([2])
        >>> require_tensor("x", [1.0, 2.0])
        Traceback (most recent call last):
        TypeError: x must be a torch.Tensor, got list
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if value.layout is not torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got layout {value.layout}; call .to_dense() first")
    if value.dtype not in FLOATING + INTEGER:
        allowed = "float16, bfloat16, float32, float64 or an integer dtype"
        raise TypeError(f"{name} must have dtype {allowed}, got {value.dtype}")
    return value


def same_shape(name_a: str, a: Tensor, name_b: str, b: Tensor) -> None:
    """Refuse different shapes: nothing is ever broadcast.

    Raises:
        ValueError: the shapes differ; the message names both.

    Example:
        >>> same_shape("a", torch.zeros(3, 1), "b", torch.zeros(3))
        Traceback (most recent call last):
        ValueError: a and b must have the same shape, got (3, 1) and (3,)
    """
    if a.shape != b.shape:
        raise ValueError(
            f"{name_a} and {name_b} must have the same shape, got {tuple(a.shape)} and {tuple(b.shape)}"
        )


def reduction(value: object, allowed: tuple[str, ...]) -> str:
    """Return the reduction if it is one of `allowed`.

    Raises:
        TypeError: not a string.
        ValueError: an unknown name; the message lists the allowed ones.

    Example:
        >>> reduction("avg", ("mean", "sum"))
        Traceback (most recent call last):
        ValueError: reduction must be one of 'mean', 'sum', got 'avg'
    """
    names = ", ".join(repr(name) for name in allowed)
    if not isinstance(value, str):
        raise TypeError(f"reduction must be one of {names}, got {type(value).__name__}")
    if value not in allowed:
        raise ValueError(f"reduction must be one of {names}, got {value!r}")
    return value


def real_number(name: str, value: object) -> float:
    """Return `value` as a float if it is a real number, bool and tensor excluded.

    Raises:
        TypeError: anything that is not an int or a float (numpy's floats included).

    Example:
        >>> real_number("tau", 2)
        2.0
        >>> real_number("tau", True)
        Traceback (most recent call last):
        TypeError: tau must be a real number, got bool
    """
    # int and float come first: they are all that torch.compile has to trace; Real knows numpy's scalars
    if not isinstance(value, bool) and isinstance(value, (int, float, numbers.Real)):
        return float(value)
    raise TypeError(f"{name} must be a real number, got {type(value).__name__}")


def positive_finite(name: str, value: object) -> float:
    """Return `value` as a float if it is a finite number above zero.

    Raises:
        TypeError: not a real number.
        ValueError: zero, negative, NaN or infinite.

    Example:
        >>> positive_finite("tau", 0.0)
        Traceback (most recent call last):
        ValueError: tau must be finite and > 0, got 0.0
    """
    number = real_number(name, value)
    if not 0.0 < number < math.inf:
        raise ValueError(f"{name} must be finite and > 0, got {value!r}")
    return number


def non_negative_finite(name: str, value: object) -> float:
    """Return `value` as a float if it is a finite number, zero or above.

    Raises:
        TypeError: not a real number.
        ValueError: negative, NaN or infinite.

    Example:
        >>> non_negative_finite("eps", -1e-8)
        Traceback (most recent call last):
        ValueError: eps must be finite and >= 0, got -1e-08
    """
    number = real_number(name, value)
    if not 0.0 <= number < math.inf:
        raise ValueError(f"{name} must be finite and >= 0, got {value!r}")
    return number


def nearest(name: str, known: Iterable[str]) -> str:
    """The tail of a message about an unknown name: the known ones, and the nearest of them.

    Example:
        >>> nearest("nll_los", ["nll_loss", "mse"])
        "known: 'mse', 'nll_loss'; did you mean 'nll_loss'?"
    """
    names = sorted(known)
    guess = difflib.get_close_matches(str(name), names, n=1)
    listing = "known: " + ", ".join(repr(known_name) for known_name in names)
    return listing + (f"; did you mean {guess[0]!r}?" if guess else "")


def elementwise_dtype(*tensors: Tensor) -> torch.dtype:
    """The promoted dtype of `tensors`: what a result per element has.

    Integers promote to the floating dtypes beside them, alone to `torch.get_default_dtype()`; a 0-dim tensor
    is a constant and does not widen the tensors with dimensions (as in `torch.result_type`).

    Example:
        >>> elementwise_dtype(torch.zeros(2, dtype=torch.float16), torch.zeros(2, dtype=torch.int64))
        torch.float16
        >>> elementwise_dtype(torch.zeros(2), torch.tensor(1.0, dtype=torch.float64))
        torch.float32
    """
    floating = [t for t in tensors if t.is_floating_point()]
    dimensioned = [t for t in floating if t.dim() > 0]
    candidates = [t.dtype for t in dimensioned or floating] or [torch.get_default_dtype()]
    return fold(torch.promote_types, candidates)


def result_dtype(*tensors: Tensor) -> torch.dtype:
    """The dtype of a scalar loss of `tensors`: the promoted one, float32 for the half dtypes.

    Example:
        >>> result_dtype(torch.zeros(2, dtype=torch.bfloat16))
        torch.float32
    """
    dtype = elementwise_dtype(*tensors)
    return torch.float32 if dtype in HALF else dtype


def working_dtype(*tensors: Tensor) -> torch.dtype:
    """The dtype for internals: float64, float32 on devices that have no float64.

    Example:
        >>> working_dtype(torch.zeros(2))
        torch.float64
    """
    return torch.float32 if any(t.device.type == "mps" for t in tensors) else torch.float64
