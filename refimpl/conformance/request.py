"""What a run is asked for, and what there is to do: plain data that another process can be sent."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from refimpl.conformance.adapters import Adapter, get_adapter
from refimpl.conformance.catalogue import CATALOGUE
from refimpl.conformance.formats import FORMATS
from refimpl.conformance.properties import PROPERTIES
from refimpl.conformance.target import Subject, Target

__all__ = ["Facts", "Job", "Opened", "Request", "imported", "load_specs", "opened"]


@dataclass(frozen=True)
class Job:
    """One loss in one dtype."""

    loss: str
    dtype: str


@dataclass(frozen=True)
class Request:
    """Whose losses, which of them, and through what.

    Attributes:
        target: importable name of a module; None where all losses are mapped.
        mapping: loss -> "module:function" for losses that have another name.
        losses: names of the losses.
        dtypes: names of the formats.
        adapter: name of the adapter, or an adapter.
        device: where the arrays live.
        specs: modules that register further losses.
    """

    target: str | None
    mapping: Mapping[str, str]
    losses: tuple[str, ...]
    dtypes: tuple[str, ...]
    adapter: str | Adapter = "torch"
    device: str = "cpu"
    specs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Facts:
    """What the target has.

    Attributes:
        target: its name.
        adapter: name of the framework.
        jobs: what there is to do, in the order of the catalogue.
        missing: losses that it lacks.
        left_out: options that a loss does not take.
        properties: for every loss with a job those that can be asked in one of the dtypes.
    """

    target: str
    adapter: str
    jobs: tuple[Job, ...]
    missing: tuple[str, ...]
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    properties: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Opened:
    """A target that has been imported, and the adapter that calls it."""

    target: Target
    adapter: Adapter

    def subject(self, loss: str) -> Subject:
        """One loss of the target."""
        return Subject(self.target, CATALOGUE[loss], self.adapter)

    def facts(self, losses: tuple[str, ...], dtypes: tuple[str, ...]) -> Facts:
        """What there is to do for these losses and dtypes."""
        present = [loss for loss in losses if self.target.has(loss)]
        jobs = tuple(
            Job(loss, dtype)
            for loss in present
            if not CATALOGUE[loss].call or "torch" in self.adapter.features
            for dtype in dtypes
            if dtype in CATALOGUE[loss].dtypes and dtype in self.adapter.dtypes
        )
        subjects = {loss: self.subject(loss) for loss in present}
        asked: dict[str, tuple[str, ...]] = {}
        for loss in dict.fromkeys(job.loss for job in jobs):
            forms = [FORMATS[job.dtype] for job in jobs if job.loss == loss]
            asked[loss] = tuple(
                one.name
                for one in PROPERTIES.values()
                if any(one.fits(subjects[loss], form) for form in forms)
            )
        return Facts(
            self.target.name,
            self.adapter.name,
            jobs,
            tuple(loss for loss in losses if loss not in present),
            {loss: subject.left_out for loss, subject in subjects.items() if subject.left_out},
            asked,
        )


def imported(name: str) -> Any:
    """A module by its name.

    Raises:
        ImportError: whatever it raised while it was imported, in one line.

    Example:
        >>> imported("no_such_module")
        Traceback (most recent call last):
            ...
        ImportError: cannot import module 'no_such_module': ModuleNotFoundError: No module named ...
    """
    try:
        return import_module(name)
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        raise ImportError(f"cannot import module {name!r}: {type(error).__name__}: {error}") from error


def load_specs(names: tuple[str, ...]) -> None:
    """Import the modules that register further losses.

    Raises:
        ImportError: one of them cannot be imported.
    """
    for name in names:
        imported(name)


def opened(request: Request) -> Opened:
    """Import what a request names.

    Raises:
        ImportError: a module cannot be imported.
        AttributeError: a mapped module lacks the function.
        ValueError: the adapter or its device is unknown, or a loss is not registered in this process.
        TypeError: the adapter lacks what it must have.
    """
    load_specs(request.specs)
    strange = [loss for loss in request.losses if loss not in CATALOGUE]
    if strange:
        raise ValueError(
            f"loss {strange[0]!r} is registered in the calling process only; register it in a module and "
            "name that with specs=(...) or --spec, or hand over the target itself instead of its name"
        )
    adapter = get_adapter(request.adapter, request.device)
    source = None if request.target is None else imported(request.target)
    for place in request.mapping.values():
        imported(place.partition(":")[0])
    name = request.target or "mapped functions"
    return Opened(Target(source, request.mapping, name), adapter)
