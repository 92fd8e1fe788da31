"""Rearranging a batch: rows taken, numbers replaced, more rows of the same kind."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refimpl.conformance.batch import Array, Batch, leaves, map_tree
from refimpl.conformance.formats import Format, round_to

__all__ = [
    "Index",
    "arrays",
    "by_row",
    "floating",
    "grown",
    "in_format",
    "paired",
    "replaced",
    "rows",
    "take",
]

Index = NDArray[np.int64]


def arrays(batch: Batch) -> dict[str, Array]:
    """All arrays by path."""
    return dict(leaves(dict(batch.arguments)))


def replaced(batch: Batch, new: Mapping[str, Array], **options: Any) -> Batch:
    """The batch with other arrays at some paths and other values of some options."""
    arguments = map_tree(new.get, dict(batch.arguments))
    return replace(batch, arguments=arguments, options={**batch.options, **options})


def rows(batch: Batch) -> int:
    """The length of the first axis, which all arrays that have one share; 0 where there is none.

    Example:
        >>> from refimpl.conformance.formats import FORMATS
        >>> rows(Batch("", FORMATS["float32"], {"x": np.zeros((3, 2)), "s": np.array(1.0)}))
        3
    """
    return max((array.shape[0] for array in arrays(batch).values() if array.ndim), default=0)


def by_row(array: Array, index: Index) -> Array:
    """The rows of an array with a first axis; a scalar stays what it is."""
    return array[index] if array.ndim else array


def take(batch: Batch, index: Index) -> Batch:
    """The same rows of every array."""
    return batch.with_arguments(map_tree(lambda _, array: by_row(array, index), dict(batch.arguments)))


def floating(batch: Batch, *paths: str) -> bool:
    """Whether all these arrays are there and hold floating-point numbers."""
    found = arrays(batch)
    return all(path in found and found[path].dtype == np.float64 for path in paths)


def in_format(form: Format, *numbers: Array) -> bool:
    """Whether all are numbers of the format, NaN and infinities included."""
    return all(np.array_equal(round_to(array, form), array, equal_nan=True) for array in numbers)


def paired(first: str, second: str, *more: tuple[str, str]) -> Callable[[str], str]:
    """The path on the other side, for arrays that change places; any other path stays.

    Example:
        >>> other = paired("x", "y")
        >>> other("x"), other("y"), other("z")
        ('y', 'x', 'z')
    """
    table = {a: b for pair in ((first, second), *more) for a, b in (pair, pair[::-1])}
    return lambda path: table.get(path, path)


def grown(batch: Batch, count: int, rng: np.random.Generator, columns: int | None = None) -> Batch:
    """A batch of `count` rows: numbers of this one in new company, each times its own factor from [1, 2).

    What is a whole number throughout (counts) stays one; bool and integer arrays are only rearranged.

    Args:
        batch: finite, with at least one row.
        count: how many rows.
        rng: where the choices come from.
        columns: how many columns are kept where there are some, all by default.
    """

    def grow(_: str, array: Array) -> Array:
        if not array.ndim:
            return array
        made = array[rng.integers(0, len(array), count)]
        made = made[:, :columns] if made.ndim > 1 else made
        if array.dtype != np.float64:
            return made
        factors = 1.0 + rng.random(made.shape)
        counts = bool(np.all(array == np.rint(array)))
        return round_to(np.rint(made * factors) if counts else made * factors, batch.form)

    arguments = map_tree(grow, dict(batch.arguments))
    return replace(batch, arguments=arguments, layout="contiguous")
