"""The likelihood oracle against mpmath, its saturation, and its refusals."""

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl.likelihood import nll_loss, nll_loss_gradient
from tests.budget import examples

LARGEST = np.finfo(np.float64).max
ELEMENTS = st.lists(
    st.tuples(st.integers(0, 200), st.floats(1e-3, 1e4), st.floats(1e-3, 1e6)), min_size=1, max_size=5
)


def log_mass(k, mu, r):
    """log p and its derivatives in mu and r."""
    mu, r = mpmath.mpf(mu), mpmath.mpf(r)
    value = mpmath.loggamma(k + r) - mpmath.loggamma(r) - mpmath.loggamma(k + 1)
    value += k * mpmath.log(mu / (mu + r)) - r * mpmath.log1p(mu / r)
    slope_r = mpmath.fsum(1 / (r + j) for j in range(k)) - mpmath.log1p(mu / r) + (mu - k) / (mu + r)
    return value, r * (k - mu) / (mu * (mu + r)), slope_r


def as_batch(elements):
    k, mu, r = (np.array(part, float) for part in zip(*elements, strict=True))
    return {"mu": mu, "r": r}, {"reads": k}


def close(got, true):
    return abs(mpmath.mpf(float(got)) - true) <= math.ulp(float(true))


@settings(max_examples=examples(40))
@given(ELEMENTS)
def test_one_replicate_is_right_to_one_ulp(elements):
    outputs, batch = as_batch(elements)
    with mpmath.workprec(300):
        exact = [log_mass(*element) for element in elements]
        total = -mpmath.fsum(part[0] for part in exact)
        assert close(nll_loss(outputs, batch), total / len(exact))
        assert close(nll_loss(outputs, batch, reduction="sum"), total)
        single = nll_loss(outputs, batch, reduction="none")
        gradient = nll_loss_gradient(outputs, batch, 0.75)
        for i, part in enumerate(exact):
            assert close(single[i], -part[0])
            assert close(gradient["mu"][i], -part[1] * 0.75 / len(exact))
            assert close(gradient["r"][i], -part[2] * 0.75 / len(exact))


@settings(max_examples=examples(20))
@given(ELEMENTS, ELEMENTS)
def test_two_replicates_are_averaged(first, second):
    pairs = [as_batch(elements) for elements in (first, second)]
    outputs, batch = ({name: pair[i] for name, pair in zip(("r1", "r2"), pairs, strict=True)} for i in (0, 1))
    with mpmath.workprec(300):
        exact = [[log_mass(*element) for element in elements] for elements in (first, second)]
        means = [-mpmath.fsum(part[0] for part in parts) / len(parts) for parts in exact]
        assert close(nll_loss(outputs, batch), (means[0] + means[1]) / 2)
        gradient = nll_loss_gradient(outputs, batch)
        assert close(gradient["r2"]["r"][0], -exact[1][0][2] / len(second) / 2)
        if len(first) == len(second):
            both = nll_loss(outputs, batch, reduction="none")
            assert close(both[0], -(exact[0][0][0] + exact[1][0][0]) / 2)


def test_no_mass_saturates_and_infinite_counts_do_not():
    assert nll_loss({"mu": [0.0, 1.0], "r": [1.0, 1.0]}, {"reads": [1, 1]}) == LARGEST
    assert nll_loss({"mu": 1.0, "r": 1.0}, {"reads": [-1.0]}, reduction="sum") == LARGEST
    both = nll_loss({"mu": 1.0, "r": 1.0}, {"reads": [-1.0, 0.0, math.inf, math.nan]}, reduction="none")
    np.testing.assert_array_equal(both, [LARGEST, math.log(2), math.inf, math.nan])
    assert nll_loss({"mu": 1.0, "r": 1.0}, {"reads": [-1.0, math.inf]}) == math.inf
    outputs = {"r1": {"mu": 0.0, "r": 1.0}, "r2": {"mu": 1.0, "r": 1.0}}
    assert nll_loss(outputs, {"r1": {"reads": [1]}, "r2": {"reads": [1]}}) == LARGEST
    gradient = nll_loss_gradient(outputs, {"r1": {"reads": [1]}, "r2": {"reads": [1]}})
    assert gradient["r1"]["mu"] == -math.inf


def test_a_sum_beyond_the_range_saturates_and_its_mean_does_not():
    outputs, batch = {"mu": np.full(4, 1e308), "r": np.full(4, 1e308)}, {"reads": np.zeros(4)}
    single = nll_loss(outputs, batch, reduction="none")[0]
    assert nll_loss(outputs, batch) == single
    assert nll_loss(outputs, batch, reduction="sum") == LARGEST


def test_a_slope_beyond_the_range_is_divided_before_it_is_rounded():
    r = 5e-309  # d log p / dr = 1/r = 2e308 for one read, and a quarter of it is a float64
    gradient = nll_loss_gradient({"mu": np.ones(4), "r": np.full(4, r)}, {"reads": np.ones(4)})
    assert gradient["r"].tolist() == [-float(Fraction(1, 4) / Fraction(r))] * 4


@pytest.mark.parametrize("r", [1e-270, 1e-280, 1e-290])
def test_a_tiny_slope_keeps_its_digits(r):
    outputs, batch = {"mu": np.array([10.0]), "r": np.array([r])}, {"reads": np.ones(1)}
    with mpmath.workprec(300):
        assert close(nll_loss_gradient(outputs, batch)["mu"][0], -log_mass(1, 10.0, r)[1])


def test_empty_batch():
    assert nll_loss({"mu": np.zeros(0), "r": 1.0}, {"reads": np.zeros(0)}) == 0.0
    gradient = nll_loss_gradient({"mu": np.zeros(0), "r": 1.0}, {"reads": np.zeros(0)})
    assert gradient["mu"].shape == (0,)
    assert gradient["r"] == 0.0


def test_shapes_of_the_gradient():
    gradient = nll_loss_gradient({"mu": np.ones((2, 1)), "r": 1.0}, {"reads": np.array([0, 3])})
    assert (gradient["mu"].shape, gradient["r"].shape) == ((2, 1), ())
    np.testing.assert_array_equal(gradient["mu"], [[0.25], [-0.5]])


def test_refusals():
    with pytest.raises(KeyError, match=r"batch\['reads'\] is missing"):
        nll_loss({"mu": 1.0, "r": 1.0}, {})
    with pytest.raises(KeyError, match=r"model_outputs\['r2'\] is missing"):
        nll_loss({"r1": {"mu": 1.0, "r": 1.0}}, {"r1": {"reads": [1]}, "r2": {"reads": [1]}})
    with pytest.raises(ValueError, match=r"model_outputs\['mu'\] and batch\['reads'\] .* \(2,\) and \(3,\)"):
        nll_loss({"mu": np.ones(2), "r": 1.0}, {"reads": np.ones(3)})
    with pytest.raises(ValueError, match="reduction must be one of"):
        nll_loss({"mu": 1.0, "r": 1.0}, {"reads": [1]}, reduction="batch_mean")
    pair = {"r1": {"reads": [1]}, "r2": {"reads": [1, 2]}}
    same = {"r1": {"mu": 1.0, "r": 1.0}, "r2": {"mu": 1.0, "r": 1.0}}
    with pytest.raises(ValueError, match=r"must have the same shape, got \(1,\) and \(2,\)"):
        nll_loss(same, pair, reduction="none")
