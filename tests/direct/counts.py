"""The losses built on the negative binomial."""

import functools

import numpy as np

from tests.direct.formats import rounded, scalar, working
from tests.direct.negative_binomial import distribution, log_mass
from tests.direct.quadratic import nested


@functools.lru_cache(maxsize=8)
def _computed(function, kind, *parts):
    return function(*(np.frombuffer(part, kind) for part in parts))


def _elements(function, replicate, kind):
    """`distribution` or `log_mass` of (y, mu, r): the same numbers for every order of summation."""
    return _computed(function, kind, *(part.tobytes() for part in _flat(*replicate, kind)))


def _flat(y, mu, r, kind):
    """Counts, means and dispersions as flat arrays of the working dtype."""
    y = np.asarray(y)
    parts = (np.broadcast_to(np.ravel(part), (y.size,)) for part in (mu, r))
    return (np.asarray(y, np.float64).ravel().astype(kind), *(part.astype(kind) for part in parts))


def _summed(part, parameter, form, total):
    part = total(part, -1) if np.ndim(parameter) == 0 and part.ndim else part
    return rounded(np.asarray(part).reshape(np.shape(parameter)), form, saturates=False)


def _elementwise(batch, total, *, survival):
    y, mu, r = (batch.arguments[name] for name in ("y", "mu", "r"))
    F, S, slope_mu, slope_r = _elements(distribution, (y, mu, r), working(batch.form))
    sign = -1 if survival else 1
    value = rounded((S if survival else F).reshape(np.shape(y)), batch.form, saturates=True)
    gradient = {
        "mu": _summed(sign * slope_mu, mu, batch.form, total),
        "r": _summed(sign * slope_r, r, batch.form, total),
    }
    return value, gradient


def cdf(batch, total):
    """`negative_binomial_cdf`."""
    return _elementwise(batch, total, survival=False)


def sf(batch, total):
    """`negative_binomial_sf`."""
    return _elementwise(batch, total, survival=True)


def log_prob(batch, total):
    """`negative_binomial_log_prob`."""
    y, mu, r = (batch.arguments[name] for name in ("y", "mu", "r"))
    value, slope_mu, exponent, slope_r = _elements(log_mass, (y, mu, r), working(batch.form))
    impossible = np.ravel(y) < 0
    value = np.where(impossible, -np.inf, value).reshape(np.shape(y))
    slope_mu, slope_r = (np.where(impossible, 0, part) for part in (np.ldexp(slope_mu, exponent), slope_r))
    gradient = {
        "mu": _summed(slope_mu, mu, batch.form, total),
        "r": _summed(slope_r, r, batch.form, total),
    }
    return rounded(value, batch.form, saturates=True), gradient


def numeric_cdf(batch, total):
    """`compute_numeric_cdf` of a Poisson, or of a negative binomial with the mean total p / (1 - p)."""
    kind, form = working(batch.form), batch.form
    y, parameters = batch.arguments["y"], batch.arguments["parameters"]
    shape = np.shape(y)
    if "rate" in parameters:
        F, _, slope, _ = _elements(distribution, (y, parameters["rate"], np.inf), kind)
        gradient = {"parameters.rate": _summed(slope, parameters["rate"], form, total)}
        return rounded(F.reshape(shape), form, saturates=True), gradient
    count, probability = (np.asarray(parameters[name]).astype(kind) for name in ("total_count", "probs"))
    F, _, _, _ = _elements(distribution, (y, count * probability / (1 - probability), count), kind)
    return rounded(F.reshape(shape), form, saturates=True), {}


def _quantile(replicates, reduction, form, total):
    """Value, and {"mu", "r"} of both replicates in the working precision; replicates are (y, mu, r)."""
    kind = working(form)
    (F1, S1, *slopes1), (F2, S2, *slopes2) = (
        _elements(distribution, replicate, kind) for replicate in replicates
    )
    gap = np.where(F1 + F2 <= 1, F1 - F2, S2 - S1)
    shape = np.shape(replicates[0][0])
    divisor = kind(max(gap.size, 1) if reduction == "mean" else 1)
    if reduction == "none":
        value = rounded(np.abs(gap).reshape(shape), form, saturates=True)
    else:
        value = scalar(total(np.abs(gap), -1) / divisor, form)
    weight = np.sign(gap) / divisor
    gradients = [
        {key: sign * weight * slope for key, slope in zip(("mu", "r"), slopes, strict=True)}
        for sign, slopes in ((1, slopes1), (-1, slopes2))
    ]
    return value, gradients


def quantile(batch, total):
    """`quantile_absolute_loss`."""
    names = ("model_r1", "model_r2")
    models = [batch.arguments[name] for name in names]
    counts = (batch.arguments["y_r1"], batch.arguments["y_r2"])
    replicates = [(y, model["mu"], model["r"]) for y, model in zip(counts, models, strict=True)]
    value, gradients = _quantile(replicates, batch.options["reduction"], batch.form, total)
    found = {
        f"{name}.{key}": _summed(part, model[key], batch.form, total)
        for name, model, gradient in zip(names, models, gradients, strict=True)
        for key, part in gradient.items()
    }
    return value, found


def _replicates(batch):
    outputs, reads = batch.arguments["model_outputs"], batch.arguments["batch"]
    return [(reads[name]["reads"], outputs[name]["mu"], outputs[name]["r"]) for name in ("r1", "r2")]


def quantile_wrapper(batch, total):
    """`quantile_absolute_loss_wrapper`."""
    value, gradients = _quantile(_replicates(batch), batch.options["reduction"], batch.form, total)
    return value, nested(batch, dict(zip(("r1", "r2"), gradients, strict=True)), total)


def likelihood(batch, total):
    """`nll_loss` of two replicates: the mean of both."""
    kind, form, reduction = working(batch.form), batch.form, batch.options["reduction"]
    replicates = _replicates(batch)
    shape = np.shape(replicates[0][0])
    found = [_elements(log_mass, replicate, kind) for replicate in replicates]
    divisor = kind(max(found[0][0].size, 1) if reduction == "mean" else 1)
    if reduction == "none":
        value = rounded(((-found[0][0] - found[1][0]) / 2).reshape(shape), form, saturates=True)
    else:
        first, second = (-total(part[0], -1) / divisor for part in found)
        value = scalar((first + second) / 2, form)
    weight = 1 / (2 * divisor)
    gradients = {
        name: {"mu": np.ldexp(-weight * part[1], part[2]), "r": -weight * part[3]}
        for name, part in zip(("r1", "r2"), found, strict=True)
    }
    return value, nested(batch, gradients, total)
