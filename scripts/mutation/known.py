"""Survivors that have been looked at: why they are equivalent, or what a check would have to reach."""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass
from pathlib import Path

from .candidates import Mutation

__all__ = ["Known", "known", "verdict_of"]

FILE = Path(__file__).with_name("known.toml")


@dataclass(frozen=True)
class Known:
    """What is known of the mutants of one line.

    Attributes:
        module: "torchimpl/masked" and the like.
        line: the source line.
        verdict: "equivalent", which leaves the score, or "gap", which counts as a survivor.
        reason: why nobody can tell the difference, or what a check would have to reach.
        kind: the kind of change; empty for all on the line.
        change: what became what; empty for all of the kind.
    """

    module: str
    line: str
    verdict: str
    reason: str
    kind: str = ""
    change: str = ""


@functools.cache
def known() -> tuple[Known, ...]:
    """The entries of known.toml."""
    entries = tomllib.loads(FILE.read_text()).get("mutant", [])
    return tuple(Known(**entry) for entry in entries)


def verdict_of(mutation: Mutation) -> Known | None:
    """The entry about a mutation; None where there is none."""
    place = f"{mutation.package}/{mutation.module}"
    for one in known():
        here = (one.module, one.line) == (place, mutation.line)
        if here and one.kind in {"", mutation.kind} and one.change in {"", mutation.change}:
            return one
    return None
