"""Numbers into and out of the working precision: float64 for float64 inputs, float32 for all others."""

import numpy as np


def working(form):
    """The dtype in which inputs of this format are computed."""
    return np.float64 if form.name == "float64" else np.float32


def rounded(values, form, *, saturates):
    """Working numbers rounded to the format of the inputs, as float64.

    Values saturate at the largest finite number; gradients overflow to infinity as IEEE says.
    """
    values = np.asarray(values)
    if saturates:
        values = np.clip(values, -form.max, form.max)
    if form.name == "float16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).astype(np.float64)
    if form.name == "bfloat16":  # to nearest, ties to even, on the bits of a float32
        bits = np.atleast_1d(np.asarray(values, np.float32)).view(np.uint32).astype(np.uint64)
        kept = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        return kept.astype(np.uint32).view(np.float32).reshape(values.shape).astype(np.float64)
    return values.astype(np.float64)


def scalar(value, form):
    """A reduced value: it stays in the working precision, saturated."""
    largest = np.finfo(working(form)).max
    return np.asarray(np.clip(value, -largest, largest), np.float64)


def _parts(values, kind):
    """A number as high + low; low is 0 except for integers beyond the mantissa."""
    high = values.astype(kind)
    if not np.issubdtype(values.dtype, np.integer):
        return high, np.zeros_like(high)
    return high, (values - high.astype(values.dtype)).astype(kind)


def difference(a, b, kind):
    """(d, exponent): a - b = d 2^exponent, an eighth where the difference of two huge numbers overflows."""
    (a_high, a_low), (b_high, b_low) = _parts(np.asarray(a), kind), _parts(np.asarray(b), kind)
    huge = np.maximum(np.abs(a_high), np.abs(b_high)) > np.finfo(kind).max / 8
    scale = np.where(huge, kind(0.125), kind(1))
    return (a_high * scale - b_high * scale) + (a_low - b_low) * scale, np.where(huge, 3, 0)


def top_exponent(values, exponent=0):
    """Largest e with 2^(e - 1) <= |value| 2^exponent, 0 where all are 0."""
    found = np.where(values != 0, np.frexp(values)[1] + exponent, -(2**20))
    return int(found.max(initial=-(2**20))) if np.any(values != 0) else 0
