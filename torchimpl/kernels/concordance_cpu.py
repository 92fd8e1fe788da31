"""InfoNCE of scalar residuals on the CPU: sorting, sharing among threads, and the way back.

The compiled passes are in `concordance_sorted`. Here tensors become sorted arrays and the results return in the
order of the batch. Rows are shared among `torch.get_num_threads()` threads; each adds to column sums of its own.
"""

from __future__ import annotations

import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from torchimpl.kernels.concordance import scaled
from torchimpl.kernels.concordance_sorted import Array, Places, Rows, find_windows, sum_rows

# rows that are worth a thread of their own
ROWS_PER_THREAD = 4096
# up to so many rows every source with a weight that is a normal number counts
WHOLE = 512
LARGEST_EXPONENT = 708.0


class Evaluation(NamedTuple):
    """What one pass finds, in the order of the batch."""

    loss: Tensor  # (B,)
    nearest: Tensor  # (B,), int64
    normaliser: Tensor  # (2, B): largest exponent, and the sum relative to it
    slopes: Tensor  # (2, B): τ/2 of the derivatives by x_i and y_i of the weighted sum of losses


def applicable(x: Tensor, y: Tensor, impl: str) -> bool:
    """Whether the sorted algorithm answers: D = 1 on the CPU, finite, unless plain torch is asked for."""
    if impl == "torch" or x.device.type != "cpu" or x.dtype != torch.float64 or x.shape[1] != 1 or not len(x):
        return False
    return bool(x.isfinite().all() and y.isfinite().all())


def rows_sorted(x: Tensor, y: Tensor, tau: float, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Losses, anchors and normaliser of the rows, and the slopes of their sum.

    Args:
        x: (B, 1), finite float64, on the CPU.
        y: like `x`; row i belongs to source i.
        tau: temperature.
        eps: ε of the loss.

    Returns:
        The losses (B,), inf beyond float64; the nearest sources (B,); the normaliser (2, B), see
        `torchimpl.kernels.concordance.loss_rows`; and the slopes (2, B) for `gradient_sorted`.
    """
    units = scaled(x, y, tau)
    return evaluate_sorted(units.x[:, 0], units.y[:, 0], float(units.inverse_tau), eps)


def gradient_sorted(
    cotangent: Tensor, x: Tensor, y: Tensor, slopes: Tensor, tau: float, eps: float
) -> tuple[Tensor, Tensor]:
    """Vector-Jacobian product of the losses of `rows_sorted`: (B, 1) for x and y.

    Where all rows have one cotangent, as in a sum or a mean, the slopes of the forward pass are multiplied by it.
    """
    units = scaled(x, y, tau)
    first = cotangent[0]
    if bool((cotangent == first).all()):
        slopes = slopes * first
    else:
        rows = units.x[:, 0], units.y[:, 0]
        slopes = evaluate_sorted(*rows, float(units.inverse_tau), eps, cotangent.contiguous()).slopes
    return (slopes[0] * units.gradient_factor)[:, None], (slopes[1] * units.gradient_factor)[:, None]


def evaluate_sorted(
    x: Tensor, y: Tensor, inverse_tau: float, eps: float, cotangent: Tensor | None = None
) -> Evaluation:
    """Losses of all rows and the slopes of their sum, weighted by the cotangent (None for 1)."""
    batch = len(x)
    order_x, order_y = torch.argsort(x, stable=True).numpy(), torch.argsort(y, stable=True).numpy()
    rows, sources = _sorted_rows(x.numpy(), y.numpy(), order_x, order_y, inverse_tau, cotangent)
    log_eps = math.log(eps) if eps else -math.inf
    parts = max(1, min(torch.get_num_threads(), batch // ROWS_PER_THREAD))
    columns = np.zeros((parts, batch))
    borders = [batch * part // parts for part in range(parts + 1)]
    tasks = [
        (rows, begin, end, sources, inverse_tau, log_eps, columns[part])
        for part, (begin, end) in enumerate(itertools.pairwise(borders))
    ]
    if parts == 1:
        sum_rows(*tasks[0])
    else:
        # threads of this call only: nothing is left that a fork could inherit
        with ThreadPoolExecutor(parts - 1) as pool:
            others = [pool.submit(sum_rows, *task) for task in tasks[1:]]
            sum_rows(*tasks[0])
            for other in others:
                other.result()
    by_row = _back(rows.slope * rows.cotangent, order_x)
    return Evaluation(
        _back(rows.loss, order_x),
        _back(order_y[rows.anchor_place], order_x),
        torch.stack((_back(rows.peak, order_x), _back(rows.total, order_x))),
        torch.stack((by_row, _back(columns.sum(0) if parts > 1 else columns[0], order_y))),
    )


def _sorted_rows(
    x: Array, y: Array, order_x: Places, order_y: Places, inverse_tau: float, cotangent: Tensor | None
) -> tuple[Rows, Array]:
    batch = len(x)
    place = np.empty(batch, np.int64)
    place[order_y] = np.arange(batch)
    rows, sources, own_place = x[order_x], y[order_y], place[order_x]
    first, last, anchor_place = (np.empty(batch, np.int64) for _ in range(3))
    # what is left out weighs less than half a unit roundoff together
    reach = LARGEST_EXPONENT if batch <= WHOLE else math.log(batch) + 53 * math.log(2.0)
    find_windows(rows, sources, own_place, 0.5 * reach / inverse_tau, first, last, anchor_place)
    anchor = sources[anchor_place]
    half = 0.5 * anchor
    high = rows - half
    back = high - rows
    low = (rows - (high - back)) - (half + back)
    weights = np.ones(batch) if cotangent is None else cotangent.numpy()[order_x]
    results = (np.empty(batch) for _ in range(4))
    return (
        Rows(
            rows, anchor, high, low, sources[own_place], own_place, anchor_place, first, last, weights, *results
        ),
        sources,
    )


def _back(values: Array | Places, order: Places) -> Tensor:
    """Values of the sorted order, in the order of the batch."""
    found = np.empty_like(values)
    found[order] = values
    return torch.from_numpy(found)
