"""The engine accepts what is right and finds what is wrong, for the right loss and the right reason.

Right is the oracle itself, rounded once into the result's dtype; wrong are the textbook versions and one
change at a time to what is right.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from refimpl.conformance import textbook
from refimpl.conformance.adapters import get_adapter
from refimpl.conformance.batch import Batch, leaves, map_tree
from refimpl.conformance.catalogue import CATALOGUE, LossSpec
from refimpl.conformance.examine import inspect
from refimpl.conformance.formats import FORMATS
from refimpl.conformance.report import Report
from refimpl.conformance.runner import verify
from refimpl.conformance.shrink import shrink
from refimpl.conformance.snippet import snippet
from refimpl.conformance.target import Subject, Target

POSITIONAL = [name for name in CATALOGUE if name not in {"compute_numeric_cdf", "CompositeLoss"}]


@dataclass
class Change:
    """One thing to do wrong: to the batch, to the exact value or to the exact gradients."""

    batch: Callable[[Batch], Batch] = lambda batch: batch
    value: Callable[[np.ndarray, Batch], Any] = lambda value, _: value
    gradient: Callable[[dict[str, np.ndarray], Batch], dict[str, np.ndarray]] = lambda gradients, _: gradients
    detached: bool = False
    saturate: bool = True


class Rounded(torch.autograd.Function):
    """A given value with given gradients."""

    @staticmethod
    def forward(ctx, value, gradients, *_):
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx, cotangent):
        factor = cotangent.flatten()[0] if cotangent.numel() else torch.zeros(())
        scaled = (torch.where(factor == 0, 0.0, g * factor.double()).to(t) for g, t in ctx.gradients)
        return (None, None, *scaled)


def exact(spec: LossSpec, change: Change, form_of: Callable[[Any], str]) -> Callable[..., torch.Tensor]:
    """The loss made of its oracle: value and gradient rounded once."""

    def loss(*arguments, **options):
        required = [name for name in spec.parameters if name not in spec.defaults]
        tree = dict(zip(required, arguments, strict=True))
        tensors = dict(leaves(tree))
        form = FORMATS[form_of(tensors)]
        arrays = map_tree(
            lambda _, t: t.detach().double().numpy() if t.is_floating_point() else t.numpy(), tree
        )
        batch = change.batch(Batch("", form, arrays, options))
        with np.errstate(all="ignore"):
            value = np.asarray(change.value(np.asarray(spec.value(batch)), batch), dtype=np.float64)
            gradients = change.gradient(dict(leaves(spec.gradient(batch))), batch)
        dtype = getattr(torch, form.name)
        if form.half and not spec.result_is_elementwise(options):
            dtype = torch.float32
        largest = torch.finfo(dtype).max
        limited = np.where(np.isfinite(value), np.clip(value, -largest, largest), value)
        result = torch.as_tensor(limited if change.saturate else value).to(dtype)
        if change.detached:
            return result
        wanted = [path for path, t in tensors.items() if t.requires_grad]
        pairs = [(torch.as_tensor(np.array(gradients[path])), tensors[path].dtype) for path in wanted]
        return Rounded.apply(result, pairs, *(tensors[path] for path in wanted))

    return loss


def floating(tensors):
    found = next(t for t in tensors.values() if t.is_floating_point())
    return str(found.dtype).removeprefix("torch.")


def subject(made: Any, name: str) -> Subject:
    return Subject(Target(made), CATALOGUE[name], get_adapter("torch"))


def target(name: str, change: Change | None = None) -> Any:
    """A namespace that holds one loss."""
    made = SimpleNamespace(**{name: exact(CATALOGUE[name], change or Change(), floating)})
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
    report = verify(textbook, [name], ["float32"], max_examples=3)
    assert not report.ok
    assert {violation.loss for violation in report.violations} == {name}
    worst = report.worst(name)
    assert worst is not None
    assert worst.numbers <= 60
    assert worst.snippet.startswith(f"# {name}, float32, ")


def test_every_textbook_version_says_why_it_is_wrong():
    for name in CATALOGUE:
        assert "Wrong " in (getattr(textbook, name).__doc__ or ""), name


# --- one change at a time


def option(name: str, change: Callable[[float], float]) -> Callable[[Batch], Batch]:
    return lambda batch: replace(batch, options={**batch.options, name: change(batch.options[name])})


def mask_dropped(batch: Batch) -> Batch:
    return batch.with_arguments({**batch.arguments, "mask": np.ones_like(batch.arguments["mask"])})


def mean_over_all(value: np.ndarray, batch: Batch) -> np.ndarray:
    mask = batch.arguments["mask"]
    return value * (mask.sum() / max(mask.size, 1)) if batch.options["reduction"] == "mean" else value


def leak(gradients: dict[str, np.ndarray], batch: Batch) -> dict[str, np.ndarray]:
    """0 * e at visible positions: NaN where e is, 0 elsewhere."""
    poison = 0.0 * (batch.arguments["x_recon"] - batch.arguments["x"])
    return {path: np.where(batch.arguments["mask"], g, poison) for path, g in gradients.items()}


def negated(gradients: dict[str, np.ndarray], _: Batch) -> dict[str, np.ndarray]:
    return {path: -gradient for path, gradient in gradients.items()}


def floor_missing(batch: Batch) -> Batch:
    """Rounds counts to the nearest instead."""
    return batch.with_arguments({**batch.arguments, "y": np.rint(batch.arguments["y"])})


def single(value: np.ndarray, _: Batch) -> np.ndarray:
    return value.astype(np.float32).astype(np.float64)


def first_only(gradients: dict[str, np.ndarray], _: Batch) -> dict[str, np.ndarray]:
    return {path: g if k == 0 else np.zeros_like(g) for k, (path, g) in enumerate(gradients.items())}


BROKEN = {
    "sign flip": ("masked_mse", Change(value=lambda v, _: -v), {"value"}, "float32"),
    "gradient sign flip": ("negative_pearson_loss", Change(gradient=negated), {"gradient"}, "float32"),
    "mask dropped": ("masked_sse", Change(batch=mask_dropped), {"value", "inert"}, "float32"),
    "mean over all": ("masked_mse", Change(value=mean_over_all), {"value"}, "float32"),
    "gradient detached": ("masked_mse", Change(detached=True), {"graph"}, "float32"),
    "S and F swapped": ("negative_binomial_cdf", Change(value=lambda v, _: 1 - v), {"value"}, "float32"),
    "float32 inside float64": ("concordance_loss_nce", Change(value=single), {"value"}, "float64"),
    "NaN leak in the gradient only": ("masked_mse", Change(gradient=leak), {"finite"}, "float32"),
    "saturate missing": ("masked_sse", Change(saturate=False), {"finite"}, "float32"),
    "wrong tau": (
        "concordance_loss_nce",
        Change(batch=option("tau", lambda t: 1.001 * t)),
        {"value"},
        "float32",
    ),
    "wrong eps": ("concordance_loss_nce", Change(batch=option("eps", lambda e: 2 * e)), {"value"}, "float32"),
    "floor missing": ("negative_binomial_sf", Change(batch=floor_missing), {"value"}, "float64"),
    "NaN hidden": ("masked_mse", Change(value=lambda v, _: np.nan_to_num(v)), {"nan"}, "float32"),
    "second gradient lost": ("compute_residual_mse", Change(gradient=first_only), {"gradient"}, "float32"),
    "half the gradient": (
        "quantile_absolute_loss",
        Change(gradient=lambda g, _: {path: part / 2 for path, part in g.items()}),
        {"gradient"},
        "float32",
    ),
    "mean of one replicate": ("nll_loss", Change(value=lambda v, _: v * 1.0001), {"value"}, "float32"),
    "wrapper off by a sign": (
        "negative_pearson_loss_wrapper",
        Change(value=lambda v, _: -v),
        {"value"},
        "float32",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_one_wrong_thing_is_found(fault):
    name, change, expected, dtype = BROKEN[fault]
    report = held(target(name, change), name, [dtype])
    assert expected <= kinds(report)
    assert {violation.loss for violation in report.violations} == {name}


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
    change = Change(value=lambda v, _: v * (1 + 1e-4 * next(calls)))
    assert "determinism" in kinds(held(target("masked_mse", change), "masked_mse", ["float64"]))


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
