"""How many pairs a program of InfoNCE's CUDA kernels works on at a time, by kind of sum and of device.

The tile decides the order of every sum. So it depends on the device and on nothing that is measured at run
time: the same inputs give the same bits in every process. `scripts/infonce.py tiles` measures candidates on a
device and prints its entry of `TUNED`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class Tile(NamedTuple):
    """Rows times columns, and the warps of the program."""

    rows: int
    columns: int
    warps: int


Tiles = dict[str, Tile]

# sums over windows of scalars; over differences of a few features; over products of many
UNTUNED: Tiles = {"line": Tile(16, 64, 4), "differences": Tile(32, 32, 4), "products": Tile(32, 32, 8)}
# by compute capability; those that are not here take UNTUNED
TUNED: dict[tuple[int, int], Tiles] = {}


def tile(kind: str, device: torch.device) -> Tile:
    """The tile of "line", "differences" or "products" on a device.

    Example:
        >>> tile("line", torch.device("cpu"))
        Tile(rows=16, columns=64, warps=4)
    """
    if device.type != "cuda":
        return UNTUNED[kind]
    return TUNED.get(torch.cuda.get_device_capability(device), UNTUNED)[kind]
