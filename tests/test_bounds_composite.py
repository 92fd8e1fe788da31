"""Straightforward weighted sums stay inside the bound, use it, and cheaper ones break it.

Largest error / bound over the cases below: 0.82 in float32, 0.50 in float64.
"""

import numpy as np
import pytest

from refimpl.bounds.composite import composite_loss as bound_of
from refimpl.bounds.precision import error_ratio, precision
from refimpl.composite import composite_loss
from tests.exact import all_orders


def worst_ratio(dtype, accumulate):
    p, rng, worst = precision(np.dtype(dtype).name), np.random.default_rng(1), 0.0
    for size in (1, 2, 3, 10, 100):
        for repeat in range(200):
            values = rng.normal(size=size).astype(dtype)
            weights = rng.normal(size=size)  # float64, rounded to the working precision by the sum below
            if repeat % 2:
                values = values * (dtype(10) ** rng.integers(-6, 6, size).astype(dtype))
            exact, bound = composite_loss(values, weights), bound_of(values, weights, p)
            for total in all_orders((weights.astype(dtype) * values).astype(accumulate)):
                worst = max(worst, error_ratio(total, exact, bound.value, p.scalar_max))
            gradient = weights.astype(dtype)
            slope = error_ratio(gradient, weights, bound.gradient[0], p.scalar_max, overflows=True)
            assert slope.max() <= 1.0
    return worst


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_value_and_gradient_stay_inside_and_use_the_bound(dtype):
    assert 0.4 <= worst_ratio(dtype, dtype) <= 1.0


def test_accumulating_in_float32_breaks_the_float64_bound():
    assert worst_ratio(np.float64, np.float32) > 1.0


def test_what_is_switched_off_costs_nothing():
    p = precision("float32")
    bound = bound_of([np.inf, np.nan, 2.0], [0.0, 0.0, 1.0], p)
    assert 0.0 < bound.value < 1e-6
    assert bound.gradient[0].tolist()[:2] == [0.0, 0.0]
    assert bound_of([], [], p).value == 0.0
    assert not np.isnan(bound_of([1.7e308] * 3, [1.7e308, -1.7e308, 1.0], precision("float64")).value)
