"""InfoNCE in the log domain: squared differences, exponentials shifted by their largest exponent.

A row whose own distance overflows is computed in units of a power of four; another row's distance may
overflow to infinity, for exp(-inf) = 0 is right.
"""

import numpy as np

from tests.direct.formats import difference, rounded, scalar, working
from tests.direct.quadratic import nested

ROOM = 12


def _distances(gap, exponent, tau, total):
    """(a, k): sum of squared differences over tau is a 4^k, k > 0 only where it would overflow."""
    limit = np.finfo(gap.dtype).maxexp // 2 - ROOM
    top = np.where(gap != 0, np.frexp(gap)[1] + exponent, -(2**20)).max(axis=2)
    k = np.where(top > limit, top, 0)
    scaled = np.ldexp(gap, exponent - k[..., None])
    return total(scaled * scaled, 2) / tau, k


def info_nce(x, y, tau, eps, kind, total):
    """(rows, k, gx, gy, lift) of (B, D) arrays: L_i is rows 4^k, a gradient of their sum g 2^lift 2 / tau."""
    tau = kind(tau)
    gap, exponent = difference(x[:, None], y[None], kind)
    a, k = _distances(gap, exponent, tau, total)
    own_k = np.diag(k).copy()
    a = np.ldexp(a, 2 * (k - own_k[:, None]))
    own = np.diag(a).copy()
    z = own[:, None] - a
    e = own + np.ldexp(np.log(kind(eps)), -2 * own_k)
    shift = np.maximum(np.maximum(z.max(axis=1), e), 0)
    terms = np.exp(np.ldexp(z - shift[:, None], 2 * own_k[:, None]))
    extra = np.exp(np.ldexp(e - shift, 2 * own_k))
    both = np.concatenate([terms, extra[:, None]], axis=1)
    others = both.copy()
    np.fill_diagonal(others, 0)
    whole, rest = total(both, 1), total(others, 1)
    rows = shift + np.ldexp(np.where(shift == 0, np.log1p(rest), np.log(whole)), -2 * own_k)
    p = terms / whole[:, None]
    lift = int(exponent.max(initial=0))
    gap = np.ldexp(gap, exponent - lift)
    pull, direct = p[..., None] * gap, gap[np.arange(len(gap)), np.arange(len(gap))]
    gx, gy = direct - total(pull, 1), total(pull, 0) - direct
    return rows, own_k, gx, gy, lift


def _loss(x, y, options, form, total):
    """Value, and the gradients of the flattened sides in the working precision."""
    kind, tau = working(form), options.get("tau", 0.1)
    eps, reduction = options.get("eps", 1e-8), options.get("reduction", "mean")
    batch = x.shape[0]
    if x.size == 0:
        zero = np.zeros(x.shape, kind)
        return np.zeros(batch if reduction == "none" else ()), zero, zero
    rows, k, gx, gy, lift = info_nce(x, y, tau, eps, kind, total)
    divisor = kind(batch if reduction == "mean" else 1)
    if reduction == "none":
        value = rounded(np.ldexp(rows, 2 * k), form, saturates=True)
    else:
        top = int(k.max())
        value = scalar(np.ldexp(total(np.ldexp(rows, 2 * (k - top)), -1) / divisor, 2 * top), form)
    factor = kind(2) / (divisor * kind(tau))
    return value, np.ldexp(factor * gx, lift), np.ldexp(factor * gy, lift)


def concordance(batch, total):
    """`concordance_loss_nce`."""
    x, y = (np.asarray(batch.arguments[name]) for name in ("res1", "res2"))
    flat = (x.shape[0], int(np.prod(x.shape[1:])))
    value, *gradients = _loss(x.reshape(flat), y.reshape(flat), batch.options, batch.form, total)
    gx, gy = (rounded(g.reshape(x.shape), batch.form, saturates=False) for g in gradients)
    return value, {"res1": gx, "res2": gy}


def concordance_wrapper(batch, total):
    """`concordance_loss_nce_wrapper`: the residuals reads - mu, rounded to the working precision."""
    outputs, reads = batch.arguments["model_outputs"], batch.arguments["batch"]
    kind, sides = working(batch.form), []
    largest = np.finfo(kind).max
    for name in ("r1", "r2"):
        y = np.asarray(reads[name]["reads"])
        mu = np.broadcast_to(np.ravel(outputs[name]["mu"]), y.shape)
        residual, exponent = difference(y, mu, kind)
        with np.errstate(over="ignore"):
            sides.append(np.clip(np.ldexp(residual, exponent), -largest, largest)[:, None])
    value, gx, gy = _loss(*sides, batch.options, batch.form, total)
    return value, nested(batch, {"r1": {"mu": -gx}, "r2": {"mu": -gy}}, total)
