"""Hold an answer against the exact one: which properties of a single call are violated."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refimpl.bounds.precision import Precision, error_ratio, precision
from refimpl.conformance.batch import Batch, leaves
from refimpl.conformance.outcome import Outcome
from refimpl.conformance.spec import LossSpec

__all__ = ["Judgement", "Truth", "brief", "by_path", "judge", "truth"]


@dataclass(frozen=True)
class Truth:
    """Exact answer and allowed error, gradients by path."""

    value: NDArray[np.float64]
    bound: NDArray[np.float64]
    gradients: Mapping[str, NDArray[np.float64]]
    gradient_bounds: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Judgement:
    """What one answer shows.

    Attributes:
        value_ratio: largest error / bound of the value, None where there is none to compare.
        gradient_ratio: largest error / bound of a gradient, None where there is none to compare.
        findings: pairs of a property that is violated and a message.
    """

    value_ratio: float | None
    gradient_ratio: float | None
    findings: tuple[tuple[str, str], ...]


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
        return Judgement(None, None, (("returns", outcome.error),))
    held = precision(batch.form.name)
    elementwise = spec.result_is_elementwise(batch.options)
    largest = held.result_max if elementwise else held.scalar_max
    findings = [*_form(spec, batch, exact, outcome)]
    value_ratio = gradient_ratio = None
    if outcome.value.shape == exact.value.shape:
        value_ratio = _worst(error_ratio(outcome.value, exact.value, exact.bound, largest))
        findings += _value(exact, outcome, value_ratio)
    if np.all(np.isfinite(exact.value)):
        ratios = _gradient_ratios(held, exact, outcome)
        gradient_ratio = max(ratios.values(), default=None)
        findings += _gradient(exact, outcome, ratios)
    return Judgement(value_ratio, gradient_ratio, tuple(findings))


def _worst(ratios: NDArray[np.float64]) -> float:
    return float(np.max(ratios, initial=0.0))


def _form(spec: LossSpec, batch: Batch, exact: Truth, outcome: Outcome) -> Iterator[tuple[str, str]]:
    """Shape, dtype and graph."""
    assert outcome.value is not None
    if outcome.value.shape != exact.value.shape:
        yield ("shape", f"shape {outcome.value.shape} where {exact.value.shape} is right")
    widened = batch.form.half and not spec.result_is_elementwise(batch.options)
    expected = "float32" if widened else batch.form.name
    if outcome.dtype != expected:
        yield ("dtype", f"dtype {outcome.dtype} where {expected} is right")
    cut = [path for path, gradient in outcome.gradients.items() if gradient is None]
    if cut:
        yield ("graph", f"no gradient reaches {', '.join(cut)}")


def _value(exact: Truth, outcome: Outcome, ratio: float) -> Iterator[tuple[str, str]]:
    assert outcome.value is not None
    finite = np.isfinite(exact.value)
    if not np.all(np.isfinite(outcome.value[finite])):
        yield ("finite", f"value {brief(outcome.value)} where {brief(exact.value)} is exact")
    elif np.any(np.isfinite(outcome.value[~finite])):
        yield ("nan", f"value {brief(outcome.value)} where {brief(exact.value)} is exact")
    elif not ratio <= 1.0:
        yield ("value", _distance("value", outcome.value, exact.value, exact.bound, ratio))


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


def _gradient(exact: Truth, outcome: Outcome, ratios: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    for path in ratios:
        actual = np.asarray(outcome.gradients[path])
        if actual.shape != exact.gradients[path].shape:
            right = exact.gradients[path].shape
            yield ("gradient", f"gradient of {path} has shape {actual.shape} where {right} is right")
            return
        if np.any(np.isnan(actual)) and not np.any(np.isnan(exact.gradients[path])):
            yield ("finite", f"gradient of {path} is {brief(actual)}")
            return
    path = max(ratios, key=ratios.__getitem__, default="")
    if path and not ratios[path] <= 1.0:
        actual, wanted = np.asarray(outcome.gradients[path]), exact.gradients[path]
        message = _distance(f"gradient of {path}", actual, wanted, exact.gradient_bounds[path], ratios[path])
        yield ("gradient", message)


def _distance(
    what: str,
    actual: NDArray[np.float64],
    exact: NDArray[np.float64],
    bound: NDArray[np.float64],
    ratio: float,
) -> str:
    found, wanted, allowed = (brief(array) for array in (actual, exact, bound))
    return f"{what} {found} is {ratio:.3g} bounds away from the exact {wanted} (allowed error {allowed})"


def brief(array: NDArray[np.float64], most: int = 8) -> str:
    """The first numbers of an array.

    Example:
        >>> brief(np.arange(3.0)), brief(np.array(0.5))
        ('[0.0, 1.0, 2.0]', '0.5')
    """
    flat = [float(number) for number in array.ravel()[:most]]
    shown = f"{flat[0]!r}" if array.ndim == 0 else f"{flat}"
    return shown if array.size <= most else f"{shown[:-1]}, ...]"
