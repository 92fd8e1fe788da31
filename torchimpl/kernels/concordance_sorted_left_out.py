"""InfoNCE of scalar residuals: whether what the windows leave out counts in any component of a gradient.

The gradients are sums of p_ij times differences. With E the largest exp(e_ij) |x_i - y_j| of the pairs next
to a window, which is at least p_ij |x_i - y_j|, those beyond it add at most B E: along the sources of a row
and along the rows of a source exp(e) |x - y| falls with the distance wherever e < -1. That is held against
the component itself and against the difference of the row and its own source, whichever is larger.

Where a batch is full of ties, or both replicates are identical, a component may consist of nothing but
weights that are far too small to count anywhere else.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from torchimpl.kernels.compiled import digest_of
from torchimpl.kernels.concordance_sorted import Array, Rows, compiled, excess, weight
from torchimpl.kernels.elementary_cpu import CONTRACT, inlined

SOURCES = (
    "concordance_sorted",
    "concordance_sorted_left_out",
    "elementary_cpu",
    "negative_binomial_constants",
)


@inlined
def pull(rows: Rows, i: int, source: float, scale: float, more: float) -> float:
    """A bound of p_ij (|x_i - y_j| + more)."""
    exponent = scale * excess(rows.high[i], rows.low[i], rows.anchor[i], source)
    bound: float = weight(exponent) * (abs(rows.x[i] - source) + more)
    return bound


@compiled
def leaves_out_too_much(
    rows: Rows, sources: Array, columns: Array, apart: Array, scale: float, allowed: float
) -> bool:
    """Whether any component of the gradients needs a pair outside the windows.

    Args:
        rows: all rows, with their slopes.
        sources: (B,), sorted.
        columns: (B,), τ/2 dL/dy of the sum of the losses weighted by the cotangents.
        apart: (B,), of every source the cotangent times the difference of its row and itself.
        scale: 2/τ.
        allowed: what may be left out of a component, as a part of it.
    """
    batch, heaviest = len(sources), 0.0
    for i in range(batch):
        heaviest = max(heaviest, abs(rows.cotangent[i]))
    least = batch / allowed
    before, behind = 0, 0
    for k in range(batch):
        first, last, own = rows.first[k], rows.last[k], abs(rows.x[k] - rows.own[k])
        most = pull(rows, k, sources[first - 1], scale, own) if first > 0 else 0.0
        if last < batch:
            most = max(most, pull(rows, k, sources[last], scale, own))
        if least * most > max(abs(rows.slope[k]), own):
            return True
        # rows before ... behind - 1 see source k
        while before < batch and rows.last[before] <= k:
            before += 1
        while behind < batch and rows.first[behind] <= k:
            behind += 1
        most = pull(rows, before - 1, sources[k], scale, 0.0) if before > 0 else 0.0
        if behind < batch:
            most = max(most, pull(rows, behind, sources[k], scale, 0.0))
        if least * heaviest * most > max(abs(columns[k]), abs(apart[k])):
            return True
    return False


def compile_check(key: str) -> Any:
    """`leaves_out_too_much`; Numba looks it up in its cache by the value of `key`."""

    @njit(nogil=True, cache=True, error_model="numpy", fastmath=set(CONTRACT))
    def kernel(
        rows: Rows, sources: Array, columns: Array, apart: Array, scale: float, allowed: float
    ) -> bool:
        return leaves_out_too_much(rows, sources, columns, apart, scale, allowed) and len(key) > 0

    return kernel


check_kernel = compile_check(digest_of(SOURCES))
