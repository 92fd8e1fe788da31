"""Faults that show in relations between calls, under transformations and over whole formats.

A relation is asked where the plain answer is right: these faults touch some inputs only.
"""

from types import SimpleNamespace

import torch

import torchimpl
from tests.faults.base import Fault, exact, production, wrapped
from tests.faults.composite import COMPOSITE, PRODUCTION
from tests.faults.concordance import (
    NCE,
    BlocksOverlap,
    Concordance,
    SumForMean,
)
from tests.faults.masked import HALF, MSE, SSE, LastChunkDropped, Masked
from tests.faults.negative_binomial import CDF, SF, counts, one_more
from tests.faults.pearson import PEARSON, LargeBlocksSkip, Pearson
from tests.faults.pearson import LargeBlocks as PearsonBlocks
from tests.faults.quantile import LOSS as QUANTILE
from tests.faults.quantile import Quantile
from tests.faults.residual import CORE, Residual


class NeedsOrder(Concordance):
    """Wrong where the first number of the batch is larger than the last."""

    def distances(self, x, y):
        right = super().distances(x, y)
        return torch.where(x.flatten()[:1] > x.flatten()[-1:], 1.01 * right, right)


class LargestLast(torchimpl.CompositeLoss):
    """Leaves out a first component that is larger than the last one."""

    def forward(self, model_outputs, batch):
        values = [loss(model_outputs, batch) for loss in self.losses]
        return super().forward(model_outputs, batch) - (values[0] - values[0] * (values[0] <= values[-1]))


class Clipped(Pearson):
    """Deviations as if no number were beyond 8."""

    def wide(self, x):
        return super().wide(x).clamp(-8, 8)


class ClippedSquares(Masked):
    def wide(self, x):
        return super().wide(x).clamp(-8, 8)


class ClippedResiduals(Residual):
    def error(self, first, second, s):
        return super().error(first, second, s).clamp(-32, 32)


class SidesOrdered(Pearson):
    """Sees a floor where the second side starts below the first."""

    def correlation(self, p, t, eps):
        right = super().correlation(p, t, eps)
        return torch.where(p[:1].sum() < t[:1].sum(), right, 1.01 * right)


class ReplicatesOrdered(Residual):
    def error(self, first, second, s):
        return torch.where(first.sum() < second.sum(), 1.01, 1.0) * super().error(first, second, s)


class AtMostEight(Residual):
    """Sums eight rows and divides by all."""

    def square(self, e):
        return super().square(e) * (torch.arange(e.numel()) < 8).reshape(e.shape)


class AtMostFive(torchimpl.CompositeLoss):
    def __init__(self, loss_functions, weights):
        super().__init__(loss_functions[:5], weights[:5])


class AloneIsZero(Quantile):
    """One row has no neighbour to compare with."""

    def magnitude(self, difference):
        return super().magnitude(difference) * (difference.numel() != 1)


class SquareOldStyle(torch.autograd.Function):
    """A square that no transformation can look into."""

    @staticmethod
    def forward(ctx, e):
        ctx.save_for_backward(e)
        return e.square()

    @staticmethod
    def backward(ctx, cotangent):
        return 2 * ctx.saved_tensors[0] * cotangent


class OldStyle(Masked):
    def squares(self, a, b, mask):
        return SquareOldStyle.apply(torch.where(mask, a - b, 0.0))


class Squeezed(Residual):
    def error(self, first, second, s):
        return super().error(first.squeeze()[:, None], second.squeeze()[:, None], s)[:, 0]


class FlushesSubnormals(Masked):
    def wide(self, x):
        wide = super().wide(x)
        return torch.where(wide.abs() < torch.finfo(torch.float16).tiny, 0.0, wide)


class Printed(Masked):
    def divisor(self, mask, reduction):
        torch._dynamo.graph_break()
        return super().divisor(mask, reduction)


def _both(cdf):
    """Both functions: one is held against the other."""
    return lambda: SimpleNamespace(
        negative_binomial_cdf=cdf(), negative_binomial_sf=torchimpl.negative_binomial_sf
    )


FAULTS = (
    Fault("raises for one element", CORE, "returns", Squeezed, Residual, ("one element",)),
    Fault(
        "wrong where the first number exceeds the last",
        NCE,
        "permutation",
        NeedsOrder,
        Concordance,
        examples=32,
    ),
    Fault(
        "a larger first component left out",
        COMPOSITE,
        "permutation",
        lambda: LargestLast,
        PRODUCTION,
        examples=32,
    ),
    Fault("numbers beyond 8 clipped", PEARSON, "shift", Clipped, Pearson, examples=64),
    Fault("numbers beyond 8 clipped", MSE, "shift", ClippedSquares, Masked, examples=32),
    Fault("residuals beyond 32 clipped", CORE, "scale", ClippedResiduals, Residual, examples=32),
    Fault("sides in one order only", PEARSON, "swap", SidesOrdered, Pearson, examples=32),
    Fault("replicates in one order only", CORE, "swap", ReplicatesOrdered, Residual, examples=32),
    Fault("rows beyond the eighth dropped", CORE, "duplication", AtMostEight, Residual, examples=32),
    Fault(
        "components beyond the fifth dropped",
        COMPOSITE,
        "duplication",
        lambda: AtMostFive,
        PRODUCTION,
        examples=32,
    ),
    Fault("a row alone counts for nothing", QUANTILE, "concatenation", AloneIsZero, Quantile, examples=32),
    Fault(
        "F beside the tail one count off",
        SF,
        "complement",
        _both(exact(CDF, batch=counts(lambda y: y - 1))),
        _both(exact(CDF)),
        examples=16,
    ),
    Fault(
        "sum instead of mean (beside the other reductions)",
        NCE,
        "reduction",
        SumForMean,
        Concordance,
        examples=16,
    ),
    Fault("last chunk of 64 dropped", MSE, "blocks", LastChunkDropped, Masked),
    Fault("blocks of 4 rows overlap", NCE, "blocks", BlocksOverlap, Concordance),
    Fault(
        "last element of blocks of 4096 skipped (long batch)",
        PEARSON,
        "blocks",
        LargeBlocksSkip,
        PearsonBlocks,
    ),
    Fault("old-style autograd function", MSE, "func.grad", OldStyle, Masked, examples=16),
    Fault("graph break in the hot path", SSE, "compile", Printed, Masked, examples=8),
    Fault(
        "y + 1 wraps in narrow integers",
        CDF,
        "integers",
        wrapped(CDF, one_more),
        production(CDF),
        ("integer counts",),
    ),
    Fault("float16 subnormals flushed to 0", MSE, "exhaustive", FlushesSubnormals, Masked, dtypes=HALF),
)
