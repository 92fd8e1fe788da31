"""Every loss as a careful person writes it in one precision, to be held against the bounds.

`EVALUATIONS` maps the name of a loss to a function of (batch, order of summation) that gives the value and
the gradients by path, rounded to the formats that the contract names. Every operation happens in the working
precision of the batch (float32 for half inputs); no wider number is hidden inside.
"""

from tests.direct import concordance, counts, pearson, quadratic

EVALUATIONS = {
    "masked_sse": quadratic.masked,
    "masked_mse": quadratic.masked,
    "concordance_loss_nce": concordance.concordance,
    "negative_pearson_loss": pearson.pearson,
    "quantile_absolute_loss": counts.quantile,
    "negative_binomial_cdf": counts.cdf,
    "negative_binomial_sf": counts.sf,
    "negative_binomial_log_prob": counts.log_prob,
    "compute_numeric_cdf": counts.numeric_cdf,
    "nll_loss": counts.likelihood,
    "compute_residual_mse": quadratic.residual,
    "replicate_concordance_mse_loss": quadratic.residual_wrapper,
    "concordance_loss_nce_wrapper": concordance.concordance_wrapper,
    "negative_pearson_loss_wrapper": pearson.pearson_wrapper,
    "quantile_absolute_loss_wrapper": counts.quantile_wrapper,
    "CompositeLoss": quadratic.composite,
}
