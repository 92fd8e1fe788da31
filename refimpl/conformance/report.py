"""What a run found, as data and as JSON."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Cell", "Report", "Violation"]


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

    @property
    def worst(self) -> tuple[float, str]:
        """The largest error / bound and the family that reached it.

        Example:
            >>> Cell("mse", "value", "float32", 3, ratios={"zeros": (0.0,), "huge": (0.25, 0.5)}).worst
            (0.5, 'huge')
        """
        found = ((max(ratios), family) for family, ratios in self.ratios.items() if ratios)
        return max(found, key=lambda pair: pair[0], default=(0.0, ""))

    @property
    def verdict(self) -> str:
        """ "violated", "unfinished", "held" or, where no input asked the question, "not asked"."""
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
        most: dict[tuple[str, str], int] = {}
        for cell in self.cells:
            most[cell.loss, cell.dtype] = max(most.get((cell.loss, cell.dtype), 0), cell.asked)
        return sum(most.values())

    def worst(self, loss: str) -> Violation | None:
        """The violation of a loss with the smallest input that is not empty, where there is one."""
        found = [violation for violation in self.violations if violation.loss == loss]
        return min(found, key=lambda one: (one.numbers == 0, one.numbers), default=None)

    def to_json(self) -> str:
        """The report as JSON text; infinite ratios are the string "inf"."""
        return json.dumps({**_plain(asdict(self)), "ok": self.ok}, indent=2) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
