"""What is promised of the implementation, and whether a study bears it out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from scripts.accuracy_study.measure import REGIONS, Results
from scripts.accuracy_study.points import SETS, Array

SERIES = REGIONS.index("series")
EVERYWHERE = tuple(SETS)
ELSEWHERE = tuple(name for name in SETS if name != "realistic")


class Promise(NamedTuple):
    """An error, where it counts, and what it may be at most."""

    text: str
    form: str
    sets: tuple[str, ...]
    column: str
    limit: float
    quantile: float = 1.0
    series: bool | None = None  # inside the small-r series, outside of it, or both


class Errors(NamedTuple):
    """The errors at a set of points and the region that answers at each."""

    errors: Results
    region: Array


PROMISES = (
    Promise("F, eps", "float64", EVERYWHERE, "F", 10.0),
    Promise("F, ulp", "float64", ("realistic",), "F ulp", 10.0),
    Promise("1 − F, ulp", "float64", ("realistic",), "S ulp", 10.0),
    Promise(
        "smaller tail, eps × condition, outside the series", "float64", ("wide",), "tail", 3.0, series=False
    ),
    Promise(
        "smaller tail T, eps × (condition + abs(log T)), outside the series",
        "float64",
        ELSEWHERE,
        "deep tail",
        3.0,
        series=False,
    ),
    Promise("smaller tail, eps × condition, in the series", "float64", EVERYWHERE, "tail", 50.0, series=True),
    Promise("dF/dmu, ulp", "float64", ("realistic",), "d_mu", 16.0),
    Promise("dF/dr, eps × scale, 99th percentile", "float64", ("realistic", "wide"), "d_r", 100.0, 0.99),
    Promise("dF/dr, eps × scale", "float64", ("realistic", "wide"), "d_r", 1000.0),
    Promise(
        "F, 1 − F and both gradients, ulp from the rounded truth",
        "float32",
        ("realistic", "wide", "independent"),
        "rounded",
        1.0,
    ),
)


def found(promise: Promise, study: Mapping[tuple[str, str], Errors]) -> float:
    """The largest error (or the quantile) where the promise speaks; 0 where there are no points."""
    parts = []
    for name in promise.sets:
        one = study.get((promise.form, name))
        if one is None:
            continue
        values = one.errors[promise.column]
        if promise.series is not None:
            values = values[(one.region == SERIES) == promise.series]
        parts.append(values)
    values = np.concatenate([np.zeros(1), *parts])
    return float(
        values.max() if promise.quantile == 1.0 else np.quantile(values, promise.quantile, method="higher")
    )


def broken(study: Mapping[tuple[str, str], Errors]) -> list[str]:
    """A sentence for every promise that does not hold."""
    return [
        f"{promise.form}: {promise.text} is {value:.3g}, promised {promise.limit:g}"
        for promise in PROMISES
        if not (value := found(promise, study)) <= promise.limit
    ]
