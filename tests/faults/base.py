"""What a planted fault is, and the three kinds of right implementations that faults are planted in.

`exact` is the oracle, rounded once: right wherever the oracle is. The classes in the rooms are plain torch
code in float64: right on the families their faults are asked about. `wrapped` is the production code with
something done before or after it: for faults of arguments, calls and state.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

import torchimpl
from refimpl.conformance import verify
from refimpl.conformance.batch import Batch, leaves, map_tree
from refimpl.conformance.catalogue import CATALOGUE
from refimpl.conformance.formats import FORMATS
from refimpl.conformance.report import Report

ORDINARY = ("ordinary",)


@dataclass(frozen=True)
class Fault:
    """One thing wrong with one loss.

    Attributes:
        name: what is wrong.
        loss: name of the loss.
        property: name of the property that must be reported.
        wrong: makes the faulty implementation (a callable, or a namespace with the loss and its module).
        right: makes the same without the fault.
        families: where the fault is looked for.
        dtypes: in which dtypes.
        examples: batches of every family.
    """

    name: str
    loss: str
    property: str
    wrong: Callable[[], Any]
    right: Callable[[], Any]
    families: tuple[str, ...] = ORDINARY
    dtypes: tuple[str, ...] = ("float32",)
    examples: int = 8

    def report(self, make: Callable[[], Any], *, first_only: bool = True) -> Report:
        """What the engine says to an implementation within the budget of this fault."""
        made = make()
        target = made if isinstance(made, SimpleNamespace) else SimpleNamespace(**{self.loss: made})
        return verify(
            target,
            [self.loss],
            self.dtypes,
            properties=[self.property],
            families=self.families,
            max_examples=self.examples,
            first_only=first_only,
        )


# --- the oracle as an implementation


class _Given(torch.autograd.Function):
    """A given value with given gradients."""

    @staticmethod
    def forward(ctx, value, gradients, *_):
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx, cotangent):
        factor = cotangent.flatten()[0] if cotangent.numel() else torch.zeros(())
        scaled = (torch.where(factor == 0, 0.0, g * factor.double()).to(kind) for g, kind in ctx.gradients)
        return (None, None, *scaled)


def _same(found: Any, _: Batch) -> Any:
    return found


@dataclass(frozen=True)
class Change:
    """What is done wrong: to the batch before the oracle sees it, to its value, to its gradients by path."""

    batch: Callable[[Batch], Batch] = lambda batch: batch
    value: Callable[[Any, Batch], Any] = _same
    gradient: Callable[[dict[str, Any], Batch], dict[str, Any]] = _same


@functools.cache
def exact(loss: str, **change: Callable[..., Any]) -> Callable[[], Any]:
    """Makes the loss out of its oracle, with a change."""
    return lambda: functools.partial(_exact, CATALOGUE[loss], Change(**change))


def _exact(spec, change, *given, **options):
    names = [name for name in spec.parameters if name not in spec.defaults]
    arguments = dict(zip(names, given, strict=True))
    tensors = dict(leaves(arguments))
    form = FORMATS[str(kind(*tensors.values())).removeprefix("torch.")]
    arrays = map_tree(lambda _, tensor: _array(tensor), arguments)
    batch = change.batch(Batch("", form, arrays, options))
    with np.errstate(all="ignore"):
        value = np.asarray(change.value(np.asarray(spec.value(batch)), batch), dtype=np.float64)
        gradients = change.gradient(dict(leaves(spec.gradient(batch))), batch)
    elementwise = spec.result_is_elementwise(options)
    result = rounded(torch.as_tensor(value), kind(*tensors.values()), elementwise=elementwise)
    wanted = [path for path, tensor in tensors.items() if tensor.requires_grad]
    pairs = [(torch.as_tensor(np.array(gradients[path])), tensors[path].dtype) for path in wanted]
    return _Given.apply(result, pairs, *(tensors[path] for path in wanted)) if wanted else result


def _array(tensor):
    return tensor.detach().double().numpy() if tensor.is_floating_point() else tensor.numpy()


def with_option(name: str, change: Callable[[Any], Any]) -> Callable[[Batch], Batch]:
    """Another value of an option."""
    return lambda batch: batch.with_options({**batch.options, name: change(batch.options[name])})


def with_arrays(change: Callable[[str, Any], Any]) -> Callable[[Batch], Batch]:
    """Other arrays, by path."""
    return lambda batch: batch.with_arguments(map_tree(change, dict(batch.arguments)))


def with_one(path: str, other: str) -> Callable[[Batch], Batch]:
    """The array at a path replaced by the one at another."""

    def change(batch: Batch) -> Batch:
        found = dict(leaves(dict(batch.arguments)))[other]
        return with_arrays(lambda at, array: found if at == path else array)(batch)

    return change


def on_gradient(change: Callable[[str, Any], Any]) -> Callable[[dict[str, Any], Batch], dict[str, Any]]:
    """Another gradient, by path."""
    return lambda gradients, _: {path: change(path, gradient) for path, gradient in gradients.items()}


# --- torch code


def kind(*tensors: Tensor) -> torch.dtype:
    """The promoted floating dtype, torch's default for integers."""
    floating = [t.dtype for t in tensors if t.is_floating_point()]
    return functools.reduce(torch.promote_types, floating or [torch.get_default_dtype()])


class Clamp(torch.autograd.Function):
    """Finite values clamped to ±limit, the gradient passed through."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, limit):
        return torch.where(x.isfinite(), x.clamp(-limit, limit), x)

    @staticmethod
    def setup_context(_ctx, _inputs, _output):
        """Nothing to keep."""

    @staticmethod
    def backward(_ctx, grad):
        return grad, None


def rounded(value: Tensor, dtype: torch.dtype, *, elementwise: bool) -> Tensor:
    """Float64 in the dtype of the result, saturated."""
    if dtype.itemsize == 2 and not elementwise:
        dtype = torch.float32
    return Clamp.apply(value.double(), torch.finfo(dtype).max).to(dtype)


def reduced(rows: Tensor, reduction: str, dtype: torch.dtype) -> Tensor:
    """Mean, sum or the rows themselves, in the dtype of the result."""
    if reduction == "none":
        return rounded(rows, dtype, elementwise=True)
    count = max(rows.numel(), 1) if reduction == "mean" else 1
    return rounded(rows.sum() / count, dtype, elementwise=False)


class _Once(torch.autograd.Function):
    """A function with its gradient, which has no derivative of its own."""

    @staticmethod
    def forward(ctx, function, *tensors):
        with torch.enable_grad():
            leaves = [tensor.detach().requires_grad_() for tensor in tensors]
            result = function(*leaves)
            ctx.gradients = torch.autograd.grad(result.sum(), leaves)
        return result.detach()

    @staticmethod
    def backward(ctx, cotangent):
        factor = cotangent.flatten()[0]
        return None, *(gradient * factor for gradient in ctx.gradients)


def once(make: Callable[[], Any]) -> Callable[[], Any]:
    """Makes a loss of two arrays, differentiable once only."""
    right = make()
    return lambda: functools.wraps(right)(
        lambda a, b, *given, **options: _Once.apply(lambda a, b: right(a, b, *given, **options), a, b)
    )


# --- the production code


@functools.cache
def production(loss: str) -> Callable[[], Any]:
    """Makes the production code's loss."""
    return lambda: getattr(torchimpl, loss)


def wrapped(
    loss: str,
    before: Callable[..., tuple[Any, ...]] | None = None,
    after: Callable[[Any], Any] = lambda found: found,
    **fixed: Any,
) -> Callable[[], Any]:
    """Makes the production code's loss with other arguments, another result, or options of its own."""

    def make() -> Any:
        right = getattr(torchimpl, loss)

        @functools.wraps(right)
        def wrong(*given, **options):
            given = before(*given) if before else given
            return after(right(*given, **{**options, **fixed}))

        return wrong

    return make


def caught(loss: str, error: type[Exception], raises: Callable[[Exception], Exception]) -> Callable[[], Any]:
    """Makes the production code's loss that refuses with another exception or another message."""

    def make() -> Any:
        right = getattr(torchimpl, loss)

        @functools.wraps(right)
        def wrong(*given, **options):
            try:
                return right(*given, **options)
            except error as found:
                raise raises(found) from found

        return wrong

    return make


def with_default(loss: str, **defaults: Any) -> Callable[[], Any]:
    """Makes the production code's loss with other defaults."""

    def make() -> Any:
        right = getattr(torchimpl, loss)

        @functools.wraps(right)
        def wrong(*given, **options):
            positional = list(inspect.signature(right).parameters)[: len(given)]
            rest = {name: value for name, value in defaults.items() if name not in positional}
            return right(*given, **{**rest, **options})

        return wrong

    return make


def pair(replicates: Mapping[str, Any], name: str) -> tuple[Any, Any]:
    """One entry of both replicates."""
    return replicates["r1"][name], replicates["r2"][name]


def replicate_changed(tree: Mapping[str, Any], replicate: str, **entries: Any) -> dict[str, Any]:
    """The nested dict with other entries for one replicate."""
    return {**tree, replicate: {**tree[replicate], **entries}}
