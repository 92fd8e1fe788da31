"""The implementation under study, through its public functions and autograd alone."""

from __future__ import annotations

import numpy as np
import torch

from scripts.accuracy_study.measure import Results
from scripts.accuracy_study.points import Points
from torchimpl import negative_binomial_cdf, negative_binomial_sf

# an implementation may do more for a small batch than for a large one: the study is of large ones
BATCH = 8192


def evaluate(points: Points, dtype: torch.dtype = torch.float64, *, second: bool = False) -> Results:
    """F, S and the derivatives of F, as float64 arrays; mu and r are handed over in `dtype`."""
    size = len(points.k)
    copies = -(-BATCH // max(size, 1))
    k, mu, r = (torch.from_numpy(np.tile(column, copies)) for column in points)
    mu, r = mu.to(dtype).requires_grad_(), r.to(dtype).requires_grad_()
    cdf, sf = negative_binomial_cdf(k, mu, r), negative_binomial_sf(k, mu, r)
    d_mu, d_r = torch.autograd.grad(cdf.sum(), (mu, r), create_graph=second)
    found = {"cdf": cdf, "sf": sf, "d_mu": d_mu, "d_r": d_r}
    if second:
        found["d_mu_mu"], found["d_mu_r"] = torch.autograd.grad(d_mu.sum(), (mu, r), retain_graph=True)
        found["d_r_r"] = torch.autograd.grad(d_r.sum(), r)[0]
    return {name: value.detach()[:size].to(torch.float64).numpy() for name, value in found.items()}
