"""What evaluates the InfoNCE losses: compiled kernels on the CPU and on CUDA, plain torch elsewhere.

Each backend brings the losses of all rows, their vector-Jacobian product and that one's. Kernels are imported
where they are used first: Numba takes a second.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchimpl.kernels.concordance import Pairs, loss_curvature, loss_gradient, loss_rows

# what the caller may ask for
IMPLS = ("auto", "exact-blocks", "sorted", "torch")

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
    narrow: bool  # the caller's tensors were narrower than float64
    slopes: bool  # a gradient will be wanted
    impl: str = "auto"  # one of IMPLS


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


def _sorted() -> Backend:
    module = _module("concordance_cpu")
    return Backend(module.rows_sorted, module.gradient_sorted, _plain_curvature)


def choices(device_type: str, features: int) -> tuple[str, ...]:
    """The implementations that there are for a device and a number of features, the fastest first.

    Example:
        >>> choices("cpu", 1)
        ('sorted', 'torch')
        >>> choices("mps", 1)
        ('torch',)
    """
    if device_type == "cpu" and features == 1:
        return ("sorted", "torch")
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
    if _name(x, settings.impl) == "torch" or not x.numel() or x.dtype != torch.float64:
        return PLAIN
    if not (x.isfinite().all() and y.isfinite().all()):
        return PLAIN
    return _sorted()


def slopes_shape(x: Tensor, settings: Settings) -> tuple[int, int, int]:
    """The shape of the slopes that a forward pass returns: kernels on CUDA and plain torch have none."""
    batch, features = x.shape
    compiled = x.device.type == "cpu" and _name(x, settings.impl) != "torch"
    return (2, batch if settings.slopes and compiled else 0, features)
