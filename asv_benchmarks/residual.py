"""Squared difference of the residuals of two replicates."""

import torch
from torch import Tensor

from torchimpl.residual import compute_residual_mse

from .common import DEVICES, LossBenchmark, counts, positive, ratio


class ComputeResidualMSE(LossBenchmark):
    """compute_residual_mse; size = batch."""

    params = ((1024, 262_144), DEVICES)
    differentiable = ("mu1", "mu2")

    def tensors(self, size: int) -> dict[str, Tensor]:
        """Counts and means of both replicates of shape (size,), and the ratio of their spreads."""
        return {
            "y1": counts(size),
            "mu1": 5 * positive(size),
            "y2": counts(size),
            "mu2": 5 * positive(size),
            "s": torch.tensor(1.25),
        }

    def loss(self, y1: Tensor, mu1: Tensor, y2: Tensor, mu2: Tensor, s: Tensor) -> Tensor:
        return compute_residual_mse(y1, mu1, y2, mu2, s)

    def textbook(self, y1: Tensor, mu1: Tensor, y2: Tensor, mu2: Tensor, s: Tensor) -> Tensor:
        return ((y1 - mu1) - s * (y2 - mu2)).pow(2).mean()

    @ratio
    def track_ratio_to_direct_formula(self, *_: object) -> float:
        """Against the formula as it is written."""
        return self.ratio()
