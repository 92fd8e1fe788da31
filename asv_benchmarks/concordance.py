"""InfoNCE between replicates."""

import torch
from torch import Tensor

from torchimpl.concordance import concordance_loss_nce

from .common import DEVICES, LossBenchmark, ratio

TAU = 0.5


def materialised(res1: Tensor, res2: Tensor) -> Tensor:
    """InfoNCE with the whole (B, B) table of distances in memory."""
    distance = (res1[:, None] - res2[None, :]).pow(2).flatten(2).sum(2)
    return torch.nn.functional.cross_entropy(-distance / TAU, torch.arange(len(res1), device=res1.device))


class ConcordanceLossNCE(LossBenchmark):
    """concordance_loss_nce on scalar residuals; size = batch."""

    params = ((256, 2048), DEVICES)
    differentiable = ("res1", "res2")

    def tensors(self, size: int) -> dict[str, Tensor]:
        """Residuals of two replicates, correlated, of shape (size, 1)."""
        res1 = torch.randn(size, 1)
        return {"res1": res1, "res2": res1 + 0.3 * torch.randn(size, 1)}

    def loss(self, res1: Tensor, res2: Tensor) -> Tensor:
        return concordance_loss_nce(res1, res2, TAU)

    def textbook(self, res1: Tensor, res2: Tensor) -> Tensor:
        return materialised(res1, res2)

    @ratio
    def track_ratio_to_materialised_table(self, *_: object) -> float:
        """Against cross-entropy over the (B, B) table."""
        return self.ratio()


class ConcordanceLossNCEVectors(ConcordanceLossNCE):
    """concordance_loss_nce on residuals of 32 numbers; size = batch."""

    params = ((64, 512), DEVICES)

    def tensors(self, size: int) -> dict[str, Tensor]:
        """Residuals of two replicates, correlated, of shape (size, 32)."""
        res1 = torch.randn(size, 32)
        return {"res1": res1, "res2": res1 + 0.3 * torch.randn(size, 32)}
