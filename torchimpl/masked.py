"""Squared error over masked positions, as masked autoencoders use it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from torchimpl import checks, scaling
from torchimpl.saturate import saturate

REDUCTIONS = ("batch_mean", "mean", "sum", "none")


class _MaskedSquares(torch.autograd.Function):
    """(value, shrink): Σ_masked (a - b)² / divisor, or (a - b)² per element where divisor is None.

    `shrink` is 1, or 1/2 where a - b might overflow; the backward pass forms a*shrink - b*shrink.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        a: Tensor, b: Tensor, mask: Tensor, divisor: Tensor | None, dtypes: tuple[torch.dtype, torch.dtype]
    ) -> tuple[Tensor, Tensor]:
        work, result = dtypes
        a, b = a.to(work), b.to(work)
        # half the difference: it cannot overflow, and what halving costs a subnormal vanishes in the square
        half = torch.where(mask, torch.sub(a * 0.5, b, alpha=0.5), 0.0)
        largest = scaling.largest(half)
        shrink = torch.where(largest < torch.finfo(work).max / 4, 1.0, 0.5)
        if divisor is None:
            squares = torch.where(mask, (a - b).square(), 0.0)
            return saturate(squares, result, half.isfinite()), shrink
        total = scaling.mean_of_squares(half, divisor, divisor.dtype) * 4.0
        return saturate(total, result, largest.isfinite()), shrink

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        a, b, mask, divisor, (work, _) = inputs
        shrink = output[1]
        ctx.mark_non_differentiable(shrink)
        ctx.save_for_backward(a, b, mask, divisor, shrink)
        ctx.work = work

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        a, b, mask, divisor, shrink = ctx.saved_tensors
        per_square = grads[0] if divisor is None else grads[0] / divisor
        slope = (per_square.to(ctx.work) * 2.0) / shrink
        # selected before it is multiplied: neither a visible NaN nor 0 * inf reaches a gradient
        counted = mask & (slope != 0.0)
        e = torch.where(counted, a.to(ctx.work) * shrink - b.to(ctx.work) * shrink, 0.0)
        gradient = e * slope
        grad_a = gradient.to(a.dtype) if ctx.needs_input_grad[0] else None
        grad_b = -gradient.to(b.dtype) if ctx.needs_input_grad[1] else None
        return grad_a, grad_b, None, None, None


def _masked_loss(x_recon: Tensor, x: Tensor, mask: Tensor, reduction: str) -> Tensor:
    """Check, choose the dtypes and the divisor, compute."""
    checks.reduction(reduction, REDUCTIONS)
    checks.require_tensor("x_recon", x_recon)
    checks.require_tensor("x", x)
    _require_mask(mask)
    checks.same_shape("x_recon", x_recon, "x", x)
    checks.same_shape("mask", mask, "x", x)
    if x.dim() == 0:
        raise ValueError("x_recon and x must have a batch dimension, shape (B, ...), got ()")
    element_dtype = checks.elementwise_dtype(x_recon, x)
    scalar_dtype = checks.result_dtype(x_recon, x)
    # integers may need more digits than float32 has; everything else stays in its own width
    integers = not (x_recon.is_floating_point() and x.is_floating_point())
    tail = checks.working_dtype(x_recon, x)
    work = tail if integers else scalar_dtype
    divisor = None
    if reduction == "mean":
        divisor = torch.count_nonzero(mask).clamp(min=1).to(tail)
    elif reduction != "none":
        rows = max(x.shape[0], 1) if reduction == "batch_mean" else 1
        divisor = torch.full((), rows, dtype=tail, device=x.device)
    result = element_dtype if reduction == "none" else scalar_dtype
    value: Tensor = _MaskedSquares.apply(x_recon, x, mask, divisor, (work, result))[0]
    return value


def _require_mask(mask: object) -> None:
    if not isinstance(mask, Tensor):
        raise TypeError(f"mask must be a torch.Tensor of dtype bool, got {type(mask).__name__}")
    if mask.dtype is not torch.bool:
        raise TypeError(f"mask must have dtype torch.bool, got {mask.dtype}; convert it with mask.bool()")


def masked_sse(x_recon: Tensor, x: Tensor, mask: Tensor, *, reduction: str = "batch_mean") -> Tensor:
    """Squared error over masked positions, summed, per row of the batch.

    With e = x_recon - x, over the positions where `mask` is True:

        "sum"         Σ e²
        "batch_mean"  Σ e² / B
        "mean"        Σ e² / (number masked), 0 where none is
        "none"        e² per element, 0 where not masked

    What stands at a position that is not masked, NaN and inf included, has no influence on value or gradient.

    Args:
        x_recon: (B, ...), floating (or integer, promoted); the reconstruction.
        x: the same shape; the original.
        mask: the same shape, bool, True = counted (usually `~visible`).
        reduction: see above.

    Returns:
        0-dim, float32 for half inputs, else the promoted dtype; for "none" the inputs' shape and dtype.
        Finite inputs give a finite value: what lies beyond the dtype saturates at its largest number.

    Raises:
        TypeError: a tensor is missing or has an unsupported dtype; the mask is not bool.
        ValueError: shapes differ, an input has no dimension, or `reduction` is unknown.

    Example:
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        >>> mask = torch.tensor([[True, False], [True, True]])
        >>> masked_sse(x + 2, x, mask)
        tensor(6.)
        >>> masked_sse(x + 2, x, mask, reduction="mean")
        tensor(4.)
    """
    return _masked_loss(x_recon, x, mask, reduction)


def masked_mse(x_recon: Tensor, x: Tensor, mask: Tensor, *, reduction: str = "mean") -> Tensor:
    """Squared error over masked positions, averaged over them: `masked_sse` with another default.

    Formula, shapes, dtypes and errors are those of `masked_sse`.

    Example:
        >>> x = torch.tensor([[1.0, float("nan")]])
        >>> masked_mse(x + 2, x, ~x.isnan())
        tensor(4.)
    """
    return _masked_loss(x_recon, x, mask, reduction)


class MaskedSSE(nn.Module):
    """`masked_sse` as a module.

    Args:
        reduction: "batch_mean", "mean", "sum" or "none".

    Raises:
        TypeError, ValueError: at construction for a wrong reduction, in `forward` as `masked_sse`.

    Example:
        >>> MaskedSSE()(torch.ones(2, 3), torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool))
        tensor(3.)
    """

    def __init__(self, *, reduction: str = "batch_mean") -> None:
        super().__init__()
        self.reduction = checks.reduction(reduction, REDUCTIONS)

    def forward(self, x_recon: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        """Return `masked_sse(x_recon, x, mask)` with this reduction."""
        return _masked_loss(x_recon, x, mask, self.reduction)

    def extra_repr(self) -> str:
        """Show the options in `repr`."""
        return f"reduction={self.reduction!r}"


class MaskedMSE(MaskedSSE):
    """`masked_mse` as a module: `MaskedSSE` with another default.

    Args:
        reduction: "mean", "batch_mean", "sum" or "none".

    Example:
        >>> MaskedMSE()(torch.ones(2, 3), torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool))
        tensor(1.)
    """

    def __init__(self, *, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
