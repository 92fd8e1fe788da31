"""The command: which mutants, how judged, where the answers go."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from .campaign import judged, rejected, then_tests
from .candidates import ROOT, Mutation, sampled
from .plan import LOSSES, ORACLES
from .report import markdown, rows, show

__all__ = ["main"]

TABLE = ROOT / "docs" / "tables" / "mutants.md"
PLANS = {"torchimpl": LOSSES, "refimpl": ORACLES}


def _arguments(description: str, given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--package", choices=sorted(PLANS), action="append", help="only the losses or only the oracles"
    )
    parser.add_argument(
        "--module", action="append", metavar="PATH", help="only these modules, such as kernels/concordance"
    )
    parser.add_argument("--sample", type=int, default=12, help="mutants a module (default: %(default)s)")
    parser.add_argument("--all", action="store_true", help="every mutant of the plan")
    parser.add_argument("--seed", type=int, default=0, help="another sample (default: %(default)s)")
    parser.add_argument("--max-examples", type=int, default=8, help="for survivors (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument(
        "--limit", type=float, default=30.0, help="seconds a step may take (default: %(default)s)"
    )
    parser.add_argument(
        "--resume", type=Path, metavar="FILE", help="read and append answers here, one a line"
    )
    parser.add_argument("--retry", action="store_true", help="judge again what survived in that file")
    parser.add_argument("--trust", action="store_true", help="do not judge the unchanged package first")
    parser.add_argument(
        "--report", action="store_true", help="judge nothing more: report what the file holds"
    )
    parser.add_argument("--list", action="store_true", help="count the mutants and stop")
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.relative_to(ROOT)}")
    args = parser.parse_args(given)
    known = {module for plan in PLANS.values() for module in plan}
    for module in args.module or ():
        if module not in known:
            parser.error(f"--module {module!r} is not one of {', '.join(sorted(known))}")
    return args


def main(given: Sequence[str] | None = None, description: str = "") -> int:
    """Judge mutants and print the score of each module.

    Returns:
        0, whatever survives; 2 where the unchanged package is rejected and scores would mean nothing.
    """
    args = _arguments(description, given)
    console = Console(soft_wrap=True)
    if not console.is_terminal:
        console.width = 120
    chosen = _chosen(args)
    made = Counter((one.package, one.module, one.judge) for one in chosen)
    if args.list:
        show(console, rows([], made), f"{len(chosen)} mutants")
        return 0
    if not (args.trust or args.report):
        then = {
            (package, module, "tests")
            for package, module, judge in made
            if then_tests(package, module, judge)
        }
        wrong = rejected(sorted({*made, *then}), examples=args.max_examples, limit=args.limit)
        for place, by in wrong.items():
            console.print(f"the unchanged {place} is rejected: {by}; no score means anything", markup=False)
        if wrong:
            return 2
    results = list(
        judged(
            chosen,
            jobs=0 if args.report else args.jobs,
            examples=args.max_examples,
            limit=args.limit,
            file=args.resume,
            retry=args.retry,
        )
    )
    found = rows(results, made)
    show(console, found, f"mutation score, seed {args.seed}")
    if args.write:
        TABLE.parent.mkdir(parents=True, exist_ok=True)
        TABLE.write_text(markdown(found, args.seed))
    return 0


def _chosen(args: argparse.Namespace) -> list[Mutation]:
    chosen: list[Mutation] = []
    for package in args.package or sorted(PLANS, reverse=True):
        modules = [module for module in PLANS[package] if args.module is None or module in args.module]
        chosen += sampled(package, modules, None if args.all else args.sample, args.seed)
    return chosen
