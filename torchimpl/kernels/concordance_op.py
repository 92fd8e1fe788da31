"""The InfoNCE losses per row as custom operators, differentiable twice.

The loop over blocks depends on the batch size: inside an operator no compiler traces it. The operators carry
the vmap rule and the shapes; the autograd functions around them the derivatives, also under `torch.func`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from torchimpl.kernels.concordance_backends import Settings, backend, slopes_shape

_Optional: TypeAlias = Tensor | None


@torch.library.custom_op("proven_losses::concordance_rows", mutates_args=())
def _rows_op(
    x: Tensor,
    y: Tensor,
    *,
    tau: float,
    eps: float,
    rows: int,
    wide: bool,
    grade: str,
    slopes: bool,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss and anchor of every row, (B,), the normaliser, (2, B), and the slopes of the sum, (2, B, D)."""
    settings = Settings(tau, eps, rows, wide, grade, slopes, impl)
    return backend(x, y, settings).rows(x, y, settings)


@torch.library.custom_op("proven_losses::concordance_gradient", mutates_args=())
def _gradient_op(
    cotangent: Tensor,
    x: Tensor,
    y: Tensor,
    nearest: Tensor,
    normaliser: Tensor,
    saved: Tensor,
    *,
    tau: float,
    eps: float,
    rows: int,
    wide: bool,
    grade: str,
    slopes: bool,
    impl: str,
) -> tuple[Tensor, Tensor]:
    """Vector-Jacobian product of the row losses, from the slopes that were saved or from all pairs again."""
    settings = Settings(tau, eps, rows, wide, grade, slopes, impl)
    return backend(x, y, settings).gradient(cotangent, x, y, nearest, normaliser, saved, settings)


@torch.library.custom_op("proven_losses::concordance_curvature", mutates_args=())
def _curvature_op(
    ux: Tensor,
    uy: Tensor,
    cotangent: Tensor,
    x: Tensor,
    y: Tensor,
    nearest: Tensor,
    normaliser: Tensor,
    *,
    tau: float,
    eps: float,
    rows: int,
    wide: bool,
    grade: str,
    slopes: bool,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Vector-Jacobian product of `_gradient_op` with (ux, uy), for cotangent, x and y."""
    settings = Settings(tau, eps, rows, wide, grade, slopes, impl)
    return backend(x, y, settings).curvature(ux, uy, cotangent, x, y, nearest, normaliser, settings)


@_rows_op.register_fake
def _(x: Tensor, *_tensors: Tensor, **options: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch = x.shape[0]
    nearest = x.new_empty(batch, dtype=torch.int64)
    saved = x.new_empty(slopes_shape(x, Settings(**options)))
    return x.new_empty(batch), nearest, x.new_empty(2, batch), saved


@_gradient_op.register_fake
def _(_cotangent: Tensor, x: Tensor, *_tensors: Tensor, **_options: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape)


@_curvature_op.register_fake
def _(ux: Tensor, *_tensors: Tensor, **_options: Any) -> tuple[Tensor, Tensor, Tensor]:
    return ux.new_empty(ux.shape[0]), ux.new_empty(ux.shape), ux.new_empty(ux.shape)


def _one_by_one(op: Callable[..., tuple[Tensor, ...]]) -> Callable[..., Any]:
    """A vmap rule: the problems of a batch one after the other, each in its own blocks."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *args: Tensor, **options: Any) -> tuple[Any, Any]:
        problems = [
            op(
                *(a if dim is None else a.select(dim, i) for a, dim in zip(args, in_dims, strict=True)),
                **options,
            )
            for i in range(info.batch_size)
        ]
        stacked = tuple(torch.stack(outputs) for outputs in zip(*problems, strict=True))
        return stacked, (0,) * len(stacked)

    return rule


for _op in (_rows_op, _gradient_op, _curvature_op):
    _op.register_vmap(_one_by_one(_op))


class _Rows(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, y: Tensor, options: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        outputs: tuple[Tensor, Tensor, Tensor, Tensor] = _rows_op(x, y, **options)
        return outputs

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, y, ctx.options = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(x, y, *output[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[_Optional, ...]:
        gx, gy = _Gradient.apply(grads[0], *ctx.saved_tensors, ctx.options)
        return gx, gy, None


class _Gradient(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        cotangent: Tensor,
        x: Tensor,
        y: Tensor,
        nearest: Tensor,
        normaliser: Tensor,
        saved: Tensor,
        options: dict[str, Any],
    ) -> tuple[Tensor, Tensor]:
        outputs: tuple[Tensor, Tensor] = _gradient_op(cotangent, x, y, nearest, normaliser, saved, **options)
        return outputs

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: ARG004
        *tensors, _saved, ctx.options = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[_Optional, ...]:
        # how the normaliser and what was saved depend on x and y is part of the formula
        g_cotangent, gx, gy = _Curvature.apply(*grads, *ctx.saved_tensors, ctx.options)
        return g_cotangent, gx, gy, None, None, None, None


class _Curvature(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        ux: Tensor,
        uy: Tensor,
        cotangent: Tensor,
        x: Tensor,
        y: Tensor,
        nearest: Tensor,
        normaliser: Tensor,
        options: dict[str, Any],
    ) -> tuple[Tensor, Tensor, Tensor]:
        outputs: tuple[Tensor, Tensor, Tensor] = _curvature_op(
            ux, uy, cotangent, x, y, nearest, normaliser, **options
        )
        return outputs

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Nothing to keep: there is no third derivative."""

    @staticmethod
    def backward(_ctx: Any, *_grads: Tensor) -> tuple[_Optional, ...]:
        raise NotImplementedError("concordance_loss_nce has first and second derivatives, but no third ones")


def concordance_rows(
    x: Tensor,
    y: Tensor,
    *,
    tau: float,
    eps: float,
    rows: int = 0,
    wide: bool = True,
    grade: str = "float64",
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Loss of every row and index of the source nearest to it, (B,), for (B, D) inputs in the working dtype.

    See `Settings` and `backend` for the options.

    Example:
        >>> x = torch.zeros(3, 1, dtype=torch.float64)
        >>> concordance_rows(x, x, tau=1.0, eps=0.0)[0]  # log 3
        tensor([1.0986, 1.0986, 1.0986], dtype=torch.float64)
    """
    # where autograd is not seen here (a transformation of torch.func), the gradient visits the pairs again
    slopes = torch.is_grad_enabled() and (x.requires_grad or y.requires_grad)
    options = Settings(tau, eps, rows, wide, grade, slopes, impl)._asdict()
    outputs: tuple[Tensor, Tensor, Tensor, Tensor] = _Rows.apply(x, y, options)
    return outputs[0], outputs[1]
