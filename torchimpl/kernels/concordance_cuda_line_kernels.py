"""InfoNCE of scalar residuals in Triton: sums over windows of sorted sources, and over the rows that see one.

Rows and sources are sorted, both ends of the rows' windows move to the right with the row. A program takes
a tile of neighbours and loops over the union of what they see; the loop's bounds are read on the device.
What is in the union but outside of a row's own window weighs nothing, and is not left out. Sums stay in the
lanes of a tile until the loop has ended, so that their order is fixed: no atomics.
"""

from __future__ import annotations

from torchimpl.kernels.negative_binomial_cuda_triton import jit, tl


@jit
def exponents(high: tl.tensor, low: tl.tensor, n: tl.tensor, y: tl.tensor, factor: tl.tensor) -> tl.tensor:
    """e_ij = 2/τ (y_j - n)(x_i - n/2 - y_j/2), of rows and sources that broadcast; at most 0.

    The sign of a product of exact signs is exact: only an anchor that is not the nearest gives more than 0.
    """
    return tl.minimum((y - n) * (tl.fma(y, -0.5, high) + low) * factor, 0.0)


@jit(do_not_specialize=["count"])
def row_sums(
    high: tl.tensor,
    low: tl.tensor,
    anchor: tl.tensor,
    place: tl.tensor,
    first: tl.tensor,
    last: tl.tensor,
    sources: tl.tensor,
    factor: tl.tensor,
    others: tl.tensor,
    count: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """others_i = Σ exp(e_ij) over the window of row i, without the anchor at `place`."""
    begin = tl.program_id(0).to(tl.int64) * ROWS
    row = begin + tl.arange(0, ROWS)
    inside = row < count
    high_i = tl.load(high + row, mask=inside, other=0.0)[:, None]
    low_i = tl.load(low + row, mask=inside, other=0.0)[:, None]
    n = tl.load(anchor + row, mask=inside, other=0.0)[:, None]
    place_i = tl.load(place + row, mask=inside, other=0)[:, None]
    start = tl.load(first + begin)
    stop = tl.load(last + tl.minimum(begin + ROWS, count) - 1)
    two_over_tau = tl.load(factor)
    total = tl.zeros((ROWS, COLUMNS), tl.float64)
    while start < stop:
        column = start + tl.arange(0, COLUMNS)[None, :]
        y = tl.load(sources + column, mask=column < stop, other=0.0)
        counts = (column < stop) & (column != place_i)
        total += tl.where(counts, tl.exp(exponents(high_i, low_i, n, y, two_over_tau)), 0.0)
        start += COLUMNS
    tl.store(others + row, tl.sum(total, 1), mask=inside)


@jit(do_not_specialize=["count"])
def row_slopes(
    high: tl.tensor,
    low: tl.tensor,
    anchor: tl.tensor,
    own: tl.tensor,
    own_place: tl.tensor,
    peak: tl.tensor,
    first: tl.tensor,
    last: tl.tensor,
    sources: tl.tensor,
    factor: tl.tensor,
    moments: tl.tensor,
    others: tl.tensor,
    count: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """Σ q_ij (y_j - y_i) and Σ q_ij over the window, without the own source; q_ij = exp(e_ij - peak_i)."""
    begin = tl.program_id(0).to(tl.int64) * ROWS
    row = begin + tl.arange(0, ROWS)
    inside = row < count
    high_i = tl.load(high + row, mask=inside, other=0.0)[:, None]
    low_i = tl.load(low + row, mask=inside, other=0.0)[:, None]
    n = tl.load(anchor + row, mask=inside, other=0.0)[:, None]
    own_i = tl.load(own + row, mask=inside, other=0.0)[:, None]
    place_i = tl.load(own_place + row, mask=inside, other=0)[:, None]
    peak_i = tl.load(peak + row, mask=inside, other=0.0)[:, None]
    start = tl.load(first + begin)
    stop = tl.load(last + tl.minimum(begin + ROWS, count) - 1)
    two_over_tau = tl.load(factor)
    moment = tl.zeros((ROWS, COLUMNS), tl.float64)
    total = tl.zeros((ROWS, COLUMNS), tl.float64)
    while start < stop:
        column = start + tl.arange(0, COLUMNS)[None, :]
        y = tl.load(sources + column, mask=column < stop, other=0.0)
        counts = (column < stop) & (column != place_i)
        weight = tl.exp(exponents(high_i, low_i, n, y, two_over_tau) - peak_i)
        weight = tl.where(counts, weight, 0.0)
        moment = tl.fma(weight, y - own_i, moment)
        total += weight
        start += COLUMNS
    tl.store(moments + row, tl.sum(moment, 1), mask=inside)
    tl.store(others + row, tl.sum(total, 1), mask=inside)


@jit(do_not_specialize=["count"])
def column_slopes(
    rows: tl.tensor,
    high: tl.tensor,
    low: tl.tensor,
    anchor: tl.tensor,
    own_place: tl.tensor,
    peak: tl.tensor,
    share: tl.tensor,
    first: tl.tensor,
    last: tl.tensor,
    sources: tl.tensor,
    factor: tl.tensor,
    moments: tl.tensor,
    count: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """Σ share_i exp(e_ij - peak_i) (x_i - y_j) over the rows that see source j, without its own.

    `first` and `last` bound the rows that see a source, `share` is a row's cotangent over its normaliser.
    """
    begin = tl.program_id(0).to(tl.int64) * COLUMNS
    column = begin + tl.arange(0, COLUMNS)
    inside = column < count
    y = tl.load(sources + column, mask=inside, other=0.0)[None, :]
    start = tl.load(first + begin)
    stop = tl.load(last + tl.minimum(begin + COLUMNS, count) - 1)
    two_over_tau = tl.load(factor)
    moment = tl.zeros((ROWS, COLUMNS), tl.float64)
    while start < stop:
        row = start + tl.arange(0, ROWS)[:, None]
        seen = row < stop
        x = tl.load(rows + row, mask=seen, other=0.0)
        high_i = tl.load(high + row, mask=seen, other=0.0)
        low_i = tl.load(low + row, mask=seen, other=0.0)
        n = tl.load(anchor + row, mask=seen, other=0.0)
        place_i = tl.load(own_place + row, mask=seen, other=0)
        peak_i = tl.load(peak + row, mask=seen, other=0.0)
        share_i = tl.load(share + row, mask=seen, other=0.0)
        weight = share_i * tl.exp(exponents(high_i, low_i, n, y, two_over_tau) - peak_i)
        counts = seen & (place_i != column[None, :])
        moment = tl.fma(tl.where(counts, weight, 0.0), x - y, moment)
        start += ROWS
    tl.store(moments + column, tl.sum(moment, 0), mask=inside)
