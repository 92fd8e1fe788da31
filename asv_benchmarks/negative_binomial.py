"""The negative-binomial distribution function and log pmf with gradients in mean and dispersion."""

import torch
from torch import Tensor

from torchimpl.negative_binomial import (
    negative_binomial_cdf,
    negative_binomial_log_prob,
    negative_binomial_sf,
)

from .common import DEVICES, LossBenchmark, counts, positive, ratio


def table_cdf(y: Tensor, mu: Tensor, r: Tensor) -> Tensor:
    """CDF by a table of probabilities up to the largest count: what is written where torch has no CDF."""
    k = torch.arange(int(y.max()) + 1, device=y.device)
    distribution = torch.distributions.NegativeBinomial(
        r[:, None], logits=(mu.log() - r.log())[:, None], validate_args=False
    )
    return distribution.log_prob(k).exp().cumsum(1).gather(1, y.long()[:, None])[:, 0]


def log_gamma_form(y: Tensor, mu: Tensor, r: Tensor) -> Tensor:
    """Log pmf by log-gamma functions, in the precision of the input: what is written everywhere."""
    ways = torch.lgamma(y + r) - torch.lgamma(r) - torch.lgamma(y + 1)
    log_total = torch.log(r + mu)
    return ways + r * (torch.log(r) - log_total) + y * (torch.log(mu) - log_total)


class CountsBenchmark(LossBenchmark):
    """Counts with a mean and a dispersion each; size = elements."""

    params = ((256, 8192), DEVICES)
    differentiable = ("mu", "r")

    def tensors(self, size: int) -> dict[str, Tensor]:
        """Over-dispersed counts and log-normal parameters of shape (size,)."""
        return {"y": counts(size), "mu": 5 * positive(size), "r": positive(size)}


class NegativeBinomialCDF(CountsBenchmark):
    """negative_binomial_cdf, summed; size = elements."""

    def loss(self, y: Tensor, mu: Tensor, r: Tensor) -> Tensor:
        return negative_binomial_cdf(y, mu, r).sum()

    def textbook(self, y: Tensor, mu: Tensor, r: Tensor) -> Tensor:
        return table_cdf(y, mu, r).sum()

    @ratio
    def track_ratio_to_table(self, *_: object) -> float:
        """Against a cumulative table of probabilities."""
        return self.ratio()


class NegativeBinomialSF(NegativeBinomialCDF):
    """negative_binomial_sf, summed; size = elements."""

    def loss(self, y: Tensor, mu: Tensor, r: Tensor) -> Tensor:
        return negative_binomial_sf(y, mu, r).sum()

    def textbook(self, y: Tensor, mu: Tensor, r: Tensor) -> Tensor:
        return (1 - table_cdf(y, mu, r)).sum()


class NegativeBinomialLogProb(CountsBenchmark):
    """negative_binomial_log_prob, summed; size = elements."""

    def loss(self, y: Tensor, mu: Tensor, r: Tensor) -> Tensor:
        return negative_binomial_log_prob(y, mu, r).sum()

    def textbook(self, y: Tensor, mu: Tensor, r: Tensor) -> Tensor:
        return log_gamma_form(y, mu, r).sum()

    @ratio
    def track_ratio_to_lgamma(self, *_: object) -> float:
        """Against log-gamma functions, which lose digits."""
        return self.ratio()
