"""The engine accepts what is right and finds what is wrong, for the right loss and the right reason.

Right is the oracle itself, rounded once into the result's dtype; wrong are the textbook versions and one
change at a time to what is right.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from refimpl.conformance import textbook
from refimpl.conformance.adapters import get_adapter
from refimpl.conformance.batch import Batch
from refimpl.conformance.catalogue import CATALOGUE, LossSpec
from refimpl.conformance.examine import inspect
from refimpl.conformance.formats import FORMATS
from refimpl.conformance.report import Report
from refimpl.conformance.runner import verify
from refimpl.conformance.shrink import shrink
from refimpl.conformance.snippet import snippet
from refimpl.conformance.target import Subject, Target
from tests.faults.base import exact

POSITIONAL = [name for name in CATALOGUE if name not in {"compute_numeric_cdf", "CompositeLoss"}]


def subject(made: Any, name: str) -> Subject:
    return Subject(Target(made), CATALOGUE[name], get_adapter("torch"))


def target(name: str, **change: Callable[..., Any]) -> Any:
    """A namespace that holds one loss, made of its oracle."""
    made = SimpleNamespace(**{name: exact(name, **change)()})
    made.__name__ = "made"
    return made


# what an oracle turned into a torch function can be asked
ASKED = (
    "returns", "value", "gradient", "finite", "nan", "graph", "dtype", "shape", "inert", "determinism",
    "arguments", "cotangent", "partial",
)  # fmt: skip


def held(made: Any, name: str, dtypes: list[str], max_examples: int = 4) -> Report:
    return verify(made, [name], dtypes, properties=ASKED, max_examples=max_examples)


def kinds(report: Report) -> set[str]:
    return {violation.property for violation in report.violations}


@pytest.mark.parametrize("name", POSITIONAL)
def test_the_rounded_oracle_is_accepted(name):
    report = held(target(name), name, ["float16", "float32", "float64"], max_examples=2)
    assert report.ok, report.violations[0].snippet
    values = [cell for cell in report.cells if cell.property == "value"]
    assert len(values) == 3
    assert all(cell.asked >= 2 * len(CATALOGUE[name].families) - 6 for cell in values)
    assert all(cell.verdict == "held" and cell.worst[0] <= 1.0 for cell in values)


# --- the textbook versions


@pytest.mark.parametrize("name", CATALOGUE)
def test_textbook_version_is_rejected(name):
    report = held(textbook, name, ["float32"], max_examples=3)
    assert not report.ok
    assert {violation.loss for violation in report.violations} == {name}
    worst = report.worst(name)
    assert worst is not None
    assert worst.numbers <= 60
    assert worst.snippet.startswith(f"# {name}, float32, ")


def test_every_textbook_version_says_why_it_is_wrong():
    for name in CATALOGUE:
        assert "Wrong " in (getattr(textbook, name).__doc__ or ""), name


# --- one thing wrong (tests/faults holds many more)


def composed(slope: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Any:
    """A sum of squares with the derivative of one square given by hand."""

    class Squares(torch.autograd.Function):
        @staticmethod
        def forward(ctx, e):
            ctx.save_for_backward(e)
            return e.square()

        @staticmethod
        def backward(ctx, cotangent):
            return slope(*ctx.saved_tensors, cotangent)

    def masked_sse(x_recon, x, mask, *, reduction):
        del reduction
        return Squares.apply(torch.where(mask, x_recon - x, 0.0)).sum()

    return SimpleNamespace(masked_sse=masked_sse)


@pytest.mark.parametrize(
    ("slope", "kinds_found"),
    [
        (lambda e, c: 2 * e * c, set()),
        (lambda e, c: 2 * e.detach() * c, {"second derivative"}),
        (lambda e, c: 2 * e * c.abs(), {"cotangent"}),
    ],
)
def test_a_gradient_right_once_and_wrong_otherwise_is_found(slope, kinds_found):
    arrays = {
        "x_recon": np.array([[3.0, -1.0]]),
        "x": np.array([[0.5, 2.0]]),
        "mask": np.ones((1, 2), dtype=bool),
    }
    batch = Batch("ordinary", FORMATS["float64"], arrays, {"reduction": "sum"})
    found = inspect(subject(composed(slope), "masked_sse"), batch, (*ASKED, "second derivative"))
    assert {finding.property for finding in found} == kinds_found


def test_an_input_that_counts_only_beside_another_is_found():
    def masked_sse(x_recon, x, mask, *, reduction):
        alone = x.is_floating_point() and not x.requires_grad
        return right(x_recon.detach() if alone else x_recon, x, mask, reduction=reduction)

    right = target("masked_sse").masked_sse
    report = held(SimpleNamespace(masked_sse=masked_sse), "masked_sse", ["float64"], max_examples=8)
    assert kinds(report) == {"partial"}


def test_an_exception_is_a_violation_of_its_own_kind():
    def masked_mse(*_, **__):
        raise RuntimeError("out of luck")

    report = held(SimpleNamespace(masked_mse=masked_mse), "masked_mse", ["float32"], max_examples=1)
    assert kinds(report) == {"returns"}
    assert "out of luck" in report.worst("masked_mse").message


def test_two_different_answers_are_found():
    calls = iter(range(10**6))
    made = target("masked_mse", value=lambda v, _: v * (1 + 1e-4 * next(calls)))
    assert "determinism" in kinds(held(made, "masked_mse", ["float64"]))


def test_a_wrong_dtype_and_a_wrong_shape_are_found():
    def widened(x_recon, x, mask, *, reduction="mean"):
        return right.masked_mse(x_recon, x, mask, reduction=reduction).double()

    def vector(x_recon, x, mask, *, reduction="mean"):
        return right.masked_mse(x_recon, x, mask, reduction=reduction)[None]

    right = target("masked_mse")
    for wrong, kind in ((widened, "dtype"), (vector, "shape")):
        report = held(SimpleNamespace(masked_mse=wrong), "masked_mse", ["float32"], max_examples=1)
        assert kind in kinds(report)


@pytest.mark.parametrize("name", [name for name in CATALOGUE if CATALOGUE[name].refusals])
def test_what_must_be_refused_is_not_accepted_silently(name):
    """A function that takes anything fails all refusals of its loss."""
    made = SimpleNamespace(**{name: lambda *_, **__: torch.zeros(())})
    report = verify(made, [name], ["float32"], properties=["refusal"], max_examples=1)
    assert len(report.violations) == len(CATALOGUE[name].refusals)


@pytest.mark.parametrize("name", [name for name in CATALOGUE if CATALOGUE[name].demands])
def test_an_answer_at_random_meets_no_demand(name):
    made = SimpleNamespace(**{name: lambda *_, **__: torch.rand(())})
    report = verify(made, [name], ["float32"], properties=["option"], max_examples=1)
    by_dtype = [demand for demand in CATALOGUE[name].demands if demand.equals == "torch.float32"]
    assert len(report.violations) >= len(CATALOGUE[name].demands) - len(by_dtype)


# --- the report


def test_equal_seeds_give_equal_reports_and_others_do_not():
    first, again = (
        verify(textbook, ["negative_pearson_loss"], ["float32"], max_examples=2) for _ in range(2)
    )
    other = verify(textbook, ["negative_pearson_loss"], ["float32"], max_examples=2, seed=1)
    assert first == again
    assert first.cells != other.cells or first.violations != other.violations


def test_report_becomes_json():
    report = verify(textbook, ["masked_mse"], ["float16"], max_examples=1)
    content = json.loads(report.to_json())
    assert content["ok"] is False
    assert content["cells"][0]["loss"] == "masked_mse"
    assert {"property", "snippet", "family", "message"} <= set(content["violations"][0])


def test_missing_losses_are_listed():
    report = verify(target("masked_mse"), ["masked_mse", "masked_sse"], ["float32"], max_examples=1)
    assert report.missing == ("masked_sse",)


def test_the_first_violation_can_be_enough():
    report = verify(textbook, ["masked_mse"], ["float32"], max_examples=8, first_only=True)
    everything = verify(textbook, ["masked_mse"], ["float32"], max_examples=8)
    assert not report.ok
    assert report.examples < everything.examples / 4


@pytest.mark.parametrize(
    ("losses", "dtypes", "count", "text"),
    [(["mse"], None, 1, "loss 'mse'"), (None, ["int8"], 1, "dtype 'int8'"), (None, None, 0, "max_examples")],
)
def test_wrong_requests_are_refused(losses, dtypes, count, text):
    with pytest.raises(ValueError, match=text):
        verify(textbook, losses, dtypes, max_examples=count)


@pytest.mark.parametrize("name", CATALOGUE)
@pytest.mark.parametrize("layout", ["contiguous", "strided", "transposed", "offset", "vmap"])
def test_snippet_says_what_was_run(name, layout, capsys):
    """Executing the printed source gives the value of the call it was made from."""
    asked = subject(textbook, name)
    batch = asked.settled(replace(first_batch(CATALOGUE[name]), layout=layout))
    expected = asked.execute(batch)
    source = snippet(asked, batch, "a\nmessage")
    if expected.value is None:  # some textbook versions do not work under vmap: the source must raise, too
        with pytest.raises(Exception) as raised:  # noqa: PT011 - whatever the engine has reported
            exec(source, {})
        assert type(raised.value).__name__ in expected.error
        return
    exec(source, {})
    printed = capsys.readouterr().out.splitlines()[0]
    assert printed == f"value {expected.value.tolist()}"


def first_batch(spec: LossSpec) -> Batch:
    from hypothesis import HealthCheck, Phase, given, settings

    seen: list[Batch] = []

    @settings(max_examples=3, database=None, derandomize=True, phases=[Phase.generate], deadline=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(spec.strategy("ordinary", FORMATS["float64"]))
    def keep(batch: Batch) -> None:
        seen.append(batch)

    keep()
    return seen[-1]


def test_shrinking_keeps_failing_and_respects_its_attempts():
    batch = Batch(
        "ordinary", FORMATS["float32"], {"x": np.arange(1.0, 65.0).reshape(8, 8), "probs": np.full(8, 0.75)}
    )
    asked = []

    def fails(candidate: Batch) -> bool:
        asked.append(1)
        return candidate.arguments["x"].max(initial=0.0) >= 20

    small = shrink(batch, fails, attempts=60)
    assert fails(small)
    assert small.arguments["x"].size == 1
    assert small.arguments["probs"].tolist() == [0.75]
    assert len(asked) <= 61


def test_one_batch_can_be_inspected():
    batch = Batch(
        "ties",
        FORMATS["float64"],
        {"x_recon": np.ones((1, 2)), "x": np.zeros((1, 2)), "mask": np.ones((1, 2), dtype=bool)},
        {"reduction": "sum"},
    )
    assert inspect(subject(target("masked_sse"), "masked_sse"), batch, ASKED) == ()
