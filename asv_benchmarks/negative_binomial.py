"""The negative-binomial distribution function and log pmf with gradients in mean and dispersion."""

from collections.abc import Callable

import torch
from scipy.special import betainc
from torch import Tensor

from torchimpl.kernels.negative_binomial import evaluate
from torchimpl.negative_binomial import (
    negative_binomial_cdf,
    negative_binomial_log_prob,
    negative_binomial_sf,
)

from .common import DEVICES, THREADS, LossBenchmark, counts, paired_ratio, positive, ratio

# as many elements as a table of 1,000 counts has room for
FEW = slice(0, 4000)


def table_cdf(y: Tensor, mu: Tensor, r: Tensor) -> Tensor:
    """CDF by a table of probabilities up to the largest count: what is written where torch has no CDF."""
    k = torch.arange(int(y.max()) + 1, device=y.device)
    distribution = torch.distributions.NegativeBinomial(
        r[:, None], logits=(mu.log() - r.log())[:, None], validate_args=False
    )
    return distribution.log_prob(k).exp().cumsum(1).gather(1, y.long()[:, None])[:, 0]


def table_of_thousand(y: Tensor, mu: Tensor, r: Tensor) -> Tensor:
    """`table_cdf` of 1,000 counts, whatever the largest is."""
    k = torch.arange(1000, dtype=mu.dtype)
    distribution = torch.distributions.NegativeBinomial(
        r[:, None], logits=(mu.log() - r.log())[:, None], validate_args=False
    )
    return distribution.log_prob(k).exp().cumsum(1).gather(1, y.clamp(max=999).long()[:, None]).sum()


def kernel_cdf(y: Tensor, mu: Tensor, r: Tensor) -> Tensor:
    """What users call."""
    return negative_binomial_cdf(y, mu, r).sum()


def plain_cdf(y: Tensor, mu: Tensor, r: Tensor) -> Tensor:
    """The CDF by the plain-torch kernel: value and slopes in one pass, the chain rule by products."""
    found = evaluate(y, mu.detach(), r.detach(), dense=False)
    return (found.d_mu * mu + found.d_r * r).sum()


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


class NegativeBinomialCDFOfMany:
    """negative_binomial_cdf with both gradients on many realistic float64 elements; CPU; size = elements."""

    params = (100_000, 1_000_000)
    param_names = ("size",)
    timeout = 120

    def setup(self, size: int) -> None:
        """Means of 0.1 to 300 and dispersions of 0.1 to 100, log-uniform, and counts drawn from the law."""
        torch.set_num_threads(THREADS)
        torch.manual_seed(0)
        ends = ((-1.0, 2.5), (-1.0, 2.0))
        mu, r = (10 ** torch.empty(size, dtype=torch.float64).uniform_(low, high) for low, high in ends)
        y = torch.poisson(torch.distributions.Gamma(r, r / mu).sample())
        self.inputs = {"y": y, "mu": mu.requires_grad_(), "r": r.requires_grad_()}
        self.run(kernel_cdf)

    def run(self, function: Callable[..., Tensor], y: Tensor | None = None) -> None:
        """Forward and backward."""
        inputs = self.inputs if y is None else {**self.inputs, "y": y}
        torch.autograd.grad(function(**inputs), (inputs["mu"], inputs["r"]))

    def per_element(self, function: Callable[..., Tensor]) -> float:
        """Time of all elements over that of a few in a table, by number; both with gradients."""
        few = {name: value.detach()[FEW].clone() for name, value in self.inputs.items()}
        leaves = [few[name].requires_grad_() for name in ("mu", "r")]
        found = paired_ratio(
            lambda: self.run(function),
            lambda: torch.autograd.grad(table_of_thousand(**few), leaves),
            most=12,
        )
        return round(found * len(few["y"]) / len(self.inputs["y"]), 5)

    @ratio
    def track_ratio_to_betainc(self, *_: object) -> float:
        """Value and both gradients over the value alone of `scipy.special.betainc`."""
        y, mu, r = (self.inputs[name].detach().numpy() for name in ("y", "mu", "r"))
        x = r / (r + mu)
        return paired_ratio(lambda: self.run(kernel_cdf), lambda: betainc(r, y + 1, x))

    @ratio
    def track_ratio_to_table(self, *_: object) -> float:
        """Over a table with 1,000 counts, both forward and backward, per element."""
        return self.per_element(kernel_cdf)

    @ratio
    def track_ratio_of_plain_torch_to_table(self, *_: object) -> float:
        """The plain-torch kernel in its form for a CPU, per element, over the same table."""
        return self.per_element(plain_cdf)

    @ratio
    def track_ratio_of_one_huge_count(self, *_: object) -> float:
        """With one count of a million over without."""
        huge = self.inputs["y"].clone()
        huge[0] = 1e6
        return paired_ratio(lambda: self.run(kernel_cdf, huge), lambda: self.run(kernel_cdf))
