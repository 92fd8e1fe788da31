"""Polynomials of second derivatives of scalar InfoNCE: moments, Taylor coefficients and their evaluation.

With z and t the places of a source and of a row in [-1, 1], a pair weighs w exp(product·z·t), where |product|
is no more than RHO: a Taylor series in either place has coefficients from the moments in the other one.
"""

from __future__ import annotations

from torchimpl.kernels.concordance_sorted import FACTORIALS, TERMS, Array, compiled, summed

# up to two powers more than the polynomial has, rounded up to a multiple of four
MOMENTS = 4 * ((TERMS + 5) // 4)


@summed
def add_powers(weights: Array, z: Array, count: int, moments: Array) -> None:
    """Add Σ_j weights_j z_j^m to all moments, a multiple of four; the weights are used up."""
    for m in range(0, len(moments), 4):
        m0, m1, m2, m3 = 0.0, 0.0, 0.0, 0.0
        for j in range(count):
            step, term = z[j], weights[j]
            m0 += term
            term *= step
            m1 += term
            term *= step
            m2 += term
            term *= step
            m3 += term
            weights[j] = term * step
        moments[m] += m0
        moments[m + 1] += m1
        moments[m + 2] += m2
        moments[m + 3] += m3


@compiled
def three_series(moments: Array, product: float, width: float, series: Array) -> None:
    """Coefficients of Σ_j w_j v_j^k exp(product·z_j·t) in t, v = width·z, for k = 0, 1, 2: (3, TERMS)."""
    power = 1.0
    for m in range(TERMS):
        factor = power * FACTORIALS[m]
        series[0, m] = factor * moments[m]
        series[1, m] = factor * width * moments[m + 1]
        series[2, m] = factor * width * width * moments[m + 2]
        power *= product


@compiled
def add_row_sums(
    scale: Array, t: Array, shift: Array, series: Array, sum_0: Array, sum_1: Array, sum_2: Array
) -> None:
    """Add scale · Σ_j w_j (v_j + shift)^k exp(...) to the sums k = 0, 1, 2, from the three series."""
    for i in range(len(t)):
        p, q, r = series[0, TERMS - 1], series[1, TERMS - 1], series[2, TERMS - 1]
        for m in range(TERMS - 2, -1, -1):
            p = p * t[i] + series[0, m]
            q = q * t[i] + series[1, m]
            r = r * t[i] + series[2, m]
        away = shift[i]
        sum_0[i] += scale[i] * p
        sum_1[i] += scale[i] * (q + away * p)
        sum_2[i] += scale[i] * (r + away * (2.0 * q + away * p))


@compiled
def joined_series(moments: Array, product: float, width: float, series: Array) -> None:
    """Coefficients in z of Σ_k v^k Σ_i w_ik exp(product·t_i·z), v = width·z: three weights together."""
    series[:] = 0.0
    power = 1.0
    for m in range(TERMS):
        factor = power * FACTORIALS[m]
        series[m] += factor * moments[0, m]
        series[m + 1] += factor * width * moments[1, m]
        series[m + 2] += factor * width * width * moments[2, m]
        power *= product


@compiled
def add_columns(
    weights: Array,
    z: Array,
    u: Array,
    mean_u: float,
    reach: float,
    series: Array,
    by_u: Array,
    columns: Array,
) -> None:
    """Add weights · (P(z) + (u - mean_u)·reach·Q(z))."""
    for j in range(len(z)):
        p, q = series[TERMS + 1], by_u[TERMS + 1]
        for m in range(TERMS, -1, -1):
            p = p * z[j] + series[m]
            q = q * z[j] + by_u[m]
        columns[j] += weights[j] * (p + (u[j] - mean_u) * reach * q)
