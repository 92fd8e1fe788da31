"""The anchor of every row of InfoNCE with several features, in Triton: the source nearest to it.

A program takes a tile of rows and loops over all sources; its lanes keep their own nearest until the end.
"""

from __future__ import annotations

from torchimpl.kernels.concordance_cuda_pairs_kernels import dots, products, slack_of
from torchimpl.kernels.negative_binomial_cuda_triton import jit, tl


@jit(do_not_specialize=["features", "count"])
def nearest(
    rows: tl.tensor,
    sources: tl.tensor,
    centred_rows: tl.tensor,
    centred_sources: tl.tensor,
    square_rows: tl.tensor,
    square: tl.tensor,
    reach: tl.tensor,
    norm: tl.tensor,
    unit: tl.tensor,
    inverse_tau: tl.tensor,
    found: tl.tensor,
    features: tl.tensor,
    count: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    GRADE: tl.constexpr,
) -> None:
    """The source nearest to row i: its own where no other is nearer.

    Distances formed from `dots` count with their slack, which may be 1 in the exponent: the anchor may be
    that much farther than the nearest source, and is the row's own unless another one is surely nearer.
    """
    stride = count.to(tl.int64)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = row < count
    clamped = tl.minimum(row, count - 1)[:, None]
    own = tl.zeros((ROWS, 1), tl.float64)
    for k in range(features):
        away = tl.load(sources + k * stride + clamped) - tl.load(rows + k * stride + clamped)
        own = tl.fma(away, away, own)
    least = tl.zeros((ROWS, COLUMNS), tl.float64) + own
    index = tl.zeros((ROWS, COLUMNS), tl.int64) + clamped
    for start in range(0, count, COLUMNS):
        column = (start + tl.arange(0, COLUMNS)).to(tl.int64)[None, :]
        near = tl.minimum(column, count - 1)
        trusted = False
        distance = tl.zeros((ROWS, COLUMNS), tl.float64)
        if GRADE != 0:
            slack = slack_of(tl.load(reach + clamped), tl.load(norm + near), tl.load(unit))
            trusted = slack * tl.load(inverse_tau) <= 1.0
            dot = dots(centred_rows, centred_sources, clamped, near, features, stride, ROWS, COLUMNS, GRADE)
            distance = tl.fma(dot, -2.0, tl.load(square_rows + clamped) + tl.load(square + near)) + slack
        if trusted == 0:
            distance = tl.zeros((ROWS, COLUMNS), tl.float64)
            for k in range(features):
                away = tl.load(sources + k * stride + near) - tl.load(rows + k * stride + clamped)
                distance = tl.fma(away, away, distance)
        nearer = distance < least
        least = tl.where(nearer, distance, least)
        index = tl.where(nearer, near, index)
    best = tl.min(least, 1)
    first = tl.min(tl.where(least == best[:, None], index, count), 1)
    tl.store(found + row, tl.where(best < tl.max(own, 1), first, row), mask=inside)


@jit(do_not_specialize=["features", "count"])
def refined(
    sources: tl.tensor,
    anchor: tl.tensor,
    high: tl.tensor,
    low: tl.tensor,
    scale: tl.tensor,
    doubtful: tl.tensor,
    found: tl.tensor,
    features: tl.tensor,
    count: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDE: tl.constexpr,
) -> None:
    """Choose doubtful anchors again, by products of differences; tiles without doubtful rows do nothing."""
    stride = count.to(tl.int64)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    unsure = tl.load(doubtful + row, mask=row < count, other=0) != 0
    clamped = tl.minimum(row, count - 1)[:, None]
    scale_i = tl.load(scale + clamped)
    own = products(sources, anchor, high, low, scale_i, clamped, clamped, features, stride, WIDE)
    most = tl.zeros((ROWS, COLUMNS), tl.float64) + own
    index = tl.zeros((ROWS, COLUMNS), tl.int64) + clamped
    stop = tl.max(unsure.to(tl.int32), 0) * count
    for start in range(0, stop, COLUMNS):
        column = (start + tl.arange(0, COLUMNS)).to(tl.int64)[None, :]
        near = tl.minimum(column, count - 1)
        product = products(sources, anchor, high, low, scale_i, clamped, near, features, stride, WIDE)
        better = product > most
        most = tl.where(better, product, most)
        index = tl.where(better, near, index)
    best = tl.max(most, 1)
    first = tl.min(tl.where(most == best[:, None], index, count), 1)
    tl.store(found + row, tl.where(best > tl.max(own, 1), first, row), mask=unsure)
