"""InfoNCE of residuals with several features in Triton: all pairs, tile by tile.

Coordinates come feature by feature, (D, B), so that neighbouring lanes read neighbouring numbers. A program
takes a tile of rows (or of sources) and loops over all sources (rows); sums are formed in a fixed order, no
atomics. What the arguments of `tile_exponents` mean is said there.
"""

from __future__ import annotations

from torchimpl.kernels.concordance_cuda_pairs_kernels import tile_exponents
from torchimpl.kernels.negative_binomial_cuda_triton import jit, tl


@jit(do_not_specialize=["features", "count"])
def row_sums(
    sources: tl.tensor,
    anchor: tl.tensor,
    high: tl.tensor,
    low: tl.tensor,
    scale: tl.tensor,
    nearest_source: tl.tensor,
    factor: tl.tensor,
    centred_rows: tl.tensor,
    centred_sources: tl.tensor,
    level: tl.tensor,
    reach: tl.tensor,
    square: tl.tensor,
    norm: tl.tensor,
    unit: tl.tensor,
    tops: tl.tensor,
    others: tl.tensor,
    features: tl.tensor,
    count: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDE: tl.constexpr,
    GRADE: tl.constexpr,
    LOWEST: tl.constexpr,
    TRUST: tl.constexpr,
) -> None:
    """Per row the largest exponent m, and Σ exp(e_ij - m) over all sources but the anchor.

    The anchor's exponent is 0, and so is m, unless rounding chose an anchor that is not quite the nearest.
    """
    stride = count.to(tl.int64)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    clamped = tl.minimum(row, count - 1)[:, None]
    nearest_i = tl.load(nearest_source + clamped)
    top = tl.zeros((ROWS,), tl.float64)
    total = tl.zeros((ROWS,), tl.float64)
    for start in range(0, count, COLUMNS):
        column = (start + tl.arange(0, COLUMNS)).to(tl.int64)[None, :]
        near = tl.minimum(column, count - 1)
        exponent = tile_exponents(
            sources,
            anchor,
            high,
            low,
            scale,
            nearest_source,
            factor,
            centred_rows,
            centred_sources,
            level,
            reach,
            square,
            norm,
            unit,
            0.0,
            clamped,
            near,
            features,
            stride,
            ROWS,
            COLUMNS,
            WIDE,
            GRADE,
            LOWEST,
            TRUST,
        )
        higher = tl.maximum(top, tl.max(exponent, 1))
        terms = tl.exp(exponent - higher[:, None])
        terms = tl.where((column < count) & (column != nearest_i), terms, 0.0)
        total = total * tl.exp(top - higher) + tl.sum(terms, 1)
        top = higher
    tl.store(tops + row, top, mask=row < count)
    tl.store(others + row, total, mask=row < count)


@jit(do_not_specialize=["features", "count"])
def row_slopes(
    sources: tl.tensor,
    anchor: tl.tensor,
    high: tl.tensor,
    low: tl.tensor,
    scale: tl.tensor,
    nearest_source: tl.tensor,
    factor: tl.tensor,
    centred_rows: tl.tensor,
    centred_sources: tl.tensor,
    level: tl.tensor,
    reach: tl.tensor,
    square: tl.tensor,
    norm: tl.tensor,
    unit: tl.tensor,
    peak: tl.tensor,
    moments: tl.tensor,
    others: tl.tensor,
    features: tl.tensor,
    count: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    FEATURES: tl.constexpr,
    WIDE: tl.constexpr,
    GRADE: tl.constexpr,
    LOWEST: tl.constexpr,
    TRUST: tl.constexpr,
) -> None:
    """Σ q_ij (y_j - y_i), for FEATURES features, and Σ q_ij over j != i; q_ij = exp(e_ij - peak_i)."""
    stride = count.to(tl.int64)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = row < count
    begin = tl.program_id(1) * FEATURES
    feature = tl.arange(0, FEATURES)
    taken = tl.minimum(features - begin, FEATURES)
    clamped = tl.minimum(row, count - 1)[:, None]
    peak_i = tl.load(peak + clamped)
    total = tl.zeros((ROWS,), tl.float64)
    moment = tl.zeros((ROWS, FEATURES), tl.float64)
    for start in range(0, count, COLUMNS):
        column = (start + tl.arange(0, COLUMNS)).to(tl.int64)[None, :]
        near = tl.minimum(column, count - 1)
        exponent = tile_exponents(
            sources,
            anchor,
            high,
            low,
            scale,
            nearest_source,
            factor,
            centred_rows,
            centred_sources,
            level,
            reach,
            square,
            norm,
            unit,
            peak_i,
            clamped,
            near,
            features,
            stride,
            ROWS,
            COLUMNS,
            WIDE,
            GRADE,
            LOWEST,
            TRUST,
        )
        counts = (column < count) & (column != clamped) & (exponent >= LOWEST)
        weight = tl.where(counts, tl.exp(exponent), 0.0)
        if tl.max(weight, axis=None) > 0.0:
            total += tl.sum(weight, 1)
            for k in range(taken):
                coordinates = sources + (begin + k) * stride
                away = tl.load(coordinates + near) - tl.load(coordinates + clamped)
                added = tl.sum(weight * away, 1)
                moment += tl.where(feature[None, :] == k, added[:, None], 0.0)
    cells = moments + (begin + feature)[None, :] * stride + row[:, None]
    tl.store(cells, moment, mask=inside[:, None] & (feature < taken)[None, :])
    tl.store(others + row, total, mask=row < tl.where(begin == 0, count, 0))


@jit(do_not_specialize=["features", "count"])
def column_slopes(
    sources: tl.tensor,
    anchor: tl.tensor,
    high: tl.tensor,
    low: tl.tensor,
    scale: tl.tensor,
    nearest_source: tl.tensor,
    factor: tl.tensor,
    centred_rows: tl.tensor,
    centred_sources: tl.tensor,
    level: tl.tensor,
    reach: tl.tensor,
    square: tl.tensor,
    norm: tl.tensor,
    unit: tl.tensor,
    rows: tl.tensor,
    peak: tl.tensor,
    share: tl.tensor,
    moments: tl.tensor,
    features: tl.tensor,
    count: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    FEATURES: tl.constexpr,
    WIDE: tl.constexpr,
    GRADE: tl.constexpr,
    LOWEST: tl.constexpr,
    TRUST: tl.constexpr,
) -> None:
    """Σ share_i exp(e_ij - peak_i) (x_i - y_j) over i != j; share: cotangent over normaliser."""
    stride = count.to(tl.int64)
    column = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < count
    begin = tl.program_id(1) * FEATURES
    feature = tl.arange(0, FEATURES)
    taken = tl.minimum(features - begin, FEATURES)
    near = tl.minimum(column, count - 1)[None, :]
    moment = tl.zeros((FEATURES, COLUMNS), tl.float64)
    for start in range(0, count, ROWS):
        row = (start + tl.arange(0, ROWS)).to(tl.int64)[:, None]
        clamped = tl.minimum(row, count - 1)
        exponent = tile_exponents(
            sources,
            anchor,
            high,
            low,
            scale,
            nearest_source,
            factor,
            centred_rows,
            centred_sources,
            level,
            reach,
            square,
            norm,
            unit,
            tl.load(peak + clamped),
            clamped,
            near,
            features,
            stride,
            ROWS,
            COLUMNS,
            WIDE,
            GRADE,
            LOWEST,
            TRUST,
        )
        counts = (row < count) & (row != near) & (exponent >= LOWEST)
        weight = tl.where(counts, tl.exp(exponent), 0.0)
        if tl.max(weight, axis=None) > 0.0:
            weight *= tl.load(share + clamped)
            for k in range(taken):
                offset = (begin + k) * stride
                away = tl.load(rows + offset + clamped) - tl.load(sources + offset + near)
                added = tl.sum(weight * away, 0)
                moment += tl.where(feature[:, None] == k, added[None, :], 0.0)
    cells = moments + (begin + feature)[:, None] * stride + column[None, :]
    tl.store(cells, moment, mask=(feature < taken)[:, None] & inside[None, :])
