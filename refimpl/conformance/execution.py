"""One call of the target: numpy to torch, the call itself, value and gradients back to numpy."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from refimpl.conformance.batch import Array, Batch, map_tree
from refimpl.conformance.catalogue import LossSpec

__all__ = ["Outcome", "call", "distribution", "execute", "has_gradient", "tensor", "vmapped"]


@dataclass(frozen=True)
class Outcome:
    """What the target answered.

    Attributes:
        value: float64 array; None where the call raised or returned something else than a tensor.
        dtype: name of the result's dtype.
        gradients: float64 arrays by path, of the sum of all results; None where the graph was cut.
        error: what went wrong, if anything did.
    """

    value: NDArray[np.float64] | None = None
    dtype: str = ""
    gradients: Mapping[str, NDArray[np.float64] | None] = field(default_factory=dict)
    error: str = ""


def tensor(array: Array, dtype: str, layout: str = "contiguous") -> torch.Tensor:
    """A tensor of the given dtype (int64 and bool stay what they are) in the given memory layout.

    Example:
        >>> tensor(np.ones((2, 3)), "float16", "expanded").stride()
        (0, 1)
    """
    made = torch.as_tensor(np.ascontiguousarray(array).reshape(array.shape).copy())
    if made.is_floating_point():
        made = made.to(getattr(torch, dtype))
    if made.ndim == 0 or layout in {"contiguous", "vmap"} or made.shape[0] == 0:
        return made
    if layout == "expanded":
        return made[:1].expand(made.shape) if np.array_equal(array, array[:1].repeat(len(array), 0)) else made
    return made.repeat_interleave(2, 0)[::2]


def distribution(parameters: Mapping[str, torch.Tensor]) -> torch.distributions.Distribution:
    """The Poisson or negative binomial distribution that `compute_numeric_cdf` is asked about."""
    family = torch.distributions.Poisson if "rate" in parameters else torch.distributions.NegativeBinomial
    return family(**parameters, validate_args=False)


def has_gradient(spec: LossSpec, path: str, array: Array) -> bool:
    """Whether the value depends smoothly on the array at this path."""
    root = path.split(".", 1)[0]
    return root in spec.differentiable and path not in spec.inert and array.dtype == np.float64


def vmapped(function: Callable[..., torch.Tensor], *arguments: Any) -> torch.Tensor:
    """The second of two equal calls made as one by `torch.func.vmap`.

    Args:
        function: what to call.
        *arguments: tensors, or nested dicts of them; each is stacked with itself.

    Example:
        >>> vmapped(torch.dot, torch.ones(3), torch.ones(3))
        tensor(3.)
    """

    def double(_: str, one: Any) -> torch.Tensor:
        return torch.stack([one, one])

    doubled = [map_tree(double, tree) for tree in arguments]
    result: torch.Tensor = torch.func.vmap(function)(*doubled)[1]
    return result


def call(
    target: ModuleType, spec: LossSpec, batch: Batch, only: str = ""
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Call the target; return its result and the arguments that require a gradient, by path.

    Args:
        target: the module under test.
        spec: the loss.
        batch: its input.
        only: the path of the one argument to differentiate; all of them where it is empty.

    Raises:
        TypeError: the result is not a tensor.
        Exception: whatever the target raises.
    """
    wanted: dict[str, torch.Tensor] = {}

    def build(path: str, array: Array) -> torch.Tensor:
        made = tensor(array, batch.form.name, batch.layout)
        if has_gradient(spec, path, array) and only in {"", path}:
            wanted[path] = made.requires_grad_()
        return made

    arguments = map_tree(build, dict(batch.arguments))
    scope = {"target": target, "torch": torch, "distribution": distribution, **batch.options}

    def evaluate(*given: Any) -> Any:
        # the text is a constant of the catalogue; it is evaluated so that reports can print what was run
        return eval(spec.call, {**scope, **dict(zip(arguments, given, strict=True))})  # noqa: S307

    given = tuple(arguments.values())
    result = vmapped(evaluate, *given) if batch.layout == "vmap" else evaluate(*given)
    if not isinstance(result, torch.Tensor):
        raise TypeError(f"the result is a {type(result).__name__}, not a tensor")
    return result, wanted


def execute(
    target: ModuleType, spec: LossSpec, batch: Batch, *, cotangent: float = 1.0, only: str = ""
) -> Outcome:
    """Call the target on a batch and differentiate the sum of what it returns, times `cotangent`."""
    try:
        result, wanted = call(target, spec, batch, only)
        gradients = _gradients(result, wanted, cotangent)
    except Exception as error:  # noqa: BLE001 - whatever a foreign implementation raises is a finding
        return Outcome(error=f"raised {type(error).__name__}: {str(error).strip().splitlines()[:1]}")
    value = result.detach().to(torch.float64).numpy()
    return Outcome(value, str(result.dtype).removeprefix("torch."), gradients)


def _gradients(
    result: torch.Tensor, wanted: Mapping[str, torch.Tensor], cotangent: float
) -> dict[str, NDArray[np.float64] | None]:
    if not wanted or not result.requires_grad:
        return dict.fromkeys(wanted)
    seed = torch.full_like(result, cotangent)
    found: Any = torch.autograd.grad(result, list(wanted.values()), seed, allow_unused=True)
    arrays = (None if part is None else part.detach().to(torch.float64).numpy() for part in found)
    return dict(zip(wanted, arrays, strict=True))
