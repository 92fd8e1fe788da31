"""Exponents of a tile of pairs in Triton: from differences, or from products of matrices where those will do.

The exact form is e_ij = 2/τ Σ_k (y_jk - n_k)(x_ik - n_k/2 - y_jk/2). From coordinates about a common centre

e_ij = (2 x_i·y_j - |y_j|² - level_i) / τ, level_i = 2 x_i·n_i - |n_i|²,

which tensor cores form, with an error of at most `slack` = unit (|x_i| + |n_i| + |y_j|)². A tile takes it
where that is below `TRUST`; else it is used to see that no pair of the tile can weigh anything (all
exponents below `LOWEST`), and a tile that can is formed from differences. Where anything overflows the
slack is inf or NaN, and the tile is formed from differences, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchimpl.kernels.negative_binomial_cuda_triton import jit, tl

if TYPE_CHECKING:
    Two = tuple[tl.tensor, tl.tensor]

LIMIT = tl.constexpr(2.0**1021)
# features that are multiplied at a time
DEPTH = tl.constexpr(16)


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
    """τ/2 e_ij of `row` and `column`, both inside, which broadcast; in the row's scale if WIDE."""
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


@jit
def dots(
    rows: tl.tensor,
    sources: tl.tensor,
    row: tl.tensor,
    column: tl.tensor,
    features: tl.tensor,
    stride: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    GRADE: tl.constexpr,
) -> tl.tensor:
    """x_i·y_j of a tile, row (ROWS, 1) and column (1, COLUMNS): GRADE 1 is float64, 2 tf32x3, 3 bfloat16."""
    total = tl.zeros((ROWS, COLUMNS), tl.float64 if GRADE == 1 else tl.float32)
    for start in range(0, features, DEPTH):
        k = start + tl.arange(0, DEPTH)
        x = tl.load(rows + k[None, :] * stride + row, mask=(k < features)[None, :], other=0.0)
        y = tl.load(sources + k[:, None] * stride + column, mask=(k < features)[:, None], other=0.0)
        if GRADE == 1:
            total = tl.dot(x, y, total, input_precision="ieee", out_dtype=tl.float64)
        elif GRADE == 2:
            total = tl.dot(x, y, total, input_precision="tf32x3")
        else:
            # numbers of bfloat16 are numbers of tf32
            total = tl.dot(x.to(tl.float32), y.to(tl.float32), total, input_precision="tf32")
    return total.to(tl.float64)


@jit
def slack_of(row_norm: tl.tensor, source_norm: tl.tensor, unit: tl.tensor) -> tl.tensor:
    """The largest error of what is formed from `dots` in a tile."""
    size = tl.max(row_norm, axis=None) + tl.max(source_norm, axis=None)
    return size * size * unit


@jit
def tile_exponents(
    sources: tl.tensor,
    anchor: tl.tensor,
    high: tl.tensor,
    low: tl.tensor,
    scale: tl.tensor,
    nearest: tl.tensor,
    factor: tl.tensor,
    centred_rows: tl.tensor,
    centred_sources: tl.tensor,
    level: tl.tensor,
    reach: tl.tensor,
    square: tl.tensor,
    norm: tl.tensor,
    unit: tl.tensor,
    peak: tl.tensor,
    row: tl.tensor,
    column: tl.tensor,
    features: tl.tensor,
    stride: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDE: tl.constexpr,
    GRADE: tl.constexpr,
    LOWEST: tl.constexpr,
    TRUST: tl.constexpr,
) -> tl.tensor:
    """e_ij - peak_i of row (ROWS, 1) and column (1, COLUMNS), both inside; -inf where no pair can matter."""
    scale_i = tl.load(scale + row)
    two_over_tau = tl.load(factor)
    if GRADE == 0:
        product = products(sources, anchor, high, low, scale_i, row, column, features, stride, WIDE)
        exponent = exponents(product, scale_i, two_over_tau, WIDE) - peak
    else:
        slack = slack_of(tl.load(reach + row), tl.load(norm + column), tl.load(unit))
        dot = dots(centred_rows, centred_sources, row, column, features, stride, ROWS, COLUMNS, GRADE)
        rest = tl.load(square + column) + tl.load(level + row)
        exponent = tl.fma(dot, 2.0, -rest) * (0.5 * two_over_tau)
        # the anchor's is 0 by definition
        exponent = tl.where(tl.load(nearest + row) == column, 0.0, exponent) - peak
        if (slack <= TRUST) == 0:
            if tl.max(exponent, axis=None) + slack < LOWEST:
                exponent = tl.full((ROWS, COLUMNS), float("-inf"), tl.float64)
            else:
                product = products(sources, anchor, high, low, scale_i, row, column, features, stride, WIDE)
                exponent = exponents(product, scale_i, two_over_tau, WIDE) - peak
    return exponent
