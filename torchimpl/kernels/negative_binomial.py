"""The negative-binomial CDF elementwise: domain, edges, and which region answers for which element.

Two ways to run the same region functions: on the CPU each region gets its own elements (data-dependent, hence
hidden inside a custom op); elsewhere every region sees every element, with harmless arguments where another
region answers, so that nothing waits for the device and CUDA graphs can record it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from torchimpl.kernels.negative_binomial_fraction import fraction
from torchimpl.kernels.negative_binomial_regions import (
    Partials,
    quadrature,
    room_for_sums,
    series,
    zero_count,
)

LARGEST = torch.finfo(torch.float64).max
# elements a region works on at a time: temporaries that stay in cache
CPU_BLOCK = 8192
CPU_BLOCK_QUADRATURE = 1024
DENSE_BLOCK = 1 << 18
# the fraction needs min(r, b) below, the quadrature above: only there its integrand falls far enough
FRACTION_LIMIT = 65.0
FRACTION_TERMS = (10, 16, 24, 40)
# up to so many elements all take the longest fraction among them: the number of calls is what costs
CPU_SMALL = 2048
# k·x: the alternating series loses digits above, the fraction needs all its terms up to twice as much
SERIES_LIMIT = 1.5
# r + mu below 2^-200: the law is linear in (r, mu); these exact factors keep it away from subnormal numbers
LINEAR_STEPS = ((2.0**-500, 2.0**300), (2.0**-800, 2.0**300))


class Region(NamedTuple):
    """One way to evaluate the CDF."""

    evaluate: Callable[[Tensor, Tensor, Tensor], Partials]
    harmless: tuple[float, float, float]  # (b, mu, r) inside the region
    cpu_block: int


REGIONS = (
    Region(zero_count, (1.0, 1.0, 1.0), CPU_BLOCK),
    Region(series, (2.0, 10.0, 1.0), CPU_BLOCK),
    Region(quadrature, (100.0, 100.0, 100.0), CPU_BLOCK_QUADRATURE),
)
CPU_REGIONS = REGIONS + tuple(
    Region(partial(fraction, terms=terms), (3.0, 3.0, 3.0), CPU_BLOCK) for terms in FRACTION_TERMS
)
DENSE_REGIONS = (*REGIONS, CPU_REGIONS[-1])


def evaluate(y: Tensor, mu: Tensor, r: Tensor, *, dense: bool) -> Partials:
    """F, S, dF/dmu, dF/dr at floor(y), for any float64 tensors of one shape.

    Args:
        y: counts, any value.
        mu: means; below 0, NaN and inf give NaN.
        r: dispersions; 0 and below and NaN give NaN, inf is the Poisson limit.
        dense: every region for every element (no data-dependent shapes), or each its own (CPU).
    """
    shape = mu.shape
    y, mu, r = y.reshape(-1), mu.reshape(-1), r.reshape(-1)
    count = y.floor()
    invalid = ~((mu >= 0.0) & (mu < torch.inf) & (r > 0.0)) | count.isnan()
    special = invalid | (mu == 0.0) | (count < 0.0) | (count == torch.inf)
    k, inner_mu = torch.where(special, 0.0, count), torch.where(special, 1.0, mu)
    inner_r = torch.where(special, 1.0, r).clamp_(max=LARGEST)
    growth = linear_growth(inner_mu, inner_r)
    run = _evaluate_dense if dense else _evaluate_compact
    cdf, sf, d_mu, d_r = run(k, inner_mu * growth, inner_r * growth)
    d_r = torch.where(r == torch.inf, 0.0, d_r)
    sf = sf / growth

    above = (count >= 0.0).to(cdf.dtype)
    at_zero = ((mu == 0.0) & (count == 0.0)).to(cdf.dtype)
    nan = torch.full_like(cdf, torch.nan)
    results = []
    for value, edge in ((cdf, above), (sf, 1.0 - above), (d_mu, -at_zero), (d_r, torch.zeros_like(cdf))):
        results.append(torch.where(special, torch.where(invalid, nan, edge), value).view(shape))
    return Partials(*results)


def linear_growth(mu: Tensor, r: Tensor) -> Tensor:
    """The exact factor by which (mu, r) may grow where the law is linear in them; 1 almost everywhere."""
    size = mu + r
    growth = torch.ones_like(size)
    for limit, factor in LINEAR_STEPS:
        growth = torch.where(size < limit, growth * factor, growth)
    return growth


def success_probability(mu: Tensor, r: Tensor) -> Tensor:
    """The ratio r/(r+mu), without overflow."""
    room = room_for_sums(mu, r)
    return room * r / (room * r + room * mu)


def classify(k: Tensor, mu: Tensor, r: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Which region answers: zero_count, series, quadrature, fraction (masks; exactly one is True)."""
    x = success_probability(mu, r)
    zero = k == 0.0
    near = ~zero & (r < 2.0) & (x < 0.5) & (k * x <= SERIES_LIMIT)
    large = ~zero & ~near & (torch.minimum(r, k + 1.0) > FRACTION_LIMIT)
    return zero, near, large, ~(zero | near | large)


def terms_needed(k: Tensor, mu: Tensor, r: Tensor) -> Tensor:
    """How many terms of the fraction reach float64 accuracy."""
    b = k + 1.0
    needed = 8.0 + 2.6 * torch.minimum(r, b).sqrt()
    small = torch.where(k * success_probability(mu, r) < 2.0 * SERIES_LIMIT, 40.0, 24.0)
    upper, lower = torch.minimum(needed, b), torch.where(r < 6.0, small, needed)
    return torch.where(mu >= b, upper, lower)


def _evaluate_compact(k: Tensor, mu: Tensor, r: Tensor) -> Partials:
    *masks, in_fraction = classify(k, mu, r)
    needed = terms_needed(k, mu, r)
    if 0 < mu.numel() <= CPU_SMALL:
        needed = torch.where(in_fraction, needed, -torch.inf).amax().expand_as(needed)
    lower = -torch.inf
    for terms in FRACTION_TERMS:
        upper = terms if terms < FRACTION_TERMS[-1] else torch.inf
        masks.append(in_fraction & (needed > lower) & (needed <= upper))
        lower = upper
    outputs = Partials(*(torch.empty_like(mu) for _ in range(4)))
    for region, mask in zip(CPU_REGIONS, masks, strict=True):
        for index in torch.split(mask.nonzero().squeeze(1), region.cpu_block):
            if index.numel() == 0:  # an empty tensor splits into one empty part
                continue
            found = region.evaluate(k[index] + 1.0, mu[index], r[index])
            for output, value in zip(outputs, found, strict=True):
                output[index] = value
    return outputs


def _evaluate_dense(k: Tensor, mu: Tensor, r: Tensor) -> Partials:
    blocks = [
        _evaluate_dense_block(*block)
        for block in zip(*(torch.split(t, DENSE_BLOCK) for t in (k, mu, r)), strict=True)
    ]
    return Partials(*(torch.cat(parts) for parts in zip(*blocks, strict=True)))


def _evaluate_dense_block(k: Tensor, mu: Tensor, r: Tensor) -> Partials:
    outputs = Partials(*(torch.zeros_like(mu) for _ in range(4)))
    for region, mask in zip(DENSE_REGIONS, classify(k, mu, r), strict=True):
        arguments = (k + 1.0, mu, r)
        kept = (torch.where(mask, a, h) for a, h in zip(arguments, region.harmless, strict=True))
        found = region.evaluate(*kept)
        outputs = Partials(*(torch.where(mask, new, old) for new, old in zip(found, outputs, strict=True)))
    return outputs
