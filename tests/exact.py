"""Exact rational arithmetic as the judge of float64 oracles, and inputs from the whole float64 range."""

import math
from fractions import Fraction

import numpy as np
from hypothesis import strategies as st

LARGEST = Fraction(float(np.finfo(np.float64).max))
EDGES = (0.0, 5e-324, 2.2250738585072014e-308, 1e-160, 1.0, 1e154, 1.3e154, 1e300, 5e307, float(LARGEST))

# three kinds: the edges of the format, the whole range, and everyday numbers that cancel
floats = st.one_of(
    st.sampled_from(EDGES + tuple(-edge for edge in EDGES)),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-9, 9).map(float),
    st.floats(-4.0, 4.0),
)


def ulps(actual, exact, *, saturates):
    """|actual - exact| in units of the last place of exact; inf is the next number beyond the maximum.

    With `saturates`, an exact value beyond the maximum has to come out as the maximum; without, as inf.
    """
    actual = float(actual)
    if saturates:
        exact = max(min(exact, LARGEST), -LARGEST)
    sign, size = (-1 if exact < 0 else 1), abs(exact)
    beyond = Fraction(2) ** 1024
    if math.isnan(actual) or (math.isinf(actual) and saturates):
        return math.inf
    found = Fraction(math.copysign(1.0, actual)) * beyond if math.isinf(actual) else Fraction(actual)
    size = min(size, beyond)
    last_place = math.ulp(float(min(size, LARGEST)))
    return float(abs(found - sign * size) / Fraction(last_place))


def rounded_once(actual, exact, *, saturates):
    """Whether actual is one rounding of something 2^-40 ulp from exact, and within 1 ulp where it is tiny.

    What is subnormal is rounded twice, and below 2^-980 so is the low part of a double-double.
    """
    allowed = 1 if abs(exact) < Fraction(2) ** -980 else 0.5 + 2.0**-40
    return ulps(actual, exact, saturates=saturates) <= allowed


def fractions(values):
    """Exact rationals of an array, in C order."""
    return [Fraction(float(value)) for value in np.asarray(values, np.float64).flat]


def all_orders(terms, seed=0):
    """Sum in the terms' own precision: forward, backward, sorted, shuffled, and by numpy's pairwise sum."""
    shuffled = np.random.default_rng(seed).permutation(terms)
    by_size = terms[np.argsort(np.abs(terms), kind="stable")]
    sums = [terms.sum(dtype=terms.dtype)]
    orders = (terms, terms[::-1], by_size, by_size[::-1], shuffled)
    sums.extend(np.add.accumulate(order, dtype=terms.dtype)[-1] for order in orders if terms.size)
    return sums
