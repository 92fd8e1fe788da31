"""Integer counts and targets: whichever integer dtype holds them, the answer is that of the exact numbers."""

from collections.abc import Iterator

import numpy as np

from refimpl.conformance.batch import Array, Batch, leaves, map_tree
from refimpl.conformance.properties.base import Finding, Probe, Property
from refimpl.conformance.properties.judge import judge, truth

__all__ = ["INTEGERS"]

DTYPES = ("uint8", "int16", "int32", "int64")
FAMILIES = ("integer targets", "integer counts")
BITS = 16  # the largest number of a wider dtype is none of float32


def integers(probe: Probe) -> Finding | None:
    """The batch in every integer dtype that holds it, as it is and with the dtype's largest number in it."""
    spec = probe.subject.spec
    for name, batch in _variants(probe.batch):
        try:
            exact = probe.exact if batch is probe.batch else truth(spec, batch)
        except ValueError:  # too expensive for the oracle
            continue
        cast = _cast(batch, name)
        found = judge(spec, batch, exact, probe.subject.execute(cast)).findings
        if found:
            return Finding("integers", f"integers as {name}: {found[0][1]}", cast)
    return None


def _variants(batch: Batch) -> Iterator[tuple[str, Batch]]:
    counts = [array for _, array in leaves(dict(batch.arguments)) if array.dtype == np.int64 and array.size]
    for name in DTYPES:
        bounds = np.iinfo(name)
        if counts and all(array.min() >= bounds.min and array.max() <= bounds.max for array in counts):
            yield name, batch
            if bounds.bits <= BITS:
                yield name, _with_largest(batch, bounds.max)


def _with_largest(batch: Batch, largest: int) -> Batch:
    """The first integer of every array becomes the largest one of the dtype, where a sum or square wraps."""

    def change(_: str, array: Array) -> Array:
        if array.dtype != np.int64 or not array.size:
            return array
        changed = array.copy()
        changed.flat[0] = largest
        return changed

    return batch.with_arguments(map_tree(change, dict(batch.arguments)))


def _cast(batch: Batch, name: str) -> Batch:
    def change(_: str, array: Array) -> Array:
        return array.astype(name) if array.dtype == np.int64 else array

    return batch.with_arguments(map_tree(change, dict(batch.arguments)))


INTEGERS = Property(
    "integers",
    "integer counts and targets of any integer dtype are taken for the numbers they are",
    "batch",
    integers,
    applies=lambda spec: bool({*FAMILIES} & {*spec.families}),
    families=FAMILIES,
    most=6,
)
