"""Difference of the quantiles that two replicates' models give to their counts."""

from torch import Tensor

from torchimpl.quantile import quantile_absolute_loss

from .common import DEVICES, ReplicatesBenchmark, ratio
from .negative_binomial import table_cdf


class QuantileAbsoluteLoss(ReplicatesBenchmark):
    """quantile_absolute_loss; size = batch."""

    params = ((256, 4096), DEVICES)

    def loss(self, **tensors: Tensor) -> Tensor:
        outputs, batch = self.dicts(tensors)
        return quantile_absolute_loss(
            outputs["r1"], outputs["r2"], batch["r1"]["reads"], batch["r2"]["reads"]
        )

    def textbook(self, **tensors: Tensor) -> Tensor:
        first = table_cdf(tensors["y1"], tensors["mu1"], tensors["r1"])
        second = table_cdf(tensors["y2"], tensors["mu2"], tensors["r2"])
        return (first - second).abs().mean()

    @ratio
    def track_ratio_to_table(self, *_: object) -> float:
        """Against cumulative tables of probabilities."""
        return self.ratio()
