"""Negative Pearson correlation, scale-free and offset-free over the whole range of the dtype."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchimpl import checks, scaling
from torchimpl.saturate import clamp_through


def negative_pearson_loss(preds: Tensor, targets: Tensor, eps: float = 1e-8) -> Tensor:
    """Negative Pearson correlation over all elements.

    With p, t the deviations from the mean:  -(Σ p t) / (‖p‖ ‖t‖),  always within [-1, 1].

    Both sides are rescaled by powers of two on the way, so neither a scale of 1e-30 or 1e30 nor a common
    offset matters. Where a side is constant (a single element, too) the value is 0 with zero gradient;
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
    x, y = preds.to(work).reshape(-1), targets.to(work).reshape(-1)
    if x.numel() == 0:
        return (x.sum() + y.sum()).to(dtype)
    return _negative_correlation(x, y, floor).to(dtype)


def _negative_correlation(x: Tensor, y: Tensor, floor: float) -> Tensor:
    """-Σ p t / max(‖p‖ ‖t‖, floor · max|p| · max|t|) of two vectors with at least one element."""
    p, x_constant = _rescaled_deviations(x)
    t, y_constant = _rescaled_deviations(y)
    # a constant side against NaN is NaN, not 0: 0 is chosen only where the other side is finite, too
    degenerate = (x_constant | y_constant) & x.detach().isfinite().all() & y.detach().isfinite().all()
    # the norms of constant sides are replaced before the root, whose slope at 0 is infinite
    p_norm = torch.where(x_constant, 1.0, p.square().sum()).sqrt()
    t_norm = torch.where(y_constant, 1.0, t.square().sum()).sqrt()
    denominator = torch.maximum(p_norm * t_norm, floor * p.abs().amax() * t.abs().amax())
    denominator = torch.where(degenerate, 1.0, denominator)
    value = torch.where(degenerate, 0.0, -(p * t).sum() / denominator)
    return clamp_through(value, 1.0)


def _rescaled_deviations(x: Tensor) -> tuple[Tensor, Tensor]:
    """Deviations from the mean times a power of two that brings them near 1, and whether `x` is constant."""
    x = x * scaling.unit_scale(scaling.largest(x))
    # this pivot makes constants exactly 0; the result does not depend on it, hence it needs no gradient
    differences = x - x.detach()[0]
    span = scaling.largest(differences)
    differences = differences * scaling.unit_scale(span)
    return differences - differences.mean(), span == 0


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
