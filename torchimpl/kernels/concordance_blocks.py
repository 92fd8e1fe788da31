"""InfoNCE of points of any dimension on the CPU: units, the filter and its bound, sharing among threads.

The compiled passes are in `concordance_blocks_cpu`. Rows are cut into a number of parts that depends on the
shapes only, each with column sums of its own, which are added in order: the result is the same, bit for bit,
for any number of threads.

The filter. With c any vector, x' = x - c and y' = y - c, row i sees source j by s_ij = x'_i·y'_j - |y'_j|²/2.
S_ij is its value in float32, unit roundoff u = 2^-24: both points are rounded, K products are, and a sum that
starts with the rounded -|y'_j|²/2. A product passes at most K + 3 roundings in float32 and a few in float64,
the square K + 1 and a few. With Σ_k |x'_k y'_k| <= |x'||y'|,

    |S_ij - s_ij| <= γ(K + 8) (|x'_i||y'_j| + |y'_j|²/2) + D 2^-100,    γ(n) = n u / (1 - n u),

the last term for what underflows. Sources beyond CAP times the norm of most are always candidates and not in
the filter: they would make the bound useless for all others. Rows beyond LARGEST_NORM, where float32 could
overflow, do without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from torchimpl.kernels.concordance import Pairs, Scaled, loss_gradient, loss_rows, scaled
from torchimpl.kernels.concordance_blocks_cpu import kernel
from torchimpl.kernels.concordance_blocks_cpu_filter import GROUP, NEVER, Array, Filter, Products
from torchimpl.kernels.concordance_blocks_cpu_left_out import sum_again
from torchimpl.kernels.concordance_blocks_cpu_pairs import Problem

# pairs times features up to which no pair is left out
WHOLE = 1 << 20
# what is left out weighs so little beside what the others weigh: below the rounding of the result
CUT, NARROW_CUT = 53 * math.log(2.0), 30 * math.log(2.0)
PARTS = 8
ROWS_PER_PART = 128
# float32 numbers in a block of S
BLOCK = 1 << 17
LONGEST_BLOCK = 32
SINGLE, DOUBLE = 2.0**-24, 2.0**-53
# of an exponent from products, where the result will be rounded to float32
EXPONENT_ERROR = 2.0**-30
MOST, CAP = 0.99, 2.0
LARGEST_NORM = 2.0**40
# of so many points the filter's centre is found
SAMPLE = 128

Rows = tuple[Tensor, Tensor, Tensor, Tensor]
_Sums = tuple[Array, Array | None]


def rows_blocks(x: Tensor, y: Tensor, tau: float, eps: float, *, narrow: bool, slopes: bool) -> Rows:
    """Losses, anchors and normaliser of all rows, and the slopes of the sum of the losses.

    Args:
        x: (B, D), B and D >= 1, finite float64, on the CPU.
        y: like `x`; row i belongs to source i.
        tau: temperature.
        eps: ε of the loss.
        narrow: whether the results will be rounded to float32 or less.
        slopes: whether to form the slopes.

    Returns:
        The losses (B,), inf beyond float64; the nearest sources (B,), int64; the normaliser (2, B), see
        `torchimpl.kernels.concordance.loss_rows`; and the slopes, (2, B, D) or (2, 0, D): the derivatives by
        x and y without the factor `gradient_factor` of `torchimpl.kernels.concordance.scaled`.

    Example:
        >>> x = torch.zeros(3, 2, dtype=torch.float64)
        >>> rows_blocks(x, x, 1.0, 0.0, narrow=False, slopes=False)[0]  # log 3
        tensor([1.0986, 1.0986, 1.0986], dtype=torch.float64)
    """
    units = scaled(x, y, tau)
    if is_wide(units):
        return _rows_wide(x, y, tau, eps, slopes=slopes)
    losses, nearest, normaliser, found = _evaluate(
        units, torch.ones_like(x[:, 0]), eps, narrow=narrow, slopes=slopes
    )
    if eps:
        # where ε has all the weight its exponent must be, to the bit, what `Pairs` will subtract it from
        away = units.x - units.y[nearest]
        exponent = away.square().sum(1) * units.inverse_tau + math.log(eps)
        normaliser[0] = torch.where(exponent > 0, exponent, normaliser[0])
    return losses, nearest, normaliser, found


def gradient_blocks(
    cotangent: Tensor,
    x: Tensor,
    y: Tensor,
    nearest: Tensor,
    normaliser: Tensor,
    slopes: Tensor,
    tau: float,
    eps: float,
    *,
    narrow: bool,
) -> tuple[Tensor, Tensor]:
    """Vector-Jacobian product of the losses of `rows_blocks`: (B, D) for x and y.

    Where all rows have one cotangent, as in a sum or a mean, the slopes of the forward pass are multiplied
    by it.

    Args:
        cotangent: (B,), float64.
        x: as for `rows_blocks`.
        y: as for `rows_blocks`.
        nearest: as `rows_blocks` returns it.
        normaliser: as `rows_blocks` returns it.
        slopes: as `rows_blocks` returns it.
        tau: temperature.
        eps: ε of the loss.
        narrow: as for `rows_blocks`.

    Returns:
        The derivatives by x and by y.

    Example:
        >>> x = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
        >>> rest = rows_blocks(x, x, 1.0, 0.0, narrow=False, slopes=True)[1:]
        >>> gradient_blocks(torch.ones_like(x[:, 0]), x, x, *rest, 1.0, 0.0, narrow=False)[0]
        tensor([[ 0.5379],
                [-0.5379]], dtype=torch.float64)
    """
    units = scaled(x, y, tau)
    first = cotangent[0]
    if slopes.shape[1] and bool((cotangent == first).all()):
        slopes = slopes * first
    elif is_wide(units):
        pairs = Pairs(x, y, tau=tau, eps=eps, rows=0, wide=True, nearest=nearest)
        return loss_gradient(pairs, cotangent, normaliser)
    else:
        slopes = _evaluate(units, cotangent.contiguous(), eps, narrow=narrow, slopes=True)[3]
    return slopes[0] * units.gradient_factor, slopes[1] * units.gradient_factor


def is_wide(units: Scaled) -> bool:
    """Whether a sum of D squares of differences could overflow."""
    room = 2.0 ** (508 - units.x.shape[1].bit_length())
    return max(float(units.x.abs().max()), float(units.y.abs().max())) > room


def _rows_wide(x: Tensor, y: Tensor, tau: float, eps: float, *, slopes: bool) -> Rows:
    """Plain torch, which takes numbers next to the largest apart."""
    pairs = Pairs(x, y, tau=tau, eps=eps, rows=0, wide=True)
    losses, normaliser = loss_rows(pairs)
    if not slopes:
        return losses, pairs.nearest, normaliser, x.new_empty(2, 0, x.shape[1])
    pairs.gradient_factor = torch.ones_like(pairs.gradient_factor)
    found = torch.stack(loss_gradient(pairs, torch.ones_like(losses), normaliser))
    return losses, pairs.nearest, normaliser, found


def rows_per_block(batch: int) -> int:
    """Rows of a block of S: a multiple of 4, with all sources in a core's second-level cache if that can be.

    Example:
        >>> rows_per_block(8192)
        16
    """
    return min(max(4, BLOCK // batch // 4 * 4), LONGEST_BLOCK)


def _evaluate(units: Scaled, cotangent: Tensor, eps: float, *, narrow: bool, slopes: bool) -> Rows:
    """Losses and the slopes of their sum, weighted by the cotangent."""
    x, y = units.x.contiguous(), units.y.contiguous()
    batch, features = x.shape
    inverse_tau = float(units.inverse_tau)
    block = rows_per_block(batch)
    known = make_filter(x, y, inverse_tau, block, narrow=narrow)
    products = make_products(x, y, inverse_tau, narrow=narrow)
    # no power of two, whose multiples would share few places of a cache
    columns = torch.empty(features, batch + (-batch) % GROUP + GROUP // 2, dtype=x.dtype)
    columns[:, :batch] = y.T
    losses, normaliser = torch.empty_like(cotangent), torch.empty(2, batch, dtype=x.dtype)
    nearest = torch.empty(batch, dtype=torch.int64)
    by_row = torch.empty(batch if slopes else 0, features, dtype=x.dtype)
    others, left_out = torch.zeros_like(cotangent), torch.zeros_like(cotangent)
    results = losses, nearest, normaliser, by_row, others, left_out
    problem = Problem(*(t.numpy() for t in (x, y, columns, cotangent, *results)))
    parts = max(1, min(PARTS, batch // ROWS_PER_PART))
    borders = [batch * part // parts for part in range(parts + 1)]
    log_eps = math.log(eps) if eps else -math.inf
    size = batch if slopes else 0

    def run(part: int) -> tuple[Array, Array | None]:
        by_source, by_feature = np.zeros((size, features)), np.zeros((features, size))
        rows = borders[part], borders[part + 1], block
        dense = kernel(problem, known, products, *rows, inverse_tau, log_eps, by_source, by_feature)
        return by_source, by_feature if dense else None

    total = np.zeros((size, features))
    for by_source, by_feature in _in_order(run, parts):
        total += by_source
        if by_feature is not None:
            total += by_feature.T
    if not slopes:
        return losses, nearest, normaliser, x.new_empty(2, 0, features)
    sum_again(problem, known, inverse_tau, total)
    return losses, nearest, normaliser, torch.stack((by_row, torch.from_numpy(total)))


def _in_order(run: Callable[[int], _Sums], parts: int) -> Iterator[_Sums]:
    """run(0), run(1), ... on up to `torch.get_num_threads()` threads."""
    threads = min(torch.get_num_threads(), parts)
    if threads == 1:
        yield from map(run, range(parts))
        return
    # threads of this call only: nothing is left that a fork could inherit
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(run, range(parts))


def middle(y: Tensor) -> Tensor:
    """Where most of the points are: any vector would do, this one keeps the bounds small."""
    return y[:: -(-len(y) // SAMPLE)].median(0).values


def make_products(x: Tensor, y: Tensor, inverse_tau: float, *, narrow: bool) -> Products:
    """The centred points if exponents from float64 products are good enough for results in float32.

    The bound is the filter's with the roundoff of float64; K + 8 includes the roundings of the centring.
    """
    batch, features = x.shape
    terms, width = features + (-features) % 4, batch + (-batch) % GROUP
    rows, sources = torch.zeros(batch, terms, dtype=x.dtype), torch.zeros(terms, width, dtype=x.dtype)
    bias = torch.zeros(width, dtype=x.dtype)
    slack = math.inf
    if narrow and batch * batch * features > WHOLE:
        centre = middle(y)
        rows[:, :features] = x - centre
        sources[:features, :batch] = (y - centre).T
        norm = torch.linalg.vector_norm(sources, dim=0)
        bias = -0.5 * norm * norm
        size, row_size = float(norm.max()), float(torch.linalg.vector_norm(rows, dim=1).max())
        roundings = (terms + 8) * DOUBLE
        slack = roundings / (1 - roundings) * (row_size * size + 0.5 * size * size) + features * 2.0**-1000
    if 4.0 * inverse_tau * slack > EXPONENT_ERROR:
        rows, sources, bias = rows[:0], sources[:, :0], bias[:0]
    return Products(rows.numpy(), np.ascontiguousarray(sources.numpy()), bias.numpy(), slack)


def make_filter(x: Tensor, y: Tensor, inverse_tau: float, block: int, *, narrow: bool) -> Filter:
    """The float32 points of all rows and sources; without any source where every pair is to be summed."""
    batch, features = x.shape
    terms = features + (-features) % 4
    if batch * batch * features <= WHOLE or features == 1:
        empty, none = np.empty(0, np.float32), np.empty(0)
        points = empty.reshape(0, terms), empty.reshape(terms, 0), empty
        return Filter(*points, none, np.empty(0, np.int64), 0.0, 0.0, 0.0, none, none)
    centre = middle(y)
    rows, sources = x - centre, y - centre
    cut, roundoff = (NARROW_CUT, SINGLE) if narrow else (CUT, DOUBLE)
    row_norm, norm = torch.linalg.vector_norm(rows, dim=1), torch.linalg.vector_norm(sources, dim=1)
    cap = min(CAP * float(norm.kthvalue(math.ceil(MOST * batch)).values), LARGEST_NORM)
    inside, near = norm <= cap, row_norm <= LARGEST_NORM
    width = batch + (-batch) % GROUP + GROUP
    single_y = torch.zeros(terms, width, dtype=torch.float32)
    single_y[:features, :batch] = torch.where(inside[:, None], sources, 0.0).T
    bias = torch.full((width,), NEVER, dtype=torch.float32)
    bias[:batch] = torch.where(inside, -0.5 * norm * norm, NEVER)
    single_x = torch.zeros(batch + block, terms, dtype=torch.float32)
    single_x[:batch, :features] = torch.where(near[:, None], rows, 0.0)
    roundings = (terms + 8) * SINGLE
    bound = roundings / (1 - roundings) * (row_norm * cap + 0.5 * cap * cap) + features * 2.0**-100
    reach = 0.5 * (math.log(batch) + cut) / inverse_tau
    outliers, filtered = (~inside).nonzero()[:, 0], torch.where(inside[:, None], y, centre)
    slack = torch.where(near, bound, math.inf)
    # half of what the roundings of a sum over the batch may take from a component
    allowed = 0.5 * (batch + 8) * roundoff
    return Filter(
        single_x.numpy(),
        single_y.numpy(),
        bias.numpy(),
        slack.numpy(),
        outliers.numpy(),
        reach,
        math.exp(-cut),
        allowed,
        filtered.amin(0).numpy(),
        filtered.amax(0).numpy(),
    )
