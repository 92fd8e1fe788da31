"""Tiles of the CUDA kernels by measurement: every candidate on one device, in turns."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from torchimpl.kernels import concordance_cuda_tiles as tiles
from torchimpl.kernels.concordance_cuda import gradient_cuda, rows_cuda
from torchimpl.kernels.concordance_cuda_tiles import Tile

# rows and features at which a kind of sum is measured
SHAPES = {"line": (1 << 17, 1), "differences": (8192, 8), "products": (8192, 64)}
# products of matrices need 16 of everything
CANDIDATES = [
    Tile(rows, columns, warps)
    for rows, columns, warps in itertools.product((16, 32, 64), (16, 32, 64, 128), (2, 4, 8))
    if 512 <= rows * columns <= 4096
]
TAU, NOISE = 0.1, 0.3

Times = dict[Tile, float]


class Measured(NamedTuple):
    """Median seconds of the tiles of one kind, and what those without a time said."""

    seconds: Times
    failures: dict[Tile, str]


def call(kind: str, batch: int, device: torch.device) -> Callable[[], None]:
    """Losses and gradients of one batch of float32 replicates, without what autograd adds."""
    g = torch.Generator().manual_seed(0)
    shape = (batch, SHAPES[kind][1])
    x = torch.randn(shape, generator=g)
    y = x + NOISE * torch.randn(shape, generator=g)
    x, y = (side.to(device).double() for side in (x, y))
    cotangent = torch.full_like(x[:, 0], 1.0 / batch)

    def run() -> None:
        chosen = {"narrow": True, "grade": "tf32x3"}
        _, *rest = rows_cuda(x, y, TAU, 0.0, slopes=False, **chosen)
        gradient_cuda(cotangent, x, y, *rest, TAU, 0.0, **chosen)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return run


def use(kind: str, tile: Tile, device: torch.device) -> None:
    """Let the kernels of this kind take the tile, on this device and in this process."""
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        tiles.TUNED[capability] = {**tiles.TUNED.get(capability, tiles.UNTUNED), kind: tile}
    else:
        tiles.UNTUNED[kind] = tile


def measure(
    kind: str, batch: int, device: torch.device, rounds: int, candidates: list[Tile], step: Callable[[], None]
) -> Measured:
    """Median times of the candidates, in turns; the first call of each compiles and is not counted."""
    run, taken, failures = call(kind, batch, device), {}, {}
    kept = tiles.tile(kind, device)
    for number, tile in itertools.product(range(rounds + 1), candidates):
        step()
        if tile in failures:
            continue
        use(kind, tile, device)
        start = time.perf_counter()
        try:
            run()
        except Exception as error:  # noqa: BLE001 - too large a tile, whatever Triton calls it
            failures[tile] = str(error).splitlines()[0]
            continue
        if number:
            taken.setdefault(tile, []).append(time.perf_counter() - start)
    use(kind, kept, device)
    return Measured({tile: statistics.median(times) for tile, times in taken.items()}, failures)


def best(found: dict[str, Measured]) -> tiles.Tiles:
    """The fastest tile of every kind."""
    return {kind: min(one.seconds, key=one.seconds.__getitem__) for kind, one in found.items()}
