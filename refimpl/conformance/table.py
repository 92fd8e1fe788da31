"""A report in the terminal: what was tried, how close it came, what is wrong."""

from collections.abc import Mapping

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from refimpl.conformance.report import Cell, Report, tried

__all__ = ["show"]

WIDE = 116  # columns from which the name of a loss fits into its row
NARROWEST = 80  # columns below which lines run over the edge instead of losing digits
STYLES = {"violated": "red", "unfinished": "yellow"}


def show(report: Report, console: Console) -> None:
    """Print the table, the notes, one counterexample for every loss that has one, and the verdict.

    Names of families and properties are broken between words, the name of a loss and a number never: in a
    narrow terminal the loss stands above its rows instead of in them.

    Args:
        report: what a run found.
        console: where to print; its width decides about the shape of the table.

    Example:
        >>> cells = (Cell("mse", "value", "float32", 3, ratios={"huge": (0.25,)}),)
        >>> show(Report("mine", "torch", "cpu", 0, 8, cells, (), missing=("mae",)), Console(width=80))
        mine: largest error / bound
          dtype    examples     value family       gradient family      violations
        mse
          float32         3      0.25 huge
        mae missing
        <BLANKLINE>
        no violation in 3 examples, seed 0
    """
    width, console.width = console.width, max(console.width, NARROWEST)
    try:
        _show(report, console)
    finally:
        console.width = width


def _show(report: Report, console: Console) -> None:
    console.print(f"{report.target}: largest error / bound", style="italic", markup=False, highlight=False)
    if console.width < WIDE:
        _narrow(report, console)
    else:
        _wide(report, console)
    for note in report.notes:
        console.print(f"note: {note}", style="dim", markup=False, highlight=False)
    for loss in dict.fromkeys(violation.loss for violation in report.violations):
        violation = report.worst(loss)
        assert violation is not None
        title = f"\n{loss}: {violation.property}, smallest input found"
        console.print(title, style="bold red", markup=False, highlight=False)
        console.print(violation.snippet, markup=False, highlight=False, soft_wrap=True, end="")
    console.print(f"\n{report.verdict}", markup=False, highlight=False)


def _wide(report: Report, console: Console) -> None:
    """One table with the loss in every row."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("loss", "dtype", "examples", "value", "family", "gradient", "family", "violations"):
        number = name in {"examples", "value", "gradient"}
        table.add_column(
            name, justify="right" if number else "left", no_wrap=number or name in {"loss", "dtype"}
        )
    for (loss, dtype), cells in report.rows.items():
        table.add_row(*_texts(loss, dtype, *_row(cells)), style=_style(cells))
    for loss in report.missing:
        table.add_row(*_texts(loss, "", "", "", "", "", "", "missing"), style="dim")
    console.print(table)


def _narrow(report: Report, console: Console) -> None:
    """The loss above its rows; every table has the same columns."""
    numbers = {"dtype": 8, "examples": 8, "value": 9, "gradient": 9}
    rest = console.width - sum(numbers.values()) - len("  ") - 6
    family = rest * 2 // 7

    def empty() -> Table:
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, show_header=False)
        table.add_column(width=1)
        for name in ("dtype", "examples", "value", "family", "gradient", "family", "violations"):
            space = numbers.get(name, family if name == "family" else rest - 2 * family)
            right = name in {"examples", "value", "gradient"}
            table.add_column(width=space, justify="right" if right else "left", no_wrap=name in numbers)
        return table

    heading = empty()
    heading.add_row(
        "", "dtype", "examples", "value", "family", "gradient", "family", "violations", style="bold"
    )
    console.print(heading)
    tables: dict[str, Table] = {}
    for (loss, dtype), cells in report.rows.items():
        table = tables.setdefault(loss, empty())
        table.add_row("", *_texts(dtype, *_row(cells)), style=_style(cells))
    for loss, table in tables.items():
        console.print(loss, style="bold", markup=False, highlight=False, soft_wrap=True)
        console.print(table)
    for loss in report.missing:
        console.print(f"{loss} missing", style="dim", markup=False, highlight=False, soft_wrap=True)


def _row(cells: Mapping[str, Cell]) -> tuple[str, ...]:
    """Examples, both ratios with their families, and what is wrong or was not finished."""
    found = [f"{name} ({cell.violated})" for name, cell in cells.items() if cell.violated]
    cut = [name for name, cell in cells.items() if cell.unfinished]
    found += [f"unfinished: {', '.join(cut)}"] if cut else []
    return (str(tried(cells)), *_ratio(cells.get("value")), *_ratio(cells.get("gradient")), ", ".join(found))


def _ratio(cell: Cell | None) -> tuple[str, str]:
    """The largest ratio and its family, nothing where none was taken."""
    if cell is None or not any(cell.ratios.values()):
        return "", ""
    ratio, family = cell.worst
    return f"{ratio:.3g}", family


def _style(cells: Mapping[str, Cell]) -> str:
    verdicts = {cell.verdict for cell in cells.values()}
    return next((style for verdict, style in STYLES.items() if verdict in verdicts), "")


def _texts(*words: str) -> list[Text]:
    """Names of a foreign module are text, not markup."""
    return [Text(word) for word in words]
