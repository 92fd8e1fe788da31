"""`python -m refimpl verify MODULE`."""

import sys

from refimpl.conformance.cli import main

if __name__ == "__main__":
    sys.exit(main())
