"""A fixed grid over the negative binomial's domain: both sides of formulas' borders, and float64's ends."""

import functools
import itertools
import math

import numpy as np
import torch

from refimpl.bounds.precision import error_ratio
from torchimpl.kernels.negative_binomial import SERIES_LIMIT

LARGEST = np.finfo(np.float64).max
COUNTS = (0, 1, 2, 3, 5, 7, 12, 25, 46, 47, 48, 49, 60, 64, 65, 130, 400, 1500, 3000)
SIZES = (
    1e-6,
    1e-3,
    0.1,
    0.5,
    0.9,
    1.0,
    1.1,
    1.9,
    2.0,
    2.5,
    5.9,
    6.0,
    9.0,
    30.0,
    48.0,
    49.0,
    65.0,
    66.0,
    100.0,
    1e3,
    1e6,
)
# of the mean to b = k + 1
SHARES = (1e-4, 1e-2, 0.1, 0.4, 0.7, 0.9, 0.98, 1.0, 1.02, 1.1, 1.5, 3.0, 10.0, 100.0, 1e4)
ENDS = (5e-324, 1e-310, 1e-300, 1e-160, 1e-30, 1e-8, 1.0, 1e4, 1e30, 1e160, 1e300, LARGEST)


@functools.cache
def grid():
    """Counts, means and dispersions in the middle of the domain, with both sides of every border."""
    rows = [(float(k), (k + 1.0) * share, r) for k, r, share in itertools.product(COUNTS, SIZES, SHARES)]
    for k, r in itertools.product((1.0, 3.0, 12.0, 130.0, 3000.0), (1e-3, 0.5, 1.9)):
        for limit in (SERIES_LIMIT, 2.0 * SERIES_LIMIT):  # k x = limit at mu = r (k/limit - 1)
            rows += [(k, r * (k / limit - 1.0) * side, r) for side in (0.999, 1.001) if k > limit]
    return tuple(np.array(column) for column in zip(*rows, strict=True))


@functools.cache
def ends():
    """Counts, means and dispersions at the ends of the range."""
    return tuple(
        np.array(column)
        for column in zip(*itertools.product((0.0, 1.0, 2.0, 60.0), ENDS, (*ENDS, math.inf)), strict=True)
    )


PLACES = {"grid": grid, "ends": ends}


def tensors(arrays):
    return [torch.from_numpy(array) for array in arrays]


def worst(actual, exact, allowed, *, overflows=False):
    return float(np.max(error_ratio(actual.numpy(), exact, allowed, LARGEST, overflows=overflows)))
