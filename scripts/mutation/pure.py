"""What lets the oracles' Numba kernels run as plain Python with the same IEEE results.

Numba's arithmetic never raises: x / 0 is inf, the logarithm of 0 is -inf. Python's does; these stand-ins do
not. Integers may grow beyond 64 bits here, where the kernels never let them.
"""

from __future__ import annotations

import functools
import math as _math
import types as _types
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit as _compiled

from refimpl.arithmetic import fma as _fma

__all__ = ["divide", "fma", "intrinsic", "math", "njit", "overload", "types"]


def njit(*functions: Any, **_options: Any) -> Any:
    """Return the function as it is, or a decorator that does."""
    return functions[0] if functions else lambda function: function


def intrinsic(function: Any) -> Any:
    """Nothing is generated for plain Python."""
    return function


def overload(_function: Any) -> Callable[[Any], Any]:
    """Nothing is replaced in plain Python."""
    return lambda implementation: implementation


types = _types.SimpleNamespace()


@_compiled(error_model="numpy")
def fma(a: float, b: float, c: float) -> float:
    """The machine's fused a b + c; the oracles' Python version goes through fractions."""
    return _fma(a, b, c)


@_compiled(error_model="numpy")
def _quotient(a: float, b: float) -> float:
    return a / b


def divide(a: Any, b: Any) -> Any:
    """Return a / b as IEEE says."""
    if isinstance(a, float | int) and isinstance(b, float | int):
        return a / b if b else _quotient(float(a), float(b))
    with np.errstate(all="ignore"):
        return np.divide(a, b)


def _quiet(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with NumPy's answer where Python raises."""
    by_numpy = getattr(np, function.__name__)

    @functools.wraps(function)
    def called(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except (ValueError, OverflowError):
            with np.errstate(all="ignore"):
                return float(by_numpy(*arguments))

    return called


def _ldexp(x: float, n: int) -> float:
    with np.errstate(all="ignore"):
        return float(np.ldexp(x, int(max(min(n, 2**30), -(2**30)))))


math = _types.SimpleNamespace(
    **{name: getattr(_math, name) for name in dir(_math) if not name.startswith("_")},
)
for _name in ("log", "log1p", "exp", "expm1", "sqrt"):
    setattr(math, _name, _quiet(getattr(_math, _name)))
math.ldexp = _ldexp
