"""InfoNCE of residuals with several features (D > 1) on CUDA: all pairs, two passes, O(B·D) memory.

Forward: the nearest source of every row by squared distances; where those are too large to tell, a second
look by products of differences; then the row sums. Backward: the rows' gradient, then the sources'.
Coordinates are kept feature by feature, (D, B).

Above MOST_DIRECT features exponents come from products of matrices of coordinates about the mean source,
tile by tile, where these are right to 2^-30 (results in float32) or show that no pair of the tile counts;
the others, and all in float64, come from differences. `concordance_cuda_pairs_kernels` has the formulas.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchimpl.kernels.concordance_cuda_launch import launch, programs
from torchimpl.kernels.concordance_cuda_tiles import Tile, tile
from torchimpl.kernels.concordance_cuda_units import (
    LOWEST,
    Anchored,
    Units,
    anchored,
    eps_weight,
    exponent_of,
    finished,
    shrink,
)

MOST_DIRECT = 16
# features whose gradient one program sums
MOST_FEATURES = 32
UNIT_ROUNDOFF = 2.0**-53
# largest error of an exponent taken from products of matrices; in float64 none is taken
TRUST = {True: 2.0**-30, False: -1.0}


class Grade(NamedTuple):
    """Arithmetic of the products of matrices: |error| <= (once + 2 (D + 8) each)(|x| + |y|)²."""

    code: int
    dtype: torch.dtype
    once: float
    each: float


# tensor cores add up products of float32 with truncation: two bits more
GRADES = {
    "float64": Grade(1, torch.float64, 0.0, UNIT_ROUNDOFF),
    "tf32x3": Grade(2, torch.float32, 2.0**-20, 2.0**-22),
    "bf16": Grade(3, torch.bfloat16, 2.0**-6, 2.0**-22),
}
DIRECT = Grade(0, torch.float64, 0.0, 0.0)


class Centred(NamedTuple):
    """Coordinates about the mean source."""

    grade: Grade
    x: Tensor  # (D, B), in the dtype of the grade
    y: Tensor  # (D, B)
    square_x: Tensor  # (B,): |x_i|²
    square_y: Tensor  # (B,)
    reach: Tensor  # (B,): |x_i|, or inf where it cannot be squared
    norm: Tensor  # (B,): |y_j|
    unit: Tensor  # 0-dim: largest error of a squared distance over (reach + norm)²


class Space(NamedTuple):
    """What the sums over pairs need of every row."""

    rows: Anchored  # (B, D) and (B,)
    arguments: tuple[Tensor, ...]  # of `tile_exponents`, from sources to unit
    sources: Tensor  # (D, B)


def by_feature(side: Tensor) -> Tensor:
    """(B, D) as (D, B) in memory."""
    return side.T.contiguous()


def tile_of(grade: Grade, device: torch.device) -> Tile:
    """The tile of the sums that use this arithmetic."""
    return tile("products" if grade.code else "differences", device)


def shape(chosen: Tile) -> dict[str, int]:
    """The tile and the warps of a launch."""
    return {"ROWS": chosen.rows, "COLUMNS": chosen.columns, "num_warps": chosen.warps}


def options(found: Units, middle: Centred, *, narrow: bool, **more: Any) -> dict[str, Any]:
    """Options of the launches that use `tile_exponents`."""
    limits = {"LOWEST": LOWEST[narrow], "TRUST": TRUST[narrow]}
    size = shape(tile_of(middle.grade, found.x.device))
    return {**size, "WIDE": found.wide, "GRADE": middle.grade.code, **limits, **more}


def features_per_program(features: int) -> int:
    """A power of two: all features if they are few.

    Example:
        >>> features_per_program(3), features_per_program(17), features_per_program(1000)
        (4, 32, 32)
    """
    return min(1 << (features - 1).bit_length(), MOST_FEATURES)


def centred(found: Units, smaller: Tensor, grade: str) -> Centred:
    """Coordinates about the mean source; for few features stand-ins, which no kernel reads."""
    features = found.x.shape[1]
    if features <= MOST_DIRECT:
        nothing = smaller.expand(1)
        return Centred(DIRECT, nothing, nothing, nothing, nothing, nothing, nothing, nothing)
    chosen = GRADES[grade]
    centre = found.y.mean(0)
    sides = [side - centre for side in (found.x, found.y)]
    squares = [side.square().sum(1) for side in sides]
    norms = [square.sqrt() for square in squares]
    if chosen.dtype != torch.float64:
        # out of the range of float32, or so small that products are
        norms = [torch.where(norm < 2.0**60, norm + 2.0**-60, torch.inf) for norm in norms]
    # distances that have to be shrunk are formed from differences
    unit = torch.full_like(smaller, chosen.once + 2 * (features + 8) * chosen.each)
    unit = torch.where(smaller < 1.0, torch.inf, unit)
    x, y = (by_feature(side.to(chosen.dtype)) for side in sides)
    return Centred(chosen, x, y, squares[0], squares[1], norms[0], norms[1], unit)


def space(found: Units, middle: Centred, smaller: Tensor, nearest: Tensor, eps: float) -> Space:
    """Rows beside the anchors `nearest`, (B,)."""
    rows = anchored(found.x, found.y[nearest], found.inverse_tau, smaller, eps)
    sources = by_feature(found.y)
    level, reach, unit = middle.square_x, middle.reach, middle.unit
    if middle.grade.code:
        # 2 x·n - |n|² = |x|² - |x - n|²
        level = level - (found.x - rows.anchor).square().sum(1)
        reach = reach + middle.norm[nearest]
        unit = unit * found.inverse_tau
    direct = (sources, *(by_feature(part) for part in (rows.anchor, rows.high, rows.low)), rows.scale)
    products = (middle.x, middle.y, level, reach, middle.square_y, middle.norm, unit)
    return Space(rows, (*direct, nearest, 2 * found.inverse_tau, *products), sources)


def nearest_sources(found: Units, middle: Centred, smaller: Tensor) -> Tensor:
    """Anchors by squared distances, (B,), int64."""
    count, features = found.x.shape
    sides = (by_feature(side * smaller if found.wide else side) for side in (found.x, found.y))
    nearest = torch.empty(count, dtype=torch.int64, device=found.x.device)
    size = tile_of(middle.grade, found.x.device)
    launch(
        "anchor",
        "nearest",
        (programs(count, size.rows),),
        *(*sides, *middle[1:], found.inverse_tau, nearest, features, count),
        **shape(size),
        GRADE=middle.grade.code,
    )
    return nearest


def refine(found: Units, smaller: Tensor, nearest: Tensor) -> None:
    """Choose anchors again where rounded distances leave a doubt of more than 1 in the exponent; in place."""
    count, features = found.x.shape
    rows = anchored(found.x, found.y[nearest], found.inverse_tau, smaller, 1.0)
    # two distances, each with a rounding per feature and two of its differences
    doubtful = rows.eps_exponent * (2 * (features + 2) * UNIT_ROUNDOFF) > 1.0
    # shrunk differences may have vanished
    doubtful = (doubtful | (smaller < 1.0)) if found.wide else doubtful
    size = tile_of(DIRECT, found.x.device)
    launch(
        "anchor",
        "refined",
        (programs(count, size.rows),),
        *(by_feature(side) for side in (found.y, rows.anchor, rows.high, rows.low)),
        *(rows.scale, doubtful, nearest, features, count),
        **shape(size),
        WIDE=found.wide,
    )


def space_rows(found: Units, eps: float, *, narrow: bool, grade: str) -> tuple[Tensor, Tensor, Tensor]:
    """Losses (B,), nearest sources (B,) and the normaliser (2, B), without the poison."""
    count, features = found.x.shape
    smaller = shrink(found.x, found.y)
    middle = centred(found, smaller, grade)
    nearest = nearest_sources(found, middle, smaller)
    refine(found, smaller, nearest)
    of = space(found, middle, smaller, nearest, eps)
    top, others = torch.empty_like(of.rows.scale), torch.empty_like(of.rows.scale)
    chosen = options(found, middle, narrow=narrow)
    launch(
        "space",
        "row_sums",
        (programs(count, chosen["ROWS"]),),
        *(*of.arguments, top, others, features, count),
        **chosen,
    )
    own = exponent_of(found.y, of.rows, found.inverse_tau)
    # the sum may have rounded the row's own exponent, its largest one, to a lower number
    own = torch.minimum(own, top)
    losses, normaliser = finished(top, others, own, of.rows.eps_exponent)
    return losses, nearest, normaliser


def space_gradient(
    cotangent: Tensor,
    found: Units,
    nearest: Tensor,
    normaliser: Tensor,
    eps: float,
    *,
    narrow: bool,
    grade: str,
) -> tuple[Tensor, Tensor]:
    """Vector-Jacobian product of the losses by x and y, (B, D) each, without factor and poison."""
    count, features = found.x.shape
    smaller = shrink(found.x, found.y)
    middle = centred(found, smaller, grade)
    of = space(found, middle, smaller, nearest, eps)
    peak, total = normaliser[0].contiguous(), normaliser[1]
    gx, gy = torch.empty_like(of.sources), torch.empty_like(of.sources)
    others = torch.empty_like(of.rows.scale)
    chunk = features_per_program(features)
    chosen = options(found, middle, narrow=narrow, FEATURES=chunk)
    launch(
        "space",
        "row_slopes",
        (programs(count, chosen["ROWS"]), programs(features, chunk)),
        *(*of.arguments, peak, gx, others, features, count),
        **chosen,
    )
    launch(
        "space",
        "column_slopes",
        (programs(count, chosen["COLUMNS"]), programs(features, chunk)),
        *(*of.arguments, by_feature(found.x), peak, cotangent / total, gy, features, count),
        **chosen,
    )
    of_eps = eps_weight(of.rows.eps_exponent, normaliser)
    own = found.x - found.y
    gx = (of_eps[:, None] * own + gx.T / total[:, None]) * cotangent[:, None]
    return gx, gy.T - ((of_eps + others / total) * cotangent)[:, None] * own
