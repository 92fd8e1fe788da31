"""The loss under the transformations of its framework: each answer is held to the exact one and its bound."""

import functools
import itertools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.distributions import Distribution

from refimpl.conformance.adapters.torch import TorchAdapter, numpy, outcome, vmapped
from refimpl.conformance.batch import Array, Batch, leaves, map_tree
from refimpl.conformance.outcome import Outcome
from refimpl.conformance.properties.base import Finding, Probe, Property
from refimpl.conformance.properties.calls import first
from refimpl.conformance.properties.integers import INTEGERS
from refimpl.conformance.properties.judge import Truth, judge, truth
from refimpl.conformance.properties.modules import MODULE
from refimpl.conformance.properties.sync import SYNC
from refimpl.conformance.spec import SMOOTH
from refimpl.conformance.target import raised

__all__ = ["TRANSFORMATIONS"]

LAYOUTS = ("strided", "transposed", "offset", "expanded")
SEVERAL = (*SMOOTH, "mixed magnitudes", "NaN under the mask", "identical replicates")
TORCH, LAYOUT = frozenset({"torch"}), frozenset({"layout"})


def _torch(probe: Probe) -> TorchAdapter:
    assert isinstance(probe.subject.adapter, TorchAdapter)
    return probe.subject.adapter


@contextmanager
def _quiet() -> Iterator[None]:
    """What torch says about its own transformations is not about the target."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _held(
    probe: Probe,
    produce: Callable[[], Outcome],
    prefix: str,
    batch: Batch | None = None,
    exact: Truth | None = None,
) -> str:
    """What is wrong with the answer that `produce` gives; nothing if it is right."""
    try:
        with _quiet():
            answer = produce()
    except Exception as error:  # noqa: BLE001 - whatever a foreign implementation raises is the finding
        return prefix + raised(error)
    found = judge(probe.subject.spec, batch or probe.batch, exact or probe.exact, answer)
    return first(found.findings, prefix)


def _answer(function: Callable[..., Any], arguments: dict[str, Any], wanted: dict[str, Any]) -> Outcome:
    return outcome(function(*arguments.values()), wanted)


def layout(probe: Probe) -> Finding | None:
    """Arrays that are not contiguous, or share memory among their rows."""
    for name in LAYOUTS:
        batch = replace(_rows_equal(probe.batch) if name == "expanded" else probe.batch, layout=name)
        try:
            exact = truth(probe.subject.spec, batch) if name == "expanded" else probe.exact
        except ValueError:  # too expensive for the oracle
            continue
        found = judge(probe.subject.spec, batch, exact, probe.subject.execute(batch)).findings
        if found:
            return Finding("layout", f"with {name} arguments: {found[0][1]}", batch)
    return None


def _rows_equal(batch: Batch) -> Batch:
    def repeat(_: str, array: Array) -> Array:
        return array[:1].repeat(len(array), 0) if array.ndim else array

    return batch.with_arguments(map_tree(repeat, dict(batch.arguments)))


def vmap(probe: Probe) -> Finding | str:
    """Two problems as one, in all arguments and in the first alone."""
    batch = replace(probe.batch, layout="vmap")
    whole = functools.partial(_torch(probe).evaluate, probe.subject, batch)
    message = _held(probe, whole, "under torch.func.vmap: ")
    if message:
        return Finding("vmap", message, batch)
    arguments, wanted = _torch(probe).tensors(probe.subject, probe.batch)
    mapped = functools.partial(vmapped, probe.subject.function(probe.batch), only_first=True)
    prefix = f"under torch.func.vmap over {next(iter(arguments))} alone: "
    return _held(probe, functools.partial(_answer, mapped, arguments, wanted), prefix)


def functional(probe: Probe) -> str:
    """`torch.func.grad` with respect to all differentiable arguments at once, and `vmap` of it."""
    if not probe.exact.gradients:
        return ""
    plain = functools.partial(_functional, probe, lambda gradient, *trees: gradient(*trees))
    mapped = functools.partial(_functional, probe, vmapped)
    return _held(probe, plain, "torch.func.grad: ") or _held(
        probe, mapped, "torch.func.vmap of torch.func.grad: "
    )


def _functional(probe: Probe, call: Callable[..., Any]) -> Outcome:
    arguments, wanted = _torch(probe).tensors(probe.subject, probe.batch)
    function = probe.subject.function(probe.batch)

    def detach(_: str, tensor: Any) -> Any:
        return tensor.detach()

    def loss(given: dict[str, torch.Tensor], rest: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        result = function(*map_tree(given.get, rest).values())
        return result.sum(), result

    given = {path: tensor.detach() for path, tensor in wanted.items()}
    gradients, result = call(torch.func.grad(loss, has_aux=True), given, map_tree(detach, arguments))
    dtype = str(result.dtype).removeprefix("torch.")
    return Outcome(numpy(result), dtype, {path: numpy(part) for path, part in gradients.items()})


def compiled(probe: Probe) -> str:
    """`torch.compile(fullgraph=True, dynamic=True)`, called with two batch sizes."""
    validated = Distribution._validate_args  # noqa: SLF001 - no public way to read it
    torch._dynamo.reset()  # noqa: SLF001 - its documented name
    try:
        return _compiled(probe)
    finally:
        torch._dynamo.reset()  # noqa: SLF001
        # the compiler switches it off for the whole process
        Distribution.set_default_validate_args(validated)


def _compiled(probe: Probe) -> str:
    subject, adapter = probe.subject, _torch(probe)
    function: Any = None
    for rows, batch in _sizes(probe.batch):
        try:
            exact = truth(subject.spec, batch)
        except ValueError:  # the oracle knows no batch of this size
            continue
        arguments, wanted = adapter.tensors(subject, batch)
        if function is None:
            with _quiet():
                traceable = adapter.traceable(subject, batch, arguments)
                function = torch.compile(traceable, fullgraph=True, dynamic=True, backend="aot_eager")
        call = functools.partial(_answer, function, arguments, wanted)
        prefix = f"torch.compile(fullgraph=True, dynamic=True), {rows} rows: "
        message = _held(probe, call, prefix, batch, exact)
        if message:
            return message
    return ""


def _sizes(batch: Batch) -> Iterator[tuple[int, Batch]]:
    """The batch twice and thrice as long: a length of 1 is compiled as a constant."""
    lengths = [len(array) for _, array in leaves(dict(batch.arguments)) if array.ndim]
    # an option of the length of the arguments cannot grow with them
    if any(isinstance(option, list | tuple) for option in batch.options.values()) or not lengths:
        yield max(lengths, default=1), batch
        return
    for times in (2, 3):

        def grow(_: str, array: Array, times: int = times) -> Array:
            grows = array.ndim and len(array) == lengths[0]
            return np.concatenate([array] * times) if grows else array

        yield times * lengths[0], batch.with_arguments(map_tree(grow, dict(batch.arguments)))


def autocast(probe: Probe) -> str:
    """Under autocast the answer is what it is without."""
    kind = torch.device(_torch(probe).device).type

    def answer() -> Outcome:
        with torch.autocast(kind, dtype=torch.bfloat16):
            result, wanted = _torch(probe).call(probe.subject, probe.batch)
        return outcome(result, wanted)

    return _held(probe, answer, f"under torch.autocast({kind!r}, dtype=torch.bfloat16): ")


def two_forwards(probe: Probe) -> str:
    """Two calls before the first is differentiated."""
    other = _reversed(probe.batch)
    try:
        exact = truth(probe.subject.spec, other)
    except ValueError:  # too expensive for the oracle
        return ""
    pairs = ((probe.batch, probe.exact), (other, exact))
    try:
        calls = [_torch(probe).call(probe.subject, batch) for batch, _ in pairs]
    except Exception as error:  # noqa: BLE001 - whatever a foreign implementation raises is the finding
        return f"the second of two calls {raised(error)}"
    for word, pair, call in zip(("first", "second"), pairs, calls, strict=True):
        prefix = f"two calls, then the backward of the {word}: "
        message = _held(probe, functools.partial(outcome, *call), prefix, *pair)
        if message:
            return message
    return ""


def _reversed(batch: Batch) -> Batch:
    """The same shapes with other numbers of the same domain: every second array is reversed."""
    turn = itertools.count()

    def change(_: str, array: Array) -> Array:
        return np.flip(array).copy() if next(turn) % 2 == 0 else array

    return batch.with_arguments(map_tree(change, dict(batch.arguments)))


TRANSFORMATIONS: tuple[Property, ...] = (
    Property("layout", "strides are no part of the answer", "batch", layout, LAYOUT, every=4, most=24),
    Property("vmap", "torch.func.vmap gives what single calls give", "batch", vmap, TORCH, every=4, most=24),
    Property(
        "func.grad",
        "torch.func.grad, and vmap of it, give the gradient",
        "batch",
        functional,
        TORCH,
        every=4,
        most=24,
    ),
    Property(
        "compile",
        "one graph of symbolic shapes, torch.compile(fullgraph=True, dynamic=True), changes nothing",
        "batch",
        compiled,
        TORCH,
        ("float32", "float64"),
        families=SEVERAL,
        every=4,
        most=1,
    ),
    Property("autocast", "autocast changes nothing", "batch", autocast, TORCH, every=5, most=12),
    Property(
        "two forwards",
        "two calls may come before the first backward",
        "batch",
        two_forwards,
        TORCH,
        families=SEVERAL,
        every=3,
        most=12,
    ),
    SYNC,
    MODULE,
    INTEGERS,
)
