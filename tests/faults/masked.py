"""Faults in the masked squared errors."""

# ruff: noqa: ARG002 - a method that is replaced may use less than the right one

from types import SimpleNamespace

import torch

import torchimpl
from tests.faults.base import Fault, caught, kind, production, rounded, with_default, wrapped

PAIRED = ("ordinary", "real spectra")


class Masked:
    """Σ_masked (x_recon - x)² over the divisor, in float64."""

    def __call__(self, x_recon, x, mask, *, reduction="mean"):
        dtype = kind(x_recon, x)
        squares = self.squares(self.wide(x_recon), self.wide(x), mask)
        if reduction == "none":
            return self.elements(squares, dtype)
        return self.scalar(self.total(squares) / self.divisor(mask, reduction), dtype)

    def wide(self, x):
        return x.double()

    def squares(self, a, b, mask):
        return torch.where(mask, a - b, 0.0).square()

    def total(self, squares):
        return squares.sum()

    def divisor(self, mask, reduction):
        counts = {"mean": torch.count_nonzero(mask).clamp(min=1), "batch_mean": max(len(mask), 1), "sum": 1}
        return counts[reduction]

    def elements(self, squares, dtype):
        return rounded(squares, dtype, elementwise=True)

    def scalar(self, value, dtype):
        return rounded(value, dtype, elementwise=False)


class MeanOverAll(Masked):
    def divisor(self, mask, reduction):
        return mask.numel() if reduction == "mean" else super().divisor(mask, reduction)


class MeanOfNone(Masked):
    def divisor(self, mask, reduction):
        return mask.sum() if reduction == "mean" else super().divisor(mask, reduction)


class BatchMeanOverElements(Masked):
    def divisor(self, mask, reduction):
        return mask.numel() if reduction == "batch_mean" else super().divisor(mask, reduction)


class OneLess(Masked):
    def divisor(self, mask, reduction):
        right = super().divisor(mask, reduction)
        return (right - 1).clamp(min=1) if reduction == "mean" else right


class MaskInverted(Masked):
    def squares(self, a, b, mask):
        return super().squares(a, b, ~mask)


class Multiplied(Masked):
    def squares(self, a, b, mask):
        return (a - b).square() * mask


class MaskedAfterTheSquare(Masked):
    def squares(self, a, b, mask):
        return torch.where(mask, (a - b).square(), 0.0)


class Expanded(Masked):
    def squares(self, a, b, mask):
        a, b = torch.where(mask, a.float(), 0.0), torch.where(mask, b.float(), 0.0)
        return (a * a + b * b - 2 * a * b).double()


class SingleInside(Masked):
    def total(self, squares):
        return squares.float().sum().double()


class HalfInside(Masked):
    def wide(self, x):
        return x

    def total(self, squares):
        return squares.sum()


class LastChunkDropped(Masked):
    def total(self, squares):
        flat, size = squares.flatten(), 64
        whole = max(len(flat) // size, 1)
        return sum(flat[k * size : (k + 1) * size].sum() for k in range(whole))


class Overflows(Masked):
    def scalar(self, value, dtype):
        return value.to(torch.float32 if dtype.itemsize == 2 else dtype)


class ClampKillsTheGradient(Masked):
    def scalar(self, value, dtype):
        wide = torch.float32 if dtype.itemsize == 2 else dtype
        return value.clamp(max=torch.finfo(wide).max).to(wide)


class HalfScalar(Masked):
    def scalar(self, value, dtype):
        return super().scalar(value, dtype).to(dtype)


class WideElements(Masked):
    def elements(self, squares, dtype):
        return super().scalar(squares, dtype)


class ElementsSummed(Masked):
    def elements(self, squares, dtype):
        return super().elements(squares, dtype).sum()


class TargetDetached(Masked):
    def squares(self, a, b, mask):
        return super().squares(a, b.detach(), mask)


class ThroughSingle(Masked):
    def wide(self, x):
        return x.double() if x.is_floating_point() else x.float().double()


class Indexed(Masked):
    def total(self, squares):
        return squares[squares != 0].sum()


class Item(Masked):
    def divisor(self, mask, reduction):
        return max(mask.sum().item(), 1) if reduction == "mean" else super().divisor(mask, reduction)


class Viewed(Masked):
    def squares(self, a, b, mask):
        return super().squares(a.view(-1).view(a.shape), b, mask)


class _Square(torch.autograd.Function):
    """A square; the derivative is made by `slope`."""

    @staticmethod
    def forward(ctx, e, slope):
        ctx.save_for_backward(e)
        ctx.slope = slope
        return e.square()

    @staticmethod
    def backward(ctx, cotangent):
        return ctx.slope(*ctx.saved_tensors, cotangent), None


class ByHand(Masked):
    """The derivative of the square by hand."""

    def squares(self, a, b, mask):
        return _Square.apply(torch.where(mask, a - b, 0.0), self.slope)

    def slope(self, e, cotangent):
        return 2 * e * cotangent


class _One(torch.autograd.Function):
    """The identity, with the derivative 1 whatever comes in."""

    @staticmethod
    def forward(_ctx, value):
        return value.clone()

    @staticmethod
    def backward(_ctx, cotangent):
        return torch.ones_like(cotangent)


class CotangentIgnored(Masked):
    def scalar(self, value, dtype):
        return _One.apply(super().scalar(value, dtype))


class CotangentAbs(ByHand):
    def slope(self, e, cotangent):
        return 2 * e * cotangent.abs()


class OnceDifferentiable(ByHand):
    def slope(self, e, cotangent):
        return 2 * e.detach() * cotangent


class WhereGradientAlwaysUsed(ByHand):
    def squares(self, a, b, mask):
        e = torch.where(mask, a - b, 0.0)
        # eager gradients: both inputs must require one
        if a.requires_grad or b.requires_grad:
            torch.autograd.grad(e.sum(), (a, b), retain_graph=True)
        return super().squares(a, b, mask)


class SavedOnSelf(ByHand):
    """Keeps what the backward pass needs where the next forward pass overwrites it."""

    def squares(self, a, b, mask):
        self.e = torch.where(mask, a - b, 0.0)
        return super().squares(a, b, mask)

    def slope(self, e, cotangent):
        same = self.e.shape == e.shape
        return 2 * (self.e if same else e) * cotangent


class CountCached(Masked):
    """Divides by the largest count it has seen."""

    most = 1

    def divisor(self, mask, reduction):
        self.most += 1
        return super().divisor(mask, reduction) * (1 + self.most / 2**20)


class Noisy(Masked):
    def squares(self, a, b, mask):
        return super().squares(a, b, mask) * (1 + 1e-7 * torch.rand((), dtype=torch.float64))


class WritesZeros(Masked):
    def squares(self, a, b, mask):
        return super().squares(a, b, mask)

    def __call__(self, x_recon, x, mask, *, reduction="mean"):
        with torch.no_grad():
            x.masked_fill_(~mask, 0)
        return super().__call__(x_recon, x, mask, reduction=reduction)


class ByMatmul(Masked):
    def total(self, squares):
        flat = squares.float().reshape(1, -1).sqrt()
        return (flat @ flat.T).reshape(())

    def scalar(self, value, dtype):
        return value


class RightMatmul(Masked):
    def scalar(self, value, dtype):
        return value.to(dtype)


def _modules(drop):
    class Module(torch.nn.Module):
        def __init__(self, *, reduction="mean"):
            super().__init__()
            self.reduction = "mean" if drop else reduction

        def forward(self, x_recon, x, mask):
            return torchimpl.masked_mse(x_recon, x, mask, reduction=self.reduction)

    return lambda: SimpleNamespace(masked_mse=torchimpl.masked_mse, MaskedMSE=Module)


MSE, SSE = "masked_mse", "masked_sse"
HALF, DOUBLE = ("float16",), ("float64",)
FAULTS = (
    Fault(
        "NaN of the target hidden",
        MSE,
        "option",
        wrapped(MSE, lambda a, b, m: (a, b.nan_to_num() if b.is_floating_point() else b, m)),
        production(MSE),
    ),
    Fault("mean over all elements instead of the masked ones", MSE, "value", MeanOverAll, Masked),
    Fault("mean of an empty mask divides by 0", MSE, "finite", MeanOfNone, Masked, ("empty mask",)),
    Fault("divides by the number masked minus one", MSE, "value", OneLess, Masked),
    Fault("batch mean divides by B L", SSE, "value", BatchMeanOverElements, Masked),
    Fault("mask inverted", SSE, "value", MaskInverted, Masked),
    Fault("mask multiplied: 0 * NaN", MSE, "finite", Multiplied, Masked, ("NaN under the mask",)),
    Fault("mask multiplied: 0 * inf", MSE, "inert", Multiplied, Masked),
    Fault(
        "NaN leaks under the mask in the gradient only",
        SSE,
        "finite",
        MaskedAfterTheSquare,
        Masked,
        ("NaN under the mask",),
    ),
    Fault("x² + y² - 2xy in float32", MSE, "value", Expanded, Masked, ("common offset",)),
    Fault("float32 accumulation in the float64 path", MSE, "value", SingleInside, Masked, dtypes=DOUBLE),
    Fault("half accumulation", SSE, "value", HalfInside, Masked, PAIRED, HALF),
    Fault("last chunk dropped", MSE, "gradient", LastChunkDropped, Masked, ("real spectra",)),
    Fault("saturation missing", SSE, "finite", Overflows, Masked, ("huge",)),
    Fault("saturation kills the gradient", SSE, "gradient", ClampKillsTheGradient, Masked, ("huge",)),
    Fault("scalar of half inputs in half", MSE, "dtype", HalfScalar, Masked, dtypes=HALF),
    Fault("elements of half inputs in float32", MSE, "dtype", WideElements, Masked, dtypes=HALF),
    Fault("reduction none reduced", SSE, "shape", ElementsSummed, Masked),
    Fault("target detached", MSE, "graph", TargetDetached, Masked),
    Fault(
        "integer targets through float32", MSE, "value", ThroughSingle, Masked, ("integer targets",), DOUBLE
    ),
    Fault("boolean indexing in the hot path", SSE, "sync", Indexed, Masked),
    Fault(".item() in the hot path", MSE, "sync", Item, Masked),
    Fault("boolean indexing breaks vmap", MSE, "vmap", Indexed, Masked),
    Fault("view of a tensor that is not contiguous", MSE, "layout", Viewed, Masked),
    Fault("backward ignores the incoming gradient", SSE, "cotangent", CotangentIgnored, Masked, examples=16),
    Fault(
        "backward takes the incoming gradient's magnitude",
        MSE,
        "cotangent",
        CotangentAbs,
        ByHand,
        examples=16,
    ),
    Fault("second derivative detached", MSE, "second derivative", OnceDifferentiable, ByHand, dtypes=DOUBLE),
    Fault(
        "crashes where one input needs no gradient",
        MSE,
        "partial",
        WhereGradientAlwaysUsed,
        ByHand,
        examples=16,
    ),
    Fault(
        "state of the forward pass kept on the object", MSE, "two forwards", SavedOnSelf, ByHand, examples=16
    ),
    Fault("result drifts with the number of calls", MSE, "determinism", CountCached, Masked, examples=32),
    Fault("random noise of 1e-7", SSE, "determinism", Noisy, Masked, dtypes=DOUBLE, examples=16),
    Fault("writes zeros into its argument", MSE, "arguments", WritesZeros, Masked),
    Fault("matmul runs in bfloat16 under autocast", MSE, "autocast", ByMatmul, RightMatmul, examples=16),
    Fault("module drops the reduction", MSE, "module", _modules(True), _modules(False)),
    Fault("default reduction wrong", SSE, "option", with_default(SSE, reduction="mean"), production(SSE)),
    Fault(
        "integer mask accepted",
        MSE,
        "refusal",
        wrapped(MSE, lambda a, b, m: (a, b, m.bool())),
        production(MSE),
    ),
    Fault("(B,1) broadcast silently", SSE, "refusal", wrapped(SSE, torch.broadcast_tensors), production(SSE)),
    Fault(
        "message without the shapes",
        MSE,
        "refusal",
        caught(MSE, ValueError, lambda _: ValueError("shapes differ")),
        production(MSE),
    ),
    Fault(
        "assertion instead of a ValueError",
        SSE,
        "refusal",
        caught(SSE, ValueError, lambda e: AssertionError(str(e))),
        production(SSE),
    ),
)
