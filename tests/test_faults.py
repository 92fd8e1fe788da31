"""Every planted fault is reported under the right property; without the fault nothing is."""

from pathlib import Path

import pytest

from refimpl.conformance.catalogue import CATALOGUE
from refimpl.conformance.properties import PROPERTIES
from tests.faults import FAULTS
from tests.faults.table import TABLE, row

# of relations that a user's own spec declares
NOT_FOR_THE_CATALOGUE = {"invariance"}
RIGHT = {
    (fault.right, fault.loss, fault.property, fault.families, fault.dtypes, fault.examples): fault
    for fault in FAULTS
}


def named(fault):
    return f"{fault.loss}: {fault.name}"


@pytest.mark.parametrize("fault", FAULTS, ids=named)
def test_a_fault_is_reported_under_its_property(fault):
    violations = fault.report(fault.wrong).violations
    assert {(violation.loss, violation.property) for violation in violations} == {
        (fault.loss, fault.property)
    }


@pytest.mark.parametrize("fault", RIGHT.values(), ids=named)
def test_without_the_fault_nothing_is_reported(fault):
    report = fault.report(fault.right)
    assert not report.violations, report.violations[0].snippet
    assert sum(cell.asked for cell in report.cells if cell.property == fault.property) > 0


def test_faults_are_many_and_everywhere():
    assert len({(fault.loss, fault.name) for fault in FAULTS}) == len(FAULTS) >= 60
    assert {fault.loss for fault in FAULTS} == {*CATALOGUE}
    assert {fault.property for fault in FAULTS} == {*PROPERTIES} - NOT_FOR_THE_CATALOGUE


def test_the_table_lists_every_fault():
    listed = [
        line.rsplit("|", 3)[0] for line in Path(TABLE).read_text().splitlines() if line.startswith("| `")
    ]
    assert listed == [row(fault, 0).rsplit("|", 3)[0] for fault in FAULTS]
