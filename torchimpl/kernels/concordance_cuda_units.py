"""What both CUDA paths of InfoNCE share: inputs in safe units, anchored rows, and the last steps of a row.

Notation and formulas are those of `torchimpl.kernels.concordance`; its guards are repeated here on tensors
of O(B·D). All of it are elementwise operations and reductions: no shape and no branch depends on a value.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from torchimpl.kernels.concordance import scaled
from torchimpl.scaling import exponent, power_of_two

LIMIT = torch.finfo(torch.float64).max / 4
# weights below exp of this are 0 in the precision of the results (narrow or not): less than the smallest
# number of float32, of float64
LOWEST = {True: -104.0, False: -746.0}
# every finite float64 is below 2**TOP
TOP = 1024
# squares of anything narrower than float64 stay in range for such a tau
ORDINARY_TAU = (1e-100, 1e100)


class Units(NamedTuple):
    """Finite inputs multiplied by one power of two, and what was not finite."""

    x: Tensor  # (B, D)
    y: Tensor  # (B, D)
    inverse_tau: Tensor  # 0-dim
    gradient_factor: Tensor  # 0-dim
    poison: Tensor  # (B,): NaN where an input that counts is not finite, else 0
    wide: bool  # whether squares may overflow


def units(x: Tensor, y: Tensor, tau: float, *, narrow: bool) -> Units:
    """Inputs for the kernels, which never see NaN or inf: 0 stands for them, the poison spoils the result.

    Args:
        x: (B, D), float64, any values.
        y: like `x`.
        tau: temperature.
        narrow: the numbers were float32 or narrower.

    Example:
        >>> x = torch.tensor([[1.0], [torch.inf]], dtype=torch.float64)
        >>> found = units(x, torch.zeros_like(x), 1.0, narrow=True)
        >>> found.x.tolist(), found.poison.tolist()
        ([[1.0], [0.0]], [0.0, nan])
    """
    poison = (x * 0).sum(1) + (y * 0).sum()
    clean_x, clean_y = (side.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0) for side in (x, y))
    found = scaled(clean_x, clean_y, tau)
    wide = not (narrow and ORDINARY_TAU[0] < tau < ORDINARY_TAU[1])
    return Units(found.x, found.y, found.inverse_tau, found.gradient_factor, poison, wide)


class Anchored(NamedTuple):
    """Every row beside its anchor n."""

    anchor: Tensor  # (B, D): n
    high: Tensor  # (B, D): x - n/2 as a sum of two numbers
    low: Tensor  # (B, D)
    scale: Tensor  # (B,): a power of two that keeps products of this row's differences finite
    eps_exponent: Tensor  # (B,): log ε + d_in/τ


def shrink(*sides: Tensor) -> Tensor:
    """A power of two (0-dim) that keeps a sum of D squares of differences finite."""
    features = sides[0].shape[1]
    largest = torch.stack([side.abs().amax() for side in sides]).amax()
    room = TOP // 2 - 5 - features.bit_length()
    return power_of_two((room - exponent(largest)).clamp(max=0), torch.float64)


def anchored(x: Tensor, anchor: Tensor, inverse_tau: Tensor, smaller: Tensor, eps: float) -> Anchored:
    """Rows x beside their anchors, both (B, D); `smaller` is the scale of rows too far away to be squared."""
    half = anchor * 0.5
    high = x - half
    back = high - x
    low = (x - (high - back)) - (half + back)
    away = x - anchor
    scale = torch.where(away.square().sum(1) > 2.0 ** (TOP - 8), smaller, 1.0)
    if eps == 0:
        return Anchored(anchor, high, low, scale, torch.full_like(scale, -math.inf))
    squared = (away * scale[:, None]).square().sum(1) * inverse_tau
    return Anchored(anchor, high, low, scale, squared / scale / scale + math.log(eps))


def exponent_of(source: Tensor, rows: Anchored, inverse_tau: Tensor) -> Tensor:
    """The exponents of one source for each row: (B,) of (B, D)."""
    scale = rows.scale[:, None]
    left = (source - rows.anchor) * scale
    right = ((rows.high - 0.5 * source) + rows.low) * scale
    total = (left * right).sum(1) * (2 * inverse_tau)
    return (total / rows.scale / rows.scale).clamp(max=LIMIT / 2)


def finished(top: Tensor, others: Tensor, own: Tensor, eps_exponent: Tensor) -> tuple[Tensor, Tensor]:
    """L_i (B,) and the normaliser (2, B) of `loss_rows`.

    Args:
        top: the largest exponent of a row.
        others: Σ exp(e_ij - top) over all sources but the anchor.
        own: e_ii.
        eps_exponent: exponent of ε.
    """
    # the anchor's exponent is 0
    rest = others + torch.expm1(-top)
    losses = torch.logaddexp(torch.log1p(rest) + top, eps_exponent) - own
    eps_exponent = eps_exponent.clamp(max=LIMIT)
    peak = torch.maximum(top, eps_exponent)
    total = (1 + rest) * torch.exp(top - peak) + torch.exp(eps_exponent - peak)
    return losses, torch.stack((peak, total))


def eps_weight(eps_exponent: Tensor, normaliser: Tensor) -> Tensor:
    """p_iε of every row, (B,)."""
    return torch.exp(eps_exponent.clamp(max=LIMIT) - normaliser[0]) / normaliser[1]
