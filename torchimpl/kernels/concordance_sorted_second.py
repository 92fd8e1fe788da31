"""Second derivatives of InfoNCE for scalar residuals (D = 1) on the CPU in O(B log B).

What `loss_curvature` of `torchimpl.kernels.concordance` returns, from sorted windows and blocks of Taylor
polynomials like the loss: `concordance_sorted_second_groups` has the formulas. Uy and the cotangents have any
sign: the error of a sum is relative to the sum of its absolute terms. One thread does all, in a fixed order.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from torchimpl.kernels.concordance import scaled
from torchimpl.kernels.concordance_sorted import Array, Places
from torchimpl.kernels.concordance_sorted_second_groups import second_kernel
from torchimpl.kernels.concordance_sorted_second_rows import SecondRows, SecondSources, Units

# up to so many rows every source with a weight that is a normal number counts
WHOLE = 512
LARGEST_EXPONENT = 708.0
# beyond, the sources that are left out of a row weigh less than 2^-60 together
LEFT_OUT = 60.0 * math.log(2.0)
# cost of a pair alone in terms of that of a row or source of a block
PAIR_COST = 1.0 / 12.0


def curvature_sorted(
    ux: Tensor,
    uy: Tensor,
    cotangent: Tensor,
    x: Tensor,
    y: Tensor,
    nearest: Tensor,
    normaliser: Tensor,
    tau: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Vector-Jacobian product of the gradient of Σ_i cotangent_i L_i with (ux, uy).

    With p_ij the weight of source j in row i, b_ij = 2/τ (x_i - y_j)(ux_i - uy_j), β_i = Σ_j p_ij b_ij and
    q_ij = p_ij (b_ij - β_i):

        g_i  = b_ii - β_i
        gx_i = 2/τ c_i [ux_i - uy_i - Σ_j p_ij (ux_i - uy_j) + Σ_j q_ij (x_i - y_j)]
        gy_j = 2/τ [Σ_i c_i p_ij (ux_i - uy_j) - c_j (ux_j - uy_j) - Σ_i c_i q_ij (x_i - y_j)]

    Args:
        ux: (B, 1) float64, on the CPU.
        uy: like `ux`.
        cotangent: (B,) float64.
        x: (B, 1) float64, finite; rows.
        y: like `x`; row i belongs to source i.
        nearest: (B,) int64, the anchor of every row.
        normaliser: (2, B): largest exponent, and the sum relative to it.
        tau: temperature.
        eps: ε of the loss.

    Returns:
        Derivatives by the cotangent, (B,), and by x and y, (B, 1). Whatever is not finite in ux, uy or the
        cotangent leaves NaN or inf in the results that depend on it, and maybe in those of rows nearby.

    Example:
        >>> x = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
        >>> one, none = torch.ones_like(x), torch.zeros_like(x)
        >>> normaliser = torch.tensor([[0.0, 0.0], [1 + math.exp(-1), 1 + math.exp(-1)]], dtype=torch.float64)
        >>> found = curvature_sorted(one, none, one[:, 0], x, x, torch.tensor([0, 1]), normaliser, 1.0, 0.0)
        >>> found[1].T  # 4 p (1 - p) for two sources at a distance of 1
        tensor([[0.7864, 0.7864]], dtype=torch.float64)
    """
    units = scaled(x.detach(), y.detach(), tau)
    xs, ys = units.x[:, 0].numpy(), units.y[:, 0].numpy()
    batch = len(xs)
    order_x, order_y = np.argsort(xs, kind="stable"), np.argsort(ys, kind="stable")
    rank = np.empty(batch, np.int64)
    rank[order_y] = np.arange(batch)
    u, uy_sorted = ux.detach()[:, 0].numpy()[order_x], uy.detach()[:, 0].numpy()[order_y]
    sources = SecondSources(ys[order_y], uy_sorted, np.zeros(batch))
    anchor_place, own_place = rank[nearest.numpy()[order_x]], rank[order_x]
    inverse_tau = float(units.inverse_tau)
    share, eps_share = _shares(xs - ys[nearest.numpy()], normaliser.detach().numpy(), inverse_tau, eps)
    first, last, found = (np.empty(batch, np.int64) for _ in range(3))
    rows = SecondRows(
        xs[order_x],
        u,
        sources.y[anchor_place],
        sources.u[anchor_place],
        sources.y[own_place],
        sources.u[own_place],
        anchor_place,
        own_place,
        first,
        last,
        cotangent.detach().numpy()[order_x],
        share[order_x],
        eps_share[order_x],
        np.empty(batch),
        np.empty(batch),
    )
    lengths = Units(2.0 * inverse_tau, float(units.gradient_factor), float(units.two_over_tau))
    window = LARGEST_EXPONENT if batch <= WHOLE else math.log(batch) + LEFT_OUT
    second_kernel(rows, sources, lengths, found, 0.5 * window / inverse_tau, PAIR_COST)
    return (
        _back(rows.slope, order_x),
        _back(rows.by_x, order_x)[:, None],
        _back(sources.by_y, order_y)[:, None] * units.two_over_tau,
    )


def _shares(away: Array, normaliser: Array, inverse_tau: float, eps: float) -> tuple[Array, Array]:
    """Weights of a row's anchor and of ε.

    Where the exponent of ε is above 1 it is the largest: the weight of ε is 1/total, not rounded twice.
    """
    peak, total = normaliser
    share = np.exp(-peak) / total
    if eps == 0.0:
        return share, np.zeros_like(share)
    with np.errstate(over="ignore"):
        exponent = math.log(eps) + away * away * inverse_tau
    below = np.minimum(exponent, 1.0)
    return share, np.where(exponent > 1.0, 1.0, np.exp(below - np.minimum(peak, 1.0))) / total


def _back(values: Array, order: Places) -> Tensor:
    """Values of the sorted order, in the order of the batch."""
    found = np.empty_like(values)
    found[order] = values
    return torch.from_numpy(found)
