"""The distribution object: torch's own interface, mean and dispersion kept, accurate where torch's is not."""

import copy
import pickle

import mpmath as mp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical, Independent, MixtureSameFamily, Poisson, kl_divergence
from torch.distributions import NegativeBinomial as TorchNegativeBinomial

from refimpl import negative_binomial as oracles
from refimpl.bounds import negative_binomial as bounds
from refimpl.bounds.precision import error_ratio, precision
from tests.budget import examples
from torchimpl import NegativeBinomialDistribution
from torchimpl.distributions import NegativeBinomial
from torchimpl.negative_binomial import (
    compute_numeric_cdf,
    negative_binomial_cdf,
    negative_binomial_log_prob,
    negative_binomial_sf,
)

INF, NAN = float("inf"), float("nan")
U = 2.0**-53
DOUBLE = precision("float64")
HIGHEST = float(np.finfo(np.float64).max)


def double(values, *, grad=False):
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


MEAN, SIZE = double([0.5, 3.0, 40.0]), double([0.3, 2.0, 1e4])
COUNTS = double([0.0, 4.0, 37.0])


def by_mean(mean=MEAN, dispersion=SIZE, **options):
    return NegativeBinomial(mean=mean, dispersion=dispersion, **options)


def same(one, other):
    """Whether two objects have the same parameters and answers."""
    assert type(one) is type(other)
    assert one.batch_shape == other.batch_shape
    assert repr(one) == repr(other)
    for name in ("log_prob", "cdf", "survival_function"):
        assert torch.equal(getattr(one, name)(COUNTS), getattr(other, name)(COUNTS))
    for name in ("mean", "mu", "dispersion", "total_count", "variance", "mode", "probs", "logits"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_it_is_public_under_a_name_that_torch_does_not_use():
    assert NegativeBinomialDistribution is NegativeBinomial
    assert issubclass(NegativeBinomial, TorchNegativeBinomial)


class TestTorchsParameters:
    PROBS = double([0.3, 0.8, 0.01])

    @pytest.mark.parametrize("name", ["probs", "logits"])
    def test_everything_but_the_log_pmf_is_torchs(self, name):
        parameter = self.PROBS if name == "probs" else self.PROBS.logit()
        ours, theirs = (cls(SIZE, **{name: parameter}) for cls in (NegativeBinomial, TorchNegativeBinomial))
        for attribute in ("total_count", "mean", "variance", "mode", "probs", "logits", "param_shape"):
            one, other = getattr(ours, attribute), getattr(theirs, attribute)
            assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
        assert repr(ours) == repr(theirs)
        assert ours.arg_constraints == theirs.arg_constraints
        assert ours.support is theirs.support
        draws = []
        for dist in (ours, theirs):
            torch.manual_seed(3)
            draws.append(dist.sample((5,)))
        assert torch.equal(*draws)
        assert torch.equal(ours.mu, ours.mean)
        assert torch.equal(ours.dispersion, ours.total_count)

    @pytest.mark.parametrize("name", ["probs", "logits"])
    def test_the_log_pmf_is_torchs_within_what_log_gamma_functions_lose(self, name):
        parameter = self.PROBS if name == "probs" else self.PROBS.logit()
        ours = NegativeBinomial(SIZE, **{name: parameter}).log_prob(COUNTS)
        theirs = TorchNegativeBinomial(SIZE, **{name: parameter}).log_prob(COUNTS)
        # three lgamma and two products below 1e4 log(1e4), each within 4 of their own roundings
        assert torch.all((ours - theirs).abs() <= 5 * 4 * U * 1e4 * np.log(1e4))

    def test_the_mode_is_torchs_where_it_is_on_the_border(self):
        # 3 · 0.7/0.3 next to 7, by rounding above it
        total, probs = torch.tensor(4.0), torch.tensor(0.7)
        assert torch.equal(NegativeBinomial(total, probs).mode, TorchNegativeBinomial(total, probs).mode)
        assert NegativeBinomial(mean=total * 0 + 9.333333, dispersion=total).mode.item() == 6.0

    def test_positional_arguments_are_torchs(self):
        assert NegativeBinomial(2.0, torch.tensor(0.5)).probs == 0.5
        assert NegativeBinomial(2.0, None, torch.tensor(0.0)).mean == 2.0
        assert NegativeBinomial(2.0, torch.tensor(1.5), None, False).batch_shape == ()

    @pytest.mark.parametrize("name", ["probs", "logits"])
    def test_gradients(self, name):
        size, parameter = double([0.3, 2.0, 20.0], grad=True), double([0.3, 0.8, 0.1], grad=True)

        def log_prob(size, parameter):
            return NegativeBinomial(size, **{name: parameter}, validate_args=False).log_prob(COUNTS)

        assert torch.autograd.gradcheck(log_prob, (size, parameter))
        assert torch.autograd.gradgradcheck(log_prob, (size, parameter))

    def test_no_failures_is_all_mass_on_zero(self):
        dist = NegativeBinomial(double([0.0, 0.0]), probs=double([0.5, 0.5]))
        values = double([0.0, 2.0])
        assert dist.log_prob(values).tolist() == [0.0, -HIGHEST]
        assert dist.cdf(values).tolist() == [1.0, 1.0]
        assert compute_numeric_cdf(dist, values).tolist() == [1.0, 1.0]
        torchs = TorchNegativeBinomial(dist.total_count, probs=dist.probs)
        assert compute_numeric_cdf(torchs, values).tolist() == [1.0, 1.0]
        assert torchs.log_prob(values).tolist() == [0.0, -INF]


class TestMeanAndDispersion:
    def test_answers_are_those_of_the_functions(self):
        dist = by_mean()
        assert torch.equal(dist.log_prob(COUNTS), negative_binomial_log_prob(COUNTS, MEAN, SIZE))
        assert torch.equal(dist.cdf(COUNTS), negative_binomial_cdf(COUNTS, MEAN, SIZE))
        assert torch.equal(dist.survival_function(COUNTS), negative_binomial_sf(COUNTS, MEAN, SIZE))
        assert torch.equal(compute_numeric_cdf(dist, COUNTS), dist.cdf(COUNTS))

    def test_attributes(self):
        dist = by_mean()
        assert torch.equal(dist.mean, MEAN)
        assert torch.equal(dist.mu, MEAN)
        for size in (dist.dispersion, dist.total_count):
            assert torch.equal(size, SIZE)
        assert torch.equal(dist.stddev**2, dist.variance.sqrt() ** 2)
        roundings = 2 * 3  # a product, a quotient and a sum of positive terms, here and there
        torch.testing.assert_close(dist.variance, MEAN + MEAN**2 / SIZE, rtol=roundings * U, atol=0.0)
        # the odds and torch's sigmoid of their logarithm
        torch.testing.assert_close(dist.probs, MEAN / (MEAN + SIZE), rtol=8 * U, atol=0.0)
        size = (MEAN.log().abs() + SIZE.log().abs()).max()
        torch.testing.assert_close(dist.logits, (MEAN / SIZE).log(), rtol=0.0, atol=8 * U * size.item())
        assert dist.event_shape == ()
        assert not dist.has_rsample

    def test_moments_are_differentiable(self):
        mean, size = MEAN.clone().requires_grad_(), SIZE.clone().requires_grad_()
        dist = by_mean(mean, size)
        (slope,) = torch.autograd.grad(dist.mean.sum(), mean)
        assert torch.equal(slope, torch.ones_like(MEAN))
        in_mean, in_size = torch.autograd.grad(dist.variance.sum(), (mean, size))
        # of m + m (m/r): m/r and m (1/r), rounded twice, and two additions of positive terms
        roundings = 2 * 4
        torch.testing.assert_close(in_mean, 1 + 2 * MEAN / SIZE, rtol=roundings * U, atol=0.0)
        # m · (m/r)/r: two products and two quotients, here and there
        torch.testing.assert_close(in_size, -((MEAN / SIZE) ** 2), rtol=roundings * U, atol=0.0)

    @pytest.mark.parametrize(("mean", "size"), [(0.2, 0.5), (7.3, 0.9), (7.3, 2.5), (40.0, 1e9), (7.3, INF)])
    def test_the_mode_is_the_most_probable_count(self, mean, size):
        dist = by_mean(double(mean), double(size))
        masses = dist.log_prob(torch.arange(200.0, dtype=torch.float64))
        # 40 (1 - 1e-9) + 40: at the limit 39 and 40 are equally probable
        assert dist.mode.item() == masses.argmax().item()

    @pytest.mark.parametrize("size", [0.7, 5.0, 1e12])
    def test_moments_are_those_of_the_pmf(self, size):
        dist = by_mean(double(3.0), double(size))
        counts = torch.arange(4000.0, dtype=torch.float64)
        masses = dist.log_prob(counts).exp()
        mean = (counts * masses).sum()
        # relative errors of masses below (|log p| + 50) U, |log p| < 745, and additions of positive terms
        torch.testing.assert_close(mean, dist.mean, rtol=(800 + 4000) * U, atol=0.0)
        variance = ((counts - 3.0) ** 2 * masses).sum()
        torch.testing.assert_close(variance, dist.variance, rtol=(800 + 4000) * U, atol=0.0)

    def test_large_dispersions_keep_their_digits(self):
        mean, size, k = double([50.0, 50.0]), double([1e12, 1e15]), double([47.0, 61.0])
        with mp.workdps(60):
            exact = []
            for count, m, r in zip(k.tolist(), mean.tolist(), size.tolist(), strict=True):
                total = mp.mpf(m) + r
                ways = mp.loggamma(count + mp.mpf(r)) - mp.loggamma(r) - mp.loggamma(count + 1)
                exact.append(float(ways + r * mp.log(r / total) + count * mp.log(m / total)))
        arrays = k.numpy(), mean.numpy(), size.numpy()
        allowed = bounds.negative_binomial_log_prob(*arrays, DOUBLE).value
        assert np.max(error_ratio(by_mean(mean, size).log_prob(k), exact, allowed, HIGHEST)) <= 1.0
        probs = mean / (mean + size)
        theirs = TorchNegativeBinomial(size, probs=probs).log_prob(k)
        assert np.min(error_ratio(theirs, exact, allowed, HIGHEST)) > 1e3

    def test_compute_numeric_cdf_takes_the_kept_mean(self):
        # probs rounds to a number that stands for another mean
        mean, size = torch.tensor([3e4, 3e4]), torch.tensor([1e8, 10.0])
        dist = by_mean(mean, size)
        x = torch.tensor([3e4, 3e4])
        assert torch.equal(compute_numeric_cdf(dist, x), negative_binomial_cdf(x, mean, size))
        far = compute_numeric_cdf(TorchNegativeBinomial(size, probs=dist.probs), x)
        assert not torch.equal(far, dist.cdf(x))

    @settings(max_examples=examples(40))
    @given(
        rows=st.lists(
            st.tuples(
                st.one_of(st.integers(0, 4), st.integers(0, 2000)),
                st.floats(-8, 3).map(lambda e: 10**e),
                st.floats(-6, 15).map(lambda e: 10**e),
            ),
            min_size=1,
            max_size=6,
        )
    )
    def test_value_and_gradients_agree_with_the_oracle(self, rows):
        arrays = [np.array(column, np.float64) for column in zip(*rows, strict=True)]
        k, mean, size = (double(array) for array in arrays)
        mean.requires_grad_()
        size.requires_grad_()
        value = by_mean(mean, size).log_prob(k)
        gradients = torch.autograd.grad(value.sum(), (mean, size))
        allowed = bounds.negative_binomial_log_prob(*arrays, DOUBLE)
        exact = oracles.negative_binomial_log_prob(*arrays)
        assert np.max(error_ratio(value.detach(), exact, allowed.value, HIGHEST)) <= 1.0
        slopes = oracles.negative_binomial_log_prob_gradient(*arrays)
        for found, slope, bound in zip(gradients, slopes, allowed.gradient, strict=True):
            assert np.max(error_ratio(found, slope, bound, HIGHEST, overflows=True)) <= 1.0

    def test_gradcheck(self):
        mean, size = double([0.5, 3.0, 40.0], grad=True), double([0.3, 2.0, 50.0], grad=True)
        for name in ("log_prob", "cdf", "survival_function"):

            def answer(mean, size, name=name):
                return getattr(by_mean(mean, size, validate_args=False), name)(COUNTS)

            assert torch.autograd.gradcheck(answer, (mean, size))
            assert torch.autograd.gradgradcheck(answer, (mean, size))

    def test_both_parametrisations_have_the_same_gradients(self):
        mean, size = double(3.0, grad=True), double(2.0, grad=True)
        # 3/2 and 3/5 are not exact, their two roundings move the answers by as much
        for other in (NegativeBinomial(size, probs=mean / (mean + size)),):
            for one, two in zip(
                torch.autograd.grad(by_mean(mean, size).log_prob(COUNTS).sum(), (mean, size)),
                torch.autograd.grad(other.log_prob(COUNTS).sum(), (mean, size)),
                strict=True,
            ):
                torch.testing.assert_close(one, two, rtol=256 * U, atol=0.0)


class TestPoisson:
    RATE = double([0.2, 3.0, 40.0])

    def test_answers(self):
        dist, poisson = by_mean(self.RATE, INF), Poisson(self.RATE)
        arrays = COUNTS.numpy(), self.RATE.numpy(), INF
        allowed = bounds.negative_binomial_log_prob(*arrays, DOUBLE).value
        exact = oracles.negative_binomial_log_prob(*arrays)
        assert np.max(error_ratio(dist.log_prob(COUNTS), exact, allowed, HIGHEST)) <= 1.0
        # torch: a product and lgamma of at most 40 log 40
        assert torch.all((dist.log_prob(COUNTS) - poisson.log_prob(COUNTS)).abs() <= 16 * U * 40 * np.log(40))
        assert torch.equal(dist.cdf(COUNTS), compute_numeric_cdf(poisson, COUNTS))
        assert torch.equal(dist.variance, self.RATE)
        assert torch.equal(dist.mode, self.RATE.floor())
        assert torch.equal(dist.probs, torch.zeros(3, dtype=torch.float64))

    def test_it_is_one_element_beside_others(self):
        size = double([2.0, INF, 1e3])
        dist = by_mean(self.RATE, size)
        assert torch.equal(dist.log_prob(COUNTS)[1], by_mean(self.RATE, INF).log_prob(COUNTS)[1])
        drawn = dist.sample((200,))
        assert drawn.isfinite().all()

    def test_gradient(self):
        rate = double([0.2, 3.0, 40.0], grad=True)
        (slope,) = torch.autograd.grad(by_mean(rate, INF).log_prob(COUNTS).sum(), rate)
        exact = (COUNTS - self.RATE) / self.RATE
        assert torch.all((slope - exact).abs() <= 8 * U * exact.abs())


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


class TestSamples:
    @pytest.mark.parametrize(
        ("mean", "size"), [(4.0, 0.5), (4.0, 30.0), (4.0, 1e12), (4.0, INF), (1e-3, 1e-2)]
    )
    def test_moments(self, mean, size):
        torch.manual_seed(11)
        count = 200_000
        dist = by_mean(double(mean), double(size))
        drawn = dist.sample((count,))
        assert drawn.dtype == torch.float64
        assert torch.equal(drawn, drawn.floor())
        # six standard errors of a mean: one in 10^9 draws of the seed is beyond
        assert abs(drawn.mean().item() - mean) <= 6 * (dist.variance.item() / count) ** 0.5
        share = (drawn == 0).double().mean().item()
        p = dist.cdf(double(0.0)).item()
        assert abs(share - p) <= 6 * (p * (1 - p) / count) ** 0.5

    def test_edges(self):
        dist = by_mean(double([0.0, 0.0, 3.0, 3.0]), double([1.0, INF, 1e-300, 5e-324]))
        assert not dist.sample((100,)).any()

    def test_nothing_is_differentiable(self):
        mean = MEAN.clone().requires_grad_()
        assert not by_mean(mean).sample().requires_grad
        with pytest.raises(NotImplementedError):
            by_mean(mean).rsample()

    def test_no_divergence_is_registered(self):
        with pytest.raises(NotImplementedError):
            kl_divergence(by_mean(), by_mean())


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
