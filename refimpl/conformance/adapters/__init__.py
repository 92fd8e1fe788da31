"""How arrays reach an implementation and come back: PyTorch, NumPy and JAX, or your own.

An adapter is a small object with the attributes of `Adapter`. The engine holds every batch as numpy arrays
and every answer as float64; the adapter makes arrays of its framework, calls the loss and brings value and
gradients back.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

from refimpl.conformance.batch import Batch
from refimpl.conformance.outcome import Outcome
from refimpl.conformance.target import Subject

__all__ = ["ADAPTERS", "FEATURES", "Adapter", "get_adapter"]

FEATURES = frozenset({"graph", "second derivative", "layout", "vmap", "torch"})


@runtime_checkable
class Adapter(Protocol):
    """What the engine asks of a framework.

    Attributes:
        name: for messages and reports.
        dtypes: names of the formats that the framework has.
        features: which properties can be asked: "graph" (gradients come from a graph that may be cut, and
            inputs may be differentiated one by one), "second derivative" (`hessian_product` exists), "layout"
            (arrays have strides), "vmap", "torch" (calls of the contract that are written in PyTorch).
    """

    name: str
    dtypes: tuple[str, ...]
    features: frozenset[str]

    def scope(self) -> dict[str, Any]:
        """Names that the source text of a call may use beside `target`, arguments and options."""
        ...

    def evaluate(self, subject: Subject, batch: Batch, *, cotangent: float = 1.0, only: str = "") -> Outcome:
        """Call `subject.function(batch)`; differentiate the sum of the results times `cotangent`.

        Whatever this raises is reported as the target's exception.
        """
        ...

    def literal(self, array: Any, dtype: str) -> str:
        """Source text that makes an array, for a snippet."""
        ...


def _torch(device: str) -> Adapter:
    from refimpl.conformance.adapters.torch import TorchAdapter  # noqa: PLC0415 - needs torch

    return TorchAdapter(device)


def _numpy(device: str) -> Adapter:
    from refimpl.conformance.adapters.numpy import NumpyAdapter  # noqa: PLC0415 - like its sisters

    _on_cpu("numpy", device)
    return NumpyAdapter()


def _jax(device: str) -> Adapter:
    from refimpl.conformance.adapters.jax import JaxAdapter  # noqa: PLC0415 - needs jax

    _on_cpu("jax", device)
    return JaxAdapter()


def _on_cpu(name: str, device: str) -> None:
    if device != "cpu":
        raise ValueError(f"device must be 'cpu' for the adapter {name!r}, got {device!r}")


ADAPTERS: dict[str, Callable[[str], Adapter]] = {"torch": _torch, "numpy": _numpy, "jax": _jax}


def get_adapter(adapter: str | Adapter, device: str = "cpu") -> Adapter:
    """The adapter of that name, or the given one.

    Args:
        adapter: "torch", "numpy", "jax", "module:attribute" of an adapter object, or such an object.
        device: where tensors live, "cpu" or "cuda" (torch only).

    Raises:
        ValueError: no such adapter, or it cannot use the device.
        TypeError: the object lacks what an adapter must have.
        ImportError: its framework is not installed.

    Example:
        >>> get_adapter("numpy").dtypes
        ('float16', 'float32', 'float64')
    """
    found: Any = adapter
    if isinstance(adapter, str):
        if adapter in ADAPTERS:
            return ADAPTERS[adapter](device)
        module, colon, attribute = adapter.partition(":")
        if not colon:
            known = ", ".join(ADAPTERS)
            raise ValueError(
                f"adapter {adapter!r} is not one of {known} and not of the form MODULE:ATTRIBUTE"
            )
        found = getattr(import_module(module), attribute)
    if not isinstance(found, Adapter):
        raise TypeError(
            f"an adapter has name, dtypes, features, scope, evaluate, literal; {found!r} lacks some"
        )
    return found
