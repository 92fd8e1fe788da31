"""Losses of two replicates as `loss(model_outputs, batch, **options)`: look up, align, hand to the core."""

from __future__ import annotations

import torch
from torch import Tensor

from torchimpl import checks
from torchimpl.alignment import aligned, options_checked
from torchimpl.concordance import concordance_loss_nce
from torchimpl.likelihood import nll_loss
from torchimpl.pearson import negative_pearson_loss
from torchimpl.quantile import quantile_absolute_loss
from torchimpl.residual import replicate_concordance_mse_loss
from torchimpl.saturate import all_finite, saturate

__all__ = [
    "concordance_loss_nce_wrapper",
    "negative_pearson_loss_wrapper",
    "nll_loss",
    "quantile_absolute_loss_wrapper",
    "replicate_concordance_mse_loss",
]


@options_checked
def concordance_loss_nce_wrapper(
    model_outputs: object,
    batch: object,
    *,
    tau: float = 0.1,
    eps: float = 1e-8,
    reduction: str = "mean",
    chunk_size: int | None = None,
    impl: str = "auto",
) -> Tensor:
    """`concordance_loss_nce` of the residuals reads - mu of both replicates.

    The residuals are formed and used in float64; only the loss is rounded to the inputs' dtype. A residual of
    float64 inputs beyond the largest float64 saturates.

    Args:
        model_outputs: {'r1': {'mu'}, 'r2': {'mu'}}, each (B,) or (B, 1).
        batch: {'r1': {'reads'}, 'r2': {'reads'}}, each (B,) or (B, 1).
        tau: > 0; see `concordance_loss_nce`, as for the other options.
        eps: >= 0.
        reduction: "mean", "sum" or "none".
        chunk_size: rows per block.
        impl: which implementation answers.

    Raises:
        KeyError: a key is missing; the message names its path.
        TypeError: an unknown option; something is not a tensor.
        ValueError: shapes that are not the same batch; an option out of range.

    Example:
        >>> side = {"mu": torch.tensor([[1.0], [4.0]])}
        >>> reads = {"reads": torch.tensor([3, 50])}
        >>> loss = concordance_loss_nce_wrapper({"r1": side, "r2": side}, {"r1": reads, "r2": reads}, eps=0)
        >>> loss
        tensor(0.)
    """
    reads_r1, mu_r1 = aligned(model_outputs, batch, "r1", ("mu",))
    reads_r2, mu_r2 = aligned(model_outputs, batch, "r2", ("mu",))
    checks.same_shape("batch['r2']['reads']", reads_r2, "batch['r1']['reads']", reads_r1)
    inputs = (reads_r1, mu_r1, reads_r2, mu_r2)
    residuals = (_residual(reads_r1, mu_r1), _residual(reads_r2, mu_r2))
    value = concordance_loss_nce(
        *residuals, tau, eps=eps, reduction=reduction, chunk_size=chunk_size, impl=impl
    )
    dtype = checks.elementwise_dtype(*inputs) if reduction == "none" else checks.result_dtype(*inputs)
    return saturate(value, dtype, all_finite(*inputs))


def _residual(reads: Tensor, mu: Tensor) -> Tensor:
    """Return reads - mu in the working dtype, saturated."""
    work = checks.working_dtype(reads, mu)
    return saturate(reads.to(work) - mu, work, reads.isfinite() & mu.isfinite())


@options_checked
def negative_pearson_loss_wrapper(model_outputs: object, batch: object, *, eps: float = 1e-8) -> Tensor:
    """`negative_pearson_loss` of the means of both replicates, concatenated, against the reads of both.

    Args:
        model_outputs: {'r1': {'mu'}, 'r2': {'mu'}}, each (B,) or (B, 1).
        batch: {'r1': {'reads'}, 'r2': {'reads'}}, each (B,) or (B, 1).
        eps: see `negative_pearson_loss`.

    Raises:
        KeyError: a key is missing; the message names its path.
        TypeError: an unknown option; something is not a tensor.
        ValueError: shapes that are not the same batch.

    Example:
        >>> mu, reads = torch.tensor([[1.0], [2.0]]), torch.tensor([3, 5])
        >>> outputs = {"r1": {"mu": mu}, "r2": {"mu": mu + 1}}
        >>> negative_pearson_loss_wrapper(outputs, {"r1": {"reads": reads}, "r2": {"reads": reads + 2}})
        tensor(-1.)
    """
    reads_r1, mu_r1 = aligned(model_outputs, batch, "r1", ("mu",))
    reads_r2, mu_r2 = aligned(model_outputs, batch, "r2", ("mu",))
    inputs = (mu_r1, mu_r2, reads_r1, reads_r2)
    preds, targets = _concatenated(mu_r1, mu_r2), _concatenated(reads_r1, reads_r2)
    return negative_pearson_loss(preds, targets, eps).to(checks.result_dtype(*inputs))


def _concatenated(first: Tensor, second: Tensor) -> Tensor:
    """Both sides in one dtype that holds them, none of the half ones: autocast knows only its own."""
    floating = {first.is_floating_point(), second.is_floating_point()}
    sides = [first.reshape(-1), second.reshape(-1)]
    if floating != {False}:
        wide = checks.result_dtype if floating == {True} else checks.working_dtype
        sides = [side.to(wide(first, second)) for side in sides]
    return torch.cat(sides)


@options_checked
def quantile_absolute_loss_wrapper(
    model_outputs: object, batch: object, *, reduction: str = "mean", validate: bool = False
) -> Tensor:
    """`quantile_absolute_loss` of the reads of both replicates under their own mu and r.

    Args:
        model_outputs: {'r1': {'mu', 'r'}, 'r2': {'mu', 'r'}}, each (B,), (B, 1) or 0-dim.
        batch: {'r1': {'reads'}, 'r2': {'reads'}}, each (B,) or (B, 1).
        reduction: "mean", "sum" or "none".
        validate: raise for invalid elements instead of returning NaN (waits for the device).

    Raises:
        KeyError: a key is missing; the message names its path.
        TypeError: an unknown option; something is not a tensor.
        ValueError: shapes that are not the same batch; an unknown `reduction`; with `validate`, an invalid
            element.

    Example:
        >>> side = {"mu": torch.tensor([[1.0], [4.0]]), "r": torch.tensor(2.0)}
        >>> reads = {"reads": torch.tensor([3, 5])}
        >>> quantile_absolute_loss_wrapper({"r1": side, "r2": side}, {"r1": reads, "r2": reads})
        tensor(0.)
    """
    reads_r1, mu_r1, r_r1 = aligned(model_outputs, batch, "r1", ("mu", "r"))
    reads_r2, mu_r2, r_r2 = aligned(model_outputs, batch, "r2", ("mu", "r"))
    checks.same_shape("batch['r2']['reads']", reads_r2, "batch['r1']['reads']", reads_r1)
    sides = ({"mu": mu_r1, "r": r_r1}, {"mu": mu_r2, "r": r_r2})
    return quantile_absolute_loss(*sides, reads_r1, reads_r2, reduction=reduction, validate=validate)
