"""Which losses and tests judge which module."""

from __future__ import annotations

__all__ = ["BY_TESTS", "CAPS", "LOSSES", "ORACLES", "TESTS", "TESTS_ALONE"]

_COUNTS = ("negative_binomial_cdf", "negative_binomial_sf", "compute_numeric_cdf")
_LOG_PROB = "negative_binomial_log_prob"
_PAIRED = ("concordance_loss_nce_wrapper", "negative_pearson_loss_wrapper", "quantile_absolute_loss_wrapper")
_RESIDUAL = ("compute_residual_mse", "replicate_concordance_mse_loss")

# the losses that reach a module of torchimpl, the one most likely to notice first
LOSSES: dict[str, tuple[str, ...]] = {
    "masked": ("masked_sse", "masked_mse"),
    "pearson": ("negative_pearson_loss", "negative_pearson_loss_wrapper"),
    "residual": _RESIDUAL,
    "concordance": ("concordance_loss_nce", "concordance_loss_nce_wrapper"),
    "composite": ("CompositeLoss",),
    "quantile": ("quantile_absolute_loss", "quantile_absolute_loss_wrapper"),
    "likelihood": ("nll_loss",),
    "negative_binomial": (*_COUNTS, _LOG_PROB),
    "distributions": (),
    "replicates": _PAIRED,
    "alignment": (*_PAIRED, "nll_loss", "replicate_concordance_mse_loss"),
    "saturate": (
        "masked_mse", "concordance_loss_nce", "negative_pearson_loss", "compute_residual_mse", "nll_loss",
        "quantile_absolute_loss", "concordance_loss_nce_wrapper",
    ),
    "scaling": ("masked_mse", "negative_pearson_loss", "compute_residual_mse", "CompositeLoss"),
    "checks": (
        "masked_mse", "concordance_loss_nce", "negative_pearson_loss", *_COUNTS[:2], "compute_residual_mse",
        "nll_loss", "quantile_absolute_loss", "CompositeLoss", "concordance_loss_nce_wrapper",
        "negative_pearson_loss_wrapper",
    ),
    "registry": (),
    "kernels/blocks": (),
    "kernels/concordance": ("concordance_loss_nce",),
    "kernels/concordance_op": ("concordance_loss_nce",),
    "kernels/negative_binomial": _COUNTS[:2],
    "kernels/negative_binomial_constants": (*_COUNTS[:2], "nll_loss"),
    "kernels/negative_binomial_fraction": _COUNTS[:2],
    "kernels/negative_binomial_log_pmf": (_LOG_PROB, "nll_loss"),
    "kernels/negative_binomial_ops": (*_COUNTS[:2], "quantile_absolute_loss"),
    "kernels/negative_binomial_regions": (*_COUNTS[:2], "nll_loss"),
    "kernels/negative_binomial_second": _COUNTS[:2],
}  # fmt: skip

# functions that the engine never calls; nn.Module twins and `chunk_size` go the same way
BY_TESTS: dict[str, frozenset[str]] = {
    "*": frozenset({"extra_repr", "_"}),  # the shapes that a custom operator tells a compiler are called _
    "composite": frozenset(
        {"to_config", "_apply", "_copied", "_kind", "_unique", "_own_name", "_checked_names"}
    ),
    "concordance": frozenset({"_rows_per_block"}),
    "kernels/concordance": frozenset({"_rows_per_block", "rows_per_block"}),
    "kernels/negative_binomial": frozenset({"_evaluate_dense", "_evaluate_dense_block"}),
}
TESTS_ALONE = frozenset({"registry", "distributions", "kernels/blocks"})

# the test files that judge those parts
TESTS: dict[str, tuple[str, ...]] = {
    "masked": ("test_masked",),
    "pearson": ("test_pearson",),
    "residual": ("test_residual",),
    "concordance": ("test_concordance",),
    "composite": ("test_composite", "test_registry", "test_state"),
    "quantile": ("test_quantile",),
    "likelihood": ("test_likelihood",),
    "negative_binomial": ("test_negative_binomial",),
    "distributions": ("test_distributions",),
    "replicates": ("test_replicates",),
    "registry": ("test_registry",),
    "kernels/blocks": ("test_pearson", "test_residual"),
    "kernels/concordance": ("test_concordance",),
    "kernels/concordance_op": ("test_no_sync",),
    "kernels/negative_binomial": ("test_negative_binomial",),
    "kernels/negative_binomial_ops": ("test_no_sync",),
    "kernels/negative_binomial_log_pmf": ("test_no_sync",),
}

# mutants of one module at most: the long kernels have many hundred, and each costs a second
CAPS: dict[str, int] = {"torchimpl": 140, "refimpl": 80}

# the losses that reach a module of refimpl
ORACLES: dict[str, tuple[str, ...]] = {
    "masked": ("masked_sse", "masked_mse"),
    "pearson": ("negative_pearson_loss", "negative_pearson_loss_wrapper"),
    "residual": _RESIDUAL,
    "residual_kernels": _RESIDUAL,
    "concordance": ("concordance_loss_nce", "concordance_loss_nce_wrapper"),
    "concordance_kernels": ("concordance_loss_nce",),
    "composite": ("CompositeLoss",),
    "quantile": ("quantile_absolute_loss", "quantile_absolute_loss_wrapper"),
    "likelihood": ("nll_loss",),
    "negative_binomial": (*_COUNTS[:2], _LOG_PROB),
    "negative_binomial_sums": _COUNTS[:2],
    "negative_binomial_terms": (*_COUNTS[:2], "nll_loss"),
    "negative_binomial_tables": (*_COUNTS[:2], _LOG_PROB, "nll_loss"),
    "arithmetic": ("masked_mse", "concordance_loss_nce", "compute_residual_mse"),
    "elementary": ("concordance_loss_nce", "negative_binomial_cdf", "nll_loss"),
    "exact_sum": ("masked_mse", "compute_residual_mse", "CompositeLoss"),
    "extended": ("concordance_loss_nce",),
    "scaled": ("negative_binomial_cdf", "nll_loss"),
}
