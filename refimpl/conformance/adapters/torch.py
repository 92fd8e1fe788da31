"""PyTorch: tensors on a device, gradients by autograd."""

import ast
import itertools
import operator
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils._pytree import tree_map

from refimpl.conformance.adapters import FEATURES
from refimpl.conformance.batch import Array, Batch, leaves, map_tree
from refimpl.conformance.formats import FORMATS
from refimpl.conformance.outcome import Outcome
from refimpl.conformance.target import Subject

__all__ = ["TorchAdapter", "distribution", "outcome", "tensor", "vmapped"]


def tensor(array: Array, dtype: str, layout: str = "contiguous", device: str = "cpu") -> torch.Tensor:
    """A tensor of the given dtype (int64 and bool stay what they are) in the given memory layout.

    Example:
        >>> tensor(np.ones((2, 3)), "float16", "expanded").stride()
        (0, 1)
        >>> tensor(np.ones((2, 3)), "float32", "transposed").stride()
        (1, 2)
    """
    made = torch.as_tensor(np.ascontiguousarray(array).reshape(array.shape).copy(), device=device)
    if made.is_floating_point():
        made = made.to(getattr(torch, dtype))
    if made.ndim == 0 or made.shape[0] == 0:
        return made
    if layout == "expanded":
        return made[:1].expand(made.shape) if np.array_equal(array, array[:1].repeat(len(array), 0)) else made
    if layout == "strided":
        return made.repeat_interleave(2, 0)[::2]
    if layout == "transposed":
        return made.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "offset":
        return torch.cat([made[:1], made])[1:]
    return made


def distribution(parameters: Mapping[str, torch.Tensor]) -> torch.distributions.Distribution:
    """The Poisson or negative binomial distribution that `compute_numeric_cdf` is asked about."""
    family = torch.distributions.Poisson if "rate" in parameters else torch.distributions.NegativeBinomial
    return family(**parameters, validate_args=False)


def vmapped(function: Callable[..., torch.Tensor], *arguments: Any, only_first: bool = False) -> Any:
    """One call among two that `torch.func.vmap` makes as one; the other has other numbers.

    Args:
        function: what to call.
        *arguments: tensors, or nested dicts of them; in the other call every second one is reversed.
        only_first: the other call differs in the first argument alone (the rest has `in_dims=None`).

    Returns:
        What `function(*arguments)` returns.

    Example:
        >>> vmapped(torch.dot, torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0]))
        tensor(2.)
    """
    turn = itertools.count()

    def beside(_: str, one: Any) -> torch.Tensor:
        reverse = next(turn) % 2 == 0
        other = one.detach().flip(tuple(range(one.ndim))) if reverse else one.detach()
        return torch.stack([other, one])

    mapped = len(arguments[:1]) if only_first else len(arguments)
    stacked = [map_tree(beside, tree) for tree in arguments[:mapped]]
    in_dims = tuple(0 if place < mapped else None for place in range(len(arguments)))
    result = torch.func.vmap(function, in_dims)(*stacked, *arguments[mapped:])
    return tree_map(operator.itemgetter(1), result)


class TorchAdapter:
    """PyTorch on a device.

    Args:
        device: "cpu", "cuda" or "cuda:1".

    Raises:
        ValueError: torch knows no such device, or it is not at hand.

    Example:
        >>> TorchAdapter().name
        'torch'
    """

    name = "torch"
    dtypes = tuple(FORMATS)
    features = FEATURES

    def __init__(self, device: str = "cpu") -> None:
        try:
            torch.zeros(1, device=device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
        self.device = device

    def scope(self) -> dict[str, Any]:
        """`torch` and `distribution`."""
        return {"torch": torch, "distribution": distribution}

    def tensors(self, subject: Subject, batch: Batch, only: str = "") -> tuple[Any, dict[str, torch.Tensor]]:
        """Arguments as nested tensors, and those to differentiate by path."""
        paths = set(subject.wanted(batch, only))
        wanted: dict[str, torch.Tensor] = {}

        def build(path: str, array: Array) -> torch.Tensor:
            made = tensor(array, batch.form.name, batch.layout, self.device)
            if path in paths:
                wanted[path] = made.requires_grad_()
            return made

        return map_tree(build, dict(batch.arguments)), wanted

    def call(
        self, subject: Subject, batch: Batch, only: str = ""
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Call the target; return its result and the arguments that require a gradient, by path.

        Raises:
            TypeError: the result is not a tensor.
        """
        arguments, wanted = self.tensors(subject, batch, only)
        return self.apply(subject, batch, arguments), wanted

    def apply(self, subject: Subject, batch: Batch, arguments: Mapping[str, Any]) -> torch.Tensor:
        """Call the target on given tensors.

        Raises:
            TypeError: the result is not a tensor.
        """
        evaluate, given = subject.function(batch), tuple(arguments.values())
        result = vmapped(evaluate, *given) if batch.layout == "vmap" else evaluate(*given)
        if not isinstance(result, torch.Tensor):
            raise TypeError(f"the result is a {type(result).__name__}, not a tensor")
        return result

    def traceable(self, subject: Subject, batch: Batch, arguments: Mapping[str, Any]) -> Callable[..., Any]:
        """The call as a plain function of the arguments, without the `eval` that no compiler can follow.

        What is called is looked up (or, as a module, made) once, before.
        """
        scope = {"target": subject.target, **self.scope(), **batch.options}
        call: Any = ast.parse(subject.text, mode="eval").body
        # the text is the spec's own, as in `Subject.function`
        scope["callee"] = eval(ast.unparse(call.func), {**scope, **arguments})  # noqa: S307
        call.func = ast.Name("callee", ast.Load())
        exec(f"def traced({', '.join(arguments)}): return {ast.unparse(call)}", scope)  # noqa: S102
        traced: Callable[..., Any] = scope["traced"]
        return traced

    def evaluate(self, subject: Subject, batch: Batch, *, cotangent: float = 1.0, only: str = "") -> Outcome:
        """Value and gradients as float64 arrays."""
        arguments, wanted = self.tensors(subject, batch, only)
        result = self.apply(subject, batch, arguments)
        answered = outcome(result, wanted, cotangent)
        changed = tuple(
            path
            for (path, now), (_, before) in zip(leaves(arguments), leaves(dict(batch.arguments)), strict=True)
            if not _unchanged(now, before)
        )
        return replace(answered, changed=changed)

    def literal(self, array: Array, dtype: str) -> str:
        """A `torch.tensor(...)` expression."""
        if 0 in array.shape:
            return f"torch.zeros({array.shape}, dtype=torch.{dtype})"
        return f"torch.tensor({array.tolist()!r}, dtype=torch.{dtype})"


def numpy(result: torch.Tensor) -> NDArray[np.float64]:
    """A tensor as a float64 array on the CPU."""
    array: NDArray[np.float64] = result.detach().to("cpu", torch.float64).numpy(force=True)
    return array


def outcome(result: torch.Tensor, wanted: Mapping[str, torch.Tensor], cotangent: float = 1.0) -> Outcome:
    """A result and the gradients of its sum, times `cotangent`.

    Args:
        result: what the target returned.
        wanted: tensors to differentiate it by, by path.
        cotangent: the incoming gradient of every element.
    """
    if not isinstance(result, torch.Tensor):
        raise TypeError(f"the result is a {type(result).__name__}, not a tensor")
    gradients = _gradients(result, wanted, cotangent)
    return Outcome(numpy(result), str(result.dtype).removeprefix("torch."), gradients)


def _unchanged(now: Any, before: Array) -> bool:
    return np.array_equal(numpy(now), before.astype(np.float64), equal_nan=True)


def _gradients(
    result: torch.Tensor, wanted: Mapping[str, torch.Tensor], cotangent: float
) -> dict[str, NDArray[np.float64] | None]:
    if not wanted or not result.requires_grad:
        return dict.fromkeys(wanted)
    seed = torch.full_like(result, cotangent)
    found: Any = torch.autograd.grad(result, list(wanted.values()), seed, allow_unused=True)
    arrays = (None if part is None else numpy(part) for part in found)
    return dict(zip(wanted, arrays, strict=True))
