"""The command line: `python -m refimpl verify MODULE`."""

import argparse
import difflib
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from refimpl.conformance.catalogue import CATALOGUE
from refimpl.conformance.formats import FORMATS
from refimpl.conformance.report import Report, show
from refimpl.conformance.runner import DEFAULT_EXAMPLES, verify

__all__ = ["main"]

WIDTH = 116  # columns that the table needs
EPILOG = """\
exit status:
  0  every loss that was found stays within its bounds
  1  something is violated; the smallest failing input is printed as Python source
  2  wrong usage, or the module has none of the losses
A loss that the module lacks is listed as missing and does not fail the run.
"""


class UsageError(Exception):
    """A request that cannot be met; its text is the one line to print."""


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number of at least 1 is wanted, got {text!r}")
    return int(text)


def _natural(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"a whole number of at least 0 is wanted, got {text!r}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m refimpl", description="Reference implementations of the losses."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    command = commands.add_parser(
        "verify",
        help="hold a module's losses against the oracles",
        description="Call every loss of MODULE on adversarial and on real input, and hold value and gradient "
        "against an exact oracle and the error bound derived from that very input.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("module", metavar="MODULE", help="importable name, such as torchimpl")
    command.add_argument(
        "--loss", nargs="+", action="extend", metavar="NAME", help=f"only these: {', '.join(CATALOGUE)}"
    )
    command.add_argument(
        "--dtype", nargs="+", action="extend", metavar="NAME", help=f"only these: {', '.join(FORMATS)}"
    )
    command.add_argument(
        "--max-examples",
        type=_positive,
        default=DEFAULT_EXAMPLES,
        metavar="N",
        help="inputs for every loss, dtype and hazard family (default: %(default)s)",
    )
    command.add_argument(
        "--seed", type=_natural, default=0, metavar="N", help="equal seeds try equal inputs (default: 0)"
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="write the report to FILE as well")
    return parser


def _known(what: str, names: Sequence[str] | None, known: Sequence[str]) -> list[str]:
    if names is None:
        return list(known)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known
            raise UsageError(f"unknown {what} {name!r}; nearest: {', '.join(near)}")
    return list(dict.fromkeys(names))


def _module(name: str) -> ModuleType:
    try:
        return import_module(name)
    except Exception as error:  # whatever a foreign module raises while it is imported
        raise UsageError(f"cannot import module {name!r}: {type(error).__name__}: {error}") from error


def _run(options: argparse.Namespace) -> Report:
    losses = _known("loss", options.loss, list(CATALOGUE))
    dtypes = _known("dtype", options.dtype, list(FORMATS))
    if options.json is not None and not options.json.absolute().parent.is_dir():
        raise UsageError(f"--json {options.json}: no such folder")
    target = _module(options.module)
    present = [loss for loss in losses if hasattr(target, loss)]
    if not present:
        raise UsageError(f"module {options.module!r} has none of {', '.join(losses)}")
    total = sum(dtype in CATALOGUE[loss].dtypes for loss in present for dtype in dtypes)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<44}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=total)
        started = False

        def step(loss: str, dtype: str) -> None:
            nonlocal started
            bar.update(task, advance=int(started), description=f"{loss} {dtype}")
            started = True

        return verify(
            target,
            losses,
            dtypes,
            max_examples=options.max_examples,
            seed=options.seed,
            progress=step,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0 right, 1 violated, 2 wrong usage."""
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as stopped:
        return int(stopped.code or 0)
    try:
        report = _run(options)
    except UsageError as error:
        print(f"python -m refimpl verify: {error}", file=sys.stderr)  # noqa: T201 - the one line of a refusal
        return 2
    show(report, Console(width=max(Console().width, WIDTH) if sys.stdout.isatty() else 160))
    if options.json is not None:
        options.json.write_text(report.to_json(), encoding="utf-8")
    return 0 if report.ok else 1
