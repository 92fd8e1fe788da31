"""The command line: `python -m refimpl verify MODULE`."""

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from refimpl.conformance.adapters import ADAPTERS
from refimpl.conformance.catalogue import CATALOGUE
from refimpl.conformance.formats import FORMATS
from refimpl.conformance.properties import PROPERTIES
from refimpl.conformance.report import Report
from refimpl.conformance.request import load_specs
from refimpl.conformance.runner import DEFAULT_EXAMPLES, DEFAULT_LIMIT, verify
from refimpl.conformance.target import parse_map

__all__ = ["main"]

WIDTH = 116  # columns that the table needs
PLAIN_WIDTH = 160  # columns of a table that no terminal shows
EPILOG = """\
exit status:
  0  every property of every loss that was found holds
  1  something is violated; the smallest failing input is printed as Python source
  2  wrong usage, the module cannot be imported, or it has none of the losses
  3  the engine itself failed
  130  interrupted
A loss that the module lacks is listed as missing and does not fail the run. The module is imported and called
in worker processes: what hangs or crashes there is a violation, and the rest goes on.
"""


class UsageError(Exception):
    """A request that cannot be met; its text is the one line to print."""


def _whole(least: int) -> Callable[[str], int]:
    """A parser of whole numbers from `least` on."""

    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"a whole number of at least {least} is wanted, got {text!r}")
        return int(text)

    return parse


def _seconds(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0.0 < found < float("inf"):
        raise argparse.ArgumentTypeError(f"a number of seconds above 0 is wanted, got {text!r}")
    return found


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
    command.add_argument(
        "module", metavar="MODULE", nargs="?", help="importable name, such as torchimpl; optional with --map"
    )

    def several(option: str, text: str, metavar: str = "NAME") -> None:
        command.add_argument(option, nargs="+", action="extend", metavar=metavar, help=text)

    several("--map", "where losses with another name are", "LOSS=MODULE:FUNCTION")
    several("--loss", f"only these: {', '.join(CATALOGUE)}")
    several("--dtype", f"only these: {', '.join(FORMATS)}")
    several("--property", "only these; see --list")
    several("--family", "only these hazards; see --list")
    several("--spec", "modules that register losses of your own", "MODULE")
    command.add_argument(
        "--adapter",
        default="torch",
        metavar="NAME",
        help=f"{', '.join(ADAPTERS)}, or MODULE:ATTRIBUTE of your own (default: torch)",
    )
    command.add_argument("--device", default="cpu", metavar="NAME", help="cpu or cuda (default: cpu)")
    command.add_argument(
        "--max-examples",
        type=_whole(1),
        default=DEFAULT_EXAMPLES,
        metavar="N",
        help="inputs for every loss, dtype and hazard family (default: %(default)s)",
    )
    command.add_argument(
        "--seed", type=_whole(0), default=0, metavar="N", help="equal seeds try equal inputs (default: 0)"
    )
    command.add_argument(
        "--time-limit",
        type=_seconds,
        default=DEFAULT_LIMIT,
        metavar="SECONDS",
        help="for a property of a loss in a dtype, and for one call (default: %(default)g)",
    )
    command.add_argument(
        "--jobs",
        type=_whole(1),
        default=min(2, os.cpu_count() or 1),
        metavar="N",
        help="worker processes (default: %(default)s)",
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="write the report to FILE as JSON")
    command.add_argument(
        "--html", type=Path, metavar="FILE", help="write the report to FILE as one HTML page"
    )
    command.add_argument(
        "--list", action="store_true", help="print losses, properties and families, and do nothing else"
    )
    return parser


def _listing() -> str:
    """All names that the options take."""
    lines = ["losses:", *(f"  {spec.name}{spec.signature}" for spec in CATALOGUE.values())]
    lines += ["properties:", *(f"  {one.name}: {one.holds}" for one in PROPERTIES.values())]
    families = dict.fromkeys(family for spec in CATALOGUE.values() for family in spec.families)
    return "\n".join([*lines, "families:", *(f"  {family}" for family in families)])


def _writable(option: str, file: Path | None) -> None:
    if file is None:
        return
    if not file.absolute().parent.is_dir():
        raise UsageError(f"{option} {file}: no such folder")
    if file.is_dir():
        raise UsageError(f"{option} {file}: is a folder")


def _run(options: argparse.Namespace) -> Report:
    _writable("--json", options.json)
    _writable("--html", options.html)
    if options.module is None and not options.map:
        raise UsageError("MODULE is needed where no --map is given")
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<44}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def step(loss: str, dtype: str, begun: int, total: int) -> None:
            # what runs at the same time as this one is not done yet
            done = max(0, begun + 1 - options.jobs)
            bar.update(task, total=total, completed=done, description=f"{loss} {dtype}")

        try:
            report = verify(
                options.module,
                options.loss,
                options.dtype,
                properties=options.property,
                families=options.family,
                mapping=parse_map(options.map or ()),
                specs=tuple(options.spec or ()),
                adapter=options.adapter,
                device=options.device,
                max_examples=options.max_examples,
                seed=options.seed,
                time_limit=options.time_limit,
                jobs=options.jobs,
                progress=step,
            )
        except (ValueError, ImportError, AttributeError, TypeError) as error:
            raise UsageError(" ".join(str(error).split())) from error
    if not report.cells:
        asked = ", ".join(options.loss or CATALOGUE)
        raise UsageError(f"{report.target!r} has none of {asked} that adapter {report.adapter!r} can call")
    return report


def _write(report: Report, options: argparse.Namespace) -> None:
    if options.json is not None:
        options.json.write_text(report.to_json(), encoding="utf-8")
    if options.html is not None:
        from refimpl.conformance.html import write  # noqa: PLC0415 - draws plots, which takes seconds to import

        write(report, options.html, options.shown)


def _refuse(text: str) -> None:
    print(f"python -m refimpl verify: {text}", file=sys.stderr)  # noqa: T201 - the one line of a refusal


def _verified(options: argparse.Namespace) -> int:
    if options.list:
        load_specs(tuple(options.spec or ()))
        print(_listing())  # noqa: T201 - what was asked for
        return 0
    report = _run(options)
    _write(report, options)
    from refimpl.conformance import table  # noqa: PLC0415 - of no use where nothing has run

    table.show(report, Console(width=max(Console().width, WIDTH) if sys.stdout.isatty() else PLAIN_WIDTH))
    return 0 if report.ok else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: what follows the name of the command; those of the process by default.

    Returns:
        The exit status: 0 right, 1 violated, 2 wrong usage, 3 the engine failed, 130 interrupted.

    Example:
        >>> main(["verify", "--list"])
        losses:
          masked_sse(x_recon, x, mask, *, reduction='batch_mean')
        ...
        0
    """
    try:
        given = sys.argv[1:] if arguments is None else list(arguments)
        options = _parser().parse_args(given)
        options.shown = shlex.join(["python", "-m", "refimpl", *given])
    except SystemExit as stopped:
        return int(stopped.code or 0)
    try:
        return _verified(options)
    except (UsageError, ImportError, OSError) as error:
        _refuse(str(error))
        return 2
    except RuntimeError as error:
        _refuse(str(error))
        return 3
    except KeyboardInterrupt:
        _refuse("interrupted")
        return 130
