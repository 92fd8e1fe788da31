"""Draws that depend on the seed alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from unittest.mock import patch

from hypothesis.internal.conjecture import providers

__all__ = ["steady"]

# what Hypothesis keeps about the modules it has seen; earlier versions look at no module
_KEPT = ("CONSTANTS_CACHE", "_get_local_constants")
_NONE = SimpleNamespace(set_for_type=lambda _kind: ())
_cache: dict[object, object] = {}


@contextmanager
def steady() -> Iterator[None]:
    """Keep Hypothesis from drawing constants that it finds in the source of the modules loaded here.

    It mixes them in, so that equal seeds would draw other batches in another process, or after one more
    module of the user has been imported.
    """
    if not all(hasattr(providers, name) for name in _KEPT):
        yield
        return
    with patch.multiple(providers, CONSTANTS_CACHE=_cache, _get_local_constants=lambda: _NONE):
        yield
