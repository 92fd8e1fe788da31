"""A report as one HTML page that asks for nothing else: no script, style, font or picture from outside."""

import base64
import hashlib
import shlex
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from refimpl.conformance.catalogue import CATALOGUE
from refimpl.conformance.formats import FORMATS
from refimpl.conformance.properties import PROPERTIES
from refimpl.conformance.report import Cell, Report, Violation, tried

__all__ = ["render", "write"]

SYMBOLS = {"violated": "✗", "unfinished": "…", "held": "✓", "not asked": "○"}
RATIOS = ("value", "gradient")
TEMPLATES = files("refimpl.conformance") / "templates"


def write(report: Report, path: str | Path, command: str = "") -> None:
    """Write the page of `render` into a file.

    Raises:
        ImportError: jinja2 or matplotlib is not installed.
        OSError: the file cannot be written.
    """
    Path(path).write_text(render(report, command), encoding="utf-8")


def render(report: Report, command: str = "") -> str:
    """The report as the text of a page.

    It reads without JavaScript; with it, rows can be filtered (also by the address: `#only=violated`,
    `#loss=masked`, `#dtype=float16`) and snippets copied. Equal reports give equal pages.

    Args:
        report: what a run found.
        command: the command that made it; guessed from the report if empty.

    Raises:
        ImportError: jinja2 or matplotlib is not installed.

    Example:
        >>> cell = Cell("mse", "value", "float32", 3, ratios={"huge": (0.0, 0.25, 0.5)})
        >>> page = render(Report("mine", "torch", "cpu", 0, 8, (cell,), ()))
        >>> "no violation in 3 examples, seed 0" in page, "://" in page
        (True, False)
    """
    try:
        import jinja2  # noqa: PLC0415 - an optional package, and only a page needs it
        from markupsafe import Markup  # noqa: PLC0415

        pictures = _plots(report)
    except ImportError as error:
        raise ImportError(
            f"an HTML report needs jinja2 and matplotlib: pip install 'proven-losses[verify]' ({error})"
        ) from error
    safe = {loss: {name: Markup(svg) for name, svg in one.items()} for loss, one in pictures.items()}  # noqa: S704 - own SVG
    script = _text("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_text),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        report=report,
        command=command or guessed_command(report),
        blocks=_blocks(report),
        properties=_properties(report),
        pictures=safe,
        violations=_violations(report),
        symbols=SYMBOLS,
        counts=_counts(report),
        script=Markup(script),  # noqa: S704 - own file
        style=Markup(_text("report.css")),  # noqa: S704 - own file
        digest=digest,
    )


def _text(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


@dataclass(frozen=True)
class _Field:
    """One field of the matrix: a verdict, what to say about it, where it leads."""

    verdict: str
    label: str
    link: str


@dataclass(frozen=True)
class _Row:
    """One dtype of a loss: the fields in the order of the columns, and the largest ratios."""

    dtype: str
    examples: int
    verdict: str
    fields: tuple[_Field | None, ...]
    ratios: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Block:
    """The rows of one loss; `place` makes the ids of its parts."""

    loss: str
    place: int
    rows: tuple[_Row, ...]
    violations: int


@dataclass(frozen=True)
class _Column:
    """One property and what became of it."""

    name: str
    place: int
    holds: str
    asked: int
    violated: int


def _losses(report: Report) -> list[str]:
    return list(dict.fromkeys(cell.loss for cell in report.cells))


def _names(report: Report) -> list[str]:
    """Properties in the order of the register, then those it does not know."""
    met = list(dict.fromkeys(cell.property for cell in report.cells))
    return [name for name in PROPERTIES if name in met] + [name for name in met if name not in PROPERTIES]


def _blocks(report: Report) -> list[_Block]:
    names = _names(report)
    links = _first_violations(report)
    found = []
    for place, loss in enumerate(_losses(report)):
        rows = []
        for (_, dtype), cells in ((key, cells) for key, cells in report.rows.items() if key[0] == loss):
            fields = tuple(
                _field(cells[name], links, names.index(name), place) if name in cells else None
                for name in names
            )
            verdicts = {cell.verdict for cell in cells.values()}
            verdict = next((one for one in SYMBOLS if one in verdicts), "not asked")
            ratios = tuple(_ratio(cells.get(name)) for name in RATIOS)
            rows.append(_Row(dtype, tried(cells), verdict, fields, ratios))
        wrong = sum(violation.loss == loss for violation in report.violations)
        found.append(_Block(loss, place, tuple(rows), wrong))
    return found


def _field(cell: Cell, links: dict[tuple[str, str, str], int], column: int, place: int) -> _Field:
    key = (cell.loss, cell.dtype, cell.property)
    words = f"{cell.loss}, {cell.dtype}, {cell.property}: {cell.verdict}; asked {_times(cell.asked)}"
    words += f", violated {_times(cell.violated)}" if cell.violated else ""
    words += "; time limit reached" if cell.unfinished else ""
    if any(cell.ratios.values()):
        words += "; largest error / bound {} ({})".format(*_ratio(cell))
    link = f"property-{column}"
    if cell.property in RATIOS and any(cell.ratios.values()):
        link = f"ratios-{place}"
    if key in links:
        link = f"violation-{links[key]}"
    return _Field(cell.verdict, words, link)


def _times(number: int) -> str:
    return {0: "never", 1: "once"}.get(number, f"{number} times")


def _ratio(cell: Cell | None) -> tuple[str, str]:
    if cell is None or not any(cell.ratios.values()):
        return "", ""
    ratio, family = cell.worst
    return f"{ratio:.3g}", family


def _first_violations(report: Report) -> dict[tuple[str, str, str], int]:
    found: dict[tuple[str, str, str], int] = {}
    for place, one in enumerate(report.violations):
        found.setdefault((one.loss, one.dtype, one.property), place)
    return found


def _violations(report: Report) -> dict[str, list[tuple[int, Violation]]]:
    """The violations of every loss with their places in the report."""
    found: dict[str, list[tuple[int, Violation]]] = {}
    for place, one in enumerate(report.violations):
        found.setdefault(one.loss, []).append((place, one))
    return found


def _properties(report: Report) -> list[_Column]:
    def total(name: str, field: str) -> int:
        return sum(getattr(cell, field) for cell in report.cells if cell.property == name)

    return [
        _Column(
            name,
            place,
            PROPERTIES[name].holds if name in PROPERTIES else "",
            total(name, "asked"),
            total(name, "violated"),
        )
        for place, name in enumerate(_names(report))
    ]


def _counts(report: Report) -> dict[str, int]:
    """How many cells have each verdict."""
    return {verdict: sum(cell.verdict == verdict for cell in report.cells) for verdict in SYMBOLS}


def _plots(report: Report) -> dict[str, dict[str, str]]:
    """The pictures of every loss, by property; all have the same axis."""
    from refimpl.conformance.plots import Axis, histogram  # noqa: PLC0415 - only a page has pictures

    together: dict[str, dict[str, dict[str, list[float]]]] = {loss: {} for loss in _losses(report)}
    for cell in report.cells:
        ratios = [ratio for some in cell.ratios.values() for ratio in some]
        if ratios:
            together[cell.loss].setdefault(cell.property, {})[cell.dtype] = ratios
    every = (found for one in together.values() for by in one.values() for found in by.values())
    axis = Axis.around(ratio for found in every for ratio in found)
    return {
        loss: {name: histogram(one[name], axis, f"{name}-{place}") for name in RATIOS if name in one}
        for place, (loss, one) in enumerate(together.items())
    }


def guessed_command(report: Report) -> str:
    """The command line that makes this report, as far as the report tells.

    Example:
        >>> cell = Cell("masked_mse", "value", "float32", 3)
        >>> guessed_command(Report("mine", "torch", "cpu", 7, 8, (cell,), ())).partition(" --dtype ")[2]
        'float32 --property value --max-examples 8 --seed 7'
    """
    words: list[Any] = ["python", "-m", "refimpl", "verify", report.target]
    losses = [*_losses(report), *report.missing]
    dtypes = list(dict.fromkeys(cell.dtype for cell in report.cells))
    asked = {name for name in _names(report) if name in PROPERTIES}
    words += ["--loss", *losses] if set(losses) != set(CATALOGUE) else []
    words += ["--dtype", *dtypes] if set(dtypes) != set(FORMATS) else []
    words += ["--property", *_names(report)] if not asked >= {"returns", "value", "gradient"} else []
    words += ["--adapter", report.adapter] if report.adapter != "torch" else []
    words += ["--device", report.device] if report.device != "cpu" else []
    words += ["--max-examples", report.max_examples, "--seed", report.seed]
    return shlex.join(str(word) for word in words)
