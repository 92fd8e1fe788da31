"""What must hold for one batch: each property looks at the exact answer and at the target's."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refimpl.bounds.precision import Precision, error_ratio, precision
from refimpl.conformance.batch import Batch, leaves
from refimpl.conformance.catalogue import LossSpec
from refimpl.conformance.execution import Outcome

__all__ = ["KINDS", "Finding", "Judgement", "Truth", "by_path", "judge", "truth", "visible_changed"]

KINDS = {
    "exception": "the call raised",
    "value": "the value is further from the exact one than its bound",
    "gradient": "a gradient is further from the exact one than its bound",
    "finite": "finite input gave a non-finite value or a NaN gradient",
    "hidden NaN": "a NaN or infinity that counts gave a finite value",
    "graph": "the result does not hang on the graph of an input",
    "dtype": "the result has the wrong dtype",
    "shape": "the result has the wrong shape",
    "determinism": "the same call gave two different answers",
    "visible": "a visible position changed the result",
    "cotangent": "the gradient is not linear in the incoming one",
    "partial": "differentiating one input alone gives something else",
    "second derivative": "the gradient's own derivative is missing or wrong",
    "option": "a default, an option or an allowed form of the input does something else",
    "refusal": "a wrong argument was accepted or refused with the wrong error",
}


@dataclass(frozen=True)
class Finding:
    """One property that does not hold on one batch."""

    kind: str
    message: str


@dataclass(frozen=True)
class Truth:
    """Exact answer and allowed error, gradients by path."""

    value: NDArray[np.float64]
    bound: NDArray[np.float64]
    gradients: Mapping[str, NDArray[np.float64]]
    gradient_bounds: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Judgement:
    """Largest error / bound of value and gradient (0 where there is nothing to compare) and what is wrong."""

    value_ratio: float
    gradient_ratio: float
    findings: tuple[Finding, ...]


def truth(spec: LossSpec, batch: Batch) -> Truth:
    """Ask the oracle and the bound.

    Raises:
        ValueError: where the oracle declines a batch as too expensive.
    """
    # batches leave the range of float64 on purpose; what that does to a bound is the bound's business
    with np.errstate(all="ignore"):
        bound, gradient_bounds = spec.bound(batch)
        return Truth(
            np.asarray(spec.value(batch), dtype=np.float64),
            np.asarray(bound, dtype=np.float64),
            by_path(spec.gradient(batch)),
            by_path(gradient_bounds),
        )


def by_path(gradients: Mapping[str, Any]) -> dict[str, NDArray[np.float64]]:
    """Gradients by argument as float64 arrays by path."""
    return {path: np.asarray(array, dtype=np.float64) for path, array in leaves(dict(gradients))}


def judge(spec: LossSpec, batch: Batch, exact: Truth, outcome: Outcome) -> Judgement:
    """Hold an outcome against the truth."""
    if outcome.value is None:
        return Judgement(np.inf, 0.0, (Finding("exception", outcome.error),))
    held = precision(batch.form.name)
    elementwise = spec.result_is_elementwise(batch.options)
    largest = held.result_max if elementwise else held.scalar_max
    findings = [*_form(spec, batch, exact, outcome)]
    value_ratio = gradient_ratio = 0.0
    if outcome.value.shape == exact.value.shape:
        value_ratio = _worst(error_ratio(outcome.value, exact.value, exact.bound, largest))
        findings += _value(exact, outcome, value_ratio)
    if np.all(np.isfinite(exact.value)):
        ratios = _gradient_ratios(held, exact, outcome)
        gradient_ratio = max(ratios.values(), default=0.0)
        findings += _gradient(exact, outcome, ratios)
    return Judgement(value_ratio, gradient_ratio, tuple(findings))


def _worst(ratios: NDArray[np.float64]) -> float:
    return float(np.max(ratios, initial=0.0))


def _form(spec: LossSpec, batch: Batch, exact: Truth, outcome: Outcome) -> Iterator[Finding]:
    """Shape, dtype and graph."""
    assert outcome.value is not None
    if outcome.value.shape != exact.value.shape:
        yield Finding("shape", f"shape {outcome.value.shape} where {exact.value.shape} is right")
    widened = batch.form.half and not spec.result_is_elementwise(batch.options)
    expected = "float32" if widened else batch.form.name
    if outcome.dtype != expected:
        yield Finding("dtype", f"dtype {outcome.dtype} where {expected} is right")
    cut = [path for path, gradient in outcome.gradients.items() if gradient is None]
    if cut:
        yield Finding("graph", f"no gradient reaches {', '.join(cut)}")


def _value(exact: Truth, outcome: Outcome, ratio: float) -> Iterator[Finding]:
    assert outcome.value is not None
    finite = np.isfinite(exact.value)
    if not np.all(np.isfinite(outcome.value[finite])):
        yield Finding("finite", f"value {_brief(outcome.value)} where {_brief(exact.value)} is exact")
    elif np.any(np.isfinite(outcome.value[~finite])):
        yield Finding("hidden NaN", f"value {_brief(outcome.value)} where {_brief(exact.value)} is exact")
    elif not ratio <= 1.0:
        yield Finding("value", _distance("value", outcome.value, exact.value, exact.bound, ratio))


def _gradient_ratios(held: Precision, exact: Truth, outcome: Outcome) -> dict[str, float]:
    """Error / bound of every gradient that arrived and that the oracle answers for."""
    ratios = {}
    for path, actual in outcome.gradients.items():
        if actual is None or path not in exact.gradients:
            continue
        wanted, allowed = exact.gradients[path], exact.gradient_bounds[path]
        same = actual.shape == wanted.shape
        ratios[path] = (
            _worst(error_ratio(actual, wanted, allowed, held.result_max, overflows=True)) if same else np.inf
        )
    return ratios


def _gradient(exact: Truth, outcome: Outcome, ratios: Mapping[str, float]) -> Iterator[Finding]:
    for path in ratios:
        actual = np.asarray(outcome.gradients[path])
        if actual.shape != exact.gradients[path].shape:
            right = exact.gradients[path].shape
            yield Finding("gradient", f"gradient of {path} has shape {actual.shape} where {right} is right")
            return
        if np.any(np.isnan(actual)) and not np.any(np.isnan(exact.gradients[path])):
            yield Finding("finite", f"gradient of {path} is {_brief(actual)}")
            return
    path = max(ratios, key=ratios.__getitem__, default="")
    if path and not ratios[path] <= 1.0:
        actual, wanted = np.asarray(outcome.gradients[path]), exact.gradients[path]
        message = _distance(f"gradient of {path}", actual, wanted, exact.gradient_bounds[path], ratios[path])
        yield Finding("gradient", message)


def _distance(
    what: str,
    actual: NDArray[np.float64],
    exact: NDArray[np.float64],
    bound: NDArray[np.float64],
    ratio: float,
) -> str:
    found, wanted, allowed = (_brief(array) for array in (actual, exact, bound))
    return f"{what} {found} is {ratio:.3g} bounds away from the exact {wanted} (allowed error {allowed})"


def _brief(array: NDArray[np.float64], most: int = 8) -> str:
    flat = [float(number) for number in array.ravel()[:most]]
    shown = f"{flat[0]!r}" if array.ndim == 0 else f"{flat}"
    return shown if array.size <= most else f"{shown[:-1]}, ...]"


def visible_changed(mask: NDArray[np.bool_], batch: Batch, poison: float) -> Batch:
    """The same masked batch with every visible number replaced: nothing may change by a bit."""
    changed = {
        name: np.where(mask, array, poison)
        for name, array in batch.arguments.items()
        if isinstance(array, np.ndarray) and array.dtype == np.float64
    }
    return batch.with_arguments({**batch.arguments, **changed})
