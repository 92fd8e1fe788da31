"""To be written."""

from refimpl.conformance.properties.base import Property

__all__ = ["RELATIONS"]

RELATIONS: tuple[Property, ...] = ()
