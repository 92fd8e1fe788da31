"""Faults in the negative Pearson correlation and in its wrapper."""

# ruff: noqa: ARG002 - a method that is replaced may use less than the right one

import torch

from tests.faults.base import (
    Clamp,
    Fault,
    caught,
    exact,
    kind,
    pair,
    production,
    rounded,
    with_arrays,
    with_option,
    wrapped,
)


class Pearson:
    """-Σ p t / (‖p‖ ‖t‖) of the deviations p and t, in float64."""

    def __call__(self, preds, targets, eps=1e-8):
        p, t = (self.deviations(self.wide(side).flatten()) for side in (preds, targets))
        return rounded(self.sign(self.correlation(p, t, eps)), kind(preds, targets), elementwise=False)

    def wide(self, x):
        return x.double()

    def deviations(self, x):
        x = x - x[:1]  # constants become exactly 0
        return x - x.sum() / max(x.numel(), 1)

    def constant(self, x):
        return (x == 0).all()

    def correlation(self, p, t, eps):
        degenerate = self.constant(p) | self.constant(t)
        norm = torch.where(degenerate, 1.0, self.floored(p, t, self.norms(p, t), eps))
        return torch.where(degenerate, 0.0 * (p.sum() + t.sum()), self.product(p, t) / norm)

    def product(self, p, t):
        return (p * t).sum()

    def norms(self, p, t):
        return self.norm(p) * self.norm(t)

    def norm(self, x):
        return torch.where(self.constant(x), 1.0, x.square().sum()).sqrt()

    def floored(self, p, t, norms, eps):
        if p.numel() == 0 or eps <= 1.0:
            return norms
        return torch.maximum(norms, eps * p.abs().amax() * t.abs().amax())

    def sign(self, correlation):
        return -Clamp.apply(correlation, 1.0)


class Unclamped(Pearson):
    def sign(self, correlation):
        return -correlation


class EpsAdded(Pearson):
    def floored(self, p, t, norms, eps):
        return norms + eps


class EpsInTheRoot(Pearson):
    def norm(self, x):
        return (x.square().sum() + 1e-8).sqrt()


class FloorNotRescaled(Pearson):
    def floored(self, p, t, norms, eps):
        return norms.clamp(min=eps)


class EpsIgnored(Pearson):
    def floored(self, p, t, norms, eps):
        return norms


class FloorOnEachNorm(Pearson):
    def floored(self, p, t, norms, eps):
        if p.numel() == 0:
            return norms
        return torch.maximum(self.norm(p), eps * p.abs().amax()) * torch.maximum(
            self.norm(t), eps * t.abs().amax()
        )


class ConstantByTolerance(Pearson):
    def constant(self, x):
        return (x.abs() < 1e-6).all()


class ConstantMissed(Pearson):
    def constant(self, x):
        return torch.zeros((), dtype=torch.bool)


class ConstantByVariance(Pearson):
    """The mean of n copies of 0.1 is not 0.1."""

    def wide(self, x):
        return x

    def deviations(self, x):
        return (x - x.mean() if x.numel() else x).double()


class NotCentred(Pearson):
    def deviations(self, x):
        return x


class OneSideCentred(Pearson):
    def product(self, p, t):
        return (p * (t + 1) - p).sum() * (1 + 1e-4)


class Positive(Pearson):
    def sign(self, correlation):
        return correlation


class OneMinus(Pearson):
    def sign(self, correlation):
        return 1 - correlation


class NormaliserMixed(Pearson):
    """Covariance over n, variances over n - 1."""

    def product(self, p, t):
        return super().product(p, t) * (max(p.numel() - 1, 1) / max(p.numel(), 1))


class TargetsDetached(Pearson):
    def correlation(self, p, t, eps):
        return super().correlation(p, t.detach(), eps)


class NormsDetached(Pearson):
    def norms(self, p, t):
        return super().norms(p.detach(), t.detach())


class RawMoments(Pearson):
    def wide(self, x):
        return x.float()

    def deviations(self, x):
        return x

    def product(self, p, t):
        return ((p * t).sum() - p.sum() * t.mean()).double()

    def norm(self, x):
        return (x.square().sum() - x.sum() * x.mean()).clamp(min=0).sqrt().double()


class SingleInside(Pearson):
    def wide(self, x):
        return x.float().double()


class NaNHidden(Pearson):
    def sign(self, correlation):
        return -correlation.nan_to_num()


class SyncOnConstant(Pearson):
    def correlation(self, p, t, eps):
        if bool(self.constant(p)) or bool(self.constant(t)):
            return 0.0 * (p.sum() + t.sum())
        return super().correlation(p, t, eps)


class SquareOverflows(Pearson):
    """Squares of float32 in float32."""

    def norm(self, x):
        return x.float().square().sum().sqrt().double()


class HalfDeviations(Pearson):
    def deviations(self, x):
        return super().deviations(x).half().double()


class LargeBlocks(Pearson):
    """Sums in blocks of 4096 elements."""

    skip = 0

    def product(self, p, t):
        size = 4096
        return sum(
            super(LargeBlocks, self).product(p[k : k + size - self.skip], t[k : k + size - self.skip])
            for k in range(0, max(len(p), 1), size)
        )


class LargeBlocksSkip(LargeBlocks):
    skip = 1


def _concatenated(order=("r1", "r2"), loss=None):
    """The wrapper: means of both replicates against reads of both."""
    loss = loss or Pearson()

    def wrapper(model_outputs, batch, *, eps=1e-8):
        preds = torch.cat([mu.flatten() for mu in pair(model_outputs, "mu")])
        targets = torch.cat([batch[name]["reads"].flatten() for name in order])
        return loss(preds, targets, eps)

    return lambda: wrapper


def _averaged(model_outputs, batch, *, eps=1e-8):
    sides = zip(pair(model_outputs, "mu"), pair(batch, "reads"), strict=True)
    return sum(Pearson()(mu.flatten(), reads.flatten(), eps) for mu, reads in sides) / 2


def _rows(model_outputs, batch, *, eps=1e-8):
    """(B, 1) beside (B,): every mean against every count."""
    preds = torch.cat(pair(model_outputs, "mu"))
    targets = torch.cat(pair(batch, "reads"))
    return Pearson()(*torch.broadcast_tensors(preds, targets), eps)


def _untouched(path, array):
    return array[::-1].copy() if path.endswith("r2.reads") else array


PEARSON, WRAPPER = "negative_pearson_loss", "negative_pearson_loss_wrapper"
TINY, HUGE, DOUBLE = ("tiny",), ("huge",), ("float64",)
FAULTS = (
    Fault(
        "targets cast to the dtype of the predictions",
        PEARSON,
        "option",
        wrapped(PEARSON, lambda a, b, *eps: (a, b.to(a.dtype), *eps)),
        production(PEARSON),
    ),
    Fault("eps added to the product of the norms", PEARSON, "value", EpsAdded, Pearson, TINY),
    Fault("eps inside the root", PEARSON, "value", EpsInTheRoot, Pearson, TINY),
    Fault("floor on norms that are not rescaled", PEARSON, "value", FloorNotRescaled, Pearson, TINY),
    Fault("eps ignored", PEARSON, "value", EpsIgnored, Pearson, examples=16),
    Fault(
        "floor on each norm instead of their product", PEARSON, "value", FloorOnEachNorm, Pearson, examples=16
    ),
    Fault("constant recognised by a tolerance", PEARSON, "value", ConstantByTolerance, Pearson, TINY),
    Fault("constant side not recognised: 0 / 0", PEARSON, "finite", ConstantMissed, Pearson, ("constant",)),
    Fault(
        "constant side recognised by its rounded mean",
        PEARSON,
        "value",
        ConstantByVariance,
        Pearson,
        ("constant",),
        ("float32", "float64"),
        16,
    ),
    Fault("not centred: cosine similarity", PEARSON, "value", NotCentred, Pearson),
    Fault("one side centred with an error of 1e-4", PEARSON, "value", OneSideCentred, Pearson),
    Fault("sign missing", PEARSON, "value", Positive, Pearson),
    Fault("1 - r instead of -r", PEARSON, "value", OneMinus, Pearson),
    Fault("covariance over n, variances over n - 1", PEARSON, "value", NormaliserMixed, Pearson),
    Fault("targets detached", PEARSON, "graph", TargetsDetached, Pearson),
    Fault("norms detached", PEARSON, "gradient", NormsDetached, Pearson),
    Fault("raw moments in float32", PEARSON, "value", RawMoments, Pearson, ("common offset",)),
    Fault("float32 inside the float64 path", PEARSON, "value", SingleInside, Pearson, dtypes=DOUBLE),
    Fault("NaN hidden", PEARSON, "nan", NaNHidden, Pearson, ("NaN at a counted position",)),
    Fault("if on a tensor", PEARSON, "sync", SyncOnConstant, Pearson),
    Fault("squares overflow", PEARSON, "value", SquareOverflows, Pearson, HUGE),
    Fault("deviations in half precision", PEARSON, "value", HalfDeviations, Pearson, dtypes=("bfloat16",)),
    Fault("last element of blocks of 4096 skipped", PEARSON, "option", LargeBlocksSkip, LargeBlocks),
    Fault("rounding leads beyond -1", PEARSON, "option", Unclamped, Pearson),
    Fault(
        "(B,1) broadcast silently",
        PEARSON,
        "refusal",
        wrapped(PEARSON, lambda a, b, *eps: (*torch.broadcast_tensors(a, b), *eps)),
        production(PEARSON),
    ),
    Fault(
        "negative eps accepted",
        PEARSON,
        "refusal",
        wrapped(PEARSON, lambda a, b, eps=1e-8: (a, b, abs(eps))),
        production(PEARSON),
    ),
    Fault(
        "complex data refused with a RuntimeError",
        PEARSON,
        "refusal",
        caught(PEARSON, TypeError, lambda e: RuntimeError(str(e))),
        production(PEARSON),
    ),
    Fault(
        "replicates concatenated in another order",
        WRAPPER,
        "value",
        _concatenated(("r2", "r1")),
        _concatenated(),
    ),
    Fault("correlations of the replicates averaged", WRAPPER, "value", lambda: _averaged, _concatenated()),
    Fault(
        "columns broadcast against rows",
        WRAPPER,
        "value",
        lambda: _rows,
        _concatenated(),
        ("column parameters",),
    ),
    Fault(
        "reads of r2 in reverse",
        WRAPPER,
        "value",
        exact(WRAPPER, batch=with_arrays(_untouched)),
        exact(WRAPPER),
    ),
    Fault(
        "eps doubled",
        WRAPPER,
        "value",
        exact(WRAPPER, batch=with_option("eps", lambda e: 2 * e)),
        exact(WRAPPER),
        examples=16,
    ),
)
