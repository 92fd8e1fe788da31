"""Scalar loops of the InfoNCE oracle; `refimpl.concordance` says what they compute and why they are exact.

Coordinates come as parts (B, D, C), each coordinate the exact sum of its C parts: (reads, -mu) is a residual
that was never rounded. Tables of `Wide` have their three numbers on the last axis.
"""

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from refimpl.arithmetic import FLOAT64_MAX, kernel
from refimpl.elementary import dd_log, dd_log1p
from refimpl.extended import (
    Integers,
    Wide,
    add_product,
    limbs_needed,
    round_sum,
    split,
    wide,
    wide_add,
    wide_div,
    wide_exp,
    wide_mul,
    wide_neg,
    wide_to_float,
)

Wides: TypeAlias = npt.NDArray[np.float64]  # the last axis holds hi, lo, n
Split: TypeAlias = tuple[Integers, Integers]  # mantissas and exponents, (B, D, C)
Rows: TypeAlias = tuple[Split, Split, int, int]  # of res1, of res2, and the exponents' range

_ANCHORED = 2.0**20  # exponents up to here have absolute errors below 2^-80 without another anchor


@kernel
def _put(table: Wides, i: int, j: int, value: Wide) -> None:
    table[i, j, 0], table[i, j, 1], table[i, j, 2] = value[0], value[1], value[2]


@kernel
def _get(table: Wides, i: int, j: int) -> Wide:
    return table[i, j, 0], table[i, j, 1], int(table[i, j, 2])


@kernel
def _add_to(table: Wides, i: int, j: int, value: Wide) -> None:
    _put(table, i, j, wide_add(_get(table, i, j), value))


@kernel
def _coordinates(parts: npt.NDArray[np.float64]) -> Wides:
    """Sum the parts (B, D, C) of each coordinate."""
    total = np.zeros((parts.shape[0], parts.shape[1], 3))
    for i in range(parts.shape[0]):
        for k in range(parts.shape[1]):
            for c in range(parts.shape[2]):
                _add_to(total, i, k, wide((parts[i, k, c], 0.0)))
    return total


@kernel
def _split_rows(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> Rows:
    """Integers and exponents of the parts (B, D, C) of both sides."""
    mx, ex = np.zeros(x.shape, np.int64), np.zeros(x.shape, np.int64)
    my, ey = np.zeros(y.shape, np.int64), np.zeros(y.shape, np.int64)
    lowest_x, highest_x = split(x.ravel(), mx.ravel(), ex.ravel())
    lowest_y, highest_y = split(y.ravel(), my.ravel(), ey.ravel())
    return (mx, ex), (my, ey), min(lowest_x, lowest_y), max(highest_x, highest_y)


@kernel
def _row(side: Split, i: int) -> Split:
    return side[0][i], side[1][i]


@kernel
def _add_dot(limbs: Integers, a: Split, b: Split, lowest: int, factor: int) -> None:
    """Add factor a . b of two rows to the exact sum in units of 2^(2 lowest); factor is +-1 or +-2."""
    sign, doubled = (1 if factor > 0 else -1), abs(factor) - 1
    for k in range(a[0].shape[0]):
        for c in range(a[0].shape[1]):
            for d in range(b[0].shape[1]):
                shift = a[1][k, c] + b[1][k, d] - 2 * lowest + doubled
                add_product(limbs, a[0][k, c], b[0][k, d], shift, sign)


@kernel
def _exponents(rows: Rows, i: int, anchor: int, tau: Wide, z: Wides) -> Wide:
    """Fill z[0, j] with (d_i,anchor - d_ij) / tau and return d_i,anchor / tau."""
    lowest, highest = rows[2], rows[3]
    own, nearest = _row(rows[0], i), _row(rows[1], anchor)
    base = np.zeros(limbs_needed(lowest, highest), np.int64)
    limbs = np.zeros_like(base)
    _add_dot(base, nearest, nearest, lowest, 1)
    _add_dot(base, own, nearest, lowest, -2)
    for j in range(z.shape[1]):
        other = _row(rows[1], j)
        limbs[:] = base
        _add_dot(limbs, other, other, lowest, -1)
        _add_dot(limbs, own, other, lowest, 2)
        _put(z, 0, j, wide_div(round_sum(limbs, 2 * lowest), tau))
    limbs[:] = base
    _add_dot(limbs, own, own, lowest, 1)
    return wide_div(round_sum(limbs, 2 * lowest), tau)


@kernel
def _eps_exponent(distance: Wide, eps: float) -> Wide:
    """Exponent log eps + d / tau of the eps term; -2^600, of which exp is 0, for eps = 0."""
    if eps == 0.0:
        return wide((-(2.0**600), 0.0))
    return wide_add(wide(dd_log((eps, 0.0))), distance)


@kernel
def _largest(z: Wides) -> int:
    best = 0
    for j in range(1, z.shape[1]):
        if wide_add(_get(z, 0, j), wide_neg(_get(z, 0, best)))[0] > 0.0:
            best = j
    return best


@kernel
def _row_value(rows: Rows, i: int, tau: Wide, eps: float, z: Wides) -> Wide:
    """Return L_i, anchored at the positive."""
    eps_term = _eps_exponent(_exponents(rows, i, i, tau, z), eps)
    top = _get(z, 0, _largest(z))  # >= 0, the exponent of the positive itself
    if wide_add(eps_term, wide_neg(top))[0] > 0.0:
        top = eps_term
    rest = wide((0.0, 0.0))
    for j in range(z.shape[1]):
        if j != i or top[0] > 0.0:
            rest = wide_add(rest, wide_exp(wide_add(_get(z, 0, j), wide_neg(top))))
    rest = wide_add(rest, wide_exp(wide_add(eps_term, wide_neg(top))))
    if top[0] > 0.0:  # rest is the whole sum, the largest term 1 included
        return wide_add(top, wide(dd_log((rest[0], rest[1]))))
    if rest[2] < 0:  # log1p(rest) = rest to 2^-256
        return rest
    return wide(dd_log1p((rest[0], rest[1])))


@kernel
def row_values(
    x: npt.NDArray[np.float64],
    y: npt.NDArray[np.float64],
    tau: float,
    eps: float,
    counted: npt.NDArray[np.bool_],
) -> Wides:
    """Return all L_i as wides (1, B, 3); NaN where a row is not counted as finite."""
    rows = _split_rows(x, y)
    z = np.zeros((1, x.shape[0], 3))
    values = np.zeros((1, x.shape[0], 3))
    for i in range(x.shape[0]):
        if counted[i]:
            _put(values, 0, i, _row_value(rows, i, wide((tau, 0.0)), eps, z))
        else:
            _put(values, 0, i, (math.nan, 0.0, 0))
    return values


@kernel
def _saturated(x: Wide) -> float:
    return min(wide_to_float(x), FLOAT64_MAX) if x[0] == x[0] else math.nan


@kernel
def reduce(values: Wides, mean: bool) -> float:
    """Sum or mean of the rows, rounded once and saturated."""
    total = wide((0.0, 0.0))
    for i in range(values.shape[1]):
        total = wide_add(total, _get(values, 0, i))
    return _saturated(wide_div(total, wide((float(values.shape[1]), 0.0))) if mean else total)


@kernel
def each(values: Wides) -> npt.NDArray[np.float64]:
    """Round each row, saturated."""
    result = np.empty(values.shape[1])
    for i in range(result.size):
        result[i] = _saturated(_get(values, 0, i))
    return result


@kernel
def _anchored_exponents(rows: Rows, i: int, tau: Wide, eps: float, z: Wides) -> Wide:
    """Fill z with exponents anchored at their largest; return that of the eps term on the same anchor."""
    anchor = i
    distance = _exponents(rows, i, anchor, tau, z)
    best = _largest(z)
    # the rounding 2^-105 of a huge exponent can hide the largest term: again, until the largest is small
    while _get(z, 0, best)[2] > 0 or _get(z, 0, best)[0] > _ANCHORED:
        anchor = best
        distance = _exponents(rows, i, anchor, tau, z)
        best = _largest(z)
    return _eps_exponent(distance, eps)


@kernel
def _weights(rows: Rows, i: int, tau: Wide, eps: float, weights: Wides) -> tuple[Wide, Wide]:
    """Turn a row's table into p_ij and return (q_i, sum_{j != i} p_ij + q_i)."""
    eps_term = _anchored_exponents(rows, i, tau, eps, weights)
    top = _get(weights, 0, _largest(weights))
    if wide_add(eps_term, wide_neg(top))[0] > 0.0:
        top = eps_term
    unmatched = wide_exp(wide_add(eps_term, wide_neg(top)))
    others = unmatched
    for j in range(weights.shape[1]):
        term = wide_exp(wide_add(_get(weights, 0, j), wide_neg(top)))
        _put(weights, 0, j, term)
        if j != i:
            others = wide_add(others, term)
    total = wide_add(others, _get(weights, 0, i))
    for j in range(weights.shape[1]):
        _put(weights, 0, j, wide_div(_get(weights, 0, j), total))
    return wide_div(unmatched, total), wide_div(others, total)


@kernel
def gradients(
    x: npt.NDArray[np.float64],
    y: npt.NDArray[np.float64],
    settings: tuple[float, float, float],
    cotangents: npt.NDArray[np.float64],
    counted: npt.NDArray[np.bool_],
) -> tuple[Wides, Wides]:
    """Return both gradients (B, D, 3) of sum_i cotangent_i L_i / divisor; settings are tau, eps, divisor."""
    tau, eps, divisor = settings
    rows = _split_rows(x, y)
    cx, cy = _coordinates(x), _coordinates(y)
    gx, gy = np.zeros_like(cx), np.zeros_like(cy)
    batch, features = cx.shape[0], cx.shape[1]
    weights = np.zeros((1, batch, 3))
    wide_tau = wide((tau, 0.0))
    unit = wide_div(wide((2.0, 0.0)), wide_mul(wide_tau, wide((divisor, 0.0))))
    for i in range(batch):
        if not counted[i]:
            gx[i, :, 0], gy[:, :, 0] = math.nan, math.nan
            continue
        scale = wide_mul(unit, wide((cotangents[i], 0.0)))
        unmatched, others = _weights(rows, i, wide_tau, eps, weights)
        for k in range(features):
            own = wide_add(_get(cx, i, k), wide_neg(_get(cy, i, k)))
            _add_to(gx, i, k, wide_mul(scale, wide_mul(unmatched, own)))
            _add_to(gy, i, k, wide_neg(wide_mul(scale, wide_mul(others, own))))
        for j in range(batch):
            share = wide_mul(scale, _get(weights, 0, j))
            if j == i or share[0] == 0.0:
                continue
            for k in range(features):
                towards = wide_add(_get(cy, j, k), wide_neg(_get(cy, i, k)))
                _add_to(gx, i, k, wide_mul(share, towards))
                away = wide_add(_get(cx, i, k), wide_neg(_get(cy, j, k)))
                _add_to(gy, j, k, wide_mul(share, away))
    return gx, gy


@kernel
def to_floats(table: Wides) -> npt.NDArray[np.float64]:
    """Round a table (B, D, 3) to float64 (B, D), +-inf beyond the range."""
    result = np.empty(table.shape[:2])
    for i in range(table.shape[0]):
        for k in range(table.shape[1]):
            result[i, k] = wide_to_float(_get(table, i, k))
    return result
