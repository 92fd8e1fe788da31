"""The residual losses: mean ((y1 - mu1) - s (y2 - mu2))² under swaps and scales.

With f the loss and e1, e2 the residuals, f(e2, e1, 1/s) = f(e1, e2, s) / s², exact where s is a power of two.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from refimpl.conformance.batch import Array, Batch
from refimpl.conformance.invariances.arrays import arrays, floating, in_format, paired, replaced
from refimpl.conformance.spec import Changed, Invariance

__all__ = ["CORE", "WRAPPER", "Names", "sides"]


@dataclass(frozen=True)
class Names:
    """Where the arrays of a residual loss are."""

    y1: str
    mu1: str
    y2: str
    mu2: str
    ratio: str


CORE = Names("y_r1", "mu_tech_r1", "y_r2", "mu_tech_r2", "sd_ratio_r1_to_r2")
WRAPPER = Names(
    "batch.r1.reads",
    "model_outputs.r1.mu",
    "batch.r2.reads",
    "model_outputs.r2.mu",
    "batch.metadata.sd_ratio",
)


def sides(names: Names) -> tuple[Invariance, ...]:
    """The swaps: of the replicates, and of data and prediction."""
    return (
        Invariance("swap", "f(e2, e1, 1 / s) = f(e1, e2, s) / s²", _replicates(names)),
        Invariance("swap", "y and mu in each other's place in both replicates", _residuals(names)),
    )


Change = Callable[[Batch, np.random.Generator], Changed | None]


def _replicates(names: Names) -> Change:
    other = paired(names.y1, names.y2, (names.mu1, names.mu2))

    def change(batch: Batch, _: np.random.Generator) -> Changed | None:
        before = arrays(batch)
        ratio = before[names.ratio]
        if ratio.dtype != np.float64 or np.any(np.abs(np.frexp(ratio)[0]) != 0.5) or ratio.ndim:
            return None  # 1 / s is exact for powers of two only
        if any(before[path].shape != before[other(path)].shape for path in before):
            return None
        inverse = np.asarray(1.0 / ratio)
        if not in_format(batch.form, inverse) or not np.all(np.isfinite(inverse)):
            return None
        factor = np.longdouble(inverse) ** 2

        def gradient(path: str, gradients: Mapping[str, Array]) -> Array | None:
            return None if path == names.ratio else factor * gradients[other(path)]

        swapped = {path: before[other(path)] for path in before} | {names.ratio: inverse}
        return Changed(replaced(batch, swapped), lambda value: factor * value, gradient)

    return change


def _residuals(names: Names) -> Change:
    other = paired(names.y1, names.mu1, (names.y2, names.mu2))

    def change(batch: Batch, _: np.random.Generator) -> Changed | None:
        before = arrays(batch)
        if any(before[path].shape != before[other(path)].shape for path in before):
            return None
        if not floating(batch, names.y1, names.y2):
            return None

        def gradient(path: str, gradients: Mapping[str, Array]) -> Array | None:
            return gradients.get(other(path))

        return Changed(replaced(batch, {path: before[other(path)] for path in before}), gradient=gradient)

    return change
