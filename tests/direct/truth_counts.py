"""The exact answers of the losses built on the negative binomial, and the table of all exact answers.

`TRUTHS` maps a loss to a function of the batch; None for huge counts, for parameters at the ends of the range
and for edges without mass, which are judged by the oracle alone.
"""

from collections.abc import Callable
from fractions import Fraction

import mpmath
import numpy as np

from tests.direct import truth
from tests.direct.truth import Truth, exact, nested, reduced, replicates_of
from tests.test_oracles_negative_binomial import (
    exact_gradients,
    exact_log_mass,
    exact_tails,
    working_bits,
)

LARGEST_COUNT = 80


def _points(y, mu, r):
    """(k, mu, r) of every element; None where one is out of reach."""
    y = np.asarray(y, np.float64)
    mu, r = (np.broadcast_to(np.ravel(part), (y.size,)) for part in (mu, r))
    k = np.floor(y.ravel())
    reach = (k >= 0) & (k <= LARGEST_COUNT) & (mu > 0) & (mu < 1e6) & (mu > 1e-12) & (r > 1e-12) & (r < 1e12)
    return [(int(a), float(b), float(c)) for a, b, c in zip(k, mu, r, strict=True)] if reach.all() else None


def _distribution(points):
    """(F, dF/dmu, dF/dr) of every point; S = 1 - F is exact in rationals."""
    found = []
    for k, mu, r in points:
        with mpmath.workprec(working_bits(mu, r)):
            F, _, _ = exact_tails(k, mu, r)
            found.append(tuple(map(exact, (F, *exact_gradients(k, mu, r)))))
    return found


def _log_masses(points):
    """(log p, d log p/dmu, d log p/dr) of every point."""
    found = []
    for k, mu, r in points:
        with mpmath.workprec(working_bits(mu, r)):
            found.append(tuple(map(exact, exact_log_mass(k, mu, r))))
    return found


def _tails(y, mu, r, survival, names):
    points = _points(y, mu, r)
    if points is None or any(np.ndim(part) == 0 for part in (mu, r)):
        return None
    rows = _distribution(points)
    sign = -1 if survival else 1
    value = [1 - row[0] if survival else row[0] for row in rows]
    return Truth(value, {name: [sign * row[i + 1] for row in rows] for i, name in enumerate(names)})


def cdf(batch):
    return _tails(*batch.arguments.values(), False, ("mu", "r"))


def sf(batch):
    return _tails(*batch.arguments.values(), True, ("mu", "r"))


def log_prob(batch):
    points = _points(*batch.arguments.values())
    if points is None or any(np.ndim(batch.arguments[name]) == 0 for name in ("mu", "r")):
        return None
    rows = _log_masses(points)
    value, mean, size = ([row[i] for row in rows] for i in range(3))
    return Truth(value, {"mu": mean, "r": size})


def numeric_cdf(batch):
    parameters = batch.arguments["parameters"]
    if "rate" in parameters:
        points = _points(batch.arguments["y"], parameters["rate"], 1.0)
        if points is None:
            return None
        value, slope = [], []
        for k, mu, _ in points:
            with mpmath.workprec(working_bits(mu, 1.0)):
                terms = [mpmath.mpf(mu) ** j / mpmath.factorial(j) for j in range(k + 1)]
                value.append(exact(mpmath.exp(-mpmath.mpf(mu)) * mpmath.fsum(terms)))
                slope.append(exact(-mpmath.exp(-mpmath.mpf(mu)) * terms[k]))
        return Truth(value, {"parameters.rate": slope})
    count, probability = parameters["total_count"], parameters["probs"]
    return _tails(batch.arguments["y"], count * probability / (1 - probability), count, False, ())


def _quantile(replicates, reduction, names):
    points = [_points(*replicate) for replicate in replicates]
    if None in points:
        return None
    first, second = map(_distribution, points)
    gaps = [a[0] - b[0] for a, b in zip(first, second, strict=True)]
    signs = [(g > 0) - (g < 0) for g in gaps]
    divisor = max(len(gaps), 1) if reduction == "mean" else 1
    gradients = {
        f"{name}.{key}": [side * s * row[i] / divisor for s, row in zip(signs, rows, strict=True)]
        for name, rows, side in zip(names, (first, second), (1, -1), strict=True)
        for i, key in ((1, "mu"), (2, "r"))
    }
    return Truth(reduced([abs(g) for g in gaps], reduction), gradients)


def quantile(batch):
    names = ("model_r1", "model_r2")
    counts = (batch.arguments["y_r1"], batch.arguments["y_r2"])
    models = [batch.arguments[name] for name in names]
    replicates = [(y, model["mu"], model["r"]) for y, model in zip(counts, models, strict=True)]
    return _quantile(replicates, batch.options["reduction"], names)


def quantile_wrapper(batch):
    replicates = replicates_of(batch)
    names = ("model_outputs.r1", "model_outputs.r2")
    return replicates and _quantile(replicates, batch.options["reduction"], names)


def likelihood(batch):
    replicates = replicates_of(batch)
    points = [_points(*replicate) for replicate in replicates or ()]
    if not points or None in points:
        return None
    rows = [_log_masses(side) for side in points]
    reduction = batch.options["reduction"]
    values = [-(a[0] + b[0]) / 2 for a, b in zip(*rows, strict=True)]
    share = Fraction(-1, 2 * (max(len(values), 1) if reduction == "mean" else 1))
    mean, size = ([[share * row[i] for row in side] for side in rows] for i in (1, 2))
    gradients = nested(*mean, dict(zip(("r1", "r2"), size, strict=True)))
    return Truth(reduced(values, reduction), gradients)


TRUTHS: dict[str, Callable] = {
    "masked_sse": truth.masked,
    "masked_mse": truth.masked,
    "concordance_loss_nce": truth.concordance,
    "negative_pearson_loss": truth.pearson,
    "quantile_absolute_loss": quantile,
    "negative_binomial_cdf": cdf,
    "negative_binomial_sf": sf,
    "negative_binomial_log_prob": log_prob,
    "compute_numeric_cdf": numeric_cdf,
    "nll_loss": likelihood,
    "compute_residual_mse": truth.residual,
    "replicate_concordance_mse_loss": truth.residual_wrapper,
    "concordance_loss_nce_wrapper": truth.concordance_wrapper,
    "negative_pearson_loss_wrapper": truth.pearson_wrapper,
    "quantile_absolute_loss_wrapper": quantile_wrapper,
    "CompositeLoss": truth.composite,
}
