"""The continued fraction of the CPU kernel, and its derivative in r.

The formulas are those of `negative_binomial_fraction`, lane by lane: evaluated backwards from a fixed number
of terms, with an estimate of what lies beyond.
"""

from __future__ import annotations

import math

import numpy as np

from torchimpl.kernels.elementary_cpu import inlined
from torchimpl.kernels.negative_binomial_cpu_lanes import (
    BEND,
    DENSITY,
    DIFF,
    LANES,
    MU,
    ROOM,
    SCALE,
    SCORE,
    T0,
    T1,
    T2,
    T3,
    T4,
    T5,
    T6,
    T7,
    T8,
    T9,
    T10,
    T11,
    T12,
    T13,
    B,
    R,
    S,
    X,
    Y,
    stage,
)
from torchimpl.kernels.negative_binomial_cpu_regions import assemble, prefactor
from torchimpl.kernels.negative_binomial_fraction import TINY

# (A, B, X) of I_X(A, B), and what the terms are made of
A_, B_, X_, DISTANCE, D_DISTANCE, SLOPE, D_EXCESS, UPPER = T0, T1, T2, T3, T4, T5, T6, T7
# state of the recurrence
VALUE, D_VALUE, NUMERATOR, D_NUMERATOR, PIVOT, PULL = T8, T9, T10, T11, T12, T13

Term = tuple[float, float, float, float]


@inlined
def term(w: np.ndarray, i: int, m: float, pivot: float, following: float) -> Term:
    """Numerator, denominator and their derivatives of term m >= 1, from 1/(A+2m-1) and 1/(A+2m+1)."""
    X_i, slope, is_upper = w[X_ + i], w[SLOPE + i], w[UPPER + i]
    upper = is_upper > 0.0
    d_X = slope if upper else -slope
    remaining = w[B_ + i] - m
    # an integer B ends the fraction at m = B: beyond, the numerators are 0
    remaining = max(remaining, 0.0) if upper else remaining
    excess = remaining * X_i
    reach = remaining * pivot + 1.0
    stretch = X_i * reach
    lead = 1.0 - m * pivot
    stretched = stretch * excess
    numerator = lead * stretched * m
    share = 1.0 - (m + 1.0) * following
    width = (w[DISTANCE + i] + 1.0 - m * X_i) + 2.0 * m
    portion = excess * pivot
    denominator = (portion * m + share * width) + m

    square = pivot * pivot
    d_excess = w[D_EXCESS + i] - m * d_X
    d_stretch_upper = slope * reach - X_i * remaining * square
    d_stretch_lower = pivot * (w[PULL + i] + (1.0 - m) * slope)
    d_stretch = d_stretch_upper if upper else d_stretch_lower
    d_numerator = m * (is_upper * stretched * square * m + lead * (d_stretch * excess + stretch * d_excess))
    d_denominator = (
        pivot * (d_excess - is_upper * portion) * m
        + is_upper * width * (following * following) * (m + 1.0)
        + share * (w[D_DISTANCE + i] - m * d_X)
    )
    return numerator, denominator, d_numerator, d_denominator


@inlined
def root_of(square: float) -> float:
    """The square root, 0 where rounding made the argument negative."""
    return math.sqrt(max(square, 0.0))


@stage
def fraction_setup(w: np.ndarray) -> None:
    """The coefficients that all terms share; derivatives are over SCALE."""
    for i in range(LANES):
        upper = w[DIFF + i] >= 0.0
        b, mu, r, diff = w[B + i], w[MU + i], w[R + i], w[DIFF + i]
        slope = w[Y + i] * (w[ROOM + i] / w[S + i]) * w[SCALE + i]
        w[A_ + i] = r if upper else b
        w[B_ + i] = b if upper else r
        w[X_ + i] = w[X + i] if upper else w[Y + i]
        w[DISTANCE + i], w[D_DISTANCE + i] = abs(w[X + i] * diff), abs(diff) * slope
        w[SLOPE + i] = slope
        w[D_EXCESS + i] = slope * (b if upper else mu)
        w[UPPER + i] = 1.0 if upper else 0.0
        w[PULL + i] = 0.0 if upper else slope * diff


@stage
def fraction_beyond(w: np.ndarray, terms: int) -> None:
    """Estimate the fraction from term `terms` on, with its derivative in r.

    f_m = denominator_m + numerator_{m+1}/f_{m+1} moves slowly with m: f_{m+1} = f_m + d, with d from the
    fixed points of the recurrence at two neighbouring terms, makes this a quadratic equation.
    """
    m = float(terms)
    for i in range(LANES):
        start = w[A_ + i] + 2.0 * m
        pivot_0, pivot_1 = 1.0 / (start - 1.0), 1.0 / (start + 1.0)
        pivot_2, pivot_3 = 1.0 / (start + 3.0), 1.0 / (start + 5.0)
        num_0, den_0, d_num_0, d_den_0 = term(w, i, m, pivot_0, pivot_1)
        num_1, den_1, d_num_1, d_den_1 = term(w, i, m + 1.0, pivot_1, pivot_2)
        num_2, _, d_num_2, _ = term(w, i, m + 2.0, pivot_2, pivot_3)
        root_0 = root_of(4.0 * num_1 + den_0 * den_0)
        root_1 = root_of(4.0 * num_2 + den_1 * den_1)
        drift = 0.5 * ((den_1 - den_0) + (root_1 - root_0))
        base = den_0 - drift
        root = root_of(base * base + 4.0 * (den_0 * drift + num_1))
        value = 0.5 * (base + root)
        d_root_0 = (den_0 * d_den_0 + 2.0 * d_num_1) / (root_0 + TINY)
        d_root_1 = (den_1 * d_den_1 + 2.0 * d_num_2) / (root_1 + TINY)
        d_drift = 0.5 * ((d_den_1 - d_den_0) + (d_root_1 - d_root_0))
        d_constant = d_den_0 * drift + den_0 * d_drift + d_num_1
        w[VALUE + i] = value
        w[D_VALUE + i] = (value * (d_den_0 - d_drift) + d_constant) / (root + TINY)
        w[NUMERATOR + i], w[D_NUMERATOR + i], w[PIVOT + i] = num_0, d_num_0, pivot_0


@stage
def fraction(w: np.ndarray, terms: int) -> None:
    """min(r, b) moderate: T = f0 / (b_0 + a_1/(b_1 + a_2/(b_2 + ...)))."""
    prefactor(w)
    fraction_setup(w)
    fraction_beyond(w, terms)
    for step in range(1, terms):
        m = float(terms - step)
        for i in range(LANES):
            pivot = 1.0 / (w[A_ + i] + (2.0 * m - 1.0))
            numerator, denominator, d_numerator, d_denominator = term(w, i, m, pivot, w[PIVOT + i])
            inverse = 1.0 / w[VALUE + i]
            quotient = w[NUMERATOR + i] * inverse
            w[D_VALUE + i] = d_denominator + (w[D_NUMERATOR + i] - quotient * w[D_VALUE + i]) * inverse
            w[VALUE + i] = quotient + denominator
            w[NUMERATOR + i], w[D_NUMERATOR + i], w[PIVOT + i] = numerator, d_numerator, pivot
    for i in range(LANES):
        pivot, inverse = w[PIVOT + i], 1.0 / w[VALUE + i]
        # the leading denominator A (lam+1)/(A+1)
        lead, grown = w[A_ + i] * pivot, w[DISTANCE + i] + 1.0
        quotient = w[NUMERATOR + i] * inverse
        d_first = w[UPPER + i] * (pivot * pivot) * grown + lead * w[D_DISTANCE + i]
        slope = d_first + (w[D_NUMERATOR + i] - quotient * w[D_VALUE + i]) * inverse
        value = lead * grown + quotient
        density = w[DENSITY + i]
        log_slope = w[SCORE + i] - w[SCALE + i] * w[BEND + i] - slope / value
        # f0 last: it is what may be subnormal
        assemble(w, i, density / value, density * (log_slope / value))
