"""Negative Pearson correlation, scale-free and offset-free over the whole range of the dtype."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from torchimpl import checks, scaling
from torchimpl.kernels.blocks import blocks, joined, total
from torchimpl.saturate import clamp_through


def negative_pearson_loss(preds: Tensor, targets: Tensor, eps: float = 1e-8) -> Tensor:
    """Negative Pearson correlation over all elements.

    With p, t the deviations from the mean:  -(Σ p t) / (‖p‖ ‖t‖),  always within [-1, 1].

    Neither a scale of 1e-30 or 1e30 nor a common offset matters: float64 inputs are rescaled by powers of two
    on the way, all others are computed in float64, whose range is enough.

    Where a side is constant (a single element, too) the value is 0 with zero gradient;
    "constant" means that all elements are exactly equal. NaN or inf anywhere gives NaN. No elements give 0.

    Args:
        preds: any shape; flattened.
        targets: the same shape.
        eps: >= 0; floors ‖p‖ ‖t‖ / (max|p| max|t|), which is at least 1: below 1 it changes nothing.

    Returns:
        0-dim, float32 for half inputs, else the promoted dtype.

    Raises:
        TypeError: a tensor is missing or has an unsupported dtype; `eps` is not a number.
        ValueError: shapes differ; `eps` is negative or not finite.

    Example:
        >>> preds = torch.tensor([1.0, 2.0, 3.0, 4.0])
        >>> negative_pearson_loss(preds, 1e12 * preds + 1e12)
        tensor(-1.)
        >>> negative_pearson_loss(preds, torch.full((4,), 0.1))
        tensor(0.)
    """
    checks.require_tensor("preds", preds)
    checks.require_tensor("targets", targets)
    checks.same_shape("preds", preds, "targets", targets)
    floor = checks.non_negative_finite("eps", eps)
    dtype = checks.result_dtype(preds, targets)
    work = checks.working_dtype(preds, targets)
    x, y = preds.reshape(-1), targets.reshape(-1)
    if x.numel() == 0:
        return (x.sum() + y.sum()).to(dtype)
    if floor > 1.0:
        # the gradient has two parts then: they must meet before it is rounded to the dtype of the inputs
        x, y = x.to(work), y.to(work)
    # float64 has range and digits to spare for what becomes float32
    prepare = _shifted if work != dtype else _rescaled
    return _negative_correlation(*prepare(x, work), *prepare(y, work), floor).to(dtype)


def _shifted(x: Tensor, work: torch.dtype) -> tuple[Tensor, Tensor]:
    """`x` as it is, and its first element as pivot: at worst, moments about it lose log2(n) bits."""
    return x, x.detach()[0].to(work)


def _rescaled(x: Tensor, work: torch.dtype) -> tuple[Tensor, Tensor]:
    """Differences from the first element, all times the power of two that brings x near 1, and their mean."""
    x = x.to(work)
    x = x * scaling.unit_scale(scaling.largest(x))
    # subtracted before the mean: constants become exactly 0, and of others one is at least 2^-53
    differences = x - x.detach()[0]
    return differences, differences.detach().mean()


def _deviations(x: Tensor, pivot: Tensor) -> Tensor:
    """Differences from the pivot in its dtype."""
    return x.to(pivot.dtype) - pivot


class _Moments(torch.autograd.Function):
    """(Σ e, Σ f, Σ e², Σ f², Σ e f) of the deviations e of x, f of y from constant pivots.

    One tensor, not five: under `vmap` an output that depends on y alone would be no batch where only x is
    one, and its cotangent would be counted once per problem.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, y: Tensor, pivot_x: Tensor, pivot_y: Tensor) -> Tensor:
        moments = []
        for block_x, block_y in blocks(x, y):
            e, f = _deviations(block_x, pivot_x), _deviations(block_y, pivot_y)
            moments.append((e.sum(), f.sum(), e.dot(e), f.dot(f), e.dot(f)))
        return torch.stack([total([*parts]) for parts in zip(*moments, strict=True)])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, y, pivot_x, pivot_y = ctx.saved_tensors
        on_e, on_f, on_ee, on_ff, on_ef = grads[0].unbind()
        wants_x, wants_y, _, _ = ctx.needs_input_grad
        grad_x, grad_y = [], []
        for block_x, block_y in blocks(x, y):
            e, f = _deviations(block_x, pivot_x), _deviations(block_y, pivot_y)
            if wants_x:
                grad_x.append(torch.addcmul(torch.addcmul(on_e, on_ef, f), 2.0 * on_ee, e).to(x.dtype))
            if wants_y:
                grad_y.append(torch.addcmul(torch.addcmul(on_f, on_ef, e), 2.0 * on_ff, f).to(y.dtype))
        return joined(grad_x) if wants_x else None, joined(grad_y) if wants_y else None, None, None


def _negative_correlation(x: Tensor, pivot_x: Tensor, y: Tensor, pivot_y: Tensor, floor: float) -> Tensor:
    """-Σ p t / max(‖p‖ ‖t‖, floor · max|p| · max|t|) of the centred x and y; the pivots do not matter."""
    sum_e, sum_f, sum_ee, sum_ff, sum_ef = _Moments.apply(x, y, pivot_x, pivot_y).unbind()
    mean_e, mean_f = sum_e / x.numel(), sum_f / x.numel()
    # no square of a difference of such numbers underflows
    x_constant, y_constant = sum_ee == 0.0, sum_ff == 0.0
    # a constant side against NaN is NaN, not 0: 0 is chosen only where the other side is finite, too
    degenerate = (x_constant | y_constant) & sum_ee.isfinite() & sum_ff.isfinite()
    # the norms of constant sides are replaced before the root, whose slope at 0 is infinite
    p_norm = torch.where(x_constant, 1.0, sum_ee - mean_e * sum_e).sqrt()
    t_norm = torch.where(y_constant, 1.0, sum_ff - mean_f * sum_f).sqrt()
    denominator = p_norm * t_norm
    if floor > 1.0:
        p_largest = (_deviations(x, pivot_x) - mean_e).abs().amax()
        t_largest = (_deviations(y, pivot_y) - mean_f).abs().amax()
        denominator = torch.maximum(denominator, floor * p_largest * t_largest)
    value = torch.where(degenerate, 0.0, -(sum_ef - mean_e * sum_f) / denominator)
    return clamp_through(value, 1.0)


class NegativePearsonLoss(nn.Module):
    """`negative_pearson_loss` as a module.

    Args:
        eps: see `negative_pearson_loss`.

    Raises:
        TypeError, ValueError: at construction for a wrong eps, in `forward` as the function.

    Example:
        >>> NegativePearsonLoss()(torch.tensor([1.0, 2.0]), torch.tensor([5.0, 3.0]))
        tensor(1.)
    """

    def __init__(self, eps: float = 1e-8) -> None:
        super().__init__()
        self.eps = checks.non_negative_finite("eps", eps)

    def forward(self, preds: Tensor, targets: Tensor) -> Tensor:
        """Return `negative_pearson_loss(preds, targets)` with this eps."""
        return negative_pearson_loss(preds, targets, self.eps)

    def extra_repr(self) -> str:
        """Show the options in `repr`."""
        return f"eps={self.eps!r}"
