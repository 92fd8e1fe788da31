"""What must hold between calls of one function on one batch."""

from dataclasses import replace

import numpy as np

from refimpl.conformance.batch import Array, Batch, map_tree
from refimpl.conformance.outcome import same
from refimpl.conformance.properties.base import Finding, Probe
from refimpl.conformance.properties.judge import brief, judge

__all__ = ["arguments", "cotangent", "determinism", "first", "inert", "partial"]

COTANGENT = -4.0  # a power of two: gradients and their bounds scale exactly


def determinism(probe: Probe) -> str:
    """The same call twice."""
    again = probe.subject.execute(probe.batch)
    return "" if same(probe.outcome, again) else "two calls with equal arguments differ"


def arguments(probe: Probe) -> str:
    """The call leaves its arguments as they were."""
    changed = probe.outcome.changed
    return f"the call overwrites its argument {', '.join(changed)}" if changed else ""


def cotangent(probe: Probe) -> str:
    """Incoming gradient -4 gives -4 times the gradient, incoming gradient 0 gives exactly 0."""
    exact = probe.exact
    if not np.all(np.isfinite(exact.value)):
        return ""
    nothing = probe.subject.execute(probe.batch, cotangent=0.0)
    for path, gradient in nothing.gradients.items():
        if gradient is not None and np.any(gradient != 0.0):
            return f"with incoming gradient 0 the gradient of {path} is {brief(gradient)}"
    scaled = replace(
        exact,
        gradients={path: COTANGENT * gradient for path, gradient in exact.gradients.items()},
        gradient_bounds={path: abs(COTANGENT) * bound for path, bound in exact.gradient_bounds.items()},
    )
    outcome = probe.subject.execute(probe.batch, cotangent=COTANGENT)
    found = judge(probe.subject.spec, probe.batch, scaled, outcome).findings
    return first(found, f"incoming gradient {COTANGENT}: ")


def partial(probe: Probe) -> str:
    """Only one input requires a gradient, or none does."""
    for path in (*probe.subject.wanted(probe.batch), "nothing"):
        outcome = probe.subject.execute(probe.batch, only=path)
        found = judge(probe.subject.spec, probe.batch, probe.exact, outcome).findings
        message = first(found, f"only {path} differentiated: ")
        if message:
            return message
    return ""


def inert(probe: Probe) -> Finding | None:
    """What does not count may hold anything: neither value nor gradient changes by a bit."""
    for poison in (np.nan, np.inf, -probe.batch.form.max):
        changed = _poisoned(probe, poison)
        if not same(probe.outcome, probe.subject.execute(changed)):
            message = f"{poison} where nothing counts changes value or gradient"
            return Finding("inert", message, changed)
    return None


def _poisoned(probe: Probe, poison: float) -> Batch:
    """The batch with every number replaced that does not count."""
    mask = probe.batch.arguments.get("mask")
    ignored = probe.subject.spec.inert

    def change(path: str, array: Array) -> Array:
        if array.dtype != np.float64:
            return array
        if path in ignored:
            return np.full(array.shape, poison)
        return np.where(mask, array, poison) if isinstance(mask, np.ndarray) else array

    return probe.batch.with_arguments(map_tree(change, dict(probe.batch.arguments)))


def first(findings: tuple[tuple[str, str], ...], prefix: str) -> str:
    """The first of what a judgement found, after a prefix; nothing if it found nothing."""
    return prefix + findings[0][1] if findings else ""
