"""What must hold between calls: repeated, other incoming gradients, one input differentiated, or twice.

The derivative of the gradient is held against differences of the gradient oracle, which is right to one unit
in the last place: their error is known from two step sizes, not from a tolerance.
"""

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from refimpl.conformance.batch import Array, Batch, leaves, map_tree
from refimpl.conformance.catalogue import LossSpec
from refimpl.conformance.execution import Outcome, call, execute, has_gradient
from refimpl.conformance.properties import Finding, Truth, by_path, judge, visible_changed

__all__ = ["EXTRAS"]

# families in which no kink and no edge lies near
SMOOTH = {"ordinary", "column parameters", "heavy tails", "integer counts"}
STEP = 2.0**-12
BITS = 30
COTANGENT = -4.0  # a power of two: gradients and their bounds scale exactly


def determinism(target: ModuleType, spec: LossSpec, batch: Batch, _exact: Truth, first: Outcome) -> str:
    """The same call twice."""
    return "" if _same(first, execute(target, spec, batch)) else "two calls with equal arguments differ"


def cotangent(target: ModuleType, spec: LossSpec, batch: Batch, exact: Truth, _first: Outcome) -> str:
    """Incoming gradient -4 gives -4 times the gradient, incoming gradient 0 gives exactly 0."""
    if not np.all(np.isfinite(exact.value)):
        return ""
    nothing = execute(target, spec, batch, cotangent=0.0)
    for path, gradient in nothing.gradients.items():
        if gradient is not None and np.any(gradient != 0.0):
            return f"with incoming gradient 0 the gradient of {path} is {gradient.ravel()[:8].tolist()}"
    scaled = replace(
        exact,
        gradients={path: COTANGENT * gradient for path, gradient in exact.gradients.items()},
        gradient_bounds={path: abs(COTANGENT) * bound for path, bound in exact.gradient_bounds.items()},
    )
    outcome = execute(target, spec, batch, cotangent=COTANGENT)
    return _first_message(judge(spec, batch, scaled, outcome).findings, f"incoming gradient {COTANGENT}: ")


def partial(target: ModuleType, spec: LossSpec, batch: Batch, exact: Truth, _first: Outcome) -> str:
    """Only one input requires a gradient."""
    for path, array in leaves(dict(batch.arguments)):
        if has_gradient(spec, path, array):
            outcome = execute(target, spec, batch, only=path)
            found = judge(spec, batch, exact, outcome).findings
            message = _first_message(found, f"only {path} differentiated: ")
            if message:
                return message
    return ""


def visible(target: ModuleType, spec: LossSpec, batch: Batch, _exact: Truth, first: Outcome) -> str:
    """What stands at visible positions of a masked loss does not matter by a bit."""
    mask = batch.arguments.get("mask")
    if not isinstance(mask, np.ndarray) or batch.layout != "contiguous":
        return ""
    changed = execute(target, spec, visible_changed(mask, batch, np.nan))
    return "" if _same(first, changed) else "NaN at the visible positions changes value or gradient"


def second(target: ModuleType, spec: LossSpec, batch: Batch, exact: Truth, _first: Outcome) -> str:
    """The derivative of the gradient along a direction, in float64 and where the loss is smooth."""
    if batch.form.name != "float64" or batch.family not in SMOOTH or not exact.gradients:
        return ""
    batch = _shortened(spec, batch)
    direction = _direction(spec, batch)
    try:
        found = _along(target, spec, batch, direction)
    except Exception as error:  # noqa: BLE001 - whatever a foreign implementation raises is a finding
        return f"second derivative raised {type(error).__name__}: {str(error).strip().splitlines()[:1]}"
    coarse, noise = _difference(spec, batch, exact, direction, STEP)
    fine, finer_noise = _difference(spec, batch, exact, direction, STEP / 2)
    if any(_jumps(fine[path], coarse[path]) for path in found):
        return ""
    for path, actual in found.items():
        # an error of h² gives a third of their distance; the rest is room for what is not yet h²
        allowed = np.abs(fine[path] - coarse[path]) + noise[path] + finer_noise[path]
        if not np.all(np.abs(actual - fine[path]) <= allowed):
            return (
                f"second derivative, gradient of {path} along x/2 to x: {actual.ravel()[:8].tolist()} "
                f"where differences of the exact gradient give {fine[path].ravel()[:8].tolist()}"
            )
    return ""


def _shortened(spec: LossSpec, batch: Batch) -> Batch:
    """Numbers of few enough bits that a step along the direction is exact."""

    def shorten(path: str, array: Array) -> Array:
        if not has_gradient(spec, path, array):
            return array
        significand, exponent = np.frexp(array)
        return np.asarray(np.ldexp(np.rint(np.ldexp(significand, BITS)), exponent - BITS))

    return batch.with_arguments(map_tree(shorten, dict(batch.arguments)))


def _direction(spec: LossSpec, batch: Batch) -> dict[str, NDArray[np.float64]]:
    """Every number moves by itself or by half of itself, either way."""
    return {
        path: array * np.resize([1.0, -0.5, -1.0, 0.5, 0.5], array.shape)
        for path, array in leaves(dict(batch.arguments))
        if has_gradient(spec, path, array)
    }


def _along(
    target: ModuleType, spec: LossSpec, batch: Batch, direction: dict[str, NDArray[np.float64]]
) -> dict[str, NDArray[np.float64]]:
    result, wanted = call(target, spec, batch)
    first = torch.autograd.grad(result.sum(), list(wanted.values()), create_graph=True)
    pairs = zip(first, wanted, strict=True)
    slope = torch.stack([(part * torch.as_tensor(direction[path])).sum() for part, path in pairs]).sum()
    if not slope.requires_grad:  # the gradient is constant, or cut off: the differences tell
        return {path: np.zeros(part.shape) for path, part in wanted.items()}
    again: Any = torch.autograd.grad(slope, list(wanted.values()), materialize_grads=True)
    return {path: part.numpy() for path, part in zip(wanted, again, strict=True)}


def _difference(
    spec: LossSpec, batch: Batch, exact: Truth, direction: dict[str, NDArray[np.float64]], step: float
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]]:
    """The central difference of the exact gradient, and the rounding error in it."""

    def moved(sign: float) -> dict[str, NDArray[np.float64]]:
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


def _first_message(findings: tuple[Finding, ...], prefix: str) -> str:
    return prefix + findings[0].message if findings else ""


def _same(a: Outcome, b: Outcome) -> bool:
    if a.value is None or b.value is None:
        return False
    return _equal(a.value, b.value) and all(
        _equal(a.gradients[path], b.gradients[path]) for path in a.gradients
    )


def _equal(a: Any, b: Any) -> bool:
    if a is None or b is None:
        return a is b
    return np.array_equal(a, b, equal_nan=True)


Extra = Callable[[ModuleType, LossSpec, Batch, Truth, Outcome], str]

# kind of the finding -> the question; each answers with what is wrong, or with nothing
EXTRAS: dict[str, Extra] = {
    "visible": visible,
    "second derivative": second,
    "determinism": determinism,
    "cotangent": cotangent,
    "partial": partial,
}
