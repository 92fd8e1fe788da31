"""Batches of so many rows that work done in pieces has seams."""

import zlib
from collections.abc import Iterator

import hypothesis
import numpy as np
from hypothesis import HealthCheck, Phase, given, settings

from refimpl.conformance.batch import Batch, size
from refimpl.conformance.formats import Format
from refimpl.conformance.invariances.arrays import rows, take
from refimpl.conformance.properties.base import Fixed, Property
from refimpl.conformance.properties.judge import judge, truth
from refimpl.conformance.spec import LossSpec
from refimpl.conformance.target import Subject

__all__ = ["BLOCKS", "drawn"]

PRINTED = 2400  # numbers that a snippet may hold
SEAMS = tuple(2**k + 1 for k in range(1, 15))


def drawn(spec: LossSpec, family: str, form: Format, seed: int, count: int) -> list[Batch]:
    """The last batches of a few that the spec's strategy draws: the first are the simplest of all.

    Args:
        spec: the loss.
        family: the hazard.
        form: the format.
        seed: equal seeds draw equal batches.
        count: how many.

    Example:
        >>> from refimpl.conformance.catalogue import CATALOGUE
        >>> from refimpl.conformance.formats import FORMATS
        >>> [batch.family for batch in drawn(CATALOGUE["masked_mse"], "zeros", FORMATS["float32"], 0, 2)]
        ['zeros', 'zeros']
    """
    found: list[Batch] = []

    @hypothesis.seed(zlib.crc32(f"{seed} {spec.name} {form.name} {family} drawn".encode()))
    @settings(
        max_examples=count + 2,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(spec.strategy(family, form))
    def collect(batch: Batch) -> None:
        found.append(batch)

    collect()
    return found[-count:]


def blocks(subject: Subject, form: Format, seed: int) -> Iterator[Fixed]:
    """Large batches, held against the oracle."""
    spec = subject.spec
    for one in (one for one in spec.invariances if one.name == "blocks"):
        for k, batch in enumerate(drawn(spec, spec.families[0], form, seed, 2)):
            changed = one.change(subject.settled(batch), np.random.default_rng([seed, k]))
            message = _wrong(subject, changed.batch) if changed else ""
            if changed and message:
                yield _shortest(subject, changed.batch, message)
                return


def _wrong(subject: Subject, batch: Batch) -> str:
    """What is wrong with value or gradient; nothing where the oracle declines the batch."""
    try:
        exact = truth(subject.spec, batch)
    except ValueError as declined:
        if "MAX_TERMS" not in str(declined):
            raise
        return ""
    found = judge(subject.spec, batch, exact, subject.execute(batch)).findings
    return f"{rows(batch)} rows: {': '.join(found[0])}" if found else ""


def _shortest(subject: Subject, batch: Batch, message: str) -> Fixed:
    """The failure on the first 2^k + 1 rows, for the smallest k that shows it."""
    for count in SEAMS:
        if count < rows(batch):
            part = take(batch, np.arange(count))
            found = _wrong(subject, part)
            if found:
                batch, message = part, found
                break
    if size(batch) <= PRINTED:
        return Fixed(message, batch=batch)
    return Fixed(message, f"# {message}\n# {size(batch)} numbers are too many to print here\n")


def _large(spec: LossSpec) -> bool:
    return any(one.name == "blocks" for one in spec.invariances)


BLOCKS = Property(
    "blocks",
    "batches of many rows are right, seams of work done in pieces included",
    "fixed",
    blocks,
    applies=_large,
    late=True,
)
