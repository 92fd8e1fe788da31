"""The negative log likelihood of counts under the negative binomial with mean mu and dispersion r."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from torchimpl import checks
from torchimpl.alignment import aligned, options_checked
from torchimpl.negative_binomial import checked, negative_log_masses
from torchimpl.saturate import reduce

REDUCTIONS = ("mean", "sum", "none")


def negative_binomial_nll(
    y: Tensor, mu: Tensor, r: Tensor, *, reduction: str = "mean", validate: bool = False
) -> Tensor:
    """-log pmf(⌊y⌋; mu, r) = -log[Γ(k+r)/(Γ(r) k!) · (r/(r+mu))^r · (mu/(r+mu))^k].

    y is floored and has no gradient. Where the pmf is 0 (y < 0; mu = 0 < y) the value saturates at the
    largest number of the result's dtype; the gradient in mu at mu = 0 < y is -inf. y = inf gives inf; r = inf
    is the Poisson law. NaN anywhere, mu < 0, mu = inf and r <= 0 give NaN.

    Args:
        y: counts, any shape; floating or integer.
        mu: means, of the shape of y or 0-dim.
        r: dispersions, of the shape of y or 0-dim.
        reduction: "mean", "sum" or "none".
        validate: raise for invalid elements instead of returning NaN (waits for the device).

    Returns:
        A scalar in the promoted dtype of mu and r (float32 for half inputs); for "none" the shape of y in the
        dtype of mu and r. No elements: 0.

    Raises:
        TypeError: not a tensor of a supported dtype.
        ValueError: shapes differ, unknown reduction; or, with `validate`, an invalid element.

    Example:
        >>> import torch
        >>> mu = torch.tensor([2.0, 2.0])
        >>> pmf = (-negative_binomial_nll(torch.tensor([0, 1]), mu, mu, reduction="none")).exp()
        >>> [round(value, 6) for value in pmf.tolist()]
        [0.25, 0.25]
    """
    reduction = checks.reduction(reduction, REDUCTIONS)
    elements, finite = negative_log_masses(*checked(y, mu, r, validate=validate))
    return _reduced(elements, finite, reduction, (mu, r))


def _reduced(elements: Tensor, finite: Tensor, reduction: str, parameters: tuple[Tensor, ...]) -> Tensor:
    dtype, element_dtype = checks.result_dtype(*parameters), checks.elementwise_dtype(*parameters)
    return reduce(elements, reduction, dtype, finite, element_dtype=element_dtype)


@options_checked
def nll_loss(
    model_outputs: Mapping[str, Any],
    batch: Mapping[str, Any],
    *,
    reduction: str = "mean",
    validate: bool = False,
) -> Tensor:
    """Negative log likelihood of one replicate, or the average of the two replicates' values.

    Args:
        model_outputs: {"mu", "r"}, or {"r1": {"mu", "r"}, "r2": {"mu", "r"}}; of shape (B,), (B, 1) or 0-dim.
        batch: {"reads"}, or {"r1": {"reads"}, "r2": {"reads"}}.
        reduction: "mean", "sum" or "none" of the elements, which are averaged over two replicates first.
        validate: raise for invalid elements instead of returning NaN (waits for the device).

    Returns:
        As `negative_binomial_nll`.

    Raises:
        KeyError: an entry is missing; the message names its path and the keys present.
        TypeError: an entry is no tensor or no mapping; an unknown option.
        ValueError: shapes differ, unknown reduction; or, with `validate`, an invalid element.

    Example:
        >>> import torch
        >>> outputs = {"mu": torch.tensor([[2.0], [2.0]]), "r": torch.tensor(2.0)}
        >>> value = nll_loss(outputs, {"reads": torch.tensor([0, 1])})
        >>> round(value.exp().item(), 5)
        4.0
    """
    reduction = checks.reduction(reduction, REDUCTIONS)
    if not isinstance(model_outputs, Mapping):
        raise TypeError(f"model_outputs must be a mapping, got {type(model_outputs).__name__}")
    paired = "r1" in model_outputs or "r2" in model_outputs
    replicates = [
        aligned(model_outputs, batch, replicate, ("mu", "r"))
        for replicate in (("r1", "r2") if paired else (None,))
    ]
    checks.same_shape("batch['r1']['reads']", replicates[0][0], "batch['r2']['reads']", replicates[-1][0])
    parameters = tuple(parameter for _, *both in replicates for parameter in both)
    elements, finite = negative_log_masses(*checked(*replicates[0], validate=validate))
    if paired:
        others, others_finite = negative_log_masses(*checked(*replicates[1], validate=validate))
        # averaged before anything is rounded or saturated; halves first, which cannot overflow
        elements, finite = 0.5 * elements + 0.5 * others, finite & others_finite
    return _reduced(elements, finite, reduction, parameters)


class NLLLoss(nn.Module):
    """`nll_loss` as a module.

    Example:
        >>> NLLLoss(reduction="sum")
        NLLLoss(reduction='sum', validate=False)
    """

    def __init__(self, *, reduction: str = "mean", validate: bool = False) -> None:
        super().__init__()
        self.reduction = checks.reduction(reduction, REDUCTIONS)
        self.validate = validate

    def forward(self, model_outputs: Mapping[str, Any], batch: Mapping[str, Any]) -> Tensor:
        """The loss of one batch; see `nll_loss`."""
        return nll_loss(model_outputs, batch, reduction=self.reduction, validate=self.validate)

    def extra_repr(self) -> str:
        """Return the options, for `repr`."""
        return f"reduction={self.reduction!r}, validate={self.validate}"
