"""Orders of summation: each adds along one axis in the terms' own precision, one rounding an addition."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Terms = NDArray[np.floating]
Order = Callable[[Terms, int], Terms]
BLOCK = 7  # odd, so that no block size of a library divides it


def left_to_right(terms, axis=-1):
    if terms.shape[axis] == 0:
        return terms.sum(axis=axis, dtype=terms.dtype)
    return np.add.accumulate(terms, axis=axis, dtype=terms.dtype).take(-1, axis=axis)


def right_to_left(terms, axis=-1):
    return left_to_right(np.flip(terms, axis), axis)


def pairwise(terms, axis=-1):
    """Neighbours first, then their sums: a binary tree down to single terms."""
    terms = np.moveaxis(terms, axis, -1)
    if terms.shape[-1] == 0:
        return left_to_right(terms)
    while terms.shape[-1] > 1:
        even = terms.shape[-1] // 2 * 2
        terms = np.concatenate([terms[..., :even:2] + terms[..., 1:even:2], terms[..., even:]], axis=-1)
    return terms[..., 0]


def in_blocks(terms, axis=-1):
    """Blocks of seven one after the other, as chunked accumulation does."""
    terms = np.moveaxis(terms, axis, -1)
    starts = range(0, max(terms.shape[-1], 1), BLOCK)
    return left_to_right(np.stack([left_to_right(terms[..., i : i + BLOCK]) for i in starts], axis=-1))


def by_magnitude(terms, axis=-1):
    """From the smallest term to the largest."""
    order = np.argsort(np.abs(terms), axis=axis, kind="stable")
    return left_to_right(np.take_along_axis(terms, order, axis), axis)


def shuffled(terms, axis=-1):
    order = np.random.default_rng(terms.shape[axis]).permutation(terms.shape[axis])
    return left_to_right(terms.take(order, axis=axis), axis)


ORDERS: dict[str, Order] = {
    "left to right": left_to_right,
    "right to left": right_to_left,
    "pairwise": pairwise,
    "blocks of 7": in_blocks,
    "by magnitude": by_magnitude,
    "shuffled": shuffled,
}
