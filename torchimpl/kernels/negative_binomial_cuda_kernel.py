"""The negative-binomial CDF in one Triton kernel: domain, edges and which region answers.

The torch twin is `torchimpl.kernels.negative_binomial.evaluate`. A region's code runs only in blocks of which
some element needs it; what an element gets does not depend on the others of its block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchimpl.kernels.negative_binomial_cuda_fraction import coefficients, fraction, terms_taken
from torchimpl.kernels.negative_binomial_cuda_language import (
    FRACTION_LIMIT,
    GROWTH_0,
    GROWTH_1,
    INFINITY,
    LARGEST,
    LINEAR_0,
    LINEAR_1,
    SERIES_LIMIT,
    TERMS_3,
    room_for_sums,
)
from torchimpl.kernels.negative_binomial_cuda_regions import prefactor, quadrature, series, zero_count
from torchimpl.kernels.negative_binomial_cuda_triton import jit, tl

if TYPE_CHECKING:
    Four = tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]


@jit
def some(mask: tl.tensor, EVERY: tl.constexpr) -> tl.tensor:
    """Whether the block needs the region of this mask; always if `EVERY` is 1."""
    return tl.max(mask.to(tl.int32), 0) + EVERY > 0


@jit
def selected(mask: tl.tensor, new: tl.tuple, old: tl.tuple) -> Four:
    """Results of a region for its elements."""
    return (
        tl.where(mask, new[0], old[0]),
        tl.where(mask, new[1], old[1]),
        tl.where(mask, new[2], old[2]),
        tl.where(mask, new[3], old[3]),
    )


@jit
def inside(ordinary: tl.tensor, k: tl.tensor, mu: tl.tensor, r: tl.tensor, EVERY: tl.constexpr) -> Four:
    """F, S, dF/dmu, dF/dr for counts k >= 0 and finite positive mu and r; k is 0 where it is not ordinary."""
    b = k + 1.0
    room = room_for_sums(tl.maximum(mu, r))
    x = room * r / (room * r + room * mu)
    zero = ordinary & (k == 0.0)
    near = (k > 0.0) & (r < 2.0) & (x < 0.5) & (k * x <= SERIES_LIMIT)
    general = (k > 0.0) & (near == 0)
    large = general & (tl.minimum(r, b) > FRACTION_LIMIT)
    middle = general & (tl.minimum(r, b) <= FRACTION_LIMIT)
    nothing = tl.full(k.shape, 0.0, tl.float64)
    cdf, sf, d_mu, d_r = nothing, nothing, nothing, nothing
    if some(zero, EVERY):
        cdf, sf, d_mu, d_r = selected(zero, zero_count(mu, r), (cdf, sf, d_mu, d_r))
    if some(near, EVERY):
        cdf, sf, d_mu, d_r = selected(near, series(b, mu, r), (cdf, sf, d_mu, d_r))
    if some(general, EVERY):
        x, y, room, s, c, diff, bend, shift, scale, density, score, prefactor_d_mu = prefactor(b, mu, r)
        tail, slope = nothing, nothing
        if some(large, EVERY):
            value, d_value = quadrature(x, y, room, s, c, diff, bend, shift, score, mu)
            # f0 last: it is what may be subnormal
            tail, slope = tl.where(large, density * value, tail), tl.where(large, density * d_value, slope)
        if some(middle, EVERY):
            terms = terms_taken(k, mu, r, x).to(tl.float64)
            longest = tl.max(tl.where(middle, terms, 0.0), 0)
            longest = tl.maximum(longest, 1.0 * TERMS_3 * EVERY)
            parts = coefficients(x, y, room, s, diff, scale, b, mu, r)
            value, d_value = fraction(parts, terms, longest)
            log_slope = score - scale * bend - d_value / value
            tail = tl.where(middle, density / value, tail)
            slope = tl.where(middle, density * (log_slope / value), slope)
        # the small tail is F where mu >= b; f0 = 0 leaves nothing of it, whatever overflowed on the way
        gone, upper = density == 0.0, diff >= 0.0
        tail = tl.where(gone, 0.0, scale * tail)
        slope = tl.where(gone, 0.0, tl.where(upper, slope, -slope))
        rest = 1.0 - tail
        new = (tl.where(upper, tail, rest), tl.where(upper, rest, tail), prefactor_d_mu, slope)
        cdf, sf, d_mu, d_r = selected(general, new, (cdf, sf, d_mu, d_r))
    return cdf, sf, d_mu, d_r


# one compiled kernel for all: alignment and the values of the numbers are not worth ten seconds each
ARGUMENTS = ["y_pointer", "mu_pointer", "r_pointer", "n", "y_step", "mu_step", "r_step"]
RESULTS = ["cdf_pointer", "sf_pointer", "d_mu_pointer", "d_r_pointer"]


@jit(do_not_specialize=[*ARGUMENTS, *RESULTS])
def kernel(
    y_pointer: tl.tensor,
    mu_pointer: tl.tensor,
    r_pointer: tl.tensor,
    cdf_pointer: tl.tensor,
    sf_pointer: tl.tensor,
    d_mu_pointer: tl.tensor,
    d_r_pointer: tl.tensor,
    n: tl.tensor,
    y_step: tl.tensor,
    mu_step: tl.tensor,
    r_step: tl.tensor,
    BLOCK: tl.constexpr,
    EVERY: tl.constexpr,
) -> None:
    """Evaluate n elements, BLOCK per program; a step is 1, or 0 where all elements are the same."""
    # 64 bits: there may be more than 2^31 elements
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = at < n
    count = tl.floor(tl.load(y_pointer + at * y_step, mask=here, other=float("nan")))
    mu = tl.load(mu_pointer + at * mu_step, mask=here, other=1.0)
    r = tl.load(r_pointer + at * r_step, mask=here, other=1.0)

    valid = (mu >= 0.0) & (mu < INFINITY) & (r > 0.0) & (count <= INFINITY)
    ordinary = valid & (mu > 0.0) & (count >= 0.0) & (count < INFINITY)
    k, inner_mu = tl.where(ordinary, count, 0.0), tl.where(ordinary, mu, 1.0)
    inner_r = tl.minimum(tl.where(ordinary, r, 1.0), tl.full(r.shape, LARGEST, tl.float64))
    # r + mu below 2^-200: the law is linear in (r, mu); exact factors keep it away from subnormal numbers
    size = inner_mu + inner_r
    growth = tl.full(r.shape, 1.0, tl.float64)
    growth = tl.where(size < LINEAR_0, growth * GROWTH_0, growth)
    growth = tl.where(size < LINEAR_1, growth * GROWTH_1, growth)
    cdf, sf, d_mu, d_r = inside(ordinary, k, inner_mu * growth, inner_r * growth, EVERY)
    d_r = tl.where(r == INFINITY, 0.0, d_r)
    sf = sf / growth

    above = tl.where(count >= 0.0, 1.0, 0.0).to(tl.float64)
    at_zero = tl.where((mu == 0.0) & (count == 0.0), -1.0, 0.0).to(tl.float64)
    nan = tl.full(r.shape, float("nan"), tl.float64)
    edge = selected(valid, (above, 1.0 - above, at_zero, 0.0 * above), (nan, nan, nan, nan))
    cdf, sf, d_mu, d_r = selected(ordinary, (cdf, sf, d_mu, d_r), edge)
    tl.store(cdf_pointer + at, cdf, mask=here)
    tl.store(sf_pointer + at, sf, mask=here)
    tl.store(d_mu_pointer + at, d_mu, mask=here)
    tl.store(d_r_pointer + at, d_r, mask=here)
