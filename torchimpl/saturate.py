"""Overflow that is not the input's fault: saturation, and reductions that do not overflow on the way."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchimpl import scaling

# sums of fewer than 2**63 elements cannot overflow once scaled by this
_GUARD = 2.0**-64


class _Saturate(torch.autograd.Function):
    """Clamp to ±limit; the backward pass is the identity, so gradients stay exact."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, inputs_finite: Tensor, limit: float) -> Tensor:
        return torch.where(inputs_finite, x.clamp(-limit, limit), x)

    @staticmethod
    def setup_context(_ctx: Any, _inputs: tuple[Any, ...], _output: Tensor) -> None:
        """Nothing to keep."""

    @staticmethod
    def backward(_ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0], None, None


def all_finite(*tensors: Tensor) -> Tensor:
    """A 0-dim bool tensor: whether every element of every tensor is finite. No synchronisation.

    Example:
        >>> all_finite(torch.zeros(3), torch.tensor([1.0, float("inf")]))
        tensor(False)
    """
    # the largest magnitude is several times faster than isfinite().all()
    flag = scaling.largest(tensors[0]) < torch.inf
    for tensor in tensors[1:]:
        flag = flag & (scaling.largest(tensor) < torch.inf)
    return flag


def saturate(x: Tensor, dtype: torch.dtype, inputs_finite: Tensor) -> Tensor:
    """Convert `x` to `dtype`, clamped to ±`finfo(dtype).max` where the inputs were finite.

    NaN stays NaN; where `inputs_finite` is False an infinity is the input's own and stays. The gradient
    passes through unchanged.

    Args:
        x: any shape, floating.
        dtype: the dtype of the result.
        inputs_finite: bool, 0-dim or shaped like `x` (see `all_finite`).

    Example:
        >>> big = torch.tensor([1e300, float("nan")], dtype=torch.float64)
        >>> saturate(big, torch.float32, torch.tensor(True))
        tensor([3.4028e+38,        nan])
    """
    saturated: Tensor = _Saturate.apply(x, inputs_finite, torch.finfo(dtype).max)
    return saturated.to(dtype)


class _Replace(torch.autograd.Function):
    """Another value; the backward pass is the identity."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, value: Tensor) -> Tensor:
        # a batch under vmap where x is one, too: else one cotangent would serve all of its problems
        return torch.where(torch.ones_like(x, dtype=torch.bool), value, x)

    @staticmethod
    def setup_context(_ctx: Any, _inputs: tuple[Any, ...], _output: Tensor) -> None:
        """Nothing to keep."""

    @staticmethod
    def backward(_ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0], None


def replace_through(x: Tensor, value: Tensor) -> Tensor:
    """Return `value`, with the gradient of `x`: for a value that had to be computed another way.

    Example:
        >>> x = torch.tensor(1.0, requires_grad=True)
        >>> replace_through(2 * x, torch.tensor(5.0))
        tensor(5., grad_fn=<_ReplaceBackward>)
    """
    replaced: Tensor = _Replace.apply(x, value.detach())
    return replaced


def clamp_through(x: Tensor, limit: float) -> Tensor:
    """Clamp rounding errors beyond ±limit; the gradient passes through unchanged, NaN stays.

    Example:
        >>> clamp_through(torch.tensor([1.0000001, 0.5]), 1.0)
        tensor([1.0000, 0.5000])
    """
    always = torch.ones((), dtype=torch.bool, device=x.device)
    clamped: Tensor = _Saturate.apply(x, always, limit)
    return clamped


def reduce(
    elements: Tensor, reduction: str, dtype: torch.dtype, inputs_finite: Tensor, *, element_dtype: torch.dtype
) -> Tensor:
    """Reduce the loss per element (or per row) and saturate.

    `sum` and `mean` do not overflow where their true value does not; both are 0, on the graph, for no
    elements.

    Args:
        elements: loss per element in the working dtype (float32 or float64), any shape.
        reduction: "mean", "sum" or "none" (checked by the caller).
        dtype: dtype of the scalar (`checks.result_dtype`).
        inputs_finite: 0-dim bool, or shaped like `elements` for "none": whether an overflow may be saturated.
        element_dtype: dtype of the result for "none" (`checks.elementwise_dtype`).

    Example:
        >>> rows = torch.tensor([1e308, 1.5e308], dtype=torch.float64)
        >>> reduce(rows, "mean", rows.dtype, torch.tensor(True), element_dtype=rows.dtype)
        tensor(1.2500e+308, dtype=torch.float64)
    """
    if reduction == "none":
        return saturate(elements, element_dtype, inputs_finite)
    # an element that has overflowed takes the sum and the mean with it
    count = max(elements.numel(), 1) if reduction == "mean" else 1
    return saturate(safe_sum(elements, count), dtype, inputs_finite.all())


def safe_sum(elements: Tensor, count: int = 1) -> Tensor:
    """Sum of elements that are >= 0, divided by `count`, without overflow on the way.

    Example:
        >>> safe_sum(torch.tensor([3e38, 3e38]), 2)
        tensor(3.0000e+38)
        >>> safe_sum(torch.zeros(0))
        tensor(0.)
    """
    # the loss per element is scaled by a power of two, exactly, and only where it is huge
    huge = (elements.detach() > torch.finfo(elements.dtype).max ** 0.5).any()
    scale = torch.where(huge, _GUARD, elements.new_ones(()))
    return (elements * scale).sum() / count / scale
