"""To be written."""

from refimpl.conformance.properties.base import Property

__all__ = ["TRANSFORMATIONS"]

TRANSFORMATIONS: tuple[Property, ...] = ()
