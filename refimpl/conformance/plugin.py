"""The same questions as tests: `pytest -p refimpl.conformance.plugin --target my.pkg`.

One test for every loss and property, `masked_mse::value`, and a skipped one, `masked_mse::missing`, for a
loss that the target lacks. They stand beside the tests that are there, and need none; `-m conformance`
selects them alone. A loss is examined once, in a worker process, when the first of its tests runs; with
pytest-xdist `--dist loadgroup` keeps its tests together.
"""

import fnmatch
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from refimpl.conformance.catalogue import CATALOGUE
from refimpl.conformance.formats import FORMATS
from refimpl.conformance.plan import Part, Plan
from refimpl.conformance.properties import PROPERTIES
from refimpl.conformance.report import Cell, Violation
from refimpl.conformance.request import Request, load_specs
from refimpl.conformance.runner import DEFAULT_EXAMPLES, DEFAULT_LIMIT, known
from refimpl.conformance.supervisor import Supervisor
from refimpl.conformance.target import parse_map
from refimpl.conformance.worker import Task

__all__: list[str] = []

LISTED = (("--skips-file", pytest.mark.skip), ("--xfails-file", pytest.mark.xfail(strict=True)))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Say what the options are."""
    group = parser.getgroup("conformance", "hold losses against the oracles of proven-losses")
    group.addoption("--target", metavar="MODULE", help="importable name of the module under test")
    several: dict[str, Any] = {"action": "append", "default": [], "metavar": "NAME"}
    group.addoption(
        "--map", **{**several, "metavar": "LOSS=MODULE:FUNCTION"}, help="a loss with another name"
    )
    group.addoption("--loss", **several, help="only this loss (may be repeated)")
    group.addoption(
        "--spec", **{**several, "metavar": "MODULE"}, help="module that registers your own losses"
    )
    group.addoption(
        "--adapter", default="torch", metavar="NAME", help="torch, numpy, jax or MODULE:ATTRIBUTE"
    )
    group.addoption("--device", default="cpu", metavar="NAME", help="cpu or cuda")
    group.addoption("--conformance-dtype", **several, help="only this dtype (may be repeated)")
    group.addoption("--conformance-family", **several, help="only this hazard (may be repeated)")
    group.addoption("--conformance-max-examples", type=int, default=DEFAULT_EXAMPLES, metavar="N")
    group.addoption("--conformance-seed", type=int, default=0, metavar="N")
    group.addoption("--conformance-time-limit", type=float, default=DEFAULT_LIMIT, metavar="SECONDS")
    lines = "one id or pattern such as masked_*::value on a line, # starts a comment"
    group.addoption("--skips-file", metavar="FILE", help=f"tests not to run: {lines}")
    group.addoption("--xfails-file", metavar="FILE", help=f"tests that are known to fail: {lines}")


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers", "conformance: a property of a loss, asked by refimpl.conformance.plugin"
    )


@dataclass
class _Run:
    """The target, and what has been found out about it."""

    supervisor: Supervisor
    plan: Plan
    found: dict[str, list[Part] | Exception] = field(default_factory=dict)

    def parts(self, loss: str, properties: Sequence[str]) -> list[Part]:
        """What the properties of a loss show in every dtype; found out once."""
        if loss not in self.found:
            plan = Plan(
                tuple(properties),
                self.plan.families,
                self.plan.max_examples,
                self.plan.seed,
                self.plan.time_limit,
            )
            jobs = [job for job in self.supervisor.facts().jobs if job.loss == loss]
            try:
                self.found[loss] = self.supervisor.run([Task(job, plan) for job in jobs])
            except Exception as error:  # noqa: BLE001 - every test of the loss shows it
                self.found[loss] = error
        answer = self.found[loss]
        if isinstance(answer, Exception):
            raise answer
        return answer


RUN = pytest.StashKey[_Run]()


def _run(config: pytest.Config) -> tuple[_Run, tuple[str, ...]]:
    """Start the run that the options ask for; also the losses it is about.

    Raises:
        pytest.UsageError: the options name something that does not exist.
    """
    option = config.option
    if not (option.target or option.map):
        raise pytest.UsageError(
            "refimpl.conformance.plugin needs --target MODULE or --map LOSS=MODULE:FUNCTION"
        )
    if option.conformance_max_examples < 1 or not option.conformance_time_limit > 0.0:
        raise pytest.UsageError("--conformance-max-examples and --conformance-time-limit must be above 0")
    try:
        load_specs(tuple(option.spec))
        mapping = parse_map(option.map)
        known("loss", list(mapping), list(CATALOGUE))
        default = None if option.target else list(mapping)
        losses = tuple(known("loss", option.loss or default, list(CATALOGUE)))
        families = dict.fromkeys(family for loss in losses for family in CATALOGUE[loss].families)
        plan = Plan(
            families=tuple(known("family", option.conformance_family or None, list(families))),
            max_examples=option.conformance_max_examples,
            seed=option.conformance_seed,
            time_limit=option.conformance_time_limit,
        )
        dtypes = tuple(known("dtype", option.conformance_dtype or None, list(FORMATS)))
        request = Request(
            option.target, mapping, losses, dtypes, option.adapter, option.device, tuple(option.spec)
        )
        run = _Run(Supervisor(request), plan)
        config.stash[RUN] = run
        facts = run.supervisor.facts()
    except (ValueError, ImportError, AttributeError, TypeError) as error:
        raise pytest.UsageError(str(error)) from error
    if not facts.jobs:
        raise pytest.UsageError(f"{facts.target!r} has none of {', '.join(losses)}")
    return run, losses


class Loss(pytest.Collector):
    """One loss of the target."""

    run: _Run

    def collect(self) -> Iterator[pytest.Item]:
        """One test for every property, or the one that says that the loss is missing."""
        facts = self.run.supervisor.facts()
        if self.name in facts.missing:
            yield Missing.from_parent(self, name="missing")
        for name in facts.properties.get(self.name, ()):
            yield Question.from_parent(self, name=name)


class Missing(pytest.Item):
    """A loss that the target lacks."""

    def runtest(self) -> None:
        """Skip."""
        pytest.skip("missing")

    def reportinfo(self) -> tuple[Path, int, str]:
        """The loss stands where other tests have their file."""
        assert self.parent is not None
        return self.session.path / self.parent.name, 0, self.nodeid


class Question(Missing):
    """One property of one loss."""

    def runtest(self) -> None:
        """Fail with the counterexamples; skip what nothing has answered."""
        assert isinstance(self.parent, Loss)
        loss, config = self.parent.name, self.config
        beside = [item.name for item in self.session.items if item.parent is self.parent]
        parts = config.stash[RUN].parts(loss, beside)
        # where no test is about whether the call returns, that it does not is told by all of them
        names = {self.name} if "returns" in beside else {self.name, "returns"}
        wrong = [one for part in parts for one in part.violations if one.property in names]
        if wrong:
            pytest.fail(_text(wrong), pytrace=False)
        cells = [cell for part in parts for cell in part.cells if cell.property == self.name]
        _skip_unanswered(cells)


def _text(violations: Iterable[Violation]) -> str:
    return "\n".join(f"{one.dtype}, {one.family}: {one.message}\n\n{one.snippet}" for one in violations)


def _skip_unanswered(cells: Sequence[Cell]) -> None:
    unfinished = [cell.dtype for cell in cells if cell.verdict == "unfinished"]
    if unfinished:
        pytest.skip(f"unfinished within the time limit: {', '.join(unfinished)}")
    if all(cell.verdict == "not asked" for cell in cells):
        pytest.skip("no input asked it")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Add the tests, before others select among them."""
    run, losses = _run(config)
    grouped = config.pluginmanager.hasplugin("xdist")
    made: list[pytest.Item] = []
    for loss in losses:
        node = Loss.from_parent(session, name=loss, nodeid=loss)
        node.run = run
        for item in session.genitems(node):
            item.add_marker(pytest.mark.conformance)
            if grouped:
                item.add_marker(pytest.mark.xdist_group(loss))
            made.append(item)
    # ids that exist, though not in this run: an entry for one of them is no mistake
    elsewhere = [f"{loss}::{name}" for loss in CATALOGUE if loss not in losses for name in PROPERTIES]
    for option, mark in LISTED:
        _mark_listed(config, option, mark, made, elsewhere)
    items.extend(made)


def _mark_listed(
    config: pytest.Config,
    option: str,
    mark: pytest.MarkDecorator,
    items: Sequence[pytest.Item],
    elsewhere: Sequence[str],
) -> None:
    """Mark the tests that a file lists, and warn of entries that match none."""
    given = config.getoption(option)
    if not given:
        return
    file = config.invocation_params.dir / given
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise pytest.UsageError(f"{option} {given}: {error}") from error
    for number, line in enumerate(lines, 1):
        pattern = line.partition("#")[0].strip()
        if not pattern:
            continue
        listed = [item for item in items if fnmatch.fnmatchcase(item.nodeid, pattern)]
        for item in listed:
            item.add_marker(mark.with_args(reason=f"{given}:{number}"))
        if not listed and not fnmatch.filter(elsewhere, pattern):
            text = f"{given}:{number}: {pattern!r} matches no test"
            warnings.warn_explicit(pytest.PytestWarning(text), None, str(file), number)


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the worker."""
    if RUN in config.stash:
        config.stash[RUN].supervisor.close()
