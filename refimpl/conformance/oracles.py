"""Oracles and bounds, found by name on first use."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

__all__ = ["deferred", "oracle"]


def oracle(module: str, name: str) -> Callable[..., Any]:
    """The function `refimpl.<module>.<name>`.

    Example:
        >>> oracle("bounds.precision", "gamma").__name__
        'gamma'
    """
    function: Callable[..., Any] = getattr(import_module(f"refimpl.{module}"), name)
    return function


def deferred(module: str, name: str) -> Callable[..., Any]:
    """The same function, imported when it is first called.

    Example:
        >>> deferred("bounds.precision", "gamma")(1, 0.5)
        1.0
    """

    def call(*arguments: Any, **options: Any) -> Any:
        return oracle(module, name)(*arguments, **options)

    return call
