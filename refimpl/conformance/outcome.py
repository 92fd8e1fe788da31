"""What a target answered to one call."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["Outcome", "same"]


@dataclass(frozen=True)
class Outcome:
    """What the target answered.

    Attributes:
        value: float64 array; None where the call raised or returned something else than an array.
        dtype: name of the result's dtype.
        gradients: float64 arrays by path, of the sum of all results; None where the graph was cut.
        changed: paths of the arguments that the call has overwritten.
        error: what went wrong, if anything did.
    """

    value: NDArray[np.float64] | None = None
    dtype: str = ""
    gradients: Mapping[str, NDArray[np.float64] | None] = field(default_factory=dict)
    changed: tuple[str, ...] = ()
    error: str = ""


def same(a: Outcome, b: Outcome) -> bool:
    """Whether two answers agree to the last bit (every NaN is like every other).

    Example:
        >>> import numpy as np
        >>> same(Outcome(np.array(1.0)), Outcome(np.array(1.0))), same(Outcome(), Outcome())
        (True, False)
    """
    if a.value is None or b.value is None:
        return False
    return _equal(a.value, b.value) and all(
        _equal(a.gradients[path], b.gradients.get(path)) for path in a.gradients
    )


def _equal(a: NDArray[np.float64] | None, b: NDArray[np.float64] | None) -> bool:
    if a is None or b is None:
        return a is b
    return np.array_equal(a, b, equal_nan=True)
