"""The process in which a foreign module is imported and called; it may die there without harm.

It is started by `refimpl.conformance.starter` and speaks with the supervisor over a socket of its own, so
that nothing the target prints or reads can disturb the conversation.
"""

import os
import pickle
import queue
import resource
import sys
import threading
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

import torch

from refimpl.conformance.batch import Batch, size
from refimpl.conformance.examine import abandoned, examine
from refimpl.conformance.formats import FORMATS
from refimpl.conformance.plan import HANGS, Part, Plan
from refimpl.conformance.report import Cell, Violation
from refimpl.conformance.request import Job, Opened, Request, opened
from refimpl.conformance.snippet import snippet
from refimpl.conformance.target import Subject

__all__ = ["Death", "Message", "Task", "main"]

Message = tuple[Any, ...]
EXPECTED = (ImportError, AttributeError, ValueError, TypeError)


@dataclass(frozen=True)
class Death:
    """A call that ended the process, or did not come back.

    Attributes:
        property: name of the property that was asked.
        family: the family it was asked in, or what stands for it in `Plan.avoid`.
        batch: the input.
        message: what happened.
    """

    property: str
    family: str
    batch: Batch
    message: str


@dataclass(frozen=True)
class Task:
    """One loss in one dtype, and the calls of it that did not come back when it was tried before."""

    job: Job
    plan: Plan
    deaths: tuple[Death, ...] = ()


class Worker:
    """Answers the messages of the supervisor one after the other."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def receive(self) -> None:
        """Read what comes; die when the supervisor is gone, whatever the target does meanwhile."""
        while True:
            try:
                self.inbox.put(self.connection.recv_bytes())
            except (EOFError, OSError):
                os._exit(0)

    def send(self, *message: Any) -> None:
        """Tell the supervisor."""
        self.connection.send_bytes(pickle.dumps(message))

    def listen(self, name: str, family: str, batch: Batch) -> None:
        """Say what is tried next, or that it is over."""
        if not name:
            self.send("over")
            return
        try:
            self.send("trying", name, family, batch)
        except (pickle.PicklingError, AttributeError, TypeError):  # options of a foreign spec may be anything
            self.send("trying", name, family, replace(batch, options={}))

    def serve(self) -> None:
        """Import the target, then examine what comes."""
        try:
            request: Request = pickle.loads(self.inbox.get())  # noqa: S301 - written by the parent process
            bench = opened(request)
            self.send("facts", bench.facts(request.losses, request.dtypes))
        except EXPECTED as error:
            kind = next(kind for kind in EXPECTED if isinstance(error, kind))
            self.send("refused", kind, str(error))
            return
        while True:
            task: Task = pickle.loads(self.inbox.get())  # noqa: S301 - written by the parent process
            self.send("part", self.examined(bench, task))

    def examined(self, bench: Opened, task: Task) -> Part:
        """What the task found, the deaths before included."""
        subject, form = bench.subject(task.job.loss), FORMATS[task.job.dtype]
        if len(task.deaths) < HANGS:
            avoid = task.plan.avoid | {(death.family, death.property) for death in task.deaths}
            part = examine(subject, form, replace(task.plan, avoid=avoid), self.listen)
        else:
            part = abandoned(subject, form, task.plan)
        # one violation for each thing that happened, on its smallest input
        smallest: dict[str, Death] = {}
        for death in sorted(task.deaths, key=lambda one: size(one.batch)):
            smallest.setdefault(death.message.partition(";")[0], death)
        found = [
            Violation(
                task.job.loss,
                task.job.dtype,
                "returns",
                death.batch.family,
                death.message,
                size(death.batch),
                _shown(subject, death),
            )
            for death in smallest.values()
        ]
        cells = _with_deaths(part.cells, task) if task.deaths else part.cells
        return replace(part, cells=cells, violations=(*found, *part.violations))


def _shown(subject: Subject, death: Death) -> str:
    """Source text of the call; where a property without a drawn batch died, only what happened."""
    if death.batch.arguments:
        return snippet(subject, death.batch, death.message)
    module, _ = subject.target.place(subject.spec.name)
    return f"# {subject.spec.name}: {death.message}\nimport {module} as target\n"


def _with_deaths(cells: Sequence[Cell], task: Task) -> tuple[Cell, ...]:
    """The cells with the deaths counted under "returns"."""
    more = len(task.deaths)
    known = {cell.property: cell for cell in cells}
    old = known.get("returns", Cell(task.job.loss, "returns", task.job.dtype, 0))
    known["returns"] = replace(old, asked=old.asked + more, violated=old.violated + more)
    return tuple(known.values())


def main(descriptor: int, output: int) -> None:
    """Serve the supervisor at the other end of a socket; never returns.

    Args:
        descriptor: number of the socket.
        output: descriptor for what the target prints.
    """
    try:
        os.setsid()  # all that the target starts ends with this process
        for standard in (1, 2):
            os.dup2(output, standard)
        os.close(output)
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # last words do not wait
        connection = Connection(descriptor)
        # a target that forks must not leave a second process that speaks for this one
        os.register_at_fork(after_in_child=connection.close)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        torch.set_num_threads(1)
        worker = Worker(connection)
        threading.Thread(target=worker.receive, daemon=True).start()
        try:
            worker.serve()
        except BaseException:  # noqa: BLE001 - told to the supervisor, which raises it
            worker.send("broken", traceback.format_exc())
    finally:
        os._exit(0)
