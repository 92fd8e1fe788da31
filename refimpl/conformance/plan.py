"""What a run is to ask of one loss in one dtype, and what it found there."""

from collections.abc import Callable
from dataclasses import dataclass

from refimpl.conformance.batch import Batch
from refimpl.conformance.properties import PROPERTIES
from refimpl.conformance.report import Cell, Violation

__all__ = ["HANGS", "SHRINKING", "Listen", "Part", "Plan"]

HANGS = 3  # after so many calls without an answer a loss is given up
SHRINKING = "made smaller"  # stands for the family where a known counterexample is made smaller
Listen = Callable[[str, str, Batch], None]


@dataclass(frozen=True)
class Plan:
    """What to ask, and how much of it.

    Attributes:
        properties: names of the properties, all by default.
        families: only these families; all if empty.
        max_examples: batches of every family.
        seed: equal seeds draw equal batches.
        time_limit: seconds that one property may take for a loss in a dtype, and that one call may hang.
        first_only: stop at the first violation and leave its input as it is, to reject many candidates fast.
        avoid: pairs (family, property) not to ask, because they did not come back. The property "returns"
            stands for the family as a whole, the family "" for a property that needs no drawn batch, the
            family `SHRINKING` for making the property's counterexample smaller.
    """

    properties: tuple[str, ...] = tuple(PROPERTIES)
    families: tuple[str, ...] = ()
    max_examples: int = 8
    seed: int = 0
    time_limit: float = 60.0
    first_only: bool = False
    avoid: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True)
class Part:
    """What `examine` found for one loss in one dtype."""

    cells: tuple[Cell, ...]
    violations: tuple[Violation, ...]
    declined: int = 0
