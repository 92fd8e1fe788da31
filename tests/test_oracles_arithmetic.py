"""Error-free transformations and the exact accumulator against rational arithmetic."""

import math
import os
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from refimpl import arithmetic as ar
from refimpl import checks, exact_sum
from tests.budget import examples
from tests.exact import floats, ulps

U = Fraction(2) ** -53
# numbers whose products, and those products' low parts, stay normal
middle = st.floats(2.0**-200, 2.0**200).flatmap(lambda a: st.sampled_from([a, -a]))


@st.composite
def pairs(draw):
    """A normalised double-double."""
    high = draw(middle)
    low = draw(st.sampled_from([0.0, 1.0, -1.0])) * draw(st.floats(2.0**-120, 2.0**-54))
    return ar.two_sum(high, high * low)


def exactly(x):
    return Fraction(x[0]) + Fraction(x[1])


def relative(x, exact):
    return abs(exactly(x) - exact) / abs(exact) if exact else abs(exactly(x))


@settings(max_examples=examples(300))
@given(floats, floats)
def test_two_sum_is_exact_on_the_whole_range(a, b):
    total, error = ar.two_sum(a, b)
    if math.isfinite(total):
        assert Fraction(total) + Fraction(error) == Fraction(a) + Fraction(b)
    else:
        assert error == 0.0


@settings(max_examples=examples(300))
@given(floats, floats)
def test_two_prod_is_exact_up_to_the_maximum(a, b):
    exact = Fraction(a) * Fraction(b)
    product, error = ar.two_prod(a, b)
    if not math.isfinite(product):
        assert error == 0.0
    elif exact == 0 or abs(exact) >= Fraction(2) ** -968:
        assert Fraction(product) + Fraction(error) == exact


@settings(max_examples=examples(100))
@given(floats, floats, floats)
def test_fma_rounds_once_in_python_and_in_kernels(a, b, c):
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    assume(abs(exact) < Fraction(2) ** 1023)
    compiled = _compiled_fma(a, b, c)
    assert ar.fma(a, b, c) == compiled
    assert compiled == float(exact)


@ar.kernel
def _compiled_fma(a, b, c):
    return ar.fma(a, b, c)


@settings(max_examples=examples(300))
@given(pairs(), pairs(), st.booleans())
def test_operations_keep_their_stated_error(x, y, cancel):
    if cancel:  # the hard case of addition: high parts that annihilate
        y = ar.two_sum(-x[0], y[1])
    exact_x, exact_y = exactly(x), exactly(y)
    assert relative(ar.dd_add(x, y), exact_x + exact_y) <= 3 * U**2 / (1 - 4 * U)
    assert relative(ar.dd_sub(x, y), exact_x - exact_y) <= 3 * U**2 / (1 - 4 * U)
    assert relative(ar.dd_mul(x, y), exact_x * exact_y) <= 5 * U**2
    assert relative(ar.dd_div(x, y), exact_x / exact_y) <= 15 * U**2
    mantissa, exponent = ar.dd_frexp(x)
    assert 0.5 <= abs(mantissa[0]) < 1.0
    assert exactly(mantissa) * Fraction(2) ** exponent == exact_x
    assert exactly(ar.dd_scale(x, 7)) == 128 * exact_x
    assert ulps(ar.to_float(x), exact_x, saturates=False) <= 0.5


@settings(max_examples=examples(300))
@given(pairs(), st.integers(-1300, 1100))
def test_scaled_rounding_is_within_one_ulp_down_to_subnormals(x, n):
    assert ulps(ar.to_float_scaled(x, n), exactly(x) * Fraction(2) ** n, saturates=False) <= 1


def test_overflow_stays_infinite_and_invalid_stays_nan():
    inf, huge = math.inf, (1.5e308, 0.0)
    assert ar.dd_add(huge, huge) == (inf, 0.0)
    assert ar.dd_mul(huge, huge) == (inf, 0.0)
    assert ar.dd_mul((inf, 0.0), (2.0, 0.0)) == (inf, 0.0)
    assert ar.dd_div((1.0, 0.0), (0.0, 0.0)) == (inf, 0.0)
    assert ar.dd_div((1.0, 0.0), (inf, 0.0)) == (0.0, 0.0)
    assert ar.dd_scale(huge, 10) == (inf, 0.0)
    assert ar.dd_scale((1.0, -(2.0**-60)), 3000) == (inf, 0.0)
    assert math.isnan(ar.dd_sub((inf, 0.0), (inf, 0.0))[0])


@settings(max_examples=examples(200))
@given(
    st.lists(st.tuples(floats, floats, floats, floats, st.integers(-1, 1)), max_size=6),
    st.booleans(),
)
def test_accumulator_is_exact_for_products_of_four(terms, cancel):
    limbs = np.zeros(exact_sum.LIMBS, np.int64)
    exact = Fraction(0)
    if cancel:  # all but the last term twice, with opposite signs: only the last one is left
        terms = terms + [(-a, b, c, d, n) for a, b, c, d, n in terms[:-1]]
    for a, b, c, d, n in terms:
        exact_sum.add_product(limbs, a, b, c, d, n)
        exact += Fraction(a) * Fraction(b) * Fraction(c) * Fraction(d) * Fraction(2) ** n
    (high, low), exponent = exact_sum.read_sum(limbs)
    assert not limbs.any()
    found = (Fraction(high) + Fraction(low)) * Fraction(2) ** exponent
    assert abs(found - exact) <= abs(exact) * Fraction(2) ** -104


def test_accumulator_carries_through_many_terms():
    limbs = np.zeros(exact_sum.LIMBS, np.int64)
    for k in range(1000):
        exact_sum.add_float(limbs, float(2**53 - 1), k)
        exact_sum.add_float(limbs, -float(2**53 - 1), k)
    exact_sum.add_float(limbs, -3.0, 0)
    assert exact_sum.read_sum(limbs) == ((-0.75, 0.0), 2)


@pytest.mark.parametrize("value", [True, 1j, "1", None, [object()]])
def test_as_float64_refuses_what_is_not_a_real_number(value):
    with pytest.raises(TypeError, match="preds must hold floats or integers"):
        checks.as_float64("preds", value)


def test_alignment_of_parameters_and_counts():
    column, row = np.arange(3.0).reshape(3, 1), np.zeros(3)
    assert checks.aligned("mu", column, "reads", row).tolist() == [0.0, 1.0, 2.0]
    assert checks.aligned("mu", row, "reads", column).shape == (3, 1)
    assert checks.aligned("mu", np.float64(2.0), "reads", row).tolist() == [2.0, 2.0, 2.0]
    for wrong in (np.zeros((1, 3)), np.zeros((3, 3)), np.zeros((3, 1, 1)), np.zeros(1)):
        with pytest.raises(
            ValueError, match=r"mu and reads must be the same batch, got shapes .* and \(3,\)"
        ):
            checks.aligned("mu", wrong, "reads", row)
    assert checks.unaligned(np.full(3, 1.7e308), ()) == np.inf
    assert checks.unaligned(np.array([1.7e308, 1.7e308, -1.7e308]), ()) == 1.7e308
    assert np.isnan(checks.unaligned(np.array([np.nan, 1.0]), ()))
    assert checks.unaligned(np.array([]), ()) == 0.0


@pytest.mark.slow
def test_oracles_stay_inside_their_arrays(tmp_path):
    """Numba checks bounds only when told to at compile time: once, on tiny data, in a cache of its own."""
    program = """
import numpy as np
from refimpl import composite, masked, residual
for size in (0, 1, 3):
    x, mask = np.arange(float(size)), np.ones(size, bool)
    y = np.full(size, 1e308)
    for reduction in ("sum", "mean", "batch_mean", "none"):
        masked.masked_sse_gradient(x, -y, mask, reduction=reduction)
        masked.masked_sse(x, -y, mask, reduction=reduction)
    for reduction in ("sum", "mean", "none"):
        residual.compute_residual_mse(x, y, y, -y, 1.7e308, reduction=reduction)
        residual.compute_residual_mse_gradient(x, y, y, -y, 1.7e308, 1.7e308, reduction=reduction)
        residual.compute_residual_mse_gradient(x * 5e-324, 0 * x, 5e-324 * x, 0 * x, 5e-324, 5e-324)
    composite.composite_loss(y, y)
"""
    environment = os.environ | {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
