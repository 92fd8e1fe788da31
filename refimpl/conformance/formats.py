"""The four floating-point formats under test, as numpy sees them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["FORMATS", "Format", "round_to"]


@dataclass(frozen=True)
class Format:
    """One dtype under test.

    Attributes:
        name: the dtype's name in torch.
        digits: bits of the significand, the hidden one included.
        low: exponent of the smallest normal number, 2^low.
        high: largest exponent, all finite numbers are below 2^(high + 1).
    """

    name: str
    digits: int
    low: int
    high: int

    @property
    def max(self) -> float:
        """The largest finite number."""
        return float(np.ldexp(2.0 - np.ldexp(1.0, 1 - self.digits), self.high))

    @property
    def tiny(self) -> float:
        """The smallest subnormal number."""
        return float(np.ldexp(1.0, self.low + 1 - self.digits))

    @property
    def half(self) -> bool:
        """Whether the format is one of the two half precisions."""
        return self.name in {"float16", "bfloat16"}


FORMATS = {
    "float16": Format("float16", 11, -14, 15),
    "bfloat16": Format("bfloat16", 8, -126, 127),
    "float32": Format("float32", 24, -126, 127),
    "float64": Format("float64", 53, -1022, 1023),
}


def round_to(values: ArrayLike, form: Format) -> NDArray[np.float64]:
    """Round float64 numbers to the nearest ones of a format; what would overflow becomes +-max.

    Args:
        values: numbers of any shape; NaN and infinities stay as they are.
        form: one of `FORMATS`.

    Returns:
        float64 array of the same shape holding numbers of the format.

    Example:
        >>> round_to([1.001, 1e9], FORMATS["float16"]).tolist()
        [1.0009765625, 65504.0]
    """
    exact = np.asarray(values, dtype=np.float64)
    finite = np.isfinite(exact)
    clipped = np.clip(np.where(finite, exact, 0.0), -form.max, form.max)
    if form.name == "float64":
        return np.where(finite, clipped, exact)
    # the spacing of the format around every number; below 2^low it stays that of the subnormals
    step = np.maximum(np.frexp(clipped)[1] - 1, form.low) + 1 - form.digits
    rounded = np.ldexp(np.rint(np.ldexp(clipped, -step)), step)
    return np.where(finite, np.clip(rounded, -form.max, form.max), exact)
