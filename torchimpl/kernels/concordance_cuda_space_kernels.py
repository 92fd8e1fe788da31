"""InfoNCE of residuals with several features in Triton: all pairs, tile by tile, from direct differences.

Coordinates come feature by feature, (D, B), so that neighbouring lanes read neighbouring numbers. A program
takes a tile of rows (or of sources) and loops over all sources (rows); sums are formed in a fixed order, no
atomics.
"""

from __future__ import annotations

from torchimpl.kernels.negative_binomial_cuda_triton import jit, tl

LIMIT = tl.constexpr(2.0**1021)


@jit(do_not_specialize=["features", "count"])
def nearest(
    rows: tl.tensor,
    sources: tl.tensor,
    found: tl.tensor,
    features: tl.tensor,
    count: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """The source nearest to row i: its own where no other is nearer, else the first of the nearest."""
    stride = count.to(tl.int64)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = row < count
    own = tl.zeros((ROWS,), tl.float64)
    for k in range(features):
        x = tl.load(rows + k * stride + row, mask=inside, other=0.0)
        away = tl.load(sources + k * stride + row, mask=inside, other=0.0) - x
        own = tl.fma(away, away, own)
    least = tl.zeros((ROWS, COLUMNS), tl.float64) + own[:, None]
    index = tl.zeros((ROWS, COLUMNS), tl.int64) + row[:, None]
    for start in range(0, count, COLUMNS):
        column = (start + tl.arange(0, COLUMNS)).to(tl.int64)
        counts = column < count
        distance = tl.zeros((ROWS, COLUMNS), tl.float64)
        for k in range(features):
            x = tl.load(rows + k * stride + row, mask=inside, other=0.0)
            away = tl.load(sources + k * stride + column, mask=counts, other=0.0)[None, :] - x[:, None]
            distance = tl.fma(away, away, distance)
        nearer = counts[None, :] & (distance < least)
        least = tl.where(nearer, distance, least)
        index = tl.where(nearer, column[None, :], index)
    best = tl.min(least, 1)
    first = tl.min(tl.where(least == best[:, None], index, count), 1)
    tl.store(found + row, tl.where(best < own, first, row), mask=inside)


@jit
def products(
    sources: tl.tensor,
    anchor: tl.tensor,
    high: tl.tensor,
    low: tl.tensor,
    scale: tl.tensor,
    row: tl.tensor,
    column: tl.tensor,
    features: tl.tensor,
    stride: tl.tensor,
    WIDE: tl.constexpr,
) -> tl.tensor:
    """τ/2 e_ij of a tile of `row` and `column`, both inside, which broadcast; in the row's scale if WIDE."""
    total = tl.zeros_like(scale * column.to(tl.float64))
    for k in range(features):
        y = tl.load(sources + k * stride + column)
        left = y - tl.load(anchor + k * stride + row)
        right = tl.fma(y, -0.5, tl.load(high + k * stride + row)) + tl.load(low + k * stride + row)
        if WIDE:
            left *= scale
            right *= scale
        total = tl.fma(left, right, total)
    return total


@jit
def exponents(product: tl.tensor, scale: tl.tensor, factor: tl.tensor, WIDE: tl.constexpr) -> tl.tensor:
    """e_ij of a tile: rounding can make a huge one positive, but neither inf nor as large as that of ε."""
    exponent = product * factor
    if WIDE:
        exponent = exponent / scale / scale
    return tl.minimum(exponent, LIMIT)


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
    """Choose doubtful anchors again, by the products; a tile without doubtful rows does nothing."""
    stride = count.to(tl.int64)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = row < count
    unsure = tl.load(doubtful + row, mask=inside, other=0) != 0
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
    chosen = tl.where(best > tl.max(own, 1), first, row)
    tl.store(found + row, chosen, mask=unsure)


@jit(do_not_specialize=["features", "count"])
def row_sums(
    sources: tl.tensor,
    anchor: tl.tensor,
    high: tl.tensor,
    low: tl.tensor,
    scale: tl.tensor,
    nearest_source: tl.tensor,
    factor: tl.tensor,
    tops: tl.tensor,
    others: tl.tensor,
    owns: tl.tensor,
    features: tl.tensor,
    count: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDE: tl.constexpr,
) -> None:
    """Per row the largest exponent m, Σ exp(e_ij - m) over all sources but the anchor, and e_ii.

    The anchor's exponent is 0, and so is m, unless rounding chose an anchor that is not quite the nearest.
    """
    stride = count.to(tl.int64)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = row < count
    clamped = tl.minimum(row, count - 1)[:, None]
    scale_i = tl.load(scale + clamped)
    nearest_i = tl.load(nearest_source + clamped)
    two_over_tau = tl.load(factor)
    top = tl.zeros((ROWS,), tl.float64)
    total = tl.zeros((ROWS,), tl.float64)
    own = tl.zeros((ROWS,), tl.float64)
    for start in range(0, count, COLUMNS):
        column = (start + tl.arange(0, COLUMNS)).to(tl.int64)[None, :]
        near = tl.minimum(column, count - 1)
        product = products(sources, anchor, high, low, scale_i, clamped, near, features, stride, WIDE)
        exponent = exponents(product, scale_i, two_over_tau, WIDE)
        higher = tl.maximum(top, tl.max(exponent, 1))
        terms = tl.exp(exponent - higher[:, None])
        terms = tl.where((column < count) & (column != nearest_i), terms, 0.0)
        total = total * tl.exp(top - higher) + tl.sum(terms, 1)
        own += tl.sum(tl.where(column == clamped, exponent, 0.0), 1)
        top = higher
    tl.store(tops + row, top, mask=inside)
    tl.store(others + row, total, mask=inside)
    tl.store(owns + row, own, mask=inside)


@jit(do_not_specialize=["features", "count"])
def row_slopes(
    sources: tl.tensor,
    anchor: tl.tensor,
    high: tl.tensor,
    low: tl.tensor,
    scale: tl.tensor,
    peak: tl.tensor,
    factor: tl.tensor,
    moments: tl.tensor,
    others: tl.tensor,
    features: tl.tensor,
    count: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    FEATURES: tl.constexpr,
    WIDE: tl.constexpr,
) -> None:
    """Σ q_ij (y_j - y_i), for FEATURES features, and Σ q_ij over j != i; q_ij = exp(e_ij - peak_i)."""
    stride = count.to(tl.int64)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = row < count
    begin = tl.program_id(1) * FEATURES
    feature = tl.arange(0, FEATURES)
    taken = tl.minimum(features - begin, FEATURES)
    clamped = tl.minimum(row, count - 1)[:, None]
    scale_i = tl.load(scale + clamped)
    peak_i = tl.load(peak + clamped)
    two_over_tau = tl.load(factor)
    total = tl.zeros((ROWS,), tl.float64)
    moment = tl.zeros((ROWS, FEATURES), tl.float64)
    for start in range(0, count, COLUMNS):
        column = (start + tl.arange(0, COLUMNS)).to(tl.int64)[None, :]
        near = tl.minimum(column, count - 1)
        product = products(sources, anchor, high, low, scale_i, clamped, near, features, stride, WIDE)
        weight = tl.exp(exponents(product, scale_i, two_over_tau, WIDE) - peak_i)
        weight = tl.where((column < count) & (column != clamped), weight, 0.0)
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
    rows: tl.tensor,
    sources: tl.tensor,
    anchor: tl.tensor,
    high: tl.tensor,
    low: tl.tensor,
    scale: tl.tensor,
    peak: tl.tensor,
    share: tl.tensor,
    factor: tl.tensor,
    moments: tl.tensor,
    features: tl.tensor,
    count: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    FEATURES: tl.constexpr,
    WIDE: tl.constexpr,
) -> None:
    """Σ share_i exp(e_ij - peak_i) (x_i - y_j) over i != j; share is a row's cotangent over its normaliser."""
    stride = count.to(tl.int64)
    column = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < count
    begin = tl.program_id(1) * FEATURES
    feature = tl.arange(0, FEATURES)
    taken = tl.minimum(features - begin, FEATURES)
    near = tl.minimum(column, count - 1)[None, :]
    two_over_tau = tl.load(factor)
    moment = tl.zeros((FEATURES, COLUMNS), tl.float64)
    for start in range(0, count, ROWS):
        row = (start + tl.arange(0, ROWS)).to(tl.int64)[:, None]
        clamped = tl.minimum(row, count - 1)
        scale_i = tl.load(scale + clamped)
        product = products(sources, anchor, high, low, scale_i, clamped, near, features, stride, WIDE)
        weight = tl.exp(exponents(product, scale_i, two_over_tau, WIDE) - tl.load(peak + clamped))
        weight = tl.where((row < count) & (row != near), weight * tl.load(share + clamped), 0.0)
        for k in range(taken):
            offset = (begin + k) * stride
            away = tl.load(rows + offset + clamped) - tl.load(sources + offset + near)
            added = tl.sum(weight * away, 0)
            moment += tl.where(feature[:, None] == k, added[None, :], 0.0)
    cells = moments + (begin + feature)[:, None] * stride + column[None, :]
    tl.store(cells, moment, mask=(feature < taken)[:, None] & inside[None, :])
