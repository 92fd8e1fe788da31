"""Changes of an input after which the answer is known from the one before."""

from refimpl.conformance.spec import Invariance

__all__ = ["INVARIANCES"]

INVARIANCES: dict[str, tuple[Invariance, ...]] = {}
