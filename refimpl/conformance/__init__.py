"""Hold any implementation of the losses against the oracles: `verify(module)`."""

from refimpl.conformance.report import Report
from refimpl.conformance.runner import verify

__all__ = ["Report", "verify"]
