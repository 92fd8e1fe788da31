"""Faults in the negative log likelihood."""

import functools

import torch

import torchimpl
from tests.faults.base import (
    Fault,
    caught,
    exact,
    kind,
    on_gradient,
    pair,
    production,
    reduced,
    with_default,
    with_one,
    wrapped,
)

NLL = "nll_loss"


class Likelihood:
    """-log pmf of both replicates, averaged, in float64."""

    def __call__(self, model_outputs, batch, *, reduction="mean"):
        (mu1, mu2), (r1, r2), (y1, y2) = (
            pair(model_outputs, "mu"),
            pair(model_outputs, "r"),
            pair(batch, "reads"),
        )
        sides = ((y1, mu1, r1), (y2, mu2, r2))
        first, second = (self.rows(y, self.like(mu, y), self.like(r, y)) for y, mu, r in sides)
        return self.reduced(self.both(first, second), reduction, kind(mu1, mu2, r1, r2))

    def like(self, parameter, y):
        return parameter.double().reshape(y.shape)

    def rows(self, y, mu, r):
        y = y.double()
        ways = torch.lgamma(y + r) - torch.lgamma(r) - self.factorial(y)
        return -(ways + r * self.log(r / (r + mu)) + torch.xlogy(y, self.clamped(mu / (r + mu))))

    def factorial(self, y):
        return torch.lgamma(y + 1)

    def log(self, p):
        return torch.log(p)

    def clamped(self, p):
        return p

    def both(self, first, second):
        return (first + second) / 2

    def reduced(self, rows, reduction, dtype):
        return reduced(rows, reduction, dtype)


class SwappedProbs(Likelihood):
    def rows(self, y, mu, r):
        return super().rows(y, r * r / mu, r)


class FactorialDropped(Likelihood):
    def factorial(self, y):
        return 0 * y


class FactorialOffByOne(Likelihood):
    def factorial(self, y):
        return torch.lgamma(y + 2)


class EpsInTheLog(Likelihood):
    def clamped(self, p):
        return p + 1e-8


class ClampKillsTheGradient(Likelihood):
    def clamped(self, p):
        return p.clamp(min=1e-3)


class OneSide(Likelihood):
    def both(self, first, second):
        return first + 0 * second


class Summed(Likelihood):
    def both(self, first, second):
        return first + second


class PositiveSign(Likelihood):
    def rows(self, y, mu, r):
        return -super().rows(y, mu, r)


class Gaussian(Likelihood):
    def rows(self, y, mu, r):
        return (y - mu).square() / (mu + mu * mu / r) / 2


class SumOverAll(Likelihood):
    def reduced(self, rows, reduction, dtype):
        return reduced(rows, "sum" if reduction == "mean" else reduction, dtype)


def broadcast_columns():
    right = torchimpl.nll_loss

    def side(outputs, batch):
        mu, r, reads = torch.broadcast_tensors(outputs["mu"], outputs["r"], batch["reads"])
        return {"mu": mu.reshape(-1), "r": r.reshape(-1)}, {"reads": reads.reshape(-1)}

    @functools.wraps(right)
    def wrong(model_outputs, batch, **options):
        if "r1" not in model_outputs:
            return right(*side(model_outputs, batch), **options)
        sides = {name: side(outputs, batch[name]) for name, outputs in model_outputs.items()}
        return right(*({name: both[place] for name, both in sides.items()} for place in (0, 1)), **options)

    return wrong


def half_alone():
    right = torchimpl.nll_loss

    @functools.wraps(right)
    def wrong(model_outputs, *given, **options):
        value = right(model_outputs, *given, **options)
        return value if "r1" in model_outputs else value / 2

    return wrong


class SingleInside(Likelihood):
    def rows(self, y, mu, r):
        return super().rows(y.float(), mu.float().double(), r.float().double())


class SingleGamma(Likelihood):
    def factorial(self, y):
        return torch.lgamma((y + 1).float()).double()


class DispersionDetached(Likelihood):
    def rows(self, y, mu, r):
        return super().rows(y, mu, r.detach())


class Inverted(Likelihood):
    """The dispersion as its inverse, alpha."""

    def rows(self, y, mu, r):
        return super().rows(y, mu, 1 / r)


class PoissonLike(Likelihood):
    def rows(self, y, mu, r):
        return mu - torch.xlogy(y, mu) + self.factorial(y.double()) + 0 * r


class Item(Likelihood):
    def reduced(self, rows, reduction, dtype):
        if not torch.isfinite(rows).all():
            rows = rows.nan_to_num()
        return super().reduced(rows, reduction, dtype)


def _without_nan(outputs, batch):
    def known(side):
        return {**side, "reads": side["reads"].nan_to_num()} if "reads" in side else side

    return outputs, known(batch) if "reads" in batch else {name: known(side) for name, side in batch.items()}


FAULTS = (
    Fault(
        "invalid dispersions give a number",
        NLL,
        "option",
        wrapped(NLL, after=lambda found: found.nan_to_num() if found.dim() else found),
        production(NLL),
    ),
    Fault("NaN reads taken for 0", NLL, "option", wrapped(NLL, _without_nan), production(NLL)),
    Fault("probs = r / (r + mu): swapped", NLL, "value", SwappedProbs, Likelihood),
    Fault("log y! dropped", NLL, "value", FactorialDropped, Likelihood),
    Fault("log (y + 1)! instead of log y!", NLL, "value", FactorialOffByOne, Likelihood),
    Fault("log(p + 1e-8)", NLL, "value", EpsInTheLog, Likelihood, dtypes=("float64",)),
    Fault("clamp kills the gradient", NLL, "gradient", ClampKillsTheGradient, Likelihood, ("heavy tails",)),
    Fault("only the first replicate", NLL, "value", OneSide, Likelihood),
    Fault("sum of the replicates instead of their average", NLL, "value", Summed, Likelihood),
    Fault("sign", NLL, "value", PositiveSign, Likelihood),
    Fault("Gaussian of the same variance", NLL, "value", Gaussian, Likelihood),
    Fault("Poisson", NLL, "value", PoissonLike, Likelihood),
    Fault("dispersion inverted", NLL, "value", Inverted, Likelihood),
    Fault("sum instead of mean", NLL, "value", SumOverAll, Likelihood),
    Fault(
        "count of replicate 1 for both",
        NLL,
        "value",
        exact(NLL, batch=with_one("batch.r2.reads", "batch.r1.reads")),
        exact(NLL),
    ),
    Fault(
        "means of the replicates swapped",
        NLL,
        "value",
        wrapped(NLL, lambda outputs, batch: ({"r1": outputs["r2"], "r2": outputs["r1"]}, batch)),
        production(NLL),
    ),
    Fault(
        "lgamma in float32 in the float64 path", NLL, "value", SingleGamma, Likelihood, dtypes=("float64",)
    ),
    Fault("dispersion detached", NLL, "graph", DispersionDetached, Likelihood),
    Fault(
        "gradient of r of the second replicate halved",
        NLL,
        "gradient",
        exact(NLL, gradient=on_gradient(lambda path, g: g / 2 if path.endswith("r2.r") else g)),
        exact(NLL),
    ),
    Fault("looks for NaN on every call", NLL, "sync", Item, Likelihood),
    Fault("columns broadcast against rows", NLL, "option", broadcast_columns, production(NLL)),
    Fault("one replicate alone weighs half", NLL, "option", half_alone, production(NLL)),
    Fault("default reduction wrong", NLL, "option", with_default(NLL, reduction="sum"), production(NLL)),
    Fault(
        "missing key raises AttributeError",
        NLL,
        "refusal",
        caught(NLL, KeyError, lambda e: AttributeError(str(e))),
        production(NLL),
    ),
    Fault(
        "message without the path of the key",
        NLL,
        "refusal",
        caught(NLL, KeyError, lambda _: KeyError("key")),
        production(NLL),
    ),
)
