"""The distribution object beside torch's own: shapes, copies, refusals, and inside other distributions."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily
from torch.distributions import NegativeBinomial as TorchNegativeBinomial

from tests.negative_binomial_by_mean import COUNTS, MEAN, SIZE, by_mean, double
from torchimpl.distributions import NegativeBinomial
from torchimpl.negative_binomial import (
    compute_numeric_cdf,
    negative_binomial_cdf,
    negative_binomial_log_prob,
    negative_binomial_sf,
)

INF, NAN = float("inf"), float("nan")
U = 2.0**-53


class TestShapes:
    def test_parameters_and_values_broadcast(self):
        mean, size = MEAN, SIZE[:2, None]
        dist = by_mean(mean, size)
        assert dist.batch_shape == (2, 3)
        assert dist.mean.shape == dist.dispersion.shape == dist.variance.shape == (2, 3)
        assert dist.sample((5,)).shape == (5, 2, 3)
        for shape in ((), (3,), (2, 1), (2, 3), (4, 2, 3), (4, 1, 1)):
            value = torch.arange(24.0, dtype=torch.float64)[: int(np.prod(shape))].reshape(shape)
            y, m, r = torch.broadcast_tensors(value, mean, size)
            for name, function in (
                ("log_prob", negative_binomial_log_prob),
                ("cdf", negative_binomial_cdf),
                ("survival_function", negative_binomial_sf),
            ):
                found = getattr(dist, name)(value)
                assert torch.equal(found, function(y.contiguous(), m.contiguous(), r.contiguous()))

    def test_a_value_that_does_not_broadcast_is_refused(self):
        for dist in (
            by_mean(validate_args=True),
            NegativeBinomial(SIZE, probs=MEAN / 50, validate_args=True),
        ):
            for name in ("log_prob", "cdf", "survival_function"):
                with pytest.raises(ValueError, match="not broadcastable"):
                    getattr(dist, name)(torch.zeros(4, dtype=torch.float64))
        with pytest.raises(RuntimeError, match=r"[Ss]hape mismatch|broadcast"):
            by_mean(validate_args=False).log_prob(torch.zeros(4))

    def test_numbers_become_tensors(self):
        dist = NegativeBinomial(mean=2.0, dispersion=0.1)
        assert dist.batch_shape == ()
        assert dist.mean.dtype == torch.float32
        # a number beside a tensor has its dtype and all its digits
        assert by_mean(MEAN, 0.1).dispersion.tolist() == [0.1] * 3
        assert by_mean(torch.tensor([2]), torch.tensor([3])).mean.dtype == torch.float32
        assert by_mean(torch.tensor([2]), SIZE[:1]).mean.dtype == torch.float64

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
    def test_results_have_the_dtype_of_the_parameters(self, dtype):
        mean, size = torch.tensor([2.0, 3.0], dtype=dtype), torch.tensor(0.5, dtype=torch.float64)
        dist = by_mean(mean, size)
        value = torch.tensor([1, 4])
        for name in ("log_prob", "cdf", "survival_function"):
            assert getattr(dist, name)(value).dtype == dtype
        for result in (dist.sample(), dist.mode, dist.variance, dist.probs, dist.logits):
            assert result.dtype == dtype

    def test_shared_parameters_get_the_sum_of_float64(self):
        """One float32 dispersion for a thousand rows: its gradient is rounded once, not a thousand times."""
        generator = torch.Generator().manual_seed(0)
        mean = 10 * torch.rand(1000, 2, generator=generator)
        y = torch.poisson(mean, generator=generator)
        size = torch.tensor([0.5, 40.0], requires_grad=True)
        (found,) = torch.autograd.grad(by_mean(mean, size).log_prob(y).sum(), size)
        wide = size.detach().double().requires_grad_()
        (exact,) = torch.autograd.grad(by_mean(mean.double(), wide).log_prob(y.double()).sum(), wide)
        assert torch.equal(found, exact.float())

    def test_expand(self):
        mean, size = MEAN.clone().requires_grad_(), SIZE.clone().requires_grad_()
        dist = by_mean(mean, size)
        wide = dist.expand((4, 3))
        assert type(wide) is NegativeBinomial
        assert wide.batch_shape == wide.mean.shape == wide.total_count.shape == (4, 3)
        assert torch.equal(wide.log_prob(COUNTS), dist.log_prob(COUNTS).expand(4, 3))
        one, other = (torch.autograd.grad(d.log_prob(COUNTS).sum(), (mean, size)) for d in (dist, wide))
        for single, fourfold in zip(one, other, strict=True):
            assert torch.equal(4 * single, fourfold)
        assert torch.equal(compute_numeric_cdf(wide, COUNTS.expand(4, 3)), wide.cdf(COUNTS))
        with pytest.raises(RuntimeError, match="expand"):
            dist.expand((2,))
        torchs = NegativeBinomial(SIZE, probs=MEAN / 50).expand((4, 3))
        assert type(torchs) is NegativeBinomial
        assert torchs.log_prob(COUNTS).shape == (4, 3)
        assert repr(torchs) == repr(TorchNegativeBinomial(SIZE, probs=MEAN / 50).expand((4, 3)))

    def test_expand_keeps_validation(self):
        for validate in (True, False):
            assert by_mean(validate_args=validate).expand((2, 3))._validate_args is validate

    def test_a_subclass_expands_like_one_of_torch(self):
        class Own(NegativeBinomial):
            def expand(self, batch_shape, _instance=None):
                return super().expand(batch_shape, self._get_checked_instance(Own, _instance))

        assert type(Own(mean=MEAN, dispersion=SIZE).expand((2, 3))) is Own


def same(one, other):
    """Whether two objects have the same parameters and answers."""
    assert type(one) is type(other)
    assert one.batch_shape == other.batch_shape
    assert repr(one) == repr(other)
    for name in ("log_prob", "cdf", "survival_function"):
        assert torch.equal(getattr(one, name)(COUNTS), getattr(other, name)(COUNTS))
    for name in ("mean", "mu", "dispersion", "total_count", "variance", "mode", "probs", "logits"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


class TestCopies:
    @pytest.mark.parametrize(
        "make",
        [by_mean, lambda: by_mean(MEAN, INF), lambda: NegativeBinomial(SIZE, logits=MEAN / 50)],
        ids=["mean", "Poisson", "logits"],
    )
    @pytest.mark.parametrize(
        "copied",
        [copy.copy, copy.deepcopy, lambda dist: pickle.loads(pickle.dumps(dist)), lambda d: d.expand((3,))],
        ids=["copy", "deepcopy", "pickle", "expand"],
    )
    def test_parameters_stay(self, make, copied):
        dist = make()
        same(copied(dist), dist)

    def test_a_deep_copy_is_independent(self):
        mean = MEAN.clone()
        dist = by_mean(mean)
        other = copy.deepcopy(dist)
        mean.zero_()
        assert torch.equal(other.mean, MEAN)
        assert torch.equal(other.log_prob(COUNTS), by_mean().log_prob(COUNTS))


class TestValidation:
    @pytest.mark.parametrize(
        ("mean", "size", "name"),
        [(-1.0, 1.0, "mean"), (NAN, 1.0, "mean"), (INF, 1.0, "mean"), (1.0, 0.0, "dispersion"),
         (1.0, -1.0, "dispersion"), (1.0, NAN, "dispersion")],
    )  # fmt: skip
    def test_parameters(self, mean, size, name):
        with pytest.raises(ValueError, match=f"parameter {name} .*NegativeBinomial"):
            by_mean(double([1.0, mean]), double([1.0, size]), validate_args=True)
        dist = by_mean(double([1.0, mean]), double([1.0, size]), validate_args=False)
        assert dist.log_prob(double(1.0)).isnan().tolist() == [False, True]
        assert dist.cdf(double(1.0)).isnan().tolist() == [False, True]

    def test_edges_of_the_parameters_are_allowed(self):
        assert by_mean(0.0, INF, validate_args=True).log_prob(torch.tensor(0.0)) == 0.0

    @pytest.mark.parametrize("value", [-1.0, 0.5, NAN])
    def test_values_of_the_log_pmf(self, value):
        with pytest.raises(ValueError, match="within the support"):
            by_mean(validate_args=True).log_prob(double(value))
        found = by_mean(validate_args=False).log_prob(double(value))
        floored = negative_binomial_log_prob(double([value] * 3), MEAN, SIZE)
        assert torch.equal(found.nan_to_num(nan=1.0), floored.nan_to_num(nan=1.0))

    def test_values_of_the_cdf(self):
        dist = by_mean(validate_args=True)
        assert torch.equal(dist.cdf(COUNTS + 0.5), dist.cdf(COUNTS))
        assert dist.cdf(double(-2.0)).tolist() == [0.0] * 3
        assert dist.cdf(double(INF)).tolist() == [1.0] * 3
        for name in ("cdf", "survival_function"):
            with pytest.raises(ValueError, match="within the support"):
                getattr(dist, name)(double(NAN))
            with pytest.raises(ValueError, match="must be a Tensor"):
                getattr(dist, name)(1.0)
        assert by_mean(validate_args=False).cdf(1.0).shape == (3,)
        assert by_mean(validate_args=False).cdf(double(NAN)).isnan().all()

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({}, "exactly one of probs, logits and mean must be given, got none"),
            ({"total_count": 1.0}, "got none"),
            ({"total_count": 1.0, "probs": 0.5, "logits": 0.0}, r"got \['probs', 'logits'\]"),
            ({"probs": 0.5, "mean": 1.0, "dispersion": 1.0}, r"got \['probs', 'mean'\]"),
            ({"probs": 0.5}, "probs needs total_count"),
            ({"mean": 1.0}, "mean needs dispersion"),
            ({"mean": 1.0, "total_count": 1.0}, "mean needs dispersion"),
            ({"mean": 1.0, "dispersion": 1.0, "total_count": 1.0}, "mean goes with dispersion, not with"),
            ({"total_count": 1.0, "logits": 0.5, "dispersion": 1.0}, "logits goes with total_count"),
            ({"mean": "1", "dispersion": 1.0}, "must all be instances"),
        ],
    )  # fmt: skip
    def test_wrong_combinations_are_refused(self, given, message):
        with pytest.raises(ValueError, match=message):
            NegativeBinomial(**given)

    def test_repr(self):
        assert repr(by_mean()) == "NegativeBinomial(mean: torch.Size([3]), dispersion: torch.Size([3]))"
        assert repr(by_mean(2.0, 0.5)) == "NegativeBinomial(mean: 2.0, dispersion: 0.5)"


class TestInsideOthers:
    def test_independent(self):
        dist = Independent(by_mean(), 1)
        assert dist.event_shape == (3,)
        assert torch.equal(dist.log_prob(COUNTS), by_mean().log_prob(COUNTS).sum())
        assert dist.expand((2,)).log_prob(COUNTS).shape == (2,)
        assert dist.sample((4,)).shape == (4, 3)

    def test_mixture_with_its_cdf(self):
        weights, mean, size = double([0.25, 0.75]), double([1.0, 30.0], grad=True), double([2.0, INF])
        mixture = MixtureSameFamily(Categorical(weights), by_mean(mean, size))
        x = torch.arange(60.0, dtype=torch.float64)
        parts = torch.stack([by_mean(m, r).cdf(x) for m, r in zip(mean, size, strict=True)], -1)
        # a product and a sum
        torch.testing.assert_close(mixture.cdf(x), (weights * parts).sum(-1), rtol=8 * U, atol=0.0)
        masses = mixture.log_prob(x).exp()
        # masses with relative errors of (|log p| + 50) U, |log p| < 100, and sixty additions
        torch.testing.assert_close(masses.cumsum(0), mixture.cdf(x), rtol=256 * U, atol=0.0)
        (slope,) = torch.autograd.grad(mixture.log_prob(x[:5]).sum(), mean)
        assert slope.isfinite().all()
        assert mixture.sample((7,)).shape == (7,)
        assert torch.equal(mixture.mean, (weights * mean).sum())

    def test_mixture_where_a_part_has_no_mass(self):
        mixture = MixtureSameFamily(Categorical(double([0.5, 0.5])), by_mean(double([0.0, 2.0]), INF))
        expected = by_mean(double(2.0), INF).log_prob(double(3.0)) - np.log(2.0)
        torch.testing.assert_close(mixture.log_prob(double(3.0)), expected, rtol=8 * U, atol=0.0)

    @pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
    def test_compiled_and_mapped(self):
        def loss(y, mean, size):
            return by_mean(mean, size, validate_args=False).log_prob(y)

        assert torch.equal(torch.func.vmap(loss)(COUNTS, MEAN, SIZE), loss(COUNTS, MEAN, SIZE))
        compiled = torch.compile(loss, fullgraph=True, dynamic=True)
        assert torch.equal(compiled(COUNTS, MEAN, SIZE), loss(COUNTS, MEAN, SIZE))

    def test_a_model_learns_mean_and_dispersion(self):
        torch.manual_seed(5)
        y = by_mean(double([6.0]), double([1.5])).sample((4000,))
        log_mean, log_size = double([0.0], grad=True), double([0.0], grad=True)
        optimiser = torch.optim.LBFGS([log_mean, log_size], max_iter=50, line_search_fn="strong_wolfe")

        def closure():
            optimiser.zero_grad()
            loss = -by_mean(log_mean.exp(), log_size.exp()).log_prob(y).mean()
            loss.backward()
            return loss

        optimiser.step(closure)
        # the maximum of the likelihood in the mean is the sample's mean
        assert abs(log_mean.exp().item() - y.mean().item()) <= 1e-4 * y.mean().item()
        assert 1.2 < log_size.exp().item() < 1.8
