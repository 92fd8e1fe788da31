"""What docs/losses.md promises of the losses of read counts, sentence by sentence.

Expectations are exact, or come from mpmath and scipy; no oracle is asked.
"""

import functools
import math

import mpmath
import pytest
import scipy.stats
import torch
from torch import tensor

import torchimpl as losses
from tests.ulps import ulps

F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
FLOATS = [F16, BF16, F32, F64]
inf, nan = math.inf, math.nan


def nb_cdf(y, mu, r):
    """F by summing the probability mass function with 50 digits: an integer y, mean mu, dispersion r."""
    with mpmath.workdps(50):
        mu, r = mpmath.mpf(mu), mpmath.mpf(r)
        q = mu / (mu + r)
        term = total = (r / (mu + r)) ** r
        for j in range(int(y)):
            term *= (j + r) / (j + 1) * q
            total += term
        return total


@pytest.mark.parametrize(
    ("y", "mu", "r"), [(0, 1.0, 1.0), (3, 2.5, 0.7), (10, 7.0, 2.0), (60, 50.0, 10.0), (5, 500.0, 3.0)]
)
def test_cdf_and_sf_are_those_of_mean_mu_and_dispersion_r(y, mu, r):
    args = [tensor([float(v)], dtype=F64) for v in (y, mu, r)]
    with mpmath.workdps(50):
        f = nb_cdf(y, mu, r)
        assert ulps(losses.negative_binomial_cdf(*args)[0], f) <= 16
        assert ulps(losses.negative_binomial_sf(*args)[0], 1 - f) <= 16


def test_cdf_of_the_geometric_distribution():
    k = torch.arange(60, dtype=F64)
    one = torch.ones(60, dtype=F64)
    assert max(ulps(v, 2.0 ** -(i + 1)) for i, v in enumerate(losses.negative_binomial_sf(k, one, one))) <= 16


@pytest.mark.parametrize("dtype", FLOATS)
def test_cdf_edges(dtype):
    def cdf(y, mu, r):
        return losses.negative_binomial_cdf(*(tensor([v], dtype=dtype) for v in (y, mu, r)))

    assert cdf(-1.0, 2.0, 3.0).item() == 0
    assert cdf(-inf, 2.0, 3.0).item() == 0
    assert cdf(0.0, 0.0, 3.0).item() == 1
    assert cdf(7.0, 0.0, 3.0).item() == 1
    assert cdf(inf, 2.0, 3.0).item() == 1
    assert cdf(2.9, 2.0, 3.0).item() == cdf(2.0, 2.0, 3.0).item()
    assert math.isnan(cdf(nan, 2.0, 3.0).item())
    for bad in [(1.0, -1.0, 3.0), (1.0, 2.0, 0.0), (1.0, 2.0, -1.0), (1.0, nan, 1.0), (1.0, 1.0, nan)]:
        assert math.isnan(cdf(*bad).item()), bad
    assert cdf(1.0, 2.0, 3.0).dtype == dtype


def test_cdf_gradient_at_mean_zero_is_one_sided():
    y = tensor([0.0, 0.5, 1.0, 4.0, -1.0], dtype=F64)
    mu = torch.zeros(5, dtype=F64, requires_grad=True)
    r = torch.full((5,), 2.0, dtype=F64, requires_grad=True)
    losses.negative_binomial_cdf(y, mu, r).sum().backward()
    assert mu.grad.tolist() == [-1, -1, 0, 0, 0]
    assert r.grad.tolist() == [0, 0, 0, 0, 0]


@pytest.mark.parametrize("r", [1e12, 1e20, 1e300, inf])
def test_cdf_has_the_poisson_limit(r):
    y, mu = tensor([0.0, 3.0, 9.0], dtype=F64), tensor([2.0, 2.5, 4.0], dtype=F64)
    got = losses.negative_binomial_cdf(y, mu, torch.full((3,), r, dtype=F64))
    # the distance of the negative binomial from its limit is of the order mu^2 / r
    slack = 20 / r
    for value, k, m in zip(got, y.tolist(), mu.tolist(), strict=True):
        with mpmath.workdps(40):
            expected = mpmath.gammainc(k + 1, m, regularized=True)
        assert abs(value.item() - float(expected)) <= slack + 16 * 2.0**-53


def test_zero_dimensional_parameters_are_constants_of_the_batch():
    y = tensor([0.0, 1.0, 2.0], dtype=F64)
    mu, r = tensor(2.0, dtype=F64, requires_grad=True), tensor(3.0, dtype=F64, requires_grad=True)
    value = losses.negative_binomial_cdf(y, mu, r)
    wide = losses.negative_binomial_cdf(y, mu.detach().expand(3), r.detach().expand(3))
    assert torch.equal(value, wide)
    value.sum().backward()
    assert mu.grad.shape == r.grad.shape == ()


def test_cdf_does_not_depend_on_the_largest_count_of_the_batch():
    y = tensor([3.0, 1e7], dtype=F64)
    mu, r = tensor([2.0, 3.0], dtype=F64), tensor([1.0, 2.0], dtype=F64)
    assert losses.negative_binomial_cdf(y, mu, r)[0] == losses.negative_binomial_cdf(y[:1], mu[:1], r[:1])[0]


def test_cdf_and_sf_add_up_and_are_differentiable_twice():
    y = tensor([0.0, 2.0, 30.0, 400.0], dtype=F64)
    mu = tensor([0.5, 3.0, 25.0, 380.0], dtype=F64, requires_grad=True)
    r = tensor([0.2, 1.5, 60.0, 900.0], dtype=F64, requires_grad=True)
    total = losses.negative_binomial_cdf(y, mu, r) + losses.negative_binomial_sf(y, mu, r)
    assert (total - 1).abs().max() <= 2.0**-52
    assert torch.autograd.gradgradcheck(lambda m, s: losses.negative_binomial_cdf(y, m, s), (mu, r))


def test_compute_numeric_cdf_reads_the_parameters_of_torch_distributions():
    k = torch.arange(12, dtype=F64)
    total, probs = torch.full((12,), 2.5, dtype=F64), torch.full((12,), 0.4, dtype=F64)
    dist = torch.distributions.NegativeBinomial(total, probs=probs)
    # torch's probs is the probability of the counted event, scipy's that of the other
    expected = scipy.stats.nbinom.cdf(k.numpy(), 2.5, 1 - 0.4)
    assert max(ulps(v, e) for v, e in zip(losses.compute_numeric_cdf(dist, k), expected, strict=True)) <= 32
    poisson = torch.distributions.Poisson(torch.full((12,), 3.0, dtype=F64))
    expected = scipy.stats.poisson.cdf(k.numpy(), 3.0)
    assert (
        max(ulps(v, e) for v, e in zip(losses.compute_numeric_cdf(poisson, k + 0.9), expected, strict=True))
        <= 32
    )
    with pytest.raises(TypeError, match="Normal"):
        losses.compute_numeric_cdf(torch.distributions.Normal(0.0, 1.0), k)


def replicates(first, second, dtype=F64):
    """Arguments of the quantile loss from two triples y, mu, r."""
    (y1, mu1, r1), (y2, mu2, r2) = ([tensor(v, dtype=dtype) for v in part] for part in (first, second))
    return {"mu": mu1, "r": r1}, {"mu": mu2, "r": r2}, y1, y2


def test_quantile_loss_is_the_mean_absolute_difference_of_the_two_cdfs():
    args = replicates(([1.0, 5.0], [2.0, 4.0], [1.5, 3.0]), ([0.0, 9.0], [1.0, 7.0], [2.0, 2.5]))
    rows = [
        abs(nb_cdf(1, 2.0, 1.5) - nb_cdf(0, 1.0, 2.0)),
        abs(nb_cdf(5, 4.0, 3.0) - nb_cdf(9, 7.0, 2.5)),
    ]
    assert ulps(losses.quantile_absolute_loss(*args), sum(rows) / 2) <= 64
    assert ulps(losses.quantile_absolute_loss(*args, reduction="sum"), sum(rows)) <= 64
    assert losses.quantile_absolute_loss(*args, reduction="none").shape == (2,)


@pytest.mark.parametrize("dtype", [F32, F64])
def test_quantile_loss_keeps_relative_accuracy_where_both_cdfs_are_near_one(dtype):
    args = replicates(([60.0], [5.0], [5.0]), ([80.0], [5.0], [5.0]), dtype)
    with mpmath.workdps(50):
        expected = nb_cdf(80, 5.0, 5.0) - nb_cdf(60, 5.0, 5.0)
    assert ulps(losses.quantile_absolute_loss(*args), expected) <= 32


def test_quantile_loss_of_identical_replicates_is_zero_with_zero_gradient():
    mu = tensor([2.0, 3.0], dtype=F64, requires_grad=True)
    model = {"mu": mu, "r": tensor([1.0, 4.0], dtype=F64)}
    y = tensor([1.0, 2.0], dtype=F64)
    value = losses.quantile_absolute_loss(model, model, y, y)
    value.backward()
    assert value.item() == 0
    assert not mu.grad.any()


def test_nll_is_that_of_the_same_distribution_and_averages_the_replicates():
    mu, r, y = [0.5, 3.0, 40.0], [0.3, 2.0, 9.0], [0.0, 4.0, 31.0]
    make = functools.partial(tensor, dtype=F64)
    one = losses.nll_loss({"mu": make(mu), "r": make(r)}, {"reads": make(y)})
    p = [s / (s + m) for m, s in zip(mu, r, strict=True)]
    expected = -scipy.stats.nbinom.logpmf(y, r, p).mean()
    assert ulps(one, expected) <= 64
    other = losses.nll_loss({"mu": make(mu[::-1]), "r": make(r)}, {"reads": make(y)})
    both = losses.nll_loss(
        {"r1": {"mu": make(mu), "r": make(r)}, "r2": {"mu": make(mu[::-1]), "r": make(r)}},
        {"r1": {"reads": make(y)}, "r2": {"reads": make(y)}},
    )
    assert ulps(both, (one + other) / 2) <= 2


def test_nll_has_no_clamp_that_kills_a_gradient():
    mu = tensor([1e-9], dtype=F64, requires_grad=True)
    r = tensor([1e-9], dtype=F64, requires_grad=True)
    losses.nll_loss({"mu": mu, "r": r}, {"reads": tensor([3.0], dtype=F64)}).backward()
    assert ulps(mu.grad[0], 1e-9 * (1e-9 - 3) / (1e-9 * 2e-9)) <= 8
    assert r.grad.abs() > 1e8


def test_residual_mse_is_its_formula():
    outputs = {"r1": {"mu": tensor([1.0, 2.0]), "r": None}, "r2": {"mu": tensor([2.0, 5.0]), "r": None}}
    batch = {
        "r1": {"reads": tensor([4.0, 1.0])},
        "r2": {"reads": tensor([3.0, 3.0])},
        "metadata": {"sd_ratio": 2.0},
    }
    # (3 - 2*1, -1 + 2*2) = (1, 3)
    assert losses.replicate_concordance_mse_loss(outputs, batch).item() == 5
    for ratio in (tensor(2.0), tensor([2.0, 2.0]), tensor([[2.0], [2.0]])):
        batch["metadata"]["sd_ratio"] = ratio
        assert losses.replicate_concordance_mse_loss(outputs, batch).item() == 5
    args = [batch["r1"]["reads"], outputs["r1"]["mu"], batch["r2"]["reads"], outputs["r2"]["mu"], tensor(2.0)]
    assert losses.compute_residual_mse(*args).item() == 5
