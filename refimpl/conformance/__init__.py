"""Hold any implementation of the losses against the oracles: `verify(module)`."""

from refimpl.conformance.runner import verify

__all__ = ["verify"]
