"""Write what the catalogue declares as tables: every loss and every property.

python scripts/catalogue.py            # print
python scripts/catalogue.py --write    # write docs/tables/catalogue.md and docs/tables/properties.md
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from refimpl.conformance.catalogue import CATALOGUE
from refimpl.conformance.properties import PROPERTIES
from refimpl.conformance.spec import LossSpec

TABLES = Path(__file__).parents[1] / "docs" / "tables"
ASKED = {
    "answer": "every input",
    "batch": "some inputs, with more calls",
    "fixed": "once a loss, with calls of its own",
}


def losses() -> str:
    """One row a loss, as the specs declare it."""
    names = ("loss", "room", "module", "domain", "reductions", "invariances", "families")
    head = "| " + " | ".join(names) + " |\n" + "|---" * len(names) + "|\n"
    return head + "".join(_loss(spec) for spec in CATALOGUE.values())


def _loss(spec: LossSpec) -> str:
    invariances = ", ".join(dict.fromkeys(one.name for one in spec.invariances))
    module = f"`{spec.module}`" if spec.module else ""
    cells = (
        f"`{spec.name}{spec.signature}`",
        spec.room,
        module,
        spec.domain,
        ", ".join(spec.reductions),
        invariances,
        str(len(spec.families)),
    )
    return "| " + " | ".join(cells) + " |\n"


def properties() -> str:
    """One row a property."""
    head = "| property | what must hold | asked of | losses |\n|---|---|---|---|\n"
    return head + "".join(
        f"| {one.name} | {one.holds} | {ASKED[one.kind]} | {sum(map(one.applies, CATALOGUE.values()))} |\n"
        for one in PROPERTIES.values()
    )


def main() -> int:
    """Print or write the tables."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--write", action="store_true", help="write the files")
    tables = {"catalogue.md": losses(), "properties.md": properties()}
    if parser.parse_args().write:
        TABLES.mkdir(exist_ok=True)
        for name, text in tables.items():
            (TABLES / name).write_text(text, encoding="utf-8")
    else:
        print("\n".join(tables.values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
