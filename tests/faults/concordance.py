"""Faults in InfoNCE between replicates and in its wrapper."""

# ruff: noqa: ARG002 - a method that is replaced may use less than the right one

import math
from types import SimpleNamespace

import torch

import torchimpl
from tests.faults.base import (
    Fault,
    caught,
    exact,
    kind,
    once,
    pair,
    production,
    reduced,
    replicate_changed,
    with_default,
    with_one,
    with_option,
    wrapped,
)


class Concordance:
    """d_ii/τ + log(ε + Σ_j exp(-d_ij/τ)) in float64, all pairs at once."""

    def __call__(self, res1, res2, tau=0.1, *, eps=1e-8, reduction="mean"):
        x, y = (self.wide(res).reshape(len(res), res[:1].numel()) for res in (res1, res2))
        scaled = self.distances(x, y) / self.temperature(tau)
        return self.reduced(self.rows(scaled, eps), reduction, kind(res1, res2), x)

    def wide(self, res):
        return res.double()

    def temperature(self, tau):
        return tau

    def distances(self, x, y):
        return (x[:, None] - y[None]).square().sum(-1)

    def rows(self, z, eps):
        """log(1 + Σ_others exp(z_ii - z_ij) + ε exp(z_ii)): what is near 0 keeps its digits."""
        own = self.own(z)[:, None]
        floor = own + (math.log(eps) if eps else -math.inf)
        return self.beside_own(self.log_sum(torch.cat([own - self.others(z), floor], 1)))

    def own(self, z):
        return z.diagonal()

    def others(self, z):
        return z.masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), math.inf)

    def log_sum(self, terms):
        return torch.logsumexp(terms, 1)

    def beside_own(self, rows):
        return torch.logaddexp(rows, torch.zeros_like(rows))

    def reduced(self, rows, reduction, dtype, x):
        return reduced(rows, reduction, dtype)


class OtherAxis(Concordance):
    def others(self, z):
        return super().others(z.T)


class NeighbourIsOwn(Concordance):
    def own(self, z):
        return z.diagonal().roll(1)


class EpsIgnored(Concordance):
    def rows(self, z, eps):
        return super().rows(z, 0)


class EpsInTheLog(Concordance):
    def rows(self, z, eps):
        return -torch.log(torch.exp(-self.own(z)) / torch.exp(-z).sum(1) + eps)


class NotInTheLogDomain(Concordance):
    def rows(self, z, eps):
        return -torch.log(torch.exp(-self.own(z)) / (torch.exp(-z).sum(1) + eps))


class TauSquared(Concordance):
    def temperature(self, tau):
        return tau * tau


class TauClamped(Concordance):
    def temperature(self, tau):
        return max(tau, 0.05)


class Euclidean(Concordance):
    def distances(self, x, y):
        return super().distances(x, y).sqrt()


class MeanDistance(Concordance):
    def distances(self, x, y):
        return (x[:, None] - y[None]).square().mean(-1)


class Expanded(Concordance):
    def wide(self, res):
        return res

    def distances(self, x, y):
        return (x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T).double()


class OwnPairLeftOut(Concordance):
    def beside_own(self, rows):
        return rows


class SumForMean(Concordance):
    def reduced(self, rows, reduction, dtype, x):
        return reduced(rows, "sum" if reduction == "mean" else reduction, dtype)


class MeanOverElements(Concordance):
    def reduced(self, rows, reduction, dtype, x):
        rows = rows / max(x.shape[1], 1) if reduction == "mean" else rows
        return reduced(rows, reduction, dtype)


class Symmetric(Concordance):
    def rows(self, z, eps):
        return (super().rows(z, eps) + super().rows(z.T, eps)) / 2


class Blocks(Concordance):
    """The sum over j in blocks of columns."""

    size, overlap = 4, 0

    def log_sum(self, terms):
        count = terms.shape[1]
        blocks = [terms[:, max(k - self.overlap, 0) : k + self.size] for k in range(0, count, self.size)]
        return super().log_sum(torch.stack([super(Blocks, self).log_sum(block) for block in blocks], 1))


class BlocksOverlap(Blocks):
    overlap = 1


def _row_taken_twice(a, b, *tau):
    """The first row behind a block of 1024 is the last row of the block once more."""
    if isinstance(b, torch.Tensor) and b.dim() and len(b) > 1024:
        b = torch.cat([b[:1024], b[1023:1024], b[1025:]])
    return (a, b, *tau)


class SecondDetached(Concordance):
    def distances(self, x, y):
        return super().distances(x, y.detach())


class SingleInside(Concordance):
    def distances(self, x, y):
        return super().distances(x.float(), y.float()).double()


class Sliced(Concordance):
    """Leaves the loop over rows at the first row that is far."""

    def rows(self, z, eps):
        rows = super().rows(z, eps)
        return torch.stack([row if row < 1e3 else row * 1.0 for row in rows]) if len(rows) else rows


def _modules(tau):
    class Module(torch.nn.Module):
        def __init__(self, tau=0.1, *, eps=1e-8, reduction="mean"):
            super().__init__()
            self.options = {"tau": tau, "eps": eps, "reduction": reduction}

        def forward(self, res1, res2):
            return torchimpl.concordance_loss_nce(res1, res2, **{**self.options, **tau})

    return lambda: SimpleNamespace(
        concordance_loss_nce=torchimpl.concordance_loss_nce, ConcordanceLossNCE=Module
    )


def _residuals(loss, wide=torch.Tensor.double):
    """The wrapper around a loss of residuals."""

    def wrapper(model_outputs, batch, *, tau=0.1, eps=1e-8, reduction="mean"):
        (mu1, mu2), (y1, y2) = pair(model_outputs, "mu"), pair(batch, "reads")
        res1, res2 = (wide(y) - wide(mu.reshape(y.shape)) for y, mu in ((y1, mu1), (y2, mu2)))
        value = loss(res1, res2, tau, eps=eps, reduction=reduction)
        dtype = kind(mu1, mu2)
        return value.to(torch.float32 if dtype.itemsize == 2 and reduction != "none" else dtype)

    return lambda: wrapper


def _tau_dropped(res1, res2, tau, **options):
    return Concordance()(res1, res2, 0.1, **options)


def _counts_swapped(outputs, batch):
    return outputs, {"r1": batch["r2"], "r2": batch["r1"]}


def _column(outputs, batch):
    reads = batch["r1"]["reads"]
    columns = reads.dim() == 1 and outputs["r1"]["mu"].dim() == 2
    changed = replicate_changed(outputs, "r1", mu=outputs["r1"]["mu"].flip(0)) if columns else outputs
    return changed, batch


NCE, WRAPPER = "concordance_loss_nce", "concordance_loss_nce_wrapper"
R1, R2 = "model_outputs.r1.mu", "model_outputs.r2.mu"
FAR, DOUBLE = ("far pairs",), ("float64",)
FAULTS = (
    Fault(
        "NaN of the second replicate hidden",
        NCE,
        "option",
        wrapped(NCE, lambda a, b, *tau: (a, b.nan_to_num() if b.is_floating_point() else b, *tau)),
        production(NCE),
    ),
    Fault(
        "second replicate cast to the dtype of the first",
        NCE,
        "option",
        wrapped(NCE, lambda a, b, *tau: (a, b.to(a.dtype), *tau)),
        production(NCE),
    ),
    Fault("sum over the other axis: similarities transposed", NCE, "value", OtherAxis, Concordance),
    Fault("own pair taken from the neighbouring row", NCE, "value", NeighbourIsOwn, Concordance),
    Fault("eps ignored", NCE, "value", EpsIgnored, Concordance),
    Fault("log(s + eps) instead of the sum + eps", NCE, "value", EpsInTheLog, Concordance),
    Fault("far pairs underflow outside the log domain", NCE, "finite", NotInTheLogDomain, Concordance, FAR),
    Fault("tau squared", NCE, "value", TauSquared, Concordance),
    Fault("tau clamped at 0.05", NCE, "value", TauClamped, Concordance, examples=16),
    Fault("distance not squared", NCE, "value", Euclidean, Concordance),
    Fault("mean over features instead of the sum", NCE, "value", MeanDistance, Concordance),
    Fault("x² + y² - 2xy", NCE, "value", Expanded, Concordance, ("common offset",)),
    Fault("own pair left out of the sum", NCE, "value", OwnPairLeftOut, Concordance),
    Fault("sum instead of mean", NCE, "value", SumForMean, Concordance),
    Fault("mean over B D instead of B", NCE, "value", MeanOverElements, Concordance, examples=16),
    Fault("both directions averaged", NCE, "value", Symmetric, Concordance),
    Fault("block boundary off by one", NCE, "value", BlocksOverlap, Blocks, ("real counts",)),
    Fault(
        "boundary of blocks of 1024 off by one",
        NCE,
        "option",
        wrapped(NCE, _row_taken_twice),
        production(NCE),
    ),
    Fault("second replicate detached", NCE, "graph", SecondDetached, Concordance),
    Fault("differentiable once", NCE, "second derivative", once(Concordance), Concordance, dtypes=DOUBLE),
    Fault("float32 distances in the float64 path", NCE, "value", SingleInside, Concordance, dtypes=DOUBLE),
    Fault("branch on the value of a row", NCE, "sync", Sliced, Concordance),
    Fault("branch on a value breaks vmap", NCE, "vmap", Sliced, Concordance),
    Fault("module drops tau", NCE, "module", _modules({"tau": 0.1}), _modules({})),
    Fault("default eps wrong", NCE, "option", with_default(NCE, eps=1e-6), production(NCE)),
    Fault("default tau wrong", NCE, "option", with_default(NCE, tau=0.2), production(NCE)),
    Fault(
        "tau = 0 raised to the smallest number",
        NCE,
        "refusal",
        wrapped(NCE, lambda a, b, tau=0.1: (a, b, tau or 1e-8)),
        production(NCE),
    ),
    Fault(
        "tau = inf accepted",
        NCE,
        "refusal",
        wrapped(NCE, lambda a, b, tau=0.1: (a, b, min(tau, 1e300))),
        production(NCE),
    ),
    Fault(
        "lists accepted for tensors",
        NCE,
        "refusal",
        wrapped(NCE, lambda a, b, *tau: (torch.as_tensor(a), torch.as_tensor(b), *tau)),
        production(NCE),
    ),
    Fault(
        "message about tau does not name it",
        NCE,
        "refusal",
        caught(NCE, ValueError, lambda _: ValueError("out of range")),
        production(NCE),
    ),
    Fault("tau not handed on", WRAPPER, "value", _residuals(_tau_dropped), _residuals(Concordance())),
    Fault("only mu of r1, twice", WRAPPER, "value", exact(WRAPPER, batch=with_one(R2, R1)), exact(WRAPPER)),
    Fault(
        "reads of the replicates swapped",
        WRAPPER,
        "value",
        wrapped(WRAPPER, _counts_swapped),
        production(WRAPPER),
    ),
    Fault(
        "residuals in half precision",
        WRAPPER,
        "value",
        _residuals(Concordance(), lambda x: x),
        _residuals(Concordance()),
        dtypes=("float16",),
    ),
    Fault("eps of the config ignored", WRAPPER, "option", wrapped(WRAPPER, eps=1e-8), production(WRAPPER)),
    Fault(
        "reduction of the config ignored",
        WRAPPER,
        "value",
        exact(WRAPPER, batch=with_option("reduction", lambda found: "mean" if found == "sum" else found)),
        exact(WRAPPER),
    ),
    Fault(
        "columns aligned in the wrong order",
        WRAPPER,
        "value",
        wrapped(WRAPPER, _column),
        production(WRAPPER),
        ("column parameters",),
    ),
    Fault(
        "missing key raises AttributeError",
        WRAPPER,
        "refusal",
        caught(WRAPPER, KeyError, lambda e: AttributeError(str(e))),
        production(WRAPPER),
    ),
    Fault("unknown option swallowed", WRAPPER, "refusal", lambda: _swallowing, production(WRAPPER)),
)


def _swallowing(model_outputs, batch, *, tau=0.1, eps=1e-8, reduction="mean", **_):
    return torchimpl.concordance_loss_nce_wrapper(model_outputs, batch, tau=tau, eps=eps, reduction=reduction)
