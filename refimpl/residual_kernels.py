"""Scalar loops of the residual oracle: exact residuals, their gradients, and exact sums of these."""

import math

import numpy as np

from refimpl.arithmetic import dd, dd_frexp, dd_mul, kernel
from refimpl.exact_sum import (
    LIMBS,
    FloatArray,
    IntArray,
    add_product,
    exact_difference,
    read_sum,
    scaled_product,
)


@kernel
def _all_finite(y1: float, mu1: float, y2: float, mu2: float, s: float, weight: float) -> bool:
    return (
        math.isfinite(y1)
        and math.isfinite(mu1)
        and math.isfinite(y2)
        and math.isfinite(mu2)
        and math.isfinite(s)
        and math.isfinite(weight)
    )


@kernel
def _add_residual(
    limbs: IntArray, y1: float, mu1: float, y2: float, mu2: float, s: float, a: float, b: float, n: int
) -> None:
    """Add e a b 2^n exactly: (d1 - s d2) a b 2^n with the exact differences d1 and d2."""
    d1, shift1 = exact_difference(y1, mu1)
    d2, shift2 = exact_difference(y2, mu2)
    for part in d1:
        add_product(limbs, part, a, b, 1.0, n + shift1)
    for part in d2:
        add_product(limbs, part, a, b, -s, n + shift2)


@kernel
def residuals(
    y1: FloatArray, mu1: FloatArray, y2: FloatArray, mu2: FloatArray, s: FloatArray
) -> tuple[FloatArray, FloatArray, IntArray]:
    """Exact e, rounded to a double-double: (high + low) 2^exponent."""
    high, low = np.zeros(y1.size), np.zeros(y1.size)
    exponent = np.zeros(y1.size, np.int64)
    limbs = np.zeros(LIMBS, np.int64)
    for i in range(y1.size):
        if _all_finite(y1[i], mu1[i], y2[i], mu2[i], s[i], 1.0):
            _add_residual(limbs, y1[i], mu1[i], y2[i], mu2[i], s[i], 1.0, 1.0, 0)
            (high[i], low[i]), exponent[i] = read_sum(limbs)
        else:
            high[i] = (y1[i] - mu1[i]) - s[i] * (y2[i] - mu2[i])
    return high, low, exponent


@kernel
def gradient_elements(
    y1: FloatArray,
    mu1: FloatArray,
    y2: FloatArray,
    mu2: FloatArray,
    s: FloatArray,
    weights: FloatArray,
    divisor: int,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Elementwise gradients 2 e w / divisor times (1, -s, -(y2 - mu2))."""
    high, low, exponent = residuals(y1, mu1, y2, mu2, s)
    g_d1, g_d2, g_s = np.zeros(y1.size), np.zeros(y1.size), np.zeros(y1.size)
    for i in range(y1.size):
        e, n = (high[i], low[i]), exponent[i] + 1
        g_d1[i] = scaled_product(e, n, weights[i], divisor)
        ratio, n_ratio = dd_frexp(dd(-s[i]))
        g_d2[i] = scaled_product(dd_mul(e, ratio), n + n_ratio, weights[i], divisor)
        difference, shift = exact_difference(mu2[i], y2[i])
        d2, n_d2 = dd_frexp(difference)
        g_s[i] = scaled_product(dd_mul(e, d2), n + n_d2 + shift, weights[i], divisor)
    return g_d1, g_d2, g_s


@kernel
def gradient_sums(
    y1: FloatArray,
    mu1: FloatArray,
    y2: FloatArray,
    mu2: FloatArray,
    s: FloatArray,
    weights: FloatArray,
    divisor: int,
) -> tuple[float, float, float]:
    """Sums of the three elementwise gradients over the batch, each exact until its one rounding."""
    finite = True
    limbs = np.zeros((3, LIMBS), np.int64)
    for i in range(y1.size):
        if weights[i] == 0.0:
            continue
        finite = finite and _all_finite(y1[i], mu1[i], y2[i], mu2[i], s[i], weights[i])
        if not finite:
            break
        _add_residual(limbs[0], y1[i], mu1[i], y2[i], mu2[i], s[i], weights[i], 1.0, 0)
        _add_residual(limbs[1], y1[i], mu1[i], y2[i], mu2[i], s[i], weights[i], -s[i], 0)
        d2, shift = exact_difference(mu2[i], y2[i])
        for part in d2:
            _add_residual(limbs[2], y1[i], mu1[i], y2[i], mu2[i], s[i], weights[i], part, shift)
    if not finite:
        elements = gradient_elements(y1, mu1, y2, mu2, s, weights, divisor)
        return elements[0].sum(), elements[1].sum(), elements[2].sum()
    sum_d1, n_d1 = read_sum(limbs[0])
    sum_d2, n_d2 = read_sum(limbs[1])
    sum_s, n_s = read_sum(limbs[2])
    return (
        scaled_product(sum_d1, n_d1 + 1, 1.0, divisor),
        scaled_product(sum_d2, n_d2 + 1, 1.0, divisor),
        scaled_product(sum_s, n_s + 1, 1.0, divisor),
    )
