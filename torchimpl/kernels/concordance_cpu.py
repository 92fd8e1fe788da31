"""InfoNCE of scalar residuals on the CPU: sorting, sharing among threads, and the way back.

The compiled passes are in `concordance_sorted_sums`. Here tensors become sorted arrays and the results return
in the order of the batch. The sorted rows are cut into parts, a number that the batch alone decides, each
with column sums of its own: the result is the same, bit for bit, for any number of threads.

Large batches leave out what weighs little. Where that could count in a component of a gradient, the batch is
summed again with nothing left out: see `concordance_sorted_left_out`.
"""

from __future__ import annotations

import itertools
import math
import sys
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from torchimpl.kernels.compiled import run_tasks
from torchimpl.kernels.concordance import Scaled, scaled
from torchimpl.kernels.concordance_backends import Four, Settings, Two
from torchimpl.kernels.concordance_sorted import Array, Places, Rows
from torchimpl.kernels.concordance_sorted_left_out import check_kernel
from torchimpl.kernels.concordance_sorted_sums import sum_kernel, window_kernel

ROWS_PER_PART = 4096
MOST_PARTS = 8
# up to so many rows every source with a weight above 0 counts, one by one
WHOLE = 512
LARGEST_EXPONENT = 746.0
# what is left out beyond, in binary digits: for results in float32, and in float64
DIGITS = {True: 53.0, False: 63.0}
# so many roundoffs of the result may be left out of a component of a gradient
ALLOWED = 2.0**8
ROUNDOFF = {True: 2.0**-24, False: 2.0**-53}
# of the exponent of ε, as in `Pairs`
HIGHEST_PEAK = sys.float_info.max / 4


def rows_sorted(x: Tensor, y: Tensor, settings: Settings) -> Four:
    """Losses, anchors and normaliser of the rows, and the slopes of their sum.

    Args:
        x: (B, 1), finite float64, on the CPU.
        y: like `x`; row i belongs to source i.
        settings: temperature, ε, and whether slopes are wanted.

    Returns:
        The losses (B,), inf beyond float64; the nearest sources (B,); the normaliser (2, B), see
        `torchimpl.kernels.concordance.loss_rows`; and the slopes for `gradient_sorted`: (2, B, 1), τ/2 times
        the derivatives by x and y of the sum of the losses, in the units of `scaled`; (2, 0, 1) if none are
        wanted.

    Example:
        >>> x = torch.zeros(3, 1, dtype=torch.float64)
        >>> settings = Settings(tau=1.0, eps=0.0, rows=0, wide=True, grade="float64", slopes=False)
        >>> rows_sorted(x, x, settings)[0]  # log 3
        tensor([1.0986, 1.0986, 1.0986], dtype=torch.float64)
    """
    units = scaled(x, y, settings.tau)
    rows, slopes = _evaluated(units, settings, None, slopes=settings.slopes)
    order = rows.order
    nearest = _back(order.y[rows.found.anchor_place], order.x)
    peak, total = _back(rows.found.peak, order.x), _back(rows.found.total, order.x)
    if settings.eps:
        # where ε has the weight its exponent must be, to the bit, what `Pairs` will subtract it from
        away = units.x - units.y[nearest]
        exponent = away.square().sum(1) * units.inverse_tau + math.log(settings.eps)
        peak = torch.where((peak > 0) & (exponent > 0), exponent.clamp(max=HIGHEST_PEAK), peak)
    return _back(rows.found.loss, order.x), nearest, torch.stack((peak, total)), slopes


def gradient_sorted(
    cotangent: Tensor,
    x: Tensor,
    y: Tensor,
    _nearest: Tensor,
    _normaliser: Tensor,
    saved: Tensor,
    settings: Settings,
) -> Two:
    """Vector-Jacobian product of the losses of `rows_sorted`: (B, 1) for x and y.

    Where all rows have one cotangent, as in a sum or a mean, the slopes of the forward pass are multiplied
    by it.
    """
    units = scaled(x, y, settings.tau)
    first = cotangent[0]
    if saved.numel() and bool((cotangent == first).all()):
        slopes = saved * first
    else:
        slopes = _evaluated(units, settings, cotangent, slopes=True)[1]
    return slopes[0] * units.gradient_factor, slopes[1] * units.gradient_factor


def cut_off(batch: int, *, narrow: bool) -> float:
    """Weights below exp(-cut_off) are left out: less than half a unit roundoff together.

    Args:
        batch: number of rows.
        narrow: whether the results will be rounded to float32 or less.

    Example:
        >>> import math
        >>> 1000 * math.exp(-cut_off(1000, narrow=True)) <= 2.0**-52
        True
    """
    return LARGEST_EXPONENT if batch <= WHOLE else math.log(batch) + DIGITS[narrow] * math.log(2.0)


class Order(NamedTuple):
    """Places in the batch of the sorted rows and of the sorted sources."""

    x: Places
    y: Places


class Sorted(NamedTuple):
    """Everything known about one batch, sorted."""

    order: Order
    found: Rows
    sources: Array


def sorted_rows(units: Scaled, cotangent: Tensor | None, cut: float) -> Sorted:
    """Rows and sources in ascending order, with windows and anchors; sums are still to be found.

    Args:
        units: the inputs, (B, 1), multiplied by a power of two.
        cotangent: (B,) weights of the rows, None for 1.
        cut: weights below exp(-cut) are left out.
    """
    x, y = units.x[:, 0].numpy(), units.y[:, 0].numpy()
    batch = len(x)
    # equal numbers in any order: it changes nothing but the order of a sum
    order = Order(np.argsort(x), np.argsort(y))
    place = np.empty(batch, np.int64)
    place[order.y] = np.arange(batch)
    rows, sources, own_place = x[order.x], y[order.y], place[order.x]
    first, last, anchor_place = (np.empty(batch, np.int64) for _ in range(3))
    reach = 0.5 * cut / float(units.inverse_tau)
    window_kernel(rows, sources, own_place, reach, first, last, anchor_place)
    anchor = sources[anchor_place]
    half = 0.5 * anchor
    high = rows - half
    back = high - rows
    low = (rows - (high - back)) - (half + back)
    weights = np.ones(batch) if cotangent is None else cotangent.numpy()[order.x]
    results = (np.empty(batch) for _ in range(5))
    own = sources[own_place]
    found = Rows(
        rows, anchor, high, low, own, own_place, anchor_place, first, last, weights, *results
    )  # fmt: skip
    return Sorted(order, found, sources)


def _evaluated(
    units: Scaled, settings: Settings, cotangent: Tensor | None, *, slopes: bool
) -> tuple[Sorted, Tensor]:
    """All rows settled, and the slopes of the sum of the losses weighted by the cotangent, (2, B or 0, 1)."""
    cut = cut_off(len(units.x), narrow=settings.narrow)
    found, by_column = _summed(units, settings.eps, cotangent, cut, slopes=slopes)
    if not slopes:
        return found, torch.empty(2, 0, 1, dtype=torch.float64)
    if cut < LARGEST_EXPONENT and _too_much_left_out(found, by_column, units, settings):
        losses = found.found.loss
        del found, by_column  # else both passes would be in memory
        found, by_column = _summed(units, settings.eps, cotangent, LARGEST_EXPONENT, slopes=slopes)
        found.found.loss[:] = losses  # the same with and without slopes
    by_row = _back(found.found.slope * found.found.cotangent, found.order.x)
    return found, torch.stack((by_row, _back(by_column, found.order.y)))[:, :, None]


def _too_much_left_out(found: Sorted, by_column: Array, units: Scaled, settings: Settings) -> bool:
    rows = found.found
    apart = np.empty_like(by_column)
    apart[rows.own_place] = rows.cotangent * (rows.x - rows.own)
    scale, allowed = 2.0 * float(units.inverse_tau), ALLOWED * ROUNDOFF[settings.narrow]
    return bool(check_kernel(rows, found.sources, by_column, apart, scale, allowed))


def _summed(
    units: Scaled, eps: float, cotangent: Tensor | None, cut: float, *, slopes: bool
) -> tuple[Sorted, Array]:
    """All rows settled, and the column sums in the order of the sorted sources; zeros without slopes."""
    found = sorted_rows(units, cotangent, cut)
    rows, batch = found.found, len(found.sources)
    parts = max(1, min(MOST_PARTS, batch // ROWS_PER_PART))
    borders = list(itertools.pairwise(batch * part // parts for part in range(parts + 1)))
    spans = _spans(found, borders, float(units.inverse_tau))
    columns = [np.zeros(span.stop - span.start if slopes else 0) for span in spans]
    log_eps = math.log(eps) if eps else -math.inf
    common = (rows, found.sources, float(units.inverse_tau), log_eps, cut)
    tasks = [
        (*common, *border, sums, span.start, span.stop - span.start, batch > WHOLE)
        for sums, border, span in zip(columns, borders, spans, strict=True)
    ]
    run_tasks(sum_kernel, tasks)
    by_column = np.zeros(batch)
    if slopes:
        for span, sums in zip(spans, columns, strict=True):
            by_column[span] += sums
        by_column[rows.own_place] -= rows.own_slope
    return found, by_column


def _spans(found: Sorted, borders: list[tuple[int, int]], inverse_tau: float) -> list[slice]:
    """The sources that the rows between two borders can see at most."""
    rows = found.found
    ends = np.array(borders).ravel()
    ends[1::2] -= 1
    first, last, anchor = (np.empty(len(ends), np.int64) for _ in range(3))
    reach = 0.5 * LARGEST_EXPONENT / inverse_tau
    window_kernel(rows.x[ends], found.sources, rows.own_place[ends], reach, first, last, anchor)
    return [slice(int(start), int(stop)) for start, stop in zip(first[::2], last[1::2], strict=True)]


def _back(values: Array | Places, order: Places) -> Tensor:
    """Values of the sorted order, in the order of the batch."""
    found = np.empty_like(values)
    found[order] = values
    return torch.from_numpy(found)
