"""The table of all planted faults: what reports each and on how few numbers."""

from pathlib import Path

from tests.faults import FAULTS
from tests.faults.base import Fault

TABLE = Path(__file__).parents[2] / "docs" / "tables" / "faults.md"
HEAD = """\
| loss | fault | property that reports it | dtype | numbers in the smallest input |
|---|---|---|---|---|
"""


def row(fault: Fault, numbers: int) -> str:
    """A line of the table."""
    dtypes = ", ".join(fault.dtypes)
    # a bar would end the cell
    name = fault.name.replace("|", "\\|")
    return f"| `{fault.loss}` | {name} | {fault.property} | {dtypes} | {numbers or 'none'} |"


def smallest(fault: Fault) -> int:
    """How many numbers the smallest counterexample holds.

    Raises:
        AssertionError: the fault is not reported under its property.
    """
    violations = fault.report(fault.wrong, first_only=False).violations
    found = [violation.numbers for violation in violations if violation.property == fault.property]
    assert found, f"{fault.loss}: {fault.name} is not reported"
    return min(found)


def written() -> str:
    """The whole table."""
    losses = len({fault.loss for fault in FAULTS})
    rows = "\n".join(row(fault, smallest(fault)) for fault in FAULTS)
    return f"{HEAD}{rows}\n\n{len(FAULTS)} faults in {losses} losses.\n"
