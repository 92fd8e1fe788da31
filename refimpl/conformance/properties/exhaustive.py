"""All values of a half format, one after the other, in every differentiable argument.

Where rows are independent (a loss with a relation "concatenation"), one call with `reduction="none"` holds
one row for each value: tens of thousands of batches of one element. The row's other numbers come from drawn
batches ("ordinary" and "zeros"), a row of each. An argument in whose draws no negative number (no zero)
occurs is swept over the numbers that are not negative (not zero).

Where rows are coupled (InfoNCE, Pearson), and for an argument of dimension 0, every value is a call of its
own, on a batch of one or two rows.

Exhaustive are the masked, the residual and the elementwise losses, in every argument with rows. Elsewhere
every n-th value is tried (`STRIDES`, `CALLS`), the first one by the seed, so that n seeds in a row are
exhaustive again; the corners of the format are always among them. Infinities and NaN are the business of
other properties.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from refimpl.bounds.precision import error_ratio, precision
from refimpl.conformance.batch import Array, Batch
from refimpl.conformance.formats import Format
from refimpl.conformance.invariances.arrays import arrays, replaced, rows, take
from refimpl.conformance.outcome import Outcome
from refimpl.conformance.properties.base import Fixed, Property
from refimpl.conformance.properties.blocks import drawn
from refimpl.conformance.properties.judge import Truth, judge, truth
from refimpl.conformance.spec import LossSpec
from refimpl.conformance.target import Subject, has_gradient

__all__ = ["EXHAUSTIVE", "finite_numbers", "swept"]

FAMILIES = ("ordinary", "zeros")
# every n-th value where a row costs the oracle 50 microseconds and more
STRIDES = {"likelihood": 3, "quantile": 5}
CALLS = 397  # every n-th value where it takes a call of its own
SHOWN = 3  # rows of a call that are looked at again one by one
CORNERS = 1  # first and last codes of a sign and of the normal numbers


def finite_numbers(form: Format) -> Array:
    """All finite numbers of a half format in increasing order, -0 left out.

    Example:
        >>> from refimpl.conformance.formats import FORMATS
        >>> len(finite_numbers(FORMATS["float16"])), float(finite_numbers(FORMATS["bfloat16"])[-1])
        (63487, 3.3895313892515355e+38)
    """
    significands = np.arange(2 ** (form.digits - 1), 2**form.digits, dtype=np.float64)
    exponents = np.arange(form.low, form.high + 1) - (form.digits - 1)
    normal = np.ldexp(significands[None, :], exponents[:, None]).ravel()
    small = np.arange(1, 2 ** (form.digits - 1)) * form.tiny
    positive = np.concatenate([small, normal])
    return np.concatenate([-positive[::-1], [0.0], positive])


def swept(form: Format, stride: int, seed: int, known: Array) -> Array:
    """Every n-th finite number and the corners, of the signs that a domain admits.

    Args:
        form: a half format.
        stride: n.
        seed: which of the n samples.
        known: numbers of the domain; no negative ones here, none there, and no zero likewise.

    Example:
        >>> from refimpl.conformance.formats import FORMATS
        >>> swept(FORMATS["float16"], 20000, 0, np.array([0.5, 1.0]))[[0, -1]].tolist()
        [5.960464477539063e-08, 65504.0]
    """
    numbers = finite_numbers(form)
    middle, per_binade = len(numbers) // 2, 2 ** (form.digits - 1)
    one = middle + per_binade * -form.low + per_binade  # the code of 1
    corners = [0, middle, one, middle + per_binade, len(numbers)]
    near = np.unique([k + d for k in corners for d in range(-CORNERS, CORNERS + 1)])
    mirrored = len(numbers) - 1 - near
    chosen = np.unique(np.concatenate([np.arange(seed % stride, len(numbers), stride), near, mirrored]))
    picked = numbers[chosen[(chosen >= 0) & (chosen < len(numbers))]]
    picked = picked if np.any(known < 0.0) else picked[picked >= 0.0]
    return np.asarray(picked if np.any(known <= 0.0) else picked[picked != 0.0])


def exhaustive(subject: Subject, form: Format, seed: int) -> Iterator[Fixed]:
    """Every value in every argument."""
    spec = subject.spec
    drafts = [drawn(spec, family, form, seed, 4) for family in FAMILIES if family in spec.families]
    found = [[subject.settled(batch) for batch in part if rows(batch)] for part in drafts]
    templates = [part[-1] for part in found if part]
    if not templates:
        return
    paths = [path for path, array in arrays(templates[0]).items() if has_gradient(spec, path, array)]
    for path in paths:
        known = np.concatenate([arrays(batch)[path].ravel() for part in found for batch in part])
        independent = _independent(subject) and arrays(templates[0])[path].ndim > 0
        stride = STRIDES.get(spec.room, 1) if independent else CALLS
        numbers = swept(form, stride, seed, known)
        problems = (_in_one_call if independent else _one_by_one)(subject, templates, path, numbers)
        problem = next(problems, None)
        if problem:
            yield problem


def _independent(subject: Subject) -> bool:
    """Whether one call can hold many rows that have nothing to do with each other."""
    spec = subject.spec
    merges = any(one.name == "concatenation" for one in spec.invariances)
    each = spec.elementwise or ("none" in spec.reductions and "reduction" not in subject.left_out)
    return merges and each


def _in_one_call(subject: Subject, templates: list[Batch], path: str, numbers: Array) -> Iterator[Fixed]:
    """One row for every number, the rest of the row from a template."""
    for template in templates:
        batch = _one_column(take(template, np.zeros(len(numbers), dtype=np.int64)))
        shape = arrays(batch)[path].shape
        batch = replaced(batch, {path: numbers.reshape(shape)})
        if "reduction" in batch.options:
            batch = batch.with_options({**batch.options, "reduction": "none"})
        if "mask" in arrays(batch):
            batch = replaced(batch, {"mask": np.ones(shape, dtype=bool)})
        exact = _truth(subject.spec, batch)
        if exact is not None:
            yield from _rows_wrong(subject, batch, exact, path)


def _one_column(batch: Batch) -> Batch:
    """The first number of every row."""
    first = {path: array[:, :1] for path, array in arrays(batch).items() if array.ndim > 1}
    return replaced(batch, first)


def _truth(spec: LossSpec, batch: Batch) -> Truth | None:
    """The exact answer; None where the oracle declines the batch as too expensive."""
    try:
        return truth(spec, batch)
    except ValueError as declined:
        if "MAX_TERMS" not in str(declined):
            raise
        return None


def _rows_wrong(subject: Subject, batch: Batch, exact: Truth, path: str) -> Iterator[Fixed]:
    """The first rows that are wrong, each as a batch of its own if it is wrong alone as well."""
    outcome = subject.execute(batch)
    wrong = judge(subject.spec, batch, exact, outcome).findings
    if not wrong:
        return
    name, message = wrong[0]
    places = _places(batch, exact, outcome)
    for k in places[:SHOWN]:
        single = take(batch, np.array([k]))
        alone = _message(subject, single)
        if alone:
            yield Fixed(f"{len(places)} values of {path}, this one among them: {alone}", batch=single)
            return
    where = take(batch, places[:1] if len(places) else np.array([0]))
    yield Fixed(f"{name}, only in a batch of {rows(batch)} rows such as this: {message}", batch=where)


def _places(batch: Batch, exact: Truth, outcome: Outcome) -> Array:
    """Rows whose value, or a gradient of which, is out of bounds."""
    held = precision(batch.form.name)
    bad = np.zeros(rows(batch), dtype=bool)
    pairs: list[tuple[Any, Array, Array, bool]] = [(outcome.value, exact.value, exact.bound, False)]
    for key, slope in outcome.gradients.items():
        if key in exact.gradients:
            pairs.append((slope, exact.gradients[key], exact.gradient_bounds[key], True))
    for actual, wanted, allowed, slopes in pairs:
        if actual is not None and actual.shape == wanted.shape and wanted.ndim:
            ratio = error_ratio(actual, wanted, allowed, held.result_max, overflows=slopes)
            bad |= ~(ratio.reshape(len(bad), -1).max(axis=1) <= 1.0)
    return np.flatnonzero(bad)


def _message(subject: Subject, batch: Batch) -> str:
    exact = _truth(subject.spec, batch)
    if exact is None:
        return ""
    found = judge(subject.spec, batch, exact, subject.execute(batch)).findings
    return ": ".join(found[0]) if found else ""


def _one_by_one(subject: Subject, templates: list[Batch], path: str, numbers: Array) -> Iterator[Fixed]:
    """A call for every number, in turn on one and on two rows of the templates."""
    small = [
        _one_column(take(template, np.arange(count)))
        for template in templates
        for count in (1, 2)
        if rows(template) >= count
    ]
    for k, number in enumerate(numbers):
        template = small[k % len(small)]
        array = arrays(template)[path].copy()
        array.flat[0] = number
        batch = replaced(template, {path: array})
        message = _message(subject, batch)
        if message:
            yield Fixed(message, batch=batch)
            return


EXHAUSTIVE: tuple[Property, ...] = (
    Property(
        "exhaustive",
        "every value of a half format in every argument is right",
        "fixed",
        exhaustive,
        dtypes=("float16", "bfloat16"),
        late=True,
    ),
)
