"""Batches put together of others: copies, parts, and so many rows that pieces have seams."""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from refimpl.conformance.batch import Array, Batch
from refimpl.conformance.invariances.arrays import arrays, by_row, grown, replaced, rows, take
from refimpl.conformance.spec import Changed, Invariance

__all__ = [
    "blocks",
    "complement",
    "components_joined",
    "components_split",
    "concatenation",
    "duplication",
]

MEANS = {"mean", "batch_mean"}
EXTRA = 8  # rows that are added at most
Count = Callable[[Batch], int]


def duplication(
    reduction: str,
    *,
    floor: str = "",
    logarithm: bool = False,
) -> Invariance:
    """Every row k times: means stay, sums are k times as large, k results stand where one stood.

    With `floor`, an option that is compared with a sum over the batch grows with it. InfoNCE then gains
    log k a row: log(k eps + k Σ s) = log k + log(eps + Σ s).

    Args:
        reduction: the loss's own where the batch does not say.
        floor: name of that option.
        logarithm: whether a row gains log k.
    """

    def change(batch: Batch, rng: np.random.Generator) -> Changed | None:
        count, copies = rows(batch), int(rng.choice([2, 4]))
        if not count:
            return None
        index = rng.permutation(np.tile(np.arange(count), copies))
        how = batch.options.get("reduction", reduction)
        gain = np.log(np.longdouble(copies)) if logarithm else np.longdouble(0.0)
        weight = 1.0 / copies if how in MEANS else 1.0

        def value(before: Array) -> Array:
            if how == "sum":
                return copies * before + copies * count * gain
            return by_row(before, index) + gain

        def gradient(path: str, gradients: Mapping[str, Array]) -> Array:
            slope = gradients[path]
            return slope[index] * weight if slope.ndim else slope * (weight * copies)

        changed = take(batch, index)
        if floor:
            changed = replaced(changed, {}, **{floor: copies * batch.options.get(floor, 1e-8)})
        return Changed(changed, value, gradient)

    gains = ", log k a row and the floor k times" if logarithm else ", the floor k times" if floor else ""
    return Invariance("duplication", f"every row k times: the mean stays, the sum is k times{gains}", change)


def concatenation(reduction: str, counted: Count = rows) -> Invariance:
    """The value of a whole batch from those of its two parts: sums add up, means are weighted.

    Args:
        reduction: the loss's own where the batch does not say.
        counted: what a mean divides by.
    """

    def change(batch: Batch, rng: np.random.Generator) -> Changed | None:
        count = rows(batch)
        if not count:
            return None
        more = rng.integers(0, count, int(rng.integers(1, EXTRA + 1)))
        whole = take(batch, np.concatenate([np.arange(count), more]))
        cut = int(rng.integers(0, rows(whole) + 1))
        parts = take(whole, np.arange(cut)), take(whole, np.arange(cut, rows(whole)))
        how = batch.options.get("reduction", reduction)
        divisor = counted if how == "mean" else rows
        total = divisor(whole)
        shares = [
            np.longdouble(divisor(part)) / max(total, 1) if how in MEANS else np.longdouble(1.0)
            for part in parts
        ]

        def value(first: Array, second: Array) -> Array:
            if first.ndim:
                return np.concatenate([first, second])
            return np.asarray(shares[0] * first + shares[1] * second)

        def gradient(path: str, first: Mapping[str, Array], second: Mapping[str, Array]) -> Array:
            both = shares[0] * first[path], shares[1] * second[path]
            return np.concatenate(both) if both[0].ndim else np.asarray(both[0] + both[1])

        return Changed(whole, value, gradient, parts)

    return Invariance("concatenation", "a whole batch is the merge of its two parts", change)


def _joined(batch: Batch, rng: np.random.Generator) -> Changed | None:
    """A list of components is the sum of two lists."""
    index = np.concatenate([np.arange(rows(batch)), rng.integers(0, rows(batch), 4)])
    cut = int(rng.integers(1, len(index)))
    whole, first, second = (_components(batch, part) for part in (index, index[:cut], index[cut:]))

    def gradient(path: str, one: Mapping[str, Array], two: Mapping[str, Array]) -> Array:
        return np.concatenate([one[path], two[path]])

    return Changed(whole, lambda one, two: np.asarray(one + two), gradient, (first, second))


components_joined = Invariance("concatenation", "a list of components is the sum of two lists", _joined)


def _split(batch: Batch, _: np.random.Generator) -> Changed | None:
    """Every component twice with half its weight."""
    index = np.tile(np.arange(rows(batch)), 2)
    changed = _components(batch, index)
    halves = [0.5 * weight for weight in changed.options["weights"]]

    def gradient(path: str, before: Mapping[str, Array]) -> Array:
        return before[path][index] * 0.5

    return Changed(replaced(changed, {}, weights=halves), gradient=gradient)


components_split = Invariance("duplication", "every component twice with half its weight", _split)


def _components(batch: Batch, index: Array) -> Batch:
    weights = [batch.options["weights"][k] for k in index]
    return replaced(take(batch, index), {}, weights=weights)


def complement(loss: str) -> Invariance:
    """F + S = 1, the other of the two asked about the same batch."""

    def change(batch: Batch, _: np.random.Generator) -> Changed | None:
        def gradient(path: str, before: Mapping[str, Array]) -> Array:
            return -before[path]

        return Changed(batch, lambda value: 1.0 - value, gradient, loss=loss)

    return Invariance("complement", "CDF and survival function add up to 1", change)


def _many(batch: Batch, rng: np.random.Generator, count: int, wide: int, columns: int) -> Changed | None:
    finite = all(np.all(np.isfinite(array)) for array in arrays(batch).values())
    if not rows(batch) or not finite:
        return None
    flat = all(array.ndim <= 1 for array in arrays(batch).values())
    return Changed(grown(batch, count if flat else wide, rng, columns))


def blocks(count: int, wide: int = 0, columns: int = 8) -> Invariance:
    """So many rows that work done in pieces has seams.

    Args:
        count: rows of arrays with one axis.
        wide: rows of arrays with more axes; as many if 0.
        columns: how many columns are kept.
    """
    change = partial(_many, count=count, wide=wide or count, columns=columns)
    return Invariance("blocks", f"{count} rows like these are right, seams included", change)
