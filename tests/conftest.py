"""Hypothesis profiles and the process-wide settings every test relies on."""

import os

import pytest
import torch
from hypothesis import HealthCheck, settings

COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}
settings.register_profile("ci", max_examples=100, derandomize=True, database=None, print_blob=True, **COMMON)
settings.register_profile("dev", max_examples=20, **COMMON)
settings.register_profile("deep", max_examples=10_000, print_blob=True, **COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(autouse=True)
def _settled_torch():
    """Give every test the same seed and one thread, and take back what it changed."""
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
