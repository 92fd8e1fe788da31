"""Negative-binomial log-likelihood of two replicates."""

import torch
from torch import Tensor

from torchimpl.likelihood import nll_loss

from .common import DEVICES, ReplicatesBenchmark, ratio


def distributions_nll(y: Tensor, mu: Tensor, r: Tensor) -> Tensor:
    """The same likelihood by torch.distributions."""
    logits = mu.log() - r.log()
    distribution = torch.distributions.NegativeBinomial(r, logits=logits, validate_args=False)
    return -distribution.log_prob(y).mean()


class NLLLoss(ReplicatesBenchmark):
    """nll_loss over both replicates; size = batch."""

    params = ((256, 16_384), DEVICES)

    def loss(self, **tensors: Tensor) -> Tensor:
        return nll_loss(*self.dicts(tensors))

    def textbook(self, **tensors: Tensor) -> Tensor:
        first = distributions_nll(tensors["y1"], tensors["mu1"], tensors["r1"])
        second = distributions_nll(tensors["y2"], tensors["mu2"], tensors["r2"])
        return (first + second) / 2

    @ratio
    def track_ratio_to_torch_distributions(self, *_: object) -> float:
        """Against ``torch.distributions.NegativeBinomial.log_prob``."""
        return self.ratio()
