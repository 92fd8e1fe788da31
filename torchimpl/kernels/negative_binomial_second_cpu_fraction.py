"""The continued fraction of the CPU kernel of second derivatives: a jet of second order in r.

T = f0/V. Numerators, denominators and their first derivatives are those of `negative_binomial_cpu_fraction`;
here come the second ones. First derivatives by way of x and y are multiples of mu/(r+mu)², whose logarithm
has the derivative -2/(r+mu), so that no two terms of the size of 1/r cancel. An n-th derivative is kept
multiplied by min(r, 1)^n.
"""

from __future__ import annotations

import math

import numpy as np

from torchimpl.kernels.elementary_cpu import exp, inlined, log
from torchimpl.kernels.negative_binomial_cpu_fraction import (
    A_,
    B_,
    D_DISTANCE,
    D_EXCESS,
    D_NUMERATOR,
    D_VALUE,
    DISTANCE,
    NUMERATOR,
    PIVOT,
    PULL,
    SLOPE,
    UPPER,
    VALUE,
    X_,
    fraction_setup,
    term,
)
from torchimpl.kernels.negative_binomial_cpu_lanes import (
    BEND,
    DENSITY,
    DIFF,
    LANES,
    ROOM,
    SCALE,
    SHIFT,
    B,
    C,
    R,
    S,
    stage,
)
from torchimpl.kernels.negative_binomial_cpu_regions import prefactor
from torchimpl.kernels.negative_binomial_fraction import TINY
from torchimpl.kernels.negative_binomial_second_cpu_regions import (
    D_R_R,
    DD_NUMERATOR,
    DD_VALUE,
    LOG_DENSITY,
    RATE,
    closed_forms,
    score_jet,
)

# a square root this much smaller than what it is made of is rounding: it has no derivative
FLAT = 2.0**-40


@inlined
def bend_of_term(w: np.ndarray, i: int, m: float, pivot: float, following: float) -> tuple[float, float]:
    """Second derivatives of numerator and denominator of term m >= 1."""
    X_i, slope, is_upper, rate = w[X_ + i], w[SLOPE + i], w[UPPER + i], w[RATE + i]
    upper = is_upper > 0.0
    d_X = slope if upper else -slope
    remaining = w[B_ + i] - m
    remaining = max(remaining, 0.0) if upper else remaining
    excess = remaining * X_i
    reach = remaining * pivot + 1.0
    square = pivot * pivot
    fall = remaining * square
    d_excess = w[D_EXCESS + i] - m * d_X
    stretch = X_i * reach
    d_stretch_lower = pivot * (w[PULL + i] + (1.0 - m) * slope)
    d_stretch = slope * reach - X_i * fall if upper else d_stretch_lower
    dd_stretch_upper = rate * slope * reach - 2.0 * fall * (slope - X_i * pivot)
    dd_stretch = dd_stretch_upper if upper else rate * d_stretch_lower
    product = stretch * excess
    d_product = d_stretch * excess + stretch * d_excess
    dd_product = dd_stretch * excess + d_excess * (2.0 * d_stretch + rate * stretch)
    d_lead = is_upper * m * square
    lead = 1.0 - m * pivot
    dd_numerator = m * (2.0 * d_lead * (d_product - pivot * product) + lead * dd_product)

    width = (w[DISTANCE + i] + 1.0 - m * X_i) + 2.0 * m
    d_width = w[D_DISTANCE + i] - m * d_X
    d_share = is_upper * (m + 1.0) * (following * following)
    share = 1.0 - (m + 1.0) * following
    dd_portion = pivot * (rate * d_excess - 2.0 * is_upper * pivot * (d_excess - excess * pivot))
    dd_denominator = m * dd_portion + 2.0 * d_share * (d_width - following * width) + share * (rate * d_width)
    return dd_numerator, dd_denominator


@inlined
def root_jet(square: float, d_half: float, dd_half: float, size: float) -> tuple[float, float, float]:
    """Jet of a square root from that of half its argument; flat where the argument is rounding of `size`."""
    steady = square > FLAT * size
    root = math.sqrt(max(square, 0.0))
    over = 1.0 / (root + TINY)
    d_root = d_half * over if steady else 0.0
    return root, d_root, (dd_half - d_root * d_root) * over if steady else 0.0


@stage
def beyond_second(w: np.ndarray, terms: int) -> None:
    """Estimate the fraction from term `terms` on, as `fraction_beyond` does, with both derivatives in r."""
    m = float(terms)
    for i in range(LANES):
        start = w[A_ + i] + 2.0 * m
        pivot_0, pivot_1 = 1.0 / (start - 1.0), 1.0 / (start + 1.0)
        pivot_2, pivot_3 = 1.0 / (start + 3.0), 1.0 / (start + 5.0)
        num_0, den_0, d_num_0, d_den_0 = term(w, i, m, pivot_0, pivot_1)
        num_1, den_1, d_num_1, d_den_1 = term(w, i, m + 1.0, pivot_1, pivot_2)
        num_2, _, d_num_2, _ = term(w, i, m + 2.0, pivot_2, pivot_3)
        dd_num_0, dd_den_0 = bend_of_term(w, i, m, pivot_0, pivot_1)
        dd_num_1, dd_den_1 = bend_of_term(w, i, m + 1.0, pivot_1, pivot_2)
        dd_num_2, _ = bend_of_term(w, i, m + 2.0, pivot_2, pivot_3)
        square_0, square_1 = den_0 * den_0, den_1 * den_1
        root_0, d_root_0, dd_root_0 = root_jet(
            square_0 + 4.0 * num_1,
            den_0 * d_den_0 + 2.0 * d_num_1,
            d_den_0 * d_den_0 + den_0 * dd_den_0 + 2.0 * dd_num_1,
            square_0,
        )
        root_1, d_root_1, dd_root_1 = root_jet(
            square_1 + 4.0 * num_2,
            den_1 * d_den_1 + 2.0 * d_num_2,
            d_den_1 * d_den_1 + den_1 * dd_den_1 + 2.0 * dd_num_2,
            square_1,
        )
        drift = 0.5 * ((den_1 - den_0) + (root_1 - root_0))
        d_drift = 0.5 * ((d_den_1 - d_den_0) + (d_root_1 - d_root_0))
        dd_drift = 0.5 * ((dd_den_1 - dd_den_0) + (dd_root_1 - dd_root_0))
        base, d_base, dd_base = den_0 - drift, d_den_0 - d_drift, dd_den_0 - dd_drift
        # value² = base·value + constant
        constant = den_0 * drift + num_1
        d_constant = d_den_0 * drift + den_0 * d_drift + d_num_1
        dd_constant = dd_den_0 * drift + 2.0 * d_den_0 * d_drift + den_0 * dd_drift + dd_num_1
        square = base * base + 4.0 * constant
        root = math.sqrt(max(square, 0.0))
        steady = square > FLAT * (base * base)
        over = 1.0 / (root + TINY) if steady else 0.0
        value = 0.5 * (base + root)
        d_value = (value * d_base + d_constant) * over
        w[VALUE + i], w[D_VALUE + i] = value, d_value
        w[DD_VALUE + i] = (value * dd_base + 2.0 * d_value * (d_base - d_value) + dd_constant) * over
        w[NUMERATOR + i], w[D_NUMERATOR + i], w[PIVOT + i] = num_0, d_num_0, pivot_0
        w[DD_NUMERATOR + i] = dd_num_0


@stage
def fraction_second(w: np.ndarray, terms: int) -> None:
    """min(r, b) moderate: second derivatives of T = f0 / (b_0 + a_1/(b_1 + a_2/(b_2 + ...)))."""
    prefactor(w)
    closed_forms(w)
    fraction_setup(w)
    for i in range(LANES):
        w[RATE + i] = -2.0 * (w[SCALE + i] * (w[ROOM + i] / w[S + i]))
    beyond_second(w, terms)
    for step in range(1, terms):
        m = float(terms - step)
        for i in range(LANES):
            pivot, following = 1.0 / (w[A_ + i] + (2.0 * m - 1.0)), w[PIVOT + i]
            numerator, denominator, d_numerator, d_denominator = term(w, i, m, pivot, following)
            dd_numerator, dd_denominator = bend_of_term(w, i, m, pivot, following)
            quotient, d_quotient, dd_quotient = quotient_jet(w, i)
            w[VALUE + i] = quotient + denominator
            w[D_VALUE + i] = d_quotient + d_denominator
            w[DD_VALUE + i] = dd_quotient + dd_denominator
            w[NUMERATOR + i], w[D_NUMERATOR + i], w[PIVOT + i] = numerator, d_numerator, pivot
            w[DD_NUMERATOR + i] = dd_numerator
    for i in range(LANES):
        pivot = w[PIVOT + i]
        # the leading denominator A (lam+1)/(A+1)
        lead, grown, d_grown = w[A_ + i] * pivot, w[DISTANCE + i] + 1.0, w[D_DISTANCE + i]
        d_lead = w[UPPER + i] * (pivot * pivot)
        quotient, d_quotient, dd_quotient = quotient_jet(w, i)
        value = lead * grown + quotient
        d_value = (d_lead * grown + lead * d_grown) + d_quotient
        dd_first = 2.0 * d_lead * (d_grown - pivot * grown) + lead * (w[RATE + i] * d_grown)
        fall = d_value / value
        finish(w, i, value, fall, (dd_first + dd_quotient) / value - fall * fall)
    for i in range(LANES):
        if w[LOG_DENSITY + i] < 0.0:
            finish_faint(w, i)


@inlined
def quotient_jet(w: np.ndarray, i: int) -> tuple[float, float, float]:
    """NUMERATOR / VALUE with both derivatives."""
    inverse = 1.0 / w[VALUE + i]
    quotient = w[NUMERATOR + i] * inverse
    d_quotient = (w[D_NUMERATOR + i] - quotient * w[D_VALUE + i]) * inverse
    dd_quotient = (
        w[DD_NUMERATOR + i] - 2.0 * d_quotient * w[D_VALUE + i] - quotient * w[DD_VALUE + i]
    ) * inverse
    return quotient, d_quotient, dd_quotient


@inlined
def finish(w: np.ndarray, i: int, value: float, fall: float, turn: float) -> None:
    """From V and the derivatives of log V: d²F/dr² = ±T (u' + u²), u = d log T/dr."""
    r, scale, over_c = w[R + i], w[SCALE + i], w[ROOM + i] / w[C + i]
    steepest, change = score_jet(w[B + i], r, over_c)
    shift = scale * w[SHIFT + i]
    # below 1: u = d log(T/r)/dr times r, and its derivative times r²; T'' = T/r² (2u + u' + u²)
    u = steepest - scale * w[BEND + i] - fall
    d_u = change + shift * shift * over_c - turn
    curvature = d_u + u * u + (2.0 * u if r < 1.0 else 0.0)
    # f0 last: it is what may be subnormal
    w[DD_VALUE + i] = curvature / value
    curvature = 0.0 if w[DENSITY + i] == 0.0 else w[DENSITY + i] * (curvature / (value * scale))
    w[D_R_R + i] = curvature if w[DIFF + i] >= 0.0 else -curvature


@inlined
def finish_faint(w: np.ndarray, i: int) -> None:
    """The same where f0 underflows and f0/r² need not."""
    size = exp(w[LOG_DENSITY + i] - log(w[SCALE + i]))
    curvature = 0.0 if size == 0.0 else size * w[DD_VALUE + i]
    w[D_R_R + i] = curvature if w[DIFF + i] >= 0.0 else -curvature
