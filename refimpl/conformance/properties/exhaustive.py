"""To be written."""

from refimpl.conformance.properties.base import Property

__all__ = ["EXHAUSTIVE"]

EXHAUSTIVE: tuple[Property, ...] = ()
