"""What a run found, as data and as JSON."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

__all__ = ["Cell", "Report", "Violation", "tried"]


@dataclass(frozen=True)
class Cell:
    """One property of one loss in one dtype.

    Attributes:
        loss: name of the loss.
        property: name of the property.
        dtype: name of the input dtype.
        asked: on how many inputs it was asked.
        violated: on how many of them it did not hold.
        unfinished: whether the time limit ended the questions.
        ratios: error / bound of every input by family; only "value" and "gradient" have them.
    """

    loss: str
    property: str
    dtype: str
    asked: int
    violated: int = 0
    unfinished: bool = False
    ratios: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @cached_property
    def worst(self) -> tuple[float, str]:
        """The largest error / bound and the family that reached it.

        Example:
            >>> Cell("mse", "value", "float32", 3, ratios={"zeros": (0.0,), "huge": (0.25, 0.5)}).worst
            (0.5, 'huge')
        """
        found = ((max(ratios), family) for family, ratios in self.ratios.items() if ratios)
        return max(found, key=lambda pair: pair[0], default=(0.0, ""))

    @cached_property
    def verdict(self) -> str:
        """One of "violated", "unfinished", "held" and, where no input asked the question, "not asked"."""
        if self.violated:
            return "violated"
        if self.unfinished:
            return "unfinished"
        return "held" if self.asked else "not asked"


@dataclass(frozen=True)
class Violation:
    """One property that does not hold for a loss in a dtype, on its smallest known input.

    Attributes:
        loss: name of the loss.
        dtype: name of the input dtype.
        property: name of the property.
        family: the family of the input.
        message: what is wrong, with numbers.
        numbers: how many numbers the input holds.
        snippet: source text that shows it.
    """

    loss: str
    dtype: str
    property: str
    family: str
    message: str
    numbers: int
    snippet: str


@dataclass(frozen=True)
class Report:
    """What was tried, how close it came to the bounds, and what is wrong.

    Attributes:
        target: name of the module under test.
        adapter: name of the framework.
        device: where the arrays lived.
        seed: equal seeds draw equal inputs.
        max_examples: inputs for every loss, dtype and family.
        cells: one for every property of every loss in every dtype.
        violations: what is wrong.
        missing: losses asked for that the target lacks.
        left_out: options that a loss does not take and was therefore judged without.
        declined: how many inputs the oracles declined as too expensive.
        environment: versions and machine.
        seconds: how long it took.
    """

    target: str
    adapter: str
    device: str
    seed: int
    max_examples: int
    cells: tuple[Cell, ...]
    violations: tuple[Violation, ...]
    missing: tuple[str, ...] = ()
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    declined: int = 0
    environment: Mapping[str, str] = field(default_factory=dict, compare=False)
    seconds: float = field(default=0.0, compare=False)

    @property
    def ok(self) -> bool:
        """Whether no property was violated."""
        return not self.violations

    @property
    def examples(self) -> int:
        """How many inputs were tried."""
        return sum(tried(cells) for cells in self.rows.values())

    @property
    def rows(self) -> dict[tuple[str, str], dict[str, Cell]]:
        """The cells of every loss and dtype by property, in the order of the run."""
        found: dict[tuple[str, str], dict[str, Cell]] = {}
        for cell in self.cells:
            found.setdefault((cell.loss, cell.dtype), {})[cell.property] = cell
        return found

    @property
    def verdict(self) -> str:
        """One line: how much is wrong, among how many inputs, and what was cut short.

        Example:
            >>> Report("mine", "torch", "cpu", 0, 8, (Cell("mse", "value", "float32", 3),), ()).verdict
            'no violation in 3 examples, seed 0'
        """
        wrong, cut = len(self.violations), sum(cell.verdict == "unfinished" for cell in self.cells)
        found = f"{_count(wrong, 'violation')} in {_count(self.examples, 'example', 0)}, seed {self.seed}"
        return f"{found}; {_count(cut, 'question')} unfinished" if cut else found

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know to read the verdict: options left out, inputs declined."""
        found = [
            f"{loss} does not take {', '.join(options)}: judged at the default"
            for loss, options in self.left_out.items()
        ]
        if self.declined:
            found.append(f"{_count(self.declined, 'input')} declined: the exact answer is too expensive")
        return tuple(found)

    def worst(self, loss: str) -> Violation | None:
        """The violation of a loss with the smallest input that is not empty, where there is one."""
        found = [violation for violation in self.violations if violation.loss == loss]
        return min(found, key=lambda one: (one.numbers == 0, one.numbers), default=None)

    def to_json(self) -> str:
        """The report as JSON text; infinite ratios are the string "inf"."""
        return json.dumps({**_plain(asdict(self)), "ok": self.ok}, indent=2) + "\n"


def tried(cells: Mapping[str, Cell]) -> int:
    """How many inputs the cells of one loss and dtype saw.

    Example:
        >>> tried({"value": Cell("mse", "value", "float32", 8), "inert": Cell("mse", "inert", "float32", 2)})
        8
    """
    return max((cell.asked for cell in cells.values()), default=0)


def _count(number: int, what: str, nothing: object = "no") -> str:
    """A number and its noun.

    Example:
        >>> _count(0, "violation"), _count(1, "violation"), _count(0, "example", 0)
        ('no violation', '1 violation', '0 examples')
    """
    plural = number > 1 or (not number and nothing == 0)
    return f"{number or nothing} {what}{'s' * plural}"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
