"""The oracles' own tests against a changed oracle: exact fractions and 50-digit arithmetic instead of bounds.

They judge what the engine and the unchanged oracle let pass: an internal function that no loss reaches with
such arguments, a refusal, an input that no family draws.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import warnings

from .candidates import ROOT, Mutation
from .loading import loaded

__all__ = ["ORACLE_TESTS", "by_oracle_tests"]

# tests/test_oracles_<...>.py that judge a module of refimpl, the cheapest first
ORACLE_TESTS: dict[str, tuple[str, ...]] = {
    "masked": ("masked",),
    "pearson": ("pearson",),
    "residual": ("residual",),
    "residual_kernels": ("residual",),
    "concordance": ("concordance",),
    "concordance_kernels": ("concordance",),
    "composite": ("composite",),
    "quantile": ("quantile",),
    "likelihood": ("likelihood",),
    "negative_binomial": ("negative_binomial",),
    "negative_binomial_sums": ("negative_binomial",),
    "negative_binomial_terms": ("negative_binomial", "likelihood"),
    "negative_binomial_tables": ("negative_binomial", "quantile", "likelihood"),
    "arithmetic": ("arithmetic",),
    "elementary": ("elementary",),
    "exact_sum": ("arithmetic", "composite", "masked", "residual"),
    "extended": ("concordance",),
    "scaled": ("negative_binomial", "likelihood"),
}
_NAME = "oracle_in_tests"


def by_oracle_tests(mutation: Mutation | None, module: str, limit: float) -> str:
    """What the tests of a changed oracle say, run in a fork of this process; empty where they pass.

    Args:
        mutation: the change; None for the unchanged package.
        module: of refimpl, which says which tests.
        limit: seconds that they may take.
    """
    child = os.fork()
    if child == 0:
        os._exit(_in_child(mutation, ORACLE_TESTS[module]))
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return {0: "", 1: "oracle tests"}.get(code, f"oracle tests, exit status {code}")
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "timeout"


def _in_child(mutation: Mutation | None, tests: tuple[str, ...]) -> int:
    """Run the tests with the changed oracle, as plain Python, in the place of refimpl."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.chdir(ROOT)
    try:
        import pytest  # noqa: PLC0415
        from hypothesis import Phase, settings  # noqa: PLC0415

        # the first failure is enough: nobody reads the smallest one
        settings.register_profile(
            "mutants", max_examples=100, derandomize=True, database=None, deadline=None,
            phases=[Phase.explicit, Phase.generate],
        )  # fmt: skip
        os.environ["HYPOTHESIS_PROFILE"] = "mutants"
        warnings.simplefilter("ignore")
        with loaded("refimpl", _NAME, mutation):
            for name in [one for one in sys.modules if one.split(".", maxsplit=1)[0] == _NAME]:
                sys.modules["refimpl" + name.removeprefix(_NAME)] = sys.modules[name]
            files = [f"tests/test_oracles_{test}.py" for test in tests]
            # plain Python warns where a compiled kernel overflows in silence
            options = ["-x", "-q", "-p", "no:cacheprovider", "-W", "ignore", "-m", "not slow"]
            return int(pytest.main([*options, *files]))
    except BaseException:  # noqa: BLE001 (a mutant that cannot be imported has been noticed)
        return 1
