"""Masked squared error over spectra with three quarters masked, as in masked autoencoders."""

import torch
from torch import Tensor

from torchimpl.masked import masked_mse, masked_sse

from .common import DEVICES, LossBenchmark, ratio

LENGTH = 1024


class MaskedMSE(LossBenchmark):
    """masked_mse; size = spectra of 1,024 wavelengths."""

    params = ((64, 1024), DEVICES)
    differentiable = ("x_recon",)

    def tensors(self, size: int) -> dict[str, Tensor]:
        """Reconstruction, target and mask of shape (size, 1024)."""
        shape = (size, LENGTH)
        return {"x_recon": torch.randn(shape), "x": torch.randn(shape), "mask": torch.rand(shape) < 0.75}

    def loss(self, x_recon: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        return masked_mse(x_recon, x, mask)

    def textbook(self, x_recon: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        return (x_recon - x)[mask].pow(2).mean()

    @ratio
    def track_ratio_to_boolean_indexing(self, *_: object) -> float:
        """Against ``(x_recon - x)[mask] ** 2``."""
        return self.ratio()


class MaskedSSE(MaskedMSE):
    """masked_sse; size = spectra of 1,024 wavelengths."""

    def loss(self, x_recon: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        return masked_sse(x_recon, x, mask)

    def textbook(self, x_recon: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        return (x_recon - x)[mask].pow(2).sum() / len(x)
