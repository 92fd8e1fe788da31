"""The derivative of the gradient, held against differences of the gradient oracle.

The gradient oracle is right to one unit in the last place: the error of its differences is known from two
step sizes, not from a tolerance.
"""

from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from refimpl.conformance.adapters.torch import TorchAdapter, numpy
from refimpl.conformance.batch import Array, Batch, leaves, map_tree
from refimpl.conformance.properties.base import Probe
from refimpl.conformance.properties.judge import Truth, brief, by_path
from refimpl.conformance.spec import LossSpec
from refimpl.conformance.target import Subject, has_gradient, raised

__all__ = ["second"]

Arrays: TypeAlias = dict[str, NDArray[np.float64]]

STEP = 2.0**-12
BITS = 30


def second(probe: Probe) -> str:
    """The derivative of the gradient along a direction; asked in float64, where the loss is smooth."""
    if not probe.exact.gradients:
        return ""
    subject, spec = probe.subject, probe.subject.spec
    batch = _shortened(spec, probe.batch)
    direction = _direction(spec, batch)
    try:
        found = _along(subject, batch, direction)
    except Exception as error:  # noqa: BLE001 - whatever a foreign implementation raises is a finding
        return f"second derivative {raised(error)}"
    exact, allowed = _wanted(spec, batch, probe.exact, direction)
    for path, actual in found.items():
        if path in exact and not np.all(np.abs(actual - exact[path]) <= allowed[path]):
            return (
                f"second derivative, gradient of {path} along x/2 to x: {brief(actual)} where differences "
                f"of the exact gradient give {brief(exact[path])}"
            )
    return ""


def _wanted(spec: LossSpec, batch: Batch, exact: Truth, direction: Arrays) -> tuple[Arrays, Arrays]:
    """The exact derivative and how far off it may be; nothing where the gradient jumps.

    An oracle's own second derivative is held to the error that differences of the gradient would have: the
    gradient's bound over the step is the only error of a second derivative that is derived here.
    """
    coarse, noise = _difference(spec, batch, exact, direction, STEP)
    fine, finer_noise = _difference(spec, batch, exact, direction, STEP / 2)
    if any(_jumps(fine[path], coarse[path]) for path in fine):
        return {}, {}
    # an error of h² gives a third of their distance; the rest is room for what is not yet h²
    allowed = {path: np.abs(fine[path] - coarse[path]) + noise[path] + finer_noise[path] for path in fine}
    if spec.second_derivative is None:
        return fine, allowed
    return dict(spec.second_derivative(batch, direction)), allowed


def _shortened(spec: LossSpec, batch: Batch) -> Batch:
    """Numbers of few enough bits that a step along the direction is exact."""

    def shorten(path: str, array: Array) -> Array:
        if not has_gradient(spec, path, array):
            return array
        significand, exponent = np.frexp(array)
        return np.asarray(np.ldexp(np.rint(np.ldexp(significand, BITS)), exponent - BITS))

    return batch.with_arguments(map_tree(shorten, dict(batch.arguments)))


def _direction(spec: LossSpec, batch: Batch) -> Arrays:
    """Every number moves by itself or by half of itself, either way."""
    return {
        path: array * np.resize([1.0, -0.5, -1.0, 0.5, 0.5], array.shape)
        for path, array in leaves(dict(batch.arguments))
        if has_gradient(spec, path, array)
    }


def _along(subject: Subject, batch: Batch, direction: Arrays) -> Arrays:
    assert isinstance(subject.adapter, TorchAdapter)
    device = subject.adapter.device
    result, wanted = subject.adapter.call(subject, batch)
    first = torch.autograd.grad(result.sum(), list(wanted.values()), create_graph=True)
    pairs = zip(first, wanted, strict=True)
    slope = torch.stack(
        [(part * torch.as_tensor(direction[path], device=device)).sum() for part, path in pairs]
    ).sum()
    if not slope.requires_grad:  # the gradient is constant, or cut off: the differences tell
        return {path: np.zeros(part.shape) for path, part in wanted.items()}
    again: Any = torch.autograd.grad(slope, list(wanted.values()), materialize_grads=True)
    return {path: numpy(part) for path, part in zip(wanted, again, strict=True)}


def _difference(
    spec: LossSpec, batch: Batch, exact: Truth, direction: Arrays, step: float
) -> tuple[Arrays, Arrays]:
    """The central difference of the exact gradient, and the rounding error in it."""

    def moved(sign: float) -> Arrays:
        def move(path: str, array: Array) -> Array:
            return array + sign * step * direction[path] if path in direction else array

        changed = batch.with_arguments(map_tree(move, dict(batch.arguments)))
        return by_path(spec.gradient(changed))

    ahead, behind = moved(1.0), moved(-1.0)
    slopes = {path: (ahead[path] - behind[path]) / (2.0 * step) for path in exact.gradients}
    # the oracle's last place, and the rounding errors that the gradient itself may have
    noise = {
        path: (np.spacing(np.abs(gradient)) + exact.gradient_bounds[path]) / step
        for path, gradient in exact.gradients.items()
    }
    return slopes, noise


def _jumps(fine: NDArray[np.float64], coarse: NDArray[np.float64]) -> bool:
    """Whether the gradient jumps within the step, as at a tie of maxima: halving it doubles the slope."""
    change, size = (np.max(np.abs(array), initial=0.0) for array in (fine - coarse, fine))
    return bool(change > 0.25 * size)
