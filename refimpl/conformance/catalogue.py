"""Every loss declared once, as data: how to call it, what is exact, how large an error its bound allows.

Oracles and bounds are found by name: `refimpl.<module>.<name>`, `refimpl.<module>.<name>_gradient` and
`refimpl.bounds.<module>.<name>`. The call is a line of source text, which the engine evaluates and the report
prints, so that a printed counterexample does exactly what was run.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from hypothesis import strategies as st

from refimpl.bounds.precision import Bound, precision
from refimpl.conformance import batches, numeric_cdf
from refimpl.conformance.batch import Batch
from refimpl.conformance.formats import FORMATS, Format
from refimpl.conformance.oracles import oracle
from refimpl.conformance.strategies import MASKS

__all__ = ["CATALOGUE", "LossSpec"]

Strategy: TypeAlias = Callable[[str, Format], st.SearchStrategy[Batch]]
Gradients: TypeAlias = dict[str, Any]

EVERY = tuple(FORMATS)
REDUCTIONS = ("mean", "sum", "none")


@dataclass(frozen=True)
class LossSpec:
    """One loss.

    Attributes:
        name: its name in the target and, unless the methods below say otherwise, of its oracle.
        module: where oracle and bound live, in `refimpl` and in `refimpl.bounds`.
        call: source text of the call; `target` is the module under test.
        strategy: draws batches of a family.
        families: the hazards tried, from the simplest on.
        differentiable: arguments that the gradient oracle answers for, in its order.
        inert: paths of arrays inside them that the value does not depend on.
        elementwise: whether the result always has one element per input element.
        dtypes: names of the formats tried.
    """

    name: str
    module: str
    call: str
    strategy: Strategy
    families: tuple[str, ...]
    differentiable: tuple[str, ...]
    inert: tuple[str, ...] = ()
    elementwise: bool = False
    dtypes: tuple[str, ...] = EVERY

    def value(self, batch: Batch) -> Any:
        """The exact value, a float or an array."""
        return oracle(self.module, self.name)(*batch.arguments.values(), **batch.options)

    def gradient(self, batch: Batch) -> Gradients:
        """The exact gradient of the sum of all results, by argument."""
        found = oracle(self.module, f"{self.name}_gradient")(*batch.arguments.values(), **batch.options)
        return self._named(found)

    def bound(self, batch: Batch) -> tuple[Any, Gradients]:
        """The largest errors allowed: of the value, and of the gradient by argument."""
        function = oracle(f"bounds.{self.module}", self.name)
        found: Bound = function(
            *batch.arguments.values(), **batch.options, precision=precision(batch.form.name)
        )
        return found.value, self._named(found.gradient)

    def _named(self, gradient: Any) -> Gradients:
        parts = gradient if isinstance(gradient, tuple) else (gradient,)
        return dict(zip(self.differentiable, parts, strict=True))

    def result_is_elementwise(self, options: Mapping[str, Any]) -> bool:
        """Whether this call gives one number per element (or row) instead of a scalar."""
        return self.elementwise or options.get("reduction") == "none"


class NumericCDF(LossSpec):
    """`compute_numeric_cdf`: the target is given a distribution, the oracle its parameters."""

    def value(self, batch: Batch) -> Any:
        """CDF of a Poisson or a negative binomial, whichever the batch parametrises."""
        return numeric_cdf.value(batch)

    def gradient(self, batch: Batch) -> Gradients:
        """The derivative in the rate of a Poisson; none is checked for a negative binomial."""
        return numeric_cdf.gradient(batch)

    def bound(self, batch: Batch) -> tuple[Any, Gradients]:
        """The bound of the CDF and, for a negative binomial, of making the mean from the probability."""
        return numeric_cdf.bound(batch)


class Composite(LossSpec):
    """`CompositeLoss`: its oracle is called `composite_loss`."""

    def value(self, batch: Batch) -> Any:
        """The weighted sum."""
        return oracle(self.module, "composite_loss")(batch.arguments["values"], batch.options["weights"])

    def gradient(self, batch: Batch) -> Gradients:
        """The weights, and 0 for a component that is switched off."""
        found = oracle(self.module, "composite_loss_gradient")
        return self._named(found(batch.arguments["values"], batch.options["weights"]))

    def bound(self, batch: Batch) -> tuple[Any, Gradients]:
        """The bound of the weighted sum."""
        function = oracle("bounds.composite", "composite_loss")
        values, weights = batch.arguments["values"], batch.options["weights"]
        found: Bound = function(values, weights, precision=precision(batch.form.name))
        return found.value, self._named(found.gradient)


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
    "strided",
    "expanded",
    "vmap",
)
_REPLICATE = (
    "ordinary",
    "column parameters",
    "integer counts",
    "zeros",
    "one element",
    "empty batch",
    "strided",
    "vmap",
    "real counts",
)
_RESIDUAL = (*_PAIR, "real counts")
_QUANTILE = (*batches.COUNT_FAMILIES, "identical replicates", "NaN count")
_OUTPUTS = ("model_outputs",)
_ONLY_MU = ("model_outputs.r1.r", "model_outputs.r2.r")


def _masked(name: str) -> LossSpec:
    return LossSpec(
        name,
        "masked",
        f"target.{name}(x_recon, x, mask, reduction=reduction)",
        batches.masked_batch,
        (*_PAIR, *MASKS, "NaN at a counted position", "real spectra"),
        ("x_recon", "x"),
    )


def _pair(
    name: str, module: str, call: str, names: tuple[str, str], options: dict[str, Any], *more: str
) -> LossSpec:
    strategy = functools.partial(batches.pair_batch, names=names, options=options)
    families = (*_PAIR, *more, "NaN at a counted position", "real counts", "real spectra")
    return LossSpec(name, module, f"target.{name}{call}", strategy, families, names)


def _wrapper(
    name: str,
    module: str,
    families: tuple[str, ...],
    options: Mapping[str, tuple[Any, ...]],
    *,
    counted: bool,
    inert: tuple[str, ...] = (),
) -> LossSpec:
    keywords = "".join(f", {key}={key}" for key in options)
    strategy = functools.partial(batches.replicate_batch, options=options, counted=counted)
    call = f"target.{name}(model_outputs, batch{keywords})"
    return LossSpec(name, module, call, strategy, families, _OUTPUTS, inert)


def _elementwise(name: str) -> LossSpec:
    families = (*batches.COUNT_FAMILIES, "fractional counts", "infinite count", "NaN count")
    call = f"target.{name}(y, mu, r)"
    return LossSpec(
        name, "negative_binomial", call, batches.count_batch, families, ("mu", "r"), elementwise=True
    )


_SPECS = (
    _masked("masked_sse"),
    _masked("masked_mse"),
    _pair(
        "concordance_loss_nce",
        "concordance",
        "(res1, res2, tau, eps=eps, reduction=reduction)",
        ("res1", "res2"),
        {"tau": (0.1, 1.0, 0.01, 10.0), "eps": (1e-8, 0.0, 1.0), "reduction": REDUCTIONS},
        "far pairs",
    ),
    _pair(
        "negative_pearson_loss",
        "pearson",
        "(preds, targets, eps=eps)",
        ("preds", "targets"),
        {"eps": (1e-8, 0.0, 2.5, 1e3)},
    ),
    LossSpec(
        "quantile_absolute_loss",
        "quantile",
        "target.quantile_absolute_loss(model_r1, model_r2, y_r1, y_r2, reduction=reduction)",
        functools.partial(
            batches.replicate_batch,
            options={"reduction": REDUCTIONS},
            names=("model_r1", "model_r2", "y_r1", "y_r2"),
        ),
        _QUANTILE,
        ("model_r1", "model_r2"),
    ),
    _elementwise("negative_binomial_cdf"),
    _elementwise("negative_binomial_sf"),
    NumericCDF(
        "compute_numeric_cdf",
        "negative_binomial",
        "target.compute_numeric_cdf(distribution(parameters), y)",
        numeric_cdf.batch,
        numeric_cdf.FAMILIES,
        ("parameters",),
        elementwise=True,
    ),
    _wrapper("nll_loss", "likelihood", _QUANTILE, {"reduction": REDUCTIONS}, counted=True),
    LossSpec(
        "compute_residual_mse",
        "residual",
        "target.compute_residual_mse(y_r1, mu_tech_r1, y_r2, mu_tech_r2, sd_ratio_r1_to_r2, "
        "reduction=reduction)",
        batches.residual_batch,
        _RESIDUAL,
        ("y_r1", "mu_tech_r1", "y_r2", "mu_tech_r2", "sd_ratio_r1_to_r2"),
    ),
    _wrapper(
        "replicate_concordance_mse_loss",
        "residual",
        (*_RESIDUAL, "column parameters"),
        {"reduction": REDUCTIONS},
        counted=False,
        inert=_ONLY_MU,
    ),
    _wrapper(
        "concordance_loss_nce_wrapper",
        "concordance",
        (*_RESIDUAL, "column parameters"),
        {"tau": (0.1, 1.0), "reduction": REDUCTIONS},
        counted=False,
        inert=_ONLY_MU,
    ),
    _wrapper(
        "negative_pearson_loss_wrapper",
        "pearson",
        (*_RESIDUAL, "column parameters"),
        {"eps": (1e-8, 2.5)},
        counted=False,
        inert=_ONLY_MU,
    ),
    _wrapper(
        "quantile_absolute_loss_wrapper", "quantile", _REPLICATE, {"reduction": REDUCTIONS}, counted=True
    ),
    Composite(
        "CompositeLoss",
        "composite",
        "target.CompositeLoss([lambda out, _, k=k: out['values'][k] for k in range(len(values))], "
        "weights)({'values': values}, {})",
        batches.composite_batch,
        ("ordinary", "zeros", "weight zero", "huge", "tiny", "mixed magnitudes", "heavy tails", "vmap"),
        ("values",),
        dtypes=("float32", "float64"),
    ),
)

CATALOGUE: dict[str, LossSpec] = {spec.name: spec for spec in _SPECS}
