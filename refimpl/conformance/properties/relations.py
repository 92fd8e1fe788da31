"""How the answers to several calls follow from each other.

A relation of the spec says: the exact value of a changed batch is an affine map G of the exact values v_k of
its parts (of the original, as a rule), w = G(v). Every coefficient that a result gives to the numbers of one
part has one sign, so that errors e_k in the parts move it by at most |G(e) - G(0)|. With computed values ṽ_k
within b_k of v_k and w̃ within b of w,

    |w̃ - G(ṽ)| <= |w̃ - w| + |G(v) - G(ṽ)| <= b + |G(b_k) - G(0)|.

G itself is evaluated in long double and the rounding of that is added. Numbers that may have saturated are
left out on both sides, and whatever depends on them, too: G of their indicator tells. Gradients likewise.
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from refimpl.bounds.precision import precision
from refimpl.conformance.batch import Batch, leaves, size
from refimpl.conformance.catalogue import CATALOGUE
from refimpl.conformance.invariances.arrays import arrays, rows
from refimpl.conformance.outcome import Outcome
from refimpl.conformance.properties.base import Finding, Probe, Property
from refimpl.conformance.properties.blocks import BLOCKS
from refimpl.conformance.properties.judge import Truth, truth
from refimpl.conformance.spec import Changed, Invariance, LossSpec
from refimpl.conformance.target import Subject

__all__ = ["RELATIONS", "Known", "broken", "chance", "known"]

_Long: TypeAlias = npt.NDArray[np.longdouble]
_Map: TypeAlias = Callable[[list[Any]], Any]
ROUNDOFF = float(np.finfo(np.longdouble).eps)
OWN_ROUNDINGS = 8  # of a relation, beside a sum over all numbers
NAMES = ("permutation", "shift", "scale", "swap", "duplication", "concatenation", "complement")


@dataclass(frozen=True)
class Known:
    """A batch, its exact answer and the one of the target."""

    subject: Subject
    batch: Batch
    exact: Truth
    outcome: Outcome


def known(subject: Subject, batch: Batch) -> Known | None:
    """Ask target and oracle; None where the oracle declines the batch as too expensive."""
    try:
        exact = truth(subject.spec, batch)
    except ValueError as declined:
        if "MAX_TERMS" not in str(declined):
            raise
        return None
    return Known(subject, batch, exact, subject.execute(batch))


def chance(batch: Batch, salt: str) -> np.random.Generator:
    """Random numbers that depend on nothing but the contents of a batch.

    Example:
        >>> from refimpl.conformance.formats import FORMATS
        >>> batch = Batch("", FORMATS["float32"], {"x": np.zeros(2)})
        >>> chance(batch, "a").random() == chance(batch, "a").random() != chance(batch, "b").random()
        True
    """
    code = zlib.crc32(f"{salt} {batch.form.name} {sorted(batch.options.items())}".encode())
    for path, array in leaves(dict(batch.arguments)):
        code = zlib.crc32(np.ascontiguousarray(array).tobytes(), zlib.crc32(path.encode(), code))
    return np.random.default_rng(code)


def relation(probe: Probe, name: str) -> Finding | None:
    """Every relation of that name which the spec declares."""
    return next(_findings(probe, [one for one in probe.subject.spec.invariances if one.name == name]), None)


def own(probe: Probe) -> Finding | None:
    """Every relation under a name that the engine does not know."""
    found = [one for one in probe.subject.spec.invariances if one.name not in (*NAMES, "blocks")]
    return next(_findings(probe, found), None)


def _findings(probe: Probe, relations: Sequence[Invariance]) -> Iterator[Finding]:
    for k, one in enumerate(relations):
        changed = one.change(probe.batch, chance(probe.batch, f"{one.name} {k}"))
        message = _asked(probe, changed) if changed else ""
        if changed and message:
            name = one.name if one.name in NAMES else "invariance"
            yield Finding(name, f"{one.holds}: {message}", changed.batch)


def _asked(probe: Probe, changed: Changed) -> str:
    """What is wrong with the answer to a changed batch; nothing where it cannot be asked."""
    subject = probe.subject
    parts = []
    for batch in changed.parts or (probe.batch,):
        same = batch is probe.batch
        one = Known(subject, batch, probe.exact, probe.outcome) if same else _settled(subject, batch)
        if one is None or one.outcome.value is None:
            return f"a part of it {one.outcome.error}" if one else ""
        parts.append(one)
    other = _other(subject, changed.loss)
    whole = _settled(other, changed.batch) if other else None
    return broken(changed, whole, parts) if whole else ""


def _settled(subject: Subject, batch: Batch) -> Known | None:
    """The answers, unless the target cannot be given these options."""
    settled = subject.settled(batch)
    return known(subject, batch) if dict(settled.options) == dict(batch.options) else None


def _other(subject: Subject, loss: str) -> Subject | None:
    """The subject of another loss of the same target, where it has that."""
    if not loss:
        return subject
    return Subject(subject.target, CATALOGUE[loss], subject.adapter) if subject.target.has(loss) else None


def broken(changed: Changed, whole: Known, parts: Sequence[Known]) -> str:
    """How the answer to a changed batch contradicts those to its parts; nothing if it does not.

    Args:
        changed: the relation.
        whole: the answer to the changed batch.
        parts: the answers to the parts, in their order.
    """
    if whole.outcome.value is None:
        return whole.outcome.error
    held = precision(whole.batch.form.name)

    def largest(one: Known) -> float:
        elementwise = one.subject.spec.result_is_elementwise(one.batch.options)
        return held.result_max if elementwise else held.scalar_max

    answers = [_Answer(one.outcome.value, one.exact.value, one.exact.bound, largest(one)) for one in parts]
    whole_value = _Answer(whole.outcome.value, whole.exact.value, whole.exact.bound, largest(whole))
    roundings = OWN_ROUNDINGS + sum(size(one.batch) for one in parts)
    message = _apart("value", whole_value, answers, lambda all_: changed.value(*all_), roundings)
    if message or changed.gradient is None:
        return message
    for path in whole.outcome.gradients:
        message = _apart_at(path, changed, whole, parts, roundings)
        if message:
            return message
    return ""


def _apart_at(path: str, changed: Changed, whole: Known, parts: Sequence[Known], roundings: int) -> str:
    """The gradient of one array."""
    largest = precision(whole.batch.form.name).result_max
    one = _slopes(whole, largest).get(path)
    if one is None or not all(np.all(np.isfinite(part.exact.value)) for part in (whole, *parts)):
        return ""
    slopes = [_slopes(part, largest) for part in parts]
    flat = [answer for part in slopes for answer in part.values()]

    def apply(numbers: list[Any]) -> Any:
        given = iter(numbers)
        return changed.gradient(path, *({key: next(given) for key in part} for part in slopes))  # type: ignore[misc]

    try:
        return _apart(f"gradient of {path}", one, flat, apply, roundings)
    except KeyError:  # a part has no gradient there: the property "graph" says so
        return ""


@dataclass(frozen=True)
class _Answer:
    """One array of an answer: computed, exact, its bound, and where its format ends."""

    computed: Any
    exact: Any
    bound: Any
    largest: float

    @property
    def blocked(self) -> npt.NDArray[np.bool_]:
        """Numbers that may have saturated, or are none."""
        return np.asarray(~(np.abs(self.exact) + self.bound < self.largest))


def _slopes(one: Known, largest: float) -> dict[str, _Answer]:
    """Gradients by path, where target and oracle have one of the right shape."""
    exact = one.exact
    return {
        path: _Answer(found, exact.gradients[path], exact.gradient_bounds[path], largest)
        for path, found in one.outcome.gradients.items()
        if found is not None and path in exact.gradients and found.shape == exact.gradients[path].shape
    }


def _apart(what: str, whole: _Answer, parts: Sequence[_Answer], apply: _Map, roundings: int) -> str:
    """How one array of the whole contradicts those of the parts."""
    if any(one.computed.shape != one.exact.shape for one in (whole, *parts)):
        return ""  # the property "shape" says so
    blocked = [one.blocked for one in parts]

    def mapped(numbers: list[Any]) -> _Long | None:
        kept = [
            np.where(out, 0.0, each).astype(np.longdouble) for out, each in zip(blocked, numbers, strict=True)
        ]
        found = apply(kept)
        return None if found is None else np.asarray(found, np.longdouble)

    def image(numbers: list[Any]) -> _Long:
        return np.abs(np.asarray(mapped(numbers)) - nothing)

    nothing = mapped([np.zeros(one.exact.shape) for one in parts])
    if nothing is None:
        return ""
    with np.errstate(all="ignore"):
        wanted = np.asarray(mapped([one.computed for one in parts]))
        allowed = whole.bound + image([one.bound for one in parts])
        allowed += roundings * ROUNDOFF * (image([np.abs(one.computed) for one in parts]) + np.abs(nothing))
        hidden = np.abs(np.asarray(apply([out.astype(np.longdouble) for out in blocked])) - nothing) > 0.0
        wrong = ~(np.abs(whole.computed - wanted) <= allowed) & ~hidden & ~whole.blocked
    if not np.any(wrong):
        return ""
    k = int(np.flatnonzero(wrong)[0])
    place = f" at {tuple(int(i) for i in np.unravel_index(k, wrong.shape))}" if wrong.ndim else ""
    found, right, limit = (float(np.asarray(each).flat[k]) for each in (whole.computed, wanted, allowed))
    return f"{what}{place} is {found!r} where {right!r} follows (allowed difference {limit!r})"


def reduction(probe: Probe) -> str:
    """All reductions of one batch against its sum: n means, B means of rows, the results added up."""
    subject, batch = probe.subject, probe.batch
    if "reduction" in subject.left_out:
        return ""
    offered = [how for how in ("none", "mean", "batch_mean") if how in subject.spec.reductions]
    asked: dict[str, Known | None] = {}
    for how in ("sum", *offered):
        if how == batch.options["reduction"]:
            asked[how] = Known(subject, batch, probe.exact, probe.outcome)
        else:
            asked[how] = known(subject, batch.with_options({**batch.options, "reduction": how}))
    whole = asked.pop("sum")
    for how, part in asked.items():
        if whole is None or part is None:
            return ""
        if part.outcome.value is None or whole.outcome.value is None:
            return f"reduction {how!r} or 'sum': {part.outcome.error or whole.outcome.error}"
        message = broken(_to_sum(whole.batch, how, asked.get("none")), whole, [part])
        if message:
            return f"reduction 'sum' against {how!r}: {message}"
    return ""


def _to_sum(batch: Batch, how: str, each: Known | None) -> Changed:
    """The sum from another reduction; where nothing counts all of them are 0."""
    if how == "none":
        return Changed(batch, lambda value: value.sum(), lambda path, before: before[path])
    mask = arrays(batch).get("mask")
    counted = each.exact.value.size if each else rows(batch)
    if mask is not None:
        counted = rows(batch) if how == "batch_mean" else int(np.count_nonzero(mask))
    return Changed(batch, lambda value: counted * value, lambda path, before: counted * before[path])


def _has(spec: LossSpec, name: str) -> bool:
    return any(one.name == name for one in spec.invariances)


def _has_own(spec: LossSpec) -> bool:
    return any(one.name not in (*NAMES, "blocks") for one in spec.invariances)


def _has_reductions(spec: LossSpec) -> bool:
    return "sum" in spec.reductions


_HOLDS = {
    "permutation": "the order of the batch does not matter",
    "shift": "an offset that the loss does not see changes nothing",
    "scale": "a power of two goes through the loss as the formula says",
    "swap": "sides or replicates in each other's place give the value that follows",
    "duplication": "every row twice gives the value that follows",
    "concatenation": "the value of a whole batch is the merge of those of its parts",
    "complement": "CDF and survival function add up to 1",
}

RELATIONS: tuple[Property, ...] = (
    *(
        Property(
            name,
            holds,
            "batch",
            partial(relation, name=name),
            applies=partial(_has, name=name),
            every=5,
        )
        for name, holds in _HOLDS.items()
    ),
    Property("invariance", "a relation of the loss's own holds", "batch", own, applies=_has_own, every=5),
    Property(
        "reduction",
        "all reductions of a batch fit together",
        "batch",
        reduction,
        applies=_has_reductions,
        every=5,
    ),
    BLOCKS,
)
