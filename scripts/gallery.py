"""What the engine finds in losses that people use: the textbook forms and a released package.

    python scripts/gallery.py            # print
    python scripts/gallery.py --write    # write docs/tables/gallery.md

Every line of the page is a violation of this very run, with the smallest input found.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, TaskID

from refimpl.conformance import textbook
from refimpl.conformance.catalogue import CATALOGUE
from refimpl.conformance.properties import PROPERTIES
from refimpl.conformance.report import Report, Violation
from refimpl.conformance.runner import verify

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "tables" / "gallery.md"
TELLING = ("finite", "value", "inert", "gradient", "nan", "graph", "second derivative")
WIDTH = 170  # of a message in a table
TARGETS = (
    ("chemomae.models.losses", f"`chemomae` {version('chemomae')}", ("masked_sse", "masked_mse")),
    ("refimpl.conformance.textbook", "The textbook forms", tuple(CATALOGUE)),
)


def section(title: str, name: str, report: Report) -> Iterator[str]:
    """A target: a matrix, then every loss with its smallest counterexamples."""
    asked = sum(cell.asked > 0 for cell in report.cells)
    broken = sum(cell.verdict == "violated" for cell in report.cells)
    yield f"## {title}\n\n"
    yield f"Target `{name}`, seed {report.seed}, {report.max_examples} inputs a family: of {asked} questions "
    yield f"(loss × property × dtype) {asked - broken} are answered rightly, {broken} are not.\n\n"
    for loss in dict.fromkeys(violation.loss for violation in report.violations):
        found = [violation for violation in report.violations if violation.loss == loss]
        yield f"### `{loss}`\n\n"
        yield from _reason(name, loss)
        yield "| property | dtypes | numbers | family | what the smallest input shows |\n"
        yield "|---|---|---|---|---|\n"
        yield from (_row(same) for same in _by_property(found))
        for violation in _shown(found):
            title = f"{violation.property}, {violation.dtype}"
            yield f'\n??? example "{title}"\n\n{_indented(violation.snippet)}\n'


def _reason(name: str, loss: str) -> Iterator[str]:
    if name == textbook.__name__:
        document = (getattr(textbook, loss).__doc__ or "").split("\n\n")
        yield " ".join(part.strip() for line in document for part in line.splitlines()).strip() + "\n\n"


def _shown(found: Sequence[Violation]) -> list[Violation]:
    """The two most telling kinds of failure, in single or double precision where they show there."""

    def rank(violation: Violation) -> tuple[bool, int, bool, int]:
        kinds = TELLING.index(violation.property) if violation.property in TELLING else len(TELLING)
        half = violation.dtype.endswith("16")
        return violation.numbers == 0, kinds, half, violation.numbers

    first: dict[str, Violation] = {}
    for violation in sorted(found, key=rank):
        first.setdefault(violation.property, violation)
    return list(first.values())[:2]


def _by_property(found: Sequence[Violation]) -> list[list[Violation]]:
    names = [name for name in PROPERTIES if any(violation.property == name for violation in found)]
    return [[violation for violation in found if violation.property == name] for name in names]


def _row(same: Sequence[Violation]) -> str:
    smallest = _telling(same)
    dtypes = ", ".join(dict.fromkeys(violation.dtype for violation in same))
    message = " ".join(smallest.message.split()).replace("|", "\\|")
    shown = message if len(message) <= WIDTH else message[: WIDTH - 1] + "…"
    code = shown.replace("`", "'")
    return f"| {smallest.property} | {dtypes} | {smallest.numbers or '–'} | {smallest.family} | `{code}` |\n"


def _telling(found: Sequence[Violation]) -> Violation:
    """The one with the fewest numbers, a drawn input before a fixed call."""
    return min(found, key=lambda one: (one.numbers == 0, one.numbers))


def _indented(text: str) -> str:
    return "".join(f"    {line}\n" if line else "\n" for line in ["```python", *text.splitlines(), "```"])


def page() -> str:
    """The generated part of the gallery."""
    parts = []
    with Progress(console=Console(stderr=True), transient=True) as bar:
        for name, title, losses in TARGETS:
            task = bar.add_task(title)

            def step(loss: str, dtype: str, done: int, total: int, task: TaskID = task) -> None:
                bar.update(task, completed=done, total=total, description=f"{loss} {dtype}")

            module = __import__(name, fromlist=["_"])
            parts += section(title, name, verify(module, losses, progress=step))
    return "".join(parts)


def main() -> int:
    """Print or write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # what a target warns of is its own affair
    text = page()
    if arguments.write:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(text, encoding="utf-8")
    else:
        print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
