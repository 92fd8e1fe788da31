"""Triton, or a stand-in with which the modules of the CUDA kernel can be imported without it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__all__ = ["installed", "jit", "tl"]


class Absent:
    """Decorators and constants that give back what they are given: functions to be named, never run.

    Example:
        >>> Absent().jit(abs) is abs, Absent().jit(do_not_specialize=["n"])(abs) is abs
        (True, True)
        >>> Absent().constexpr((1.0, 2.0))
        (1.0, 2.0)
    """

    @classmethod
    def jit(cls, function: Any = None, **_options: Any) -> Any:
        """Leave the function as it is; with options, be the decorator that does."""
        return cls.jit if function is None else function

    @staticmethod
    def constexpr(value: Any) -> Any:
        """Leave the constant as it is."""
        return value


def found() -> tuple[Any, Any]:
    """Triton and its language, or the stand-in for both."""
    try:
        return importlib.import_module("triton"), importlib.import_module("triton.language")
    except ImportError:
        return Absent(), Absent()


if TYPE_CHECKING:
    import triton
    import triton.language as tl
else:
    triton, tl = found()

jit = triton.jit
installed = not isinstance(triton, Absent)
