"""Second derivatives of the negative-binomial CDF: two closed forms, and a difference for the one in r."""

from __future__ import annotations

import torch
from torch import Tensor

from torchimpl.kernels.negative_binomial import LARGEST, evaluate
from torchimpl.kernels.negative_binomial_regions import prefactor

# Relative step of the difference in r. The slope of log T in log r is smooth, so steps of this size leave a
# truncation error near STEP^4/30 = 5e-13 and a rounding error near 1.5 u/STEP = 1e-13, both relative.
STEP = 2.0**-9


def second_partials(y: Tensor, mu: Tensor, r: Tensor, *, dense: bool) -> tuple[Tensor, Tensor, Tensor]:
    """(d²F/dmu², d²F/dmu dr, d²F/dr²) at floor(y), for float64 tensors of one shape.

    d²F/dmu² = dF/dmu · (k/mu - (k+r+1)/(r+mu)) = dF/dmu · (x (k-mu)/mu - 1/s);
    d²F/dmu dr = dF/dmu · d log f0/dr, f0 = -mu dF/dmu;
    d²F/dr² = T (g' + g²), T the small tail, g = d log T/dr; g' is a fourth-order central difference. The
    logarithm keeps it accurate far out in the tails, where T itself changes by orders of magnitude.
    """
    k = y.floor()
    partials = evaluate(y, mu, r, dense=dense)
    special = ~((mu > 0.0) & (mu < torch.inf) & (r > 0.0) & (k >= 0.0) & (k < torch.inf))
    invalid = partials.cdf.isnan()
    safe_k, safe_mu = torch.where(special, 0.0, k), torch.where(special, 1.0, mu)
    safe_r = torch.where(special, 1.0, r).clamp(max=LARGEST)
    b = safe_k + 1.0

    p = prefactor(b, safe_mu, safe_r)
    d_mu_mu = partials.d_mu * (p.x * ((safe_k - safe_mu) / safe_mu) - 0.5 / p.half_s)
    d_mu_r = partials.d_mu * (p.score / p.scale - p.bend)

    upper = safe_mu >= b
    tail, slope = _tail_and_log_slope(upper, safe_k, safe_mu, safe_r, dense=dense)
    outer = torch.zeros_like(tail)
    for offset, weight in ((1.0, 8.0), (-1.0, -8.0), (2.0, -1.0), (-2.0, 1.0)):
        moved = safe_r * (1.0 + offset * STEP)
        outer += weight * _tail_and_log_slope(upper, safe_k, safe_mu, moved, dense=dense)[1]
    change = outer / (12.0 * STEP) / safe_r
    d_r_r = torch.where(tail > 0.0, tail * change + (tail * slope) * slope, 0.0)
    d_r_r = torch.where(upper, d_r_r, -d_r_r)

    # mu = 0: dF/dmu = -1 + (r+1)/r mu - ... at k = 0, and -(r+1)/r mu + ... at k = 1
    sign = (k == 0.0).to(mu.dtype) - (k == 1.0).to(mu.dtype)
    edge = torch.where((mu == 0.0) & (sign != 0.0), sign * (1.0 + 1.0 / r), 0.0)
    edge = torch.where(invalid, torch.nan, edge)
    flat = torch.where(invalid, torch.nan, 0.0)
    no_slope = special | (r == torch.inf)
    return (
        torch.where(special, edge, _quiet(partials.d_mu, d_mu_mu)),
        torch.where(no_slope, flat, _quiet(partials.d_mu, d_mu_r)),
        torch.where(no_slope, flat, d_r_r),
    )


def _quiet(factor: Tensor, product: Tensor) -> Tensor:
    """A product with a factor that has underflowed to 0 is 0, not 0·inf."""
    return torch.where(factor == 0.0, 0.0, product)


def _tail_and_log_slope(
    upper: Tensor, k: Tensor, mu: Tensor, r: Tensor, *, dense: bool
) -> tuple[Tensor, Tensor]:
    """The tail that is small (F where mu >= b) and its logarithm's derivative in r."""
    found = evaluate(k, mu, r, dense=dense)
    tail = torch.where(upper, found.cdf, found.sf)
    slope = torch.where(upper, found.d_r, -found.d_r) / tail
    return tail, torch.where(tail > 0.0, slope, 0.0)
