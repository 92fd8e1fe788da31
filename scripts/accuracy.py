"""How accurate the negative-binomial CDF is, against balls of 50 digits and beside other implementations.

    make accuracy                                       the tables and the picture of docs/accuracy.md
    python scripts/accuracy.py --points 200 --seed 7    a small study, printed only
    python scripts/accuracy.py --peers-python PATH      peers from another interpreter

docs/accuracy.md says what is measured and in which units.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.accuracy_study import peers, plane, runs, tables  # noqa: E402 - the root has to be on the path

TABLE = ROOT / "docs" / "tables" / "accuracy.md"
PICTURE = ROOT / "docs" / "assets" / "accuracy-plane.png"
POINTS, SEED, SIDE = 1000, 0, 44


def study(size: int, seed: int, python: str, bar: Progress) -> tuple[tables.Cases, tables.Peers]:
    """Every set in every format, and the peers."""
    plan = runs.planned(size, seed)
    task = bar.add_task("truth", total=sum(len(points.k) for points in plan.values()))
    cases = {}
    for (form, name), points in plan.items():
        bar.update(task, description=f"truth: {form}, {name}")
        cases[form, name] = runs.case(points, form, lambda: bar.advance(task))
    beside: tables.Peers = {}
    asked = bar.add_task("peers", total=2 * len(peers.PEERS))
    for form, dtype in (("float64", np.float64), ("float32", np.float32)):
        inputs = {name: cases[form, name].points for name in runs.PEER_SETS}
        beside[form] = []
        for name in peers.PEERS:
            bar.update(asked, description=f"{name}, {form}")
            beside[form].append(runs.peer(name, inputs, dtype, python))
            bar.advance(asked)
    return cases, beside


def main() -> int:
    """Measure, print; with --write, replace the page's table and picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=int, default=POINTS, help="points a set")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--side", type=int, default=SIDE, help="places on each axis of the picture; 0: none")
    parser.add_argument("--peers-python", default=sys.executable, help="the interpreter that has the peers")
    parser.add_argument("--write", action="store_true", help="write docs/tables/accuracy.md and the picture")
    options = parser.parse_args()
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        cases, beside = study(options.points, options.seed, options.peers_python, bar)
        if options.write and options.side:
            points = plane.places(options.side, options.seed)
            task = bar.add_task("picture", total=len(points.k))
            found = plane.surfaces(points, options.side, options.peers_python, lambda: bar.advance(task))
            plane.draw(found, PICTURE)
    default = (options.points, options.seed) == (POINTS, SEED)
    text = tables.page(cases, beside, options.points, options.seed, default)
    print(text, end="")
    if options.write:
        TABLE.parent.mkdir(parents=True, exist_ok=True)
        TABLE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
