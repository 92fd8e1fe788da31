"""Which losses and tests judge which module."""

from __future__ import annotations

__all__ = [
    "BY_TESTS",
    "CAPS",
    "COMPILED",
    "LOSSES",
    "ORACLES",
    "TESTS",
    "TESTS_ALONE",
    "TESTS_TOO",
    "cap",
]

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
    "kernels/concordance_backends": (),
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
    "likelihood": frozenset({"negative_binomial_nll"}),
    "kernels/concordance": frozenset({"_rows_per_block", "rows_per_block"}),
    "kernels/negative_binomial": frozenset({"_evaluate_dense", "_evaluate_dense_block"}),
}
TESTS_ALONE = frozenset({"registry", "distributions", "kernels/blocks", "kernels/concordance_backends"})
# a survivor of the engine goes on to the tests: these hold a kernel's own functions, every place of its
# domain, what a kernel is handed, and the wording of messages, of which the engine asks little
TESTS_TOO = frozenset(
    module
    for module, losses in LOSSES.items()
    if losses
    and (
        module.startswith("kernels/") or module in {"alignment", "checks", "concordance", "negative_binomial"}
    )
)

# not part of the campaign: a changed kernel would have to be compiled anew, half a minute each; their tests
# hold them to the plain ones, which are part of it
COMPILED = (
    "_cpu",
    "_cuda",
    "kernels/compiled",
    "kernels/concordance_blocks",
    "kernels/concordance_sorted",
    "kernels/negative_binomial_log_pmf_one_pass",
)

# the test files that judge those parts
TESTS: dict[str, tuple[str, ...]] = {
    "masked": ("test_masked",),
    "pearson": ("test_pearson",),
    "residual": ("test_residual",),
    "concordance": (
        "test_concordance",
        "test_concordance_autograd",
        "test_concordance_interface",
        "test_concordance_backends",
    ),
    "composite": ("test_composite", "test_registry", "test_state"),
    "quantile": ("test_quantile",),
    "likelihood": ("test_likelihood",),
    "negative_binomial": (
        "test_negative_binomial",
        "test_negative_binomial_torch",
        "test_negative_binomial_log_prob",
    ),
    "distributions": ("test_distributions", "test_distributions_interface"),
    "replicates": ("test_replicates",),
    "alignment": ("test_replicates",),
    "checks": ("test_checks",),
    "registry": ("test_registry",),
    "kernels/blocks": ("test_blocks",),
    "kernels/concordance": ("test_concordance", "test_concordance_autograd", "test_concordance_interface"),
    "kernels/concordance_backends": ("test_concordance_backends",),
    "kernels/concordance_op": (
        "test_concordance_backends",
        "test_concordance",
        "test_concordance_autograd",
        "test_concordance_interface",
        "test_vmap",
        "test_no_sync",
    ),
    "kernels/negative_binomial": ("test_kernels", "test_kernels_log_pmf"),
    "kernels/negative_binomial_constants": ("test_kernels", "test_kernels_log_pmf"),
    "kernels/negative_binomial_fraction": ("test_kernels", "test_kernels_log_pmf"),
    "kernels/negative_binomial_log_pmf": ("test_kernels", "test_kernels_log_pmf", "test_no_sync"),
    "kernels/negative_binomial_ops": ("test_kernels", "test_kernels_log_pmf", "test_no_sync"),
    "kernels/negative_binomial_regions": ("test_kernels", "test_kernels_log_pmf"),
    "kernels/negative_binomial_second": ("test_kernels", "test_kernels_log_pmf"),
}

# mutants of one module that make the campaign: every long kernel has many hundred, a survivor costs a minute
CAPS: dict[str, int] = {"torchimpl": 50, "torchimpl/kernels": 12, "refimpl": 8}

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


def cap(package: str, module: str) -> int:
    """How many mutants of a module make the campaign.

    Example:
        >>> cap("torchimpl", "masked"), cap("torchimpl", "kernels/blocks"), cap("refimpl", "masked")
        (50, 12, 8)
    """
    return CAPS[max((place for place in CAPS if f"{package}/{module}".startswith(place)), key=len)]
