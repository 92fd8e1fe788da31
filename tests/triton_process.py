"""Processes of their own for Triton: it decides for or against its interpreter when a kernel is defined."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def environment(*, interpret, **more):
    """The variables of a process that imports the package from here, on one thread."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    here = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    return {**os.environ, **here, "TRITON_INTERPRET": str(int(interpret)), **more}


def need_triton():
    """Skip where Triton is not installed; on the CI's Linux that is a failure."""
    if importlib.util.find_spec("triton") is None:
        if os.environ.get("CI") and sys.platform == "linux":
            pytest.fail("triton is not installed")
        pytest.skip("triton is not installed")
    return pytest.importorskip("triton")
