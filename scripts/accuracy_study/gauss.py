"""The small tail and its derivatives in r by Gauss-Legendre quadrature, with a proven error, in Arb balls.

With m = mu e^v the tail is an integral of f0(m) = m^b r^r (r+m)^-(r+b) / B(r, b) over log m, away from the
mode:

    T = f0(mu) int_0^inf exp(phi(u)) du,   phi(u) = b v - (r+b) log(x + y e^v),   v = u (mu >= b) or -u,

and d/dr goes under the integral, where log f0 has the derivative g(m) = log r + 1 - log(r+m) - (r+b)/(r+m)
+ digamma(r+b) - digamma(r). The integrand is analytic for |Im u| < pi. The radius holds what is left out:

* beyond the end W: phi is concave, so exp(phi) <= exp(phi(W) - s (u-W)) there, s = -phi'(W);
* of n nodes: 64/15 M rho^-2n / (1 - rho^-2) times half the length, M the largest value on the ellipse with
  foci at both ends and sum of half-axes rho (Trefethen 2008, theorem 4.5), found by covering it with boxes.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

from flint import acb, arb, ctx

NODES = 160
DROP = 175.0  # nats: what is left out is near 2^-250
ARCS = 24
ELLIPSES = (1.7, 2.2, 2.8, 3.6, 4.6)
WIDEST = 3.0  # of the imaginary part, below pi
BOUND_BITS = 64


class Law(NamedTuple):
    """One point as exact balls."""

    b: arb
    mu: arb
    r: arb
    c: arb  # r + b
    s: arb  # r + mu
    upper: bool


class Weights(NamedTuple):
    """g = p - log(q) - c/q with q = r+m, and its derivative in r, d - 2/q + c/q^2."""

    p: arb
    d: arb


def law(k: float, mu: float, r: float) -> Law:
    """The point, at the present precision."""
    b, mean, size = arb(k) + 1, arb(mu), arb(r)
    return Law(b, mean, size, size + b, size + mean, mu >= k + 1.0)


def trigamma(z: arb) -> arb:
    """The derivative of digamma."""
    return acb(z).polygamma(acb(1)).real


def weights(point: Law) -> Weights:
    """What of g does not depend on m."""
    r, c = point.r, point.c
    p = r.log() + 1 + c.digamma() - r.digamma()
    return Weights(p, 1 / r + trigamma(c) - trigamma(r))


def log_prefactor(point: Law) -> arb:
    """Evaluate log f0 at mu."""
    r, b, c, s = point.r, point.b, point.c, point.s
    return r * (r / s).log() + b * (point.mu / s).log() + c.lgamma() - r.lgamma() - b.lgamma()


@functools.cache
def rule(nodes: int, bits: int) -> list[tuple[arb, arb]]:
    """Nodes on [0, 1] and their weights."""
    before, ctx.prec = ctx.prec, bits
    try:
        found = [arb.legendre_p_root(nodes, i, weight=True) for i in range(nodes)]
        return [((1 + node) / 2, weight / 2) for node, weight in found]
    finally:
        ctx.prec = before


def end_of(point: Law, drop: float) -> float:
    """Where the integrand has fallen by about exp(-drop); any value is right, a good one is accurate."""
    sign, x, y = (1 if point.upper else -1), point.r / point.s, point.mu / point.s

    def fallen(u: float) -> float:
        v = sign * arb(u)
        return float(point.c * (x + y * v.exp()).log() - point.b * v)

    low, high = 0.0, 2.0**-60
    while fallen(high) < drop:
        low, high = high, 2.0 * high
    for _ in range(6):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if fallen(middle) < drop else (low, middle)
    return high


def node_error(point: Law, w: Weights, end: float, nodes: int) -> list[arb]:
    """Bounds of what the nodes miss of the integrals of 1, g and g^2 + dg/dr; inf where none is found."""
    best = [arb("inf")] * 3
    for rho in ELLIPSES:
        if 0.25 * end * (rho - 1.0 / rho) > WIDEST:
            break
        largest = _largest(point, w, end, rho)
        factor = arb(end) / 2 * 64 / 15 / (1 - arb(rho) ** -2) * arb(rho) ** (-2 * nodes)
        bounds = [(factor * value).upper() for value in largest]
        best = [min(old, new) for new, old in zip(bounds, best, strict=True)]
    return best


def _largest(point: Law, w: Weights, end: float, rho: float) -> list[arb]:
    """Upper bounds of the three integrands on the ellipse: on every box phi(centre) + |phi'(box)| radius."""
    sign = 1 if point.upper else -1
    b, c, r, mu = point.b, point.c, point.r, point.mu
    half, wide, high = arb(end) / 2, (arb(rho) + 1 / arb(rho)) / 2, (arb(rho) - 1 / arb(rho)) / 2
    largest = [arb(0)] * 3
    for arc in range(ARCS):
        angle = arb((arc + 0.5) / ARCS, 0.5 / ARCS)
        sine, cosine = angle.sin_cos_pi()
        box = acb(half * (1 + wide * cosine), half * high * sine)
        centre = acb(box.real.mid(), box.imag.mid())
        m = mu * (sign * box).exp()
        q = r + m
        slope = abs(r * (c / q - 1))  # b - c m/(r+m), with m in one place
        middle = sign * b * centre - c * ((r + mu * (sign * centre).exp()) / point.s).log()
        size = (middle.real + slope * abs(box - centre).upper()).exp()
        g = w.p - q.log() - c / q
        change = w.d - 2 / q + c / (q * q)
        values = (size, size * abs(g), size * abs(g * g + change))
        largest = [_larger(value.upper(), old) for value, old in zip(values, largest, strict=True)]
    return largest


def _larger(new: arb, old: arb) -> arb:
    return old if new <= old or old.is_nan() else new  # NaN stays: no bound was found


def rest(point: Law, w: Weights, end: float) -> list[arb]:
    """Bounds of the three integrals beyond the end."""
    sign = 1 if point.upper else -1
    b, c, r = point.b, point.c, point.r
    m = point.mu * (sign * arb(end)).exp()
    q = r + m
    slope = abs(r * (c / q - 1))
    size = (sign * b * arb(end) - c * (q / point.s).log()).exp()
    # |g| grows by at most `rise` per unit of u: |d g/d log m| = |m-b| m/(r+m)^2
    rise, g = 1 + b / (4 * r), abs(w.p - q.log() - c / q)
    change = abs(w.d) + 2 / r + c / (r * r)
    return [
        size / slope,
        size * (g / slope + rise / slope**2),
        size * ((g * g + change) / slope + 2 * g * rise / slope**2 + 2 * rise * rise / slope**3),
    ]


def tail(k: float, mu: float, r: float, bits: int, nodes: int = NODES, drop: float = DROP) -> list[arb]:
    """Enclosures of T, dT/dr and d2T/dr2 at fixed mu; meant for r and k+1 of 40 and more."""
    size = max(0, math.frexp(max(k, mu, r))[1])
    ctx.prec = BOUND_BITS + 2 * size
    coarse = law(k, mu, r)
    end = end_of(coarse, drop)
    missed = [
        left + right
        for left, right in zip(
            node_error(coarse, weights(coarse), end, nodes), rest(coarse, weights(coarse), end), strict=True
        )
    ]
    ctx.prec = bits
    point = law(k, mu, r)
    w, sign = weights(point), (1 if point.upper else -1)
    b, c, mean, size_r = point.b, point.c, point.mu, point.r
    log_s = point.s.log()
    sums = [arb(0)] * 3
    length = arb(end)
    for node, weight in rule(nodes, bits):
        v = sign * length * node
        q = size_r + mean * v.exp()
        log_q, inverse = q.log(), 1 / q
        share = weight * (b * v - c * (log_q - log_s)).exp()
        pull = c * inverse
        g = w.p - log_q - pull
        sums[0] += share
        sums[1] += share * g
        sums[2] += share * (g * g + w.d + (pull - 2) * inverse)
    f0 = log_prefactor(point).exp()
    return [f0 * (length * total + arb(0, error.upper())) for total, error in zip(sums, missed, strict=True)]
