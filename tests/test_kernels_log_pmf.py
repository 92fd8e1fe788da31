"""The kernel of the negative binomial's -log pmf on one fixed grid: value, slopes, curvatures, far ends."""

import functools
import math

import numpy as np
import pytest
import torch
from flint import acb, ctx

from refimpl import negative_binomial as oracles
from refimpl.bounds import negative_binomial as bounds
from refimpl.bounds.precision import precision
from tests.negative_binomial_grid import PLACES, grid, tensors, worst
from torchimpl.kernels import negative_binomial_constants as constants
from torchimpl.kernels.negative_binomial_log_pmf import (
    NegativeLogPMF,
    log_pmf_curvatures,
    log_pmf_slopes,
    log_pmf_value,
)

U = 2.0**-53
DOUBLE = precision("float64")


@functools.cache
def log_mass(place):
    """-log pmf, its derivatives in mu and r, and their bounds."""
    arrays = PLACES[place]()
    exact = oracles.negative_binomial_log_pmf(*arrays), *oracles.negative_binomial_log_pmf_gradient(*arrays)
    allowed = bounds.negative_binomial_log_pmf(*arrays, DOUBLE)
    return tuple(-row for row in exact), (allowed.value, *allowed.gradient)


@pytest.mark.parametrize("place", PLACES)
def test_log_mass_and_its_slopes(place):
    arguments = tensors(PLACES[place]())
    exact, allowed = log_mass(place)
    assert worst(log_pmf_value(*arguments), exact[0], allowed[0], overflows=True) <= 1.0
    d_mu, d_r, far_mu, far_r = log_pmf_slopes(*arguments)
    for actual, far, wanted, limit in (
        (d_mu, far_mu, exact[1], allowed[1]),
        (d_r, far_r, exact[2], allowed[2]),
    ):
        assert worst(actual, wanted, limit, overflows=True) <= 1.0
        # 2^-512 is exact but for what becomes subnormal
        inside = np.isfinite(wanted)
        shrunk = (wanted[inside] * 2.0**-512, limit[inside] * 2.0**-512 + 2.0**-1074)
        assert worst(far[torch.from_numpy(inside)], *shrunk) <= 1.0


def test_curvatures_of_the_log_mass():
    arrays = tuple(column[grid()[0] > 0.0] for column in grid())
    d_mu_mu, d_mu_r, _ = log_pmf_curvatures(*tensors(arrays))
    k, mu, r = (column.astype(np.longdouble) for column in arrays)
    slowness, from_k = r / (r + mu) ** 2, (k / mu) * (r / mu + 2.0)
    # r/s over s and (k/mu)(r/mu + 2): 4 roundings each; minus one and the product: 2
    allowed = 6 * U * slowness * (from_k + np.abs(from_k - 1.0))
    assert worst(d_mu_mu, (slowness * (from_k - 1.0)).astype(float), allowed.astype(float)) <= 1.0
    # k - mu, s twice, two quotients, and one of the exact number
    exact = ((mu - k) / (r + mu) ** 2).astype(float)
    assert worst(d_mu_r, exact, 6 * U * np.abs(exact)) <= 1.0


def over_trigamma(z):
    """trigamma(z) - 1/z to 53 bits."""
    ball = acb(z)
    return float((acb(2).zeta(ball) - 1 / ball).real)


def test_curvature_of_the_log_mass_in_r():
    ctx.prec = 200
    arrays = tuple(column[grid()[0] > 0.0][::7] for column in grid())
    (_, _, found) = log_pmf_curvatures(*tensors(arrays))
    k, mu, r = arrays
    of_r, of_c = (np.array([over_trigamma(z) for z in column]) for column in (r, r + k))
    gap = (mu - k) ** 2 / (r + mu) ** 2 / (r + k)
    v = 1.0 / (r + (r < 1.0))
    # Horner's scheme rounds twice a term, of which the largest counts for all; fitted to 3e-15
    powers = np.abs(constants.TRIGAMMA_EXCESS) @ v ** np.arange(len(constants.TRIGAMMA_EXCESS))[:, None]
    polynomial = 2.0 * v**3 * (2 * len(constants.TRIGAMMA_EXCESS) * U * powers + 3e-15)
    allowed = polynomial + 16 * U * (of_r + np.abs(of_c) + v * v + gap)
    assert worst(found, of_r - of_c - gap, allowed) <= 1.0


def test_slopes_beyond_the_range_beside_a_huge_count():
    # -log pmf moves in r by ((k-1) r - mu (1+r)) / ((r+mu) r) and what is negligible beside 2^1049
    k, small = torch.tensor([2.0**1010], dtype=torch.float64), torch.tensor([2.0**-40], dtype=torch.float64)
    _, d_r, _, far = log_pmf_slopes(k, small, small)
    assert d_r.item() == math.inf
    # roundings: three in the numerator, r + mu is exact, two quotients and the product with 4
    assert abs(far.item() - 2.0**537) <= 8 * 2.0**-53 * 2.0**537


def test_a_shared_mean_overflows_only_where_its_sum_does():
    y = torch.tensor([10.0, 10.0, 10.0], dtype=torch.float64)
    mu = torch.tensor(1e-308, dtype=torch.float64, requires_grad=True)
    elements = NegativeLogPMF.apply(y, mu, torch.ones_like(y))
    (gradient,) = torch.autograd.grad(elements, mu, torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64))
    assert gradient.item() == 0.0
    mu = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(NegativeLogPMF.apply(y, mu, torch.ones_like(y)).sum(), mu)
    # (mu - k) r / (mu (r + mu)) each: four roundings there, two in the sum
    assert abs(gradient.item() + 3 * 4 / 3) <= 6 * 2.0**-53 * 4
