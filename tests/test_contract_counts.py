"""What docs/losses.md promises of the losses of read counts, sentence by sentence.

Expectations are exact, or come from mpmath and scipy; no oracle is asked.
"""

import math

import mpmath
import pytest
import torch
from torch import tensor

import torchimpl as losses
from refimpl import bounds
from tests.ulps import ulps

F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
FLOATS = [F16, BF16, F32, F64]
inf, nan = math.inf, math.nan
U = bounds.precision("float64")


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
        assert (
            abs(losses.negative_binomial_cdf(*args).item() - f)
            <= bounds.negative_binomial_cdf(*args, U).value
        )
        assert (
            abs(losses.negative_binomial_sf(*args).item() - (1 - f))
            <= bounds.negative_binomial_sf(*args, U).value
        )


def test_cdf_of_the_geometric_distribution():
    k = torch.arange(60, dtype=F64)
    one = torch.ones(60, dtype=F64)
    error = losses.negative_binomial_sf(k, one, one) - 2.0 ** -(k + 1)
    assert (error.abs().numpy() <= bounds.negative_binomial_sf(k, one, one, U).value).all()


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
    slack = 20 / r + bounds.poisson_cdf(y, mu, U).value
    for value, k, m, allowed in zip(got, y.tolist(), mu.tolist(), slack, strict=True):
        with mpmath.workdps(40):
            expected = mpmath.gammainc(k + 1, m, regularized=True)
        assert abs(value.item() - float(expected)) <= allowed


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
    # torch's probs is the probability of the counted event: the mean is 2.5 * 0.4 / 0.6
    mu = total * probs / (1 - probs)
    error = losses.compute_numeric_cdf(dist, k) - tensor(
        [float(nb_cdf(i, mu[0].item(), 2.5)) for i in k], dtype=F64
    )
    # forming the mean costs three roundings more, each of condition |mu dF/dmu| <= 1
    assert (error.abs().numpy() <= bounds.negative_binomial_cdf(k, mu, total, U).value + 4 * 2.0**-53).all()
    poisson = torch.distributions.Poisson(torch.full((12,), 3.0, dtype=F64))
    with mpmath.workdps(40):
        expected = torch.tensor(
            [float(mpmath.gammainc(i + 1, 3, regularized=True)) for i in range(12)], dtype=F64
        )
    error = losses.compute_numeric_cdf(poisson, k + 0.9) - expected
    assert (error.abs().numpy() <= bounds.poisson_cdf(k, poisson.rate, U).value + 2.0**-53).all()
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
    for reduction, expected in (("mean", sum(rows) / 2), ("sum", sum(rows))):
        value = losses.quantile_absolute_loss(*args, reduction=reduction).item()
        allowed = bounds.quantile_absolute_loss(*args, U, reduction=reduction).value
        assert abs(value - expected) <= allowed
    assert losses.quantile_absolute_loss(*args, reduction="none").shape == (2,)


@pytest.mark.parametrize("dtype", [F32, F64])
def test_quantile_loss_keeps_relative_accuracy_where_both_cdfs_are_near_one(dtype):
    args = replicates(([60.0], [5.0], [5.0]), ([80.0], [5.0], [5.0]), dtype)
    with mpmath.workdps(50):
        expected = nb_cdf(80, 5.0, 5.0) - nb_cdf(60, 5.0, 5.0)
    allowed = bounds.quantile_absolute_loss(*args, bounds.precision(str(dtype)[6:])).value
    # the bound is relative to 1 - F, itself about 1e-14
    assert allowed < 1e-3 * expected
    assert abs(losses.quantile_absolute_loss(*args).item() - expected) <= allowed


def test_quantile_loss_of_identical_replicates_is_zero_with_zero_gradient():
    mu = tensor([2.0, 3.0], dtype=F64, requires_grad=True)
    model = {"mu": mu, "r": tensor([1.0, 4.0], dtype=F64)}
    y = tensor([1.0, 2.0], dtype=F64)
    value = losses.quantile_absolute_loss(model, model, y, y)
    value.backward()
    assert value.item() == 0
    assert not mu.grad.any()


def nb_nll(y, mu, r):
    """-log pmf with 50 digits."""
    with mpmath.workdps(50):
        mu, r = mpmath.mpf(mu), mpmath.mpf(r)
        choose = mpmath.loggamma(y + r) - mpmath.loggamma(r) - mpmath.loggamma(y + 1)
        return -(choose + r * mpmath.log(r / (r + mu)) + y * mpmath.log(mu / (r + mu)))


def test_nll_is_that_of_the_same_distribution_and_averages_the_replicates():
    mu, r, y = [0.5, 3.0, 40.0], [0.3, 2.0, 9.0], [0.0, 4.0, 31.0]

    def one(means):
        return {"mu": tensor(means, dtype=F64), "r": tensor(r, dtype=F64)}, {"reads": tensor(y, dtype=F64)}

    def expected(means):
        return sum(nb_nll(*row) for row in zip(y, means, r, strict=True)) / 3

    first, second = one(mu), one(mu[::-1])
    both = {"r1": first[0], "r2": second[0]}, {"r1": first[1], "r2": second[1]}
    cases = [
        (first, expected(mu)),
        (second, expected(mu[::-1])),
        (both, (expected(mu) + expected(mu[::-1])) / 2),
    ]
    for args, value in cases:
        assert abs(losses.nll_loss(*args).item() - value) <= bounds.nll_loss(*args, U).value


def test_nll_has_no_clamp_that_kills_a_gradient():
    mu = tensor([1e-9], dtype=F64, requires_grad=True)
    r = tensor([1e-9], dtype=F64, requires_grad=True)
    losses.nll_loss({"mu": mu, "r": r}, {"reads": tensor([3.0], dtype=F64)}).backward()
    # r (mu - y) / (mu (mu + r)): six roundings
    assert ulps(mu.grad[0], 1e-9 * (1e-9 - 3) / (1e-9 * 2e-9)) <= 6
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
