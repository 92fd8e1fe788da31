"""Random batches of any finite numbers against the oracle and its derived bound."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from refimpl import concordance as oracle
from refimpl.bounds import concordance as bounds
from refimpl.bounds.precision import error_ratio, precision
from scripts.infonce_study import ours
from scripts.infonce_study.layouts import Array

# a quarter of the batches has at least FEW rows: beyond all limits up to which every pair is summed
FEW, MOST_ROWS, MOST_FEATURES = 520, 800, 6
FORMS = ("float64", "float32")
EPSES = (0.0, 1e-8, 0.5)


class Batch(NamedTuple):
    """Everything that one comparison needs, as the format holds it."""

    kind: str
    form: str
    x: Array
    y: Array
    tau: float
    eps: float


class Finding(NamedTuple):
    """The worst of one batch: error over bound, of what, and how many numbers must be finite and are not."""

    index: int
    kind: str
    form: str
    impl: str
    what: str
    ratio: float
    broken: int


def ordinary(rng: np.random.Generator, shape: tuple[int, int], _: np.finfo) -> Array:
    """Normal, of any sensible width."""
    return rng.standard_normal(shape) * 10.0 ** rng.uniform(-3, 3)


def heavy(rng: np.random.Generator, shape: tuple[int, int], _: np.finfo) -> Array:
    """Cauchy."""
    return rng.standard_cauchy(shape) * 10.0 ** rng.uniform(-3, 3)


def whole(rng: np.random.Generator, shape: tuple[int, int], _: np.finfo) -> Array:
    """Counts: ties."""
    return rng.poisson(10.0 ** rng.uniform(-1, 2), shape).astype(np.float64)


def clusters(rng: np.random.Generator, shape: tuple[int, int], _: np.finfo) -> Array:
    """A few places, far from each other, exactly repeated."""
    places = rng.standard_normal(3) * 10.0 ** rng.uniform(-3, 12, 3)
    return rng.choice(places, shape)


def constant(rng: np.random.Generator, shape: tuple[int, int], _: np.finfo) -> Array:
    """One number."""
    return np.full(shape, rng.standard_normal() * 10.0 ** rng.uniform(-10, 10))


def mixed(rng: np.random.Generator, shape: tuple[int, int], info: np.finfo) -> Array:
    """Every magnitude from the smallest subnormal to the largest number."""
    low, high = np.log2(float(info.smallest_subnormal)), np.log2(float(info.max))
    return rng.choice([-1.0, 1.0], shape) * np.exp2(rng.uniform(low, high, shape))


def one_magnitude(rng: np.random.Generator, shape: tuple[int, int], info: np.finfo) -> Array:
    """Normal around one magnitude, which may be any."""
    low, high = np.log2(float(info.smallest_subnormal)), np.log2(float(info.max)) - 4
    return rng.standard_normal(shape) * np.exp2(rng.uniform(low, high))


def edges(rng: np.random.Generator, shape: tuple[int, int], info: np.finfo) -> Array:
    """Zeros of both signs, the smallest, the largest, the root of the largest, and 1."""
    top, low = float(info.max), float(info.smallest_subnormal)
    places = [0.0, -0.0, low, -low, float(info.tiny), top, -top, top**0.5, -(top**0.5), 1.0, -1.0]
    return rng.choice(places, shape)


def offset(rng: np.random.Generator, shape: tuple[int, int], _: np.finfo) -> Array:
    """Normal, far from 0."""
    return rng.standard_normal(shape) + rng.choice([-1.0, 1.0]) * 10.0 ** rng.uniform(2, 15)


Side = Callable[[np.random.Generator, tuple[int, int], np.finfo], Array]
KINDS: tuple[Side, ...] = (
    ordinary, heavy, whole, clusters, constant, mixed, one_magnitude, edges, offset,
)  # fmt: skip


def drawn(index: int, seed: int) -> Batch:
    """Batch number `index`; of the smaller batches half have at most 26 rows."""
    rng = np.random.default_rng([seed, index])
    form = FORMS[rng.integers(len(FORMS))]
    info = np.finfo(form)
    rows = rng.integers(FEW, MOST_ROWS + 1) if rng.random() < 0.25 else round(MOST_ROWS ** rng.random())
    shape = (int(rows), int(rng.integers(1, MOST_FEATURES + 1)))
    side = KINDS[rng.integers(len(KINDS))]
    x = side(rng, shape, info)
    source = rng.integers(6)
    name = side.__name__
    with np.errstate(over="ignore"):
        if source == 0:
            y, name = x.copy(), f"{name}, identical"
        elif source == 1:
            y, name = x + rng.standard_normal(shape) * 10.0 ** rng.uniform(-16, 1), f"{name}, close"
        elif source == 2:
            y = side(rng, shape, info)
            x, name = 0.5 * y + 0.5 * np.roll(y, 1, axis=0), f"{name}, midpoints"
        elif source == 3:
            y, name = rng.permutation(x), f"{name}, shuffled"
        else:
            y = side(rng, shape, info)
        x, y = (
            np.clip(part, -float(info.max), float(info.max)).astype(form).astype(np.float64)
            for part in (x, y)
        )
    return Batch(name, form, x, y, float(10.0 ** rng.uniform(-3, 3)), EPSES[rng.integers(len(EPSES))])


def judge(index: int, seed: int) -> list[Finding]:
    """One finding for each implementation."""
    torch.set_num_threads(1)
    batch = drawn(index, seed)
    arguments = (batch.x, batch.y, batch.tau)
    formats = precision(batch.form)
    exact = {
        "rows": oracle.concordance_loss_nce(*arguments, eps=batch.eps, reduction="none"),
        "mean": oracle.concordance_loss_nce(*arguments, eps=batch.eps),
    }
    allowed = {
        "rows": bounds.concordance_loss_nce(
            *arguments, precision=formats, eps=batch.eps, reduction="none"
        ).value
    }
    bound = bounds.concordance_loss_nce(*arguments, precision=formats, eps=batch.eps)
    allowed["mean"] = bound.value
    slopes = oracle.concordance_loss_nce_gradient(*arguments, eps=batch.eps)
    for side, true, most in zip(("by res1", "by res2"), slopes, bound.gradient, strict=True):
        exact[side], allowed[side] = true, most
    return [_finding(index, batch, impl, exact, allowed) for impl in ours.implementations(batch.x.shape[1])]


def _finding(index: int, batch: Batch, impl: str, exact: dict, allowed: dict) -> Finding:
    dtype = getattr(torch, batch.form)
    x, y = (torch.from_numpy(side).to(dtype).requires_grad_() for side in (batch.x, batch.y))
    mean = ours.loss(x, y, batch.tau, batch.eps, impl=impl)
    gx, gy = torch.autograd.grad(mean, (x, y))
    rows = ours.loss(x.detach(), y.detach(), batch.tau, batch.eps, impl=impl, reduction="none")
    found = {"rows": rows, "mean": mean, "by res1": gx, "by res2": gy}
    top, worst, what, broken = torch.finfo(dtype).max, 0.0, "rows", 0
    for name, tensor in found.items():
        got = tensor.detach().double().numpy()
        slope = name.startswith("by")
        ratios = error_ratio(got, exact[name], allowed[name], top, overflows=slope)
        if slope:
            # a bound is at most the largest number, and promises nothing there: either infinity will do
            ratios = np.where((np.asarray(allowed[name]) >= top) & ~np.isnan(got), 0.0, ratios)
            broken += int(np.isnan(got).sum() + (np.isinf(got) & np.isinf(ratios)).sum())
        else:
            broken += int((~np.isfinite(got)).sum())
        largest = float(np.max(ratios, initial=0.0))
        if largest > worst:
            worst, what = largest, name
    return Finding(index, batch.kind, batch.form, impl, what, worst, broken)
