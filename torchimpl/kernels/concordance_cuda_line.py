"""InfoNCE of scalar residuals (D = 1) on CUDA: sorted rows, sorted sources, and the windows of both.

With n the source nearest to x, source j of row x has the exponent e_j = ((x-n)² - (x-y_j)²)/τ <= 0. The
window of a row holds every source that can matter: all whose weight is a normal number (e_j >=
-LARGEST_EXPONENT), up to WHOLE rows. In larger batches those beyond CUT = log B + DIGITS log 2 from the
next largest term, which is the second nearest source or ε: all that is left out is less than 2^-DIGITS of
what a tiny loss is made of. As the nearest and the second nearest distance are continuous in x with slopes
-1 to 1, x ∓ √(distance² + CUT τ) increase with x: both ends of the windows do, and so do both ends of the
rows that see a source.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from torchimpl.kernels.concordance_cuda_launch import launch, programs, scattered
from torchimpl.kernels.concordance_cuda_tiles import tile
from torchimpl.kernels.concordance_cuda_units import LOWEST, Anchored, Units, anchored, eps_weight, finished

# up to so many rows every source with a weight above 0 counts
WHOLE = 1 << 14
DIGITS = {True: 30, False: 54}  # narrow or not
# ends of windows are wrong by a few roundings of x and of the distance
SLACK = 2.0**-50


class Line(NamedTuple):
    """Sorted rows and sources, (B,) each."""

    x: Tensor
    y: Tensor
    order_x: Tensor  # place -> row of the batch
    order_y: Tensor
    own_place: Tensor  # of each sorted row: place of its own source
    own: Tensor  # and that source
    place: Tensor  # of each sorted row: place of its anchor
    rows: Anchored  # (B, 1) and (B,)
    factor: Tensor  # 2/τ, 0-dim


def excess(x: Tensor, n: Tensor, y: Tensor) -> Tensor:
    """τ/2 e of source y beside anchor n: its sign is exact, so it tells which of the two is nearer."""
    half = n * 0.5
    high = x - half
    back = high - x
    low = (x - (high - back)) - (half + back)
    return (y - n) * ((high - 0.5 * y) + low)


def nearest_places(x: Tensor, y: Tensor, own_place: Tensor) -> Tensor:
    """The place of the source nearest to each row, its own where no other is nearer: sorted (B,) tensors.

    Example:
        >>> x, y = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.5])
        >>> nearest_places(x, y, torch.tensor([0, 1]))
        tensor([1, 1])
    """
    right = torch.searchsorted(y, x)
    left = (right - 1).clamp(min=0)
    right = right.clamp(max=len(y) - 1)
    best = torch.where(excess(x, y[right], y[left]) >= 0, left, right)
    return torch.where(excess(x, y[best], y[own_place]) >= 0, own_place, best)


def line(found: Units, eps: float, nearest: Tensor | None = None) -> Line:
    """Sort rows and sources, and find each row's anchor unless `nearest`, (B,), tells it."""
    x, order_x = found.x[:, 0].sort(stable=True)
    y, order_y = found.y[:, 0].sort(stable=True)
    place_of = scattered(torch.arange(len(y), device=y.device), order_y)
    own_place = place_of[order_x]
    place = nearest_places(x, y, own_place) if nearest is None else place_of[nearest[order_x]]
    # products of scalars are not added: one that overflows is as good as its true value
    rows = anchored(x[:, None], y[place][:, None], found.inverse_tau, torch.ones_like(found.inverse_tau), eps)
    return Line(x, y, order_x, order_y, own_place, y[own_place], place, rows, 2 * found.inverse_tau)


def windows(of: Line, eps: float, *, narrow: bool) -> tuple[Tensor, Tensor]:
    """The sources that row i sees: first_i <= place < last_i, (B,) each, both increasing."""
    count = len(of.x)
    most = -LOWEST[narrow]
    cut = most if count <= WHOLE else math.log(count) + DIGITS[narrow] * math.log(2.0)
    root_tau = (2.0 / of.factor).sqrt()
    away = (of.x - of.rows.anchor[:, 0]).abs()
    neighbours = [
        torch.where(exists, (of.x - of.y[beside.clamp(0, count - 1)]).abs(), torch.inf)
        for beside, exists in ((of.place - 1, of.place > 0), (of.place + 1, of.place < count - 1))
    ]
    reach = torch.hypot(torch.minimum(*neighbours), math.sqrt(cut) * root_tau)
    reach = torch.minimum(reach, torch.hypot(away, math.sqrt(most) * root_tau))
    if eps:
        # ε is a source at the distance √(-τ log ε) from every row
        of_eps = math.sqrt(max(cut - math.log(eps), 0.0)) * root_tau
        reach = torch.minimum(reach, torch.maximum(torch.hypot(away, math.sqrt(cut) * root_tau), of_eps))
    reach = reach + SLACK * (of.x.abs() + reach)
    first = torch.searchsorted(of.y, of.x - reach).cummax(0).values
    last = torch.searchsorted(of.y, of.x + reach, right=True).cummax(0).values
    return first, last


def seen_by(first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """The rows that see source j: first_j <= row < last_j, (B,) each, both increasing.

    Example:
        >>> seen_by(torch.tensor([0, 0, 2]), torch.tensor([1, 2, 3]))
        (tensor([0, 1, 2]), tensor([2, 2, 3]))
    """
    places = torch.arange(len(first), device=first.device)
    return torch.searchsorted(last, places, right=True), torch.searchsorted(first, places, right=True)


def line_rows(found: Units, eps: float, *, narrow: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Losses (B,), nearest sources (B,) and the normaliser (2, B), without the poison."""
    of = line(found, eps)
    rows, count = of.rows, len(of.x)
    others, size = torch.empty_like(of.x), tile("line", of.x.device)
    launch(
        "line",
        "row_sums",
        (programs(count, size.rows),),
        *(rows.high, rows.low, rows.anchor, of.place, *windows(of, eps, narrow=narrow), of.y, of.factor),
        *(others, count),
        ROWS=size.rows,
        COLUMNS=size.columns,
        num_warps=size.warps,
    )
    own = (excess(of.x, rows.anchor[:, 0], of.own) * of.factor).clamp(max=0.0)
    losses, normaliser = finished(torch.zeros_like(others), others, own, rows.eps_exponent)
    back = of.order_x
    nearest = scattered(of.order_y[of.place], back)
    return scattered(losses, back), nearest, torch.stack([scattered(part, back) for part in normaliser])


def line_gradient(
    cotangent: Tensor, found: Units, nearest: Tensor, normaliser: Tensor, eps: float, *, narrow: bool
) -> tuple[Tensor, Tensor]:
    """Vector-Jacobian product of the losses by x and y, (B, 1) each, without factor and poison."""
    of = line(found, eps, nearest)
    rows, count = of.rows, len(of.x)
    weights = cotangent[of.order_x]
    peak, total = normaliser[0][of.order_x], normaliser[1][of.order_x]
    first, last = windows(of, eps, narrow=narrow)
    moments, others, columns = (torch.empty_like(of.x) for _ in range(3))
    size = tile("line", of.x.device)
    options = {"ROWS": size.rows, "COLUMNS": size.columns, "num_warps": size.warps}
    common = (rows.high, rows.low, rows.anchor)
    launch(
        "line",
        "row_slopes",
        (programs(count, size.rows),),
        *(*common, of.own, of.own_place, peak, first, last, of.y, of.factor, moments, others, count),
        **options,
    )
    launch(
        "line",
        "column_slopes",
        (programs(count, size.columns),),
        *(of.x, *common, of.own_place, peak, weights / total, *seen_by(first, last)),
        *(of.y, of.factor, columns, count),
        **options,
    )
    of_eps = eps_weight(rows.eps_exponent, torch.stack((peak, total)))
    own = of.x - of.own
    gx = scattered((of_eps * own + moments / total) * weights, of.order_x)
    pull = scattered((of_eps + others / total) * weights * own, of.order_x)
    gy = scattered(columns, of.order_y) - pull
    return gx[:, None], gy[:, None]
