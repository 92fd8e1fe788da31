"""Negative Pearson correlation over a whole batch."""

import torch
from torch import Tensor

from torchimpl.pearson import negative_pearson_loss

from .common import DEVICES, LossBenchmark, counts, ratio


class NegativePearsonLoss(LossBenchmark):
    """negative_pearson_loss; size = elements."""

    params = ((1024, 262_144), DEVICES)
    differentiable = ("preds",)

    def tensors(self, size: int) -> dict[str, Tensor]:
        """Predictions around counts, both of shape (size,)."""
        targets = counts(size)
        return {"preds": targets + torch.randn(size), "targets": targets}

    def loss(self, preds: Tensor, targets: Tensor) -> Tensor:
        return negative_pearson_loss(preds, targets)

    def textbook(self, preds: Tensor, targets: Tensor) -> Tensor:
        p = preds - preds.mean()
        t = targets - targets.mean()
        return -(p * t).sum() / (p.pow(2).sum().sqrt() * t.pow(2).sum().sqrt() + 1e-8)

    @ratio
    def track_ratio_to_direct_formula(self, *_: object) -> float:
        """Against the formula with an added eps, which is not scale-free."""
        return self.ratio()
