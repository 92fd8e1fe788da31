"""The bounds of the quantile loss: rounded CDFs stay within them, careless differences do not."""

import numpy as np

from refimpl.bounds.precision import error_ratio, precision
from refimpl.bounds.quantile import quantile_absolute_loss, quantile_absolute_loss_wrapper
from refimpl.negative_binomial import negative_binomial_partials
from refimpl.quantile import quantile_absolute_loss as exact_loss
from refimpl.quantile import quantile_absolute_loss_gradient as exact_gradient

SINGLE = precision("float32")
LARGEST = SINGLE.work_max
f32 = np.float32


def replicates(count=64, seed=0):
    generator = np.random.default_rng(seed)
    parameters = [(10 ** generator.uniform(-1, 1.5, count)).astype(f32) for _ in range(4)]
    counts = [generator.poisson(mu).astype(f32) for mu in parameters[:2]]
    models = [{"mu": parameters[i], "r": parameters[i + 2]} for i in (0, 1)]
    return models, counts


def test_loss_of_rounded_tails_is_within():
    models, counts = replicates()
    parts = [negative_binomial_partials(y, m["mu"], m["r"]) for m, y in zip(models, counts, strict=True)]
    (F1, S1), (F2, S2) = ((part[0].astype(f32), part[1].astype(f32)) for part in parts)
    elements = np.abs(np.where(F1 + F2 <= 1, F1 - F2, S2 - S1))
    for reduction, got in (
        ("none", elements),
        ("sum", elements.cumsum()[-1]),
        ("mean", elements.mean(dtype=f32)),
    ):
        exact = exact_loss(*models, *counts, reduction=reduction)
        bound = quantile_absolute_loss(*models, *counts, SINGLE, reduction=reduction).value
        assert error_ratio(got, exact, bound, LARGEST).max() <= 1.0


def test_one_element_comes_near():
    """No reads: F = exp(-L) in float32 as it stands."""
    models, counts = replicates(2000, 1)
    counts = [np.zeros_like(y) for y in counts]
    F1, F2 = (np.exp(-m["r"] * np.log1p(m["mu"] / m["r"])) for m in models)
    S1, S2 = (-np.expm1(-m["r"] * np.log1p(m["mu"] / m["r"])) for m in models)
    got = np.abs(np.where(F1 + F2 <= 1, F1 - F2, S2 - S1))
    exact = exact_loss(*models, *counts, reduction="none")
    ratios = error_ratio(
        got, exact, quantile_absolute_loss(*models, *counts, SINGLE, reduction="none").value, LARGEST
    )
    assert 0.05 <= ratios.max() <= 1.0


def test_difference_of_rounded_cdfs_near_one_is_too_far():
    model, counts = {"mu": [5.0], "r": [5.0]}, ([60.0], [80.0])
    bound = quantile_absolute_loss(model, model, *counts, SINGLE).value
    assert error_ratio(0.0, exact_loss(model, model, *counts), bound, LARGEST) > 1.0


def test_gradient_of_the_other_sign_is_too_far_and_right_is_within():
    models, counts = replicates()
    bound = quantile_absolute_loss(*models, *counts, SINGLE, reduction="sum").gradient
    exact = exact_gradient(*models, *counts, reduction="sum")
    clear = exact_loss(*models, *counts, reduction="none") > 1e-4
    for found, allowed in zip(exact, bound, strict=True):
        for key in ("mu", "r"):
            assert (
                error_ratio(found[key].astype(f32), found[key], allowed[key], LARGEST, overflows=True).max()
                <= 1
            )
            opposite = error_ratio(-found[key], found[key], allowed[key], LARGEST, overflows=True)
            assert (opposite[clear & (found[key] != 0.0)] > 1.0).all()


def test_identical_replicates_allow_no_error_and_near_ties_either_sign():
    model = {"mu": np.array([3.0]), "r": np.array([2.0])}
    bound = quantile_absolute_loss(model, model, [2.0], [2.5], SINGLE)
    assert bound.value == 0.0
    assert bound.gradient[0]["mu"] == 0.0
    near = {"mu": np.array([3.0 * (1 + 2**-30)]), "r": np.array([2.0])}
    loose = quantile_absolute_loss(model, near, [2.0], [2.0], SINGLE)
    slope = exact_gradient(model, near, [2.0], [2.0])[0]["mu"]
    assert loose.gradient[0]["mu"] >= 2 * abs(slope)


def test_wrapper_has_the_parameters_shapes():
    outputs = {"r1": {"mu": np.ones((2, 1)), "r": 1.0}, "r2": {"mu": np.ones(2), "r": np.ones((2, 1))}}
    batch = {"r1": {"reads": np.array([0, 3])}, "r2": {"reads": np.array([1, 2])}}
    bound = quantile_absolute_loss_wrapper(outputs, batch, SINGLE)
    shapes = {
        name: {key: part.shape for key, part in parts.items()} for name, parts in bound.gradient.items()
    }
    assert shapes == {"r1": {"mu": (2, 1), "r": ()}, "r2": {"mu": (2,), "r": (2, 1)}}
