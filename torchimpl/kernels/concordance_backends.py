"""What evaluates the InfoNCE losses: compiled kernels on the CPU and on CUDA, plain torch elsewhere.

Each backend brings the losses of all rows, their vector-Jacobian product and that one's. Kernels are imported
where they are used first: Numba takes a second.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchimpl.kernels.concordance import Pairs, loss_curvature, loss_gradient, loss_rows
from torchimpl.saturate import all_finite

# what the caller may ask for
IMPLS = ("auto", "exact-blocks", "sorted", "torch")
# what products of matrices on CUDA are formed in, by the caller's tensors; float64 stands for all others
GRADES = ("float64", "tf32x3", "bf16")

# losses, nearest, normaliser, slopes
Four = tuple[Tensor, Tensor, Tensor, Tensor]
Two = tuple[Tensor, Tensor]
Three = tuple[Tensor, Tensor, Tensor]


class Settings(NamedTuple):
    """The numbers of one call."""

    tau: float
    eps: float
    rows: int  # rows a block of plain torch, 0 = from the shapes
    wide: bool  # squares may leave float64
    grade: str  # one of GRADES
    slopes: bool  # a gradient will be wanted
    impl: str = "auto"  # one of IMPLS

    @property
    def narrow(self) -> bool:
        """Whether the results will be rounded to float32 or less."""
        return self.grade != "float64"


class Backend(NamedTuple):
    """Three functions, all of (B, D) tensors in the working dtype; the last argument is the `Settings`."""

    rows: Callable[..., Four]  # x, y
    gradient: Callable[..., Two]  # cotangent, x, y, nearest, normaliser, slopes
    curvature: Callable[..., Three]  # ux, uy, cotangent, x, y, nearest, normaliser


def _module(name: str) -> Any:
    return importlib.import_module(f".{name}", __package__)


def _plain_rows(x: Tensor, y: Tensor, settings: Settings) -> Four:
    pairs = Pairs(x, y, tau=settings.tau, eps=settings.eps, rows=settings.rows, wide=settings.wide)
    losses, normaliser = loss_rows(pairs)
    return losses, pairs.nearest, normaliser, x.new_zeros(slopes_shape(x, settings))


def _pairs(x: Tensor, y: Tensor, nearest: Tensor, settings: Settings) -> Pairs:
    return Pairs(
        x, y, tau=settings.tau, eps=settings.eps, rows=settings.rows, wide=settings.wide, nearest=nearest
    )


def _plain_gradient(
    cotangent: Tensor,
    x: Tensor,
    y: Tensor,
    nearest: Tensor,
    normaliser: Tensor,
    _slopes: Tensor,
    settings: Settings,
) -> Two:
    return loss_gradient(_pairs(x, y, nearest, settings), cotangent, normaliser)


def _plain_curvature(
    ux: Tensor,
    uy: Tensor,
    cotangent: Tensor,
    x: Tensor,
    y: Tensor,
    nearest: Tensor,
    normaliser: Tensor,
    settings: Settings,
) -> Three:
    return loss_curvature(_pairs(x, y, nearest, settings), ux, uy, cotangent, normaliser)


PLAIN = Backend(_plain_rows, _plain_gradient, _plain_curvature)


def _spelled_out(function: Callable[..., Any], *options: str) -> Callable[..., Any]:
    """A function of tensors, τ, ε and some options as one of tensors and `Settings`."""

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        *tensors, settings = arguments
        chosen = {name: getattr(settings, name) for name in options}
        return function(*tensors, settings.tau, settings.eps, **chosen)

    return call


def _sorted() -> Backend:
    module, second = _module("concordance_cpu"), _module("concordance_sorted_second")
    return Backend(module.rows_sorted, module.gradient_sorted, _spelled_out(second.curvature_sorted))


def _blocks() -> Backend:
    module = _module("concordance_blocks")
    rows = _spelled_out(module.rows_blocks, "narrow", "slopes")
    return Backend(rows, _spelled_out(module.gradient_blocks, "narrow"), _plain_curvature)


def _cuda() -> Backend:
    module = _module("concordance_cuda")
    rows = _spelled_out(module.rows_cuda, "narrow", "slopes", "grade")
    return Backend(rows, _spelled_out(module.gradient_cuda, "narrow", "grade"), _plain_curvature)


def choices(device_type: str, features: int) -> tuple[str, ...]:
    """The implementations that there are for a device and a number of features, the fastest first.

    Example:
        >>> choices("cpu", 1)
        ('sorted', 'exact-blocks', 'torch')
        >>> choices("cpu", 8)
        ('exact-blocks', 'torch')
        >>> choices("mps", 1)
        ('torch',)
    """
    if device_type == "cpu":
        return ("sorted", "exact-blocks", "torch") if features == 1 else ("exact-blocks", "torch")
    if device_type == "cuda" and _module("negative_binomial_cuda_triton").installed:
        return ("sorted" if features == 1 else "exact-blocks", "torch")
    return ("torch",)


def _name(x: Tensor, impl: str) -> str:
    found = choices(x.device.type, x.shape[1])
    return impl if impl in found else found[0]


def backend(x: Tensor, y: Tensor, settings: Settings) -> Backend:
    """What answers for these tensors.

    Args:
        x: (B, D).
        y: like `x`.
        settings: only `impl` counts.

    Returns:
        The fastest for "auto", otherwise the one that is asked for, if there is one for the device and the
        features; plain torch where nothing counts, and on the CPU for NaN and inf.
    """
    name = _name(x, settings.impl)
    if name == "torch" or not x.numel() or x.dtype != torch.float64:
        return PLAIN
    if x.device.type == "cuda":
        return _cuda()
    if not all_finite(x, y):
        return PLAIN
    return _sorted() if name == "sorted" else _blocks()


def slopes_shape(x: Tensor, settings: Settings) -> tuple[int, int, int]:
    """The shape of the slopes that a forward pass returns: kernels on CUDA and plain torch have none."""
    batch, features = x.shape
    compiled = x.device.type == "cpu" and _name(x, settings.impl) != "torch"
    return (2, batch if settings.slopes and compiled else 0, features)
