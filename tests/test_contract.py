"""CONTRACT section 2, sentence by sentence, on inputs whose answer is exact or known from elsewhere.

Nothing here reads an oracle: expectations are written down by hand, with `fractions`, `mpmath` or `scipy`.
"""

import math

import mpmath
import pytest
import scipy.stats
import torch
from torch import tensor

import torchimpl as losses

F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
FLOATS = [F16, BF16, F32, F64]
inf, nan = math.inf, math.nan


def ulps(actual, expected):
    """Distance in units in the last place of the actual value's dtype."""
    actual = actual.detach()
    target = tensor(float(expected), dtype=actual.dtype)
    spacing = torch.nextafter(target.abs(), tensor(inf, dtype=actual.dtype)) - target.abs()
    return float((actual - target).abs() / spacing)


# --------------------------------------------------------------------------------------------- masked losses

E = tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
MASK = tensor([[True, False, True], [False, True, True]])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("reduction", "expected"), [("sum", 71.0), ("mean", 71 / 4), ("batch_mean", 71 / 2)]
)
@pytest.mark.parametrize("loss", [losses.masked_sse, losses.masked_mse])
def test_masked_reductions_are_exact_on_integers_and_agree_between_the_two_functions(loss, reduction, expected, dtype):
    value = loss(E.to(dtype), torch.zeros(2, 3, dtype=dtype), MASK, reduction=reduction)
    assert value.item() == expected
    assert value.dtype == (F64 if dtype == F64 else F32)


def test_masked_defaults():
    assert losses.masked_sse(E, 0 * E, MASK) == 71 / 2
    assert losses.masked_mse(E, 0 * E, MASK) == 71 / 4


@pytest.mark.parametrize("dtype", FLOATS)
def test_masked_none_is_the_square_and_zero_at_visible_positions(dtype):
    value = losses.masked_mse(E.to(dtype), 0 * E.to(dtype), MASK, reduction="none")
    assert value.dtype == dtype
    assert value.tolist() == [[1, 0, 9], [0, 25, 36]]


def test_masked_gradients_flow_to_both_arguments():
    recon, x = E.clone().requires_grad_(), torch.zeros(2, 3).requires_grad_()
    losses.masked_mse(recon, x, MASK).backward()
    expected = torch.where(MASK, E / 2, 0)
    assert torch.equal(recon.grad, expected)
    assert torch.equal(x.grad, -expected)


def test_masked_works_in_more_dimensions():
    e = torch.arange(24.0).reshape(2, 3, 2, 2)
    assert losses.masked_sse(e, 0 * e, e > 20, reduction="batch_mean") == (21**2 + 22**2 + 23**2) / 2


@pytest.mark.parametrize("bad", [MASK.float(), MASK.int(), MASK.to(torch.uint8)])
def test_masked_refuses_a_mask_that_is_not_bool_and_says_how_to_make_one(bad):
    with pytest.raises(TypeError, match=r"mask.*bool"):
        losses.masked_mse(E, 0 * E, bad)


def test_masked_mean_of_overflowing_squares_is_right_when_it_is_representable():
    recon = tensor([[2.0**64, 0.0, 0.0, 0.0]])
    assert losses.masked_mse(recon, 0 * recon, recon > -1).item() == 2.0**126
    assert losses.masked_sse(recon, 0 * recon, recon > -1).item() == torch.finfo(F32).max
    wide = tensor([[2.0**512, 0.0, 0.0, 0.0]], dtype=F64)
    assert losses.masked_mse(wide, 0 * wide, wide > -1).item() == 2.0**1022


def test_masked_gradient_is_exact_when_the_difference_itself_overflows():
    top = torch.finfo(F32).max
    recon = torch.full((1, 8), top, requires_grad=True)
    value = losses.masked_mse(recon, torch.full((1, 8), -top), torch.ones(1, 8, dtype=torch.bool))
    value.backward()
    assert value.item() == top
    assert torch.equal(recon.grad, torch.full((1, 8), top / 2))


# --------------------------------------------------------------------------------------------- concordance


def infonce(x, y, tau, eps):
    """The contract's formula, 60 digits, rows of features."""
    with mpmath.workdps(60):
        rows = []
        for i, a in enumerate(x):
            d = [mpmath.fsum((mpmath.mpf(p) - mpmath.mpf(q)) ** 2 for p, q in zip(a, b, strict=True)) for b in y]
            total = mpmath.mpf(eps) + mpmath.fsum(mpmath.exp(-v / tau) for v in d)
            rows.append(d[i] / tau + mpmath.log(total))
        return rows


@pytest.mark.parametrize("eps", [1e-8, 0.0, 0.5])
@pytest.mark.parametrize("tau", [0.1, 1.0, 7.0])
@pytest.mark.parametrize("shape", [(5,), (5, 1), (4, 3), (3, 2, 2)])
def test_concordance_is_the_formula(shape, tau, eps):
    x, y = torch.randn(shape, dtype=F64), torch.randn(shape, dtype=F64)
    rows = infonce(x.reshape(len(x), -1).tolist(), y.reshape(len(y), -1).tolist(), tau, eps)
    value = losses.concordance_loss_nce(x, y, tau, eps=eps)
    each = losses.concordance_loss_nce(x, y, tau, eps=eps, reduction="none")
    total = losses.concordance_loss_nce(x, y, tau, eps=eps, reduction="sum")
    # a handful of roundings, each relative: exponents of at most 1e3 carry 1e3 roundoffs into a row
    roundoffs = 2.0**-53 * 1e3 * max(abs(float(r)) for r in rows)
    assert value.shape == total.shape == ()
    assert each.shape == (shape[0],)
    assert abs(value.item() - float(sum(rows) / len(rows))) <= roundoffs
    assert abs(total.item() - float(sum(rows))) <= len(rows) * roundoffs
    assert max(abs(a - float(b)) for a, b in zip(each.tolist(), rows, strict=True)) <= roundoffs


@pytest.mark.parametrize("dtype", [F32, F64])
def test_concordance_keeps_relative_accuracy_when_the_loss_is_tiny(dtype):
    one = tensor([3.0], dtype=dtype)
    assert ulps(losses.concordance_loss_nce(one, one), math.log1p(1e-8)) <= 1
    assert losses.concordance_loss_nce(one, one, eps=0.0) == 0
    pair = tensor([0.0, 2.0], dtype=dtype)
    with mpmath.workdps(60):
        expected = mpmath.log1p(mpmath.exp(-4 / mpmath.mpf(0.1)))
    assert ulps(losses.concordance_loss_nce(pair, pair, 0.1, eps=0.0), expected) <= 8


def test_concordance_no_far_pair_underflows():
    x, y = tensor([0.0, 1e3], dtype=F64), tensor([50.0, 1e3 + 40], dtype=F64)
    expected = sum(infonce([[0.0], [1e3]], [[50.0], [1e3 + 40]], 0.1, 1e-8)) / 2
    value = losses.concordance_loss_nce(x, y)
    assert ulps(value, expected) <= 4


@pytest.mark.parametrize("dtype", [F32, F64])
def test_concordance_does_not_see_a_common_offset(dtype):
    x, y = torch.randint(-8, 8, (6, 3)).to(dtype), torch.randint(-8, 8, (6, 3)).to(dtype)
    plain, moved = losses.concordance_loss_nce(x, y, 50.0), losses.concordance_loss_nce(x + 2**20, y + 2**20, 50.0)
    assert torch.equal(plain, moved)


@pytest.mark.parametrize("tau", [0.0, -1.0, inf, nan])
def test_concordance_refuses_a_bad_tau(tau):
    with pytest.raises(ValueError, match="tau"):
        losses.concordance_loss_nce(torch.zeros(2), torch.zeros(2), tau)


@pytest.mark.parametrize("eps", [-1e-9, nan, inf])
def test_concordance_refuses_a_bad_eps(eps):
    with pytest.raises(ValueError, match="eps"):
        losses.concordance_loss_nce(torch.zeros(2), torch.zeros(2), eps=eps)


# --------------------------------------------------------------------------------------------- Pearson


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e-3, 1.0, 1e10, 1e30])
@pytest.mark.parametrize("offset", [0.0, 3.0, -2000.0])
def test_pearson_is_scale_free_and_offset_free_over_the_range_of_float32(scale, offset):
    p = torch.randint(-9, 9, (40,)).float() + offset
    t = torch.randint(-9, 9, (40,)).float() + p
    scale = 2.0 ** round(math.log2(scale))
    reference = losses.negative_pearson_loss(p.double(), t.double()).float()
    assert ulps(losses.negative_pearson_loss(p * scale, t), reference) <= 1
    assert ulps(losses.negative_pearson_loss(t, p * scale), reference) <= 1


def test_pearson_agrees_with_scipy():
    for _ in range(20):
        p, t = torch.randn(30, dtype=F64), torch.randn(30, dtype=F64)
        expected = -scipy.stats.pearsonr(p.numpy(), t.numpy()).statistic
        # both sides are n-term sums relative to the norms, twice
        assert abs(losses.negative_pearson_loss(p, t).item() - expected) <= 4 * 30 * 2.0**-53


@pytest.mark.parametrize("constant", [0.1, 1e12, 0.0, 1e-40, -3e38])
@pytest.mark.parametrize("dtype", [F32, F64])
def test_pearson_recognises_a_constant_side_exactly(constant, dtype):
    p = torch.full((7,), constant, dtype=dtype, requires_grad=True)
    t = torch.arange(7, dtype=dtype, requires_grad=True)
    for args in [(p, t), (t, p), (p, p)]:
        value = losses.negative_pearson_loss(*args)
        value.backward()
        assert value.item() == 0
        assert not p.grad.any()
        assert not t.grad is None or args == (p, p)
    assert not t.grad.any()


def test_pearson_of_one_element_and_of_none_is_zero():
    for n in (0, 1):
        p = torch.ones(n, requires_grad=True)
        value = losses.negative_pearson_loss(p, torch.ones(n))
        value.backward()
        assert value.item() == 0
        assert not p.grad.any()


@pytest.mark.parametrize("dtype", FLOATS)
def test_pearson_never_leaves_the_interval(dtype):
    for _ in range(50):
        p = (torch.randn(5) * 10 ** (4 * torch.rand(1) - 2)).to(dtype)
        assert losses.negative_pearson_loss(p, p) >= -1
        assert losses.negative_pearson_loss(p, -p) <= 1


def test_pearson_eps_floors_the_product_of_the_rescaled_norms_and_nothing_else():
    p, t = tensor([0.0, 2.0, 4.0], dtype=F64), tensor([1.0, 1.0, 4.0], dtype=F64)
    # deviations rescaled by their largest magnitude: (-1, 0, 1) and (-1/2, -1/2, 1)
    dot, norms = 1.5, math.sqrt(2) * math.sqrt(1.5)
    assert losses.negative_pearson_loss(p, t, eps=norms * 0.999).item() == losses.negative_pearson_loss(p, t, eps=0.0).item()
    assert ulps(losses.negative_pearson_loss(1e3 * p, t, eps=6.0), -dot / 6.0) <= 4


# --------------------------------------------------------------------------------------------- negative binomial


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


@pytest.mark.parametrize(("y", "mu", "r"), [(0, 1.0, 1.0), (3, 2.5, 0.7), (10, 7.0, 2.0), (60, 50.0, 10.0), (5, 500.0, 3.0)])
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
    assert max(ulps(v, e) for v, e in zip(losses.compute_numeric_cdf(poisson, k + 0.9), expected, strict=True)) <= 32
    with pytest.raises(TypeError, match="Normal"):
        losses.compute_numeric_cdf(torch.distributions.Normal(0.0, 1.0), k)


def replicates(y1, mu1, r1, y2, mu2, r2, dtype=F64):
    make = lambda v: tensor(v, dtype=dtype)
    return {"mu": make(mu1), "r": make(r1)}, {"mu": make(mu2), "r": make(r2)}, make(y1), make(y2)


def test_quantile_loss_is_the_mean_absolute_difference_of_the_two_cdfs():
    args = replicates([1.0, 5.0], [2.0, 4.0], [1.5, 3.0], [0.0, 9.0], [1.0, 7.0], [2.0, 2.5])
    rows = [
        abs(nb_cdf(1, 2.0, 1.5) - nb_cdf(0, 1.0, 2.0)),
        abs(nb_cdf(5, 4.0, 3.0) - nb_cdf(9, 7.0, 2.5)),
    ]
    assert ulps(losses.quantile_absolute_loss(*args), sum(rows) / 2) <= 64
    assert ulps(losses.quantile_absolute_loss(*args, reduction="sum"), sum(rows)) <= 64
    assert losses.quantile_absolute_loss(*args, reduction="none").shape == (2,)


@pytest.mark.parametrize("dtype", [F32, F64])
def test_quantile_loss_keeps_relative_accuracy_where_both_cdfs_are_near_one(dtype):
    args = replicates([60.0], [5.0], [5.0], [80.0], [5.0], [5.0], dtype)
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
    make = lambda v: tensor(v, dtype=F64)
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
    batch = {"r1": {"reads": tensor([4.0, 1.0])}, "r2": {"reads": tensor([3.0, 3.0])}, "metadata": {"sd_ratio": 2.0}}
    # (3 - 2*1, -1 + 2*2) = (1, 3)
    assert losses.replicate_concordance_mse_loss(outputs, batch).item() == 5
    for ratio in (tensor(2.0), tensor([2.0, 2.0]), tensor([[2.0], [2.0]])):
        batch["metadata"]["sd_ratio"] = ratio
        assert losses.replicate_concordance_mse_loss(outputs, batch).item() == 5
    args = [batch["r1"]["reads"], outputs["r1"]["mu"], batch["r2"]["reads"], outputs["r2"]["mu"], tensor(2.0)]
    assert losses.compute_residual_mse(*args).item() == 5


# --------------------------------------------------------------------------------------------- wrappers, registry, composite


def pair(dtype=F64, column=False):
    """A batch in the dict format, with parameters (B,) or (B, 1)."""
    generator = torch.Generator().manual_seed(5)
    draw = lambda low, high: (low + (high - low) * torch.rand(6, generator=generator, dtype=F64)).to(dtype)
    shape = (6, 1) if column else (6,)
    outputs = {n: {"mu": draw(1, 9).reshape(shape), "r": draw(0.5, 4).reshape(shape)} for n in ("r1", "r2")}
    batch = {n: {"reads": draw(0, 12).floor(), "covariates": draw(0, 1)} for n in ("r1", "r2")}
    batch["metadata"] = {"sd_ratio": draw(0.5, 2), "grp_idx": torch.arange(6)}
    return outputs, batch


NAMES = ["replicate_concordance_mse", "nll_loss", "concordance_loss_nce", "negative_pearson_loss", "quantile_absolute_loss"]


@pytest.mark.parametrize("name", NAMES)
def test_a_column_of_parameters_is_the_same_batch(name):
    loss = losses.LOSS_REGISTRY[name]
    assert torch.equal(loss(*pair()), loss(*pair(column=True)))


@pytest.mark.parametrize("name", NAMES)
def test_integer_reads_are_taken(name):
    outputs, batch = pair(F32)
    integers = {**batch, **{n: {"reads": batch[n]["reads"].long()} for n in ("r1", "r2")}}
    assert torch.equal(losses.LOSS_REGISTRY[name](outputs, batch), losses.LOSS_REGISTRY[name](outputs, integers))


def test_wrappers_call_their_cores():
    outputs, batch = pair()
    reads, mu = [batch[n]["reads"] for n in ("r1", "r2")], [outputs[n]["mu"] for n in ("r1", "r2")]
    residuals = [y - m for y, m in zip(reads, mu, strict=True)]
    assert ulps(losses.concordance_loss_nce_wrapper(outputs, batch, tau=3.0), losses.concordance_loss_nce(*residuals, 3.0)) <= 2
    assert torch.equal(losses.negative_pearson_loss_wrapper(outputs, batch), losses.negative_pearson_loss(torch.cat(mu), torch.cat(reads)))
    direct = losses.quantile_absolute_loss(outputs["r1"], outputs["r2"], *reads)
    assert torch.equal(losses.quantile_absolute_loss_wrapper(outputs, batch), direct)


def test_the_registry_holds_the_five_wrappers():
    assert sorted(losses.LOSS_REGISTRY) == sorted(NAMES)
    assert losses.LOSS_REGISTRY["concordance_loss_nce"] is losses.concordance_loss_nce_wrapper
    assert losses.LOSS_REGISTRY["replicate_concordance_mse"] is losses.replicate_concordance_mse_loss


@pytest.mark.parametrize(
    "config",
    [
        "nll_loss",
        {"losses": ["nll_loss", "concordance_loss_nce"], "weights": [0.5, 2.0]},
        {"losses": [{"name": "nll_loss", "weight": 0.5}, {"name": "concordance_loss_nce", "weight": 2.0, "tau": 4.0}]},
    ],
)
def test_a_config_makes_the_weighted_sum_and_round_trips(config):
    outputs, batch = pair()
    made = losses.create_composite_loss(config)
    again = losses.create_composite_loss(made.to_config())
    assert again.to_config() == made.to_config()
    assert torch.equal(made(outputs, batch), again(outputs, batch))
    nll, nce = losses.nll_loss(outputs, batch), losses.LOSS_REGISTRY["concordance_loss_nce"]
    if isinstance(config, str):
        expected = nll
    elif isinstance(config["losses"][0], str):
        expected = 0.5 * nll + 2 * nce(outputs, batch)
    else:
        expected = 0.5 * nll + 2 * nce(outputs, batch, tau=4.0)
    assert ulps(made(outputs, batch), expected) <= 2


def test_a_config_accepts_omegaconf_and_parsed_text():
    omegaconf = pytest.importorskip("omegaconf", reason="a test extra")
    text = "losses:\n  - {name: nll_loss, weight: 1.5}\n  - {name: negative_pearson_loss, weight: 2}\n"
    node = omegaconf.OmegaConf.create(text)
    plain = {"losses": [{"name": "nll_loss", "weight": 1.5}, {"name": "negative_pearson_loss", "weight": 2}]}
    outputs, batch = pair()
    made, reference = losses.create_composite_loss(node), losses.create_composite_loss(plain)
    assert torch.equal(made(outputs, batch), reference(outputs, batch))
    assert losses.create_composite_loss(made.to_config()).to_config() == reference.to_config()


def test_an_unknown_name_lists_the_known_ones_and_the_nearest():
    with pytest.raises((KeyError, ValueError), match=r"nll_los\b.*") as caught:
        losses.create_composite_loss("nll_los")
    for name in NAMES:
        assert name in str(caught.value)
    assert "did you mean" in str(caught.value).lower()


@pytest.mark.parametrize("bad", [torch.nn.functional.mse_loss, ["os.system"], {"losses": ["os.system"], "weights": [1.0]},
                                 {"losses": [print], "weights": [1.0]}, {"losses": [{"name": "builtins.eval", "weight": 1.0}]},
                                 {"_target_": "os.system"}, 3, None])  # fmt: skip
def test_a_config_can_never_name_anything_but_a_registered_loss(bad):
    with pytest.raises((TypeError, ValueError, KeyError)):
        losses.create_composite_loss(bad)


def const(value):
    return lambda outputs, batch: tensor(value, dtype=F64)


def test_composite_both_historical_call_forms():
    functions, weights = [const(3.0), const(5.0)], [2.0, -1.0]
    assert losses.CompositeLoss(functions, weights)({}, {}).item() == 1
    flagged = losses.CompositeLoss(functions, weights, True)({}, {})
    assert flagged["total"].item() == 1
    assert len(flagged["components"]) == 2
    named = losses.CompositeLoss(functions, weights, ["a", "b"])({}, {})
    assert {k: v.item() for k, v in named["components"].items()} == {"a": 3, "b": 5}
    assert losses.CompositeLoss(functions, weights, return_components=True)({}, {})["total"].item() == 1


def test_composite_components_are_detached_scalars():
    leaf = torch.ones((), dtype=F64, requires_grad=True)
    made = losses.CompositeLoss([lambda outputs, batch: 2 * leaf], [3.0], ["a"])
    result = made({}, {})
    assert not result["components"]["a"].requires_grad
    result["total"].backward()
    assert leaf.grad.item() == 6


@pytest.mark.parametrize("value", [inf, -inf, nan])
def test_composite_weight_zero_switches_a_component_off_and_keeps_it_in_the_log(value):
    leaf = torch.ones((), dtype=F64, requires_grad=True)
    made = losses.CompositeLoss([lambda o, b: leaf * value, lambda o, b: 2 * leaf], [0.0, 1.0], ["off", "on"])
    result = made({}, {})
    assert result["total"].item() == 2
    logged = result["components"]["off"].item()
    assert logged == value or (math.isnan(logged) and math.isnan(value))


def test_composite_refuses_a_component_that_is_not_a_scalar():
    made = losses.CompositeLoss([lambda o, b: torch.ones(1)], [1.0], ["column"])
    with pytest.raises(ValueError, match=r"column.*\(1,\)"):
        made({}, {})


def test_composites_nest_and_register_their_parts():
    inner = losses.CompositeLoss([losses.NLLLoss()], [2.0], ["nll"])
    outer = losses.CompositeLoss([inner, const(1.0)], [3.0, 1.0], ["inner", "one"])
    assert inner in list(outer.modules())
    assert [n for n, _ in outer.named_buffers() if "weights" in n]
    outputs, batch = pair()
    assert ulps(outer(outputs, batch)["total"], 6 * losses.nll_loss(outputs, batch) + 1) <= 2


def test_composite_total_of_finite_components_is_finite():
    made = losses.CompositeLoss([const(1e308), const(1e308)], [10.0, -10.0])
    assert made({}, {}).item() == 0
    assert losses.CompositeLoss([const(1e308)], [10.0])({}, {}).item() == torch.finfo(F64).max
