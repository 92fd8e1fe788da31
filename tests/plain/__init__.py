"""The losses once more, in plain NumPy with gradients by hand: an implementation that must pass.

Written from the contract alone, in another arithmetic (long double) and by other formulas than both the
oracles and the code under test, it shows that the engine has no false alarm.
"""

from tests.plain.concordance import concordance_loss_nce as concordance_loss_nce
from tests.plain.concordance import concordance_loss_nce_gradient as concordance_loss_nce_gradient
from tests.plain.concordance import concordance_loss_nce_wrapper as concordance_loss_nce_wrapper
from tests.plain.concordance import (
    concordance_loss_nce_wrapper_gradient as concordance_loss_nce_wrapper_gradient,
)
from tests.plain.likelihood import nll_loss as nll_loss
from tests.plain.likelihood import nll_loss_gradient as nll_loss_gradient
from tests.plain.masked import masked_mse as masked_mse
from tests.plain.masked import masked_mse_gradient as masked_mse_gradient
from tests.plain.masked import masked_sse as masked_sse
from tests.plain.masked import masked_sse_gradient as masked_sse_gradient
from tests.plain.negative_binomial import negative_binomial_cdf as negative_binomial_cdf
from tests.plain.negative_binomial import negative_binomial_cdf_gradient as negative_binomial_cdf_gradient
from tests.plain.negative_binomial import negative_binomial_log_prob as negative_binomial_log_prob
from tests.plain.negative_binomial import (
    negative_binomial_log_prob_gradient as negative_binomial_log_prob_gradient,
)
from tests.plain.negative_binomial import negative_binomial_sf as negative_binomial_sf
from tests.plain.negative_binomial import negative_binomial_sf_gradient as negative_binomial_sf_gradient
from tests.plain.pearson import negative_pearson_loss as negative_pearson_loss
from tests.plain.pearson import negative_pearson_loss_gradient as negative_pearson_loss_gradient
from tests.plain.pearson import negative_pearson_loss_wrapper as negative_pearson_loss_wrapper
from tests.plain.pearson import (
    negative_pearson_loss_wrapper_gradient as negative_pearson_loss_wrapper_gradient,
)
from tests.plain.quantile import quantile_absolute_loss as quantile_absolute_loss
from tests.plain.quantile import quantile_absolute_loss_gradient as quantile_absolute_loss_gradient
from tests.plain.quantile import quantile_absolute_loss_wrapper as quantile_absolute_loss_wrapper
from tests.plain.quantile import (
    quantile_absolute_loss_wrapper_gradient as quantile_absolute_loss_wrapper_gradient,
)
from tests.plain.residual import compute_residual_mse as compute_residual_mse
from tests.plain.residual import compute_residual_mse_gradient as compute_residual_mse_gradient
from tests.plain.residual import replicate_concordance_mse_loss as replicate_concordance_mse_loss
from tests.plain.residual import (
    replicate_concordance_mse_loss_gradient as replicate_concordance_mse_loss_gradient,
)
