"""-log pmf with gradients, by the way that suits the device.

On the CPU value and slopes come from one compiled pass, and the backward pass multiplies. Elsewhere, and for
second derivatives, everything is made of the functions of `negative_binomial_log_pmf`.
"""

from __future__ import annotations

import functools
import importlib
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from torchimpl.kernels.negative_binomial_log_pmf import NegativeLogPMF, gradients, value_operator
from torchimpl.kernels.negative_binomial_ops import batched

Two = tuple[Tensor, Tensor]
Three = tuple[Tensor, Tensor, Tensor]


@functools.cache
def kernels() -> ModuleType:
    """The compiled kernels; only here, because Numba takes a second to import."""
    return importlib.import_module(".negative_binomial_log_pmf_cpu", __package__)


@torch.library.custom_op("proven_losses::negative_binomial_log_pmf_one_pass", mutates_args=())
def one_pass_operator(y: Tensor, mu: Tensor, r: Tensor) -> Three:
    """-log pmf and its slopes in mu and r at float64 CPU tensors of one shape."""
    found: Three = kernels().value_and_slopes_cpu(y, mu, r)
    return found


@torch.library.custom_op("proven_losses::negative_binomial_log_pmf_pull_back", mutates_args=())
def pull_back_operator(cotangent: Tensor, y: Tensor, mu: Tensor, r: Tensor, d_mu: Tensor, d_r: Tensor) -> Two:
    """Cotangent times both slopes; overflows only where that does."""
    found: Two = kernels().pull_back_cpu(cotangent, y, mu, r, d_mu, d_r)
    return found


@one_pass_operator.register_fake
def _(_y: Tensor, mu: Tensor, _r: Tensor) -> Three:
    return mu.new_empty(mu.shape), mu.new_empty(mu.shape), mu.new_empty(mu.shape)


@pull_back_operator.register_fake
def _(_cotangent: Tensor, _y: Tensor, mu: Tensor, _r: Tensor, _d_mu: Tensor, _d_r: Tensor) -> Two:
    return mu.new_empty(mu.shape), mu.new_empty(mu.shape)


one_pass_operator.register_vmap(batched(one_pass_operator, 3))
pull_back_operator.register_vmap(batched(pull_back_operator, 2))


class OnePass(torch.autograd.Function):
    """(y, mu, r) -> -log pmf, d/dmu, d/dr on the CPU; the first is differentiable twice in mu and r.

    mu and r have the shape of y or are 0-dim. The slopes are kept for the backward pass and for nothing else.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, mu: Tensor, r: Tensor) -> Three:
        """Everything in one pass."""
        found: Three = one_pass_operator(y, mu.expand_as(y), r.expand_as(y))
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: Three, output: Three) -> None:
        """Keep the inputs and the slopes."""
        _, d_mu, d_r = output
        ctx.save_for_backward(*inputs, d_mu, d_r)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        """Cotangent times slopes."""
        on_value = cotangents[0]
        y, mu, r, d_mu, d_r = ctx.saved_tensors
        elementwise = mu.dim() == y.dim() == r.dim()
        # the operator has no derivative of its own
        if torch.is_grad_enabled() or not elementwise:
            return None, *gradients(on_value, y, mu, r)
        return None, *pull_back_operator(on_value, y, mu, r, d_mu, d_r)


def negative_log_pmf(y: Tensor, mu: Tensor, r: Tensor) -> Tensor:
    """-log pmf(⌊y⌋) of float64 tensors, differentiable twice in mu and r, which are as y or 0-dim.

    Example:
        >>> one = torch.ones(1, dtype=torch.float64, requires_grad=True)
        >>> value = negative_log_pmf(torch.zeros_like(one), one, one)
        >>> value.exp().item(), torch.autograd.grad(value, one)[0].item()
        (2.0, 0.6931471805599453)
    """
    value: Tensor
    if not torch.is_grad_enabled():
        value = value_operator(y, mu.expand_as(y), r.expand_as(y))
    elif y.device.type == "cpu":
        value, _, _ = OnePass.apply(y, mu, r)
    else:
        value = NegativeLogPMF.apply(y, mu, r)
    return value
