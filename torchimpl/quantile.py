"""The distance between two replicates' counts, measured on the scale of their own distributions."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from torchimpl import checks
from torchimpl.alignment import lookup
from torchimpl.negative_binomial import cdf_and_sf, checked
from torchimpl.saturate import reduce

REDUCTIONS = ("mean", "sum", "none")


def quantile_absolute_loss(
    model_r1: Mapping[str, Tensor],
    model_r2: Mapping[str, Tensor],
    y_r1: Tensor,
    y_r2: Tensor,
    *,
    reduction: str = "mean",
    validate: bool = False,
) -> Tensor:
    """|F(y_r1; mu1, r1) - F(y_r2; mu2, r2)|, F the negative-binomial CDF.

    Where both CDFs are near 1 the difference is taken between survival functions, so that it keeps its
    relative accuracy. Ties have derivative 0. Edges of F: `negative_binomial_cdf`.

    Args:
        model_r1: mapping with "mu" and "r" of the first replicate, of the shape of the counts or 0-dim.
        model_r2: the same of the second replicate.
        y_r1: counts of the first replicate, (B,) or any shape; floored, no gradient.
        y_r2: counts of the second replicate, of the same shape.
        reduction: "mean", "sum" or "none".
        validate: raise for invalid elements instead of returning NaN (waits for the device).

    Returns:
        A scalar in the promoted dtype of the parameters (float32 for half inputs); for "none" the shape of
        the counts in the dtype of the parameters. No elements: 0.

    Raises:
        KeyError: "mu" or "r" is missing.
        TypeError: an argument is no tensor of a supported dtype, or a model is no mapping.
        ValueError: shapes differ, unknown reduction; or, with `validate`, an invalid element.

    Example:
        >>> model = {"mu": torch.tensor([2.0]), "r": torch.tensor([2.0])}
        >>> quantile_absolute_loss(model, model, torch.tensor([0]), torch.tensor([1]))
        tensor(0.2500)
    """
    reduction = checks.reduction(reduction, REDUCTIONS)
    parameters = [
        checks.require_tensor(f"{name}[{key!r}]", lookup(name, model, key))
        for name, model in (("model_r1", model_r1), ("model_r2", model_r2))
        for key in ("mu", "r")
    ]
    checks.require_tensor("y_r1", y_r1)
    checks.require_tensor("y_r2", y_r2)
    checks.same_shape("y_r1", y_r1, "y_r2", y_r2)
    cdf_1, sf_1 = cdf_and_sf(*checked(y_r1, *parameters[:2], validate=validate))
    cdf_2, sf_2 = cdf_and_sf(*checked(y_r2, *parameters[2:], validate=validate))
    distance = torch.where(cdf_1 + cdf_2 <= 1.0, cdf_1 - cdf_2, sf_2 - sf_1).abs()
    return reduce(
        distance,
        reduction,
        checks.result_dtype(*parameters),
        torch.isfinite(distance.detach()),
        element_dtype=checks.elementwise_dtype(*parameters),
    )


class QuantileAbsoluteLoss(nn.Module):
    """`quantile_absolute_loss` as a module.

    Example:
        >>> QuantileAbsoluteLoss(reduction="sum")
        QuantileAbsoluteLoss(reduction='sum', validate=False)
    """

    def __init__(self, *, reduction: str = "mean", validate: bool = False) -> None:
        super().__init__()
        self.reduction = checks.reduction(reduction, REDUCTIONS)
        self.validate = validate

    def forward(
        self, model_r1: Mapping[str, Tensor], model_r2: Mapping[str, Tensor], y_r1: Tensor, y_r2: Tensor
    ) -> Tensor:
        """The loss of one batch; see `quantile_absolute_loss`."""
        return quantile_absolute_loss(
            model_r1, model_r2, y_r1, y_r2, reduction=self.reduction, validate=self.validate
        )

    def extra_repr(self) -> str:
        """Return the options, for `repr`."""
        return f"reduction={self.reduction!r}, validate={self.validate}"
