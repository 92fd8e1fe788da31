"""Changes of an input after which the answer is known from the one before, for every loss.

| loss | permutation | shift | scale by 2^k | swap | duplication | concatenation |
|---|---|---|---|---|---|---|
| masked | elements | both sides alike | value 4^k | x_recon, x | yes | weighted by masked elements or rows |
| InfoNCE | rows | both sides alike | tau 4^k, value stays | none | eps k times, + log k | none: rows couple |
| Pearson | elements | each side | each side, sign follows | both sides | eps k times | none: rows couple |
| residual | rows | y and mu alike | value 4^k | replicates, y and mu | yes | weighted by rows |
| counts | rows | none | none | replicates | yes | weighted by rows |
| composite | components | none | value 2^k | none | half the weight | lists add up |
"""

from collections.abc import Mapping

import numpy as np

from refimpl.conformance.batch import Batch
from refimpl.conformance.invariances import residual
from refimpl.conformance.invariances.arrays import arrays
from refimpl.conformance.invariances.exact import Scaled, scale, shift
from refimpl.conformance.invariances.merge import (
    blocks,
    complement,
    components_joined,
    components_split,
    concatenation,
    duplication,
)
from refimpl.conformance.invariances.order import (
    composite_permutation,
    element_permutation,
    row_permutation,
    swap,
)
from refimpl.conformance.spec import Invariance

__all__ = ["INVARIANCES"]

# beyond the pieces of 2^15 elements that are common on a CPU, and off any round number
MANY = 33333
# a negative binomial costs a thousand times what a square does
SOME = 9001
MU = ("model_outputs.r1.mu", "model_outputs.r2.mu")
READS = ("batch.r1.reads", "batch.r2.reads")
REPLICATES = (MU, ("model_outputs.r1.r", "model_outputs.r2.r"), READS)


def _masked(reduction: str) -> tuple[Invariance, ...]:
    def counted(batch: Batch) -> int:
        return int(np.count_nonzero(arrays(batch)["mask"]))

    return (
        element_permutation,
        shift(("x_recon", "x"), by="row", sides="x_recon and x alike"),
        scale(
            Scaled(("x_recon", "x"), lambda a, _: a, lambda a, _: a),
            holds="factor a on both sides: the value a² times",
            value=lambda a, _: a * a,
        ),
        swap("x_recon", "x"),
        duplication(reduction),
        concatenation(reduction, counted),
        blocks(MANY, 4001),
    )


def _temperature(batch: Batch, a: float, _: float) -> Mapping[str, float]:
    return {"tau": batch.options.get("tau", 0.1) * a * a}


def _concordance(sides: tuple[str, ...], *shifts: Invariance) -> tuple[Invariance, ...]:
    return (
        row_permutation,
        *shifts,
        scale(
            Scaled(sides, lambda a, _: a, lambda a, _: 1.0 / a),
            holds="factor a on both sides and a² on tau: the value stays",
            value=lambda *_: 1.0,
            options=_temperature,
        ),
        duplication("mean", floor="eps", logarithm=True),
        # blocks of 2^15 pairs and blocks of 256 or 512 rows have seams here
        blocks(521, 261, 2),
    )


def _pearson(predictions: tuple[str, ...], targets: tuple[str, ...]) -> tuple[Invariance, ...]:
    return (
        shift(predictions, targets, by="all", sides="each side"),
        scale(
            Scaled(predictions, lambda a, _: a, lambda a, b: float(np.sign(a * b)) / a),
            Scaled(targets, lambda _, b: b, lambda a, b: float(np.sign(a * b)) / b),
            holds="factors a and b on the sides: the sign of a b on the value",
            value=lambda a, b: float(np.sign(a * b)),
        ),
        duplication("mean", floor="eps"),
        blocks(MANY, 4001),
    )


def _residual(names: residual.Names) -> tuple[Invariance, ...]:
    return (
        row_permutation,
        shift((names.y1, names.mu1), (names.y2, names.mu2), by="row", sides="y and mu alike"),
        scale(
            Scaled((names.y1, names.mu1), lambda a, _: a, lambda a, _: a),
            Scaled((names.y2, names.mu2), lambda _, b: b, lambda a, b: a * a / b),
            Scaled((names.ratio,), lambda a, b: a / b, lambda a, b: a * b),
            holds="factors a, b and a / b on both replicates and s: the value a² times",
            value=lambda a, _: a * a,
        ),
        *residual.sides(names),
        duplication("mean"),
        concatenation("mean"),
        blocks(MANY),
    )


def _counts(reduction: str, *more: Invariance) -> tuple[Invariance, ...]:
    return (row_permutation, duplication(reduction), concatenation(reduction), blocks(SOME), *more)


_SWAPPED = swap(MU[0], MU[1], *REPLICATES[1:], sides="the replicates")
_OFFSET = shift((MU[0], READS[0]), (MU[1], READS[1]), by="row", sides="reads and mu alike")

INVARIANCES: dict[str, tuple[Invariance, ...]] = {
    "masked_sse": _masked("batch_mean"),
    "masked_mse": _masked("mean"),
    "concordance_loss_nce": _concordance(
        ("res1", "res2"), shift(("res1", "res2"), by="column", sides="both sides alike")
    ),
    "negative_pearson_loss": (
        element_permutation,
        swap("preds", "targets"),
        *_pearson(("preds",), ("targets",)),
    ),
    "quantile_absolute_loss": _counts(
        "mean",
        swap(
            "model_r1.mu",
            "model_r2.mu",
            ("model_r1.r", "model_r2.r"),
            ("y_r1", "y_r2"),
            sides="the replicates",
        ),
    ),
    "negative_binomial_cdf": _counts("none", complement("negative_binomial_sf")),
    "negative_binomial_sf": _counts("none", complement("negative_binomial_cdf")),
    "negative_binomial_log_prob": _counts("none"),
    "compute_numeric_cdf": _counts("none"),
    "nll_loss": _counts("mean", _SWAPPED),
    "compute_residual_mse": _residual(residual.CORE),
    "replicate_concordance_mse_loss": _residual(residual.WRAPPER),
    "concordance_loss_nce_wrapper": _concordance(
        (*MU, *READS), _OFFSET, shift(READS, by="all", sides="the reads of both replicates")
    ),
    "negative_pearson_loss_wrapper": (row_permutation, _SWAPPED, *_pearson(MU, READS)),
    "quantile_absolute_loss_wrapper": _counts("mean", _SWAPPED),
    "CompositeLoss": (
        composite_permutation,
        scale(
            Scaled(("values",), lambda a, _: a, lambda *_: 1.0),
            holds="factor a on the components: the value a times",
            value=lambda a, _: a,
        ),
        components_joined,
        components_split,
    ),
}
