"""The bounds of the likelihood: correctly rounded terms stay within them, lgamma differences do not."""

import numpy as np
import scipy.special

from refimpl.bounds.likelihood import nll_loss
from refimpl.bounds.precision import error_ratio, precision
from refimpl.likelihood import nll_loss as exact_loss
from refimpl.likelihood import nll_loss_gradient as exact_gradient

SINGLE = precision("float32")
LARGEST = SINGLE.work_max
f32 = np.float32


def replicate(count=100, seed=0):
    generator = np.random.default_rng(seed)
    mu, r = ((10 ** generator.uniform(-1, 2, count)).astype(f32) for _ in range(2))
    return {"mu": mu, "r": r}, {"reads": generator.poisson(mu).astype(f32)}


def test_rounded_terms_are_within():
    outputs, batch = replicate()
    elements = exact_loss(outputs, batch, reduction="none").astype(f32)
    for reduction, got in (
        ("none", elements),
        ("sum", elements.cumsum()[-1]),
        ("mean", elements.mean(dtype=f32)),
    ):
        bound = nll_loss(outputs, batch, SINGLE, reduction=reduction)
        exact = exact_loss(outputs, batch, reduction=reduction)
        assert error_ratio(got, exact, bound.value, LARGEST).max() <= 1.0
        for key, found in exact_gradient(outputs, batch, reduction=reduction).items():
            ratios = error_ratio(found.astype(f32), found, bound.gradient[key], LARGEST, overflows=True)
            assert ratios.max() <= 1.0


def test_no_reads_comes_near():
    outputs, batch = replicate(2000)
    batch = {"reads": np.zeros_like(batch["reads"])}
    got = outputs["r"] * np.log1p(outputs["mu"] / outputs["r"])
    bound = nll_loss(outputs, batch, SINGLE, reduction="none").value
    assert 0.05 <= error_ratio(got, exact_loss(outputs, batch, reduction="none"), bound, LARGEST).max() <= 1.0


def test_lgamma_form_is_too_far():
    mu, r, k = f32([1e4]), f32([1e4]), f32([10_100.0])
    lgamma = [scipy.special.gammaln(part).astype(f32) for part in (k + r, r, k + f32(1))]
    got = -(lgamma[0] - lgamma[1] - lgamma[2] + k * np.log(mu / (mu + r)) - r * np.log1p(mu / r))
    outputs, batch = {"mu": mu, "r": r}, {"reads": k}
    bound = nll_loss(outputs, batch, SINGLE).value
    assert error_ratio(got, exact_loss(outputs, batch), bound, LARGEST).max() > 1.0


def test_two_replicates_are_held_to_their_average():
    pairs = [replicate(50, seed) for seed in (1, 2)]
    outputs, batch = ({name: pair[i] for name, pair in zip(("r1", "r2"), pairs, strict=True)} for i in (0, 1))
    bound = nll_loss(outputs, batch, SINGLE)
    exact = exact_loss(outputs, batch)
    halves = [exact_loss(*pair, reduction="none").astype(f32).mean(dtype=f32) for pair in pairs]
    assert error_ratio(f32(0.5) * (halves[0] + halves[1]), exact, bound.value, LARGEST) <= 1.0
    assert error_ratio(halves[0] + halves[1], exact, bound.value, LARGEST) > 1.0
    assert bound.gradient["r2"]["mu"].shape == (50,)


def test_the_score_without_mean_is_not_exact():
    """At mu = 0 < k it is a difference, and comes with the errors of its terms."""
    outputs, batch = {"mu": [0.0], "r": [4.34375]}, {"reads": [3]}
    double = precision("float64")
    exact = exact_gradient(outputs, batch)["r"]
    bound = nll_loss(outputs, batch, double).gradient["r"]
    assert error_ratio(exact + 5.6e-17, exact, bound, LARGEST) <= 1.0
    assert bound[0] <= 1e-14 * exact[0]


def test_no_mass_has_a_finite_bound():
    bound = nll_loss({"mu": [0.0, 1.0], "r": [1.0, 1.0]}, {"reads": [1, 1]}, SINGLE)
    assert np.isfinite(bound.value)
    assert all(np.isfinite(part).all() for part in bound.gradient.values())
