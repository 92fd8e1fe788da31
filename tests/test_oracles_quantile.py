"""The quantile oracle against exact fractions and mpmath, and its refusals."""

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl.quantile import (
    quantile_absolute_loss,
    quantile_absolute_loss_gradient,
    quantile_absolute_loss_wrapper,
    quantile_absolute_loss_wrapper_gradient,
)
from tests.budget import examples

COUNTS = st.lists(st.tuples(*2 * [st.integers(-1, 40)]), min_size=1, max_size=6)
PARAMETER = st.floats(0.05, 50.0)


def tails(k, mu, r):
    """F, S = 1 - F, dF/dmu and dF/dr by summation."""
    mu, r = mpmath.mpf(mu), mpmath.mpf(r)
    mass, score = mpmath.exp(-r * mpmath.log1p(mu / r)), mu / (mu + r) - mpmath.log1p(mu / r)
    F, slope_mu, slope_r = mpmath.mpf(0), mpmath.mpf(0), mpmath.mpf(0)
    for j in range(k + 1):
        F, slope_r = F + mass, slope_r + mass * score
        slope_mu = -mass * (j + r) / (mu + r)
        mass *= (j + r) / (j + 1) * mu / (mu + r)
        score += (mu - j) / ((j + r) * (mu + r))
    return F, slope_mu, slope_r


@settings(max_examples=examples(40))
@given(COUNTS, *4 * [PARAMETER])
def test_value_and_gradient_are_right_to_one_ulp(counts, mu1, r1, mu2, r2):
    y1, y2 = np.array(counts, float).T
    models = [{"mu": np.full(y1.size, mu), "r": np.full(y1.size, r)} for mu, r in ((mu1, r1), (mu2, r2))]
    with mpmath.workprec(600):
        first, second = ([tails(int(k), mu, r) for k in y] for y, mu, r in ((y1, mu1, r1), (y2, mu2, r2)))
        differences = [a[0] - b[0] for a, b in zip(first, second, strict=True)]
        for reduction, divisor in (("mean", len(counts)), ("sum", 1)):
            got = quantile_absolute_loss(*models, y1, y2, reduction=reduction)
            true = mpmath.fsum(abs(part) for part in differences) / divisor
            assert abs(got - true) <= math.ulp(float(true))
        elements = quantile_absolute_loss(*models, y1, y2, reduction="none")
        gradient = quantile_absolute_loss_gradient(*models, y1, y2, 3.0)
        for i, difference in enumerate(differences):
            assert abs(elements[i] - abs(difference)) <= math.ulp(float(abs(difference)))
            for found, parts, side in zip(gradient, (first, second), (1, -1), strict=True):
                for key, column in (("mu", 1), ("r", 2)):
                    wanted = side * mpmath.sign(difference) * parts[i][column] * 3 / len(counts)
                    assert abs(found[key][i] - wanted) <= math.ulp(float(wanted))


def test_difference_of_survival_functions():
    """Both F round to 1: S(k) = 2^-(k+1) tells them apart."""
    model = {"mu": [1.0], "r": [1.0]}
    assert quantile_absolute_loss(model, model, [99.0], [100.0]) == 2.0**-101


def test_exact_values_and_ties():
    model = {"mu": np.ones(3), "r": np.ones(3)}
    y1, y2 = np.array([0.0, 2.0, -1.0]), np.array([1.0, 2.7, 0.0])
    assert quantile_absolute_loss(model, model, y1, y2, reduction="sum") == 0.75
    np.testing.assert_array_equal(
        quantile_absolute_loss(model, model, y1, y2, reduction="none"), [0.25, 0, 0.5]
    )
    first, second = quantile_absolute_loss_gradient(model, model, y1, y2, [1.0, 1.0, 0.0], reduction="none")
    np.testing.assert_array_equal(first["mu"], [0.25, 0.0, 0.0])
    np.testing.assert_array_equal(second["mu"], [-0.25, 0.0, 0.0])


def test_edges():
    model = {"mu": 0.0, "r": 1.0}
    assert quantile_absolute_loss(model, {"mu": 1.0, "r": math.inf}, [0.0], [math.inf]) == 0.0
    assert quantile_absolute_loss(model, model, np.zeros(0), np.zeros(0)) == 0.0
    assert math.isnan(quantile_absolute_loss(model, model, [math.nan, 0.0], [0.0, 0.0]))
    empty = quantile_absolute_loss_gradient(model, model, np.zeros(0), np.zeros(0))
    assert empty[0]["mu"] == 0.0


def test_wrapper_aligns_and_returns_the_parameters_shapes():
    outputs = {"r1": {"mu": np.ones((2, 1)), "r": 1.0}, "r2": {"mu": np.ones(2), "r": np.ones((2, 1))}}
    batch = {"r1": {"reads": np.array([0, 3])}, "r2": {"reads": np.array([1, 3])}}
    assert quantile_absolute_loss_wrapper(outputs, batch) == 0.125
    gradient = quantile_absolute_loss_wrapper_gradient(outputs, batch)
    shapes = {name: {key: part.shape for key, part in parts.items()} for name, parts in gradient.items()}
    assert shapes == {"r1": {"mu": (2, 1), "r": ()}, "r2": {"mu": (2,), "r": (2, 1)}}
    np.testing.assert_array_equal(gradient["r2"]["mu"], [-0.125, 0.0])


def test_refusals():
    model, batch = {"mu": [1.0], "r": [1.0]}, {"r1": {"reads": [1]}, "r2": {"reads": [1]}}
    with pytest.raises(ValueError, match=r"reduction must be one of .* got 'avg'"):
        quantile_absolute_loss(model, model, [1.0], [1.0], reduction="avg")
    with pytest.raises(ValueError, match=r"y_r1 and y_r2 .* got \(2,\) and \(1,\)"):
        quantile_absolute_loss({"mu": 1.0, "r": 1.0}, model, [1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match=r"model_r2\['mu'\] and y_r2 .* got \(1,\) and \(2,\)"):
        quantile_absolute_loss({"mu": 1.0, "r": 1.0}, model, [1.0, 2.0], [1.0, 2.0])
    with pytest.raises(KeyError, match=r"model_r2\['r'\] is missing, keys present: 'mu'"):
        quantile_absolute_loss(model, {"mu": [1.0]}, [1.0], [1.0])
    with pytest.raises(TypeError, match="unknown option 'tau'"):
        quantile_absolute_loss_wrapper({"r1": model, "r2": model}, batch, tau=1.0)
    with pytest.raises(KeyError, match=r"model_outputs\['r2'\] is missing"):
        quantile_absolute_loss_wrapper({"r1": model}, batch)
    with pytest.raises(ValueError, match=r"cotangent must be a number or have shape \(\)"):
        quantile_absolute_loss_gradient(model, model, [1.0], [1.0], [1.0, 2.0])
