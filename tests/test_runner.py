"""`verify`: the same report wherever it runs, in any number of processes, and its refusals."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

import torchimpl
from refimpl.conformance import CATALOGUE, register, textbook, verify

CHEAP = ["returns", "value", "gradient", "shape", "inert", "partial"]
LOSSES = ["masked_mse", "negative_pearson_loss", "compute_residual_mse"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("seed", [0, 7])
def test_equal_seeds_give_equal_reports_in_every_process(seed):
    options = {"properties": CHEAP, "max_examples": 2, "seed": seed}
    here = verify(torchimpl, LOSSES, ["float16", "float64"], **options)
    assert here == verify("torchimpl", LOSSES, ["float16", "float64"], jobs=1 + bool(seed), **options)
    other = verify(torchimpl, LOSSES, ["float16", "float64"], **{**options, "seed": seed + 1})
    assert [cell.ratios for cell in here.cells] != [cell.ratios for cell in other.cells]


def test_the_draws_do_not_depend_on_the_modules_that_are_loaded(place):
    options = {"properties": ["value"], "max_examples": 8}
    before = verify(torchimpl, ["masked_mse"], ["float32"], **options)
    (place / "many_constants.py").write_text("HELD = [" + ", ".join(map(str, range(3, 700, 7))) + "]\n")
    __import__("many_constants")
    assert verify(torchimpl, ["masked_mse"], ["float32"], **options) == before


def test_mapped_functions_need_no_module():
    report = verify(
        mapping={"masked_mse": "torchimpl.masked:masked_mse"},
        dtypes=["float32"],
        properties=CHEAP,
        max_examples=1,
    )
    assert report.ok
    assert report.target == "mapped functions"
    assert report.missing == ()
    assert {cell.loss for cell in report.cells} == {"masked_mse"}


def test_a_function_without_options_is_judged_at_the_defaults(place):
    (place / "bare_losses.py").write_text(
        "import torchimpl\n"
        "def masked_sse(x_recon, x, mask): return torchimpl.masked_sse(x_recon, x, mask)\n"
        "def negative_pearson_loss(preds, targets): return torchimpl.negative_pearson_loss(preds, targets)\n"
    )
    losses = ["masked_sse", "negative_pearson_loss", "nll_loss"]
    report = verify("bare_losses", losses, ["float64"], properties=["value", "gradient"], max_examples=2)
    assert report.ok
    assert report.left_out == {"masked_sse": ("reduction",), "negative_pearson_loss": ("eps",)}
    assert report.missing == ("nll_loss",)


SPEC = """
from dataclasses import replace
from refimpl.conformance import CATALOGUE, register
register(replace(CATALOGUE["masked_mse"], name="my_mse", room="", module="", refusals=(), demands=()))
"""


def test_a_loss_of_ones_own_is_known_to_the_worker(place, monkeypatch):
    (place / "my_specs.py").write_text(SPEC)
    (place / "my_losses.py").write_text("from torchimpl import masked_mse as my_mse\n")
    try:
        report = verify(
            "my_losses", ["my_mse"], ["float32"], specs=["my_specs"], properties=CHEAP, max_examples=1
        )
    finally:
        CATALOGUE.pop("my_mse", None)
        sys.modules.pop("my_specs", None)
    assert report.ok
    assert {cell.loss for cell in report.cells} == {"my_mse"}


def test_a_loss_that_only_this_process_knows_is_refused():
    register(replace(CATALOGUE["masked_mse"], name="only_here"))
    try:
        with pytest.raises(ValueError, match="'only_here' is registered in the calling process only"):
            verify("torchimpl", ["only_here"])
    finally:
        del CATALOGUE["only_here"]


def test_first_only_ends_with_the_first_part_that_has_a_violation():
    options = {"properties": ["value"], "max_examples": 1, "first_only": True}
    losses = ["masked_mse", "masked_sse", "nll_loss"]
    report = verify("refimpl.conformance.textbook", losses, ["float32"], jobs=2, **options)
    here = verify(textbook, losses, ["float32"], **options)
    assert report == here
    assert len({violation.loss for violation in report.violations}) == 1


def test_progress_counts_what_was_begun():
    told = []
    verify(
        torchimpl,
        ["masked_mse"],
        ["float32", "float64"],
        properties=["shape"],
        max_examples=1,
        progress=lambda *step: told.append(step),
    )
    assert told == [("masked_mse", "float32", 0, 2), ("masked_mse", "float64", 1, 2)]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"target": None}, "target is needed"),
        ({"losses": ["maskd_mse"]}, "unknown loss 'maskd_mse'; nearest: masked_mse"),
        ({"mapping": {"maskd_mse": "a:b"}}, "unknown loss 'maskd_mse'"),
        ({"dtypes": ["int3"]}, "unknown dtype 'int3'"),
        ({"properties": ["valve"]}, "unknown property 'valve'; nearest: value"),
        ({"families": ["ordinry"]}, "unknown family 'ordinry'; nearest: ordinary"),
        ({"max_examples": 0}, "max_examples must be at least 1"),
        ({"jobs": 0}, "jobs must be at least 1"),
        ({"time_limit": 0.0}, "time_limit must be above 0"),
        ({"adapter": "tensorflow"}, "not one of torch"),
    ],
)
def test_what_nobody_knows_is_refused(options, text):
    with pytest.raises(ValueError, match=text):
        verify(**{"target": SimpleNamespace(), **options})
