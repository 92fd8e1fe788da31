"""PyTorch losses for replicates, read counts and spectra: finite and exact where others break.

Example:
    >>> import torch
    >>> masked_mse(torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2), torch.tensor([[True, False]]))
    tensor(1.)
"""

from torchimpl.composite import CompositeLoss
from torchimpl.concordance import ConcordanceLossNCE, concordance_loss_nce
from torchimpl.distributions import NegativeBinomial as NegativeBinomialDistribution
from torchimpl.likelihood import NLLLoss, nll_loss
from torchimpl.masked import MaskedMSE, MaskedSSE, masked_mse, masked_sse
from torchimpl.negative_binomial import (
    compute_numeric_cdf,
    negative_binomial_cdf,
    negative_binomial_log_prob,
    negative_binomial_sf,
)
from torchimpl.pearson import NegativePearsonLoss, negative_pearson_loss
from torchimpl.quantile import QuantileAbsoluteLoss, quantile_absolute_loss
from torchimpl.registry import LOSS_REGISTRY, create_composite_loss, register
from torchimpl.replicates import (
    concordance_loss_nce_wrapper,
    negative_pearson_loss_wrapper,
    quantile_absolute_loss_wrapper,
)
from torchimpl.residual import (
    ReplicateConcordanceMSELoss,
    compute_residual_mse,
    replicate_concordance_mse_loss,
)

__all__ = [
    "LOSS_REGISTRY",
    "CompositeLoss",
    "ConcordanceLossNCE",
    "MaskedMSE",
    "MaskedSSE",
    "NLLLoss",
    "NegativeBinomialDistribution",
    "NegativePearsonLoss",
    "QuantileAbsoluteLoss",
    "ReplicateConcordanceMSELoss",
    "compute_numeric_cdf",
    "compute_residual_mse",
    "concordance_loss_nce",
    "concordance_loss_nce_wrapper",
    "create_composite_loss",
    "masked_mse",
    "masked_sse",
    "negative_binomial_cdf",
    "negative_binomial_log_prob",
    "negative_binomial_sf",
    "negative_pearson_loss",
    "negative_pearson_loss_wrapper",
    "nll_loss",
    "quantile_absolute_loss",
    "quantile_absolute_loss_wrapper",
    "register",
    "replicate_concordance_mse_loss",
]
