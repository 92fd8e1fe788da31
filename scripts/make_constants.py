"""Generate `torchimpl/kernels/negative_binomial_constants.py` with mpmath.

Run from the repository root: `python scripts/make_constants.py`. The result is committed; a test regenerates
it and compares. mpmath, because numpy's 24-node Gauss-Legendre weights are wrong by up to hundreds of ulps.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mpmath as mp

DIGITS = 50
NODES, FINE_NODES = 24, 32
TARGET = Path(__file__).parents[1] / "torchimpl" / "kernels" / "negative_binomial_constants.py"

Function = Callable[[mp.mpf], mp.mpf]


def stirling(v: mp.mpf) -> mp.mpf:
    """z·(lgamma(z) - (z-1/2)·log z + z - log(2π)/2) at z = 1/v: Stirling's error over 1/z."""
    if v < mp.mpf("1e-9"):
        return mp.mpf(1) / 12 - v**2 / 360
    z = 1 / v
    return z * (mp.loggamma(z) - (z - mp.mpf(1) / 2) * mp.log(z) + z - mp.log(2 * mp.pi) / 2)


def log_minus_digamma(v: mp.mpf) -> mp.mpf:
    """(log z - digamma(z) - v/2) / v² at z = 1/v."""
    if v < mp.mpf("1e-9"):
        return mp.mpf(1) / 12 - v**2 / 120
    return (mp.log(1 / v) - mp.digamma(1 / v) - v / 2) / v**2


def centred_log(t: mp.mpf) -> mp.mpf:
    """`log_minus_digamma` in t = 2v-1: powers of a centred variable need no large coefficients."""
    return log_minus_digamma((t + 1) / 2)


def trigamma_excess(v: mp.mpf) -> mp.mpf:
    """(trigamma(z) - v - v²/2) / v³ at z = 1/v."""
    if v < mp.mpf("1e-9"):
        return mp.mpf(1) / 6 - v**2 / 30
    return (mp.psi(1, 1 / v) - v - v**2 / 2) / v**3


def centred_trigamma(t: mp.mpf) -> mp.mpf:
    """`trigamma_excess` in t = 2v-1."""
    return trigamma_excess((t + 1) / 2)


def atanh_tail(t: mp.mpf) -> mp.mpf:
    """Σ_j t^j / (2j+3) = (atanh(w)/w - 1) / w² at t = w²."""
    if t < mp.mpf("1e-9"):
        return mp.mpf(1) / 3 + t / 5 + t**2 / 7
    w = mp.sqrt(t)
    return (mp.atanh(w) / w - 1) / t


def exp_tail(t: mp.mpf) -> mp.mpf:
    """(e^t - 1 - t) / t²."""
    if abs(t) < mp.mpf("1e-9"):
        return mp.mpf(1) / 2 + t / 6 + t**2 / 24
    return (mp.expm1(t) - t) / t**2


def chebyshev_fit(function: Function, degree: int, low: float, high: float) -> list[mp.mpf]:
    """Monomial coefficients of the interpolant at the Chebyshev points of [low, high]."""
    count = degree + 1
    middle, radius = (mp.mpf(high) + low) / 2, (mp.mpf(high) - low) / 2
    points = [middle + radius * mp.cos(mp.pi * (2 * i + 1) / (2 * count)) for i in range(count)]
    vandermonde = mp.matrix(count, count)
    for i, point in enumerate(points):
        for j in range(count):
            vandermonde[i, j] = point**j
    return list(mp.lu_solve(vandermonde, mp.matrix([function(point) for point in points])))


def largest_error(function: Function, coefficients: list[mp.mpf], low: float, high: float) -> mp.mpf:
    """Largest absolute error on 101 equidistant points."""
    points = [mp.mpf(low) + (mp.mpf(high) - low) * i / 100 for i in range(101)]
    return max(abs(mp.polyval(coefficients[::-1], point) - function(point)) for point in points)


def legendre_pair(count: int, x: mp.mpf) -> tuple[mp.mpf, mp.mpf]:
    """The Legendre polynomial of degree `count` at x, and its derivative."""
    before, value = mp.mpf(1), x
    for n in range(2, count + 1):
        before, value = value, ((2 * n - 1) * x * value - (n - 1) * before) / n
    return value, count * (x * value - before) / (x**2 - 1)


def legendre_rule(count: int) -> tuple[list[mp.mpf], list[mp.mpf]]:
    """Nodes and weights of the Gauss-Legendre rule on [0, 1]."""
    nodes, weights = [], []
    for i in range(count):
        x = -mp.cos(mp.pi * (i + mp.mpf(3) / 4) / (count + mp.mpf(1) / 2))
        for _ in range(8):  # Newton doubles the digits from an excellent guess
            value, slope = legendre_pair(count, x)
            x -= value / slope
        _, slope = legendre_pair(count, x)
        nodes.append((1 + x) / 2)
        weights.append(1 / ((1 - x**2) * slope**2))
    # the rule is exact for polynomials up to degree 2·count - 1
    for power in (0, 1, 2 * count - 1):
        defect = mp.fsum(w * x**power for w, x in zip(weights, nodes, strict=True)) - mp.mpf(1) / (power + 1)
        if abs(defect) > mp.mpf(10) ** (10 - DIGITS):
            raise ArithmeticError(f"the Gauss-Legendre rule misses x^{power} by {mp.nstr(defect, 3)}")
    return nodes, weights


# name, what it approximates, function, degree, interval, largest admissible error
FITS: tuple[tuple[str, str, Function, int, float, float, str], ...] = (
    ("STIRLING", "z · (Stirling error of lgamma(z)) in v = 1/z", stirling, 25, 0, 1, "6e-19"),
    ("LOG_MINUS_DIGAMMA", "(log z - digamma(z) - v/2)/v², v = 1/z, in 2v-1", centred_log, 24, -1, 1, "2e-17"),
    ("TRIGAMMA_EXCESS", "(trigamma(z) - v - v²/2)/v³ in v = 1/z", trigamma_excess, 22, 0, 1, "3e-15"),
    ("ATANH_NEAR", "(atanh(w)/w - 1)/w² in w²", atanh_tail, 9, 0, 1 / 16, "1e-18"),
    ("ATANH_WIDE", "(atanh(w)/w - 1)/w² in w²", atanh_tail, 13, 0, 1 / 4, "1e-17"),
    ("EXP_TAIL", "(e^t - 1 - t)/t² in t", exp_tail, 16, -1.6, 1.6, "1e-17"),
    # what remains of a logarithm and of an exponential once the power of two is taken out
    ("ATANH_CORE", "(atanh(w)/w - 1)/w² in w²", atanh_tail, 6, 0, 0.0295, "1e-15"),
    ("EXP_CORE", "(e^t - 1 - t)/t² in t", exp_tail, 10, -0.347, 0.347, "2e-18"),
    (
        "TRIGAMMA_CENTRED",
        "(trigamma(z) - v - v²/2)/v³, v = 1/z, in 2v-1",
        centred_trigamma,
        26,
        -1,
        1,
        "6e-17",
    ),
)


def split_log_2() -> tuple[mp.mpf, mp.mpf]:
    """The logarithm of 2 as 32 bits, whose products with exponents of two are exact, and the rest."""
    high = mp.floor(mp.log(2) * 2**32) / 2**32
    return high, mp.log(2) - high


def listing(name: str, values: list[mp.mpf]) -> str:
    """One tuple of floats as source text."""
    return f"{name} = (\n" + "".join(f"    {float(value)!r},\n" for value in values) + ")\n"


def module_text() -> str:
    """The whole generated module."""
    mp.mp.dps = DIGITS
    parts = ['"""Generated by scripts/make_constants.py; do not edit."""\n']
    for name, meaning, function, degree, low, high, limit in FITS:
        coefficients = chebyshev_fit(function, degree, low, high)
        error = largest_error(function, coefficients, low, high)
        if error > mp.mpf(limit):
            raise ArithmeticError(f"{name}: error {mp.nstr(error, 3)} exceeds {limit}")
        parts.append(
            f"# {meaning}, on [{low}, {high}]; error {mp.nstr(error, 2)}\n" + listing(name, coefficients)
        )
    for prefix, count in (("", NODES), ("FINE_", FINE_NODES)):
        nodes, weights = legendre_rule(count)
        parts.append(
            f"# Gauss-Legendre rule on [0, 1], {count} nodes\n"
            + listing(f"{prefix}NODES", nodes)
            + listing(f"{prefix}WEIGHTS", weights)
        )
    high, low = split_log_2()
    parts.append(
        "# log 2 = high + low: high has 32 bits, so that its products with exponents of two are exact\n"
        f"LN2_HIGH = {float(high)!r}\nLN2_LOW = {float(low)!r}\n"
    )
    return "\n".join(parts)


if __name__ == "__main__":
    TARGET.write_text(module_text(), encoding="utf-8")
    print(f"wrote {TARGET}")
