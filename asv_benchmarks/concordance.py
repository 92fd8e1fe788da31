"""InfoNCE between replicates."""

import torch
from torch import Tensor

from torchimpl.concordance import concordance_loss_nce

from .common import DEVICES, LossBenchmark, ratio


class ConcordanceLossNCE(LossBenchmark):
    """concordance_loss_nce on scalar residuals; size = batch."""

    params = ((256, 2048), DEVICES)
    differentiable = ("res1", "res2")
    width = 1

    def tensors(self, size: int) -> dict[str, Tensor]:
        """Residuals of two replicates, correlated, of shape (size, width)."""
        res1 = torch.randn(size, self.width)
        return {"res1": res1, "res2": res1 + 0.3 * torch.randn(size, self.width)}

    def loss(self, res1: Tensor, res2: Tensor) -> Tensor:
        # distances grow with the width, and so does a sensible temperature
        return concordance_loss_nce(res1, res2, 0.5 * self.width)

    def textbook(self, res1: Tensor, res2: Tensor) -> Tensor:
        distance = (res1[:, None] - res2[None, :]).square().sum(2)
        own = torch.arange(len(res1), device=res1.device)
        return torch.nn.functional.cross_entropy(-distance / (0.5 * self.width), own)

    @ratio
    def track_ratio_to_materialised_table(self, *_: object) -> float:
        """Against cross-entropy over the (B, B) table of distances."""
        return self.ratio()


class ConcordanceLossNCEVectors(ConcordanceLossNCE):
    """concordance_loss_nce on residuals of 32 numbers; size = batch."""

    params = ((64, 512), DEVICES)
    width = 32
