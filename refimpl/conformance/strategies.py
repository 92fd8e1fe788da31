"""Hypothesis strategies for adversarial arrays, one named hazard each.

A *family* is a hazard that has broken a loss somewhere: identical replicates, a common offset, an empty mask.
Every strategy draws arrays that reach its hazard by construction, exactly representable in the format
under test, with a handful of numbers.
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from refimpl.conformance.formats import FORMATS, Format, round_to

__all__ = ["MASKS", "PAIRS", "Pair", "masks", "pairs", "shapes"]

Pair: TypeAlias = tuple[NDArray[np.float64], NDArray[np.float64]]
Shape: TypeAlias = tuple[int, ...]
Draw: TypeAlias = Callable[[st.SearchStrategy[NDArray[np.float64]]], NDArray[np.float64]]

# Hypothesis draws evenly from ranges of up to 24 bits only
STEPS = 2**22 - 3  # odd: n / STEPS has a full significand in every format
CODES = 2**24
GOLDEN = 0.6180339887498949  # multiples of it modulo 1 are spread evenly


def shapes(family: str, dimensions: int = 2) -> st.SearchStrategy[Shape]:
    """Shapes (B,) or (B, L) with B <= 5 and L <= 6, except where the family is about the shape itself."""
    if family == "one element":
        return st.just((1,) * dimensions)
    rows = st.just(0) if family == "empty batch" else st.integers(1 if dimensions > 1 else 2, 5)
    columns = st.integers(2, 6)
    return st.tuples(rows) if dimensions == 1 else st.tuples(rows, columns)


def uniform(form: Format, shape: Shape, scale: float = 4.0) -> st.SearchStrategy[NDArray[np.float64]]:
    """Numbers spread evenly over [-scale, scale] with full significands."""
    numbers = hnp.arrays(np.int64, shape, elements=st.integers(-STEPS, STEPS), fill=st.nothing())
    return numbers.map(lambda n: round_to(n * (scale / STEPS), form))


def spread(form: Format, shape: Shape, low: int, high: int) -> st.SearchStrategy[NDArray[np.float64]]:
    """Numbers of either sign whose exponents lie evenly in [low, high]."""
    codes = hnp.arrays(np.int64, shape, elements=st.integers(0, CODES - 1), fill=st.nothing())
    span = high - low + 1

    def decode(code: NDArray[np.int64]) -> NDArray[np.float64]:
        significand = 1.0 + ((code >> 1) // span * GOLDEN) % 1.0
        sign = np.where(code % 2 == 1, -1.0, 1.0)
        return round_to(sign * np.ldexp(significand, low + (code >> 1) % span), form)

    return codes.map(decode)


def few(form: Format, shape: Shape, values: tuple[float, ...]) -> st.SearchStrategy[NDArray[np.float64]]:
    """Numbers from a short list, so that equal ones meet."""
    picks = hnp.arrays(np.int64, shape, elements=st.integers(0, len(values) - 1), fill=st.nothing())
    return picks.map(lambda pick: round_to(np.array(values)[pick], form))


def _ordinary(draw: Draw, form: Format, shape: Shape) -> Pair:
    return draw(uniform(form, shape)), draw(uniform(form, shape))


def _zeros(draw: Draw, form: Format, shape: Shape) -> Pair:
    """The first side is zero, the second is zero or a few small numbers."""
    return np.zeros(shape), draw(few(form, shape, (0.0, 0.0, 0.0, 1.0)))


def _identical(draw: Draw, form: Format, shape: Shape) -> Pair:
    side = draw(uniform(form, shape))
    return side, side.copy()


def _constant(draw: Draw, form: Format, shape: Shape) -> Pair:
    """The first side holds one number throughout; 0.1 is not representable, 1e12 has few digits left."""
    level = draw(few(form, (), (0.1, 3.0, 1e12, -1e-5)))
    return np.full(shape, float(level)), draw(uniform(form, shape))


def _ties(draw: Draw, form: Format, shape: Shape) -> Pair:
    values = (0.0, 1.0, -1.0, 0.5)
    return draw(few(form, shape, values)), draw(few(form, shape, values))


def _huge(draw: Draw, form: Format, shape: Shape) -> Pair:
    """Within a factor of eight of the largest finite number: squares overflow."""
    return draw(spread(form, shape, form.high - 3, form.high)), draw(
        spread(form, shape, form.high - 3, form.high)
    )


def _one_huge(draw: Draw, form: Format, shape: Shape) -> Pair:
    """Ordinary rows, the last of which is near the largest finite number on one side."""
    a, b = _ordinary(draw, form, shape)
    if a.size:
        b[-1] = draw(spread(form, shape[1:], form.high - 3, form.high))
    return a, b


def _near_overflow(draw: Draw, form: Format, shape: Shape) -> Pair:
    """Within a factor of two of the root of the largest number: one square fits, the sum of some does not."""
    exponents = (form.high // 2 - 1, form.high // 2)
    return draw(spread(form, shape, *exponents)), draw(spread(form, shape, *exponents))


def _tiny(draw: Draw, form: Format, shape: Shape) -> Pair:
    """Just above the smallest normal number: squares underflow."""
    return draw(spread(form, shape, form.low, form.low + 6)), draw(
        spread(form, shape, form.low, form.low + 6)
    )


def _subnormal(draw: Draw, form: Format, shape: Shape) -> Pair:
    exponents = (form.low - form.digits + 1, form.low - 1)
    return draw(spread(form, shape, *exponents)), draw(spread(form, shape, *exponents))


def _mixed(draw: Draw, form: Format, shape: Shape) -> Pair:
    """Exponents from the whole range of the format side by side."""
    return draw(spread(form, shape, form.low, form.high)), draw(spread(form, shape, form.low, form.high))


def _offset(draw: Draw, form: Format, shape: Shape) -> Pair:
    """A common offset thousands of times the signal, of which a few bits survive the rounding."""
    offset = 2.0 ** (form.digits - 4)
    a, b = draw(uniform(form, shape)), draw(uniform(form, shape))
    return round_to(offset + a, form), round_to(offset + b, form)


def _heavy(draw: Draw, form: Format, shape: Shape) -> Pair:
    """Most numbers near one, some a thousand times as large."""
    return draw(spread(form, shape, -3, 10)), draw(spread(form, shape, -3, 10))


def _half_limits(draw: Draw, form: Format, shape: Shape) -> Pair:
    """The numbers where float16 ends: 65504, 2^-14, 2^-24 and their neighbourhood."""
    values = (65504.0, -65504.0, 2.0**-14, 2.0**-24, 32768.0, 256.0, 181.0, 1.0, 2.0**-12)
    return draw(few(form, shape, values)), draw(few(form, shape, values))


def _far(draw: Draw, form: Format, shape: Shape) -> Pair:
    """Rows hundreds apart: every exp(-d / tau) but the row's own underflows, or all of them."""
    level = 100.0 * (1.0 + np.arange(shape[0])).reshape(-1, *(1,) * (len(shape) - 1))
    a, b = draw(uniform(form, shape)), draw(uniform(form, shape))
    shift = float(draw(few(form, (), (0.0, 50.0, -700.0))))
    return round_to(level + a, form), round_to(level + b + shift, form)


def _counts(draw: Draw, form: Format, shape: Shape) -> Pair:
    """Integer targets, as datasets hold them, or just above 2^24, where float32 has no room for them."""
    integers = hnp.arrays(np.int64, shape, elements=st.integers(0, 40), fill=st.nothing())
    level = float(draw(few(FORMATS["float64"], (), (0.0, 0.0, 2.0**24 + 1))))
    preds = draw(uniform(form, shape))
    return round_to(level + preds, form), np.asarray(draw(integers.map(np.asarray))) + int(level)


PAIRS: dict[str, Callable[[Draw, Format, Shape], Pair]] = {
    "ordinary": _ordinary,
    "zeros": _zeros,
    "identical replicates": _identical,
    "constant": _constant,
    "ties": _ties,
    "one element": _ordinary,
    "empty batch": _ordinary,
    "huge": _huge,
    "one huge row": _one_huge,
    "squares near overflow": _near_overflow,
    "tiny": _tiny,
    "subnormal": _subnormal,
    "mixed magnitudes": _mixed,
    "common offset": _offset,
    "heavy tails": _heavy,
    "half limits": _half_limits,
    "far pairs": _far,
    "integer targets": _counts,
}


@st.composite
def pairs(draw: Draw, family: str, form: Format, shape: Shape) -> Pair:
    """Two arrays of one shape that reach a hazard.

    Args:
        draw: given by Hypothesis.
        family: a key of `PAIRS`; any other name stands for "ordinary".
        form: the format under test.
        shape: their common shape.
    """
    return PAIRS.get(family, _ordinary)(draw, form, shape)


MASKS = ("empty mask", "full mask", "NaN under the mask")


@st.composite
def masks(
    draw: Callable[[st.SearchStrategy[NDArray[np.bool_]]], NDArray[np.bool_]], family: str, shape: Shape
) -> NDArray[np.bool_]:
    """Bool masks, True where an element counts; all, none or some of them."""
    if family in {"empty mask", "full mask"}:
        return np.full(shape, family == "full mask")
    mask = draw(hnp.arrays(np.bool_, shape, elements=st.booleans(), fill=st.nothing()))
    if family == "NaN under the mask" and mask.size:
        mask.flat[0] = False
    return mask
