"""The loss of this package, in every implementation that its public function offers."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch
from torch import Tensor

from torchimpl.concordance import concordance_loss_nce

NAMES = ("auto", "exact-blocks", "sorted", "torch")


@functools.cache
def implementations(features: int) -> tuple[str, ...]:
    """What can be asked for by name with so many features on a CPU, the default first."""
    if "impl" not in inspect.signature(concordance_loss_nce).parameters:
        return NAMES[:1]
    return tuple(name for name in NAMES if _offered(name, features))


def _offered(name: str, features: int) -> bool:
    row = torch.zeros(2, features)
    try:
        loss(row, row, 1.0, 0.0, impl=name)
    except ValueError:  # refused by name, before any work
        return False
    return True


def loss(
    x: Tensor, y: Tensor, tau: float, eps: float, *, impl: str = "auto", reduction: str = "mean"
) -> Tensor:
    """The public function, its keyword `impl` left out where the default is meant."""
    options: dict[str, Any] = {} if impl == "auto" else {"impl": impl}
    return concordance_loss_nce(x, y, tau, eps=eps, reduction=reduction, **options)
