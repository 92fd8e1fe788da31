"""Generate `tests/data/negative_binomial_second.csv` with Arb: d²F/dr² and what differences make of it.

Run from the repository root: `python scripts/make_second_derivatives.py`. The result is committed; a test
computes some of its rows again.
"""

from __future__ import annotations

import itertools
from pathlib import Path

from flint import arb, ctx

BITS = 400
NUDGE = 2.0**-100  # of the derivatives, relative: its square is far below float64 and far above 2^-BITS
STEP = 2.0**-9  # of torchimpl.kernels.negative_binomial_second
TARGET = Path(__file__).parents[1] / "tests" / "data" / "negative_binomial_second.csv"
HEADER = """\
# d2F/dr2 of the negative-binomial CDF, mean mu, dispersion r; and T/r2 (G' - G + G2) with the small tail T,
# G = dlogT/dlogr and the fourth-order difference of G, step 2^-9 in log r, for G'. 400-bit Arb, all in hex.
k,mu,r,d_r_r,by_difference
"""
POINTS = tuple(
    (float(k), round((k + 1.0) * share, 6), r)
    for k, r, share in itertools.product(
        (1, 5, 20, 66), (1e-3, 0.3, 0.97, 1.9, 2.4, 6.0, 30.0, 66.0, 900.0), (0.02, 0.6, 1.0, 1.3)
    )
)


def _tail(k: float, mu: arb, r: arb, upper: bool) -> arb:
    x, a, b = (r, r, arb(k) + 1) if upper else (mu, arb(k) + 1, r)
    return (x / (r + mu)).beta_lower(a, b, regularized=True)


def _log_slope(k: float, mu: arb, r: arb, upper: bool) -> arb:
    h = arb(NUDGE)
    ahead, behind = (_tail(k, mu, r * (sign * h).exp(), upper).log() for sign in (1, -1))
    return (ahead - behind) / (2 * h)


def second(k: float, mu: float, r: float) -> tuple[float, float]:
    """Both numbers of a row."""
    ctx.prec = BITS
    mean, size, h, upper = arb(mu), arb(r), arb(NUDGE), mu >= k + 1.0
    tail = _tail(k, mean, size, upper)
    ahead, behind = (_tail(k, mean, size * (1 + sign * h), upper) for sign in (1, -1))
    sign = 1 if upper else -1
    exact = sign * (ahead - 2 * tail + behind) / (size * h) ** 2
    slope = _log_slope(k, mean, size, upper)
    outer = sum(
        (
            weight * _log_slope(k, mean, size * (arb(offset) * STEP).exp(), upper)
            for offset, weight in ((1, 8), (-1, -8), (2, -1), (-2, 1))
        ),
        arb(0),
    )
    difference = sign * tail / size**2 * (outer / (12 * arb(STEP)) - slope + slope**2)
    if min(exact.rel_accuracy_bits(), difference.rel_accuracy_bits()) < 60:
        raise ArithmeticError(f"{BITS} bits are too few at {(k, mu, r)}")
    return float(exact), float(difference)


def text() -> str:
    """The whole file."""
    rows = [",".join(value.hex() for value in (*point, *second(*point))) for point in POINTS]
    return HEADER + "\n".join(rows) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
    print(f"wrote {TARGET}")
