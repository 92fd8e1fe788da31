"""Weak losses of counts: the negative binomial written with `lgamma`, tables and casts."""

import torch

from tests.weak import Weakness
from tests.weak.pairs import reduced, rounded
from torchimpl import negative_binomial_cdf as right_cdf
from torchimpl import negative_binomial_sf as right_sf


def log_pmf(k, mu, r):
    """The textbook form; exact enough for ordinary parameters in float32."""
    k, mu, r = k.double(), mu.double(), r.double()
    tail = torch.lgamma(k + r) - torch.lgamma(r) - torch.lgamma(k + 1)
    return tail + r * torch.log(r / (r + mu)) + k * torch.log(mu / (r + mu))


def table(length, pmf=log_pmf):
    """The CDF as a sum over a table."""

    def negative_binomial_cdf(y, mu, r):
        terms = pmf(torch.arange(length), mu[:, None], r[:, None]).exp()
        below = torch.arange(length) <= y.double()[:, None].floor()
        return torch.where(below, terms, 0.0).sum(1).clamp(max=1.0).to(mu.dtype)

    return negative_binomial_cdf


def changed(y=lambda y: y, mu=lambda mu: mu, r=lambda r: r, result=lambda f, _: f, cdf=right_cdf):
    """A right CDF given something else."""

    def negative_binomial_cdf(counts, mean, size):
        return result(cdf(y(counts), mu(mean), r(size)), counts)

    return negative_binomial_cdf


def complement(y, mu, r):
    return 1.0 - right_cdf(y, mu, r)


def flushed(x):
    return torch.where(x < torch.finfo(x.dtype).tiny, 0.0, x)


def largest_first(y, mu, r):
    return right_cdf(y, mu, r) + 0.0 * y.max()


def integer_buffer(y, mu, r):
    found = right_cdf(y, mu, r)
    return found.to(y.dtype).to(found.dtype) if not y.is_floating_point() else found


def first_rows(y, mu, r):
    found = right_cdf(y, mu, r)
    return torch.cat([found[:6], torch.zeros_like(found[6:])])


def half_sum(y, mu, r):
    """The sum y + r in the input's dtype has no room in float16."""
    return right_cdf((y + r - r), mu, r)


def root_of_square(model_r1, model_r2, y_r1, y_r2, *, reduction="mean"):
    one, two = (right_cdf(y, m["mu"], m["r"]).double() for y, m in ((y_r1, model_r1), (y_r2, model_r2)))
    return rounded(reduced((one - two).square().sqrt(), None, reduction), model_r1["mu"], reduction)


def unaligned(outputs, batch, *, reduction="mean"):
    one, two = (batch[side]["reads"].double() - outputs[side]["mu"].double() for side in ("r1", "r2"))
    rows = (one - batch["metadata"]["sd_ratio"].double() * two).square()
    return rounded(reduced(rows, None, reduction), outputs["r1"]["mu"], reduction)


def always_poisson(dist, x):
    mean = dist.mean
    return right_cdf(x, mean, torch.full_like(mean, torch.inf))


CDF, SF, NUMERIC = "negative_binomial_cdf", "negative_binomial_sf", "compute_numeric_cdf"
WEAK = (
    Weakness(
        "zeros",
        CDF,
        "float64",
        "y = 0 read from the end of a table",
        changed(y=lambda y: y - (y == 0).to(y.dtype)),
    ),
    Weakness("mu = 0", CDF, "float32", "the logarithm of mu", table(40)),
    Weakness("r to 0", CDF, "float32", "clamps r at 1e-6", changed(r=lambda r: r.clamp(min=1e-6))),
    Weakness("r to inf", CDF, "float64", "differences of lgamma", table(40)),
    Weakness("r = inf", CDF, "float32", "inf - inf", table(40)),
    Weakness("one huge count", CDF, "float32", "a table of 1,000 entries", table(1000)),
    Weakness("heavy tails", CDF, "float32", "a table of 100 entries", table(100)),
    Weakness("tiny", SF, "float64", "1 - F", complement),
    Weakness("subnormal", SF, "float32", "flushes subnormal numbers to 0", changed(mu=flushed, cdf=right_sf)),
    Weakness("half limits", CDF, "float16", "y + r in half precision", half_sum),
    Weakness("integer counts", CDF, "float32", "a buffer of the counts' dtype", integer_buffer),
    Weakness("one element", CDF, "float32", "squeezes its result", changed(result=lambda f, _: f.squeeze())),
    Weakness("empty batch", CDF, "float32", "looks for the largest count", largest_first),
    Weakness("real counts", CDF, "float32", "has room for six rows", first_rows),
    Weakness("fractional counts", CDF, "float32", "rounds to the nearest", changed(y=torch.round)),
    Weakness("infinite count", CDF, "float32", "casts counts to int64", changed(y=lambda y: y.long())),
    Weakness("NaN count", CDF, "float32", "reads NaN as 0", changed(y=torch.nan_to_num)),
    Weakness(
        "identical replicates", "quantile_absolute_loss", "float64", "the root of a square", root_of_square
    ),
    Weakness(
        "column parameters",
        "replicate_concordance_mse_loss",
        "float64",
        "broadcasts (B,) against (B, 1)",
        unaligned,
    ),
    Weakness(
        "negative binomial, ordinary",
        NUMERIC,
        "float32",
        "takes every distribution for a Poisson",
        always_poisson,
    ),
    Weakness(
        "negative binomial, zeros",
        NUMERIC,
        "float32",
        "takes every distribution for a Poisson",
        always_poisson,
    ),
    Weakness(
        "negative binomial, one huge count",
        NUMERIC,
        "float64",
        "takes every distribution for a Poisson",
        always_poisson,
    ),
)
