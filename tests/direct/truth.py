"""The exact answers in rational or 400-bit arithmetic, by formulas of their own: no oracle is asked.

Every function takes a batch and gives its `Truth`, or None for one whose exact answer is out of reach here.
"""

from dataclasses import dataclass, field
from fractions import Fraction

import mpmath
import numpy as np

from tests.exact import fractions

BITS = 400
DEEPEST = -3000  # exponentials below e^-3000 are far below every format


@dataclass(frozen=True)
class Truth:
    """Exact values and gradients, flat; `slack` is what the oracle is allowed beside its one ulp."""

    value: list[Fraction]
    gradients: dict[str, list[Fraction]]
    slack: dict[str, Fraction] = field(default_factory=dict)


def exact(x):
    """The rational that an mpmath number is."""
    sign, mantissa, exponent, _ = x._mpf_
    return (-1) ** sign * Fraction(int(mantissa)) * Fraction(2) ** int(exponent)


def real(x):
    """A rational as an mpmath number."""
    return mpmath.mpf(x.numerator) / x.denominator


def reduced(rows, reduction, divisor=None):
    """Rows as they are, their sum, or their mean."""
    if reduction == "none":
        return rows
    divisor = {"sum": 1, "mean": len(rows)}.get(reduction, 1) if divisor is None else divisor
    return [sum(rows, Fraction(0)) / max(divisor, 1)]


def masked(batch):
    x_recon, x, mask = (batch.arguments[name] for name in ("x_recon", "x", "mask"))
    reduction = batch.options["reduction"]
    kept = [np.where(mask, side, np.zeros_like(side)) for side in (x_recon, x)]
    e = [a - b for a, b in zip(*map(wide, kept), strict=True)]
    divisor = {"mean": np.count_nonzero(mask), "batch_mean": len(mask)}.get(reduction, 1)
    slope = [2 * d / max(int(divisor), 1) for d in e]
    value = reduced([d * d for d in e], reduction, int(divisor))
    return Truth(value, {"x_recon": slope, "x": [-g for g in slope]})


def wide(values):
    """Rationals of floats and of integers of any size."""
    values = np.asarray(values)
    integers = np.issubdtype(values.dtype, np.integer)
    return [Fraction(int(v)) for v in values.ravel()] if integers else fractions(values)


def residual_parts(y1, mu1, y2, mu2, s, reduction):
    y1, mu1, y2, mu2 = map(wide, (y1, mu1, y2, mu2))
    s = fractions(s) * (len(y1) if np.ndim(s) == 0 else 1)
    d2 = [a - b for a, b in zip(y2, mu2, strict=True)]
    e = [a - b - r * d for a, b, r, d in zip(y1, mu1, s, d2, strict=True)]
    share = Fraction(2, max(len(e), 1) if reduction == "mean" else 1)
    w = [share * d for d in e]
    by_s = [-a * b for a, b in zip(w, d2, strict=True)]
    return reduced([d * d for d in e], reduction), w, [-a * r for a, r in zip(w, s, strict=True)], by_s


def residual(batch):
    names = tuple(batch.arguments)
    value, g1, g2, g_s = residual_parts(*batch.arguments.values(), batch.options["reduction"])
    g_s = [sum(g_s, Fraction(0))] if np.ndim(batch.arguments[names[4]]) == 0 else g_s
    parts = (g1, [-g for g in g1], g2, [-g for g in g2], g_s)
    return Truth(value, dict(zip(names, parts, strict=True)))


def replicates_of(batch):
    outputs, reads = batch.arguments["model_outputs"], batch.arguments["batch"]
    if any(np.ndim(part) == 0 for name in ("r1", "r2") for part in outputs[name].values()):
        return None
    return [(reads[name]["reads"], outputs[name]["mu"], outputs[name]["r"]) for name in ("r1", "r2")]


def nested(first, second, sizes=None):
    found = {f"model_outputs.{name}.mu": part for name, part in (("r1", first), ("r2", second))}
    return found | ({} if sizes is None else {f"model_outputs.{n}.r": p for n, p in sizes.items()})


def residual_wrapper(batch):
    replicates = replicates_of(batch)
    if replicates is None:
        return None
    (y1, mu1, _), (y2, mu2, _) = replicates
    s = batch.arguments["batch"]["metadata"]["sd_ratio"]
    value, g1, g2, _ = residual_parts(y1, mu1, y2, mu2, s, batch.options["reduction"])
    return Truth(value, nested([-g for g in g1], [-g for g in g2]))


def composite(batch):
    weights, values = batch.options["weights"], batch.arguments["values"]
    active = [(Fraction(float(w)), Fraction(float(v))) for w, v in zip(weights, values, strict=True) if w]
    return Truth(
        [sum((w * v for w, v in active), Fraction(0))], {"values": [Fraction(float(w)) for w in weights]}
    )


def _exponential(z):
    return mpmath.exp(real(z)) if z > DEEPEST else mpmath.mpf(0)


def _rows(x, y, tau, eps):
    """Rows L_i, shares p_ij, the share left to the own pair; all rational."""
    batch = len(x)
    a = [
        [sum((p - q) ** 2 for p, q in zip(x[i], y[j], strict=True)) / tau for j in range(batch)]
        for i in range(batch)
    ]
    log_eps = exact(mpmath.log(real(eps))) if eps else None
    rows, shares = [], []
    for i in range(batch):
        z = [a[i][i] - a[i][j] for j in range(batch)]
        extra = [] if log_eps is None else [a[i][i] + log_eps]
        shift = max(*z, *extra, Fraction(0))
        terms = [_exponential(part - shift) for part in z + extra]
        whole = mpmath.fsum(terms)
        rest = mpmath.fsum(terms[:i] + terms[i + 1 :])
        rows.append(exact(mpmath.log1p(rest)) if shift == 0 else shift + exact(mpmath.log(whole)))
        shares.append([exact(term / whole) for term in terms])
    return rows, shares


def info_nce(x, y, tau, eps, reduction):
    batch, columns = len(x), range(len(x[0]))
    rows, shares = _rows(x, y, tau, eps)
    factor = Fraction(2) / tau / (batch if reduction == "mean" else 1)
    gx = [
        factor * (x[i][d] - y[i][d] - sum(shares[i][j] * (x[i][d] - y[j][d]) for j in range(batch)))
        for i in range(batch)
        for d in columns
    ]
    gy = [
        factor * (sum(shares[i][j] * (x[i][d] - y[j][d]) for i in range(batch)) - (x[j][d] - y[j][d]))
        for j in range(batch)
        for d in columns
    ]
    size = (
        factor
        * 2
        * batch
        * max(abs(p - q) for row in x for other in y for p, q in zip(row, other, strict=True))
    )
    return reduced(rows, reduction), gx, gy, size / 2**80


def _table(values):
    shape = values.shape
    flat = wide(values)
    columns = int(np.prod(shape[1:]))
    return [flat[i * columns : (i + 1) * columns] for i in range(shape[0])]


def concordance(batch):
    x, y = (np.asarray(batch.arguments[name]) for name in ("res1", "res2"))
    if x.size == 0 or x.size > 30:
        return None
    tau, eps = (Fraction(float(batch.options[name])) for name in ("tau", "eps"))
    value, gx, gy, slack = info_nce(_table(x), _table(y), tau, eps, batch.options["reduction"])
    return Truth(value, {"res1": gx, "res2": gy}, {"res1": slack, "res2": slack})


def concordance_wrapper(batch):
    replicates = replicates_of(batch)
    if replicates is None or replicates[0][0].size == 0 or replicates[0][0].size > 12:
        return None
    sides = [[[a - b] for a, b in zip(wide(y), wide(mu), strict=True)] for y, mu, _ in replicates]
    tau = Fraction(float(batch.options.get("tau", 0.1)))
    value, gx, gy, slack = info_nce(
        *sides, tau, Fraction(batch.options.get("eps", 1e-8)), batch.options.get("reduction", "mean")
    )
    found = nested([-g for g in gx], [-g for g in gy])
    return Truth(value, found, dict.fromkeys(found, slack))


def correlation(p, t, eps):
    """Value and both gradients."""
    n = len(p)
    zero = [Fraction(0)] * n
    if n == 0 or len(set(p)) == 1 or len(set(t)) == 1:
        return [Fraction(0)], zero, zero
    sides = [[v - sum(side) / n for v in side] for side in (p, t)]
    largest = [max(map(abs, side)) for side in sides]
    c, d = ([v / top for v in side] for side, top in zip(sides, largest, strict=True))
    cc, dd, cd = (sum(a * b for a, b in zip(u, v, strict=True)) for u, v in ((c, c), (d, d), (c, d)))
    product = exact(mpmath.sqrt(real(cc * dd)))
    value = -cd / max(product, eps)
    found = []
    for u, v, uu, top in ((c, d, cc, largest[0]), (d, c, dd, largest[1])):
        if product >= eps:
            found.append([-(b - cd * a / uu) / product / top for a, b in zip(u, v, strict=True)])
        else:
            signs = [a if abs(a) == 1 else Fraction(0) for a in u]
            ties, mean = sum(map(abs, signs)), sum(signs) / n
            found.append([-(b - cd * (s - mean) / ties) / eps / top for b, s in zip(v, signs, strict=True)])
    return [value], *found


def pearson(batch):
    preds, targets = (np.asarray(batch.arguments[name]) for name in ("preds", "targets"))
    if preds.size > 60:
        return None
    value, gp, gt = correlation(wide(preds), wide(targets), Fraction(float(batch.options["eps"])))
    return Truth(value, {"preds": gp, "targets": gt})


def pearson_wrapper(batch):
    replicates = replicates_of(batch)
    if replicates is None or replicates[0][0].size > 30:
        return None
    p = [v for _, mu, _ in replicates for v in wide(mu)]
    t = [v for y, _, _ in replicates for v in wide(y)]
    value, gradient, _ = correlation(p, t, Fraction(float(batch.options["eps"])))
    half = replicates[0][0].size
    return Truth(value, nested(gradient[:half], gradient[half:]))
