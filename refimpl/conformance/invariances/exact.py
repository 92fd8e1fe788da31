"""Offsets and factors that leave every number exact.

A shift starts from a coarser batch: its numbers are rounded to a grid on which the offset lies as well,
with so few steps that their sum fits into the format. A factor is +-2^k. What would leave the range is not
changed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from refimpl.conformance.batch import Array, Batch
from refimpl.conformance.formats import Format
from refimpl.conformance.invariances.arrays import arrays, floating, in_format, replaced
from refimpl.conformance.spec import Changed, Invariance

__all__ = ["Scaled", "powers", "scale", "shift"]

TRIES = 6  # factors that are tried until one is exact
Factor: TypeAlias = Callable[[float, float], float]


def _same(path: str, before: Mapping[str, Array]) -> Array | None:
    return before.get(path)


def shift(*groups: tuple[str, ...], by: str, sides: str) -> Invariance:
    """Every group of arrays gets an offset of its own, value and gradients stay.

    Args:
        *groups: paths of the arrays that share an offset.
        by: "row" (an offset for each), "column" (one for each number of a row) or "all" (one in all).
        sides: what is shifted, in words.
    """

    def change(batch: Batch, rng: np.random.Generator) -> Changed | None:
        before = arrays(batch)
        if not all(floating(batch, *group) for group in groups):
            return None
        if any(before[path].shape[:1] != before[group[0]].shape[:1] for group in groups for path in group):
            return None
        coarse: dict[str, Array] = {}
        moved: dict[str, Array] = {}
        for group in groups:
            step = _step(batch.form, [before[path] for path in group])
            offsets = _offsets(batch.form, before[group[0]].shape, by, step, rng)
            for path in group:
                coarse[path] = np.rint(before[path] / step) * step
                shaped = offsets.reshape(-1, *(1,) * (before[path].ndim - 1)) if by == "row" else offsets
                moved[path] = coarse[path] + shaped
                back = moved[path] - shaped
                if not np.array_equal(back, coarse[path], equal_nan=True):
                    return None
        if not in_format(batch.form, *coarse.values(), *moved.values()):
            return None
        return Changed(replaced(batch, moved), gradient=_same, parts=(replaced(batch, coarse),))

    return Invariance("shift", f"an offset on {sides}", change)


def _step(form: Format, group: list[Array]) -> float:
    """A grid of 2^(digits / 2) steps up to the largest number."""
    sizes = [np.max(np.abs(array), initial=0.0, where=np.isfinite(array)) for array in group]
    exponent = int(np.frexp(max(sizes))[1]) if max(sizes) > 0.0 else 0
    return float(max(np.ldexp(1.0, exponent - form.digits // 2), form.tiny))


def _offsets(form: Format, shape: tuple[int, ...], by: str, step: float, rng: np.random.Generator) -> Array:
    """Multiples of the step, so few that number and offset together fit into the significand."""
    wanted = {"row": shape[:1], "column": shape[1:], "all": ()}[by]
    most = 2 ** int(rng.integers(1, form.digits - 1))
    return np.asarray(rng.integers(-most, most + 1, wanted) * step)


def powers(rng: np.random.Generator) -> list[float]:
    """A few factors +-2^k, small ones, too, and never 1.

    Example:
        >>> len(powers(np.random.default_rng(0)))
        6
    """
    exponents = rng.integers(1, [13, 13, 4, 4, 2, 2]) * rng.choice([-1, 1], TRIES)
    return [float(sign * 2.0**k) for sign, k in zip(rng.choice([-1.0, 1.0], TRIES), exponents, strict=True)]


@dataclass(frozen=True)
class Scaled:
    """Arrays that are multiplied by one factor.

    Attributes:
        paths: where they are.
        factor: of the numbers, from the two free powers of two a and b.
        slope: of their gradients.
    """

    paths: tuple[str, ...]
    factor: Factor
    slope: Factor


def scale(
    *groups: Scaled,
    holds: str,
    value: Factor,
    options: Callable[[Batch, float, float], Mapping[str, float]] = lambda *_: {},
) -> Invariance:
    """Groups of arrays are multiplied by powers of two.

    Args:
        *groups: what is multiplied.
        holds: the relation, as a formula.
        value: factor of the value.
        options: changed options, from the batch and the factors.
    """
    where = {path: group for group in groups for path in group.paths}

    def attempt(batch: Batch, a: float, b: float) -> Changed | None:
        before = arrays(batch)
        after = {path: np.asarray(before[path] * group.factor(a, b)) for path, group in where.items()}
        exact = all(
            np.array_equal(after[path] / group.factor(a, b), before[path], equal_nan=True)
            for path, group in where.items()
        )
        if not exact or not in_format(batch.form, *after.values()):
            return None

        def gradient(path: str, gradients: Mapping[str, Array]) -> Array | None:
            if path not in where or path not in gradients:
                return gradients.get(path)
            return gradients[path] * where[path].slope(a, b)

        changed = replaced(batch, after, **options(batch, a, b))
        return Changed(changed, lambda before_: before_ * value(a, b), gradient)

    def change(batch: Batch, rng: np.random.Generator) -> Changed | None:
        if not floating(batch, *where):
            return None
        found = (attempt(batch, a, b) for a, b in zip(powers(rng), powers(rng), strict=True))
        return next((changed for changed in found if changed), None)

    return Invariance("scale", holds, change)
