"""No host synchronisation: the call runs on tensors that have shapes and no numbers."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode

from refimpl.conformance.adapters.torch import TorchAdapter
from refimpl.conformance.batch import map_tree
from refimpl.conformance.properties.base import Probe, Property
from refimpl.conformance.target import raised

__all__ = ["SYNC"]


def sync(probe: Probe) -> str:
    """Value and gradient on fake tensors, on "meta", and on CUDA with synchronisation forbidden."""
    adapter = probe.subject.adapter
    assert isinstance(adapter, TorchAdapter)
    for where, place in (("on fake tensors", _on_fake), ("on the device 'meta'", _on_meta)):
        message = _traced(probe, adapter, where, place)
        if message:
            return message
    return _on_cuda(probe, adapter) if adapter.device.startswith("cuda") else ""


class _Watch(TorchDispatchMode):
    """Remembers what could not be told without a number, also where the target goes on without it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = ""

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        _types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        try:
            return func(*args, **(kwargs or {}))
        except DataDependentOutputException as error:
            self.seen = self.seen or f"reads a value back to the host: {error}"
            raise
        except DynamicOutputShapeException as error:
            self.seen = self.seen or f"makes a shape that only the values know: {error}"
            raise


def _traced(probe: Probe, adapter: TorchAdapter, where: str, place: Callable[..., Any]) -> str:
    arguments, wanted = adapter.tensors(probe.subject, probe.batch)
    prefix, watch = f"{where}, which have a shape and no numbers, the call", _Watch()
    try:
        with warnings.catch_warnings(), place(arguments) as emptied, watch:
            warnings.simplefilter("ignore")
            result, gradients = _differentiated(probe, adapter, emptied, tuple(wanted))
    except Exception as error:  # noqa: BLE001 - whatever a foreign implementation raises is the finding
        return f"{prefix} {watch.seen or raised(error)}"
    if watch.seen:
        return f"{prefix} {watch.seen}"
    return _other_form(probe, where, result, gradients, wanted)


def _other_form(
    probe: Probe,
    where: str,
    result: torch.Tensor,
    gradients: Mapping[str, Any],
    wanted: Mapping[str, torch.Tensor],
) -> str:
    """What differs in shape or dtype from the answer to numbers."""
    value = probe.outcome.value
    assert value is not None
    found = (tuple(result.shape), str(result.dtype).removeprefix("torch."))
    if found != (value.shape, probe.outcome.dtype):
        return f"{where} shape and dtype are {found}, with numbers {(value.shape, probe.outcome.dtype)}"
    for path, gradient in gradients.items():
        if gradient is not None and gradient.shape != wanted[path].shape:
            shapes = f"{tuple(gradient.shape)}, with numbers {tuple(wanted[path].shape)}"
            return f"{where} the gradient of {path} has shape {shapes}"
    return ""


def _differentiated(
    probe: Probe, adapter: TorchAdapter, arguments: dict[str, Any], paths: tuple[str, ...]
) -> tuple[torch.Tensor, dict[str, Any]]:
    wanted: dict[str, torch.Tensor] = {}

    def mark(path: str, tensor: Any) -> Any:
        if path in paths:
            wanted[path] = tensor.requires_grad_()
        return tensor

    result = adapter.apply(probe.subject, probe.batch, map_tree(mark, arguments))
    if not wanted or not result.requires_grad:
        return result, {}
    seed = torch.ones_like(result)
    found = torch.autograd.grad(result, list(wanted.values()), seed, allow_unused=True)
    return result, dict(zip(wanted, found, strict=True))


@contextmanager
def _on_fake(arguments: dict[str, Any]) -> Iterator[dict[str, Any]]:
    # the target may hold real constants
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:

        def imitate(_: str, tensor: Any) -> torch.Tensor:
            return mode.from_tensor(tensor.detach())

        yield map_tree(imitate, arguments)


@contextmanager
def _on_meta(arguments: dict[str, Any]) -> Iterator[dict[str, Any]]:
    def empty(_: str, tensor: Any) -> torch.Tensor:
        return torch.empty_like(tensor, device="meta")

    yield map_tree(empty, arguments)


def _on_cuda(probe: Probe, adapter: TorchAdapter) -> str:
    arguments, wanted = adapter.tensors(probe.subject, probe.batch)
    torch.cuda.synchronize()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        _differentiated(probe, adapter, arguments, tuple(wanted))
    except Exception as error:  # noqa: BLE001 - whatever a foreign implementation raises is the finding
        return f"under torch.cuda.set_sync_debug_mode('error') the call {raised(error)}"
    finally:
        torch.cuda.set_sync_debug_mode(before)
    return ""


SYNC = Property(
    "sync",
    "no call waits for the device or has a shape that only the values know",
    "batch",
    sync,
    frozenset({"torch"}),
    every=4,
    most=16,
)
