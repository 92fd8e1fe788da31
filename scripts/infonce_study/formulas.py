"""What is written by hand for InfoNCE with squared distances; rows (B,), textbook where eps is 0."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def broadcast(x: Tensor, y: Tensor, tau: float, eps: float = 0.0) -> Tensor:
    """The definition: -log(s_ii / (Σ_j s_ij + ε)) over a (B, B, D) table of differences."""
    similarity = torch.exp(-(x[:, None] - y[None]).square().sum(2) / tau)
    return -torch.log(similarity.diagonal() / (similarity.sum(1) + eps))


def logsumexp(x: Tensor, y: Tensor, tau: float, eps: float = 0.0) -> Tensor:
    """The same table, in the log domain."""
    return _rows((x[:, None] - y[None]).square().sum(2) / tau, eps)


def cdist(x: Tensor, y: Tensor, tau: float, eps: float = 0.0) -> Tensor:
    """Distances by `torch.cdist` in its default mode, squared again."""
    return _rows(torch.cdist(x, y).square() / tau, eps)


def _rows(scaled: Tensor, eps: float) -> Tensor:
    total = torch.logsumexp(-scaled, 1)
    if eps:
        total = torch.logaddexp(total, torch.full_like(total, math.log(eps)))
    return scaled.diagonal() + total
