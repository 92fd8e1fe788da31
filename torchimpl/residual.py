"""Squared difference between the residuals of two replicates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from torchimpl import checks, scaling
from torchimpl.alignment import align, aligned, lookup, options_checked
from torchimpl.kernels.blocks import blocks, joined, total
from torchimpl.saturate import all_finite, saturate

REDUCTIONS = ("mean", "sum", "none")
# where a number reaches _HUGE the gradient is formed _SHRINK times smaller and scaled back at the end
_HUGE = {torch.float32: 2.0**100, torch.float64: 2.0**900}
_SHRINK = 2.0**-64


def _shrink_where_huge(x: Tensor) -> Tensor:
    """Per element 1, or 2^-64 where |x| is huge, inf or NaN."""
    return torch.where(x.abs() < _HUGE[x.dtype], torch.ones_like(x), _SHRINK)


def _dot(a: Tensor, shrink_a: Tensor, b: Tensor, shrink_b: Tensor) -> Tensor:
    """Σ (a / shrink_a) (b / shrink_b) without inf - inf on the way."""
    if a.numel() == 0:
        return (a * b).sum()
    common_a, common_b = shrink_a.amin(), shrink_b.amin()
    a, b = a * (common_a / shrink_a), b * (common_b / shrink_b)
    in_range = scaling.largest(a * b) < _HUGE[a.dtype]
    exponent_a = torch.where(in_range, 0, scaling.exponent(scaling.largest(a)))
    exponent_b = torch.where(in_range, 0, scaling.exponent(scaling.largest(b)))
    total = (scaling.rescale(a, -exponent_a) * scaling.rescale(b, -exponent_b)).sum()
    return scaling.rescale(total, exponent_a + exponent_b) / common_a / common_b


def _residual(y1: Tensor, mu1: Tensor, y2: Tensor, mu2: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """(y1 - mu1) - s (y2 - mu2) and y2 - mu2 in float64, straightforwardly."""
    difference = y2.double() - mu2.double()
    return (y1.double() - mu1.double()) - s.double() * difference, difference


def _residual_gradients(
    wanted: tuple[bool, ...], y1: Tensor, mu1: Tensor, y2: Tensor, mu2: Tensor, s: Tensor, slope: Tensor
) -> list[Tensor | None]:
    """Gradients of y1, mu1, y2, mu2, s where wanted; `slope` times e is the derivative in e."""
    e, difference = _residual(y1, mu1, y2, mu2, s)
    # with no incoming gradient nothing is multiplied by a possible inf
    idle = slope == 0.0
    grad_1 = torch.where(idle, 0.0, e) * slope
    grad_2 = grad_1 * torch.where(idle, 0.0, s.double()) if wanted[2] or wanted[3] else grad_1
    grad_s = None
    if wanted[4]:
        grad_s = -(grad_1 * torch.where(idle, 0.0, difference))
        grad_s = grad_s if s.dim() else grad_s.sum()
    return [
        grad_1.to(y1.dtype) if wanted[0] else None,
        -grad_1.to(mu1.dtype) if wanted[1] else None,
        -grad_2.to(y2.dtype) if wanted[2] else None,
        grad_2.to(mu2.dtype) if wanted[3] else None,
        grad_s,
    ]


class _ResidualSquares(torch.autograd.Function):
    """Σ e² / divisor, or e² per element where divisor is None; e = (y1 - mu1) - s (y2 - mu2).

    Inputs: vectors y1, mu1, y2, mu2, s (s may be 0-dim), divisor. For numbers within the range of float32: in
    float64 nothing overflows or underflows on the way.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(*inputs: Any) -> Tensor:
        divisor: float | None = inputs[-1]
        residuals = (_residual(*block)[0] for block in blocks(*inputs[:-1]))
        if divisor is None:
            return joined([e.square() for e in residuals])
        return total([e.dot(e) for e in residuals]) / divisor

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], _output: Tensor) -> None:
        *tensors, ctx.divisor = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        slope = grads[0] * 2.0 if ctx.divisor is None else grads[0] / ctx.divisor * 2.0
        parts = [
            _residual_gradients(ctx.needs_input_grad, *block) for block in blocks(*ctx.saved_tensors, slope)
        ]
        gradients: list[Tensor | None] = []
        for tensor, pieces in zip(ctx.saved_tensors, zip(*parts, strict=True), strict=True):
            found = [piece for piece in pieces if piece is not None]
            whole = joined if tensor.dim() else total
            gradients.append(whole(found).to(tensor.dtype) if found else None)
        return *gradients, None


class _GuardedResidualSquares(torch.autograd.Function):
    """`_ResidualSquares` for numbers that may overflow in the dtype they are computed in.

    Inputs: the same, all of the working dtype.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(*inputs: Any) -> Tensor:
        y1, mu1, y2, mu2, s, divisor = inputs
        e = (y1 - mu1) - s * (y2 - mu2)
        shrink = _shrink_where_huge(e)
        # formed in two sizes: inf - inf on the way must not become NaN
        e = ((y1 * shrink - mu1 * shrink) - s * (y2 * shrink - mu2 * shrink)) / shrink
        return e.square() if divisor is None else scaling.mean_of_squares(e, divisor, e.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], _output: Tensor) -> None:
        *tensors, ctx.divisor = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        y1, mu1, y2, mu2, s = ctx.saved_tensors
        slope = grads[0] * 2.0 if ctx.divisor is None else grads[0] / ctx.divisor * 2.0
        difference = y2 - mu2
        shrink = _shrink_where_huge((y1 - mu1) - s * difference)
        e = (y1 * shrink - mu1 * shrink) - s * (y2 * shrink - mu2 * shrink)
        # with no incoming gradient nothing is multiplied by a possible inf
        idle = slope == 0.0
        slope_e = torch.where(idle, 0.0, e) * slope
        grad_1 = slope_e / shrink
        grad_2 = slope_e * torch.where(idle, 0.0, s) / shrink
        shrink_d = _shrink_where_huge(difference)
        difference = torch.where(idle, 0.0, y2 * shrink_d - mu2 * shrink_d)
        if s.dim() == difference.dim():
            grad_s = -(slope_e * difference) / shrink / shrink_d
        else:
            grad_s = -_dot(slope_e, shrink, difference, shrink_d)
        return grad_1, -grad_1, -grad_2, grad_2, grad_s, None


def compute_residual_mse(
    y_r1: Tensor,
    mu_tech_r1: Tensor,
    y_r2: Tensor,
    mu_tech_r2: Tensor,
    sd_ratio_r1_to_r2: Tensor | float,
    *,
    reduction: str = "mean",
) -> Tensor:
    """Squared difference between the residuals of two replicates.

    e² with  e = (y_r1 - mu_tech_r1) - s · (y_r2 - mu_tech_r2),  s = sd_ratio_r1_to_r2.

    Args:
        y_r1: any shape, integer or floating; the counts of replicate 1.
        mu_tech_r1: the same shape; their predicted mean.
        y_r2: the same shape; the counts of replicate 2.
        mu_tech_r2: the same shape; their predicted mean.
        sd_ratio_r1_to_r2: a number, a 0-dim tensor, or a tensor of the same shape.
        reduction: "mean", "sum" or "none".

    Returns:
        0-dim, float32 for half inputs, else the promoted dtype of the tensors; for "none" their shape and
        dtype. Finite inputs give a finite value, saturated at the largest number; no elements give 0.

    Raises:
        TypeError: a tensor is missing or has an unsupported dtype; the ratio is neither tensor nor number.
        ValueError: shapes differ, or `reduction` is unknown.

    Example:
        >>> y, mu = torch.tensor([3, 5]), torch.tensor([1.0, 4.0])
        >>> compute_residual_mse(y, mu, y, mu, 2.0)
        tensor(2.5000)
    """
    checks.reduction(reduction, REDUCTIONS)
    tensors = {"y_r1": y_r1, "mu_tech_r1": mu_tech_r1, "y_r2": y_r2, "mu_tech_r2": mu_tech_r2}
    for name, tensor in tensors.items():
        checks.require_tensor(name, tensor)
        checks.same_shape(name, tensor, "y_r1", y_r1)
    inputs = [*tensors.values()]
    if isinstance(sd_ratio_r1_to_r2, Tensor):
        ratio = checks.require_tensor("sd_ratio_r1_to_r2", sd_ratio_r1_to_r2)
        if ratio.dim() > 0:
            checks.same_shape("sd_ratio_r1_to_r2", ratio, "y_r1", y_r1)
        inputs.append(ratio)
        in_range = True
    else:
        number = checks.real_number("sd_ratio_r1_to_r2", sd_ratio_r1_to_r2)
        ratio = torch.full((), number, dtype=torch.float64, device=y_r1.device)
        in_range = abs(number) <= torch.finfo(torch.float32).max
    divisor = {"none": None, "sum": 1.0, "mean": float(max(y_r1.numel(), 1))}[reduction]
    result = checks.elementwise_dtype(*inputs) if reduction == "none" else checks.result_dtype(*inputs)
    work = checks.working_dtype(*inputs)
    if in_range and work == torch.float64 and all(tensor.dtype != work for tensor in inputs):
        vectors = [tensor.reshape(-1) for tensor in tensors.values()]
        ratio = ratio.reshape(-1) if ratio.dim() else ratio
        value = _ResidualSquares.apply(*vectors, ratio, divisor)
        # an infinity can only be the inputs' own
        value = saturate(value, result, value.detach() < torch.inf)
        return value.reshape(y_r1.shape) if reduction == "none" else value
    working = [tensor.to(work) for tensor in (*tensors.values(), ratio)]
    value = _GuardedResidualSquares.apply(*working, divisor)
    return saturate(value, result, all_finite(*working))


@options_checked
def replicate_concordance_mse_loss(
    model_outputs: object, batch: object, *, reduction: str = "mean"
) -> Tensor:
    """`compute_residual_mse` of a batch of two replicates, s = batch['metadata']['sd_ratio'].

    Args:
        model_outputs: {'r1': {'mu'}, 'r2': {'mu'}}, each (B,) or (B, 1).
        batch: {'r1': {'reads'}, 'r2': {'reads'}, 'metadata': {'sd_ratio'}}; the ratio is a number, a 0-dim
            tensor, (B,) or (B, 1).
        reduction: "mean", "sum" or "none".

    Raises:
        KeyError: a key is missing; the message names its path.
        TypeError: an unknown option; something is not a tensor.
        ValueError: shapes that are not the same batch; an unknown `reduction`.

    Example:
        >>> replicate = {"mu": torch.tensor([[1.0], [4.0]])}
        >>> reads = {"reads": torch.tensor([3, 5])}
        >>> batch = {"r1": reads, "r2": reads, "metadata": {"sd_ratio": 2.0}}
        >>> replicate_concordance_mse_loss({"r1": replicate, "r2": replicate}, batch)
        tensor(2.5000)
    """
    y_r1, mu_r1 = aligned(model_outputs, batch, "r1", ("mu",))
    y_r2, mu_r2 = aligned(model_outputs, batch, "r2", ("mu",))
    checks.same_shape("batch['r2']['reads']", y_r2, "batch['r1']['reads']", y_r1)
    ratio = lookup("batch", batch, "metadata", "sd_ratio")
    if isinstance(ratio, Tensor) and ratio.dim() > 0:
        ratio = align("batch['metadata']['sd_ratio']", ratio, "batch['r1']['reads']", y_r1)
    return compute_residual_mse(y_r1, mu_r1, y_r2, mu_r2, ratio, reduction=reduction)


class ReplicateConcordanceMSELoss(nn.Module):
    """`replicate_concordance_mse_loss` as a module.

    Args:
        reduction: "mean", "sum" or "none".

    Raises:
        TypeError, ValueError: at construction for a wrong reduction, in `forward` as the function.

    Example:
        >>> side = {"mu": torch.tensor([1.0])}
        >>> reads = {"reads": torch.tensor([3])}
        >>> batch = {"r1": reads, "r2": reads, "metadata": {"sd_ratio": 2.0}}
        >>> ReplicateConcordanceMSELoss()({"r1": side, "r2": side}, batch)
        tensor(4.)
    """

    def __init__(self, *, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = checks.reduction(reduction, REDUCTIONS)

    def forward(self, model_outputs: object, batch: object) -> Tensor:
        """Return `replicate_concordance_mse_loss(model_outputs, batch)` with this reduction."""
        return replicate_concordance_mse_loss(model_outputs, batch, reduction=self.reduction)

    def extra_repr(self) -> str:
        """Show the options in `repr`."""
        return f"reduction={self.reduction!r}"
