"""Errors of an implementation against the truth, each in the unit in which it is promised."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from flint import arb

from scripts.accuracy_study.points import Array, Points
from scripts.accuracy_study.truth import Truth, truth
from torchimpl.kernels.negative_binomial import classify

REGIONS = ("zero count", "series", "quadrature", "fraction")
VALUES = ("cdf", "sf")
FIRST = ("d_mu", "d_r")
SECOND = ("d_mu_mu", "d_mu_r", "d_r_r")


class Pair(NamedTuple):
    """A number to 106 bits: the nearest float64 and what it misses."""

    high: Array
    low: Array


Truths = dict[str, Pair]
Results = dict[str, Array]


def pair(values: Iterable[arb]) -> Pair:
    """Midpoints as unevaluated sums of two float64."""
    middles = [value.mid() for value in values]
    high = [float(value) for value in middles]
    low = [
        float(value - arb(top)) if np.isfinite(top) else 0.0 for value, top in zip(middles, high, strict=True)
    ]
    return Pair(np.array(high), np.array(low))


def truths(points: Points, step: Callable[[], None] = lambda: None) -> Truths:
    """The truth at every point; `step` is called after each."""
    found: list[Truth] = []
    for k, mu, r in zip(*(column.tolist() for column in points), strict=True):
        found.append(truth(k, mu, r))
        step()
    return {name: pair(getattr(one, name) for one in found) for name in Truth._fields}


def regions(points: Points) -> Array:
    """Index into `REGIONS` at every point."""
    masks = classify(*(torch.from_numpy(column) for column in points))
    order = (masks[0], masks[1], masks[2], masks[3])
    return torch.stack(order).to(torch.float64).argmax(0).numpy()


def off(found: Array, true: Pair) -> Array:
    """|found - true|; inf where found is NaN; equal infinities agree."""
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.abs((found - true.high) - true.low)
    distance = np.where(found == true.high, np.abs(true.low), distance)
    return np.where(np.isnan(distance), np.inf, distance)


def unit(true: Array, scale: Array, eps: float, smallest: float) -> Array:
    """Eps · max(|true|, scale), not below the smallest subnormal number."""
    with np.errstate(over="ignore"):
        return np.maximum(eps * np.maximum(np.abs(true), scale), smallest)


def ulps(true: Array, dtype: torch.dtype) -> Array:
    """The last place of |true| in a dtype."""
    info = torch.finfo(dtype)
    _, exponent = np.frexp(np.abs(true))
    smallest = info.tiny * info.eps
    size = np.ldexp(info.eps, np.minimum(exponent, np.frexp(info.max)[1]) - 1)
    return np.maximum(np.where(true == 0.0, smallest, size), smallest)


def errors(found: Results, true: Truths, dtype: torch.dtype) -> Results:
    """All errors for which there is a result, under the names of the tables' columns."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return _errors(found, true, dtype)


def _errors(found: Results, true: Truths, dtype: torch.dtype) -> Results:
    info = torch.finfo(dtype)
    eps, smallest = info.eps, info.tiny * info.eps
    out: Results = {}
    if "cdf" in found:
        out["F"] = off(found["cdf"], true["cdf"]) / eps
        out["F ulp"] = off(found["cdf"], true["cdf"]) / ulps(true["cdf"].high, dtype)
    if "sf" in found:
        out["S ulp"] = off(found["sf"], true["sf"]) / ulps(true["sf"].high, dtype)
    if set(VALUES) <= found.keys():
        low = true["cdf"].high <= true["sf"].high
        distance = np.where(low, off(found["cdf"], true["cdf"]), off(found["sf"], true["sf"]))
        condition = np.maximum(true["condition"].high, 1.0)
        tail = true["tail"].high
        out["tail"] = distance / np.maximum(eps * tail * condition, smallest)
        # what an exponential costs whose argument is rounded once: |log T| beside the condition
        depth = np.abs(np.log(np.maximum(tail, info.tiny * info.eps)))
        out["deep tail"] = distance / np.maximum(eps * tail * (condition + depth), smallest)
        out["tail ulp"] = distance / ulps(true["tail"].high, dtype)
    if "d_mu" in found:
        out["d_mu"] = off(found["d_mu"], true["d_mu"]) / ulps(true["d_mu"].high, dtype)
    if dtype is torch.float32 and set(VALUES + FIRST) <= found.keys():
        out["rounded"] = np.max(
            [_from_rounded(found[name], true[name].high) for name in VALUES + FIRST], axis=0
        )
    for name, scale in (
        ("d_r", "scale_r"),
        ("d_mu_mu", "scale_mu_mu"),
        ("d_mu_r", "scale_mu_r"),
        ("d_r_r", "scale_r_r"),
    ):
        if name in found:
            out[name] = off(found[name], true[name]) / unit(true[name].high, true[scale].high, eps, smallest)
    return out


def _from_rounded(found: Array, true: Array) -> Array:
    """Distance from the truth rounded to float32, in its last place."""
    with np.errstate(over="ignore", under="ignore"):
        nearest = true.astype(np.float32).astype(np.float64)
    return off(found, Pair(nearest, np.zeros_like(nearest))) / ulps(nearest, torch.float32)
