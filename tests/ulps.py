"""Distance of a torch result from a number known to more digits."""

import math

import torch


def ulps(actual, expected):
    """Distance in units in the last place of the actual value's dtype."""
    actual = actual.detach()
    target = torch.tensor(float(expected), dtype=actual.dtype)
    spacing = torch.nextafter(target.abs(), torch.tensor(math.inf, dtype=actual.dtype)) - target.abs()
    return float((actual - target).abs() / spacing)
