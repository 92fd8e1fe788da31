"""Reference implementations (oracles) of the losses and their gradients: numpy in, float64 out, one ulp.

Each oracle `name(...)` has a companion `name_gradient(..., cotangent=1.0)`. The error bounds that
implementations are held to live in `refimpl.bounds`, the engine that does it in `refimpl.conformance`.

Example:
    >>> import numpy as np
    >>> masked_mse(np.array([[1.0, 2.0]]), np.zeros((1, 2)), np.array([[True, False]]))
    1.0
"""

from refimpl.composite import composite_loss, composite_loss_gradient
from refimpl.concordance import (
    concordance_loss_nce,
    concordance_loss_nce_gradient,
    concordance_loss_nce_wrapper,
    concordance_loss_nce_wrapper_gradient,
)
from refimpl.likelihood import nll_loss, nll_loss_gradient
from refimpl.masked import masked_mse, masked_mse_gradient, masked_sse, masked_sse_gradient
from refimpl.negative_binomial import (
    negative_binomial_cdf,
    negative_binomial_cdf_gradient,
    negative_binomial_log_pmf,
    negative_binomial_log_pmf_gradient,
    negative_binomial_log_prob,
    negative_binomial_log_prob_gradient,
    negative_binomial_pmf,
    negative_binomial_sf,
    negative_binomial_sf_gradient,
    poisson_cdf,
    poisson_cdf_gradient,
)
from refimpl.pearson import (
    negative_pearson_loss,
    negative_pearson_loss_gradient,
    negative_pearson_loss_wrapper,
    negative_pearson_loss_wrapper_gradient,
)
from refimpl.quantile import (
    quantile_absolute_loss,
    quantile_absolute_loss_gradient,
    quantile_absolute_loss_wrapper,
    quantile_absolute_loss_wrapper_gradient,
)
from refimpl.residual import (
    compute_residual_mse,
    compute_residual_mse_gradient,
    replicate_concordance_mse_loss,
    replicate_concordance_mse_loss_gradient,
)

__all__ = [
    "composite_loss",
    "composite_loss_gradient",
    "compute_residual_mse",
    "compute_residual_mse_gradient",
    "concordance_loss_nce",
    "concordance_loss_nce_gradient",
    "concordance_loss_nce_wrapper",
    "concordance_loss_nce_wrapper_gradient",
    "masked_mse",
    "masked_mse_gradient",
    "masked_sse",
    "masked_sse_gradient",
    "negative_binomial_cdf",
    "negative_binomial_cdf_gradient",
    "negative_binomial_log_pmf",
    "negative_binomial_log_pmf_gradient",
    "negative_binomial_log_prob",
    "negative_binomial_log_prob_gradient",
    "negative_binomial_pmf",
    "negative_binomial_sf",
    "negative_binomial_sf_gradient",
    "negative_pearson_loss",
    "negative_pearson_loss_gradient",
    "negative_pearson_loss_wrapper",
    "negative_pearson_loss_wrapper_gradient",
    "nll_loss",
    "nll_loss_gradient",
    "poisson_cdf",
    "poisson_cdf_gradient",
    "quantile_absolute_loss",
    "quantile_absolute_loss_gradient",
    "quantile_absolute_loss_wrapper",
    "quantile_absolute_loss_wrapper_gradient",
    "replicate_concordance_mse_loss",
    "replicate_concordance_mse_loss_gradient",
]
