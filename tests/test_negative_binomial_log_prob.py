"""The log pmf of the negative binomial: at every edge, against mpmath, the likelihood and the CDF."""

import mpmath as mp
import numpy as np
import pytest
import torch

from refimpl.bounds.deviance import deviance_error
from tests.negative_binomial_points import REGIONS, double, points
from torchimpl.likelihood import negative_binomial_nll
from torchimpl.negative_binomial import negative_binomial_cdf, negative_binomial_log_prob

INF, NAN = float("inf"), float("nan")
U = 2.0**-53


class TestLogProb:
    """What the table of losses does not ask of it; `test_negative_binomial` holds it against the oracle."""

    TOP = np.finfo(np.float64).max

    @pytest.mark.parametrize(
        ("y", "mu", "r", "value", "d_mu", "d_r"),
        [
            (-1.0, 2.0, 3.0, -TOP, 0.0, 0.0),
            (-0.5, 2.0, 3.0, -TOP, 0.0, 0.0),
            (-INF, 2.0, 3.0, -INF, 0.0, 0.0),
            (INF, 2.0, 3.0, -INF, INF, -INF),
            (0.0, 0.0, 3.0, 0.0, -1.0, 0.0),
            (0.7, 0.0, 3.0, 0.0, -1.0, 0.0),
            # at mu = 0 < k the score in r is a sum over 1 <= j < k: empty at k = 1
            (1.0, 0.0, 3.0, -TOP, INF, 0.0),
            (-1.0, 0.0, 3.0, -TOP, 0.0, 0.0),
            (0.0, 2.0, INF, -2.0, -1.0, 0.0),
        ],
    )
    def test_edges(self, y, mu, r, value, d_mu, d_r):
        y, mu, r = double([y], [mu], [r])
        found = negative_binomial_log_prob(y, mu.requires_grad_(), r.requires_grad_())
        gradients = torch.autograd.grad(found.sum(), (mu, r))
        assert (found.item(), *(g.item() for g in gradients)) == (value, d_mu, d_r)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_no_mass_is_the_lowest_number_of_the_dtype(self, dtype):
        y = torch.tensor([-1.0, 3.0, 60000.0], dtype=dtype)
        mu, r = torch.tensor([1.0, 0.0, 2.0**-14], dtype=dtype), torch.tensor(1e4, dtype=dtype)
        found = negative_binomial_log_prob(y, mu, r)
        assert found.dtype == dtype
        assert found[:2].tolist() == [torch.finfo(dtype).min] * 2
        # 60,000 log(60000 / mu) is beyond float16 only
        assert (found[2].item() == torch.finfo(dtype).min) == (dtype == torch.float16)

    @pytest.mark.parametrize(
        ("y", "mu", "r"),
        [
            *[(NAN, 1.0, 1.0), (1.0, NAN, 1.0), (1.0, 1.0, NAN), (1.0, -1.0, 1.0), (1.0, INF, 1.0)],
            *[(1.0, 1.0, 0.0), (1.0, 1.0, -2.0), (-1.0, 1.0, -1.0), (INF, 1.0, 0.0), (0.0, 0.0, 0.0)],
        ],
    )
    def test_invalid_is_nan_at_its_place_only(self, y, mu, r):
        y, mu, r = (torch.cat([a, b]) for a, b in zip(double([y], [mu], [r]), points(), strict=True))
        value = negative_binomial_log_prob(y, mu.requires_grad_(), r.requires_grad_())
        clean = points(grad=True)
        expected = negative_binomial_log_prob(*clean)
        assert value[0].isnan()
        assert torch.equal(value[1:], expected)
        found = torch.autograd.grad(value.sum(), (mu, r))
        for dirty, right in zip(found, torch.autograd.grad(expected.sum(), clean[1:]), strict=True):
            assert dirty[0].isnan()
            assert torch.equal(dirty[1:], right)

    def test_is_the_element_of_the_likelihood(self):
        y, mu, r = points([*REGIONS, (-1, 2.0, 3.0), (INF, 2.0, 3.0), (2, 0.0, 1.0)])
        for dtype in (torch.float16, torch.float32, torch.float64):
            arguments = [part.to(dtype) for part in (y, mu, r)]
            losses = negative_binomial_nll(*arguments, reduction="none")
            assert torch.equal(negative_binomial_log_prob(*arguments), -losses)

    @pytest.mark.parametrize(
        ("k", "mu", "r"), [(1e12, 1e12, 1e10), (2e7, 1.9e7, 1e3), (5e8, 3e8, 0.7), (60.0, 61.0, 1e17)]
    )
    def test_agrees_with_mpmath_where_no_summation_can_go(self, k, mu, r):
        with mp.workdps(60):
            size, total = mp.mpf(r), mp.mpf(r) + mp.mpf(mu)
            ways = mp.loggamma(k + size) - mp.loggamma(size) - mp.loggamma(mp.mpf(k) + 1)
            exact = float(ways + size * mp.log(size / total) + k * mp.log(mp.mpf(mu) / total))
        found = negative_binomial_log_prob(*double([k], [mu], [r])).item()
        # refimpl.bounds.log_mass: the deviance, 7 roundings of the half logarithm and of Stirling's error
        (deviance,) = deviance_error(np.array([k]), np.array([mu]), np.array([r]), U)
        half = abs(np.log(r / (2 * np.pi * k * (k + r)))) / 2 + min(
            1 / (12 * r), np.log(2 * np.pi * r) / 2 + 1
        )
        allowed = deviance + U * (7 * half + abs(exact) + 10)
        assert abs(found - exact) <= allowed
        # and log-gamma functions are not within it
        y, mean, one = double([k], [mu], [r])
        naive = torch.lgamma(y + one) - torch.lgamma(one) - torch.lgamma(y + 1)
        naive = naive + one * torch.log(one / (one + mean)) + y * torch.log(mean / (one + mean))
        assert abs(naive.item() - exact) > allowed

    def test_masses_add_up_to_the_cdf(self):
        mu, r = double(5.0, 0.7)
        y = torch.arange(400.0, dtype=torch.float64)
        masses = negative_binomial_log_prob(y, mu, r).exp()
        cdf = negative_binomial_cdf(y, mu, r)
        # |log p| < 60 and 50 more roundings in each mass, 400 additions
        assert torch.all((masses.cumsum(0) - cdf).abs() <= 512 * U * cdf)
