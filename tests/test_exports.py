"""The public surface, what importing costs, and the wall between oracle and production code."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import refimpl
import torchimpl

ROOT = Path(__file__).parents[1]
CONTRACT_NAMES = {
    "masked_sse", "masked_mse", "concordance_loss_nce", "negative_pearson_loss", "quantile_absolute_loss",
    "negative_binomial_cdf", "negative_binomial_sf", "negative_binomial_log_prob", "compute_numeric_cdf",
    "nll_loss",
    "replicate_concordance_mse_loss", "compute_residual_mse", "concordance_loss_nce_wrapper",
    "negative_pearson_loss_wrapper", "quantile_absolute_loss_wrapper", "LOSS_REGISTRY", "register",
    "create_composite_loss", "CompositeLoss",
}  # fmt: skip
MODULES = {
    "MaskedSSE", "MaskedMSE", "ConcordanceLossNCE", "NegativePearsonLoss", "QuantileAbsoluteLoss", "NLLLoss",
    "ReplicateConcordanceMSELoss",
}  # fmt: skip
ROOMS = ["masked", "concordance", "pearson", "quantile", "likelihood", "residual", "composite"]


def imported_by(statement):
    """Top-level packages that a fresh interpreter has loaded after the statement."""
    code = f"import sys; {statement}; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    return set(out.stdout.split())


def python_files(package):
    return sorted((ROOT / package).rglob("*.py"))


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def test_torchimpl_lists_exactly_the_contract_and_the_modules():
    assert set(torchimpl.__all__) >= CONTRACT_NAMES | MODULES
    for name in torchimpl.__all__:
        assert hasattr(torchimpl, name), name


def test_refimpl_has_an_oracle_with_gradient_for_every_loss_function():
    losses = CONTRACT_NAMES - {
        "LOSS_REGISTRY",
        "register",
        "create_composite_loss",
        "CompositeLoss",
        "compute_numeric_cdf",
    }
    for name in losses:
        assert name in refimpl.__all__, name
        assert f"{name}_gradient" in refimpl.__all__, name


@pytest.mark.parametrize("package", [refimpl, torchimpl], ids=lambda p: p.__name__)
def test_every_public_callable_has_a_docstring_with_an_example(package):
    for name in package.__all__:
        thing = getattr(package, name)
        if inspect.isfunction(thing) or inspect.isclass(thing):
            assert inspect.getdoc(thing), name
            assert name.endswith("_gradient") or ">>>" in inspect.getdoc(thing), f"{name} has no example"


@pytest.mark.parametrize("room", ROOMS)
def test_one_loss_one_room_in_all_four_wings(room):
    for place in [
        f"refimpl/{room}.py",
        f"refimpl/bounds/{room}.py",
        f"torchimpl/{room}.py",
        f"tests/test_{room}.py",
        f"tests/test_oracles_{room}.py",
        f"asv_benchmarks/{room}.py",
    ]:
        assert (ROOT / place).is_file(), place


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [("refimpl", "torchimpl"), ("torchimpl", "refimpl"), ("refimpl", "tests"), ("torchimpl", "tests")],
)
def test_no_package_imports_across_the_wall(package, forbidden):
    for path in python_files(package):
        assert forbidden not in set(imports_of(path)), path


def test_importing_refimpl_loads_neither_torch_nor_hypothesis():
    baseline = imported_by("import numba")
    assert not (imported_by("import refimpl") - baseline) & {
        "torch",
        "hypothesis",
        "scipy",
        "rich",
        "torchimpl",
    }


def test_importing_torchimpl_loads_none_of_the_verification_stack():
    baseline = imported_by("import torch")
    assert not (imported_by("import torchimpl") - baseline) & {
        "numba",
        "hypothesis",
        "scipy",
        "rich",
        "refimpl",
        "mpmath",
    }


def test_importing_torchimpl_does_not_touch_cuda():
    code = "import torchimpl, torch; assert not torch.cuda.is_initialized()"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_both_packages_ship_type_information():
    for package in (refimpl, torchimpl):
        assert (Path(package.__file__).parent / "py.typed").is_file()
