"""The distribution object of three means and dispersions, and counts to ask it about."""

import torch

from torchimpl.distributions import NegativeBinomial


def double(values, *, grad=False):
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


MEAN, SIZE = double([0.5, 3.0, 40.0]), double([0.3, 2.0, 1e4])
COUNTS = double([0.0, 4.0, 37.0])


def by_mean(mean=MEAN, dispersion=SIZE, **options):
    return NegativeBinomial(mean=mean, dispersion=dispersion, **options)
