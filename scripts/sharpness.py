"""Hold the error bounds against straightforward evaluations in every order of summation (``make sharpness``).

    make sharpness                                  100,000 cases over all losses and formats
    python scripts/sharpness.py --cases 5000 --seed 7   fewer of them, nothing written

Every case is a batch of one to three hundred numbers, evaluated in the precision of its inputs
(`tests/direct`) in six orders of summation. No result may be further from the exact one than its bound:
otherwise the offending numbers are printed and the exit status is 1. How much of the bound was used at most
goes into ``docs/tables/sharpness.md`` with ``--write``; equal seeds give equal tables.
"""

import argparse
import multiprocessing
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

# the editable installation has the repository's root on the path
from tests.direct.orders import ORDERS
from tests.direct.survey import SHARP, Tally, Task, plan, run

TABLE = Path(__file__).resolve().parent.parent / "docs" / "tables" / "sharpness.md"
CASES, SEED, PROCESSES = 100_000, 0, 2
Cells = dict[tuple[str, str], Tally]


def surveyed(tasks: list[Task], processes: int, console: Console) -> Cells:
    """One tally for every loss and format; merged in the order of the tasks, whichever ends first."""
    found: dict[int, Tally] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        multiprocessing.Pool(processes) as pool,
        Progress(*columns, console=console, transient=True) as progress,
    ):
        bar = progress.add_task("cases", total=sum(task.count for task in tasks))
        for index, tally in pool.imap_unordered(_numbered, enumerate(tasks)):
            found[index] = tally
            for violation in tally.violations:
                console.print(f"violation: {violation}", markup=False, highlight=False)
            progress.advance(bar, tasks[index].count)
    cells: Cells = {}
    for index, task in enumerate(tasks):
        cells.setdefault((task.loss, task.form), Tally()).merge(found[index])
    return cells


def _numbered(numbered: tuple[int, Task]) -> tuple[int, Tally]:
    index, task = numbered
    return index, run(task)


def _cell(found: tuple[float, str]) -> str:
    ratio, family = found
    return f"{ratio:.2f} ({family})" if family else "exact"


def _rows(cells: Cells) -> Iterator[str]:
    yield "| loss | inputs | value: error / bound | gradient: error / bound | cases |"
    yield "|---|---|---|---|---|"
    for (loss, form), tally in cells.items():
        yield f"| `{loss}` | {form} | {_cell(tally.value)} | {_cell(tally.gradient)} | {tally.cases:,} |"


def table(cells: Cells, seed: int, cases: int) -> str:
    """The sharpness table in Markdown."""
    total = sum(tally.cases for tally in cells.values())
    exact = sum(tally.truths for tally in cells.values())
    declined = sum(tally.declined for tally in cells.values())
    unsettled = sum(tally.unsettled for tally in cells.values())
    failed = sum(tally.failed for tally in cells.values())
    arguments = "" if (cases, seed) == (CASES, SEED) else f' ARGS="--cases {cases} --seed {seed}"'
    head = (
        f"{total:,} cases, each in {len(ORDERS)} orders of summation, {failed:,} beyond a bound. "
        f"{exact:,} of them were held against rational or 400-bit arithmetic as well, and so was the oracle. "
        f"Beside them {declined:,} batches were too expensive for the oracle, and {unsettled:,} held NaN or "
        "infinity where it counts: rounding is not their question.\n\n"
        f"Seed {seed}. Regenerate: `make sharpness{arguments}`.\n"
    )
    return head + "\n" + "\n".join(_rows(cells)) + "\n"


def verdict(cells: Cells, cases: int) -> list[str]:
    """What is wrong: cases beyond their bound, bounds never used, too few cases."""
    wrong = [
        f"{loss} {form}: {tally.failed} cases beyond the bound"
        for (loss, form), tally in cells.items()
        if tally.failed
    ]
    for (loss, form), tally in cells.items():
        for what, (ratio, family) in (("value", tally.value), ("gradient", tally.gradient)):
            if family and ratio < SHARP:
                wrong.append(f"{loss} {form}: no case uses more than {ratio:.3f} of the bound of the {what}")
    total = sum(tally.cases for tally in cells.values())
    return wrong if total >= cases else [*wrong, f"{total} cases instead of {cases}"]


def main() -> int:
    """Try, print, write the table; 1 where a bound was broken or not used."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=CASES)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--processes", type=int, default=PROCESSES)
    parser.add_argument("--loss", action="append", help="one loss; may be repeated; all by default")
    parser.add_argument("--write", action="store_true", help="write docs/tables/sharpness.md")
    options = parser.parse_args()
    console = Console()
    cells = surveyed(plan(options.cases, options.seed, options.loss), options.processes, console)
    text = table(cells, options.seed, options.cases)
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    for complaint in (found := verdict(cells, options.cases)):
        console.print(complaint, style="red")
    if options.write:
        TABLE.parent.mkdir(parents=True, exist_ok=True)
        TABLE.write_text(text, encoding="utf-8")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
