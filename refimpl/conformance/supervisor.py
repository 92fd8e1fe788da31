"""Run a foreign module in processes that may hang or die, and go on where they did."""

import pickle
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import wait
from types import TracebackType
from typing import Any, Self

from refimpl.conformance.batch import Batch
from refimpl.conformance.formats import FORMATS
from refimpl.conformance.plan import Part
from refimpl.conformance.process import GRACE, IMPORT_LIMIT, Process
from refimpl.conformance.request import Facts, Request
from refimpl.conformance.starter import Starter
from refimpl.conformance.worker import Death, Task

__all__ = ["Supervisor"]


class Supervisor:
    """Worker processes for one target.

    Args:
        request: what to import.
        count: how many processes work at once; they start when there is work for them.

    Raises:
        TypeError: the adapter cannot be sent to another process.

    Example:
        >>> from refimpl.conformance.plan import Plan
        >>> request = Request("refimpl.conformance.textbook", {}, ("masked_mse",), ("float32",))
        >>> with Supervisor(request) as supervisor:
        ...     jobs = supervisor.facts().jobs
        ...     plan = Plan(("value",), ("zeros",), max_examples=1)
        ...     len(supervisor.run([Task(job, plan) for job in jobs]))
        1
    """

    def __init__(self, request: Request, count: int = 1) -> None:
        try:
            self.request = pickle.dumps(request)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise TypeError(
                f"the adapter {request.adapter!r} cannot be sent to another process ({error}); name it as "
                "'module:attribute', or hand over the target itself instead of its name"
            ) from error
        self.count = count
        self.processes: list[Process] = []
        self.starter: Starter | None = None
        self.known: Facts | None = None

    def __enter__(self) -> Self:
        """Nothing starts yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all processes."""
        self.close()

    def close(self) -> None:
        """End all processes."""
        while self.processes:
            self.processes.pop().end()
        if self.starter is not None:
            self.starter.close()
            self.starter = None

    def _start(self) -> None:
        """One more process."""
        self.starter = self.starter or Starter()
        self.processes.append(Process(self.starter, self.request))

    def facts(self) -> Facts:
        """What the target has; starts a process if none runs.

        Raises:
            ImportError: the target or a mapped module cannot be imported, or ends the process.
            AttributeError: a mapped module lacks the function.
            ValueError: unknown adapter or device, or a loss that only this process has registered.
            TypeError: the adapter lacks what it must have.
        """
        while self.known is None:
            if not self.processes:
                self._start()
            self._listen([])
        return self.known

    def run(
        self,
        tasks: Sequence[Task],
        started: Callable[[int], None] | None = None,
        *,
        first_only: bool = False,
    ) -> list[Part]:
        """Work on tasks.

        Args:
            tasks: what to do.
            started: told the number of each task before it starts.
            first_only: stop after the first part, in the order of the tasks, that has a violation.

        Returns:
            The parts in the order of the tasks.

        Raises:
            RuntimeError: the engine itself failed in a worker.
        """
        try:
            return self._run(list(tasks), started, first_only=first_only)
        except BaseException:
            self.close()  # what still works on a task would answer the next ones
            raise

    def _run(
        self, todo: list[Task], started: Callable[[int], None] | None, *, first_only: bool
    ) -> list[Part]:
        open_ones = list(range(len(todo)))
        done: dict[int, Part] = {}
        last = len(todo)
        while len(done) < last:
            for process in self._idle(len(open_ones)):
                index = open_ones.pop(0)
                if started is not None and not todo[index].deaths:
                    started(index)
                process.give(index, todo[index])
            finished, died = self._listen(todo)
            for index, death in died:
                todo[index] = replace(todo[index], deaths=(*todo[index].deaths, death))
                open_ones = sorted([*open_ones, index])
            for index, part in finished:
                done[index] = part
                if first_only and part.violations and index < last:
                    last = index + 1
                    self._stop_after(last)
            open_ones = [index for index in open_ones if index < last]
            done = {index: part for index, part in done.items() if index < last}
        return [done[index] for index in range(last)]

    def _stop_after(self, last: int) -> None:
        """End the processes whose answer nobody will read."""
        for process in [one for one in self.processes if one.index is not None and one.index >= last]:
            self._end(process)

    def _end(self, process: Process) -> None:
        self.processes.remove(process)
        process.end()

    def _idle(self, wanted: int) -> list[Process]:
        """Processes that wait for work, at most so many; new ones are started while there are too few."""
        busy = sum(one.index is not None for one in self.processes)
        while len(self.processes) < min(self.count, wanted + busy):
            self._start()
        return [one for one in self.processes if one.ready and one.index is None][:wanted]

    def _listen(self, tasks: Sequence[Task]) -> tuple[list[tuple[int, Part]], list[tuple[int, Death]]]:
        """Wait until something happens; the tasks that are finished, and those whose process died."""
        finished: list[tuple[int, Part]] = []
        died: list[tuple[int, Death]] = []
        spoken: dict[Any, Process] = {one.connection: one for one in self.processes}
        printed: dict[Any, Process] = {one.output: one for one in self.processes if not one.silent}
        deadlines = [one.deadline for one in self.processes if one.deadline is not None]
        rest = max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
        heard = wait([*spoken, *printed], rest)
        for source in heard:
            if source in printed:
                printed[source].drain()
        for source in heard:
            if source in spoken:
                self._hear(spoken[source], tasks, finished, died)
        for process in [one for one in self.processes if one.late]:
            limit = IMPORT_LIMIT
            if process.index is not None:
                limit = tasks[process.index].plan.time_limit
            self._end(process)
            message = f"did not return within {limit:g} s and had to be killed{process.words()}"
            self._dead(process, message, tasks, died)
        return finished, died

    def _hear(
        self,
        process: Process,
        tasks: Sequence[Task],
        finished: list[tuple[int, Part]],
        died: list[tuple[int, Death]],
    ) -> None:
        """Read one message, or learn that there will be none."""
        try:
            kind, *content = pickle.loads(process.connection.recv_bytes())  # noqa: S301 - from our own worker
        except (EOFError, ConnectionError):
            self.processes.remove(process)
            self._dead(process, process.fate(), tasks, died)
            return
        match kind:
            case "trying":
                process.trying = (content[0], content[1], content[2])
                assert process.index is not None
                process.deadline = time.monotonic() + tasks[process.index].plan.time_limit + GRACE
            case "over":
                process.deadline = None
            case "part":
                assert process.index is not None
                finished.append((process.index, content[0]))
                process.index = process.deadline = None
                # after an error on the device nothing else works in that process
                if any("CUDA error" in violation.message for violation in content[0].violations):
                    self._end(process)
            case "facts":
                self.known, process.ready, process.deadline = content[0], True, None
            case "refused":
                raise content[0](content[1])
            case _:
                raise RuntimeError(f"the engine failed in a worker process\n{content[0]}")

    def _dead(
        self, process: Process, message: str, tasks: Sequence[Task], died: list[tuple[int, Death]]
    ) -> None:
        """Write down what a process was doing when it died."""
        if not process.ready:
            raise ImportError(f"cannot import the target: its import {message}")
        if process.index is None:  # it had nothing to do; another one takes its place
            return
        form = FORMATS[tasks[process.index].job.dtype]
        name, family, batch = process.trying or ("returns", "", Batch("before any call", form, {}))
        during = "" if name == "returns" else f"{name}: "
        died.append((process.index, Death(name, family, batch, during + message)))
