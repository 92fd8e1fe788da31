"""Random batches of one to three hundred numbers for every loss, beside those of the catalogue's families."""

import numpy as np

from refimpl.conformance.batch import Batch
from refimpl.conformance.formats import round_to

LARGEST = 300
RANDOM = "random"
KINDS = ("normal", "heavy tails", "offset", "close", "counts")


def _size(rng, largest=LARGEST):
    """Sizes spread evenly in their logarithm."""
    return int(np.exp(rng.uniform(0.0, np.log(largest + 1.0))))


def _sides(rng, form, shape):
    """Two arrays, exactly representable."""
    kind = KINDS[rng.integers(len(KINDS))]
    a, b = rng.normal(size=(2, *shape))
    if kind == "heavy tails":
        a, b = a * 10.0 ** rng.uniform(-3, 3, shape), b * 10.0 ** rng.uniform(-3, 3, shape)
    elif kind == "offset":
        a, b = a + 100.0, b + 100.0
    elif kind == "close":
        b = a + 10.0 ** rng.uniform(-3, 0) * b
    elif kind == "counts":
        a, b = rng.poisson(3.0, shape), rng.gamma(2.0, size=shape)
    return round_to(a, form), round_to(b, form)


def drifting_pair(form):
    """Two uncorrelated sides whose products add up with every rounding in one direction, and then go back.

    192 products of 1/4 + 7/16 ulp lift the sum to 48, where an ulp is 32 eps; 48 products of -1 take it back.
    """
    ulp = 32.0 * 2.0 ** (1 - form.digits)
    sizes = np.concatenate([np.full(192, 0.25 + 7.0 / 16.0 * ulp), np.full(48, -1.0)])
    signs = np.resize([1.0, -1.0], sizes.size)
    return np.r_[0.0, signs], round_to(np.r_[0.0, signs * sizes], form)


def far_pivot_pair(rng, form):
    """Deviations far below their distance from the first element: each is lost in one rounding."""
    count = 2 * int(rng.integers(1, 149))
    signs = np.resize([1.0, -1.0], count)
    small = signs * rng.uniform(0.0, 0.5, count) * 2.0**-form.digits
    return round_to(np.r_[1.0, -1.0, small], form), np.r_[0.0, 0.0, signs]


def _counts(rng, form, count):
    """Counts near their means (half of them) or anywhere, means, dispersions."""
    mu = round_to(10 ** rng.uniform(-2.0, 2.0, count), form)
    r = round_to(10 ** rng.uniform(-2.5, 2.5, count), form)
    typical = rng.gamma(r, mu / r)
    spread = mu * 10 ** rng.uniform(-1.0, 0.7, count)
    y = np.minimum(np.floor(np.where(rng.random(count) < 0.5, typical, spread)), 300.0)
    return round_to(y, form), np.maximum(mu, form.tiny), np.maximum(r, form.tiny)


def _pair(spec, form, rng, names, options):
    if spec.name == "concordance_loss_nce":
        batch, features = _size(rng, 24), int(rng.integers(1, 7))
        if rng.random() < 0.004:
            batch, features = LARGEST, 1
        shape = (batch, features)
        return Batch(RANDOM, form, dict(zip(names, _sides(rng, form, shape), strict=True)), options)
    kind = rng.integers(10)
    sides = _sides(rng, form, (_size(rng),))
    sides = drifting_pair(form) if kind == 0 else far_pivot_pair(rng, form) if kind == 1 else sides
    return Batch(RANDOM, form, dict(zip(names, sides, strict=True)), options)


def _replicates(spec, form, rng, options):
    counted = "nll" in spec.name or "quantile" in spec.name
    count = _size(rng, 40 if "concordance_loss_nce" in spec.name else LARGEST)
    replicates = []
    for _ in range(2):
        y, mu, r = _counts(rng, form, count)
        if not counted and rng.random() < 0.5:
            y, mu = _sides(rng, form, (count,))
        replicates.append((y, mu, r))
    reads = {name: {"reads": part[0]} for name, part in zip(("r1", "r2"), replicates, strict=True)}
    reads["metadata"] = {"sd_ratio": round_to(rng.uniform(0.5, 2.0), form)}
    outputs = {
        name: {"mu": part[1], "r": part[2]} for name, part in zip(("r1", "r2"), replicates, strict=True)
    }
    return Batch(RANDOM, form, {"model_outputs": outputs, "batch": reads}, options)


def _pick(rng, *values):
    return values[rng.integers(len(values))]


def random_batch(spec, form, rng):
    """A batch for the loss with numbers of the format."""
    reduction = {"reduction": _pick(rng, "mean", "sum", "none")}
    match spec.name:
        case "masked_sse" | "masked_mse":
            count = _size(rng)
            x_recon, x = _sides(rng, form, (count, 1))
            shape = (count, 1) if count % 2 else (count // 2, 2)
            mask = rng.random(shape) < rng.choice([0.2, 0.75, 1.0])
            arguments = {"x_recon": x_recon.reshape(shape), "x": x.reshape(shape), "mask": mask}
            return Batch(
                RANDOM, form, arguments, {"reduction": _pick(rng, "mean", "batch_mean", "sum", "none")}
            )
        case "concordance_loss_nce":
            options = {"tau": _pick(rng, 0.1, 1.0, 10.0), "eps": _pick(rng, 1e-8, 0.0, 1.0)} | reduction
            return _pair(spec, form, rng, ("res1", "res2"), options)
        case "negative_pearson_loss":
            return _pair(spec, form, rng, ("preds", "targets"), {"eps": _pick(rng, 1e-8, 0.0, 2.5)})
        case "quantile_absolute_loss":
            first, second = (_counts(rng, form, count) for count in [_size(rng)] * 2)
            models = [{"mu": mu, "r": r} for _, mu, r in (first, second)]
            names = ("model_r1", "model_r2", "y_r1", "y_r2")
            arguments = dict(zip(names, (*models, first[0], second[0]), strict=True))
            return Batch(RANDOM, form, arguments, reduction)
        case "negative_binomial_cdf" | "negative_binomial_sf" | "negative_binomial_log_prob":
            arguments = dict(zip(("y", "mu", "r"), _counts(rng, form, _size(rng)), strict=True))
            return Batch(RANDOM, form, arguments)
        case "compute_numeric_cdf":
            y, mu, _ = _counts(rng, form, _size(rng))
            parameters = {"rate": mu}
            if rng.random() < 0.5:
                probability = 1.0 - 2.0 ** -rng.integers(1, 6, y.size).astype(float)
                total = np.maximum(round_to(np.rint(mu), form), 0.25)
                parameters = {"total_count": total, "probs": probability}
            return Batch(RANDOM, form, {"parameters": parameters, "y": y})
        case "compute_residual_mse":
            count = _size(rng)
            sides = (*_sides(rng, form, (count,)), *_sides(rng, form, (count,)))
            if rng.random() < 0.3:  # both replicates agree in all but the last digits
                sides = (*sides[:2], *sides[:2])
            ratio = round_to(rng.uniform(0.5, 2.0, _pick(rng, (), (count,))), form)
            names = ("y_r1", "mu_tech_r1", "y_r2", "mu_tech_r2", "sd_ratio_r1_to_r2")
            return Batch(RANDOM, form, dict(zip(names, (*sides, ratio), strict=True)), reduction)
        case "concordance_loss_nce_wrapper":
            return _replicates(spec, form, rng, {"tau": _pick(rng, 0.1, 1.0, 10.0)} | reduction)
        case "negative_pearson_loss_wrapper":
            return _replicates(spec, form, rng, {"eps": _pick(rng, 1e-8, 2.5)})
        case "CompositeLoss":
            count = _size(rng)
            values, _ = _sides(rng, form, (count,))
            weights = rng.choice([1.0, 0.1, 2.5, 1e-3, 0.0, -0.7], count).tolist()
            return Batch(RANDOM, form, {"values": values}, {"weights": weights})
        case _:
            return _replicates(spec, form, rng, reduction)
