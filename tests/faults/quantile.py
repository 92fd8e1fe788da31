"""Faults in the distance between counts on the scale of their distributions, and in its wrapper."""

# ruff: noqa: ARG002 - a method that is replaced may use less than the right one

import numpy as np
import torch

import torchimpl
from refimpl import negative_binomial as oracles
from tests.faults.base import (
    Fault,
    exact,
    kind,
    on_gradient,
    production,
    reduced,
    replicate_changed,
    with_arrays,
    with_default,
    with_one,
    with_option,
    wrapped,
)

LOSS, WRAPPER = "quantile_absolute_loss", "quantile_absolute_loss_wrapper"
R1, R2 = "model_outputs.r1", "model_outputs.r2"


class Quantile:
    """|F(y1) - F(y2)|, between tails where both are near 1."""

    def __call__(self, model_r1, model_r2, y_r1, y_r2, *, reduction="mean"):
        first, second = (y_r1, model_r1["mu"], model_r1["r"]), (y_r2, model_r2["mu"], model_r2["r"])
        wide = [[part.double() for part in side] for side in (first, second)]
        rows = self.distance(*(torchimpl.negative_binomial_cdf(*side) for side in wide),
                             *(torchimpl.negative_binomial_sf(*side) for side in wide))  # fmt: skip
        return self.reduced(rows, reduction, kind(*first[1:], *second[1:]))

    def distance(self, cdf_1, cdf_2, sf_1, sf_2):
        return self.magnitude(torch.where(cdf_1 + cdf_2 <= 1, cdf_1 - cdf_2, sf_2 - sf_1))

    def magnitude(self, difference):
        return difference.abs()

    def reduced(self, rows, reduction, dtype):
        return reduced(rows, reduction, dtype)


class Signed(Quantile):
    def magnitude(self, difference):
        return difference


class Squared(Quantile):
    def magnitude(self, difference):
        return difference.square()


class RootOfSquare(Quantile):
    """The derivative of a root at 0 is infinite."""

    def magnitude(self, difference):
        return difference.square().sqrt()


class Smoothed(Quantile):
    def magnitude(self, difference):
        return (difference.square() + 1e-8).sqrt()


class WithoutTails(Quantile):
    def distance(self, cdf_1, cdf_2, sf_1, sf_2):
        return self.magnitude(cdf_1 - cdf_2)


class RoundedTails(Quantile):
    def distance(self, cdf_1, cdf_2, sf_1, sf_2):
        return super().distance(cdf_1, cdf_2, 1 - cdf_1, 1 - cdf_2)


class ElementsAveraged(Quantile):
    def reduced(self, rows, reduction, dtype):
        value = super().reduced(rows, reduction, dtype)
        return value.mean() if reduction == "none" else value


class OneLess(Quantile):
    def reduced(self, rows, reduction, dtype):
        n = rows.numel()
        return super().reduced(rows * (n / max(n - 1, 1)) if reduction == "mean" else rows, reduction, dtype)


class HalfRows(Quantile):
    def reduced(self, rows, reduction, dtype):
        return super().reduced(rows.to(dtype).double(), reduction, dtype)


def one_at_ties(gradients, batch):
    """A derivative of 1 where both sides are equal."""
    y, model = np.asarray(batch.arguments["y_r1"]), batch.arguments["model_r1"]
    slope, _ = oracles.negative_binomial_cdf_gradient(y, model["mu"], model["r"])
    path = "model_r1.mu"
    return {**gradients, path: np.where(gradients[path] == 0, slope, gradients[path])}


def as_many_reads(outputs, batch):
    reads = batch["r2"]["reads"]
    return outputs, replicate_changed(batch, "r2", reads=reads.flip(0))


def columns_shuffled(outputs, batch):
    mu = outputs["r1"]["mu"]
    return replicate_changed(outputs, "r1", mu=mu.flip(0) if mu.dim() == 2 else mu), batch


def counts_of_first(outputs, batch):
    return outputs, {**batch, "r2": batch["r1"]}


FAULTS = (
    Fault(
        "invalid dispersions give a number",
        LOSS,
        "option",
        wrapped(LOSS, after=lambda found: found.nan_to_num() if found.dim() else found),
        production(LOSS),
    ),
    Fault("difference without its magnitude", LOSS, "value", Signed, Quantile),
    Fault("square instead of magnitude", LOSS, "value", Squared, Quantile),
    Fault(
        "root of a square: NaN gradient at ties",
        LOSS,
        "finite",
        RootOfSquare,
        Quantile,
        ("identical replicates",),
    ),
    Fault("magnitude smoothed by 1e-8", LOSS, "value", Smoothed, Quantile),
    Fault("difference of CDFs near 1", LOSS, "value", WithoutTails, Quantile, ("tiny",)),
    Fault("tails as 1 - F", LOSS, "value", RoundedTails, Quantile, ("tiny",)),
    Fault("reduction none reduced", LOSS, "shape", ElementsAveraged, Quantile),
    Fault("mean over n - 1", LOSS, "value", OneLess, Quantile, examples=24),
    Fault(
        "elements rounded to half before the mean", LOSS, "value", HalfRows, Quantile, dtypes=("bfloat16",)
    ),
    Fault(
        "parameters of r1 for both",
        LOSS,
        "value",
        exact(
            LOSS,
            batch=lambda b: with_one("model_r2.mu", "model_r1.mu")(with_one("model_r2.r", "model_r1.r")(b)),
        ),
        exact(LOSS),
    ),
    Fault(
        "mean used as dispersion",
        LOSS,
        "value",
        exact(LOSS, batch=with_one("model_r1.r", "model_r1.mu")),
        exact(LOSS),
    ),
    Fault(
        "counts rounded up",
        LOSS,
        "value",
        exact(LOSS, batch=with_arrays(lambda path, a: a + 1 if path.startswith("y") else a)),
        exact(LOSS),
    ),
    Fault(
        "no gradient in r",
        LOSS,
        "gradient",
        exact(LOSS, gradient=on_gradient(lambda path, g: g * path.endswith("mu"))),
        exact(LOSS),
    ),
    Fault(
        "sign of the second replicate's gradient",
        LOSS,
        "gradient",
        exact(LOSS, gradient=on_gradient(lambda path, g: -g if path.startswith("model_r2") else g)),
        exact(LOSS),
    ),
    Fault(
        "derivative 1 at ties",
        LOSS,
        "gradient",
        exact(LOSS, gradient=one_at_ties),
        exact(LOSS),
        ("identical replicates",),
    ),
    Fault(
        "counts of (B,1) flattened",
        LOSS,
        "refusal",
        wrapped(LOSS, lambda a, b, y, z: (a, b, y.flatten(), z.flatten())),
        production(LOSS),
    ),
    Fault("default reduction wrong", LOSS, "option", with_default(LOSS, reduction="sum"), production(LOSS)),
    Fault("reads of r2 in reverse", WRAPPER, "value", wrapped(WRAPPER, as_many_reads), production(WRAPPER)),
    Fault(
        "count of replicate 1 for both",
        WRAPPER,
        "value",
        wrapped(WRAPPER, counts_of_first),
        production(WRAPPER),
    ),
    Fault(
        "dispersion of r1 for both",
        WRAPPER,
        "value",
        exact(WRAPPER, batch=with_one(f"{R2}.r", f"{R1}.r")),
        exact(WRAPPER),
    ),
    Fault(
        "columns aligned in the wrong order",
        WRAPPER,
        "value",
        wrapped(WRAPPER, columns_shuffled),
        production(WRAPPER),
        ("column parameters",),
    ),
    Fault(
        "reduction not handed on",
        WRAPPER,
        "value",
        exact(WRAPPER, batch=with_option("reduction", lambda found: "mean" if found == "sum" else found)),
        exact(WRAPPER),
        examples=16,
    ),
    Fault(
        "second replicate detached",
        WRAPPER,
        "gradient",
        exact(WRAPPER, gradient=on_gradient(lambda path, g: g * path.startswith(R1))),
        exact(WRAPPER),
    ),
    Fault(
        "missing replicate replaced by the other",
        WRAPPER,
        "refusal",
        wrapped(WRAPPER, lambda outputs, batch: ({"r2": outputs["r1"], **outputs}, batch)),
        production(WRAPPER),
    ),
)
