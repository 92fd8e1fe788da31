"""What the negative-binomial sums are made of: ratios, scores, remainders, in scaled double-doubles.

Notation as in `refimpl.negative_binomial_sums`; everywhere 0 < mu < inf, 0 < r <= inf, and counts are
integers in float64.
"""

import math

import numpy as np

from refimpl.arithmetic import kernel
from refimpl.scaled import (
    Scaled,
    sc,
    sc_add,
    sc_div,
    sc_log1p,
    sc_log_ratio_score,
    sc_mul,
    sc_neg,
    sc_sub,
    sc_sum,
)


@kernel
def sum_of_parameters(mu: float, r: float) -> Scaled:
    """Exact mu + r, also where the float64 sum would overflow."""
    return sc_add(sc(mu), sc(r))


@kernel
def odds(mu: float, r: float) -> Scaled:
    """Success odds q = mu / (mu + r); mu itself in the Poisson limit, where (j+r) q -> mu."""
    if math.isinf(r):
        return sc(mu)
    return sc_div(sc(mu), sum_of_parameters(mu, r))


@kernel
def log_mass_at_zero(mu: float, r: float) -> Scaled:
    """Log p_0 = -r log1p(mu/r)."""
    if math.isinf(r):
        return sc(-mu)
    return sc_neg(sc_mul(sc(r), sc_log1p(sc_div(sc(mu), sc(r)))))


@kernel
def score_at_zero(mu: float, r: float) -> Scaled:
    """Score s_0 = d log p_0 / dr."""
    if math.isinf(r):
        return sc(0.0)
    return sc_neg(sc_log_ratio_score(sc_div(sc(mu), sc(r))))


@kernel
def mass_ratio(j: float, r: float, q: Scaled) -> Scaled:
    """p_{j+1} / p_j."""
    if math.isinf(r):
        return sc_div(q, sc(j + 1.0))
    return sc_div(sc_mul(count_plus(j, r), q), sc(j + 1.0))


@kernel
def score_step(j: float, mu: float, r: float, total: Scaled) -> Scaled:
    """s_{j+1} - s_j = (mu - j) / ((j+r)(r+mu))."""
    if math.isinf(r):
        return sc(0.0)
    return sc_div(sc_sum(mu, -j), sc_mul(count_plus(j, r), total))


@kernel
def nearly_poisson(k: float, mu: float, r: float) -> bool:
    """Whether r is so large that the scores have to be split into T0 + T1, as `excess_at_zero` does.

    r (r+mu) s_j = T0_j + T1_j, where T0_j = (j - (j-mu)^2) / 2 is the Poisson limit's and T1_j of order 1/r.
    Sums of p_j T0_j have a closed form, which keeps what T1 adds where the limit's sum vanishes (k = mu).
    """
    return k > 0.0 and math.isfinite(r) and r > 2.0**30 * (k + mu + 1.0)


@kernel
def excess_at_zero(mu: float, r: float) -> Scaled:
    """T1_0 = mu^2 (x/6 - x^2/12 + x^3/20 - ...), x = mu/r < 2^-30: +-x^(n-2) / (n (n-1)) from n = 3 on."""
    x = sc_div(sc(mu), sc(r))
    total = sc(0.0)
    for n in range(7, 2, -1):
        total = sc_sub(sc_div(sc(1.0), sc(float(n * (n - 1)))), sc_mul(x, total))
    return sc_mul(sc_mul(sc_mul(sc(mu), sc(mu)), x), total)


@kernel
def excess_step(j: float, mu: float, r: float) -> Scaled:
    """T1_{j+1} - T1_j = -(mu - j) j / (j + r)."""
    return sc_neg(sc_div(sc_mul(sc_sum(mu, -j), sc(j)), count_plus(j, r)))


@kernel
def score_of_excess(excess: Scaled, k: float, mu: float, r: float) -> Scaled:
    """s_k = (T0_k + T1_k) / (r (r+mu)) from T1_k."""
    distance = sc_sum(k, -mu)
    limit = sc_mul(sc(0.5), sc_sub(sc(k), sc_mul(distance, distance)))
    return sc_div(sc_div(sc_add(limit, excess), sc(r)), sum_of_parameters(mu, r))


@kernel
def slope_of_excess(excess: Scaled, lost: Scaled, k: float, mu: float, r: float, mass: Scaled) -> Scaled:
    """dF/dr from the sum of p_j T1_j: ((mu/2) ((k-mu) P - (mu/r) lost) + excess) / (r (r+mu)).

    sum_{j<=k} p_j T0_j is the first term with lost = F - P, P = p_k (k+r)/r, by sum_{j<=k} (mu-j) p_j = mu P.
    """
    pull = sc_mul(sc_sum(k, -mu), upper_mass(k, r, mass))
    pull = sc_sub(pull, sc_mul(sc_div(sc(mu), sc(r)), lost))
    pull = sc_add(sc_mul(sc_mul(sc(0.5), sc(mu)), pull), excess)
    return sc_div(sc_div(pull, sc(r)), sum_of_parameters(mu, r))


@kernel
def upper_mass(k: float, r: float, mass: Scaled) -> Scaled:
    """P = p_k (k+r) / r."""
    return sc_div(sc_mul(mass, count_plus(k, r)), sc(r))


@kernel
def score_of_few(k: float, mu: float, r: float) -> Scaled:
    """s_k for r < 1 <= k: s_0 + (mu - (k-1) r) / (r (r+mu)) + sum of 1/(j+r) over 0 < j < k.

    Terms 1/r that cancel, at mu = (k-1) r wholly, are in the numerator, which is exact.
    """
    numerator = sc_sub(sc(mu), sc_mul(sc(k - 1.0), sc(r)))
    score = sc_div(sc_div(numerator, sc(r)), sum_of_parameters(mu, r))
    score = sc_add(score, score_at_zero(mu, r))
    j = 1.0
    while j < k:
        score = sc_add(score, sc_div(sc(1.0), count_plus(j, r)))
        j += 1.0
    return score


@kernel
def count_plus(j: float, r: float) -> Scaled:
    """Exact j + r."""
    return sc_sum(j, r)


@kernel
def slope_in_mu(mass: Scaled, k: float, mu: float, r: float) -> Scaled:
    """dF/dmu = -p_k (k+r)/(mu+r)."""
    if math.isinf(r):
        return sc_neg(mass)
    return sc_neg(sc_div(sc_mul(mass, count_plus(k, r)), sum_of_parameters(mu, r)))


@kernel
def gap_above(j: float, mu: float, r: float) -> float:
    """Lower bound of 1 - p_{i+1}/p_i for all i >= j (the ratio tends to q monotonically); <= 0: unknown."""
    if math.isinf(r):
        return 1.0 - mu / (j + 1.0)
    failure = 1.0 / (1.0 + mu / r)
    success = 1.0 / (1.0 + r / mu)
    here = (failure * (j + 1.0 - mu) + success) / (j + 1.0)
    return min(here, failure)


@kernel
def gap_below(j: float, mu: float, r: float) -> float:
    """Lower bound of 1 - p_{i-1}/p_i for all i <= j below the mode (where r > 1)."""
    if math.isinf(r):
        return 1.0 - j / mu
    return 1.0 - j * (1.0 + r / mu) / (j - 1.0 + r)


@kernel
def log_width(k: float, mu: float, r: float) -> float:
    """Log of what a tail is multiplied by in a derivative: (k+r)/(mu+r), and the score <= 1/r + log."""
    if math.isinf(r):
        return 50.0
    larger = math.log(max(k, r)) - math.log(max(mu, r)) if k > mu else 0.0
    return 50.0 + max(larger, 0.0) + max(-math.log(r), 0.0) + abs(math.log(max(k, 1.0)))


@kernel
def tail_vanishes(b: float, mu: float, r: float, margin: float) -> bool:
    """Whether Chernoff's bound puts the tail from b >= 0 outwards (away from mu) below exp(-745 - margin).

    D = b log(b/mu) - (b+r) log((b+r)/(mu+r)); its own rounding errors are subtracted from it.
    """
    if b == 0.0:
        if math.isinf(r):
            terms = mu
        elif math.isinf(mu / r):  # then log1p(mu/r) is the difference of the logarithms to the last bit
            terms = r * (math.log(mu) - math.log(r))
        else:
            terms = r * math.log1p(mu / r)
        return terms > (745.2 + margin) * (1.0 + 2.0**-40)
    if not math.isinf(r) and max(b, mu, r) > 2.0**1000:  # D is homogeneous: no sum overflows at this scale
        b, mu, r, margin = b * 2.0**-100, mu * 2.0**-100, r * 2.0**-100, 0.0
        if b == 0.0 or mu == 0.0:
            return False
    log_b, log_mu = math.log(b), math.log(mu)
    if math.isinf(r):
        deviance = b * (log_b - log_mu) - (b - mu)
        terms = b * (abs(log_b) + abs(log_mu)) + mu
    else:
        change = (b - mu) / (mu + r)
        # below -1/2 the ratio itself is the exacter argument: 1 + change would round to 0
        pull = (b + r) * (math.log1p(change) if change > -0.5 else math.log((b + r) / (mu + r)))
        deviance = b * (log_b - log_mu) - pull
        terms = b * (abs(log_b) + abs(log_mu)) + 4.0 * abs(pull) + abs(b - mu) + mu
    return deviance - 2.0**-48 * terms > 745.2 + margin


@kernel
def mode_of(mu: float, r: float) -> float:
    """Most probable count (to a rounding error, which moves the start of a sum and no result)."""
    if math.isinf(r):
        return float(np.floor(mu))  # math.floor would make an int64 of it
    return float(np.floor(mu * ((r - 1.0) / r))) if r > 1.0 else 0.0


@kernel
def terms_from_mode(k: float, mu: float, r: float) -> float:
    """Estimate of what `sum_from_mode` needs: 30 standard deviations, the geometric tail, the way to k."""
    if math.isinf(r):
        return 30.0 * math.sqrt(mu) + 100.0 + abs(k - mu)
    return 30.0 * math.sqrt(mu) * math.sqrt(1.0 + mu / r) + 100.0 * (1.0 + mu / r) + abs(k - mu)


@kernel
def log_slope_in_mu(k: float, mu: float, r: float) -> Scaled:
    """Derivative d log p_k / dmu = r (k - mu) / (mu (mu + r)) for mu > 0."""
    relative = sc_div(sc_sum(k, -mu), sc(mu))
    if math.isinf(r):
        return relative
    return sc_mul(relative, sc_div(sc(r), sum_of_parameters(mu, r)))


@kernel
def log_slope_in_r_without_mean(k: float, r: float, max_terms: int) -> tuple[Scaled, int]:
    """Score sum_{j<k} 1/(r+j) - k/r at mu = 0, written as the sum of -j / (r (r+j))."""
    if k >= max_terms:
        return sc(0.0), -1
    total = sc(0.0)
    j = 1.0
    while j < k:
        total = sc_sub(total, sc_div(sc(j), sc_mul(sc(r), count_plus(j, r))))
        j += 1.0
    return total, int(k) + 1
