"""Faults in the negative binomial's distribution function, its tail, and the one for torch's objects."""

import numpy as np
import torch
from torch.distributions import NegativeBinomial, Poisson

import torchimpl
from refimpl import negative_binomial as oracles
from tests.faults.base import (
    Fault,
    caught,
    exact,
    on_gradient,
    once,
    production,
    with_arrays,
    wrapped,
)

CDF, SF, NUMERIC = "negative_binomial_cdf", "negative_binomial_sf", "compute_numeric_cdf"
DOUBLE, NEGATIVE = ("float64",), ("fractional counts",)


def counts(change):
    """Other counts."""
    return with_arrays(lambda path, array: change(array) if path == "y" else array)


def parameters(change):
    """Another mean and dispersion."""

    def changed(batch):
        mu, r = change(batch.arguments["mu"], batch.arguments["r"])
        return batch.with_arguments({**batch.arguments, "mu": np.asarray(mu), "r": np.asarray(r)})

    return changed


def single(value, _):
    return value.astype(np.float32).astype(np.float64)


def through_int32(y):
    return np.where(np.isfinite(y), y, -(2.0**31)) if y.dtype == np.float64 else y


def nan_gradient_at_zero(gradients, batch):
    nowhere = np.where(batch.arguments["mu"] == 0, np.nan, 0.0)
    return {path: gradient + nowhere for path, gradient in gradients.items()}


def no_negative_counts(y):
    return np.maximum(y, 0)


def success(mu, r):
    """The mean that probs = r / (r + mu) stands for."""
    with np.errstate(all="ignore"):
        return np.where(mu > 0, r * r / mu, np.inf).clip(max=1e30), r


def wide(elements):
    return elements.double()


def poisson_beyond(limit):
    return parameters(lambda mu, r: (mu, np.where(r > limit, np.inf, r)))


def first_only(y, mu, r):
    return y, mu, r.detach() if r.requires_grad else r


def constant_detached(y, mu, r):
    return y, mu, r if r.dim() else r.detach()


def at_least_one(y, mu, r):
    return y, mu, torch.where(r > 0, r, 1.0)


def as_int8(y, mu, r):
    return (y if y.is_floating_point() else y.to(torch.int8)), mu, r


def one_more(y, mu, r):
    return y if y.is_floating_point() else (y + 1).double() - 1, mu, r


def expanded(y, mu, r):
    return torch.broadcast_tensors(y, mu, r)


def synced(y, mu, r):
    if (mu < 0).any():
        raise ValueError("mu must be >= 0")
    return y, mu, r


def unseen_nan(y, mu, r):
    return torch.where(y.isnan(), 0, y), mu, r


def same_storage(y, mu, r):
    """Reads the memory of the counts from its beginning."""
    return y.as_strided(y.shape, y.contiguous().stride(), 0), mu, r


def upper(value, _):
    return 1 - value


def tail_from_cdf(_, batch):
    return 1.0 - np.asarray(oracles.negative_binomial_cdf(**batch.arguments))


def sorted_counts(y, mu, r):
    return y.sort().values, mu, r


def in_table(dist, x):
    return dist, x.clamp(max=100)


def swapped_probs(dist, x):
    if isinstance(dist, NegativeBinomial):
        dist = NegativeBinomial(dist.total_count, 1 - dist.probs, validate_args=False)
    return dist, x


def finite_dispersion(dist, x):
    if isinstance(dist, Poisson):
        size = torch.full_like(dist.rate, 1e4)
        dist = NegativeBinomial(size, dist.rate / (dist.rate + size), validate_args=False)
    return dist, x


def detached_rate(dist, x):
    if isinstance(dist, Poisson):
        dist = Poisson(dist.rate.detach(), validate_args=False)
    return dist, x


def one_below(dist, x):
    return dist, x - 1


def any_distribution(dist, x):
    known = isinstance(dist, (Poisson, NegativeBinomial))
    return dist if known else Poisson(dist.mean + 1), x


FAULTS = (
    Fault("0-dim dispersion detached", CDF, "option", wrapped(CDF, constant_detached), production(CDF)),
    Fault("dispersions below 0 raised to 1", SF, "option", wrapped(SF, at_least_one), production(SF)),
    Fault("F and 1 - F swapped", CDF, "value", exact(CDF, value=upper), exact(CDF)),
    Fault("probs = r / (r + mu): swapped", CDF, "value", exact(CDF, batch=parameters(success)), exact(CDF)),
    Fault(
        "mean and dispersion swapped",
        CDF,
        "value",
        exact(CDF, batch=parameters(lambda mu, r: (r, mu))),
        exact(CDF),
    ),
    Fault(
        "counts rounded instead of floored",
        CDF,
        "value",
        exact(CDF, batch=counts(np.rint)),
        exact(CDF),
        NEGATIVE,
    ),
    Fault(
        "negative counts read as 0",
        CDF,
        "value",
        exact(CDF, batch=counts(no_negative_counts)),
        exact(CDF),
        NEGATIVE,
    ),
    Fault(
        "P(Y < y) instead of P(Y <= y)", CDF, "value", exact(CDF, batch=counts(lambda y: y - 1)), exact(CDF)
    ),
    Fault(
        "counts through int32",
        CDF,
        "value",
        exact(CDF, batch=counts(through_int32)),
        exact(CDF),
        ("infinite count",),
    ),
    Fault("NaN count gives a number", CDF, "nan", wrapped(CDF, unseen_nan), production(CDF), ("NaN count",)),
    Fault(
        "NaN gradient at mu = 0",
        CDF,
        "finite",
        exact(CDF, gradient=nan_gradient_at_zero),
        exact(CDF),
        ("mu = 0",),
    ),
    Fault(
        "no gradient at mu = 0",
        CDF,
        "gradient",
        exact(
            CDF,
            gradient=lambda g, b: {
                path: np.where(b.arguments["mu"] == 0, 0, part) for path, part in g.items()
            },
        ),
        exact(CDF),
        ("mu = 0",),
    ),
    Fault(
        "Poisson beyond r = 1e6",
        CDF,
        "value",
        exact(CDF, batch=poisson_beyond(1e6)),
        exact(CDF),
        ("r to inf",),
        DOUBLE,
        16,
    ),
    Fault(
        "derivative in r with the wrong sign",
        CDF,
        "gradient",
        exact(CDF, gradient=on_gradient(lambda path, g: -g if path == "r" else g)),
        exact(CDF),
    ),
    Fault(
        "derivative in r 0",
        CDF,
        "gradient",
        exact(CDF, gradient=on_gradient(lambda path, g: g * (path == "mu"))),
        exact(CDF),
    ),
    Fault(
        "gradients of mu and r swapped",
        CDF,
        "gradient",
        exact(CDF, gradient=lambda g, _: {"mu": g["r"], "r": g["mu"]}),
        exact(CDF),
    ),
    Fault("dispersion detached", CDF, "graph", wrapped(CDF, first_only), production(CDF)),
    Fault(
        "differentiable once",
        CDF,
        "second derivative",
        lambda: _once_differentiable,
        production(CDF),
        dtypes=DOUBLE,
    ),
    Fault(
        "float32 inside the float64 path", CDF, "value", exact(CDF, value=single), exact(CDF), dtypes=DOUBLE
    ),
    Fault("result always float64", CDF, "dtype", wrapped(CDF, after=wide), production(CDF)),
    Fault("counts added in their own narrow type", CDF, "option", wrapped(CDF, one_more), production(CDF)),
    Fault("counts sorted", CDF, "value", wrapped(CDF, sorted_counts), production(CDF)),
    Fault("memory read without its strides", CDF, "layout", wrapped(CDF, same_storage), production(CDF)),
    Fault("looks for negative means on every call", CDF, "sync", wrapped(CDF, synced), production(CDF)),
    Fault("integer counts through int8", CDF, "option", wrapped(CDF, as_int8), production(CDF)),
    Fault("(B,1) broadcast silently", CDF, "refusal", wrapped(CDF, expanded), production(CDF)),
    Fault("validate ignored", CDF, "refusal", wrapped(CDF, validate=False), production(CDF)),
    Fault(
        "message of validate without the index",
        CDF,
        "refusal",
        caught(CDF, ValueError, lambda _: ValueError("invalid")),
        production(CDF),
    ),
    Fault("1 - F cancels", SF, "value", exact(SF, value=tail_from_cdf), exact(SF), ("tiny",)),
    Fault("F instead of 1 - F", SF, "value", exact(SF, value=upper), exact(SF)),
    Fault("P(Y >= y) instead of P(Y > y)", SF, "value", exact(SF, batch=counts(lambda y: y - 1)), exact(SF)),
    Fault(
        "sign of the derivative in mu",
        SF,
        "gradient",
        exact(SF, gradient=on_gradient(lambda path, g: -g if path == "mu" else g)),
        exact(SF),
    ),
    Fault(
        "counts rounded instead of floored",
        SF,
        "value",
        exact(SF, batch=counts(np.rint)),
        exact(SF),
        NEGATIVE,
    ),
    Fault(
        "0-dim dispersion refused",
        SF,
        "option",
        wrapped(SF, lambda y, mu, r: (y, mu, r + 0 * r[0])),
        production(SF),
    ),
    Fault(
        "validate names the wrong argument",
        SF,
        "refusal",
        caught(SF, ValueError, lambda e: ValueError(str(e).replace("mu[", "mean["))),
        production(SF),
    ),
    Fault(
        "table of 100 counts",
        NUMERIC,
        "value",
        wrapped(NUMERIC, in_table),
        production(NUMERIC),
        ("heavy tails",),
    ),
    Fault(
        "probs and 1 - probs swapped",
        NUMERIC,
        "value",
        wrapped(NUMERIC, swapped_probs),
        production(NUMERIC),
        ("negative binomial, ordinary",),
    ),
    Fault(
        "Poisson as a negative binomial of r = 1e4",
        NUMERIC,
        "value",
        wrapped(NUMERIC, finite_dispersion),
        production(NUMERIC),
    ),
    Fault("rate detached", NUMERIC, "graph", wrapped(NUMERIC, detached_rate), production(NUMERIC)),
    Fault(
        "P(Y < x) instead of P(Y <= x)", NUMERIC, "value", wrapped(NUMERIC, one_below), production(NUMERIC)
    ),
    Fault("result always float64", NUMERIC, "dtype", wrapped(NUMERIC, after=wide), production(NUMERIC)),
    Fault(
        "any distribution taken for a Poisson",
        NUMERIC,
        "refusal",
        wrapped(NUMERIC, any_distribution),
        production(NUMERIC),
    ),
)


def _once_differentiable(y, mu, r):
    right = once(lambda: lambda mu, r: torchimpl.negative_binomial_cdf(y, mu, r))
    return right()(mu, r)
