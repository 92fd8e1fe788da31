"""Write the table of planted faults: `python -m tests.faults`."""

import warnings

from tests.faults.table import TABLE, written

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(written())
