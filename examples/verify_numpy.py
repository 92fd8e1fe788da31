"""Hold a NumPy function and its gradient, or a JAX function, to the standard of `masked_mse`.

The adapter "numpy" calls `masked_mse(...)` and `masked_mse_gradient(..., cotangent=...)`; "jax" calls
`masked_mse(...)` and differentiates it.

    python examples/verify_numpy.py [--adapter numpy] [--max-examples 8]
"""

import argparse
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from refimpl.conformance import Report, verify
from refimpl.conformance.table import show

Array = NDArray[Any]


def masked_mse(x_recon: Array, x: Array, mask: Array, *, reduction: str = "mean") -> Any:
    """Σ e² over masked positions, in extended precision; saturates like the contract says."""
    elementwise = reduction == "none"
    # integer targets promote, half precision gives a float32 scalar
    dtype = np.result_type(*(side.dtype for side in (x_recon, x) if side.dtype.kind == "f"))
    dtype = np.dtype(np.float32) if dtype == np.float16 and not elementwise else dtype
    squares = _error(x_recon, x, mask) ** 2
    result = squares if elementwise else squares.sum() / _count(mask, reduction)
    largest = np.finfo(dtype).max
    return np.where(np.isfinite(result), np.minimum(result, largest), result).astype(dtype)


def masked_mse_gradient(
    x_recon: Array, x: Array, mask: Array, *, reduction: str = "mean", cotangent: float = 1.0
) -> tuple[Array, Array]:
    """2 e / n at masked positions, exactly 0 elsewhere."""
    slope = 2 * cotangent * _error(x_recon, x, mask) / _count(mask, reduction)
    return slope.astype(x_recon.dtype), (-slope).astype(x.dtype)


def _error(x_recon: Array, x: Array, mask: Array) -> Array:
    return np.where(mask, x_recon, 0).astype(np.longdouble) - np.where(mask, x, 0).astype(np.longdouble)


def _count(mask: Array, reduction: str) -> int:
    counts = {"mean": int(mask.sum()), "batch_mean": len(mask), "sum": 1, "none": 1}
    return max(counts[reduction], 1)


def in_jax() -> SimpleNamespace:
    """The same loss in JAX, as one writes it first."""
    import jax.numpy as jnp  # noqa: PLC0415 - only who asks for it needs JAX

    def jax_mse(x_recon: Any, x: Any, mask: Any, *, reduction: str = "mean") -> Any:
        squares = jnp.where(mask, x_recon - x, 0.0) ** 2
        if reduction == "none":
            return squares
        return squares.sum() / {"mean": mask.sum(), "batch_mean": len(mask), "sum": 1}[reduction]

    return SimpleNamespace(masked_mse=jax_mse, __name__="in_jax")


def main(arguments: Sequence[str] | None = None) -> Report:
    """Verify and show what is found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--adapter", choices=["numpy", "jax"], default="numpy")
    parser.add_argument("--dtype", nargs="+", default=None)
    parser.add_argument("--family", nargs="+", default=None)
    parser.add_argument("--max-examples", type=int, default=8)
    options = parser.parse_args(arguments)
    in_numpy = SimpleNamespace(masked_mse=masked_mse, masked_mse_gradient=masked_mse_gradient)
    target = in_numpy if options.adapter == "numpy" else in_jax()
    report = verify(
        target,
        ["masked_mse"],
        options.dtype,
        families=options.family,
        adapter=options.adapter,
        max_examples=options.max_examples,
    )
    show(report, Console(width=110))
    return report


if __name__ == "__main__":
    main()
