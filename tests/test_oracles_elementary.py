"""The double-double exponential and logarithm against mpmath."""

import math

import mpmath
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refimpl.arithmetic import DoubleDouble, quick_two_sum
from refimpl.elementary import dd_exp, dd_expm1, dd_log, dd_log1p, exp_parts

PROMISE = mpmath.mpf(2) ** -98
NORMAL = mpmath.mpf(2) ** -960  # from here on the low part is a normal number too


def exact(x: DoubleDouble) -> mpmath.mpf:
    return mpmath.mpf(x[0]) + mpmath.mpf(x[1])


@st.composite
def double_doubles(draw, low: int, high: int, signs=(1.0, -1.0)):
    """A double-double of magnitude 2^low .. 2^high, uniform in the exponent."""
    head = draw(st.sampled_from(signs)) * math.ldexp(
        draw(st.floats(1.0, 2.0)), draw(st.integers(low, high - 1))
    )
    tail = draw(st.floats(-0.5, 0.5)) * math.ulp(head)
    return quick_two_sum(head, tail)


def near_one(x: DoubleDouble) -> DoubleDouble:
    return quick_two_sum(1.0 + x[0], x[1])


def relative_error(got: DoubleDouble, true: mpmath.mpf) -> mpmath.mpf:
    if true == 0 or abs(true) < NORMAL:
        return mpmath.mpf(0)
    return abs(exact(got) - true) / abs(true)


@pytest.fixture(autouse=True)
def _digits():
    with mpmath.workprec(400):
        yield


@given(double_doubles(-130, 10))
def test_exp_and_expm1(x):
    if abs(x[0]) < 709:
        assert relative_error(dd_exp(x), mpmath.exp(exact(x))) < PROMISE
        assert relative_error(dd_expm1(x), mpmath.expm1(exact(x))) < PROMISE
    s, k = exp_parts(x)
    with mpmath.workprec(3000):
        true = mpmath.exp(exact(x))
        assert abs((1 + exact(s)) * mpmath.mpf(2) ** k - true) / true < PROMISE


@given(double_doubles(-960, 1023, signs=(1.0,)))
def test_log(x):
    assert relative_error(dd_log(x), mpmath.log(exact(x))) < PROMISE


@given(double_doubles(-110, -1).map(near_one))
def test_log_near_one(x):
    assert relative_error(dd_log(x), mpmath.log(exact(x))) < PROMISE


@given(st.one_of(double_doubles(-130, 1023, signs=(1.0,)), double_doubles(-130, 0, signs=(-1.0,))))
def test_log1p(x):
    if x[0] > -1.0:
        assert relative_error(dd_log1p(x), mpmath.log1p(exact(x))) < PROMISE


@given(st.floats(5e-324, 2.0**-960))
def test_log_of_tiny_floats(x):
    assert relative_error(dd_log((x, 0.0)), mpmath.log(mpmath.mpf(x))) < PROMISE


@pytest.mark.parametrize(
    ("function", "argument", "value"),
    [
        (dd_exp, math.inf, math.inf),
        (dd_exp, -math.inf, 0.0),
        (dd_exp, 710.5, math.inf),
        (dd_exp, 0.0, 1.0),
        (dd_expm1, math.inf, math.inf),
        (dd_expm1, -math.inf, -1.0),
        (dd_expm1, 5e-324, 5e-324),
        (dd_log, 0.0, -math.inf),
        (dd_log, 1.0, 0.0),
        (dd_log, math.inf, math.inf),
        (dd_log1p, -1.0, -math.inf),
        (dd_log1p, math.inf, math.inf),
        (dd_log1p, -5e-324, -5e-324),
    ],
)
def test_ends_of_the_range(function, argument, value):
    assert function((argument, 0.0)) == (value, 0.0)


@pytest.mark.parametrize(
    ("function", "argument"),
    [
        (dd_exp, math.nan),
        (dd_expm1, math.nan),
        (dd_log, math.nan),
        (dd_log1p, math.nan),
        (dd_log, -1.0),
        (dd_log1p, -2.0),
    ],
)
def test_nan(function, argument):
    assert math.isnan(function((argument, 0.0))[0])
