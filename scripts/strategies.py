"""What every family of inputs finds: run one weak implementation a family and write the table.

    python scripts/strategies.py            # print
    python scripts/strategies.py --write    # write docs/tables/strategies.md

Each weak implementation of `tests/weak` is run on its family alone, with the default number of inputs. Exit
status: 0 if every family finds its weakness, 1 otherwise.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

from rich.console import Console
from rich.progress import track

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "docs" / "tables" / "strategies.md"
HEAD = """\
| family | loss | dtype | what is weak | found as | error / bound | numbers in the smallest input |
|---|---|---|---|---|---|---|
"""


def rows() -> tuple[list[str], list[str]]:
    """Lines of the table, and the weaknesses that nothing found."""
    from tests.weak import reached, weaknesses  # noqa: PLC0415 (imports torch)

    lines, missed = [], []
    for weakness in track(weaknesses(), "families", console=Console(stderr=True), transient=True):
        report = reached(weakness, weakness.family)
        worst = max(cell.worst[0] for cell in report.cells)
        smallest = report.worst(weakness.loss)
        if smallest is None:
            missed.append(str(weakness))
        found = ", ".join(sorted({violation.property for violation in report.violations})) or "not found"
        shown = "∞" if worst == float("inf") else f"{worst:.2g}" if worst > 1 else "–"
        numbers = smallest.numbers if smallest else ""
        cells = (weakness.family, f"`{weakness.loss}`", weakness.dtype, weakness.what, found, shown, numbers)
        lines.append("| " + " | ".join(map(str, cells)) + " |\n")
    return lines, missed


def main() -> int:
    """Print or write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.relative_to(ROOT)}")
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    warnings.simplefilter("ignore")  # what a weak implementation warns of is its own affair
    lines, missed = rows()
    text = HEAD + "".join(lines)
    if arguments.write:
        TABLE.parent.mkdir(exist_ok=True)
        TABLE.write_text(text, encoding="utf-8")
    else:
        print(text, end="")
    for name in missed:
        print(f"not found: {name}", file=sys.stderr)
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
