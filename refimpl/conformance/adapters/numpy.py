"""NumPy: the loss is a function of arrays, its gradient a companion function `<name>_gradient`."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refimpl.conformance.batch import Array, Batch, leaves, map_tree
from refimpl.conformance.outcome import Outcome
from refimpl.conformance.target import Subject

__all__ = ["NumpyAdapter"]


class NumpyAdapter:
    """NumPy arrays in, a NumPy array, scalar or float out.

    The target has `<name>(*arrays, **options)` and, to have gradients checked, `<name>_gradient(*arrays,
    **options, cotangent=1.0)`: a tuple with the gradient of the sum of all results times `cotangent` for
    every differentiable argument, in the order of the signature (nested dicts for dict arguments, anything
    for an integer array).

    Example:
        >>> NumpyAdapter().literal(np.ones(2), "float32")
        'np.array([1.0, 1.0], dtype=np.float32)'
    """

    name = "numpy"
    dtypes: tuple[str, ...] = ("float16", "float32", "float64")
    features = frozenset({"layout"})

    def scope(self) -> dict[str, Any]:
        """`np`."""
        return {"np": np}

    def evaluate(self, subject: Subject, batch: Batch, *, cotangent: float = 1.0, only: str = "") -> Outcome:
        """Value and gradients as float64 arrays."""

        def build(_: str, array: Array) -> Array:
            return _laid_out(array, batch.form.name, batch.layout)

        arguments = map_tree(build, dict(batch.arguments))
        given = tuple(arguments.values())
        with np.errstate(all="ignore"):
            result = np.asarray(subject.function(batch)(*given))
            gradients = self._gradients(subject, batch, given, cotangent, only)
        if result.dtype.kind not in "fiu":
            raise TypeError(f"the result has dtype {result.dtype}, not a floating-point one")
        changed = tuple(
            path
            for (path, now), (_, before) in zip(leaves(arguments), leaves(dict(batch.arguments)), strict=True)
            if not np.array_equal(now.astype(np.float64), before.astype(np.float64), equal_nan=True)
        )
        return Outcome(result.astype(np.float64), str(result.dtype), gradients, changed)

    def _gradients(
        self, subject: Subject, batch: Batch, given: tuple[Any, ...], cotangent: float, only: str
    ) -> Mapping[str, NDArray[np.float64] | None]:
        if not subject.target.has(f"{subject.spec.name}_gradient"):
            return {}
        function = subject.function(batch, "_gradient", cotangent=cotangent)
        named = dict(zip(subject.spec.differentiable, function(*given), strict=True))
        paths = set(subject.wanted(batch, only))
        return {path: np.asarray(found, np.float64) for path, found in leaves(named) if path in paths}

    def literal(self, array: Array, dtype: str) -> str:
        """An `np.array(...)` expression."""
        if 0 in array.shape:
            return f"np.zeros({array.shape}, dtype=np.{dtype})"
        return f"np.array({array.tolist()!r}, dtype=np.{dtype})"


def _laid_out(array: Array, dtype: str, layout: str) -> Array:
    made = array.astype(dtype) if array.dtype == np.float64 else array.copy()
    if made.ndim == 0 or made.shape[0] == 0:
        return made
    if layout == "expanded":
        equal = np.array_equal(made, made[:1].repeat(len(made), 0), equal_nan=True)
        return np.broadcast_to(made[:1], made.shape) if equal else made
    if layout == "strided":
        return made.repeat(2, 0)[::2]
    if layout == "transposed":
        return np.asfortranarray(made)
    if layout == "offset":
        return np.concatenate([made[:1], made])[1:]
    return made
