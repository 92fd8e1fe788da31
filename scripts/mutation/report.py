"""The score of each module, in the terminal and as a table of the documentation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from . import verdicts
from .campaign import Result, judges_of
from .plan import CAPS, TESTS
from .worker import TIMEOUT

__all__ = ["Row", "markdown", "rows", "show"]

COLUMNS = ("module", "judge", "mutants", "killed", "timeout", "equivalent", "survivors", "score")


@dataclass
class Row:
    """What became of the mutants of one module under one judge."""

    module: str
    judge: str
    made: int = 0
    killed: int = 0
    timeout: int = 0
    equivalent: int = 0
    survivors: list[Result] = field(default_factory=list)

    @property
    def judged(self) -> int:
        """How many have been judged."""
        return self.killed + self.timeout + self.equivalent + len(self.survivors)

    @property
    def score(self) -> str:
        """Share of the killed among those that are not equivalent; empty until all have been judged."""
        if self.judged < self.made:
            return ""
        dead, alive = self.killed + self.timeout, len(self.survivors)
        return f"{100.0 * dead / (dead + alive):.1f} %" if dead + alive else ""

    def cells(self) -> tuple[str, ...]:
        """The columns as text."""
        mutants = str(self.made) if self.judged == self.made else f"{self.judged} of {self.made}"
        counts = (self.killed, self.timeout, self.equivalent, len(self.survivors))
        return (self.module, self.judge, mutants, *map(str, counts), self.score)


def rows(results: Iterable[Result], made: Mapping[tuple[str, str, str], int]) -> list[Row]:
    """One row for every package, module and judge, and one for all.

    Args:
        results: what the judges said.
        made: how many mutants there are, by package, module and judge.
    """
    found = {key: Row(f"{key[0]}/{key[1]}", judges_of(*key), count) for key, count in sorted(made.items())}
    for result in results:
        one = result.mutation
        _count(found[one.package, one.module, one.judge], result)
    everything = Row("all", "", sum(made.values()))
    for row in found.values():
        everything.killed += row.killed
        everything.timeout += row.timeout
        everything.equivalent += row.equivalent
        everything.survivors += row.survivors
    return [*found.values(), everything]


def _count(row: Row, result: Result) -> None:
    entry = verdicts.verdict_of(result.mutation)
    if result.by == TIMEOUT:
        row.timeout += 1
    elif result.by:
        row.killed += 1
    elif entry is not None and entry.verdict == "equivalent":
        row.equivalent += 1
    else:
        row.survivors.append(result)


def show(console: Console, found: Sequence[Row], title: str) -> None:
    """Print the table and the survivors."""
    table = Table(*COLUMNS, title=title)
    for row in found:
        table.add_row(*row.cells(), end_section=row is found[-2])
    console.print(table)
    for survivor in found[-1].survivors:
        one = survivor.mutation
        console.print(f"survived: {one.place} {one.kind}: {one.change}", markup=False, highlight=False)


def markdown(found: Sequence[Row], seed: int) -> str:
    """The table, the survivors and the equivalent mutants for the documentation."""
    caps = ", ".join(f"{count} of a module of `{wing}`" for wing, count in CAPS.items())
    parts = [
        f"At most {caps} are judged, chosen with seed {seed}.\n",
        "| " + " | ".join(COLUMNS) + " |",
        "|---|---" + "|--:" * (len(COLUMNS) - 2) + "|",
        *("| " + " | ".join(_cell(text) for text in row.cells()) + " |" for row in found),
    ]
    held = sorted(
        {
            row.module.split("/", 1)[1]
            for row in found
            if row.judge.endswith("tests") and row.module.startswith("torchimpl")
        }
    )
    if held:
        parts += ["\nThe tests that judge where the engine cannot see, or what it let pass:\n"]
        parts += [f"- `{module}`: " + ", ".join(f"`{test}`" for test in TESTS[module]) for module in held]
    parts += ["\n### Survivors\n"]
    complete = found[-1].judged == found[-1].made
    parts += (
        [] if complete else ["The campaign is not complete: these are the survivors so far, and no score."]
    )
    parts += _listed(found) or ["None." if complete else "None among those judged with all examples."]
    return "\n".join(parts) + "\n"


def _listed(found: Sequence[Row]) -> list[str]:
    lines = []
    for row in found[:-1]:
        ordered = sorted(row.survivors, key=lambda result: (result.mutation.lineno, result.mutation.change))
        texts = []
        for result in ordered:
            entry = verdicts.verdict_of(result.mutation)
            reason = f" ({entry.reason})" if entry else ""
            texts.append(f"- {result.mutation.kind}: {_code(result.mutation.change)}{reason}")
        if texts:
            lines += [f"\n**{row.module}**\n", *texts]
    return lines


def _cell(text: str) -> str:
    return f"`{text}`" if re.fullmatch(r"(torchimpl|refimpl)/\S+", text) else text


def _code(text: str) -> str:
    fence = "``" if "`" in text else "`"
    return f"{fence}{text}{fence}"
