"""The continued fraction of the negative-binomial CDF in Triton: the formulas of its torch twin.

Notation is that of `torchimpl.kernels.negative_binomial_fraction`. Every lane takes its own number of terms,
so that its result does not depend on its neighbours; the loop is as long as the longest of the block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchimpl.kernels.negative_binomial_cuda_language import (
    INFINITY,
    SERIES_LIMIT,
    TERMS_0,
    TERMS_1,
    TERMS_2,
    TERMS_3,
    TINY,
)
from torchimpl.kernels.negative_binomial_cuda_triton import jit, tl

if TYPE_CHECKING:
    Two = tuple[tl.tensor, tl.tensor]
    Four = tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]
    Coefficients = tuple[tl.tensor, ...]


@jit
def terms_taken(k: tl.tensor, mu: tl.tensor, r: tl.tensor, x: tl.tensor) -> tl.tensor:
    """How many terms of the fraction reach float64 accuracy: one of four numbers."""
    b = k + 1.0
    needed = 8.0 + tl.full(k.shape, 2.6, tl.float64) * tl.sqrt(tl.minimum(r, b))
    small = tl.where(k * x < 2.0 * SERIES_LIMIT, 40.0, 24.0)
    needed = tl.where(mu >= b, tl.minimum(needed, b), tl.where(r < 6.0, small, needed))
    longer = tl.where(needed <= TERMS_2, TERMS_2, TERMS_3)
    return tl.where(needed <= TERMS_0, TERMS_0, tl.where(needed <= TERMS_1, TERMS_1, longer))


@jit
def coefficients(
    x: tl.tensor,
    y: tl.tensor,
    room: tl.tensor,
    s: tl.tensor,
    diff: tl.tensor,
    scale: tl.tensor,
    b: tl.tensor,
    mu: tl.tensor,
    r: tl.tensor,
) -> Coefficients:
    """What the terms of the fraction are made of; all derivatives are over `scale`."""
    upper = diff >= 0.0
    is_upper = upper.to(tl.float64)
    A, B, X = tl.where(upper, r, b), tl.where(upper, b, r), tl.where(upper, x, y)
    # an integer B ends the fraction at m = B: beyond, the numerators are 0
    floor = tl.where(upper, 0.0, -INFINITY).to(tl.float64)
    slope = y * (room / s) * scale
    distance, d_distance = tl.abs(x * diff), tl.abs(diff) * slope
    d_X = (2.0 * is_upper - 1.0) * slope
    d_excess = slope * tl.where(upper, b, mu)
    upper_X, upper_slope = is_upper * X, is_upper * slope
    lower_slope = slope - upper_slope
    lower_pull = lower_slope * diff
    return (
        A,
        B,
        X,
        floor,
        is_upper,
        distance,
        d_distance,
        d_X,
        d_excess,
        upper_X,
        upper_slope,
        lower_slope,
        lower_pull,
    )


@jit
def term(parts: tl.tuple, m: tl.tensor, pivot: tl.tensor, following: tl.tensor) -> Four:
    """Numerator, denominator and their derivatives at m >= 1; the pivots are 1/(A+2m-1) of m and of m+1."""
    (
        _A,
        B,
        X,
        floor,
        is_upper,
        distance,
        d_distance,
        d_X,
        d_excess,
        upper_X,
        upper_slope,
        lower_slope,
        lower_pull,
    ) = parts
    remaining = tl.maximum(B - m, floor)
    excess = remaining * X
    reach = tl.fma(remaining, pivot, 1.0)
    stretch = X * reach
    lead = 1.0 - m * pivot
    stretched = stretch * excess
    share = 1.0 - (m + 1.0) * following
    width = (distance + 1.0 - m * X) + 2.0 * m
    portion = excess * pivot
    square = pivot * pivot
    d_excess_m = d_excess - m * d_X
    d_stretch = tl.fma(pivot, lower_pull + (1.0 - m) * lower_slope, upper_slope * reach)
    d_stretch -= upper_X * remaining * square
    d_product = tl.fma(stretch, d_excess_m, d_stretch * excess)
    d_numerator = m * tl.fma(lead, d_product, is_upper * stretched * square * m)
    d_denominator = m * (pivot * (d_excess_m - is_upper * portion))
    d_denominator = tl.fma(is_upper * width * (m + 1.0), following * following, d_denominator)
    d_denominator = tl.fma(share, d_distance - m * d_X, d_denominator)
    return m * (lead * stretched), tl.fma(share, width, portion * m) + m, d_numerator, d_denominator


@jit
def root(denominator: tl.tensor, numerator: tl.tensor) -> tl.tensor:
    """√(denominator² + 4 numerator), 0 where that is negative."""
    return tl.sqrt(tl.maximum(tl.fma(denominator, denominator, 4.0 * numerator), 0.0))


@jit
def beyond(last: tl.tuple, following: tl.tuple, second: tl.tuple) -> Two:
    """Estimate the fraction from term `last` on, with its derivative in r."""
    _, den_0, _, d_den_0 = last
    num_1, den_1, d_num_1, d_den_1 = following
    num_2, _, d_num_2, _ = second
    root_0, root_1 = root(den_0, num_1), root(den_1, num_2)
    drift = 0.5 * ((den_1 - den_0) + (root_1 - root_0))
    base = den_0 - drift
    constant = tl.fma(den_0, drift, num_1)
    discriminant = root(base, constant)
    value = 0.5 * (base + discriminant)
    d_root_0 = (den_0 * d_den_0 + 2.0 * d_num_1) / (root_0 + TINY)
    d_root_1 = (den_1 * d_den_1 + 2.0 * d_num_2) / (root_1 + TINY)
    d_drift = 0.5 * ((d_den_1 - d_den_0) + (d_root_1 - d_root_0))
    d_base = d_den_0 - d_drift
    d_constant = d_den_0 * drift + den_0 * d_drift + d_num_1
    return value, (value * d_base + d_constant) / (discriminant + TINY)


@jit
def fraction(parts: tl.tuple, terms: tl.tensor, longest: tl.tensor) -> Two:
    """b_0 + a_1/(b_1 + a_2/(b_2 + ...)) and its derivative; `terms` per lane, at most `longest`."""
    A, is_upper, distance, d_distance = parts[0], parts[4], parts[5], parts[6]
    pivot_0, pivot_1 = 1.0 / (A + (2.0 * terms - 1.0)), 1.0 / (A + (2.0 * terms + 1.0))
    pivot_2, pivot_3 = 1.0 / (A + (2.0 * terms + 3.0)), 1.0 / (A + (2.0 * terms + 5.0))
    last = term(parts, terms, pivot_0, pivot_1)
    following = term(parts, terms + 1.0, pivot_1, pivot_2)
    second = term(parts, terms + 2.0, pivot_2, pivot_3)
    value, slope = beyond(last, following, second)
    numerator, d_numerator = last[0], last[2]
    m = longest - 1.0
    next_pivot = 1.0 / (A + (2.0 * m + 1.0))
    while m > 0.5:
        pivot = 1.0 / (A + (2.0 * m - 1.0))
        num, den, d_num, d_den = term(parts, m, pivot, next_pivot)
        inverse = 1.0 / value
        quotient = numerator * inverse
        begun = m < terms
        slope = tl.where(begun, tl.fma(d_numerator - quotient * slope, inverse, d_den), slope)
        value = tl.where(begun, quotient + den, value)
        numerator, d_numerator = tl.where(begun, num, numerator), tl.where(begun, d_num, d_numerator)
        next_pivot = pivot
        m -= 1.0
    share, grown = A * next_pivot, distance + 1.0
    d_first = is_upper * (next_pivot * next_pivot) * grown + share * d_distance
    inverse = 1.0 / value
    quotient = numerator * inverse
    slope = d_first + (d_numerator - quotient * slope) * inverse
    return quotient + share * grown, slope
