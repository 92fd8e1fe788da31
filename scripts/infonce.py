"""Speed, memory and accuracy of InfoNCE: what the tables and the picture of docs/infonce.md come from.

    make infonce                                    everything, and replace tables and picture
    python scripts/infonce.py peers                 beside other ways to the same loss; printed only
    python scripts/infonce.py accuracy              every layout against 80-bit arithmetic
    python scripts/infonce.py fuzz --batches 1000   random batches against the oracle and its bound
    python scripts/infonce.py growth                time and memory from 1,000 to 1,000,000 rows
    python scripts/infonce.py all --write           all four
    python scripts/infonce.py tiles                 sizes of the CUDA kernels' tiles, on a CUDA device

Times and memory are measured in processes of their own; `--peers-python PATH` names the interpreter that has
the peers (torch, numba, and as many as possible of pytorch-metric-learning, pykeops, open_clip_torch).
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.infonce_study import accuracy, fuzz, growth, peers, tables, tiles  # noqa: E402 - after the root's path

TABLES = ROOT / "docs" / "tables"
PICTURE = ROOT / "docs" / "assets" / "infonce_growth.svg"
COMMANDS = ("peers", "accuracy", "fuzz", "growth")


def shared(jobs: int, tasks: list[tuple[Callable[..., Any], tuple[Any, ...]]]) -> Iterator[tuple[int, Any]]:
    """The tasks' results by number, as they come, from so many processes."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        futures = {pool.submit(call, *given): number for number, (call, given) in enumerate(tasks)}
        for future in as_completed(futures):
            yield futures[future], future.result()


def run_peers(options: argparse.Namespace, bar: Progress) -> tuple[str, bool]:
    """The side-by-side table."""
    batches = tuple(options.sizes)
    task = bar.add_task("peers", total=peers.steps(batches))

    def step(text: str) -> None:
        bar.update(task, description=text, advance=1)

    return tables.peers_page(peers.measure(options.peers_python, batches, options.seconds, step)), True


def run_accuracy(options: argparse.Namespace, bar: Progress) -> tuple[str, bool]:
    """Errors by layout; whether the targets are met."""
    sizes = {features: max(2, round(batch * options.scale)) for features, batch in accuracy.SIZES.items()}
    # the longest first, so that no process is left alone with it
    units = sorted(accuracy.units(sizes), key=lambda unit: -(sizes[unit.features] ** 2) * unit.features)
    task = bar.add_task("accuracy", total=len(units))
    study = {}
    work = [(accuracy.measure, (unit, sizes[unit.features])) for unit in units]
    for number, found in shared(options.jobs, work):
        study[units[number]] = found
        bar.update(task, description=f"accuracy: {units[number].layout}", advance=1)
    own = [
        (unit.form, found.judged)
        for unit, settings in study.items()
        for setting, found in settings.items()
        if setting.name not in accuracy.FORMULAS
    ]
    met = all(worst <= accuracy.TARGETS[form] for form, worst in own)
    return tables.accuracy_page(study, accuracy.reference_error(), sizes), met


def run_fuzz(options: argparse.Namespace, bar: Progress) -> tuple[str, bool]:
    """The worst of many random batches; whether all are finite and within their bounds."""
    indices = range(options.first, options.first + options.batches)
    task = bar.add_task("fuzz", total=len(indices))
    found: list[fuzz.Finding] = []
    for _, findings in shared(options.jobs, [(fuzz.judge, (index, options.seed)) for index in indices]):
        found += findings
        bar.update(task, description=f"fuzz: {max(one.ratio for one in found):.2g} of the bound", advance=1)
    found.sort(key=lambda one: one.index)
    bad = [one for one in found if one.broken or not one.ratio <= 1.0]
    for one in bad[:20]:
        print(f"beyond the bound: {one}", file=sys.stderr)
    return tables.fuzz_page(found, len(indices), options.seed), not bad


def run_growth(options: argparse.Namespace, bar: Progress) -> tuple[str, bool]:
    """Time and memory by batch size, and the picture."""
    task = bar.add_task("growth", total=growth.STEPS)

    def step(text: str) -> None:
        bar.update(task, description=text, advance=1)

    found = growth.measure(options.peers_python, options.seconds, step)
    if options.write:
        growth.draw(found, PICTURE)
    return tables.growth_page(found), True


def run_tiles(options: argparse.Namespace, bar: Progress) -> tuple[str, bool]:
    """The fastest tiles on this machine's CUDA device."""
    device = torch.device("cuda", torch.cuda.current_device())
    rounds, found = options.rounds, {}
    task = bar.add_task("tiles", total=len(tiles.SHAPES) * (rounds + 1) * len(tiles.CANDIDATES))
    for kind, (batch, _) in tiles.SHAPES.items():

        def step(kind: str = kind) -> None:
            bar.update(task, description=f"tiles: {kind}", advance=1)

        found[kind] = tiles.measure(kind, batch, device, rounds, tiles.CANDIDATES, step)
    return tables.tiles_page(found, device), all(one.seconds for one in found.values())


RUNS = {
    "peers": run_peers, "accuracy": run_accuracy, "fuzz": run_fuzz, "growth": run_growth, "tiles": run_tiles,
}  # fmt: skip


def main() -> int:
    """Measure, print; with --write, replace the page's tables and picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=(*RUNS, "all"))
    parser.add_argument("--peers-python", default=sys.executable, help="the interpreter that has the peers")
    parser.add_argument("--sizes", type=int, nargs="+", default=peers.BATCHES, help="batches of the peers")
    parser.add_argument("--seconds", type=float, default=5.0, help="of a shape, once there are enough rounds")
    parser.add_argument("--scale", type=float, default=1.0, help="of the batches of the accuracy")
    parser.add_argument("--batches", type=int, default=1000, help="random ones")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first random batch")
    parser.add_argument("--rounds", type=int, default=9, help="turns of every tile that count")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes that do not time")
    parser.add_argument("--write", action="store_true", help="write docs/tables/infonce_*.md and the picture")
    options = parser.parse_args()
    if options.what == "tiles" and not torch.cuda.is_available():
        parser.error("tiles measures a CUDA device, and torch finds none here")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    good = True
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        for name in COMMANDS if options.what == "all" else (options.what,):
            text, fine = RUNS[name](options, bar)
            good &= fine
            print(f"## {name}\n\n{text}", flush=True)
            if options.write:
                TABLES.mkdir(parents=True, exist_ok=True)
                (TABLES / f"infonce_{name}.md").write_text(text, encoding="utf-8")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
