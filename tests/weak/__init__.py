"""Implementations with one weakness each, and the family of inputs that must find it.

Each is right, or nearly so, until its family comes: a guard is missing, a table ends, a cast is too narrow.
`python scripts/strategies.py` runs them all and writes the table of the documentation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from refimpl.conformance.report import Report
from refimpl.conformance.runner import DEFAULT_EXAMPLES, verify

__all__ = ["ANSWERS", "Weakness", "reached", "weaknesses"]

# what is read off one call: nothing but the family may find the weakness
ANSWERS = ("returns", "value", "gradient", "finite", "nan", "graph", "dtype", "shape")


@dataclass(frozen=True)
class Weakness:
    """A weak implementation of a loss.

    Attributes:
        family: the hazard that must find it.
        loss: the loss.
        dtype: the format in which it shows.
        what: what is weak about it, in a few words.
        function: the implementation.
    """

    family: str
    loss: str
    dtype: str
    what: str
    function: Callable[..., Any]

    def __str__(self) -> str:
        return f"{self.loss}-{self.family}"


def weaknesses() -> tuple[Weakness, ...]:
    """All of them: pairs of arrays first, counts next."""
    from tests.weak import counts, pairs

    return (*pairs.WEAK, *counts.WEAK)


def reached(weakness: Weakness, family: str, seed: int = 0) -> Report:
    """What the engine finds in one family within its default budget."""
    target = SimpleNamespace(**{weakness.loss: weakness.function})
    return verify(
        target,
        [weakness.loss],
        [weakness.dtype],
        families=[family],
        properties=ANSWERS,
        max_examples=DEFAULT_EXAMPLES,
        seed=seed,
    )
