"""Survivors that have been looked at: why they are equivalent, or what a check would have to reach.

One file a module in `known/`, named like it: `known/torchimpl.kernels.blocks.toml`. An entry there is

    [[mutant]]
    line = 'the source line'          # or a list of lines
    kind = 'constant'                 # may be left out: all changes of the line
    change = '1 -> 2'                 # may be left out: all of the kind; or a list
    verdict = 'equivalent'            # leaves the score; or 'gap', which counts as a survivor
    reason = 'why nobody can tell the difference, or what a check would have to reach'
"""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .candidates import Mutation

__all__ = ["Known", "equivalent", "known", "verdict_of"]

FOLDER = Path(__file__).with_name("known")


@dataclass(frozen=True)
class Known:
    """What is known of some mutants of one module.

    Attributes:
        module: "torchimpl/masked" and the like.
        line: the source lines.
        verdict: "equivalent" or "gap".
        reason: why, in words.
        kind: the kind of change; empty for all on those lines.
        change: what became what; empty for all of the kind.
    """

    module: str
    line: tuple[str, ...]
    verdict: str
    reason: str
    kind: str = ""
    change: tuple[str, ...] = ()


@functools.cache
def known() -> tuple[Known, ...]:
    """The entries of all files.

    Raises:
        TypeError: an entry has a key that no entry has, or lacks one.
    """
    entries: list[Known] = []
    for file in sorted(FOLDER.glob("*.toml")):
        for entry in tomllib.loads(file.read_text()).get("mutant", []):
            several = {key: _tuple(entry[key]) for key in ("line", "change") if key in entry}
            entries.append(Known(**{**entry, **several, "module": file.stem.replace(".", "/")}))
    return tuple(entries)


def _tuple(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def verdict_of(mutation: Mutation) -> Known | None:
    """The entry about a mutation; None where there is none."""
    place = f"{mutation.package}/{mutation.module}"
    for one in known():
        here = one.module == place and mutation.line in one.line
        if here and one.kind in {"", mutation.kind} and (not one.change or mutation.change in one.change):
            return one
    return None


def equivalent(mutation: Mutation) -> bool:
    """Whether a mutation is argued to be equivalent."""
    entry = verdict_of(mutation)
    return entry is not None and entry.verdict == "equivalent"
