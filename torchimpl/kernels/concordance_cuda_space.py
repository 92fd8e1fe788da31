"""InfoNCE of residuals with several features (D > 1) on CUDA: all pairs, two passes, O(B·D) memory.

Forward: the nearest source of every row by squared distances; where those are too large to tell, a second
look by products of differences; then the row sums. Backward: the rows' gradient, then the sources'.
Coordinates are kept feature by feature, (D, B).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchimpl.kernels.concordance_cuda_launch import Tile, launch, programs
from torchimpl.kernels.concordance_cuda_units import Anchored, Units, anchored, eps_weight, finished, shrink

TILE = Tile(rows=32, columns=32, warps=4)
# features whose gradient one program sums
MOST_FEATURES = 32
UNIT_ROUNDOFF = 2.0**-53


class Space(NamedTuple):
    """What the sums over pairs need of every row."""

    rows: Anchored  # (B, D) and (B,)
    sources: Tensor  # (D, B)
    anchor: Tensor  # (D, B)
    high: Tensor  # (D, B)
    low: Tensor  # (D, B)
    factor: Tensor  # 2/τ, 0-dim


def by_feature(side: Tensor) -> Tensor:
    """(B, D) as (D, B) in memory."""
    return side.T.contiguous()


def tile(**more: Any) -> dict[str, Any]:
    """Options of every launch."""
    return {"ROWS": TILE.rows, "COLUMNS": TILE.columns, "num_warps": TILE.warps, **more}


def features_per_program(features: int) -> int:
    """A power of two: all features if they are few.

    Example:
        >>> features_per_program(3), features_per_program(17), features_per_program(1000)
        (4, 32, 32)
    """
    return min(1 << (features - 1).bit_length(), MOST_FEATURES)


def space(found: Units, smaller: Tensor, nearest: Tensor, eps: float) -> Space:
    """Rows beside the anchors `nearest`, (B,)."""
    rows = anchored(found.x, found.y[nearest], found.inverse_tau, smaller, eps)
    sources, *parts = (by_feature(part) for part in (found.y, rows.anchor, rows.high, rows.low))
    return Space(rows, sources, *parts, factor=2 * found.inverse_tau)


def nearest_sources(found: Units, smaller: Tensor) -> Tensor:
    """Anchors by squared distances, (B,), int64."""
    count, features = found.x.shape
    sides = (by_feature(side * smaller if found.wide else side) for side in (found.x, found.y))
    nearest = torch.empty(count, dtype=torch.int64, device=found.x.device)
    grid = (programs(count, TILE.rows),)
    launch("space", "nearest", grid, *sides, nearest, features, count, **tile())
    return nearest


def refine(found: Units, smaller: Tensor, nearest: Tensor, eps: float) -> None:
    """Choose anchors again where rounded distances leave a doubt of more than 1 in the exponent; in place."""
    count, features = found.x.shape
    of = space(found, smaller, nearest, eps)
    away = (found.x - of.rows.anchor) * of.rows.scale[:, None]
    exponent = away.square().sum(1) * found.inverse_tau / of.rows.scale / of.rows.scale
    # two distances, each with a rounding per feature and two of its differences
    doubtful = exponent * (2 * (features + 2) * UNIT_ROUNDOFF) > 1.0
    # shrunk differences may have vanished
    doubtful = (doubtful | (smaller < 1.0)) if found.wide else doubtful
    launch(
        "space",
        "refined",
        (programs(count, TILE.rows),),
        *(of.sources, of.anchor, of.high, of.low, of.rows.scale, doubtful, nearest, features, count),
        **tile(WIDE=found.wide),
    )


def space_rows(found: Units, eps: float, *, narrow: bool) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ARG001 - all in float64
    """Losses (B,), nearest sources (B,) and the normaliser (2, B), without the poison."""
    count, features = found.x.shape
    smaller = shrink(found.x, found.y)
    nearest = nearest_sources(found, smaller)
    refine(found, smaller, nearest, eps)
    of = space(found, smaller, nearest, eps)
    top, others, own = (torch.empty_like(of.rows.scale) for _ in range(3))
    launch(
        "space",
        "row_sums",
        (programs(count, TILE.rows),),
        *(of.sources, of.anchor, of.high, of.low, of.rows.scale, nearest, of.factor),
        *(top, others, own, features, count),
        **tile(WIDE=found.wide),
    )
    losses, normaliser = finished(top, others, own, of.rows.eps_exponent)
    return losses, nearest, normaliser


def space_gradient(
    cotangent: Tensor,
    found: Units,
    nearest: Tensor,
    normaliser: Tensor,
    eps: float,
    *,
    narrow: bool,  # noqa: ARG001 - all in float64
) -> tuple[Tensor, Tensor]:
    """Vector-Jacobian product of the losses by x and y, (B, D) each, without factor and poison."""
    count, features = found.x.shape
    of = space(found, shrink(found.x, found.y), nearest, eps)
    peak, total = normaliser[0].contiguous(), normaliser[1]
    gx, gy = torch.empty_like(of.sources), torch.empty_like(of.sources)
    others = torch.empty_like(of.rows.scale)
    chunk = features_per_program(features)
    options = tile(WIDE=found.wide, FEATURES=chunk)
    common = (of.sources, of.anchor, of.high, of.low, of.rows.scale, peak)
    launch(
        "space",
        "row_slopes",
        (programs(count, TILE.rows), programs(features, chunk)),
        *(*common, of.factor, gx, others, features, count),
        **options,
    )
    launch(
        "space",
        "column_slopes",
        (programs(count, TILE.columns), programs(features, chunk)),
        *(by_feature(found.x), *common, cotangent / total, of.factor, gy, features, count),
        **options,
    )
    of_eps = eps_weight(of.rows.eps_exponent, normaliser)
    own = found.x - found.y
    gx = (of_eps[:, None] * own + gx.T / total[:, None]) * cotangent[:, None]
    return gx, gy.T - ((of_eps + others / total) * cotangent)[:, None] * own
