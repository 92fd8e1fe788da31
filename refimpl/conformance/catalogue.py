"""The losses of the contract, each declared once as data, and the register for those of others.

Oracles and bounds of a room are found by name: `refimpl.<room>.<name>`, `refimpl.<room>.<name>_gradient` and
`refimpl.bounds.<room>.<name>`.
"""

import functools
from collections.abc import Mapping
from typing import Any

from refimpl.conformance import batches, numeric_cdf
from refimpl.conformance.demands import DEMANDS
from refimpl.conformance.invariances import INVARIANCES
from refimpl.conformance.oracles import deferred
from refimpl.conformance.refusals import REFUSALS
from refimpl.conformance.spec import LossSpec
from refimpl.conformance.strategies import MASKS

__all__ = ["CATALOGUE", "LossSpec", "register"]

REDUCTIONS = ("mean", "sum", "none")
_PAIR = (
    "ordinary",
    "zeros",
    "identical replicates",
    "ties",
    "constant",
    "one element",
    "empty batch",
    "common offset",
    "heavy tails",
    "huge",
    "one huge row",
    "squares near overflow",
    "tiny",
    "subnormal",
    "mixed magnitudes",
    "half limits",
    "integer targets",
)
_REPLICATE = (
    "ordinary",
    "column parameters",
    "integer counts",
    "zeros",
    "one element",
    "empty batch",
    "real counts",
)
_RESIDUAL = (*_PAIR, "real counts")
_QUANTILE = (*batches.COUNT_FAMILIES, "identical replicates", "NaN count")
_OUTPUTS = ("model_outputs",)
_ONLY_MU = ("model_outputs.r1.r", "model_outputs.r2.r")
ANY_FINITE = "any finite numbers of the dtype"
COUNTS = "counts y, means mu >= 0, dispersions r > 0 (inf: Poisson)"


def _spec(name: str, room: str, signature: str, known: str = "", **more: Any) -> LossSpec:
    """A loss of one of the rooms, its oracle called like itself unless said otherwise."""
    known = known or name
    functions = {
        "oracle": deferred(room, known),
        "oracle_gradient": deferred(room, f"{known}_gradient"),
        "bounds": deferred(f"bounds.{room}", known),
    }
    tables = {
        "refusals": REFUSALS.get(name, ()),
        "demands": DEMANDS.get(name, ()),
        "invariances": INVARIANCES.get(name, ()),
        "reductions": REDUCTIONS if "reduction=" in signature else (),
    }
    return LossSpec(name=name, room=room, signature=signature, **{**functions, **tables, **more})


def _masked(name: str, default: str, module: str) -> LossSpec:
    return _spec(
        name,
        "masked",
        f"(x_recon, x, mask, *, reduction='{default}')",
        domain=f"{ANY_FINITE}; anything at visible positions",
        strategy=batches.masked_batch,
        families=(*_PAIR, *MASKS, "NaN at a counted position", "real spectra"),
        differentiable=("x_recon", "x"),
        reductions=("mean", "batch_mean", "sum", "none"),
        module=module,
    )


def _pair(
    name: str, room: str, signature: str, options: dict[str, Any], *more: str, **fields: Any
) -> LossSpec:
    first, second, *_ = (word.strip() for word in signature.strip("(").split(","))
    names = (first, second)
    return _spec(
        name,
        room,
        signature,
        domain=ANY_FINITE,
        strategy=functools.partial(batches.pair_batch, names=names, options=options),
        families=(*_PAIR, *more, "NaN at a counted position", "real counts", "real spectra"),
        differentiable=names,
        **fields,
    )


def _wrapper(
    name: str,
    room: str,
    families: tuple[str, ...],
    options: Mapping[str, tuple[Any, ...]],
    defaults: str,
    *,
    counted: bool,
    **fields: Any,
) -> LossSpec:
    return _spec(
        name,
        room,
        f"(model_outputs, batch, *, {defaults})",
        domain=COUNTS if counted else ANY_FINITE,
        strategy=functools.partial(batches.replicate_batch, options=options, counted=counted),
        families=families,
        differentiable=_OUTPUTS,
        **fields,
    )


def _elementwise(name: str) -> LossSpec:
    return _spec(
        name,
        "negative_binomial",
        "(y, mu, r)",
        domain=COUNTS,
        strategy=batches.count_batch,
        families=(*batches.COUNT_FAMILIES, "fractional counts", "infinite count", "NaN count"),
        differentiable=("mu", "r"),
        elementwise=True,
    )


_SPECS = (
    _masked("masked_sse", "batch_mean", "MaskedSSE"),
    _masked("masked_mse", "mean", "MaskedMSE"),
    _pair(
        "concordance_loss_nce",
        "concordance",
        "(res1, res2, tau=0.1, *, eps=1e-8, reduction='mean')",
        {"tau": (0.1, 1.0, 0.01, 10.0), "eps": (1e-8, 0.0, 1.0), "reduction": REDUCTIONS},
        "far pairs",
        module="ConcordanceLossNCE",
    ),
    _pair(
        "negative_pearson_loss",
        "pearson",
        "(preds, targets, eps=1e-8)",
        {"eps": (1e-8, 0.0, 2.5, 1e3)},
        module="NegativePearsonLoss",
    ),
    _spec(
        "quantile_absolute_loss",
        "quantile",
        "(model_r1, model_r2, y_r1, y_r2, *, reduction='mean')",
        domain=COUNTS,
        strategy=functools.partial(
            batches.replicate_batch,
            options={"reduction": REDUCTIONS},
            names=("model_r1", "model_r2", "y_r1", "y_r2"),
        ),
        families=_QUANTILE,
        differentiable=("model_r1", "model_r2"),
        module="QuantileAbsoluteLoss",
    ),
    _elementwise("negative_binomial_cdf"),
    _elementwise("negative_binomial_sf"),
    _elementwise("negative_binomial_log_prob"),
    _spec(
        "compute_numeric_cdf",
        "negative_binomial",
        "(dist, x)",
        domain="counts x; a Poisson or negative binomial distribution of torch",
        call="target.compute_numeric_cdf(distribution(parameters), y)",
        known="negative_binomial_cdf",
        **numeric_cdf.ORACLE,
        strategy=numeric_cdf.batch,
        families=numeric_cdf.FAMILIES,
        differentiable=("parameters",),
        elementwise=True,
    ),
    _wrapper(
        "nll_loss",
        "likelihood",
        (*_QUANTILE, "column parameters"),
        {"reduction": REDUCTIONS},
        "reduction='mean'",
        counted=True,
        module="NLLLoss",
    ),
    _spec(
        "compute_residual_mse",
        "residual",
        "(y_r1, mu_tech_r1, y_r2, mu_tech_r2, sd_ratio_r1_to_r2, *, reduction='mean')",
        domain=ANY_FINITE,
        strategy=batches.residual_batch,
        families=_RESIDUAL,
        differentiable=("y_r1", "mu_tech_r1", "y_r2", "mu_tech_r2", "sd_ratio_r1_to_r2"),
    ),
    _wrapper(
        "replicate_concordance_mse_loss",
        "residual",
        (*_RESIDUAL, "column parameters"),
        {"reduction": REDUCTIONS},
        "reduction='mean'",
        counted=False,
        inert=_ONLY_MU,
        module="ReplicateConcordanceMSELoss",
    ),
    _wrapper(
        "concordance_loss_nce_wrapper",
        "concordance",
        (*_RESIDUAL, "column parameters"),
        {"tau": (0.1, 1.0), "eps": (1e-8, 0.0, 1.0), "reduction": REDUCTIONS},
        "tau=0.1, eps=1e-8, reduction='mean'",
        counted=False,
        inert=_ONLY_MU,
    ),
    _wrapper(
        "negative_pearson_loss_wrapper",
        "pearson",
        (*_RESIDUAL, "column parameters"),
        {"eps": (1e-8, 2.5)},
        "eps=1e-8",
        counted=False,
        inert=_ONLY_MU,
    ),
    _wrapper(
        "quantile_absolute_loss_wrapper",
        "quantile",
        _REPLICATE,
        {"reduction": REDUCTIONS},
        "reduction='mean'",
        counted=True,
    ),
    _spec(
        "CompositeLoss",
        "composite",
        "(loss_functions, weights)",
        domain="component values of any size; weight 0 switches a component off",
        call="target.CompositeLoss([lambda out, _, k=k: out['values'][k] for k in range(len(values))], "
        "weights)({'values': values}, {})",
        known="composite_loss",
        strategy=batches.composite_batch,
        families=("ordinary", "zeros", "weight zero", "huge", "tiny", "mixed magnitudes", "heavy tails"),
        differentiable=("values",),
        dtypes=("float32", "float64"),
    ),
)

CATALOGUE: dict[str, LossSpec] = {spec.name: spec for spec in _SPECS}


def register(spec: LossSpec, *, overwrite: bool = False) -> LossSpec:
    """Add a loss of your own: `verify` then knows it by its name.

    Args:
        spec: the declaration.
        overwrite: replace a loss that is already there under this name.

    Returns:
        The spec.

    Raises:
        TypeError: spec is no `LossSpec`.
        ValueError: the name is taken.

    Example:
        >>> register(CATALOGUE["masked_mse"])
        Traceback (most recent call last):
            ...
        ValueError: a loss 'masked_mse' is already registered; pass overwrite=True to replace it
    """
    if not isinstance(spec, LossSpec):
        raise TypeError(f"spec must be a LossSpec, got {type(spec).__name__}")
    if spec.name in CATALOGUE and not overwrite:
        raise ValueError(f"a loss {spec.name!r} is already registered; pass overwrite=True to replace it")
    CATALOGUE[spec.name] = spec
    return spec
