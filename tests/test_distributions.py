"""The distribution object's answers: torch's of torch's parameters, exact ones of mean and dispersion."""

import mpmath as mp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import NegativeBinomial as TorchNegativeBinomial
from torch.distributions import Poisson, kl_divergence

from refimpl import negative_binomial as oracles
from refimpl.bounds import negative_binomial as bounds
from refimpl.bounds.precision import error_ratio, precision
from tests.budget import examples
from tests.negative_binomial_by_mean import COUNTS, MEAN, SIZE, by_mean, double
from torchimpl import NegativeBinomialDistribution
from torchimpl.distributions import NegativeBinomial
from torchimpl.negative_binomial import (
    compute_numeric_cdf,
    negative_binomial_cdf,
    negative_binomial_log_prob,
    negative_binomial_sf,
)

INF = float("inf")
U = 2.0**-53
DOUBLE = precision("float64")
HIGHEST = float(np.finfo(np.float64).max)


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
        roundings = 2 * 2  # a sum of positive terms and a quotient, here and there
        torch.testing.assert_close(dist.probs, MEAN / (MEAN + SIZE), rtol=roundings * U, atol=0.0)
        size = (MEAN.log().abs() + SIZE.log().abs()).max().item()
        roundings = 3 + 3  # of size: logarithms to an ulp (2), a difference; here a quotient, a logarithm (2)
        torch.testing.assert_close(dist.logits, (MEAN / SIZE).log(), rtol=0.0, atol=roundings * U * size)
        assert dist.event_shape == ()
        assert not dist.has_rsample

    def test_moments_are_differentiable(self):
        mean, size = MEAN.clone().requires_grad_(), SIZE.clone().requires_grad_()
        dist = by_mean(mean, size)
        (slope,) = torch.autograd.grad(dist.mean.sum(), mean)
        assert torch.equal(slope, torch.ones_like(MEAN))
        in_mean, in_size = torch.autograd.grad(dist.variance.sum(), (mean, size))
        roundings = 4 + 2  # of 1 + m/r + m (1/r): up to two in a term, two sums; here a quotient and a sum
        torch.testing.assert_close(in_mean, 1 + 2 * MEAN / SIZE, rtol=roundings * U, atol=0.0)
        roundings = 2 * 3  # m · (m/r)/r: two quotients and a product; here a quotient, twice, and the square
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
