"""The true F, S = 1-F and their derivatives, each in a ball whose radius is below 1e-50 of what it encloses.

The inputs are the very floating-point numbers. The derivatives in mu are closed forms. The smaller tail T and
its first two derivatives in r come from one of three routes:

* k up to SUM_LIMIT: the finite sum of the probabilities and of their derivatives, term by term;
* r and k+1 large: an integral with a proven bound of its error (`gauss`);
* elsewhere: Arb's incomplete beta function at r-h, r and r+h. T is analytic in r, so by Cauchy's estimate
  |T^(n)| <= n! M/R^n where |T| <= M on the disc of radius R about r; this bounds what the differences miss. M
  comes from |p_j(z)| <= |(z/(z+mu))^z| prod (|z|+i) / j! |mu/(z+mu)|^j: another law's tail, times a constant.

Precision is raised until every ball is narrow enough. `by_beta` and `by_sum` also check the other routes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from flint import acb, arb, ctx

from scripts.accuracy_study import gauss

ACCURATE_BITS = 168  # 2^-168 is below 1e-50
BITS = (340, 700, 1500, 3200, 7000, 15000)
SUM_LIMIT = 24
GAUSS_LIMIT = 40.0
STEP_BITS = 112  # h = R 2^-112 at the first precision
VANISHING = -1500.0  # log of a tail that is 0 in float64 with all its derivatives


class Truth(NamedTuple):
    """What is true at one point; every field is a ball."""

    cdf: arb
    sf: arb
    d_mu: arb
    d_r: arb
    d_mu_mu: arb
    d_mu_r: arb
    d_r_r: arb
    tail: arb  # min(F, S)
    condition: arb  # (mu |dF/dmu| + r |dF/dr|) / tail
    scale_r: arb  # tail · smax: the size of what cancels in dF/dr
    scale_mu_mu: arb
    scale_mu_r: arb
    scale_r_r: arb


class OutOfReachError(ArithmeticError):
    """No precision in `BITS` was enough."""


def truth(k: float, mu: float, r: float) -> Truth:
    """Enclosures at one point, 0 <= k, 0 < mu < inf, 0 < r < inf; k is an integer.

    Raises:
        OutOfReachError: no precision was enough.
    """
    for bits in BITS:
        found = _at(k, mu, r, bits)
        if found is not None:
            return found
    raise OutOfReachError(f"k={k!r}, mu={mu!r}, r={r!r}")


def _at(k: float, mu: float, r: float, bits: int) -> Truth | None:
    """Everything at one precision; None where a ball is too wide."""
    small, slope, bend = (arb(0), arb(0), arb(0)) if vanishes(k, mu, r) else route(k, mu, r)(k, mu, r, bits)
    ctx.prec = bits
    point = gauss.law(k, mu, r)
    w = gauss.weights(point)
    b, c, s, mean, size = point.b, point.c, point.s, point.mu, point.r
    rest, sign = 1 - small, (1 if point.upper else -1)
    d_mu = -gauss.log_prefactor(point).exp() / mean
    score = w.p - s.log() - c / s
    smax = (size.log() - size.digamma()) - (c.log() - c.digamma())
    bend_max = 1 / c - w.d  # -d smax/dr > 0
    lower = min(small, rest)
    pulls = (b - 1) / mean, c / s
    d_r, d_r_r = sign * slope, sign * bend
    steady = lower > 0
    condition = (mean * abs(d_mu) + size * abs(d_r)) / lower if steady else arb(0)
    found = Truth(
        cdf=small if point.upper else rest,
        sf=rest if point.upper else small,
        d_mu=d_mu,
        d_r=d_r,
        d_mu_mu=d_mu * (pulls[0] - pulls[1]),
        d_mu_r=d_mu * score,
        d_r_r=d_r_r,
        tail=lower,
        condition=condition,
        scale_r=lower * smax,
        scale_mu_mu=abs(d_mu) * (pulls[0] + pulls[1]),
        scale_mu_r=abs(d_mu) * (2 * smax - score),
        scale_r_r=lower * (smax * smax + bend_max),
    )
    return found if narrow(found) else None


def narrow(found: Truth) -> bool:
    """Whether every ball is narrow: beside itself, or (derivatives with a zero) beside what cancels in it."""
    scales = {"d_r": "scale_r", "d_mu_mu": "scale_mu_mu", "d_mu_r": "scale_mu_r", "d_r_r": "scale_r_r"}
    for name, value in found._asdict().items():
        if value.is_exact():
            continue
        beside = value.abs_lower()
        if name in scales:
            beside = beside.max(getattr(found, scales[name]).abs_lower())
        if not value.rad() <= beside * arb(2) ** -ACCURATE_BITS:
            return False
    return True


def route(k: float, mu: float, r: float) -> Callable[[float, float, float, int], list[arb]]:
    """Which way to T, dT/dr and d2T/dr2."""
    del mu
    if k <= SUM_LIMIT:
        return by_sum
    return by_gauss if min(r, k + 1.0) >= GAUSS_LIMIT else by_beta


def vanishes(k: float, mu: float, r: float) -> bool:
    """Chernoff's bound: whether the smaller tail is far below anything that float64 holds."""
    ctx.prec = 128 + 2 * max(0, math.frexp(max(k, mu, r))[1])
    point = gauss.law(k, mu, r)
    r_, c, s = point.r, point.c, point.s
    # P(Y >= b) for b >= mu, P(Y <= k) <= P(Y <= b) for b <= mu; both at most exp(-D(b))
    exponent = r_ * (c / s).log() + point.b * (c * point.mu / (point.b * s)).log()
    return bool(exponent + 2 * max(0.0, -math.log(r)) < VANISHING)


def by_gauss(k: float, mu: float, r: float, bits: int) -> list[arb]:
    """By quadrature: more nodes and a further end where more is asked for."""
    more = bits // BITS[0]
    return gauss.tail(k, mu, r, bits, gauss.NODES * more, gauss.DROP * more)


def by_sum(k: float, mu: float, r: float, bits: int) -> list[arb]:
    """Sums over j <= k of p_j, p_j s_j and p_j (s_j^2 + ds_j/dr), or 1 minus them."""
    ctx.prec = bits
    point = gauss.law(k, mu, r)
    size, mean, s = point.r, point.mu, point.s
    x, y = size / s, mean / s
    log_x = x.log()
    mass, score, change = (size * log_x).exp(), log_x + y, y * y / size
    sums = [arb(0)] * 3
    for j in range(int(k) + 1):
        terms = (mass, mass * score, mass * (score * score + change))
        sums = [total + term for total, term in zip(sums, terms, strict=True)]
        # p_{j+1} = p_j y (r+j)/(j+1); log of it differentiated
        reach = size + j
        mass = mass * y * reach / (j + 1)
        score = score + 1 / reach - 1 / s
        change = change - 1 / reach**2 + 1 / s**2
    return sums if point.upper else [1 - sums[0], -sums[1], -sums[2]]


def beta_tail(point: gauss.Law, size: arb) -> arb:
    """The tail on the side of `point` for another dispersion."""
    s = size + point.mu
    if point.upper:
        return (size / s).beta_lower(size, point.b, regularized=True)
    return (point.mu / s).beta_lower(point.b, size, regularized=True)


def by_beta(k: float, mu: float, r: float, bits: int) -> list[arb]:
    """By Arb's incomplete beta function and differences with a proven bound of what they miss."""
    ctx.prec = 64 + 2 * max(0, math.frexp(max(k, mu, r))[1])
    steps = STEP_BITS * (bits // BITS[0])
    shrink = 6 + max(0, math.frexp(k + 1.0)[1])
    point = gauss.law(k, mu, r)
    radius = point.r * arb(2) ** -shrink
    largest = _largest_on_disc(point, radius)
    q = arb(2) ** (-2 * steps)
    missed = (largest / radius * q / (1 - q)).upper(), (2 * largest / radius**2 * q / (1 - q)).upper()
    ctx.prec = bits + 2 * (steps + shrink)
    exact = gauss.law(k, mu, r)
    h = exact.r * arb(2) ** -(shrink + steps)
    below, here, above = (beta_tail(exact, exact.r + i * h) for i in (-1, 0, 1))
    slope, bend = (above - below) / (2 * h), (above - 2 * here + below) / (h * h)
    return [here, slope + arb(0, missed[0]), bend + arb(0, missed[1])]


def _largest_on_disc(point: gauss.Law, radius: arb) -> arb:
    """An upper bound of |T| for complex dispersions within `radius` of r."""
    wide, near = point.r + radius, point.r - radius
    disc = acb(arb(point.r.mid(), radius.upper()), arb(0, radius.upper()))
    # z log(z/(z+mu)) moves by at most |log(x) + y| radius: mean value form
    centre = point.r * (point.r / point.s).log()
    moves = abs((disc / (disc + point.mu)).log() + point.mu / (disc + point.mu)).upper() * radius
    x = near / (near + point.mu)
    other = (
        x.beta_lower(wide, point.b, regularized=True)
        if point.upper
        else (1 - x).beta_lower(point.b, wide, regularized=True)
    )
    return ((centre + moves).exp() * (-wide * x.log()).exp() * other).upper()
