"""The scenarios this project started from, each a test of its own."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

import refimpl
import torchimpl as losses
from refimpl.bounds import precision
from refimpl.bounds.negative_binomial import negative_binomial_cdf as cdf_bound
from refimpl.bounds.pearson import negative_pearson_loss as pearson_bound

F32, F64 = torch.float32, torch.float64
NAMES = [
    "replicate_concordance_mse",
    "nll_loss",
    "concordance_loss_nce",
    "negative_pearson_loss",
    "quantile_absolute_loss",
]


def test_matched_pairs_score_lower_than_mismatched_ones():
    res1 = torch.linspace(-3, 3, 16)
    res2 = res1 + 0.01 * torch.randn(16)
    assert losses.concordance_loss_nce(res1, res2) < losses.concordance_loss_nce(res1, res2.roll(1))
    assert losses.concordance_loss_nce(res1, res2) < losses.concordance_loss_nce(res1, res2.flip(0))


@pytest.mark.parametrize("slope", [1e-3, 1.0, 1e6])
def test_perfect_correlation_is_minus_one(slope):
    targets = torch.randn(50, dtype=F64)
    for sign in (1, -1):
        value = losses.negative_pearson_loss(sign * slope * targets + 7, targets)
        # rounding 7 + slope * t perturbs the deviations by u * 7 / slope at most
        assert abs(value.item() + sign) <= 2.0**-53 * (100 + 50 * 7 / slope)


def test_uncorrelated_input_scores_near_zero_and_exactly_zero_when_orthogonal():
    p, t = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1.0, -1.0, -1.0, 1.0])
    assert losses.negative_pearson_loss(p, t).item() == 0
    n = 10_000
    # the correlation of independent samples has standard deviation 1/sqrt(n); six of them
    assert abs(losses.negative_pearson_loss(torch.randn(n), torch.randn(n)).item()) < 6 / math.sqrt(n)


@given(st.integers(0, 2**32 - 1), st.integers(2, 40))
def test_pearson_equals_scipy(seed, n):
    rng = np.random.default_rng(seed)
    p, t = rng.normal(size=n), rng.normal(size=n)
    value = losses.negative_pearson_loss(torch.from_numpy(p), torch.from_numpy(t)).item()
    # scipy's own two-pass evaluation errs by no more than ours is allowed to, twice over for its mean
    allowed = 3 * pearson_bound(p, t, precision=precision("float64")).value
    assert abs(value + scipy.stats.pearsonr(p, t).statistic) <= allowed


def test_pit_differences_equal_scipy_with_the_right_parameterisation():
    rng = np.random.default_rng(1)
    mu, r = rng.uniform(0.05, 100, (2, 200)), rng.uniform(0.3, 50, (2, 200))
    y = rng.negative_binomial(r, r / (r + mu)).astype(float)
    f = [scipy.stats.nbinom.cdf(y[i], r[i], r[i] / (r[i] + mu[i])) for i in range(2)]
    models = [{"mu": torch.from_numpy(mu[i]), "r": torch.from_numpy(r[i])} for i in range(2)]
    value = losses.quantile_absolute_loss(*models, *torch.from_numpy(y), reduction="none").numpy()
    allowed = sum(cdf_bound(y[i], mu[i], r[i], precision=precision("float64")).value for i in range(2))
    # scipy documents about 160 roundoffs on such input (docs/accuracy.md)
    assert np.all(np.abs(value - np.abs(f[0] - f[1])) <= allowed + 160 * 2.0**-52)
    wrong = [scipy.stats.nbinom.cdf(y[i], r[i], mu[i] / (r[i] + mu[i])) for i in range(2)]
    assert np.abs(value - np.abs(wrong[0] - wrong[1])).max() > 0.1


def test_compute_numeric_cdf_refuses_a_mock_that_is_no_distribution_it_knows():
    class Mock:
        total_count = torch.ones(2)
        probs = torch.full((2,), 0.5)

    with pytest.raises(TypeError, match="Mock"):
        losses.compute_numeric_cdf(Mock(), torch.ones(2))


def test_compute_numeric_cdf_of_a_subclass_of_a_torch_distribution():
    class MyCounts(torch.distributions.NegativeBinomial):
        """Somebody's own class with nothing changed."""

    k = torch.arange(5, dtype=F64)
    args = torch.full((5,), 2.0, dtype=F64), torch.full((5,), 0.25, dtype=F64)
    plain = losses.compute_numeric_cdf(torch.distributions.NegativeBinomial(*args), k)
    assert torch.equal(losses.compute_numeric_cdf(MyCounts(*args), k), plain)


def dataset_batch(size, *, column=False, dtype=F32, fill=None):
    """What a MultiReplicateDataset's loader yields, and a model's answer to it."""
    rng = np.random.default_rng(size)
    shape = (size, 1) if column else (size,)

    def draw(low, high):
        values = np.full(size, fill) if fill is not None else rng.uniform(low, high, size)
        return torch.tensor(values, dtype=dtype)

    outputs = {n: {"mu": draw(1, 20).reshape(shape), "r": draw(0.5, 5).reshape(shape)} for n in ("r1", "r2")}
    batch = {n: {"reads": draw(0, 30).floor(), "covariates": torch.zeros(size, 5)} for n in ("r1", "r2")}
    batch["metadata"] = {"sd_ratio": draw(0.5, 2.0), "grp_idx": torch.arange(size)}
    return outputs, batch


@pytest.mark.parametrize("name", NAMES)
def test_the_dataset_format_gives_one_number_for_flat_and_for_column_parameters(name):
    flat, column = dataset_batch(9), dataset_batch(9, column=True)
    value = losses.LOSS_REGISTRY[name](*flat)
    assert value.shape == ()
    assert torch.equal(value, losses.LOSS_REGISTRY[name](*column))
    oracle = getattr(refimpl, losses.LOSS_REGISTRY[name].__name__)
    as_numpy = [{n: {k: v.numpy() for k, v in part.items()} for n, part in half.items()} for half in flat]
    # one rounding of the float64 oracle to float32 on top of float64 arithmetic
    assert abs(value.item() - oracle(*as_numpy)) <= 2.0**-23 * abs(value.item())


def test_total_equals_the_weighted_sum():
    outputs, batch = dataset_batch(9, dtype=F64)
    weights = [0.3, 1.0, 2.5, -0.5, 10.0]
    made = losses.create_composite_loss({"losses": NAMES, "weights": weights, "return_components": True})
    result = made(outputs, batch)
    parts = [losses.LOSS_REGISTRY[n](outputs, batch).item() for n in NAMES]
    assert list(result["components"]) == NAMES
    assert [v.item() for v in result["components"].values()] == parts
    products = [w * p for w, p in zip(weights, parts, strict=True)]
    # five products and four additions
    assert abs(result["total"].item() - math.fsum(products)) <= 9 * 2.0**-53 * math.fsum(map(abs, products))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, F32, F64])
@pytest.mark.parametrize("fill", ["zeros", "huge", "identical", "tiny"])
@pytest.mark.parametrize("name", NAMES)
def test_zeros_huge_values_and_identical_inputs_give_neither_nan_nor_infinity(name, fill, dtype):
    value = {"zeros": 0.0, "huge": torch.finfo(dtype).max, "identical": 3.0, "tiny": torch.finfo(dtype).tiny}[
        fill
    ]
    outputs, batch = dataset_batch(4, dtype=dtype, fill=value)
    if fill == "zeros":  # a dispersion of zero is no distribution
        for n in ("r1", "r2"):
            outputs[n]["r"] = torch.ones(4, dtype=dtype)
    leaves = [outputs[n][k].requires_grad_() for n in ("r1", "r2") for k in ("mu", "r")]
    loss = losses.LOSS_REGISTRY[name](outputs, batch)
    assert torch.isfinite(loss), loss
    grads = torch.autograd.grad(loss, leaves, allow_unused=True)
    for g in grads:
        assert g is None or not g.isnan().any()
