"""The negative-binomial CDF by the continued fraction of Didonato and Morris, and its derivative in r.

The fraction is evaluated backwards from a fixed number of terms. What lies beyond is estimated from the fixed
points of the recurrence at the last two terms, which is worth two to three digits. The derivative is carried
along; each coefficient's derivative is written so that no two terms of size 1/r cancel.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from torchimpl.kernels.negative_binomial_regions import Partials, Prefactor, assemble, prefactor

TINY = torch.finfo(torch.float64).tiny


class Term(NamedTuple):
    """Partial numerator and denominator of the fraction, and their derivatives in r."""

    numerator: Tensor
    denominator: Tensor
    d_numerator: Tensor
    d_denominator: Tensor


class Coefficients:
    """The terms of the fraction for I_X(A, B): (A, B, X) = (r, b, x) where mu >= b, (b, r, y) elsewhere."""

    def __init__(self, p: Prefactor, b: Tensor, mu: Tensor, r: Tensor) -> None:
        upper = p.diff >= 0.0
        self.is_upper = upper.to(b.dtype)
        self.A, self.B, self.X = (
            torch.where(upper, r, b),
            torch.where(upper, b, r),
            torch.where(upper, p.x, p.y),
        )
        # an integer B ends the fraction at m = B: beyond, the numerators are 0
        self.floor = torch.where(upper, 0.0, -torch.inf)
        # all derivatives are over p.scale: where it is not 1, everything is proportional to this one
        slope = p.y * (p.room / p.s) * p.scale  # dx/dr = -dy/dr
        self.distance, self.d_distance = (p.x * p.diff).abs(), p.diff.abs() * slope
        self.d_X = (2.0 * self.is_upper - 1.0) * slope
        self.d_excess = slope * torch.where(upper, b, mu)
        self.upper_X, self.upper_slope = self.is_upper * self.X, self.is_upper * slope
        self.lower_slope = slope - self.upper_slope
        self.lower_pull = self.lower_slope * p.diff

    def pivot(self, m: int) -> Tensor:
        """1 / (A + 2m - 1)."""
        return (self.A + (2 * m - 1)).reciprocal_()

    def first(self, pivot: Tensor) -> tuple[Tensor, Tensor]:
        """The leading denominator A (lam+1)/(A+1) and its derivative; pivot is that of m = 1."""
        share = self.A * pivot
        grown = self.distance + 1.0
        return share * grown, self.is_upper * (pivot * pivot) * grown + share * self.d_distance

    def term(self, m: int, pivot: Tensor, following: Tensor) -> Term:
        """Term m >= 1; `following` is the pivot of m + 1."""
        remaining = torch.maximum(self.B - m, self.floor)
        excess = remaining * self.X
        reach = (remaining * pivot).add_(1.0)
        stretch = self.X * reach
        lead = (pivot * -m).add_(1.0)
        stretched = stretch * excess
        numerator = (lead * stretched).mul_(m)
        share = (following * -(m + 1)).add_(1.0)
        width = torch.add(self.distance + 1.0, self.X, alpha=-m).add_(2 * m)
        portion = excess * pivot
        denominator = torch.addcmul(portion * m, share, width).add_(m)

        square = pivot * pivot
        d_excess = torch.add(self.d_excess, self.d_X, alpha=-m)
        d_stretch = torch.addcmul(
            self.upper_slope * reach, pivot, torch.add(self.lower_pull, self.lower_slope, alpha=1 - m)
        )
        d_stretch.addcmul_(self.upper_X * remaining, square, value=-1.0)
        d_numerator = (self.is_upper * stretched).mul_(square).mul_(m)
        d_numerator.addcmul_(lead, torch.addcmul(d_stretch * excess, stretch, d_excess)).mul_(m)
        d_denominator = (pivot * torch.addcmul(d_excess, self.is_upper, portion, value=-1.0)).mul_(m)
        d_denominator.addcmul_(self.is_upper * width, following * following, value=m + 1)
        d_denominator.addcmul_(share, torch.add(self.d_distance, self.d_X, alpha=-m))
        return Term(numerator, denominator, d_numerator, d_denominator)


def beyond(last: Term, following: Term, second: Term) -> tuple[Tensor, Tensor]:
    """Estimate the fraction from term `last` on, with its derivative in r.

    f_m = denominator_m + numerator_{m+1}/f_{m+1} moves slowly with m: f_{m+1} = f_m + d, with d from the
    fixed points of the recurrence at two neighbouring terms, makes this a quadratic equation.
    """
    root_0 = (
        torch.addcmul(4.0 * following.numerator, last.denominator, last.denominator).clamp_(min=0.0).sqrt_()
    )
    root_1 = torch.addcmul(4.0 * second.numerator, following.denominator, following.denominator)
    root_1 = root_1.clamp_(min=0.0).sqrt_()
    drift = 0.5 * ((following.denominator - last.denominator) + (root_1 - root_0))
    base = last.denominator - drift
    root = (base * base + 4.0 * (last.denominator * drift + following.numerator)).clamp_(min=0.0).sqrt_()
    value = 0.5 * (base + root)
    d_root_0 = (last.denominator * last.d_denominator + 2.0 * following.d_numerator) / (root_0 + TINY)
    d_root_1 = (following.denominator * following.d_denominator + 2.0 * second.d_numerator) / (root_1 + TINY)
    d_drift = 0.5 * ((following.d_denominator - last.d_denominator) + (d_root_1 - d_root_0))
    d_base = last.d_denominator - d_drift
    d_constant = last.d_denominator * drift + last.denominator * d_drift + following.d_numerator
    return value, (value * d_base + d_constant) / (root + TINY)


def fraction(b: Tensor, mu: Tensor, r: Tensor, terms: int) -> Partials:
    """min(r, b) moderate: T = f0 / (b_0 + a_1/(b_1 + a_2/(b_2 + ...)))."""
    p = prefactor(b, mu, r)
    coefficients = Coefficients(p, b, mu, r)
    pivots = [coefficients.pivot(m) for m in range(terms, terms + 4)]
    last, following, second = (coefficients.term(terms + i, pivots[i], pivots[i + 1]) for i in range(3))
    value, slope = beyond(last, following, second)
    numerator, d_numerator, next_pivot = last.numerator, last.d_numerator, pivots[0]
    for m in range(terms - 1, 0, -1):
        pivot = coefficients.pivot(m)
        term = coefficients.term(m, pivot, next_pivot)
        inverse = value.reciprocal()
        quotient = numerator * inverse
        slope = torch.addcmul(
            term.d_denominator, torch.addcmul(d_numerator, quotient, slope, value=-1.0), inverse
        )
        value = quotient.add_(term.denominator)
        numerator, d_numerator, next_pivot = term.numerator, term.d_numerator, pivot
    first, d_first = coefficients.first(next_pivot)
    inverse = value.reciprocal()
    quotient = numerator * inverse
    slope = d_first + (d_numerator - quotient * slope) * inverse
    value = quotient.add_(first)
    # f0 last: it is what may be subnormal
    log_slope = p.score - p.scale * p.bend - slope / value
    return assemble(p, p.density / value, p.density * (log_slope / value))
