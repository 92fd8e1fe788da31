"""What a property is: a name, a sentence that must hold, and a question to ask a target."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from refimpl.conformance.batch import Batch
from refimpl.conformance.formats import FORMATS, Format
from refimpl.conformance.outcome import Outcome
from refimpl.conformance.properties.judge import Truth
from refimpl.conformance.spec import LossSpec
from refimpl.conformance.target import Subject

__all__ = ["Finding", "Fixed", "Probe", "Property", "everywhere"]


@dataclass(frozen=True)
class Finding:
    """One property that does not hold on one batch.

    Attributes:
        property: name of the property.
        message: what is wrong, with numbers.
        batch: the input that shows it, where it is not the batch that was asked about.
    """

    property: str
    message: str
    batch: Batch | None = None


@dataclass(frozen=True)
class Fixed:
    """A call without a drawn batch that went wrong.

    Attributes:
        message: what is wrong.
        snippet: source text that shows it; empty where the engine can write it from `batch`.
        batch: the input, where there is one.
    """

    message: str
    snippet: str = ""
    batch: Batch | None = None


@dataclass(frozen=True)
class Probe:
    """A batch, the exact answer, and what the target answered when simply called."""

    subject: Subject
    batch: Batch
    exact: Truth
    outcome: Outcome


def everywhere(_: LossSpec) -> bool:
    """Every loss has the property."""
    return True


@dataclass(frozen=True)
class Property:
    """One thing that must hold.

    Attributes:
        name: its name in reports and on the command line.
        holds: what must hold, in one sentence.
        kind: "answer" (read off the answer to every batch), "batch" (asked with more calls on some batches)
            or "fixed" (needs no drawn batch; asked once for a loss and dtype).
        ask: for "batch": the question, answered with what is wrong (a text, or a Finding that carries
            another batch), or with nothing. For "fixed": yields what is wrong.
        needs: features that the adapter must have.
        dtypes: formats in which it is asked; a "fixed" one that has no dtype is asked in float32.
        applies: which losses have it.
        families: families whose batches are asked; all if empty.
        every: of these batches every n-th is asked.
        most: at most so many batches of a loss in a dtype are asked.
        late: a "fixed" one that is asked after all drawn batches, being dear.
        independent: asked even where the plain answer is wrong already: it compares the target with itself.
    """

    name: str
    holds: str
    kind: Literal["answer", "batch", "fixed"] = "answer"
    ask: Callable[..., Any] | None = None
    needs: frozenset[str] = frozenset()
    dtypes: tuple[str, ...] = tuple(FORMATS)
    applies: Callable[[LossSpec], bool] = everywhere
    families: tuple[str, ...] = ()
    every: int = 1
    most: int = 10**9
    independent: bool = False
    late: bool = False

    def fits(self, subject: Subject, form: Format) -> bool:
        """Whether it can be asked of this loss in this format."""
        able = self.needs <= subject.adapter.features
        return able and form.name in self.dtypes and self.applies(subject.spec)

    def about(self, probe: Probe) -> Finding | None:
        """Ask about a batch."""
        assert self.ask is not None
        found = self.ask(probe)
        if not found:
            return None
        return found if isinstance(found, Finding) else Finding(self.name, found)

    def once(self, subject: Subject, form: Format, seed: int) -> Iterator[Fixed]:
        """Ask without a batch."""
        assert self.ask is not None
        yield from self.ask(subject, form, seed)
