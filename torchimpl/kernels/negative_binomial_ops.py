"""The elementwise CDF as custom operators, and their derivatives.

The operators hide the data-dependent evaluation from `torch.compile`; they know nothing of gradients. The two
`autograd.Function`s around them do, because `torch.func.grad` refuses an operator's own autograd rule.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from torchimpl.kernels.negative_binomial import evaluate
from torchimpl.kernels.negative_binomial_regions import Partials
from torchimpl.kernels.negative_binomial_second import second_partials

Four = tuple[Tensor, Tensor, Tensor, Tensor]
Three = tuple[Tensor, Tensor, Tensor]


@functools.cache
def evaluator(device_type: str) -> Callable[[Tensor, Tensor, Tensor], Partials]:
    """What evaluates the CDF on a device: a compiled kernel on the CPU and on CUDA, plain torch elsewhere."""
    if device_type == "cpu":
        # only here: Numba takes a second to import
        module = importlib.import_module(".negative_binomial_cpu", __package__)
        kernel: Callable[[Tensor, Tensor, Tensor], Partials] = module.evaluate_cpu
        return kernel
    if device_type == "cuda":
        triton = importlib.import_module(".negative_binomial_cuda", __package__)
        if triton.available():
            return cast("Callable[[Tensor, Tensor, Tensor], Partials]", triton.evaluate_cuda)
    return functools.partial(evaluate, dense=True)


@functools.cache
def second_evaluator(device_type: str) -> Callable[[Tensor, Tensor, Tensor], Three]:
    """What evaluates second derivatives on a device: on the CPU all analytic, elsewhere `second_partials`."""
    if device_type == "cpu":
        module = importlib.import_module(".negative_binomial_second_cpu", __package__)
        kernel: Callable[[Tensor, Tensor, Tensor], Three] = module.second_cpu
        return kernel
    return functools.partial(second_partials, dense=True, first=evaluator(device_type))


@torch.library.custom_op("proven_losses::negative_binomial_cdf", mutates_args=())
def cdf_operator(y: Tensor, mu: Tensor, r: Tensor) -> Four:
    """(F, S, dF/dmu, dF/dr) at float64 tensors of one shape."""
    found = evaluator(y.device.type)(y, mu, r)
    return found.cdf, found.sf, found.d_mu, found.d_r


@torch.library.custom_op("proven_losses::negative_binomial_second", mutates_args=())
def second_operator(y: Tensor, mu: Tensor, r: Tensor) -> Three:
    """(d²F/dmu², d²F/dmu dr, d²F/dr²) at float64 tensors of one shape."""
    found = second_evaluator(y.device.type)(y, mu, r)
    d_mu_mu, d_mu_r, d_r_r = (value.contiguous() for value in found)
    return d_mu_mu, d_mu_r, d_r_r


def _contiguous(like: Tensor) -> Tensor:
    """What the operators return, whatever the layout of their arguments."""
    return torch.empty_like(like, memory_format=torch.contiguous_format)


@cdf_operator.register_fake
def _(_y: Tensor, mu: Tensor, _r: Tensor) -> Four:
    return _contiguous(mu), _contiguous(mu), _contiguous(mu), _contiguous(mu)


@second_operator.register_fake
def _(_y: Tensor, mu: Tensor, _r: Tensor) -> Three:
    return _contiguous(mu), _contiguous(mu), _contiguous(mu)


def batched(operator: Callable[..., Any], results: int) -> Callable[..., Any]:
    """The vmap rule of an elementwise operator: batch dimensions first, then one call."""

    def rule(info: Any, dims: tuple[int | None, ...], *arguments: Tensor) -> Any:
        moved = [
            argument.expand(info.batch_size, *argument.shape) if dim is None else argument.movedim(dim, 0)
            for argument, dim in zip(arguments, dims, strict=True)
        ]
        return operator(*moved), 0 if results == 1 else (0,) * results

    return rule


cdf_operator.register_vmap(batched(cdf_operator, 4))
second_operator.register_vmap(batched(second_operator, 3))


def times(cotangent: Tensor, derivative: Tensor) -> Tensor:
    """Cotangent · derivative; 0 beside any derivative gives 0.

    Example:
        >>> times(torch.tensor([0.0, 2.0]), torch.tensor([float("inf"), 3.0]))
        tensor([0., 6.])
    """
    unwanted = (cotangent == 0.0) & ~torch.isfinite(derivative)
    return cotangent * torch.where(unwanted, 0.0, derivative)


def weigh(*pairs: tuple[Tensor | None, Tensor]) -> Tensor | None:
    """The sum of `times` over the pairs that have a cotangent.

    Example:
        >>> weigh((torch.tensor([0.0, 2.0]), torch.tensor([float("inf"), 3.0])), (None, torch.ones(2)))
        tensor([0., 6.])
    """
    total: Tensor | None = None
    for cotangent, derivative in pairs:
        if cotangent is None:
            continue
        product = times(cotangent, derivative)
        total = product if total is None else total + product
    return total


class NegativeBinomialCDF(torch.autograd.Function):
    """(y, mu, r) -> (F, S, dF/dmu, dF/dr), twice differentiable in mu and r."""

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, mu: Tensor, r: Tensor) -> Four:
        """Everything in one pass."""
        found: Four = cdf_operator(y, mu, r)
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: Three, output: Four) -> None:
        """Keep the inputs and the derivatives."""
        _, _, d_mu, d_r = output
        # the derivatives are outputs: under create_graph they hang on this very node
        ctx.save_for_backward(*inputs, d_mu, d_r)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        """The chain rule, from the values and (under create_graph) from the first derivatives."""
        on_cdf, on_sf, on_d_mu, on_d_r = cotangents
        y, mu, r, d_mu, d_r = ctx.saved_tensors
        on_value = on_cdf
        if on_sf is not None:
            on_value = -on_sf if on_cdf is None else on_cdf - on_sf
        if on_d_mu is None and on_d_r is None:
            return None, weigh((on_value, d_mu)), weigh((on_value, d_r))
        d_mu_mu, d_mu_r, d_r_r = NegativeBinomialSecond.apply(y, mu, r)
        g_mu = weigh((on_value, d_mu), (on_d_mu, d_mu_mu), (on_d_r, d_mu_r))
        g_r = weigh((on_value, d_r), (on_d_mu, d_mu_r), (on_d_r, d_r_r))
        return None, g_mu, g_r


class LastDerivatives(torch.autograd.Function):
    """(y, mu, r) -> second derivatives, by the `forward` of a subclass; where differentiation ends."""

    generate_vmap_rule = True

    @staticmethod
    def setup_context(_ctx: Any, _inputs: Three, _output: Three) -> None:
        """Nothing to keep."""

    @staticmethod
    def backward(_ctx: Any, *_cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        """Refuse."""
        raise NotImplementedError("the negative binomial has first and second derivatives, no third ones")


class NegativeBinomialSecond(LastDerivatives):
    """(y, mu, r) -> the second derivatives of F."""

    @staticmethod
    def forward(y: Tensor, mu: Tensor, r: Tensor) -> Three:
        """All three."""
        found: Three = second_operator(y, mu, r)
        return found
