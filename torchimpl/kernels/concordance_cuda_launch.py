"""Launching Triton kernels: on the device of their tensors, imported only when the first one runs."""

from __future__ import annotations

import contextlib
import importlib
from typing import Any

import torch
from torch import Tensor

_MODULE = "torchimpl.kernels.concordance_cuda_{}_kernels"
# only `fma` fuses: what the interpreter tests is what runs
_FUSION = False


def programs(count: int, per_program: int) -> int:
    """How many programs share `count` elements.

    Example:
        >>> programs(9, 4)
        3
    """
    return -(-count // per_program)


def launch(family: str, name: str, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
    """Launch a kernel of a family ("line", "anchor", "space") on the device of its first argument."""
    kernel = getattr(importlib.import_module(_MODULE.format(family)), name)
    device = arguments[0].device
    # Triton launches on the current device, whatever device the tensors are on
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        kernel[grid](*arguments, enable_fp_fusion=_FUSION, **options)


def scattered(values: Tensor, order: Tensor) -> Tensor:
    """Values of the sorted order, back in the order of the batch; `order` is a permutation.

    Example:
        >>> scattered(torch.tensor([5, 7, 9]), torch.tensor([2, 0, 1]))
        tensor([7, 9, 5])
    """
    return torch.empty_like(values).scatter_(0, order, values)
