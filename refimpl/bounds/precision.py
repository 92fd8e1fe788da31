"""Number formats, roundoff constants, and the metric that holds a result against its bound."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class _Format:
    """One IEEE-like format: unit roundoff, smallest subnormal, largest finite number."""

    roundoff: float
    tiny: float
    maximum: float


_FORMATS = {
    "float16": _Format(2.0**-11, 2.0**-24, (2 - 2.0**-10) * 2.0**15),
    "bfloat16": _Format(2.0**-8, 2.0**-133, (2 - 2.0**-7) * 2.0**127),
    "float32": _Format(2.0**-24, 2.0**-149, (2 - 2.0**-23) * 2.0**127),
    "float64": _Format(2.0**-53, 2.0**-1074, (2 - 2.0**-52) * 2.0**1023),
}


def _with_oracle(magnitude: Any, error: Any) -> Any:
    """Add the rounding of the oracle's own result: at most one ulp."""
    return error + magnitude * 2.0**-52 + (magnitude > 0.0) * _FORMATS["float64"].tiny


@dataclass(frozen=True)
class Precision:
    """The three formats of one computation with inputs of dtype `name`.

    `work_*` is where the arithmetic happens (float32 for half inputs), `result_*` the format of elementwise
    results and of gradients (the input's own), `scalar_*` that of reduced values (float32 for half inputs).
    `*_roundoff` is the unit roundoff u, `*_tiny` the smallest subnormal, `*_max` the largest finite number.
    """

    name: str
    work_roundoff: float
    result_roundoff: float
    scalar_roundoff: float
    work_tiny: float
    result_tiny: float
    scalar_tiny: float
    work_max: float
    result_max: float
    scalar_max: float

    def rounded_result(self, exact: ArrayLike, error: ArrayLike) -> Array:
        """Bound of an elementwise result or gradient that had `error` in the working precision.

        Adds the rounding into the result's format, which is a further one for half inputs only (a number that
        is already in the format is not rounded again), and one ulp of float64 for the oracle that stands in
        for the exact number. Where number and error are 0, so is the bound.
        """
        magnitude, total = np.abs(np.asarray(exact, np.float64)), np.array(error, np.float64)
        nonzero = (magnitude > 0.0) | (total > 0.0)
        with np.errstate(over="ignore"):
            if self.result_roundoff != self.work_roundoff:
                total += self.result_roundoff * (magnitude + total) + nonzero * (self.result_tiny / 2)
            return np.asarray(_with_oracle(magnitude, total))

    def rounded_scalar(self, exact: float, error: float) -> float:
        """Bound of a reduced value: `error`, and one ulp of float64 for the oracle."""
        with np.errstate(over="ignore"):
            return float(_with_oracle(np.abs(np.float64(exact)), np.float64(error)))


@dataclass(frozen=True)
class Bound:
    """Largest |computed - exact| of a loss, before saturation.

    `value` is a float for reduced losses and an array for elementwise ones; `gradient` is nested like the
    oracle's gradient.
    """

    value: float | Array
    gradient: Any


def precision(name: str) -> Precision:
    """Precision of the inputs' dtype: "float16", "bfloat16", "float32" or "float64".

    Raises:
        ValueError: for any other name.

    Example:
        >>> half = precision("float16")
        >>> half.work_roundoff == half.scalar_roundoff == 2.0**-24, half.result_max
        (True, 65504.0)
    """
    if name not in _FORMATS:
        raise ValueError(f"precision must be one of {', '.join(map(repr, _FORMATS))}, got {name!r}")
    result = _FORMATS[name]
    work = _FORMATS["float64" if name == "float64" else "float32"]
    return Precision(
        name=name,
        work_roundoff=work.roundoff,
        result_roundoff=result.roundoff,
        scalar_roundoff=work.roundoff,
        work_tiny=work.tiny,
        result_tiny=result.tiny,
        scalar_tiny=work.tiny,
        work_max=work.maximum,
        result_max=result.maximum,
        scalar_max=work.maximum,
    )


def gamma(n: float, u: float) -> float:
    """Higham's gamma_n = n u / (1 - n u): n roundings in a row give (1 + theta), |theta| <= gamma_n.

    Infinite where n u >= 1: nothing can be promised there.

    Example:
        >>> gamma(3, 2.0**-24) > 3 * 2.0**-24, gamma(2**24, 2.0**-24)
        (True, inf)
    """
    product = n * u
    return product / (1.0 - product) if product < 1.0 else float("inf")


def error_ratio(
    actual: ArrayLike, exact: ArrayLike, bound: ArrayLike, max_finite: float, *, overflows: bool = False
) -> Array:
    """Distance of a result from the exact one in units of what the bound allows; > 1 is an error.

    Values (`overflows=False`) saturate: the allowed interval [exact - bound, exact + bound] is clamped to
    +-max_finite first, so where all of it lies beyond the maximum only the maximum itself is right. Exact
    inf, which only a non-finite input makes, is met by any non-finite result.
    Gradients (`overflows=True`) overflow: inf is right iff exact + bound >= max_finite, -inf iff
    exact - bound <= -max_finite, and NaN never stands for either.
    NaN for NaN is 0, NaN for a number and a number for NaN are inf; bound 0 with error 0 is 0.

    Args:
        actual: computed result.
        exact: oracle result, same shape (float64).
        bound: largest allowed |actual - exact|, same shape.
        max_finite: largest finite number of the result's dtype.
        overflows: True for gradients.

    Returns:
        Array of the same shape.

    Example:
        >>> error_ratio([1.5, np.nan, 8.0, 8.0], [1.0, 2.0, 100.0, 8.5], [1.0, 1.0, 2.0, 1.0], 8.0)
        array([0.5, inf, 0. , 0. ])
        >>> error_ratio([np.inf, np.inf, 8.0], [100.0, 1.0, 100.0], [2.0, 2.0, 2.0], 8.0, overflows=True)
        array([ 0., inf, 46.])
    """
    actual, exact, bound = (np.asarray(part, np.float64) for part in (actual, exact, bound))
    actual, exact, bound = np.broadcast_arrays(actual, exact, bound)
    compare = _gradient_ratio if overflows else _value_ratio
    with np.errstate(all="ignore"):
        ratio = compare(actual, exact, bound, max_finite)
    undefined = np.isnan(actual) | np.isnan(exact)
    if not overflows:
        undefined &= ~(np.isinf(exact) & np.isnan(actual))
    return np.where(undefined, np.where(np.isnan(actual) & np.isnan(exact), 0.0, np.inf), ratio)


def _value_ratio(actual: Array, exact: Array, bound: Array, max_finite: float) -> Array:
    centre = np.clip(exact, -max_finite, max_finite)
    below = centre - np.clip(exact - bound, -max_finite, max_finite)
    above = np.clip(exact + bound, -max_finite, max_finite) - centre
    ratio = _quotient(np.abs(actual - centre), np.where(actual < centre, below, above))
    ratio = np.where(np.isinf(actual), np.inf, ratio)
    return np.where(np.isinf(exact), np.where(np.isfinite(actual), np.inf, 0.0), ratio)


def _gradient_ratio(actual: Array, exact: Array, bound: Array, max_finite: float) -> Array:
    largest = _FORMATS["float64"].maximum
    centre, allowed = np.clip(exact, -largest, largest), np.minimum(bound, largest)
    may_overflow = np.sign(actual) * exact + bound >= max_finite
    ratio = _quotient(np.abs(actual - centre), allowed)
    return np.where(np.isinf(actual), np.where(may_overflow, 0.0, np.inf), ratio)


def _quotient(error: Array, allowed: Array) -> Array:
    """Error / allowed with 0 / 0 = 0 and x / 0 = inf."""
    return np.where(
        error == 0.0, 0.0, np.where(allowed > 0.0, error / np.where(allowed > 0.0, allowed, 1.0), np.inf)
    )
