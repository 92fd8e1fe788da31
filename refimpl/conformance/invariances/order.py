"""Rows in another order, and the two sides of a loss in each other's place."""

from collections.abc import Mapping

import numpy as np

from refimpl.conformance.batch import Array, Batch
from refimpl.conformance.invariances.arrays import Index, arrays, by_row, paired, replaced, rows, take
from refimpl.conformance.spec import Changed, Invariance

__all__ = ["composite_permutation", "element_permutation", "row_permutation", "swap"]


def _permuted_rows(batch: Batch, rng: np.random.Generator) -> Changed | None:
    """Rows of all arrays together."""
    if rows(batch) < 2:
        return None
    index = rng.permutation(rows(batch))

    def gradient(path: str, before: Mapping[str, Array]) -> Array:
        return by_row(before[path], index)

    return Changed(take(batch, index), lambda value: by_row(value, index), gradient)


row_permutation = Invariance("permutation", "rows in another order, all arrays alike", _permuted_rows)


def _permuted_elements(batch: Batch, rng: np.random.Generator) -> Changed | None:
    """Any element may go anywhere, on both sides alike."""
    shapes = {array.shape for array in arrays(batch).values()}
    if len(shapes) != 1 or min(shapes)[:1] in {(), (0,)}:
        return None
    index: Index = rng.permutation(int(np.prod(min(shapes))))

    def move(array: Array) -> Array:
        return array.ravel()[index].reshape(array.shape) if array.ndim else array

    def gradient(path: str, before: Mapping[str, Array]) -> Array:
        return move(before[path])

    return Changed(replaced(batch, {path: move(a) for path, a in arrays(batch).items()}), move, gradient)


element_permutation = Invariance(
    "permutation", "elements in another order, both sides alike", _permuted_elements
)


def _permuted_components(batch: Batch, rng: np.random.Generator) -> Changed | None:
    index = rng.permutation(rows(batch))
    weights = [batch.options["weights"][k] for k in index]

    def gradient(path: str, before: Mapping[str, Array]) -> Array:
        return before[path][index]

    return Changed(replaced(take(batch, index), {}, weights=weights), gradient=gradient)


composite_permutation = Invariance(
    "permutation", "components in another order with their weights", _permuted_components
)


def swap(first: str, second: str, *more: tuple[str, str], sides: str = "the two sides") -> Invariance:
    """The arrays at these paths change places, the value stays."""
    other = paired(first, second, *more)

    def change(batch: Batch, _: np.random.Generator) -> Changed | None:
        before = arrays(batch)
        if any(before[path].shape != before[other(path)].shape for path in before):
            return None

        def gradient(path: str, gradients: Mapping[str, Array]) -> Array:
            return gradients[other(path)]

        return Changed(replaced(batch, {path: before[other(path)] for path in before}), gradient=gradient)

    return Invariance("swap", f"{sides} in each other's place", change)
