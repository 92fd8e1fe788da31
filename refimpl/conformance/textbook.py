"""The losses as everyone writes them first; the engine must find every one of them wrong.

`python -m refimpl verify refimpl.conformance.textbook` shows each defect on a handful of numbers. Nothing
here is for use.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

Outputs: TypeAlias = Mapping[str, Any]

LARGEST_COUNT = 100


def masked_sse(x_recon: Tensor, x: Tensor, mask: Tensor, *, reduction: str = "batch_mean") -> Tensor:
    """Squares first, multiplies by the mask afterwards.

    Wrong because 0 * NaN is NaN: what stands at a visible position reaches value and gradient, and a square
    that overflows under the mask does too.
    """
    squares = (x_recon - x) ** 2 * mask
    if reduction == "none":
        return squares
    total = squares.sum()
    return {"sum": total, "mean": total / mask.sum(), "batch_mean": total / len(x)}[reduction]


def masked_mse(x_recon: Tensor, x: Tensor, mask: Tensor, *, reduction: str = "mean") -> Tensor:
    """Picks the counted elements by boolean indexing and averages.

    Wrong because the mean of no element is NaN, a square overflows where the mean does not, and half inputs
    are summed in half precision.
    """
    if reduction == "none":
        return (x_recon - x) ** 2 * mask
    picked = (x_recon[mask] - x[mask]) ** 2
    return {"sum": picked.sum(), "mean": picked.mean(), "batch_mean": picked.sum() / len(x)}[reduction]


def concordance_loss_nce(
    res1: Tensor, res2: Tensor, tau: float = 0.1, *, eps: float = 1e-8, reduction: str = "mean"
) -> Tensor:
    """-log(s_ii / (sum_j s_ij + 1e-8) + 1e-8) with s = exp(-d / tau).

    Wrong because far pairs underflow: log(0 + 1e-8) is 18.4 with no gradient, however far they are.
    """
    del eps
    a, b = res1.reshape(len(res1), -1), res2.reshape(len(res2), -1)
    similarity = torch.exp(-((a[:, None] - b[None]) ** 2).sum(-1) / tau)
    rows = -torch.log(similarity.diagonal() / (similarity.sum(1) + 1e-8) + 1e-8)
    return {"none": rows, "sum": rows.sum(), "mean": rows.mean()}[reduction]


def negative_pearson_loss(preds: Tensor, targets: Tensor, eps: float = 1e-8) -> Tensor:
    """Adds eps to the product of the norms.

    Wrong because a correlation has no scale: at values of 1e-5 the eps outweighs the norms, at 1e20 the norms
    overflow, and a constant side divides rounding errors by each other.
    """
    a, b = preds - preds.mean(), targets.to(preds.dtype) - targets.to(preds.dtype).mean()
    correlation: Tensor = (a * b).sum() / (a.norm() * b.norm() + eps)
    return -correlation


def _cdf(y: Tensor, mu: Tensor, r: Tensor) -> Tensor:
    """Cumulative sum of a table of probabilities with probs = r / (r + mu).

    Wrong because torch's `probs` is the probability of the counted event, mu / (mu + r): this fits a mean of
    r^2 / mu. Beyond that the table ends, and a negative count reads it from its end.
    """
    table = torch.arange(LARGEST_COUNT, dtype=mu.dtype).expand(*mu.shape, LARGEST_COUNT)
    cumulative = _log_pmf(table, mu[..., None], r[..., None]).exp().cumsum(-1)
    return cumulative.gather(-1, y.long().clamp(max=LARGEST_COUNT - 1)[..., None])[..., 0]


def _log_pmf(y: Tensor, mu: Tensor, r: Tensor) -> Tensor:
    probs = (r / (r + mu)).clamp(1e-6, 1 - 1e-6)
    y = y.to(mu.dtype)
    tail = torch.lgamma(y + r) - torch.lgamma(r) - torch.lgamma(y + 1)
    return tail + r * torch.log1p(-probs) + y * torch.log(probs)


def negative_binomial_cdf(y: Tensor, mu: Tensor, r: Tensor) -> Tensor:
    """The cumulative sum.

    Wrong for the reasons given at `_cdf`: swapped probabilities and a table that ends.
    """
    return _cdf(y, mu, r)


def negative_binomial_sf(y: Tensor, mu: Tensor, r: Tensor) -> Tensor:
    """One minus the cumulative sum.

    Wrong because the tail cancels: 1 - F is 0 or one rounding unit long before the tail is.
    """
    return 1 - _cdf(y, mu, r)


def negative_binomial_log_prob(y: Tensor, mu: Tensor, r: Tensor) -> Tensor:
    """Log-gamma functions in the input's precision, the right probabilities, and eps inside the logarithms.

    Wrong because lgamma(y + r) - lgamma(r) - lgamma(y + 1) subtracts numbers of the size (y + r) log(y + r):
    at r = 1e6 float32 has no digit left; r = inf is inf - inf; and the eps fits another mean near mu = 0.
    """
    y = y.to(mu.dtype)
    log_total = torch.log(r + mu + 1e-8)
    ways = torch.lgamma(y + r) - torch.lgamma(r) - torch.lgamma(y + 1)
    return ways + r * (torch.log(r + 1e-8) - log_total) + y * (torch.log(mu + 1e-8) - log_total)


def compute_numeric_cdf(dist: torch.distributions.Distribution, x: Tensor) -> Tensor:
    """Sums the probabilities of 0 to the largest count.

    Wrong because float32 `lgamma` differences lose digits with the count, sums exceed 1, and one large
    count makes every row pay.
    """
    largest = int(x.max()) if x.numel() else 0
    counts = torch.arange(largest + 1, dtype=torch.float32).reshape(-1, *(1,) * x.ndim)
    return dist.log_prob(counts).exp().cumsum(0).gather(0, x.long()[None])[0]


def quantile_absolute_loss(
    model_r1: Outputs, model_r2: Outputs, y_r1: Tensor, y_r2: Tensor, *, reduction: str = "mean"
) -> Tensor:
    """Difference of two cumulative sums.

    Wrong with the CDF it is built on; and where both are near 1 their difference has no digit left.
    """
    rows = (_cdf(y_r1, model_r1["mu"], model_r1["r"]) - _cdf(y_r2, model_r2["mu"], model_r2["r"])).abs()
    return {"none": rows, "sum": rows.sum(), "mean": rows.mean()}[reduction]


def nll_loss(model_outputs: Outputs, batch: Outputs, *, reduction: str = "mean") -> Tensor:
    """Mean of -log pmf with the swapped probabilities, clamped.

    Wrong because it fits the mean r^2 / mu, and because a clamp has no gradient where it is needed most.
    """
    rows = [
        -_log_pmf(batch[name]["reads"], model_outputs[name]["mu"], model_outputs[name]["r"]).clamp(-50, 50)
        for name in ("r1", "r2")
    ]
    both = (rows[0] + rows[1]) / 2
    return {"none": both, "sum": both.sum() * 2, "mean": both.mean()}[reduction]


def compute_residual_mse(
    y_r1: Tensor,
    mu_tech_r1: Tensor,
    y_r2: Tensor,
    mu_tech_r2: Tensor,
    sd_ratio_r1_to_r2: Tensor,
    *,
    reduction: str = "mean",
) -> Tensor:
    """Squares as they come.

    Wrong because half inputs are squared in half precision, and squares overflow where a mean need not.
    """
    rows = ((y_r1 - mu_tech_r1) - sd_ratio_r1_to_r2 * (y_r2 - mu_tech_r2)) ** 2
    return {"none": rows, "sum": rows.sum(), "mean": rows.mean()}[reduction]


def replicate_concordance_mse_loss(
    model_outputs: Outputs, batch: Outputs, *, reduction: str = "mean"
) -> Tensor:
    """Takes what the model gives without looking at its shape.

    Wrong because (B,) counts minus (B, 1) means is a table of B x B differences.
    """
    one, two = (batch[name]["reads"] - model_outputs[name]["mu"] for name in ("r1", "r2"))
    rows: Tensor = (one - batch["metadata"]["sd_ratio"] * two) ** 2
    return {"none": rows, "sum": rows.sum(), "mean": rows.mean()}[reduction]


def concordance_loss_nce_wrapper(model_outputs: Outputs, batch: Outputs, **options: Any) -> Tensor:
    """Residuals without alignment.

    Wrong because (B,) counts minus (B, 1) means is (B, B), and for the reasons of the loss itself.
    """
    one, two = (batch[name]["reads"] - model_outputs[name]["mu"] for name in ("r1", "r2"))
    return concordance_loss_nce(one, two, **options)


def negative_pearson_loss_wrapper(model_outputs: Outputs, batch: Outputs, **options: Any) -> Tensor:
    """Concatenates without alignment.

    Wrong because (2B, 1) predictions against (2B,) counts broadcast, and for the reasons of the loss itself.
    """
    preds = torch.cat([model_outputs[name]["mu"] for name in ("r1", "r2")])
    return negative_pearson_loss(preds, torch.cat([batch[name]["reads"] for name in ("r1", "r2")]), **options)


def quantile_absolute_loss_wrapper(model_outputs: Outputs, batch: Outputs, **options: Any) -> Tensor:
    """Hands on what it gets.

    Wrong for (B, 1) parameters, and for the reasons of the loss itself.
    """
    reads = (batch[name]["reads"] for name in ("r1", "r2"))
    return quantile_absolute_loss(model_outputs["r1"], model_outputs["r2"], *reads, **options)


class CompositeLoss(nn.Module):
    """The plain sum of weight * value.

    Wrong because 0 * inf is NaN: a component that is switched off still poisons the total.
    """

    def __init__(self, loss_functions: Sequence[Callable[..., Tensor]], weights: Sequence[float]) -> None:
        super().__init__()
        self.loss_functions, self.weights = list(loss_functions), list(weights)

    def forward(self, model_outputs: Outputs, batch: Outputs) -> Tensor:
        """Sum of weight * value."""
        terms = (
            weight * loss(model_outputs, batch)
            for weight, loss in zip(self.weights, self.loss_functions, strict=True)
        )
        return torch.stack(list(terms)).sum()
