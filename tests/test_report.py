"""A report as data and in the terminal."""

import io
import json
import math
from dataclasses import replace

import pytest
from rich.console import Console

from refimpl.conformance.report import Cell, Report, Violation
from refimpl.conformance.table import show

LONG = "replicate_concordance_mse_loss"
HELD = Cell(LONG, "value", "bfloat16", 40, ratios={"zeros": (0.0, 0.1234567), "mixed magnitudes": (0.875,)})
STEEP = Cell(LONG, "gradient", "bfloat16", 40, 3, ratios={"squares near overflow": (1.25e-300, 1.31e300)})
DERIVED = Cell(LONG, "second derivative", "bfloat16", 7, 5)
CUT = Cell(LONG, "cotangent", "float64", 2, unfinished=True)
ENDLESS = Cell("masked_mse", "value", "float32", 9, 9, ratios={"huge": (math.inf, 0.5)})
WRONG = Violation(LONG, "bfloat16", "gradient", "huge", "wrong by 3", 12, "print('twelve numbers')\n")
SMALLER = Violation(
    LONG, "bfloat16", "second derivative", "huge", "wrong by 4", 3, "print('three numbers')\n"
)
EMPTY = Violation(LONG, "bfloat16", "value", "empty batch", "nan", 0, "print('no number')\n")


def report(*cells: Cell, violations: tuple[Violation, ...] = (), **more) -> Report:
    return Report("my.losses", "torch", "cpu", 7, 8, cells, violations, **more)


FULL = report(
    HELD,
    STEEP,
    DERIVED,
    CUT,
    ENDLESS,
    violations=(EMPTY, WRONG, SMALLER),
    missing=("masked_sse",),
    left_out={"masked_mse": ("reduction",)},
    declined=2,
)


def printed(one: Report, width: int) -> list[str]:
    file = io.StringIO()
    show(one, Console(file=file, width=width, color_system=None))
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_cells_have_verdict_and_worst_ratio():
    assert [cell.verdict for cell in FULL.cells] == ["held", "violated", "violated", "unfinished", "violated"]
    assert Cell("a", "value", "float32", 0).verdict == "not asked"
    assert HELD.worst == (0.875, "mixed magnitudes")
    assert ENDLESS.worst == (math.inf, "huge")
    assert CUT.worst == (0.0, "")


def test_examples_are_counted_once_for_a_loss_and_dtype():
    assert FULL.examples == 40 + 2 + 9
    assert [*FULL.rows] == [(LONG, "bfloat16"), (LONG, "float64"), ("masked_mse", "float32")]
    assert FULL.rows[LONG, "bfloat16"] == {"value": HELD, "gradient": STEEP, "second derivative": DERIVED}


@pytest.mark.parametrize(
    ("one", "text"),
    [
        (FULL, "3 violations in 51 examples, seed 7; 1 question unfinished"),
        (
            report(STEEP, CUT, replace(ENDLESS, unfinished=True)),
            "no violation in 51 examples, seed 7; 1 question unfinished",
        ),
        (report(HELD), "no violation in 40 examples, seed 7"),
        (report(STEEP, violations=(WRONG,)), "1 violation in 40 examples, seed 7"),
        (report(Cell("a", "value", "float32", 1)), "no violation in 1 example, seed 7"),
        (report(), "no violation in 0 examples, seed 7"),
    ],
)
def test_verdict_is_one_line(one, text):
    assert one.verdict == text
    assert printed(one, 80)[-1] == text


def test_the_worst_violation_has_few_numbers_but_some():
    assert FULL.worst(LONG) is SMALLER
    assert report(violations=(EMPTY,)).worst(LONG) is EMPTY
    assert FULL.worst("masked_mse") is None


def test_json_holds_everything():
    content = json.loads(FULL.to_json())
    assert content["ok"] is False
    assert content["cells"][4]["ratios"] == {"huge": ["inf", 0.5]}
    assert content["violations"][2]["snippet"] == SMALLER.snippet
    assert content["missing"] == ["masked_sse"]
    assert content["left_out"] == {"masked_mse": ["reduction"]}


@pytest.mark.parametrize("width", [20, 80, 81, 100, 115, 116, 200])
def test_table_breaks_no_name_and_no_number(width):
    lines = printed(FULL, width)
    assert max(map(len, lines)) <= max(width, 80)
    words = {word.strip(",") for line in lines for word in line.split()}
    assert {LONG, "masked_mse", "bfloat16", "0.875", "1.31e+300", "inf", "magnitudes", "derivative"} <= words
    row = next(line.split() for line in lines if "bfloat16" in line)
    assert row[row.index("bfloat16") + 1 :][:2] == ["40", "0.875"]
    text = " ".join(" ".join(lines).split())
    assert "unfinished: cotangent" in text
    assert "note: masked_mse does not take reduction: judged at the default" in text
    assert "note: 2 inputs declined: the exact answer is too expensive" in text
    missing = [line for line in lines if "masked_sse" in line]
    assert [line.split() for line in missing] == [["masked_sse", "missing"]]


def test_wide_table_has_one_row_for_a_loss_and_dtype():
    lines = printed(FULL, 200)
    row = next(line for line in lines if "bfloat16" in line)
    assert row.split()[:3] == [LONG, "bfloat16", "40"]
    assert "gradient (3), second derivative (5)" in row
    assert "mixed magnitudes" in row
    assert "squares near overflow" in row


def test_one_counterexample_for_a_loss_is_printed_unbroken():
    long = f"x = [{', '.join(['1.0'] * 60)}]\n"
    one = report(STEEP, violations=(EMPTY, Violation(LONG, "bfloat16", "value", "huge", "m", 2, long), WRONG))
    lines = printed(one, 80)
    assert long.rstrip() in lines
    assert not any("twelve" in line or "no number" in line for line in lines)


def test_colours_mark_what_is_wrong_cut_and_missing():
    file = io.StringIO()
    show(FULL, Console(file=file, width=200, force_terminal=True, color_system="standard"))
    lines = file.getvalue().splitlines()
    colour = {"bfloat16": "\x1b[31m", "float64": "\x1b[33m", "masked_sse": "\x1b[2m"}
    for name, code in colour.items():
        assert code in next(line for line in lines if name in line)


def test_foreign_names_are_no_markup():
    one = report(Cell("a", "value", "float32", 1, ratios={"[red]x[/red]": (0.5,)}), missing=("[bold]",))
    assert "[red]x[/red]" in " ".join(printed(one, 200))
    assert "[bold] missing" in " ".join(printed(one, 80))


def test_the_console_keeps_its_width():
    console = Console(file=io.StringIO(), width=30)
    show(FULL, console)
    assert console.width == 30
