"""Masked squared errors, the residual loss and weighted sums, evaluated as they stand.

Squares and products are taken of numbers that are divided by a power of two where they would overflow, and
only there; the power comes back at the end, where the result saturates.
"""

import numpy as np

from tests.direct.formats import difference, rounded, scalar, top_exponent, working

ROOM = 12  # bits left free below overflow for a sum of up to 2^12 terms


def _dot(a, b, a_exponent, b_exponent, total):
    """Sum of a b 2^(exponents) as (sum, exponent), no product of which overflows."""
    limit = np.finfo(a.dtype).maxexp // 2 - ROOM
    shifts = []
    for values, exponent in ((a, a_exponent), (b, b_exponent)):
        top = top_exponent(values, exponent)
        shifts.append(top if top > limit else 0)
    a = np.ldexp(a, a_exponent - shifts[0])
    b = np.ldexp(b, b_exponent - shifts[1])
    return total((a * b).ravel(), -1), sum(shifts)


def _mean_square(e, exponent, divisor, total):
    """Sum of squares over the divisor, saturated."""
    square, shift = _dot(e, e, exponent, exponent, total)
    if divisor is not None:
        square = square / divisor
    return np.ldexp(square, shift)


def masked(batch, total):
    """`masked_sse` and `masked_mse`: e = x_recon - x where the mask is set, e², 2 e / n."""
    kind, form = working(batch.form), batch.form
    x_recon, x, mask = (batch.arguments[name] for name in ("x_recon", "x", "mask"))
    reduction = batch.options["reduction"]
    e, exponent = difference(*(np.where(mask, side, np.zeros_like(side)) for side in (x_recon, x)), kind)
    count = {"mean": np.count_nonzero(mask), "batch_mean": len(mask)}.get(reduction)
    divisor = None if count is None else kind(max(count, 1))
    if reduction == "none":
        value = rounded(np.ldexp(e * e, 2 * exponent), form, saturates=True)
    else:
        value = scalar(_mean_square(e, exponent, divisor, total), form)
    slope = np.ldexp(e * (kind(2) if divisor is None else kind(2) / divisor), exponent)
    gradient = rounded(slope, form, saturates=False)
    return value, {"x_recon": gradient, "x": -gradient}


def _residual(y1, mu1, y2, mu2, s, reduction, form, total):
    """Value, and the gradients of y1 - mu1, of y2 - mu2 (both in the working precision) and of s."""
    kind = working(form)
    d1, k1 = difference(y1, mu1, kind)
    d2, k2 = difference(y2, mu2, kind)
    s = np.asarray(s).astype(kind)
    size = np.maximum(np.abs(d1), np.abs(d2))
    exponent = np.where((size > np.finfo(kind).max / 16) | (k1 + k2 > 0), 5, 0)
    d1, d2 = np.ldexp(d1, k1 - exponent), np.ldexp(d2, k2 - exponent)
    e = d1 - s * d2
    divisor = kind(max(e.size, 1)) if reduction == "mean" else None
    if reduction == "none":
        value = rounded(np.ldexp(e * e, 2 * exponent), form, saturates=True)
    else:
        value = scalar(_mean_square(e, exponent, divisor, total), form)
    w = e * (kind(2) if divisor is None else kind(2) / divisor)
    if s.ndim:
        g_s = np.ldexp(-w * d2, 2 * exponent)
    else:
        found, shift = _dot(-w, d2, exponent, exponent, total)
        g_s = np.ldexp(found, shift)
    return value, np.ldexp(w, exponent), np.ldexp(-s * w, exponent), g_s


def residual(batch, total):
    """`compute_residual_mse`: e = (y1 - mu1) - s (y2 - mu2), e²; 2 e / n, s 2 e / n, (y2 - mu2) 2 e / n."""
    value, *parts = _residual(*batch.arguments.values(), batch.options["reduction"], batch.form, total)
    g_1, g_2, g_s = (rounded(part, batch.form, saturates=False) for part in parts)
    names = tuple(batch.arguments)
    return value, dict(zip(names, (g_1, -g_1, g_2, -g_2, g_s), strict=True))


def residual_wrapper(batch, total):
    """`replicate_concordance_mse_loss`: the same of reads and means, whose columns are flattened."""
    outputs, reads = batch.arguments["model_outputs"], batch.arguments["batch"]
    arguments = []
    for name in ("r1", "r2"):
        y = reads[name]["reads"]
        arguments += [y, np.broadcast_to(np.ravel(outputs[name]["mu"]), np.shape(y))]
    s = reads["metadata"]["sd_ratio"]
    value, g_1, g_2, _ = _residual(*arguments, s, batch.options["reduction"], batch.form, total)
    return value, nested(batch, {"r1": {"mu": -g_1}, "r2": {"mu": -g_2}}, total)


def nested(batch, gradients, total):
    """Gradients by path, in the parameters' shapes: summed for a 0-dim one, 0 for one without gradient."""
    found = {}
    for name, parameters in batch.arguments["model_outputs"].items():
        for key, parameter in parameters.items():
            part = gradients[name].get(key, np.zeros(np.shape(parameter)))
            part = total(part.ravel(), -1) if np.ndim(parameter) == 0 and part.ndim else part
            shaped = np.asarray(part).reshape(np.shape(parameter))
            found[f"model_outputs.{name}.{key}"] = rounded(shaped, batch.form, saturates=False)
    return found


def composite(batch, total):
    """`CompositeLoss` of given values: weights rounded to the working precision, products, their sum."""
    kind = working(batch.form)
    weights = np.asarray(batch.options["weights"]).astype(kind)
    values = np.where(weights == 0, 0.0, batch.arguments["values"]).astype(kind)
    found, shift = _dot(weights, values, 0, 0, total)
    value = np.ldexp(found, shift)
    return scalar(value, batch.form), {"values": weights.astype(np.float64)}
