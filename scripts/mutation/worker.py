"""A process that judges one mutant after another and can be killed at any time."""

from __future__ import annotations

import itertools
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from .candidates import Mutation
from .judges import by_engine, by_tests, quiet
from .oracle_tests import by_oracle_tests

__all__ = ["Worker", "serve"]

FRESH_AFTER = 100  # mutants: each leaves operators behind in torch's registry
FIRST_STEP = 120.0  # seconds more, for a new process that compiles the oracles and imports torch
TEST_LIMIT = 240.0  # seconds that the tests of a module may take
TIMEOUT = "timeout"


def serve(pipe: Connection, judge: str, examples: int) -> None:
    """Answer (package, module, mutation) with what noticed it, until None comes; told before each step."""
    quiet()
    if judge == "tests":
        _prepared()
    for number in itertools.count():
        task = pipe.recv()
        if task is None:
            return
        package, module, mutation = task
        if judge == "tests":
            pipe.send(("step", "tests"))
            judge_tests = by_tests if package == "torchimpl" else by_oracle_tests
            found = judge_tests(mutation, module, TEST_LIMIT)
        else:
            name = f"mutant{number}" if mutation else f"unchanged{number}"
            found = by_engine(
                name, package, module, mutation, examples, lambda step: pipe.send(("step", step))
            )
        pipe.send(("found", found))


def _prepared() -> None:
    """Import what the tests need: not torchimpl, which the forks load, nor what pytest wants to rewrite."""
    import pytest  # noqa: F401, PLC0415
    import torch  # noqa: F401, PLC0415

    import refimpl  # noqa: F401, PLC0415


class Worker:
    """One such process, replaced when it hangs, dies or has judged many.

    Args:
        judge: "engine" or "tests".
        examples: of every family, for the mutants that survive fewer.
        limit: seconds that one step may take.
    """

    def __init__(self, judge: str, examples: int, limit: float) -> None:
        self.judge, self.examples = judge, examples
        self.limit = TEST_LIMIT + 30.0 if judge == "tests" else limit
        self.process: Any = None
        self.step = ""
        self.age = 0
        self.since = 0.0

    def start(self, task: tuple[str, str, Mutation | None]) -> None:
        """Give the process something to judge."""
        if self.process is not None and (self.age >= FRESH_AFTER or not self.process.is_alive()):
            self.stop()
        if self.process is None:
            context = get_context("spawn")
            self.pipe, other = context.Pipe()
            self.process = context.Process(
                target=serve, args=(other, self.judge, self.examples), daemon=self.judge != "tests"
            )
            self.process.start()
            other.close()
            self.age = 0
        self.grace = FIRST_STEP if self.age == 0 else 0.0
        self.age += 1
        self.since = time.monotonic()
        self.pipe.send(task)

    def answer(self) -> str | None:
        """What noticed the mutant, "" for nothing, None while it is being judged."""
        try:
            while self.pipe.poll(0.02):
                kind, text = self.pipe.recv()
                if kind == "found":
                    return str(text)
                self.step, self.since = text, time.monotonic()
        except (EOFError, ConnectionError):
            self.stop()
            return "the process died"
        if time.monotonic() - self.since > self.limit + self.grace:
            self.stop()
            return TIMEOUT
        return None

    def stop(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.pipe.close()
            self.process = None
