"""Errors of the loss and its gradients on every layout, against the 80-bit truth."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from scripts.infonce_study import formulas, ours
from scripts.infonce_study.layouts import LAYOUTS, Array, drawn
from scripts.infonce_study.truth import Batch, Long, Truth, by_digits

FORMS = {"float64": torch.float64, "float32": torch.float32}
TAUS, EPSES = (0.1, 5.0), (0.0, 1e-8, 0.5)
SIZES = {1: 2000, 2: 500, 8: 500, 64: 500}
# float64: relative; float32: in units of the last place
TARGETS = {"float64": 1e-13, "float32": 4.0}
TINY = 2.0**-53
FORMULAS = ("broadcast", "cdist")
FORMULA_EPSES = (0.0, 1e-8)
SEED = 0
FEW = 12

Evaluate: TypeAlias = Callable[[Tensor, Tensor, float, float], Truth]


class Errors(NamedTuple):
    """The largest error of a row, that of the mean, and the largest of a gradient, normwise.

    `judged` is the largest of those without rows whose loss is below `TINY`, and without mean and gradient
    where the mean or the largest component is: such a number is exp(-z), and its relative error is that of
    z, up to 745.
    """

    rows: float
    mean: float
    gradient: float
    judged: float

    def worst(self) -> float:
        """The largest of all."""
        return max(self)


class Unit(NamedTuple):
    """One layout in one format with one number of features; one task."""

    layout: str
    form: str
    features: int


class Setting(NamedTuple):
    """One evaluation within a unit."""

    name: str
    tau: float
    eps: float


Study = dict[Unit, dict[Setting, Errors]]


def units(sizes: dict[int, int]) -> list[Unit]:
    """Everything that is measured."""
    return [Unit(name, form, features) for form in FORMS for features in sizes for name in LAYOUTS]


def off(found: Long, true: Long, form: str) -> Long:
    """Error of each element in the unit of its format; beyond the largest number the true value is that one.

    float64: relative to the true value or the smallest normal number. float32: in units of the last place.
    """
    info = np.finfo(form)
    true = np.clip(true, -info.max, info.max)
    size = np.abs(true)
    unit = np.maximum(size, info.tiny) if form == "float64" else _last_place(size, info)
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(found - true) / unit
    return np.where(np.isfinite(found), error, np.inf)


def _last_place(size: Long, info: np.finfo) -> Long:
    _, exponent = np.frexp(size)
    place = np.where(size > 0, np.ldexp(np.longdouble(info.eps), exponent - 1), 0)
    return np.maximum(place, np.longdouble(info.smallest_subnormal))


def normwise(found: Long, true: Long, form: str) -> float:
    """The largest error of a component in the unit of the largest true one."""
    if not np.isfinite(found).all():
        return np.inf
    largest = np.abs(true).max()
    return float(off(largest + np.abs(found - true).max(), largest, form))


def errors(found: Truth, true: Truth, form: str) -> Errors:
    """All three."""
    rows = off(found.rows, true.rows, form)
    mean = float(off(np.asarray(found.mean), np.asarray(true.mean), form))
    gradient = max(normwise(found.gx, true.gx, form), normwise(found.gy, true.gy, form))
    judged = float(rows.max(initial=0.0, where=true.rows >= TINY))
    if true.mean >= TINY:
        judged = max(judged, mean)
        if max(np.abs(true.gx).max(), np.abs(true.gy).max()) >= TINY:
            judged = max(judged, gradient)
    return Errors(float(rows.max()), mean, gradient, judged)


def _long(tensor: Tensor) -> Long:
    return np.asarray(tensor.detach().double().numpy().astype(np.longdouble))


def ours_by(impl: str) -> Evaluate:
    """The public function with one implementation."""

    def evaluate(x: Tensor, y: Tensor, tau: float, eps: float) -> Truth:
        rows = ours.loss(x.detach(), y.detach(), tau, eps, impl=impl, reduction="none")
        mean = ours.loss(x, y, tau, eps, impl=impl)
        return _truth(rows, mean, x, y)

    return evaluate


def by_formula(name: str) -> Evaluate:
    """What is written by hand."""

    def evaluate(x: Tensor, y: Tensor, tau: float, eps: float) -> Truth:
        rows = getattr(formulas, name)(x, y, tau, eps)
        return _truth(rows, rows.mean(), x, y)

    return evaluate


def _truth(rows: Tensor, mean: Tensor, x: Tensor, y: Tensor) -> Truth:
    gx, gy = torch.autograd.grad(mean, (x, y))
    return Truth(_long(rows), np.longdouble(mean.item()), _long(gx), _long(gy))


def evaluations(features: int, eps: float) -> dict[str, Evaluate]:
    """Ours in every implementation, and the formulas."""
    own = {name: ours_by(name) for name in ours.implementations(features)}
    return own if eps not in FORMULA_EPSES else {**own, **{name: by_formula(name) for name in FORMULAS}}


def batch_of(unit: Unit, size: int) -> tuple[Array, Array]:
    """The layout's numbers as the format holds them, in float64."""
    x, y = drawn(unit.layout, size, unit.features, SEED)
    return tuple(side.astype(unit.form).astype(np.float64) for side in (x, y))


def measure(unit: Unit, size: int) -> dict[Setting, Errors]:
    """The errors of everyone at every temperature and ε."""
    torch.set_num_threads(1)
    x, y = batch_of(unit, size)
    batch, found = Batch(x, y), {}
    for tau in TAUS:
        for eps, true in zip(EPSES, batch.truths(tau, EPSES), strict=True):
            for name, evaluate in evaluations(unit.features, eps).items():
                pair = [torch.from_numpy(side).to(FORMS[unit.form]).requires_grad_() for side in (x, y)]
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    found[Setting(name, tau, eps)] = errors(evaluate(*pair, tau, eps), true, unit.form)
    return found


def reference_error() -> float:
    """The largest error of the 80-bit truth against digits, on a few rows of every layout."""
    worst = 0.0
    for name in LAYOUTS:
        for features in (1, 2):
            x, y = drawn(name, FEW, features, SEED + 1)
            batch = Batch(x, y)
            for tau in TAUS:
                for eps, true in zip(EPSES, batch.truths(tau, EPSES), strict=True):
                    worst = max(worst, errors(true, by_digits(x, y, tau, eps), "float64").worst())
    return worst


def chosen(study: Study, **wanted: object) -> Iterator[Errors]:
    """The errors of every unit and setting with the wanted properties."""
    for unit, settings in study.items():
        for setting, found in settings.items():
            if all(
                getattr(setting if key in Setting._fields else unit, key) == v for key, v in wanted.items()
            ):
                yield found


def worst(found: Iterator[Errors]) -> Errors | None:
    """The largest of each error; None where there is none."""
    every = list(found)
    return Errors(*(max(column) for column in zip(*every, strict=True))) if every else None
