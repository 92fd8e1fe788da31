"""Break the losses and the oracles on purpose, one small change at a time, and count what is noticed.

Every mutant is a whole package loaded afresh under another name with one node of one module changed, given to
`refimpl.conformance.verify` as somebody's implementation. A survivor is a change that no check saw: a better
check is missing, or the change is equivalent. Those that have been looked at are in mutation/known/.

    python scripts/mutants.py                                   # a sample over all modules
    python scripts/mutants.py --module pearson --all
    python scripts/mutants.py --all --resume FILE --write       # everything; can be interrupted

docs/mutation.md says what is changed and how it is judged.
"""

from __future__ import annotations

import sys

from mutation.cli import main

if __name__ == "__main__":
    sys.exit(main(description=__doc__))
