"""Weighted sums of losses."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torchimpl import checks, scaling
from torchimpl.saturate import saturate

Loss = Callable[..., Any]


class _WeightedSum(torch.autograd.Function):
    """Σ w v over the entries with w != 0, formed on scaled values and weights: no inf - inf on the way."""

    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor, weights: Tensor) -> Tensor:
        active = torch.where(weights == 0.0, 0.0, values)
        value_exponent = scaling.exponent(scaling.largest(active))
        weight_exponent = scaling.exponent(scaling.largest(weights))
        terms = scaling.rescale(active, -value_exponent) * scaling.rescale(weights, -weight_exponent)
        return scaling.rescale(terms.sum(), value_exponent + weight_exponent)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], _output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (weights,) = ctx.saved_tensors
        return torch.where(weights == 0.0, 0.0, grads[0] * weights), None


class LossComponent(nn.Module):
    """A callable loss with its options, and the registered name it came from.

    Args:
        function: called as `function(model_outputs, batch, **options)`; a module is registered as sub-module.
        options: keyword arguments of every call.
        registered_name: its name in `LOSS_REGISTRY`, where it has one.

    Example:
        >>> LossComponent(lambda outputs, batch, scale: scale * outputs, {"scale": 3})(2, None)
        6
    """

    def __init__(
        self, function: Loss, options: Mapping[str, Any] | None = None, registered_name: str | None = None
    ) -> None:
        super().__init__()
        self.function = function
        self.options = dict(options or {})
        self.registered_name = registered_name

    def forward(self, model_outputs: object, batch: object) -> Any:
        """Return what the function returns."""
        return self.function(model_outputs, batch, **self.options)

    def extra_repr(self) -> str:
        """Show name and options in `repr`."""
        return ", ".join([_own_name(self), *(f"{key}={value!r}" for key, value in self.options.items())])


class CompositeLoss(nn.Module):
    """Weighted sum of losses:  total = Σ w_k L_k(model_outputs, batch).

    A component with weight 0 is computed and logged, and has no influence on the total or its gradient, NaN
    and inf included. Weights may be negative. The buffer `weights` is float64 and stays so under `.half()`
    and `.float()`; it may be changed in place between steps.

    Args:
        loss_functions: callables `(model_outputs, batch) -> 0-dim tensor`; modules are registered, and
            another `CompositeLoss` is a component, too.
        weights: one finite number for each.
        component_names: names for the log; then the dict is always returned. In an older call form a bool at
            this place is `return_components`.
        return_components: return {"total": total, "components": {name: detached scalar}}.

    Raises:
        TypeError: a component is not callable, a weight is not a number, a name not a string.
        ValueError: no components, lengths that differ, a weight that is not finite, duplicate names; in
            `forward` a component that does not return a 0-dim tensor.

    Example:
        >>> def first(model_outputs, batch):
        ...     return model_outputs.sum()
        >>> def second(model_outputs, batch):
        ...     return model_outputs.prod()
        >>> CompositeLoss([first, second], [1.0, 0.5])(torch.tensor([2.0, 4.0]), {})
        tensor(10.)
        >>> CompositeLoss([first, second], [1.0, 0.0], ["a", "b"])(torch.tensor([2.0, 4.0]), {})
        {'total': tensor(6.), 'components': {'a': tensor(6.), 'b': tensor(8.)}}
    """

    weights: Tensor

    def __init__(
        self,
        loss_functions: Sequence[Loss],
        weights: Sequence[float],
        component_names: Sequence[str] | bool | None = None,
        return_components: bool = False,
    ) -> None:
        super().__init__()
        if isinstance(component_names, bool):
            return_components = component_names
        names = None if isinstance(component_names, bool) else component_names
        functions = _listed("loss_functions", loss_functions)
        numbers = [_weight(k, w) for k, w in enumerate(_listed("weights", weights))]
        if not functions:
            raise ValueError("loss_functions must hold at least one loss, got none")
        if len(functions) != len(numbers):
            raise ValueError(
                f"weights must have one entry per loss, got {len(numbers)} for {len(functions)} losses"
            )
        for k, function in enumerate(functions):
            if not callable(function) or isinstance(function, type):
                raise TypeError(f"loss_functions[{k}] must be a callable or a module, got {_kind(function)}")
        self.losses = nn.ModuleList(f if isinstance(f, nn.Module) else LossComponent(f) for f in functions)
        self.register_buffer("weights", torch.tensor(numbers, dtype=torch.float64))
        self.names_given = names is not None
        if names is None:
            self.component_names = _unique([_own_name(loss) for loss in self.losses])
        else:
            self.component_names = _checked_names(_listed("component_names", names), len(functions))
        self.return_components = bool(return_components) or self.names_given

    def forward(self, model_outputs: object, batch: object) -> Tensor | dict[str, Any]:
        """Return the total, or the dict of total and components.

        Args:
            model_outputs: handed to every component.
            batch: handed to every component.

        Returns:
            0-dim; float32 for half components, else the promoted dtype. Finite components give a finite one.

        Raises:
            ValueError: a component is not a 0-dim tensor; the message names it and its shape.
        """
        values = [
            _scalar(name, loss(model_outputs, batch))
            for name, loss in zip(self.component_names, self.losses, strict=True)
        ]
        stacked = torch.stack([value.to(checks.working_dtype(value)) for value in values])
        weights = self.weights.to(device=stacked.device, dtype=stacked.dtype)
        total = _WeightedSum.apply(stacked, weights)
        # a component that is off may be inf: it says nothing about the others
        finite = (stacked.detach().isfinite() | (weights == 0.0)).all()
        total = saturate(total, checks.result_dtype(*values), finite)
        if not self.return_components:
            return total
        components = {name: value.detach() for name, value in zip(self.component_names, values, strict=True)}
        return {"total": total, "components": components}

    def to_config(self) -> dict[str, Any]:
        """Return the config that `create_composite_loss` makes this loss from, with the present weights.

        Raises:
            ValueError: a component did not come from the registry.
        """
        entries = []
        for name, loss, weight in zip(self.component_names, self.losses, self.weights.tolist(), strict=True):
            entry: dict[str, Any]
            if isinstance(loss, CompositeLoss):
                entry = loss.to_config()
            elif isinstance(loss, LossComponent) and loss.registered_name is not None:
                entry = {"name": loss.registered_name, **_copied(loss.options)}
            else:
                raise ValueError(f"component {name!r} is not a registered loss; use torchimpl.register first")
            entries.append({**entry, "weight": weight})
        config: dict[str, Any] = {"losses": entries, "return_components": self.return_components}
        return {**config, "component_names": list(self.component_names)} if self.names_given else config

    def extra_repr(self) -> str:
        """Show names and weights in `repr`."""
        pairs = zip(self.component_names, self.weights.tolist(), strict=True)
        return ", ".join(f"{name}={weight:g}" for name, weight in pairs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CompositeLoss:
        before = self.weights
        super()._apply(fn, recurse)
        if self.weights.dtype != before.dtype:
            self.weights = before.to(self.weights.device)
        return self


def _listed(name: str, value: object) -> list[Any]:
    """Return a list of the entries of a sequence that is not a string; a ModuleList counts, too."""
    if isinstance(value, (Sequence, nn.ModuleList)) and not isinstance(value, str):
        return list(value)
    raise TypeError(f"{name} must be a list or tuple, got {type(value).__name__}")


def _kind(value: object) -> str:
    return f"the class {value.__name__}; make an instance of it" if isinstance(value, type) else repr(value)


def _weight(k: int, value: object) -> float:
    number = checks.real_number(f"weights[{k}]", value)
    if not math.isfinite(number):
        raise ValueError(f"weights[{k}] must be finite, got {number}")
    return number


def _own_name(loss: object) -> str:
    """The registered name, else the function's own, else the class."""
    if isinstance(loss, LossComponent):
        return loss.registered_name or _own_name(loss.function)
    # functools.partial keeps the function it wraps
    inner = getattr(loss, "func", loss)
    return str(getattr(inner, "__name__", type(inner).__name__))


def _unique(names: list[str]) -> list[str]:
    """Second and later occurrences get "#2", "#3"."""
    unique: list[str] = []
    for name in names:
        candidate, number = name, 1
        while candidate in unique:
            number += 1
            candidate = f"{name}#{number}"
        unique.append(candidate)
    return unique


def _checked_names(names: list[Any], count: int) -> list[str]:
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"component_names must hold strings, got {type(name).__name__}")
    if len(names) != count:
        raise ValueError(f"component_names must have one entry per loss, got {len(names)} for {count} losses")
    if len(set(names)) != len(names):
        raise ValueError(f"component_names must be unique, got {names}")
    return names


def _scalar(name: str, value: object) -> Tensor:
    """Return the component's scalar; of a nested composite the total."""
    if isinstance(value, Mapping) and "total" in value:
        value = value["total"]
    if isinstance(value, Tensor) and value.dim() == 0:
        return checks.require_tensor(f"component {name!r}", value)
    came = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    raise ValueError(f"component {name!r} must return a 0-dim tensor, got {came}")


def _copied(value: Any) -> Any:
    """Copy nested dicts and lists, so that a config never shares state with the loss."""
    if isinstance(value, dict):
        return {key: _copied(entry) for key, entry in value.items()}
    return [_copied(entry) for entry in value] if isinstance(value, list) else value
