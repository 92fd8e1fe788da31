"""Declare a loss of your own and hold an implementation of it to the same standard as the losses here.

A declaration is an oracle, its gradient, a bound and a way to draw inputs. This file is also a module for the
command line: `python -m refimpl verify my.losses --spec verify_own_loss --loss mean_absolute_error`.

    python examples/verify_own_loss.py [--max-examples 8]
"""

import argparse
import functools
import sys
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from refimpl.bounds.precision import Bound, Precision, gamma
from refimpl.conformance import LossSpec, Report, register, verify
from refimpl.conformance.batches import pair_batch
from refimpl.conformance.table import show

Array = NDArray[np.float64]
FAMILIES = ("ordinary", "identical replicates", "one element", "common offset", "huge", "tiny", "subnormal")


def exact(x: Array, y: Array) -> float:
    """Mean |x - y| in rational arithmetic; 0 for no element."""
    errors = [abs(Fraction(a) - Fraction(b)) for a, b in zip(x.flat, y.flat, strict=True)]
    mean = sum(errors, Fraction(0)) / max(len(errors), 1)
    largest = Fraction(sys.float_info.max)
    return float(min(mean, largest))


def exact_gradient(x: Array, y: Array) -> tuple[Array, Array]:
    """sign(x - y) / n, 0 where both are equal."""
    slope = np.sign((x > y).astype(float) - (x < y).astype(float)) / max(x.size, 1)
    return slope, -slope


def bound(x: Array, y: Array, precision: Precision) -> Bound:
    """Every |x - y| has one rounding, their sum n - 1, the mean one more: γ(n + 1) times the mean.

    A quotient that leaves the normal numbers loses up to half the smallest subnormal. The gradient is one
    quotient, rounded to the format of the input.
    """
    mean, slope = exact(x, y), exact_gradient(x, y)[0]
    error = gamma(x.size + 1, precision.work_roundoff) * mean + precision.work_tiny
    rounding = precision.rounded_result(slope, precision.work_roundoff * np.abs(slope))
    return Bound(precision.rounded_scalar(mean, error), (rounding, rounding))


SPEC = register(
    LossSpec(
        name="mean_absolute_error",
        signature="(x, y)",
        domain="any finite numbers of the dtype",
        oracle=exact,
        oracle_gradient=exact_gradient,
        bounds=bound,
        strategy=functools.partial(pair_batch, names=("x", "y"), options={}),
        families=FAMILIES,
        differentiable=("x", "y"),
        smooth=("ordinary",),
    ),
    overwrite=True,
)


class Careless:
    """What one writes first."""

    @staticmethod
    def mean_absolute_error(x: Tensor, y: Tensor) -> Tensor:
        """Overflows where the mean does not, and gives half precision back."""
        return (x - y).abs().mean()


class Careful:
    """float64 inside, scaled where a sum could overflow; the result saturates and keeps its gradient."""

    @staticmethod
    def mean_absolute_error(x: Tensor, y: Tensor) -> Tensor:
        """Mean |x - y| with the dtype of the inputs, float32 for half ones."""
        dtype = x.dtype if x.dtype.itemsize > 2 else torch.float32
        x, y = x.double(), y.double()
        huge = torch.maximum(x.detach().abs().amax(), y.detach().abs().amax()) > 2.0**900
        scale = torch.where(huge, 2.0**-20, x.new_ones(()))
        mean = (x * scale - y * scale).abs().sum() / x.numel()
        excess = (mean - mean.clamp(max=torch.finfo(dtype).max * scale)).detach()
        return ((mean - excess) / scale).to(dtype)


def main(arguments: Sequence[str] | None = None) -> dict[str, Report]:
    """Verify both versions and show what is found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--max-examples", type=int, default=8)
    options = parser.parse_args(arguments)
    reports: dict[str, Any] = {}
    for target in (Careless, Careful):
        found = verify(target, ["mean_absolute_error"], max_examples=options.max_examples)
        show(found, Console(width=110))
        reports[target.__name__] = found
    return reports


if __name__ == "__main__":
    main()
