"""The negative Pearson correlation on deviations from a pivot, rescaled by their largest magnitude."""

import numpy as np

from tests.direct.formats import rounded, scalar, working
from tests.direct.quadratic import nested


def deviations(side, total):
    """(c, M, exponent): the deviations are c M 2^exponent, |c| <= 1; None for a constant side."""
    kind = side.dtype.type
    scaled = side * kind(0.25) if np.abs(side).max() > 1 else side
    raw = scaled - scaled[0]
    if not raw.any():
        return None
    exponent = int(np.frexp(np.abs(raw).max())[1])
    raw = np.ldexp(raw, -exponent)
    centred = raw - total(raw, -1) / kind(side.size)
    largest = np.abs(centred).max()
    return centred / largest, largest, exponent + (2 if scaled is not side else 0)


def _largest_derivative(c, total):
    """Derivative of the largest magnitude, shared by ties."""
    signs = np.where(np.abs(c) == 1, np.sign(c), c.dtype.type(0))
    return (signs - total(signs, -1) / c.dtype.type(c.size)) / c.dtype.type(np.count_nonzero(signs))


def correlation(preds, targets, eps, kind, total):
    """Value and both gradients of flat float64 or integer arrays, in the working precision."""
    nothing = np.zeros(preds.size, kind)
    if preds.size == 0 or (preds == preds[0]).all() or (targets == targets[0]).all():
        return kind(0), nothing, nothing
    sides = [deviations(side.astype(kind), total) for side in (preds, targets)]
    if None in sides:
        return kind(0), nothing, nothing
    (c, scale_c, exponent_c), (d, scale_d, exponent_d) = sides
    eps = kind(min(eps, float(np.finfo(kind).max)))
    norm_c, norm_d = np.sqrt(total(c * c, -1)), np.sqrt(total(d * d, -1))
    dot, product = total(c * d, -1), norm_c * norm_d
    value = np.clip(-dot / max(product, eps), kind(-1), kind(1))
    found = []
    for one, other, n_one, n_other, scale, exponent in (
        (c, d, norm_c, norm_d, scale_c, exponent_c),
        (d, c, norm_d, norm_c, scale_d, exponent_d),
    ):
        if product >= eps:
            raw = -(other / n_other + value * (one / n_one))
            slope = (raw - total(raw, -1) / kind(raw.size)) / n_one / scale
        else:
            raw = -(other - dot * _largest_derivative(one, total))
            slope = (raw - total(raw, -1) / kind(raw.size)) / (eps * scale)
        found.append(np.ldexp(slope, -exponent))
    return value, *found


def pearson(batch, total):
    """`negative_pearson_loss`."""
    preds, targets = (np.asarray(batch.arguments[name]) for name in ("preds", "targets"))
    kind, form = working(batch.form), batch.form
    value, *gradients = correlation(preds.ravel(), targets.ravel(), batch.options["eps"], kind, total)
    g_preds, g_targets = (rounded(g.reshape(preds.shape), form, saturates=False) for g in gradients)
    return scalar(value, form), {"preds": g_preds, "targets": g_targets}


def pearson_wrapper(batch, total):
    """`negative_pearson_loss_wrapper`: means of both replicates against their reads."""
    outputs, reads = batch.arguments["model_outputs"], batch.arguments["batch"]
    targets = [np.asarray(reads[name]["reads"]) for name in ("r1", "r2")]
    preds = [
        np.broadcast_to(np.ravel(outputs[name]["mu"]), y.shape)
        for name, y in zip(("r1", "r2"), targets, strict=True)
    ]
    value, gradient, _ = correlation(
        np.concatenate(preds), np.concatenate(targets), batch.options["eps"], working(batch.form), total
    )
    first, second = np.split(gradient, [targets[0].size])
    return scalar(value, batch.form), nested(batch, {"r1": {"mu": first}, "r2": {"mu": second}}, total)
