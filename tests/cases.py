"""Every loss once, as data: how to call it on a flat tuple of tensors, and small valid inputs.

The transformation tests (compile, vmap, autocast, layout, threads, ...) run over this one table.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchimpl.composite import CompositeLoss
from torchimpl.concordance import ConcordanceLossNCE, concordance_loss_nce
from torchimpl.likelihood import NLLLoss, nll_loss
from torchimpl.masked import MaskedMSE, MaskedSSE, masked_mse, masked_sse
from torchimpl.negative_binomial import (
    negative_binomial_cdf,
    negative_binomial_log_prob,
    negative_binomial_sf,
)
from torchimpl.pearson import NegativePearsonLoss, negative_pearson_loss
from torchimpl.quantile import QuantileAbsoluteLoss, quantile_absolute_loss
from torchimpl.replicates import (
    concordance_loss_nce_wrapper,
    negative_pearson_loss_wrapper,
    quantile_absolute_loss_wrapper,
)
from torchimpl.residual import (
    ReplicateConcordanceMSELoss,
    compute_residual_mse,
    replicate_concordance_mse_loss,
)

Tensors = tuple[Tensor, ...]


@dataclass(frozen=True)
class Case:
    """One loss.

    Attributes:
        name: the public name.
        call: the loss on the flat inputs.
        make: (dtype, seed, batch) -> the flat inputs.
        differentiable: positions of the inputs that have a gradient.
        elementwise: whether the result has one element per input element.
    """

    name: str
    call: Callable[..., Tensor]
    make: Callable[[torch.dtype, int, int], Tensors]
    differentiable: tuple[int, ...]
    elementwise: bool = False

    def __str__(self) -> str:
        return self.name

    def inputs(self, dtype: torch.dtype = torch.float32, seed: int = 0, batch: int = 6) -> Tensors:
        """Detached inputs; the differentiable ones require a gradient."""
        tensors = self.make(dtype, seed, batch)
        return tuple(t.requires_grad_() if i in self.differentiable else t for i, t in enumerate(tensors))

    def scalar(self, *inputs: Tensor) -> Tensor:
        """The loss, summed where it is elementwise."""
        result = self.call(*inputs)
        return result.sum() if self.elementwise else result

    def gradients(self, *inputs: Tensor, call: Callable[..., Tensor] | None = None) -> Tensors:
        """Gradients of the (summed) loss for the differentiable inputs."""
        result = (call or self.call)(*inputs)
        wanted = [inputs[i] for i in self.differentiable]
        return torch.autograd.grad(result, wanted, torch.ones_like(result))


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _dyadic(shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    # quarters in [-1, 1]: sums of their squares are exact in float32, in any order
    return torch.randint(-4, 5, shape, generator=generator).to(dtype) / 4


def _masked(dtype: torch.dtype, seed: int, batch: int) -> Tensors:
    g = _generator(seed)
    mask = torch.rand(batch, 4, generator=g) < 0.5
    mask[0, 0] = True
    return _dyadic((batch, 4), g, dtype), _dyadic((batch, 4), g, dtype), mask


def _pair(dtype: torch.dtype, seed: int, batch: int) -> Tensors:
    g = _generator(seed)
    first = torch.randn(batch, 2, generator=g)
    return first.to(dtype), (first + 0.3 * torch.randn(batch, 2, generator=g)).to(dtype)


def _uniform(batch: int, g: torch.Generator, dtype: torch.dtype) -> Tensor:
    return (0.5 + 4 * torch.rand(batch, generator=g)).to(dtype)


def _counts(batch: int, g: torch.Generator, dtype: torch.dtype) -> Tensor:
    return torch.randint(0, 7, (batch,), generator=g).to(dtype)


def _negative_binomial(dtype: torch.dtype, seed: int, batch: int) -> Tensors:
    g = _generator(seed)
    return _counts(batch, g, dtype), _uniform(batch, g, dtype), _uniform(batch, g, dtype)


def _replicates(dtype: torch.dtype, seed: int, batch: int) -> Tensors:
    """mu and r of replicate 1, of replicate 2; the reads of both; sd_ratio."""
    g = _generator(seed)
    parameters = tuple(_uniform(batch, g, dtype) for _ in range(4))
    return (*parameters, _counts(batch, g, dtype), _counts(batch, g, dtype), torch.tensor(0.75, dtype=dtype))


def _residuals(dtype: torch.dtype, seed: int, batch: int) -> Tensors:
    mu1, _, mu2, _, reads1, reads2, ratio = _replicates(dtype, seed, batch)
    return reads1, mu1, reads2, mu2, ratio


def _call_quantile(loss: Callable[..., Any]) -> Callable[..., Tensor]:
    """The quantile loss (function or module) on the flat inputs of `_replicates`."""

    def call(*flat: Tensor) -> Tensor:
        mu1, r1, mu2, r2, reads1, reads2, _ = flat
        result: Tensor = loss({"mu": mu1, "r": r1}, {"mu": mu2, "r": r2}, reads1, reads2)
        return result

    return call


def from_flat(loss: Callable[..., Any]) -> Callable[..., Tensor]:
    """A dict loss on the flat inputs of `_replicates`."""

    def call(*flat: Tensor) -> Tensor:
        mu1, r1, mu2, r2, reads1, reads2, ratio = flat
        model_outputs = {"r1": {"mu": mu1, "r": r1}, "r2": {"mu": mu2, "r": r2}}
        batch = {"r1": {"reads": reads1}, "r2": {"reads": reads2}, "metadata": {"sd_ratio": ratio}}
        result: Tensor = loss(model_outputs, batch)
        return result

    return call


def composite() -> CompositeLoss:
    """Three components of different kinds."""
    components = [nll_loss, concordance_loss_nce_wrapper, negative_pearson_loss_wrapper]
    return CompositeLoss(components, [1.0, 0.5, 0.25])


CASES = (
    Case("masked_sse", masked_sse, _masked, (0, 1)),
    Case("masked_mse", masked_mse, _masked, (0, 1)),
    Case("concordance_loss_nce", concordance_loss_nce, _pair, (0, 1)),
    Case("negative_pearson_loss", negative_pearson_loss, _pair, (0, 1)),
    Case("negative_binomial_cdf", negative_binomial_cdf, _negative_binomial, (1, 2), elementwise=True),
    Case("negative_binomial_sf", negative_binomial_sf, _negative_binomial, (1, 2), elementwise=True),
    Case(
        "negative_binomial_log_prob", negative_binomial_log_prob, _negative_binomial, (1, 2), elementwise=True
    ),
    Case("quantile_absolute_loss", _call_quantile(quantile_absolute_loss), _replicates, (0, 1, 2, 3)),
    Case("nll_loss", from_flat(nll_loss), _replicates, (0, 1, 2, 3)),
    Case("compute_residual_mse", compute_residual_mse, _residuals, (0, 1, 2, 3, 4)),
    Case("replicate_concordance_mse_loss", from_flat(replicate_concordance_mse_loss), _replicates, (0, 2)),
    Case("concordance_loss_nce_wrapper", from_flat(concordance_loss_nce_wrapper), _replicates, (0, 2)),
    Case("negative_pearson_loss_wrapper", from_flat(negative_pearson_loss_wrapper), _replicates, (0, 2)),
    Case(
        "quantile_absolute_loss_wrapper", from_flat(quantile_absolute_loss_wrapper), _replicates, (0, 1, 2, 3)
    ),
    Case("CompositeLoss", from_flat(composite()), _replicates, (0, 1, 2, 3)),
)


@dataclass(frozen=True)
class ModuleCase:
    """A module with one option off its default, the function's name, and how to call the module."""

    module: nn.Module
    case: str
    option: str
    call: Callable[[nn.Module], Callable[..., Tensor]] = lambda module: module

    def __str__(self) -> str:
        return type(self.module).__name__


MODULES = (
    ModuleCase(MaskedSSE(reduction="sum"), "masked_sse", "sum"),
    ModuleCase(MaskedMSE(reduction="sum"), "masked_mse", "sum"),
    ModuleCase(ConcordanceLossNCE(tau=0.25), "concordance_loss_nce", "0.25"),
    ModuleCase(NegativePearsonLoss(eps=0.25), "negative_pearson_loss", "0.25"),
    ModuleCase(QuantileAbsoluteLoss(reduction="sum"), "quantile_absolute_loss", "sum", _call_quantile),
    ModuleCase(NLLLoss(reduction="sum"), "nll_loss", "sum", from_flat),
    ModuleCase(
        ReplicateConcordanceMSELoss(reduction="sum"), "replicate_concordance_mse_loss", "sum", from_flat
    ),
    ModuleCase(composite(), "CompositeLoss", "0.25", from_flat),
)


def case(name: str) -> Case:
    """The case of that name."""
    return next(entry for entry in CASES if entry.name == name)
