"""The catalogue is the one declaration: every wing, the tables and the tests name the same losses."""

import functools
import importlib
import inspect
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import refimpl
import torchimpl
from refimpl.conformance.batches import pair_batch
from refimpl.conformance.catalogue import CATALOGUE, register
from refimpl.conformance.spec import LossSpec
from tests.cases import CASES, MODULES

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("spec", CATALOGUE.values(), ids=lambda spec: spec.name)
def test_the_production_code_has_the_declared_signature(spec):
    function = getattr(torchimpl, spec.name)
    parameters = inspect.signature(function).parameters
    for name, declared in spec.parameters.items():
        assert name in parameters, name
        assert parameters[name].default == declared.default, name
    assert (
        list(parameters)[: len(spec.parameters)] == list(spec.parameters)
        or spec.call
        or "batch" in parameters
    )


@pytest.mark.parametrize("spec", [s for s in CATALOGUE.values() if s.module], ids=lambda spec: spec.name)
def test_the_module_of_a_loss_takes_its_options(spec):
    assert set(inspect.signature(getattr(torchimpl, spec.module)).parameters) >= set(spec.defaults)


def test_transformation_tests_cover_the_catalogue():
    # a distribution is no tensor: compute_numeric_cdf has tests of its own
    assert {case.name for case in CASES} == set(CATALOGUE) - {"compute_numeric_cdf"}
    assert {str(module) for module in MODULES} >= {spec.module for spec in CATALOGUE.values() if spec.module}


@pytest.mark.parametrize("room", sorted({spec.room for spec in CATALOGUE.values()}))
def test_every_room_has_all_wings_and_a_benchmark(room):
    for package in ("refimpl", "refimpl.bounds", "torchimpl", "asv_benchmarks"):
        assert importlib.util.find_spec(f"{package}.{room}"), f"{package}.{room}"
    assert (ROOT / "tests" / f"test_{room}.py").is_file()


def test_every_oracle_of_the_catalogue_is_public():
    for spec in CATALOGUE.values():
        if not spec.call:
            assert spec.name in refimpl.__all__, spec.name


def test_the_tables_of_the_documentation_are_those_of_the_catalogue():
    command = [sys.executable, "scripts/catalogue.py"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in ("catalogue.md", "properties.md"):
        written = (ROOT / "docs" / "tables" / name).read_text()
        assert written in printed, f"python scripts/catalogue.py --write makes docs/tables/{name} anew"


def own(**changes):
    fields = {
        "name": "own_loss",
        "signature": "(x, y, *, power=2)",
        "domain": "any",
        "oracle": lambda *_, **__: 0.0,
        "oracle_gradient": lambda x, y, **_: (x, y),
        "bounds": lambda *_, **__: None,
        "strategy": functools.partial(pair_batch, names=("x", "y"), options={}),
        "families": ("ordinary",),
        "differentiable": ("x", "y"),
    }
    return LossSpec(**{**fields, **changes})


def test_a_loss_from_outside_is_registered_once():
    spec = own()
    try:
        assert register(spec) is CATALOGUE["own_loss"]
        with pytest.raises(ValueError, match=r"own_loss.*overwrite=True"):
            register(spec)
        changed = replace(spec, domain="positive")
        assert register(changed, overwrite=True).domain == CATALOGUE["own_loss"].domain == "positive"
    finally:
        CATALOGUE.pop("own_loss", None)
    with pytest.raises(TypeError, match="LossSpec, got dict"):
        register({})


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"name": "own loss"}, "identifier"),
        ({"families": ()}, "families is empty"),
        ({"dtypes": ("float8",)}, "float8"),
        ({"dtypes": ()}, "dtypes"),
        ({"signature": "(x, y"}, "list of parameters"),
        ({"differentiable": ("z",)}, "'z'"),
    ],
)
def test_a_spec_that_cannot_be_run_is_refused(changes, text):
    with pytest.raises(ValueError, match=text):
        own(**changes)


def test_the_call_is_made_of_the_signature():
    spec = own()
    assert spec.defaults == {"power": 2}
    assert spec.call_text() == "target.own_loss(x, y, power=power)"
    assert spec.call_text({"power"}) == "target.own_loss(x, y)"
    assert own(call="target.f(x)").call_text() == "target.f(x)"
