"""Hold any implementation of the losses against the oracles: `verify("my.module")`.

`register` adds a loss of your own, declared as a `LossSpec`; an `Adapter` brings another framework.
"""

from refimpl.bounds.precision import Bound
from refimpl.conformance.adapters import Adapter
from refimpl.conformance.batch import Batch
from refimpl.conformance.catalogue import CATALOGUE, register
from refimpl.conformance.outcome import Outcome
from refimpl.conformance.properties import PROPERTIES, Property
from refimpl.conformance.report import Cell, Report, Violation
from refimpl.conformance.runner import verify
from refimpl.conformance.spec import Changed, Demand, Invariance, LossSpec, Refusal

__all__ = [
    "CATALOGUE",
    "PROPERTIES",
    "Adapter",
    "Batch",
    "Bound",
    "Cell",
    "Changed",
    "Demand",
    "Invariance",
    "LossSpec",
    "Outcome",
    "Property",
    "Refusal",
    "Report",
    "Violation",
    "register",
    "verify",
]
