"""The negative-binomial distribution by plain summation of its mass function: no special function anywhere.

Mean mu, dispersion r, q = mu / (mu + r), p_0 = (1 + mu/r)^-r, p_{j+1} = p_j q (j+r)/(j+1) and the score
s_j = d log p_j / dr with s_0 = -(log1p(z) - z/(1+z)), z = mu/r, s_{j+1} = s_j + (mu-j) / ((j+r)(r+mu)).
Then F = sum_{j<=k} p_j, dF/dr = sum_{j<=k} p_j s_j, dF/dmu = -p_k (k+r)/(mu+r). r = inf is the Poisson
limit: ratio mu/(j+1), p_0 = exp(-mu), score 0.

Two ways to sum, both in scaled double-doubles (relative error about n 2^-102 after n terms):

* `sum_from_zero` starts at p_0, which has a closed form, and needs k+1 terms whatever mu and r are; the
  upper tail is either (1 - p_0) - (p_1 + ... + p_k) or, where that cancels, summed by itself;
* `sum_from_mode` starts at the mode with weight 1 and normalises at the end: as many terms as the
  distribution is wide, whatever k is.

A tail so far out that even its largest multiple underflows is recognised by Chernoff's bound.
"""

import math
from typing import TypeAlias

from refimpl.arithmetic import kernel
from refimpl.negative_binomial_terms import (
    excess_at_zero,
    excess_step,
    gap_above,
    gap_below,
    log_mass_at_zero,
    log_width,
    mass_ratio,
    mode_of,
    nearly_poisson,
    odds,
    score_at_zero,
    score_of_excess,
    score_of_few,
    score_step,
    slope_in_mu,
    slope_of_excess,
    sum_of_parameters,
    tail_vanishes,
    terms_from_mode,
    upper_mass,
)
from refimpl.scaled import (
    Scaled,
    sc,
    sc_add,
    sc_div,
    sc_exp,
    sc_log,
    sc_mul,
    sc_neg,
    sc_one_minus_exp,
    sc_ratio_below,
    sc_sub,
)

MAX_TERMS = 200_000
# what a geometric remainder may be, relative to the sum it is left out of: 2^-8 of the last bit
REMAINDER = 2.0**-112
# relative error of (1 - p_0) - (p_1 + ... + p_k), a generous 2^-98 per unit of k + |log p_0|, against the
# 2^-58 that keeps a rounded result within one ulp: what may cancel
COMPLEMENT_FLOOR = 2.0**-40
# integers beyond are not consecutive float64
LARGEST_COUNT = 2.0**52
# F, S, p_k, dF/dmu, dF/dr, score at k, number of terms (negative: not feasible)
Sums: TypeAlias = tuple[Scaled, Scaled, Scaled, Scaled, Scaled, Scaled, int]


@kernel
def sum_from_zero(k: float, mu: float, r: float, max_terms: int) -> Sums:
    """All sums for 0 <= k, 0 < mu < inf, 0 < r <= inf, from p_0 upwards."""
    nothing = sc(0.0)
    if k >= max_terms:
        return nothing, nothing, nothing, nothing, nothing, nothing, -1
    q, total = odds(mu, r), nothing
    if not math.isinf(r):
        total = sum_of_parameters(mu, r)
    near = nearly_poisson(k, mu, r)
    log_zero, score = log_mass_at_zero(mu, r), excess_at_zero(mu, r) if near else score_at_zero(mu, r)
    zero = sc_exp(log_zero)
    mass, above_zero, pull = sc(1.0), nothing, nothing  # relative to p_0, and without p_0
    first_score = score
    j = 0.0
    while j < k:
        mass = sc_mul(mass, mass_ratio(j, r, q))
        score = sc_add(score, excess_step(j, mu, r) if near else score_step(j, mu, r, total))
        above_zero = sc_add(above_zero, mass)
        pull = sc_add(pull, sc_mul(mass, score))
        j += 1.0
    cumulative = sc_mul(zero, sc_add(sc(1.0), above_zero))
    slope_r = sc_mul(zero, sc_add(first_score, pull))
    mass_k = sc_mul(zero, mass)
    slope_mu = slope_in_mu(mass_k, k, mu, r)
    if near:
        lost = sc_sub(cumulative, upper_mass(k, r, mass_k))
        slope_r = slope_of_excess(slope_r, lost, k, mu, r, mass_k)
        score = score_of_excess(score, k, mu, r)
    from_one = sc_one_minus_exp(log_zero)
    subtracted = sc_mul(zero, above_zero)
    survival = sc_sub(from_one, subtracted)
    log_zero_size = math.ldexp(abs(log_zero[0]), min(log_zero[2], 1000))
    floor = COMPLEMENT_FLOOR * (k + 1.0 + log_zero_size)
    terms = int(k) + 1
    cancels = sc_ratio_below(survival, subtracted, 1.0, floor)
    if k == 0.0 or not (cancels or sc_ratio_below(survival, from_one, 1.0, COMPLEMENT_FLOOR)):
        return cumulative, survival, mass_k, slope_mu, slope_r, score, terms
    tail, tail_pull, terms = _upper_tail(k, mu, r, mass, score, terms, max_terms)
    return cumulative, sc_mul(zero, tail), mass_k, slope_mu, sc_neg(sc_mul(zero, tail_pull)), score, terms


@kernel
def _upper_tail(
    k: float, mu: float, r: float, mass: Scaled, score: Scaled, terms: int, max_terms: int
) -> tuple[Scaled, Scaled, int]:
    """Sums of p_j and p_j s_j over j > k, given both at k, until the geometric remainder is negligible."""
    q, total = odds(mu, r), sc(0.0)
    if not math.isinf(r):
        total = sum_of_parameters(mu, r)
    tail, pull = sc(0.0), sc(0.0)
    j = k
    while terms <= max_terms:
        mass = sc_mul(mass, mass_ratio(j, r, q))
        score = sc_add(score, score_step(j, mu, r, total))
        tail = sc_add(tail, mass)
        pull = sc_add(pull, sc_mul(mass, score))
        j += 1.0
        terms += 1
        gap = gap_above(j, mu, r)
        if gap > 0.0 and sc_ratio_below(mass, tail, 1.0 / gap, REMAINDER):
            return tail, pull, terms
    return tail, pull, -1


@kernel
def sum_from_mode(k: float, mu: float, r: float, max_terms: int) -> Sums:
    """All sums for 0 <= k, 0 < mu < inf, 0 < r <= inf, from the mode outwards, normalised at the end."""
    nothing = sc(0.0)
    mode = mode_of(mu, r)
    if k >= LARGEST_COUNT or mode >= LARGEST_COUNT or abs(k - mode) > max_terms:
        return nothing, nothing, nothing, nothing, nothing, nothing, -1
    q, total = odds(mu, r), nothing
    if not math.isinf(r):
        total = sum_of_parameters(mu, r)
    low, high, low_pull, high_pull, mass_k, score_k = nothing, nothing, nothing, nothing, nothing, nothing
    mass, score = sc(1.0), nothing
    near = nearly_poisson(k, mu, r)
    j = mode
    terms = 0
    while True:  # the mode and upwards
        pull = sc_mul(mass, score)
        if j <= k:
            low, low_pull = sc_add(low, mass), sc_add(low_pull, pull)
        else:
            high, high_pull = sc_add(high, mass), sc_add(high_pull, pull)
        if j == k:
            mass_k, score_k = mass, score
        terms += 1
        gap = gap_above(j, mu, r)
        if j > k and gap > 0.0 and sc_ratio_below(mass, high, 1.0 / gap, REMAINDER):
            break
        if terms > max_terms:
            return nothing, nothing, nothing, nothing, nothing, nothing, -1
        mass = sc_mul(mass, mass_ratio(j, r, q))
        score = sc_add(score, excess_step(j, mu, r) if near else score_step(j, mu, r, total))
        j += 1.0
    mass, score = sc(1.0), nothing
    j = mode
    while j > 0.0:  # below the mode
        mass = sc_div(mass, mass_ratio(j - 1.0, r, q))
        score = sc_sub(score, excess_step(j - 1.0, mu, r) if near else score_step(j - 1.0, mu, r, total))
        j -= 1.0
        pull = sc_mul(mass, score)
        if j <= k:
            low, low_pull = sc_add(low, mass), sc_add(low_pull, pull)
        else:
            high, high_pull = sc_add(high, mass), sc_add(high_pull, pull)
        if j == k:
            mass_k, score_k = mass, score
        terms += 1
        gap = gap_below(j, mu, r)
        if j < k and gap > 0.0 and sc_ratio_below(mass, low, 1.0 / gap, REMAINDER):
            break
        if terms > max_terms:
            return nothing, nothing, nothing, nothing, nothing, nothing, -1
    whole = sc_add(low, high)
    mass_k = sc_div(mass_k, whole)
    slope_r = sc_sub(sc_mul(low_pull, high), sc_mul(high_pull, low))
    slope_r = sc_div(sc_div(slope_r, whole), whole)
    score_k = sc_sub(score_k, sc_div(sc_add(low_pull, high_pull), whole))
    if near:  # over all j, sum of p_j T1_j = mu^2 / (2r): then `lost` is -P in place of F - P
        slope_r = slope_of_excess(slope_r, sc_neg(upper_mass(k, r, mass_k)), k, mu, r, mass_k)
        mean_excess = sc_div(sc_mul(sc_mul(sc(0.5), sc(mu)), sc(mu)), sc(r))
        score_k = score_of_excess(sc_add(score_k, mean_excess), k, mu, r)
    slope_mu = slope_in_mu(mass_k, k, mu, r)
    return sc_div(low, whole), sc_div(high, whole), mass_k, slope_mu, slope_r, score_k, terms


@kernel
def sums(k: float, mu: float, r: float, max_terms: int) -> Sums:
    """All sums at one point by the cheaper way; the last entry is negative if neither is feasible."""
    if k <= terms_from_mode(k, mu, r):
        result = sum_from_zero(k, mu, r, max_terms)
        if result[6] < 0:
            result = sum_from_mode(k, mu, r, max_terms)
    else:
        result = sum_from_mode(k, mu, r, max_terms)
        if result[6] < 0:
            result = sum_from_zero(k, mu, r, max_terms)
    return result


@kernel
def sums_or_limit(k: float, mu: float, r: float, max_terms: int) -> Sums:
    """`sums`, with tails that underflow whatever they are multiplied by set to 0 without summing them."""
    nothing, one = sc(0.0), sc(1.0)
    margin = log_width(k, mu, r)
    if k > mu and tail_vanishes(k, mu, r, margin):  # from k on: the mass at k vanishes too
        return one, nothing, nothing, nothing, nothing, nothing, 1
    if k < mu and tail_vanishes(k, mu, r, margin):
        return nothing, one, nothing, nothing, nothing, nothing, 1
    return sums(k, mu, r, max_terms)


@kernel
def log_mass(k: float, mu: float, r: float, max_terms: int) -> tuple[Scaled, Scaled, int]:
    """Return log p_k (finite where p_k underflows), the score s_k, the terms (< 0: not feasible)."""
    if k >= max_terms or k > terms_from_mode(k, mu, r):
        result = sum_from_mode(k, mu, r, max_terms)
        if result[6] > 0:
            return sc_log(result[2]), result[5], result[6]
    if k >= max_terms:
        return sc(0.0), sc(0.0), -1
    q, total = odds(mu, r), sc(0.0)
    if not math.isinf(r):
        total = sum_of_parameters(mu, r)
    near = nearly_poisson(k, mu, r)
    mass, score = sc(1.0), excess_at_zero(mu, r) if near else score_at_zero(mu, r)
    j = 0.0
    while j < k:
        mass = sc_mul(mass, mass_ratio(j, r, q))
        score = sc_add(score, excess_step(j, mu, r) if near else score_step(j, mu, r, total))
        j += 1.0
    if near:
        score = score_of_excess(score, k, mu, r)
    elif r < 1.0 <= k:
        score = score_of_few(k, mu, r)
    return sc_add(log_mass_at_zero(mu, r), sc_log(mass)), score, int(k) + 1
