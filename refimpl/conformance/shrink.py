"""From a failing batch to a small one that still fails, in a fixed number of attempts."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from refimpl.conformance.batch import Array, Batch, leaves, map_tree
from refimpl.conformance.formats import round_to

__all__ = ["shrink"]

# a probability that is not 1 - 2^-k has no exact mean
KEPT = ("probs",)


def shrink(batch: Batch, fails: Callable[[Batch], bool], attempts: int = 150) -> Batch:
    """The smallest batch found that still fails: fewer rows, fewer columns, rounder numbers.

    Args:
        batch: a batch for which `fails` is true.
        fails: the question to ask of every candidate.
        attempts: how often it may be asked.

    Example:
        >>> from refimpl.conformance.formats import FORMATS
        >>> start = Batch("ordinary", FORMATS["float32"], {"x": np.array([0.3, 7.25, -2.0, 4.0])})
        >>> shrink(start, lambda batch: batch.arguments["x"].max() > 5).arguments["x"].tolist()
        [8.0]
    """
    left = attempts
    passes = _passes()
    k = 0
    while k < len(passes) and left > 0:
        for candidate in passes[k](batch):
            left -= 1
            if fails(candidate):
                batch = candidate
                break
            if left == 0:
                return batch
        else:
            k += 1  # nothing of this kind is left to do; what helped is tried again first
    return batch


def _passes() -> list[Callable[[Batch], Iterator[Batch]]]:
    whole = [functools.partial(_rounder, round_off=round_off, whole=True) for round_off in ROUNDINGS]
    single = [functools.partial(_rounder, round_off=round_off, whole=False) for round_off in ROUNDINGS]
    rows, columns = (functools.partial(_shorter, axis=axis) for axis in (0, 1))
    return [_contiguous, rows, columns, rows, *whole, *single]


def _contiguous(batch: Batch) -> Iterator[Batch]:
    if batch.layout != "contiguous":
        yield replace(batch, layout="contiguous")


def _shorter(batch: Batch, axis: int) -> Iterator[Batch]:
    """Keep one half of the rows (columns), then drop single ones."""
    lengths = [array.shape[axis] for _, array in leaves(dict(batch.arguments)) if array.ndim > axis]
    length = max(lengths, default=0)
    if length < 2:
        return
    indices = np.arange(length)
    kept = [indices[: length // 2], indices[length // 2 :]]
    if length <= 12:
        kept += [np.delete(indices, k) for k in range(length)]
    for keep in kept:

        def take(_: str, array: Array, keep: Any = keep) -> Array:
            fits = array.ndim > axis and array.shape[axis] == length
            return np.take(array, keep, axis=axis) if fits else array

        options = {
            key: [value[k] for k in keep] if isinstance(value, list) and axis == 0 else value
            for key, value in batch.options.items()
        }
        yield replace(batch, arguments=map_tree(take, dict(batch.arguments)), options=options)


def _power_of_two(values: Array) -> Array:
    return np.copysign(2.0 ** np.rint(np.log2(np.abs(values))), values)


def _bits(values: Array, count: int) -> Array:
    significand, exponent = np.frexp(values)
    return np.asarray(np.ldexp(np.rint(np.ldexp(significand, count)), exponent - count))


ROUNDINGS: tuple[Callable[[Array], Array], ...] = (
    lambda values: np.copysign(1.0, values),
    _power_of_two,
    np.rint,
    lambda values: _bits(values, 3),
    lambda values: _bits(values, 8),
)


def _rounder(batch: Batch, round_off: Callable[[Array], Array], *, whole: bool) -> Iterator[Batch]:
    """Round one array at once, or (in small batches) one number."""
    for path, array in leaves(dict(batch.arguments)):
        if array.dtype != np.float64 or path.rsplit(".", 1)[-1] in KEPT:
            continue
        nonzero = np.isfinite(array) & (array != 0.0)
        rounded = array.copy()
        with np.errstate(all="ignore"):
            rounded[nonzero] = round_to(round_off(array[nonzero]), batch.form)
        # zero is another hazard than a small number, and outside the domain of some parameters
        # and infinity is no rounder than the largest number
        changed = np.flatnonzero((rounded != array) & (rounded != 0.0) & np.isfinite(rounded) & nonzero)
        groups = [changed] if whole else [changed[k : k + 1] for k in range(min(changed.size, 6))]
        for group in groups:
            if group.size:
                yield _replaced(batch, path, group, rounded)


def _replaced(batch: Batch, path: str, where: Any, values: Array) -> Batch:
    def put(name: str, array: Array) -> Array:
        if name != path:
            return array
        changed = array.copy()
        changed.flat[where] = values.flat[where]
        return changed

    return batch.with_arguments(map_tree(put, dict(batch.arguments)))
