"""How far a result may be from the exact one: a bound for each loss, derived from the very input.

Each function takes the arguments of its loss and the `precision` of the inputs, and returns a `Bound` for
value and gradient. A bound is roundoff × roundings on the worst path × condition of this input; the docstring
of each function derives it. `error_ratio` holds a result against it.

Example:
    >>> masked_mse([[3.0]], [[1.0]], [[True]], precision=precision("float32")).value < 1e-5
    True
"""

from refimpl.bounds.composite import composite_loss
from refimpl.bounds.concordance import concordance_loss_nce, concordance_loss_nce_wrapper
from refimpl.bounds.likelihood import nll_loss
from refimpl.bounds.masked import masked_mse, masked_sse
from refimpl.bounds.negative_binomial import (
    negative_binomial_cdf,
    negative_binomial_log_pmf,
    negative_binomial_log_prob,
    negative_binomial_sf,
    poisson_cdf,
)
from refimpl.bounds.pearson import negative_pearson_loss, negative_pearson_loss_wrapper
from refimpl.bounds.precision import Bound, Precision, error_ratio, precision
from refimpl.bounds.quantile import quantile_absolute_loss, quantile_absolute_loss_wrapper
from refimpl.bounds.residual import compute_residual_mse, replicate_concordance_mse_loss

__all__ = [
    "Bound",
    "Precision",
    "composite_loss",
    "compute_residual_mse",
    "concordance_loss_nce",
    "concordance_loss_nce_wrapper",
    "error_ratio",
    "masked_mse",
    "masked_sse",
    "negative_binomial_cdf",
    "negative_binomial_log_pmf",
    "negative_binomial_log_prob",
    "negative_binomial_sf",
    "negative_pearson_loss",
    "negative_pearson_loss_wrapper",
    "nll_loss",
    "poisson_cdf",
    "precision",
    "quantile_absolute_loss",
    "quantile_absolute_loss_wrapper",
    "replicate_concordance_mse_loss",
]
