"""One input of a loss: named arrays, options of the call, the dtype it stands for, its memory layout."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, cast

from numpy.typing import NDArray

from refimpl.conformance.formats import Format

__all__ = ["Array", "Batch", "Tree", "leaves", "map_tree", "size"]

Array: TypeAlias = NDArray[Any]
Tree: TypeAlias = "Array | dict[str, Tree]"


@dataclass(frozen=True)
class Batch:
    """Arguments for one call of a loss.

    Attributes:
        family: name of the hazard this batch aims at.
        form: the dtype under test; floating-point arrays are float64 but hold numbers of this format.
        arguments: arrays, or nested dicts of them, in the order of the signature; an integer array is
            handed over as int64, a bool array as bool.
        options: keyword arguments of the call.
        layout: "contiguous", "strided" (every second element of a larger buffer), "transposed" (the last
            two axes stored in the other order), "offset" (starts inside a larger buffer), "expanded" (one
            row repeated with stride 0) or "vmap" (called through a batching transformation).
    """

    family: str
    form: Format
    arguments: dict[str, Tree]
    options: Mapping[str, Any] = field(default_factory=dict)
    layout: str = "contiguous"

    def with_arguments(self, arguments: dict[str, Tree]) -> "Batch":
        """The same call with other arrays."""
        return replace(self, arguments=arguments)

    def with_options(self, options: Mapping[str, Any]) -> "Batch":
        """The same arrays under other options."""
        return replace(self, options=dict(options))


def leaves(tree: Tree, path: str = "") -> Iterator[tuple[str, Array]]:
    """All arrays of a tree with their path, such as `model_outputs.r1.mu`.

    Example:
        >>> import numpy as np
        >>> [path for path, _ in leaves({"r1": {"mu": np.zeros(2), "r": np.ones(2)}})]
        ['r1.mu', 'r1.r']
    """
    if isinstance(tree, dict):
        for key, branch in tree.items():
            yield from leaves(branch, f"{path}.{key}" if path else key)
    else:
        yield path, tree


def map_tree(change: Callable[[str, Array], Any], tree: Tree, path: str = "") -> Any:
    """The same tree with every array replaced by `change(path, array)`.

    Example:
        >>> import numpy as np
        >>> map_tree(lambda path, array: array.size, {"x": np.zeros(3)})
        {'x': 3}
    """
    if isinstance(tree, dict):
        return {
            key: map_tree(change, branch, f"{path}.{key}" if path else key) for key, branch in tree.items()
        }
    return change(path, tree)


def size(batch: Batch) -> int:
    """How many numbers the batch holds."""
    return sum(array.size for _, array in leaves(cast("Tree", batch.arguments)))
