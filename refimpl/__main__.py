"""`python -m refimpl verify MODULE`."""

import sys

_EXTRA = {"hypothesis", "rich"}


def _run() -> int:
    try:
        from refimpl.conformance.cli import main  # noqa: PLC0415 - the oracles alone do not need the extra
    except ModuleNotFoundError as missing:
        package = (missing.name or "").partition(".")[0]
        if package not in _EXTRA:
            raise
        print(  # noqa: T201 - the one line of a refusal
            f"python -m refimpl verify needs {package}: pip install 'proven-losses[verify]'",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:  # the imports take seconds
        return 130
    return main()


if __name__ == "__main__":
    sys.exit(_run())
