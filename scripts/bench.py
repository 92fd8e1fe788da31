"""Run the benchmarks with asv, publish them, print a summary (``make bench``).

    make bench                          this commit, in asv's own environment
    make bench ARGS="main~5..main"      every commit of a range
    make bench ARGS="--quick"           one sample of every time: does everything run?
    make bench ARGS="--here"            the working tree in the present environment: printed, not recorded
    make bench ARGS="-b masked"         one loss; this and every further option goes to ``asv run``

Results are kept in ``.asv/results``, the site in ``.asv/html`` (``.venv/bin/asv preview`` serves it).
"""

import argparse
import itertools
import os
import subprocess
import sys
from pathlib import Path

from asv import main as asv
from asv.machine import Machine, MachineCollection
from asv.results import Results, iter_results_for_machine_and_hash
from asv.util import human_file_size, human_time
from tabulate import tabulate

ROOT = Path(__file__).resolve().parent.parent
MACHINE_FILE = ROOT / ".asv" / "machine.json"
# one name for every run in this clone, so that a changing host name does not split the history
MACHINE = os.environ.get("BENCH_MACHINE", "this-machine")

COLUMNS = {
    "time_forward": "forward",
    "time_forward_backward": "fwd+bwd",
    "track_saved_bytes": "saved",
    "track_peak_bytes": "GPU peak",
    "textbook": "x textbook",
}


def describe_machine() -> None:
    """Tell asv about this machine without asking, in a file of the repository instead of the home folder."""
    MACHINE_FILE.parent.mkdir(exist_ok=True)
    MachineCollection.get_machine_file_path = staticmethod(lambda: str(MACHINE_FILE))
    MachineCollection.save(MACHINE, Machine.get_defaults() | {"machine": MACHINE})


def call(*arguments: str) -> int:
    """One asv command in this process; its exit status."""
    print(f"\n$ asv {' '.join(arguments)}", flush=True)
    sys.argv = ["asv", *arguments]
    try:
        asv.main()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0


def head() -> str:
    """Hash of the commit that is checked out."""
    command = ["git", "rev-parse", "HEAD"]
    # fixed words, and git is where the user's path says
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603


def cell(method: str, value: float | None) -> str:
    """One measured value in its unit; asv stores None for a failure and nan for a case that was skipped."""
    if value is None:
        return "failed"
    if value != value:  # noqa: PLR0124 - nan is the only number that differs from itself
        return "-"
    if method.startswith("time_"):
        return human_time(value)
    return human_file_size(value) if method.endswith("_bytes") else f"{value:.2f}"


def rows(results: Results) -> list[list[str]]:
    """One row for each loss, size and device that was measured."""
    table: dict[tuple[str, ...], dict[str, str]] = {}
    for key in sorted(results.get_all_result_keys()):
        _, loss, method = key.split(".")
        params = results.get_result_params(key)
        values = results.get_result_value(key, params)
        column = "textbook" if method.startswith("track_ratio_to_") else method
        for case, value in zip(itertools.product(*params), values, strict=True):
            names = tuple(str(name).strip("'") for name in case)
            table.setdefault((loss, *names), {})[column] = cell(method, value)
    measured = {case: cells for case, cells in table.items() if set(cells.values()) != {"-"}}
    return [[*case, *(cells.get(method, "-") for method in COLUMNS)] for case, cells in measured.items()]


def summarise(commit: str) -> int:
    """Print what is recorded for a commit; 1 where nothing is or something failed."""
    found = list(iter_results_for_machine_and_hash(str(ROOT / ".asv" / "results"), MACHINE, commit))
    table = [row for results in found for row in rows(results)]
    print(f"\nSummary of {commit[:8]} ('x textbook': time of forward and backward, below 1 is faster)\n")
    print(tabulate(table, headers=["loss", "size", "device", *COLUMNS.values()], disable_numparse=True))
    print(f"\nresults: {ROOT / '.asv' / 'results'}\nsite:    {ROOT / '.asv' / 'html' / 'index.html'}")
    return int(not table or any("failed" in row for row in table))


def main() -> int:
    """Run, publish, summarise; the exit status says whether everything was measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--here", action="store_true", help="measure the working tree, record nothing")
    options, further = parser.parse_known_args()
    os.chdir(ROOT)
    describe_machine()
    if options.here:
        return call("run", "--machine", MACHINE, "--python=same", *further)
    # asv finds the range among its own options; without one it takes the commit that is checked out
    status = call("run", "--machine", MACHINE, *further)
    published = call("publish", "--no-pull")
    return summarise(head()) or status or published


if __name__ == "__main__":
    sys.exit(main())
