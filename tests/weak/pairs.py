"""Weak masked losses, InfoNCE, Pearson and residual losses."""

import torch

from tests.weak import Weakness


def reduced(elements, mask=None, reduction="mean"):
    """Right in float64: sums over what counts, saturated."""
    if reduction == "none":
        return elements
    count = elements.numel() if mask is None else mask.sum()
    count = {"mean": max(int(count), 1), "batch_mean": max(len(elements), 1), "sum": 1}[reduction]
    return elements.sum() / count


def rounded(value, like, reduction="mean"):
    """Saturated and rounded to the result's dtype, the gradient left as it is."""
    dtype = like.dtype if reduction == "none" or like.itemsize > 2 else torch.float32
    largest = torch.finfo(dtype).max
    beyond = value.detach().abs() > largest
    unmoved = value - value.detach()
    return torch.where(beyond, value.detach().clamp(-largest, largest) + unmoved, value).to(dtype)


def masked(error=lambda e: e, count=None, square=torch.square, cast=lambda x: x.double(), after=lambda v: v):
    """The masked error with one step exchanged."""

    def masked_mse(x_recon, x, mask, *, reduction="mean"):
        e = error(torch.where(mask, cast(x_recon), 0.0) - torch.where(mask, cast(x), 0.0))
        elements = torch.where(mask, square(e), 0.0)
        if count is not None and reduction == "mean":
            return rounded(after(elements.sum() / count(mask)), x, reduction)
        return rounded(after(reduced(elements, mask, reduction)), x, reduction)

    return masked_mse


def multiplied_by_mask(x_recon, x, mask, *, reduction="mean"):
    return rounded(reduced(((x_recon.double() - x.double()) * mask) ** 2, mask, reduction), x, reduction)


def visible_term(x_recon, x, mask, *, reduction="mean"):
    e = torch.where(mask, x_recon.double() - x.double(), 0.0)
    visible = 0.0 * (~mask).double().sum() / (~mask).sum()
    return rounded(reduced(e**2, mask, reduction) + visible, x, reduction)


def unscaled_sum(x_recon, x, mask, *, reduction="mean"):
    """Overflows in the sum where the mean does not."""
    e = torch.where(mask, x_recon, 0.0) - torch.where(mask, x, 0.0)
    return rounded(reduced(e**2, mask, reduction), x, reduction)


def one_scale(e):
    """Scales by the largest number in float32: the small ones beside it vanish."""
    scale = torch.ldexp(torch.ones(()), torch.frexp(e.detach().abs().amax()).exponent.clamp(max=120))
    return ((e.float() / scale).square().double() * scale.double().square()) if e.numel() else e.square()


def no_saturation(x_recon, x, mask, *, reduction="mean"):
    value = reduced(torch.where(mask, x_recon.double() - x.double(), 0.0).square(), mask, reduction)
    return value.to(x.dtype if reduction == "none" or x.itemsize > 2 else torch.float32)


def first_columns(x_recon, x, mask, *, reduction="mean"):
    x_recon, x, mask = (t[..., :64] for t in (x_recon, x, mask))
    return masked()(x_recon, x, mask, reduction=reduction)


def flushed(x):
    return torch.where(x.abs() < torch.finfo(x.dtype).tiny, 0.0, x).double()


def differences(a, b):
    return (a[:, None].double() - b[None].double()).square().sum(-1)


def root_squared(a, b):
    return differences(a, b).sqrt().square()


def expanded(a, b):
    a, b = a.double(), b.double()
    return a.square().sum(1)[:, None] + b.square().sum(1)[None] - 2.0 * a @ b.T


def narrow(a, b):
    return (a[:, None] - b[None]).square().sum(-1)


def log_sum(logits):
    return torch.logsumexp(logits, 1)


def log_sum_without_ties(logits):
    top = logits.amax(1, keepdim=True)
    others = torch.where(logits == top, 0.0, (logits - top).exp())
    return top[:, 0] + torch.log1p(others.sum(1))


def info_nce(distance=differences, log_sum=log_sum):
    """InfoNCE with one step exchanged; ε is a further logit."""

    def concordance_loss_nce(res1, res2, tau=0.1, *, eps=1e-8, reduction="mean"):
        if not len(res1):
            return rounded(reduced(res1.double(), None, reduction), res1, reduction)
        d = distance(res1.reshape(len(res1), -1), res2.reshape(len(res2), -1)) / tau
        floor = torch.full((len(d), 1), eps, dtype=d.dtype).log()
        rows = d.diagonal() + log_sum(torch.cat([-d, floor], 1))
        return rounded(reduced(rows, None, reduction), res1, reduction)

    return concordance_loss_nce


def exponential_domain(res1, res2, tau=0.1, *, eps=1e-8, reduction="mean"):
    s = torch.exp(-differences(res1.reshape(len(res1), -1), res2.reshape(len(res2), -1)) / tau)
    rows = -torch.log(s.diagonal() / (s.sum(1) + eps))
    return rounded(reduced(rows, None, reduction), res1, reduction)


def pearson(deviations=lambda x: x.double() - x.double().mean(), cast=lambda t, _: t, guard=True, n=None):
    """Pearson with one step exchanged."""

    def negative_pearson_loss(preds, targets, eps=1e-8):
        p, t = (deviations(x.flatten()) for x in (preds, cast(targets, preds)))
        p, t = (side / side.detach().abs().amax() for side in (p, t)) if p.numel() else (p, t)
        product = (p.square().sum() * t.square().sum()).sqrt()
        value = -(p * t).sum() / product.clamp(min=eps)
        value = value * n(p) if n else value
        return rounded(torch.nan_to_num(value) if guard else value, preds)

    return negative_pearson_loss


def small_squares(preds, targets, eps=1e-8):
    p, t = (x.flatten().float() - x.flatten().float().mean() for x in (preds, targets))
    return rounded(-(p * t).sum() / (p.square().sum() * t.square().sum()).sqrt(), preds)


def weighted_sum(weights, values):
    return (torch.tensor(weights) * values).sum()


MSE, NCE, PEARSON = "masked_mse", "concordance_loss_nce", "negative_pearson_loss"
WEAK = (
    Weakness(
        "ordinary", MSE, "float32", "averages over all positions", masked(count=lambda m: max(m.numel(), 1))
    ),
    Weakness("zeros", PEARSON, "float32", "0 / 0 where both sides are constant", pearson(guard=False)),
    Weakness(
        "identical replicates", NCE, "float64", "squares a root: no gradient at 0", info_nce(root_squared)
    ),
    Weakness(
        "ties", NCE, "float64", "takes every maximum out of the sum", info_nce(log_sum=log_sum_without_ties)
    ),
    Weakness("constant", PEARSON, "float64", "a constant is one whose deviations are 0", pearson()),
    Weakness(
        "one element",
        PEARSON,
        "float32",
        "divides by n - 1",
        pearson(n=lambda p: (p.numel() - 1) / (p.numel() - 1 or torch.nan), guard=False),
    ),
    Weakness("empty batch", MSE, "float32", "divides by the count", masked(count=lambda m: m.sum())),
    Weakness("common offset", NCE, "float32", "expands the square", info_nce(expanded)),
    Weakness(
        "heavy tails",
        MSE,
        "float32",
        "clips the error at 100",
        masked(error=lambda e: e.clamp(-100.0, 100.0)),
    ),
    Weakness("huge", MSE, "float32", "does not saturate", no_saturation),
    Weakness("one huge row", NCE, "float32", "inf - inf in float32", info_nce(narrow)),
    Weakness("squares near overflow", MSE, "float32", "divides after the sum has overflowed", unscaled_sum),
    Weakness("tiny", PEARSON, "float32", "squares underflow", small_squares),
    Weakness("subnormal", MSE, "float32", "flushes subnormal numbers to 0", masked(cast=flushed)),
    Weakness("mixed magnitudes", MSE, "float32", "one scale for all numbers", masked(square=one_scale)),
    Weakness("half limits", MSE, "float16", "an element beyond 65504 becomes inf", no_saturation),
    Weakness(
        "integer targets",
        PEARSON,
        "float32",
        "casts the counts to float32",
        pearson(cast=lambda t, like: t.to(like.dtype)),
    ),
    Weakness("far pairs", NCE, "float64", "exponentials instead of logarithms", exponential_domain),
    Weakness("empty mask", MSE, "float32", "the mean of nothing", masked(count=lambda m: m.sum())),
    Weakness("full mask", MSE, "float32", "divides by the number of visible positions", visible_term),
    Weakness("NaN under the mask", MSE, "float32", "multiplies by the mask", multiplied_by_mask),
    Weakness(
        "NaN at a counted position", MSE, "float32", "replaces NaN by 0", masked(after=torch.nan_to_num)
    ),
    Weakness("real spectra", MSE, "float32", "has room for 64 columns", first_columns),
    Weakness(
        "weight zero",
        "CompositeLoss",
        "float32",
        "0 times inf",
        lambda functions, weights: (
            lambda outputs, batch: weighted_sum(weights, torch.stack([f(outputs, batch) for f in functions]))
        ),
    ),
)
