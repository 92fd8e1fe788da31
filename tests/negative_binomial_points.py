"""Arguments of the negative binomial from every region of its domain, and its tails as Arb balls."""

import torch
from flint import arb

# one point of every region and both sides of the mode: zero count, series, fraction, quadrature
REGIONS = (
    (0, 3.0, 2.0),
    (4, 30.0, 0.5),
    (3, 1.0, 1.5),
    (3, 20.0, 6.0),
    (30, 12.0, 900.0),
    (80, 95.0, 60.0),
    (140, 95.0, 60.0),
    (70, 60.0, 1e7),
)


def double(*values):
    return [torch.tensor(value, dtype=torch.float64) for value in values]


def points(rows=REGIONS, *, grad=False):
    y, mu, r = (torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True))
    return y, mu.requires_grad_(grad), r.requires_grad_(grad)


def arb_tails(k, mu, r):
    """F and 1-F as exact rational functions of Arb balls."""
    cdf = (r / (r + mu)).beta_lower(r, arb(k) + 1, regularized=True)
    return cdf, 1 - cdf
