"""Long vectors in pieces, so that float64 temporaries stay in cache and out of the system's allocator."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 1 << 15


def blocks(first: Tensor, *others: Tensor) -> list[tuple[Tensor, ...]]:
    """Pieces of vectors of one length, on the CPU; 0-dim tensors among the others come with every piece.

    In one piece on other devices, where a kernel call is what costs, and under `torch.compile`, which fuses
    the temporaries away.

    Example:
        >>> pieces = blocks(torch.arange(BLOCK + 2), torch.tensor(0.5))
        >>> [(x.numel(), s.item()) for x, s in pieces]
        [(32768, 0.5), (2, 0.5)]
    """
    tensors = (first, *others)
    if torch.compiler.is_compiling() or first.device.type != "cpu" or first.numel() <= BLOCK:
        return [tensors]
    return [
        tuple(t[start : start + BLOCK] if t.dim() else t for t in tensors)
        for start in range(0, first.numel(), BLOCK)
    ]


def joined(pieces: list[Tensor]) -> Tensor:
    """The vector of which `blocks` made these pieces.

    Example:
        >>> joined([torch.zeros(2), torch.ones(1)])
        tensor([0., 0., 1.])
    """
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def total(pieces: list[Tensor]) -> Tensor:
    """The sum of one 0-dim tensor per piece.

    Example:
        >>> total([torch.tensor(1.0), torch.tensor(2.0)])
        tensor(3.)
    """
    return sum(pieces[1:], start=pieces[0])
