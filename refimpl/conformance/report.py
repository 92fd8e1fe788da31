"""What a run found: as data, as JSON and as a table."""

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

__all__ = ["Cell", "Report", "Violation", "show"]


@dataclass(frozen=True)
class Cell:
    """One loss in one dtype.

    Attributes:
        loss: name of the loss.
        dtype: name of the input dtype.
        examples: how many batches were judged.
        skipped: how many the oracle declined as too expensive.
        value_ratio: largest error / bound of the value.
        value_family: the family that reached it.
        gradient_ratio: largest error / bound of a gradient.
        gradient_family: the family that reached it.
        violations: how many batches had one, by kind.
    """

    loss: str
    dtype: str
    examples: int
    skipped: int
    value_ratio: float
    value_family: str
    gradient_ratio: float
    gradient_family: str
    violations: dict[str, int]


@dataclass(frozen=True)
class Violation:
    """One kind of failure of one loss in one dtype, on its smallest known input.

    Attributes:
        loss: name of the loss.
        dtype: name of the input dtype.
        kind: a key of `properties.KINDS`.
        family: the family of the input.
        message: what is wrong, with numbers.
        numbers: how many numbers the input holds.
        snippet: source text that shows it.
    """

    loss: str
    dtype: str
    kind: str
    family: str
    message: str
    numbers: int
    snippet: str


@dataclass(frozen=True)
class Report:
    """Everything a run found; `ok` says whether nothing is wrong."""

    target: str
    seed: int
    max_examples: int
    cells: tuple[Cell, ...]
    violations: tuple[Violation, ...]
    missing: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether no property was violated."""
        return not self.violations

    def worst(self, loss: str) -> Violation | None:
        """The violation of a loss with the smallest input that is not empty, where there is one."""
        found = [violation for violation in self.violations if violation.loss == loss]
        return min(found, key=lambda one: (one.numbers == 0, one.numbers), default=None)

    def to_json(self) -> str:
        """The report as JSON text; infinite ratios are the string "inf"."""
        return json.dumps({**_plain(asdict(self)), "ok": self.ok}, indent=2) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def show(report: Report, console: Console) -> None:
    """Print the table, then one counterexample for every loss that has one."""
    title = f"{report.target}: largest error / bound"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("loss", "dtype", "examples", "value", "family", "gradient", "family", "violations"):
        number = name in {"examples", "value", "gradient"}
        # a narrow terminal breaks families and kinds, never names and numbers
        short = number or name in {"loss", "dtype"}
        table.add_column(name, justify="right" if number else "left", no_wrap=short, overflow="fold")
    for cell in report.cells:
        table.add_row(*_row(cell), style="" if not cell.violations else "red")
    for name in report.missing:
        table.add_row(name, "", "", "", "", "", "", "missing", style="dim")
    console.print(table)
    for loss in dict.fromkeys(violation.loss for violation in report.violations):
        violation = report.worst(loss)
        assert violation is not None
        console.print(f"\n{loss}: {violation.kind}, smallest input found", style="bold red", highlight=False)
        console.print(violation.snippet, markup=False, highlight=False, soft_wrap=True, end="")
    verdict = f"{len(report.violations)} violations" if report.violations else "no violation"
    examples = sum(cell.examples for cell in report.cells)
    console.print(f"\n{verdict} in {examples} examples, seed {report.seed}", highlight=False)


def _row(cell: Cell) -> tuple[str, ...]:
    found = ", ".join(f"{kind} ({count})" for kind, count in cell.violations.items())
    return (
        cell.loss,
        cell.dtype,
        str(cell.examples),
        f"{cell.value_ratio:.3g}",
        cell.value_family,
        f"{cell.gradient_ratio:.3g}",
        cell.gradient_family,
        found,
    )
