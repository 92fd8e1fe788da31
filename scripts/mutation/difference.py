"""A changed oracle beside the unchanged one: both promise one ulp, so they may differ by one and no more."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

__all__ = ["DEAR", "Oracles", "by_oracle"]

# sums of many thousand terms, or long vectors: minutes in plain Python
DEAR = (
    "one huge count", "integer counts", "real counts", "real spectra", "negative binomial, one huge count",
)  # fmt: skip
BATCHES = 2


class Oracles:
    """Oracles as somebody's NumPy implementation: every gradient is a tuple over the arguments."""

    def __init__(self, package: Any) -> None:
        self.package = package
        self.__name__ = package.__name__

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.package, name)
        if not name.endswith("_gradient"):
            return found

        def gradient(*arguments: Any, **options: Any) -> Any:
            parts = found(*arguments, **options)
            return parts if isinstance(parts, tuple) else (parts,)

        return gradient


def by_oracle(target: Any, losses: Sequence[str], beat: Callable[[str], None]) -> str:
    """Where the changed oracle leaves the unchanged one by more than one ulp; empty where it does not.

    Args:
        target: the changed package.
        losses: which of its losses to compare.
        beat: called before each family.
    """
    import refimpl  # noqa: PLC0415 (compiles where something runs)
    from refimpl.conformance.catalogue import CATALOGUE  # noqa: PLC0415

    for loss in losses:
        for family in CATALOGUE[loss].families:
            if family in DEAR:
                continue
            beat(f"{loss} {family} ulp")
            for batch in _drawn(CATALOGUE[loss], family):
                known, found = (
                    list(_answers(one, CATALOGUE[loss], batch)) for one in (Oracles(refimpl), target)
                )
                if len(known) != len(found) or not all(map(_near, known, found)):
                    return f"{loss} ulp {family}"
    return ""


def _drawn(spec: Any, family: str) -> list[Any]:
    """A few batches of a family, always the same."""
    import hypothesis  # noqa: PLC0415
    from hypothesis import HealthCheck, Phase, given, settings  # noqa: PLC0415

    from refimpl.conformance.formats import FORMATS  # noqa: PLC0415

    batches = []

    @hypothesis.seed(zlib.crc32(f"{spec.name} {family}".encode()))
    @settings(
        max_examples=BATCHES,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(spec.strategy(family, FORMATS["float64"]))
    def keep(batch: Any) -> None:
        batches.append(batch)

    keep()
    return batches


def _answers(package: Any, spec: Any, batch: Any) -> Iterator[Any]:
    """Value and gradients as arrays; nothing where the oracle declines the batch."""
    from refimpl.conformance.adapters import get_adapter  # noqa: PLC0415
    from refimpl.conformance.target import Subject, Target  # noqa: PLC0415

    if spec.name == "CompositeLoss":
        arguments = batch.arguments["values"], batch.options["weights"]
        yield np.asarray(package.composite_loss(*arguments))
        yield np.asarray(package.composite_loss_gradient(*arguments, 3.0))
        return
    subject = Subject(Target(package), spec, get_adapter("numpy"))
    outcome = subject.execute(subject.settled(batch))
    if outcome.value is not None:
        yield outcome.value
        yield from (outcome.gradients[path] for path in sorted(outcome.gradients))


def _near(known: Any, found: Any) -> bool:
    """Whether two float64 arrays differ by one ulp at most, NaN beside NaN."""
    if known.shape != found.shape:
        return False
    with np.errstate(all="ignore"):
        close = np.abs(known - found) <= np.spacing(np.abs(known))
    return bool(np.all(close | (known == found) | (np.isnan(known) & np.isnan(found))))
