"""The tables of the accuracy page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.metadata import version

import numpy as np
import torch

from scripts.accuracy_study import measure
from scripts.accuracy_study.measure import REGIONS, Pair, Results
from scripts.accuracy_study.points import Array
from scripts.accuracy_study.promises import EVERYWHERE, PROMISES, Errors, found
from scripts.accuracy_study.runs import FORMS, Case, Peer

PROMISED = ("float64", "float32")
FIRST = ("F", "F ulp", "S ulp", "tail", "d_mu", "d_r")
SECOND = ("d_mu_mu", "d_mu_r", "d_r_r")
HEADS = {
    "F": "F, eps",
    "F ulp": "F, ulp",
    "S ulp": "1 − F, ulp",
    "tail": "smaller tail, eps × condition",
    "d_mu": "dF/dmu, ulp",
    "d_r": "dF/dr, eps × scale",
    "d_mu_mu": "mu-mu",
    "d_mu_r": "mu-r",
    "d_r_r": "r-r",
}
Cases = dict[tuple[str, str], Case]
Peers = dict[str, list[Peer]]


def number(value: float) -> str:
    """Two significant digits."""
    if not np.isfinite(value):
        return "inf"
    if value == 0.0:
        return "0"
    if 0.01 <= value < 1000.0:
        return f"{value:.2g}" if value < 100.0 else f"{value:.0f}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def cell(values: Array) -> str:
    """Largest / 99th percentile."""
    if values.size == 0:
        return "–"
    return f"{number(float(values.max()))} / {number(float(np.quantile(values, 0.99, method='higher')))}"


def grid(heads: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def errors_of(one: Case, form: str) -> Results:
    """Our errors at the points of a case."""
    return measure.errors(one.found, one.true, FORMS[form])


def by_set(cases: Cases, form: str, columns: Sequence[str]) -> str:
    """A row for every set."""

    def rows() -> Iterator[Sequence[str]]:
        for (dtype, name), one in cases.items():
            if dtype == form:
                errors = errors_of(one, form)
                yield [name, f"{len(one.points.k):,}", *(cell(errors[column]) for column in columns)]

    return grid(["points", "number", *(HEADS[column] for column in columns)], rows())


def by_region(cases: Cases, form: str, columns: Sequence[str]) -> str:
    """A row for every region, all sets together."""
    chosen = [one for (dtype, _), one in cases.items() if dtype == form]
    region = np.concatenate([one.region for one in chosen])
    parts = [errors_of(one, form) for one in chosen]
    pooled = {column: np.concatenate([part[column] for part in parts]) for column in columns}

    def rows() -> Iterator[Sequence[str]]:
        for index, name in enumerate(REGIONS):
            inside = region == index
            yield [name, f"{int(inside.sum()):,}", *(cell(pooled[column][inside]) for column in columns)]

    return grid(["region", "number", *(HEADS[column] for column in columns)], rows())


def halves(cases: Cases) -> str:
    """Values alone, for the formats that round the most."""

    def rows() -> Iterator[Sequence[str]]:
        for (dtype, name), one in cases.items():
            if dtype in ("float16", "bfloat16"):
                errors = errors_of(one, dtype)
                cells = [cell(errors[column]) for column in ("F", "F ulp", "S ulp")]
                yield [dtype, name, f"{len(one.points.k):,}", *cells]

    return grid(["dtype", "points", "number", "F, eps", "F, ulp", "1 − F, ulp"], rows())


def beside(cases: Cases, peers: Peers, form: str, name: str) -> str:
    """Ours and every peer at one set."""
    one = cases[form, name]
    columns = FIRST[:1] + FIRST[3:]

    def row(title: str, release: str, results: Results) -> Sequence[str]:
        asked = results["asked"] > 0.0 if "asked" in results else np.ones(len(one.points.k), bool)
        given = {key: results[key][asked] for key in measure.VALUES + measure.FIRST if key in results}
        true = {key: Pair(value.high[asked], value.low[asked]) for key, value in one.true.items()}
        if "sf" not in given:  # nobody can do better than subtract
            given["sf"] = 1.0 - given["cdf"]
        strange = ~((given["cdf"] >= 0.0) & (given["cdf"] <= 1.0))
        lost = np.any([np.isnan(given[key]) for key in measure.FIRST if key in given] or [False], axis=0)
        errors = measure.errors(given, true, FORMS[form])
        sources = {"F": "cdf", "tail": "cdf"}
        kept = {
            column: ~np.isnan(given[source])
            for column in columns
            if (source := sources.get(column, column)) in given
        }
        cells = [cell(errors[column][kept[column]]) if column in kept else "none" for column in columns]
        return [title, release, f"{asked.sum():,}", f"{strange.sum():,}", f"{lost.sum():,}", *cells]

    def rows() -> Iterator[Sequence[str]]:
        yield row("**this package**", version("proven-losses"), one.found)
        for peer in peers[form]:
            if peer.missing:
                yield [peer.title, "missing", peer.missing.replace("|", "/"), *[""] * (len(columns) + 2)]
            else:
                yield row(peer.title, peer.version, peer.found[name])

    heads = [
        "",
        "version",
        "points",
        "F NaN or not in [0, 1]",
        "gradient NaN",
        *(HEADS[column] for column in columns),
    ]
    return grid(heads, rows())


def promised(cases: Cases) -> str:
    """A row for every promise."""
    study = {
        key: Errors(errors_of(one, key[0]), one.region) for key, one in cases.items() if key[0] in PROMISED
    }

    def rows() -> Iterator[Sequence[str]]:
        for promise in PROMISES:
            value = found(promise, study)
            where = "all" if promise.sets == EVERYWHERE else ", ".join(promise.sets)
            holds = "yes" if value <= promise.limit else "**no**"
            yield [promise.text, promise.form, where, f"{promise.limit:g}", number(value), holds]

    return grid(["error", "dtype", "points", "promised", "found", "holds"], rows())


def page(cases: Cases, peers: Peers, size: int, seed: int, default: bool) -> str:
    """Everything between the lines of docs/accuracy.md."""
    arguments = "" if default else f' ARGS="--points {size} --seed {seed}"'
    largest = "Every cell: largest error / 99th percentile."
    made = f"torch {torch.__version__}, numpy {np.__version__}. Regenerate: `make accuracy{arguments}`."
    parts = [
        f"Seed {seed}, {size:,} points a set. {largest} Made with {made}",
        "### The promises",
        promised(cases),
        "### float64, by set",
        by_set(cases, "float64", FIRST),
        "### float64, by region, all sets together",
        by_region(cases, "float64", FIRST),
        "### float32 inputs, by set",
        by_set(cases, "float32", FIRST),
        "### float32 inputs, by region",
        by_region(cases, "float32", FIRST),
        "### Half precision, the value",
        halves(cases),
        "### Second derivatives, float64",
        by_set(cases, "float64", SECOND),
        by_region(cases, "float64", SECOND),
        *(
            text
            for form in peers
            for name in ("realistic", "wide", "independent")
            for text in (f"### Beside others: {form}, {name} points", beside(cases, peers, form, name))
        ),
    ]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"
