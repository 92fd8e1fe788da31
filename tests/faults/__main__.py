"""Try every planted fault: `python -m tests.faults` prints the table, `--write` writes it into the docs."""

import argparse
import warnings

from tests.faults.table import TABLE, written

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.name} instead of printing it")
    asked = parser.parse_args()
    # what a faulty implementation warns about is no news
    warnings.simplefilter("ignore")
    table = written()
    if asked.write:
        TABLE.write_text(table)
    else:
        print(table, end="")  # noqa: T201 - the command's output
