"""JAX: arrays of `jax.numpy`, gradients by `jax.vjp`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from refimpl.conformance.batch import Array, Batch, leaves, map_tree
from refimpl.conformance.formats import FORMATS
from refimpl.conformance.outcome import Outcome
from refimpl.conformance.target import Subject

__all__ = ["JaxAdapter"]


class JaxAdapter:
    """JAX on the CPU, with 64-bit types switched on for the time of a call.

    XLA flushes subnormal numbers to zero: on such input (the families "tiny" and "subnormal") a loss can be
    right in JAX's arithmetic and still be outside a bound that is derived for IEEE arithmetic.

    Example:
        >>> JaxAdapter().literal(np.ones(1), "bfloat16")
        'jax.numpy.array([1.0], dtype="bfloat16")'
    """

    name = "jax"
    dtypes = tuple(FORMATS)
    features = frozenset({"graph"})

    def scope(self) -> dict[str, Any]:
        """`jax` and `jnp`."""
        return {"jax": jax, "jnp": jnp}

    def evaluate(self, subject: Subject, batch: Batch, *, cotangent: float = 1.0, only: str = "") -> Outcome:
        """Value and gradients as float64 arrays."""
        paths = set(subject.wanted(batch, only))
        with jax.enable_x64(True):

            def build(_: str, array: Array) -> Any:
                return jnp.asarray(array, dtype=batch.form.name if array.dtype == np.float64 else None)

            arguments = map_tree(build, dict(batch.arguments))
            wanted = {path: array for path, array in leaves(arguments) if path in paths}
            function = subject.function(batch)

            def of_wanted(moved: dict[str, Any]) -> Any:
                return function(*map_tree(moved.get, arguments).values())

            result, pull_back = jax.vjp(of_wanted, wanted)
            result = jnp.asarray(result)
            (gradients,) = pull_back(jnp.full_like(result, cotangent))
            return Outcome(
                _numpy(result), str(result.dtype), {path: _numpy(found) for path, found in gradients.items()}
            )

    def literal(self, array: Array, dtype: str) -> str:
        """A `jax.numpy.array(...)` expression."""
        if 0 in array.shape:
            return f'jax.numpy.zeros({array.shape}, dtype="{dtype}")'
        return f'jax.numpy.array({array.tolist()!r}, dtype="{dtype}")'


def _numpy(array: Any) -> NDArray[np.float64]:
    return np.asarray(array).astype(np.float64)
