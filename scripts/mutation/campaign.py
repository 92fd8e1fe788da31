"""Judge many mutants in several processes, and keep every answer in a file."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from .candidates import Mutation
from .plan import TESTS_TOO
from .verdicts import equivalent
from .worker import Worker

__all__ = ["Result", "judged", "judges_of", "read_results", "rejected", "then_tests", "write_result"]

THEN_TESTS = {"torchimpl": "engine, then tests", "refimpl": "engine, one ulp, then tests"}


@dataclass(frozen=True)
class Result:
    """What noticed a mutant: "" for nothing, "timeout" where it did not come back."""

    mutation: Mutation
    by: str
    seconds: float = 0.0

    @property
    def survived(self) -> bool:
        """Whether nothing noticed it."""
        return not self.by


def judges_of(package: str, module: str, judge: str) -> str:
    """Who has the last word about a mutant that this judge gets first."""
    return THEN_TESTS[package] if then_tests(package, module, judge) else judge


def then_tests(package: str, module: str, judge: str) -> bool:
    """Whether what this judge lets pass goes on to the tests."""
    return judge == "engine" and (package == "refimpl" or module in TESTS_TOO)


def read_results(file: Path | None, examples: int) -> dict[tuple[str, str], tuple[str, str]]:
    """What noticed a mutant in an earlier run and who judged it, by module and digest of the changed source.

    Survivors of fewer examples than are asked for now are left out: they are judged again.
    """
    if file is None or not file.exists():
        return {}
    rows = [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]
    settled = [row for row in rows if row["by"] or row.get("examples", 1) >= examples]
    return {(row["module"], row["digest"]): (row["by"], row["judge"]) for row in settled}


def write_result(file: Path, result: Result, examples: int, judge: str = "") -> None:
    """Append one line; `judge` is who said so where that is not the mutant's first judge."""
    one = result.mutation
    row = {
        "module": f"{one.package}/{one.module}", "digest": one.digest, "kind": one.kind,
        "judge": judge or one.judge,
        "line": one.line, "change": one.change, "by": result.by, "examples": examples,
        "seconds": round(result.seconds, 2),
    }  # fmt: skip
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as stream:
        stream.write(json.dumps(row) + "\n")


def judged(
    mutations: Sequence[Mutation],
    *,
    jobs: int,
    examples: int,
    limit: float,
    file: Path | None = None,
    retry: bool = False,
) -> Iterator[Result]:
    """Judge mutants; those that an earlier run has judged are taken from its file.

    A mutant that is argued to be equivalent survives without a judge; `retry` judges it as well.

    Args:
        mutations: what to judge.
        jobs: processes; 0 to judge nothing more.
        examples: of every family, for the mutants that survive fewer.
        limit: seconds that one call of the engine may take.
        file: where results are read from and appended to.
        retry: judge again what survived before.
    """
    before = read_results(file, examples)
    left: dict[str, list[Mutation]] = {"engine": [], "tests": []}
    for one in mutations:
        by, judge = before.get((f"{one.package}/{one.module}", one.digest), ("", ""))
        last = judges_of(one.package, one.module, one.judge)
        if by or (judge == last and not retry):
            yield Result(one, by)
        elif equivalent(one) and not retry:
            yield Result(one, "")
        else:
            left["tests" if judge and judge != last and not retry else one.judge].append(one)
    if not jobs:
        return
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("mutants", total=sum(map(len, left.values())))
        for judge in ("engine", "tests"):
            for result in _in_workers(left[judge], judge, jobs=jobs, examples=examples, limit=limit):
                one = result.mutation
                last = judges_of(one.package, one.module, one.judge)
                if file is not None:
                    write_result(file, result, examples, last if judge == "tests" else judge)
                if result.survived and judge == "engine" and last != judge:
                    left["tests"].append(one)
                    continue
                progress.update(task, advance=1, description=one.module)
                yield result


def _in_workers(
    mutations: Iterable[Mutation], judge: str, *, jobs: int, examples: int, limit: float
) -> Iterator[Result]:
    queue = deque(mutations)
    workers = [Worker(judge, examples, limit) for _ in range(min(jobs, len(queue)))]
    busy: dict[Worker, tuple[Mutation, float]] = {}
    try:
        while queue or busy:
            for worker in workers:
                if worker not in busy and queue:
                    mutation = queue.popleft()
                    worker.start((mutation.package, mutation.module, mutation))
                    busy[worker] = (mutation, time.monotonic())
            for worker, (mutation, start) in list(busy.items()):
                by = worker.answer()
                if by is not None:
                    del busy[worker]
                    yield Result(mutation, by, time.monotonic() - start)
    finally:
        for worker in workers:
            worker.stop()


def rejected(pairs: Iterable[tuple[str, str, str]], *, examples: int, limit: float) -> dict[str, str]:
    """The modules whose unchanged package a judge rejects, and what it says.

    Args:
        pairs: (package, module, judge).
        examples: of every family.
        limit: seconds that one call of the engine may take.
    """
    workers: dict[str, Worker] = {}
    found = {}
    try:
        for package, module, judge in pairs:
            worker = workers.setdefault(judge, Worker(judge, examples, limit))
            worker.start((package, module, None))
            while (by := worker.answer()) is None:
                pass
            if by:
                found[f"{package}/{module} ({judge})"] = by
    finally:
        for worker in workers.values():
            worker.stop()
    return found
