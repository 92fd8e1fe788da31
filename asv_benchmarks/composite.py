"""A weighted sum of losses made from a config."""

from torch import Tensor

from torchimpl.registry import create_composite_loss

from .common import DEVICES, ReplicatesBenchmark, ratio

WEIGHTS = {"nll_loss": 1.0, "concordance_loss_nce": 0.1, "negative_pearson_loss": 0.5}


class CompositeLoss(ReplicatesBenchmark):
    """CompositeLoss of three losses; size = batch."""

    params = ((256, 2048), DEVICES)

    def setup(self, size: int, device: str) -> None:
        """Make the composite, and each of its losses by itself; weights follow the values to their device."""
        config = {"losses": list(WEIGHTS), "weights": list(WEIGHTS.values())}
        self.composite = create_composite_loss(config)
        self.single = {name: create_composite_loss(name) for name in WEIGHTS}
        super().setup(size, device)

    def loss(self, **tensors: Tensor) -> Tensor:
        return self.composite(*self.dicts(tensors))

    def textbook(self, **tensors: Tensor) -> Tensor:
        dicts = self.dicts(tensors)
        return sum(weight * self.single[name](*dicts) for name, weight in WEIGHTS.items())

    @ratio
    def track_ratio_to_separate_calls(self, *_: object) -> float:
        """Against calling every loss by itself and adding up."""
        return self.ratio()
