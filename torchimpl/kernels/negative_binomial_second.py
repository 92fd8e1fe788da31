"""Second derivatives of the negative-binomial CDF: two closed forms, and a difference for the one in r.

In plain torch, for every device but the CPU: there `negative_binomial_second_cpu` needs no difference.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from torchimpl.kernels.negative_binomial import LARGEST, evaluate, linear_growth
from torchimpl.kernels.negative_binomial_regions import Partials, prefactor, zero_exponent

# Step of the difference in log r. G = d log T/d log r moves by O(1) over O(1) in log r, so this step leaves a
# truncation error near STEP^4/30 = 5e-13 and a rounding error near 1.5 u/STEP = 1e-13, relative to G.
STEP = 2.0**-9

First = Callable[[Tensor, Tensor, Tensor], Partials]


def second_partials(
    y: Tensor, mu: Tensor, r: Tensor, *, dense: bool, first: First | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """(d²F/dmu², d²F/dmu dr, d²F/dr²) at floor(y), for float64 tensors of one shape.

    d²F/dmu² = dF/dmu · (k/mu - (k+r+1)/(r+mu)) = dF/dmu · (x (k-mu)/mu - 1/s);
    d²F/dmu dr = dF/dmu · d log f0/dr, f0 = -mu dF/dmu;
    d²F/dr² = T/r² (G' - G + G²), T the small tail, G = d log T/d log r; G' is a fourth-order central
    difference. Logarithms keep it accurate far out in the tails, where T changes by orders of magnitude.
    F and the first derivatives come from `first`, or from plain torch.
    """
    run: First = first or functools.partial(evaluate, dense=dense)
    k = y.floor()
    growth = linear_growth(mu, r)
    mu, r = mu * growth, r * growth
    partials = run(y, mu, r)
    special = ~((mu > 0.0) & (mu < torch.inf) & (r > 0.0) & (k >= 0.0) & (k < torch.inf))
    invalid = partials.cdf.isnan()
    safe_k, safe_mu = torch.where(special, 0.0, k), torch.where(special, 1.0, mu)
    safe_r = torch.where(special, 1.0, r).clamp(max=LARGEST)
    b = safe_k + 1.0

    p = prefactor(b, safe_mu, safe_r)
    d_mu_mu = partials.d_mu * (p.x * (safe_k - safe_mu) / safe_mu - p.room / p.s)
    _, bend_at_zero = zero_exponent(safe_mu, safe_r)
    slope_at_zero = p.y / safe_r - bend_at_zero
    d_mu_r = partials.d_mu * torch.where(safe_k == 0.0, slope_at_zero, p.score / p.scale - p.bend)

    upper = safe_mu >= b
    tail, slope = _tail_and_log_slope(run, upper, safe_k, safe_mu, safe_r)
    outer = torch.zeros_like(tail)
    for offset, weight in ((1.0, 8.0), (-1.0, -8.0), (2.0, -1.0), (-2.0, 1.0)):
        moved = safe_r * math.exp(offset * STEP)
        outer += weight * _tail_and_log_slope(run, upper, safe_k, safe_mu, moved)[1]
    change = outer / (12.0 * STEP) + slope * (slope - 1.0)
    d_r_r = torch.where(tail > 0.0, tail / safe_r * change / safe_r, 0.0)
    d_r_r = torch.where(upper, d_r_r, -d_r_r)
    d_r_r = torch.where(
        safe_k == 0.0, partials.cdf * (bend_at_zero * bend_at_zero + p.y / safe_r * p.y), d_r_r
    )

    # mu = 0: dF/dmu = -1 + (r+1)/r mu - ... at k = 0, and -(r+1)/r mu + ... at k = 1
    sign = (k == 0.0).to(mu.dtype) - (k == 1.0).to(mu.dtype)
    edge = torch.where((mu == 0.0) & (sign != 0.0), sign * (1.0 + 1.0 / r), 0.0)
    edge = torch.where(invalid, torch.nan, edge)
    flat = torch.where(invalid, torch.nan, 0.0)
    no_slope = special | (r == torch.inf)
    return (
        torch.where(special, edge, _quiet(partials.d_mu, d_mu_mu)) * growth,
        torch.where(no_slope, flat, _quiet(partials.d_mu, d_mu_r)) * growth,
        torch.where(no_slope, flat, d_r_r) * growth,
    )


def _quiet(factor: Tensor, product: Tensor) -> Tensor:
    """A product with a factor that has underflowed to 0 is 0, not 0·inf."""
    return torch.where(factor == 0.0, 0.0, product)


def _tail_and_log_slope(run: First, upper: Tensor, k: Tensor, mu: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """The tail that is small (F where mu >= b) and d log tail/d log r."""
    found = run(k, mu, r)
    tail = torch.where(upper, found.cdf, found.sf)
    d_r = torch.where(upper, found.d_r, -found.d_r)
    # the tail is of the order of r or below it, d_r of the order of tail/r
    slope = torch.where(r < 1e-290, d_r * (r / tail), (d_r / tail) * r)
    return tail, torch.where(found.d_r == 0.0, 0.0, slope)
