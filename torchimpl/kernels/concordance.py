"""Block-by-block sums over all pairs (i, j) behind the InfoNCE loss: never a B x B tensor.

Notation: d_ij = Σ_k (x_ik - y_jk)², n(i) the source nearest to row i, and exponents relative to it,

    e_ij = -(d_ij - d_in)/τ = 2/τ Σ_k (y_jk - n_k)(x_k - n_k/2 - y_jk/2),

a product of differences, so that it keeps its relative accuracy however far row i is from every source (the
difference of two computed distances does not). The ε of the loss acts as one more source with exponent
g_i = log ε + d_in/τ. With m_i, the largest exponent of a row, and Z_i = Σ_j exp(e_ij - m_i) + exp(g_i - m_i):

    L_i = m_i + log Z_i - e_ii,  p_ij = exp(e_ij - m_i) / Z_i,  p_iε = exp(g_i - m_i) / Z_i = 1 - Σ_j p_ij.

Everything is computed on inputs multiplied by a power of two, chosen such that τ becomes about 1 and nothing
overflows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from torchimpl.scaling import power_of_two

# pairs per block: three float64 buffers of this size stay in a core's second-level cache
_CPU_PAIRS = 1 << 15
_GPU_PAIRS = 1 << 22


def _top(dtype: torch.dtype) -> int:
    """Every finite number of `dtype` is below 2**_top."""
    return math.frexp(torch.finfo(dtype).max)[1]


def _magnitude(*tensors: Tensor) -> Tensor:
    """The smallest e with every finite |element| <= 2**e, as a 0-dim integer tensor."""
    largest = torch.zeros((), dtype=tensors[0].dtype, device=tensors[0].device)
    for tensor in tensors:
        if tensor.numel():
            finite = tensor.abs().nan_to_num(nan=0.0, posinf=0.0)
            largest = torch.maximum(largest, finite.amax())
    return torch.frexp(largest).exponent


class Scaled(NamedTuple):
    """Inputs multiplied by one power of two, and what the powers of 1/τ become by it (0-dim tensors)."""

    x: Tensor
    y: Tensor
    inverse_tau: Tensor  # 1/τ in scaled units
    gradient_factor: Tensor  # 2/τ of a scaled difference
    two_over_tau: Tensor


def scaled(x: Tensor, y: Tensor, tau: float) -> Scaled:
    """x, y multiplied by 2**k with τ·4**k in [1/2, 2), or less if sums of B differences would overflow."""
    top = _top(x.dtype)
    mantissa, exponent = math.frexp(tau)
    room = top - 3 - len(x).bit_length()
    k = (room - _magnitude(x, y)).clamp(max=-(exponent // 2))
    scale = power_of_two(k, x.dtype)

    def factor(power: Tensor) -> Tensor:
        return power_of_two(power.clamp(2 - top, top - 3), x.dtype) / mantissa

    return Scaled(
        x * scale,
        y * scale,
        inverse_tau=factor(-(exponent + 2 * k)),
        gradient_factor=factor(1 - exponent - k),
        two_over_tau=factor(torch.full_like(k, 1 - exponent)),
    )


class Pairs:
    """All pairs of one batch, served as blocks of rows.

    Args:
        x: (B, D), float64 (float32 where a device has no float64).
        y: like `x`.
        tau: temperature.
        eps: the loss's ε.
        rows: rows per block, 0 = from the shapes.
        wide: whether squares may overflow (float64 data); costs a second search and two more passes.
        nearest: (B,) index of each row's anchor; searched where None.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        *,
        tau: float,
        eps: float,
        rows: int,
        wide: bool,
        nearest: Tensor | None = None,
    ) -> None:
        batch, features = x.shape
        self.batch, self.features, self.dtype = batch, features, x.dtype
        pairs = _CPU_PAIRS if x.device.type == "cpu" else _GPU_PAIRS
        self.rows = rows or max(1, min(batch, pairs // max(batch, 1)))
        self.limit = torch.finfo(x.dtype).max / 4
        self.wide = wide
        # NaN as soon as an input that counts is not finite: row i sees x_i and every y
        self.poison_y = (y * 0).sum()
        self.poison = (x * 0).sum(1) + self.poison_y
        self.x, self.y, self.inverse_tau, self.gradient_factor, self.two_over_tau = scaled(x, y, tau)
        self.y_rows = self.y.T.contiguous()
        self._buffers = [x.new_empty(self.rows, batch) for _ in range(3)]
        self.nearest = self._nearest() if nearest is None else nearest
        self._anchor(eps)
        if wide and nearest is None:
            self._refine()
            self._anchor(eps)

    def _shrink(self, *tensors: Tensor) -> Tensor:
        """A power of two that keeps a sum of D squares of the differences finite."""
        room = _top(self.dtype) // 2 - 4 - self.features.bit_length()
        return power_of_two((room - _magnitude(*tensors)).clamp(max=0), self.dtype)

    def _nearest(self) -> Tensor:
        """The row's own source wherever no other is nearer: tiny losses then keep their accuracy."""
        shrink = self._shrink(self.x, self.y)
        x, y_rows = self.x * shrink, self.y_rows * shrink
        nearest = torch.empty(self.batch, dtype=torch.int64, device=x.device)
        for block in self.blocks():
            distance, difference = self._buffers[0][: len(x[block])], self._buffers[1][: len(x[block])]
            distance.zero_()
            for k in range(self.features):
                torch.sub(y_rows[k], x[block, k, None], out=difference)
                distance.addcmul_(difference, difference)
            least, index = distance.min(1)
            nearest[block] = self._own_or(index, distance.diagonal(block.start) <= least, block)
        return nearest

    def _refine(self) -> None:
        """Choose again by exponents: distances next to 1e300 do not tell 1 from 2, their differences do."""
        refined = torch.empty_like(self.nearest)
        for block in self.blocks():
            products = self._products(block)
            most, index = products.max(1)
            refined[block] = self._own_or(index, products.diagonal(block.start) >= most, block)
        self.nearest = refined

    @staticmethod
    def _own_or(index: Tensor, own: Tensor, block: slice) -> Tensor:
        return torch.where(own, torch.arange(block.start, block.stop, device=index.device), index)

    def _anchor(self, eps: float) -> None:
        """What `exponents` needs of each row: the anchor, and x - n/2 as a sum of two numbers."""
        self.anchor = self.y[self.nearest]
        half = self.anchor * 0.5
        self.high = self.x - half
        back = self.high - self.x
        self.low = (self.x - (self.high - back)) - (half + back)
        self.half_y_rows = self.y_rows * 0.5
        away = self.x - self.anchor
        if self.wide:
            far = away.square().sum(1, keepdim=True) > 2.0 ** (_top(self.dtype) - 8)
            self.row_scale = torch.where(far, self._shrink(self.x, self.y), 1.0)
            away = away * self.row_scale
        if eps == 0:
            self.eps_exponent = away.new_full((self.batch,), -math.inf)
            return
        squared = away.square().sum(1) * self.inverse_tau
        if self.wide:
            squared = squared / self.row_scale[:, 0] / self.row_scale[:, 0]
        self.eps_exponent = squared + math.log(eps)

    def blocks(self) -> Iterator[slice]:
        """Slices that cut the rows into blocks."""
        for start in range(0, self.batch, self.rows):
            yield slice(start, min(start + self.rows, self.batch))

    def _products(self, block: slice) -> Tensor:
        """τ/2 e_ij of a block of rows (in the row's own scale if wide), in a buffer."""
        count = block.stop - block.start
        total, left, right = (buffer[:count] for buffer in self._buffers)
        total.zero_()
        for k in range(self.features):
            torch.sub(self.y_rows[k], self.anchor[block, k, None], out=left)
            torch.sub(self.high[block, k, None], self.half_y_rows[k], out=right)
            right.add_(self.low[block, k, None])
            if self.wide:
                left.mul_(self.row_scale[block])
                right.mul_(self.row_scale[block])
            total.addcmul_(left, right)
        return total

    def exponents(self, block: slice) -> Tensor:
        """e_ij of a block of rows, (R, B), in a buffer that the next call overwrites."""
        total = self._products(block)
        total.mul_(2 * self.inverse_tau)
        if self.wide:
            total.div_(self.row_scale[block]).div_(self.row_scale[block])
        # rounding can make a huge exponent positive: it must become neither inf nor as large as that of ε
        total.clamp_(max=self.limit / 2)
        return total

    def probabilities(self, block: slice, normaliser: Tensor) -> Tensor:
        """p_ij of a block of rows, (R, B), in the buffer of `exponents`."""
        peak, total = normaliser[:, block, None]
        return self.exponents(block).sub_(peak).exp_().div_(total)

    def weights(self, block: slice, normaliser: Tensor) -> Tensor:
        """`probabilities` with the diagonal at zero."""
        weights = self.probabilities(block, normaliser)
        weights.diagonal(block.start).zero_()
        return weights

    def eps_weight(self, normaliser: Tensor) -> Tensor:
        """p_iε of every row."""
        peak, total = normaliser
        weight: Tensor = torch.exp(self.eps_exponent.clamp(max=self.limit) - peak) / total
        return weight

    def row_moment(self, weights: Tensor, points: Tensor, origin: Tensor) -> Tensor:
        """Σ_j w_ij (points_jk - origin_ik) for the rows of one block: (R, D)."""
        difference = self._buffers[1][: len(weights)]
        moments = torch.empty_like(origin)
        for k in range(self.features):
            torch.sub(points[:, k], origin[:, k, None], out=difference)
            moments[:, k] = torch.linalg.vecdot(difference, weights)
        return moments

    def add_column_moment(self, moments: Tensor, weights: Tensor, points: Tensor, origin: Tensor) -> None:
        """moments_jk += Σ_i w_ij (points_ik - origin_jk) over the rows i of one block."""
        difference = self._buffers[1][: len(weights)]
        for k in range(self.features):
            torch.sub(points[:, k, None], origin[:, k], out=difference)
            moments[:, k] += difference.mul_(weights).sum(0)


def loss_rows(pairs: Pairs) -> tuple[Tensor, Tensor]:
    """L_i (B,), unbounded: inf beyond the working range; and the normaliser (2, B): m_i and Z_i."""
    losses = torch.empty_like(pairs.eps_exponent)
    normaliser = torch.empty_like(losses).repeat(2, 1)
    if pairs.features == 0:
        return losses.zero_(), normaliser.zero_()  # no element counts
    for block in pairs.blocks():
        exponents, eps_exponent = pairs.exponents(block), pairs.eps_exponent[block]
        own = exponents.diagonal(block.start).clone()
        # above 0 only where rounding chose an anchor that is not quite the nearest
        top = exponents.amax(1)
        terms = exponents.sub_(top[:, None]).exp_()
        # the anchor's own term is 1 for top = 0: left out of the sum, a tiny rest keeps its accuracy
        terms.scatter_(1, pairs.nearest[block, None], 0.0)
        rest = terms.sum(1) + torch.expm1(-top)
        losses[block] = torch.logaddexp(torch.log1p(rest) + top, eps_exponent) - own
        eps_exponent = eps_exponent.clamp(max=pairs.limit)
        peak = torch.maximum(top, eps_exponent)
        normaliser[0, block] = peak
        normaliser[1, block] = (1 + rest) * torch.exp(top - peak) + torch.exp(eps_exponent - peak)
    return losses + pairs.poison, normaliser


def loss_gradient(pairs: Pairs, cotangent: Tensor, normaliser: Tensor) -> tuple[Tensor, Tensor]:
    """Vector-Jacobian product of `loss_rows`.

    gx_i = 2/τ w_i [p_iε (x_i - y_i) + Σ_{j≠i} p_ij (y_j - y_i)]
    gy_j = 2/τ [Σ_{i≠j} w_i p_ij (x_i - y_j) - w_j (1 - p_jj)(x_j - y_j)], 1 - p_jj as the sum of the others
    """
    x, y = pairs.x, pairs.y
    own = x - y
    eps_weight = pairs.eps_weight(normaliser)
    gx = eps_weight[:, None] * own
    gy = torch.zeros_like(y)
    others = eps_weight.clone()
    for block in pairs.blocks():
        weights = pairs.weights(block, normaliser)
        others[block] += weights.sum(1)
        gx[block] += pairs.row_moment(weights, y, y[block])
        pairs.add_column_moment(gy, weights.mul_(cotangent[block, None]), x[block], y)
    gx *= cotangent[:, None]
    gy -= (cotangent * others)[:, None] * own
    poisoned = pairs.poison[:, None]
    return gx * pairs.gradient_factor + poisoned, gy * pairs.gradient_factor + poisoned.sum(0)


def loss_curvature(
    pairs: Pairs, ux: Tensor, uy: Tensor, cotangent: Tensor, normaliser: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Vector-Jacobian product of `loss_gradient` with (ux, uy): for the cotangent, x and y.

    With b_ij = 2/τ (x_i - y_j)·(ux_i - uy_j), the derivative of d_ij/τ along (ux, uy), β_i = Σ_j p_ij b_ij:
    h_i  = b_ii - β_i,    q_ij = p_ij (b_ij - β_i)
    gx_i = 2/τ w_i [ux_i - uy_i - Σ_j p_ij (ux_i - uy_j) + Σ_j q_ij (x_i - y_j)]
    gy_j = 2/τ [Σ_i w_i p_ij (ux_i - uy_j) - w_j (ux_j - uy_j) - Σ_i w_i q_ij (x_i - y_j)]
    """
    x, y, factor = pairs.x, pairs.y, pairs.gradient_factor
    own, along = x - y, ux - uy
    anchor, u_anchor = pairs.anchor, uy[pairs.nearest]
    away = x - anchor
    own_slope, anchor_slope = factor * (own * along).sum(1), factor * (away * (ux - u_anchor)).sum(1)
    eps_weight = pairs.eps_weight(normaliser)
    # b and β are counted from the b of what weighs most, the anchor or ε (whose b is 0): no cancellation
    origin = torch.where(eps_weight > 0.5, 0.0, anchor_slope)
    mean_slope = -eps_weight * origin
    first_x, second_x = eps_weight[:, None] * along, torch.empty_like(x)
    first_y, second_y = torch.zeros_like(y), torch.zeros_like(y)
    others = eps_weight.clone()
    for block in pairs.blocks():
        weights = pairs.probabilities(block, normaliser)
        # b_ij - b_in; a pair without weight contributes nothing, whatever its slope
        slopes = torch.zeros_like(weights)
        for k in range(pairs.features):
            slopes += (anchor[block, k, None] - y[:, k]) * (ux[block, k, None] - uy[:, k])
            slopes += away[block, k, None] * (u_anchor[block, k, None] - uy[:, k])
        slopes = slopes * factor + (anchor_slope - origin)[block, None]
        slopes = torch.where(weights > 0, slopes, 0.0)
        mean_slope[block] += torch.linalg.vecdot(weights, slopes)
        slopes -= mean_slope[block, None]
        slopes *= weights
        second_x[block] = pairs.row_moment(slopes, y, anchor[block])
        pairs.add_column_moment(second_y, slopes.mul_(cotangent[block, None]), x[block], y)
        weights.diagonal(block.start).zero_()
        others[block] += weights.sum(1)
        first_x[block] += pairs.row_moment(weights, uy, uy[block])
        pairs.add_column_moment(first_y, weights.mul_(cotangent[block, None]), ux[block], uy)
    eps_slope = eps_weight * (origin + mean_slope)  # Σ_j q_ij
    second_x = eps_slope[:, None] * away - second_x
    gx = (first_x * pairs.two_over_tau + second_x * factor) * cotangent[:, None]
    first_y -= (cotangent * others)[:, None] * along
    gy = first_y * pairs.two_over_tau - second_y * factor
    # b_ii - b_in, as a sum of products of differences
    own_ahead = factor * ((anchor - y) * along + away * (u_anchor - uy)).sum(1)
    slope = torch.where(eps_weight > 0.5, own_slope, own_ahead) - mean_slope
    poisoned = pairs.poison[:, None]
    return slope + pairs.poison, gx + poisoned, gy + poisoned.sum(0)
