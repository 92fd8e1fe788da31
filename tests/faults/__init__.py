"""Faults planted by hand: right implementations with one thing wrong, and the property that must be named."""

from tests.faults import (
    composite,
    concordance,
    likelihood,
    log_prob,
    masked,
    negative_binomial,
    pearson,
    quantile,
    relations,
    residual,
)
from tests.faults.base import Fault

__all__ = ["FAULTS", "Fault"]

ROOMS = (
    masked,
    concordance,
    pearson,
    quantile,
    negative_binomial,
    log_prob,
    likelihood,
    residual,
    composite,
    relations,
)
FAULTS: tuple[Fault, ...] = tuple(fault for room in ROOMS for fault in room.FAULTS)
