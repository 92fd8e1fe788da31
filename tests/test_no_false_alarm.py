"""A right implementation is not accused: the plain NumPy version passes what the engine asks, 50 times."""

import ast
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from refimpl.bounds.precision import error_ratio
from refimpl.conformance import verify
from refimpl.conformance.catalogue import CATALOGUE
from refimpl.conformance.properties import PROPERTIES
from refimpl.likelihood import nll_loss_gradient
from tests import plain

LOSSES = tuple(loss for loss in CATALOGUE if hasattr(plain, loss))
DTYPES = ("float16", "float32", "float64")
FAMILIES = tuple(dict.fromkeys(family for loss in LOSSES for family in CATALOGUE[loss].families))
FIXED = ("blocks", "exhaustive")  # large batches, which no seed changes much
DRAWN = tuple(name for name in PROPERTIES if name not in FIXED)
# every element is a walk of its own: one of these losses stands for all where the batch is large
WALKED = ("negative_binomial_sf", "quantile_absolute_loss", "quantile_absolute_loss_wrapper", "nll_loss")
SLICES = 11  # of the families; with 3 dtypes, 50 seeds go round once
EXAMPLES = 3  # the first one that Hypothesis draws is the simplest

# where long double is no wider than float64 the squares of float64 numbers overflow
pytestmark = pytest.mark.skipif(
    np.finfo(np.longdouble).nmant < 63, reason="long double is float64 on this platform"
)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(50))
def test_no_false_alarm(seed):
    report = verify(
        plain,
        LOSSES,
        [DTYPES[seed % len(DTYPES)]],
        properties=DRAWN,
        families=FAMILIES[seed % SLICES :: SLICES],
        adapter="numpy",
        max_examples=EXAMPLES,
        seed=seed,
    )
    assert report.examples > len(LOSSES)
    assert report.ok, "\n".join(violation.snippet for violation in report.violations)


@pytest.mark.slow
@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss not in WALKED])
def test_no_false_alarm_on_large_batches(loss):
    report = verify(plain, [loss], ["float64"], properties=["blocks"], adapter="numpy")
    assert report.ok, "\n".join(violation.snippet for violation in report.violations)


def test_every_family_in_every_dtype_has_its_turn():
    turns = {(seed % len(DTYPES), seed % SLICES) for seed in range(50)}
    assert len(turns) == len(DTYPES) * SLICES


def test_losses_of_the_contract_are_there_with_their_gradients():
    of_torch = {"CompositeLoss", "compute_numeric_cdf"}
    assert set(CATALOGUE) - set(LOSSES) == of_torch
    assert all(hasattr(plain, f"{loss}_gradient") for loss in LOSSES)


def test_imports_are_independent_of_both_sides():
    imported = set()
    for path in Path(plain.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module)
    roots = {name.split(".")[0] for name in imported}
    assert "numpy" in roots
    assert not roots & {"torch", "refimpl", "torchimpl", "numba", "scipy", "mpmath", "flint"}
    assert all(name.startswith("tests.plain") for name in imported if name.split(".")[0] == "tests")


def _wrong_value(loss):
    """Off by 2^-40, four orders of magnitude above the rounding errors of float64."""

    def wrong(*arguments, **options):
        value = getattr(plain, loss)(*arguments, **options)
        return (value * (1 + value.dtype.type(2.0**-40))).astype(value.dtype)

    return wrong


def _scaled(part):
    if isinstance(part, dict):
        return {key: _scaled(value) for key, value in part.items()}
    return None if part is None else part * part.dtype.type(1 + 2.0**-30)


def _wrong_gradient(loss):
    def wrong(*arguments, **options):
        found = getattr(plain, f"{loss}_gradient")(*arguments, **options)
        return tuple(_scaled(part) for part in found)

    return wrong


def _rejected_for(loss, name, function):
    functions = {loss: getattr(plain, loss), f"{loss}_gradient": getattr(plain, f"{loss}_gradient")}
    target = SimpleNamespace(**{**functions, name: function})
    report = verify(
        target, [loss], ["float64"], families=["ordinary"], adapter="numpy", max_examples=4, first_only=True
    )
    return {violation.property for violation in report.violations}


@pytest.mark.parametrize("loss", LOSSES)
def test_slightly_wrong_copies_are_rejected(loss):
    """The same calls with an error of 2^-40 in the value, or 2^-30 in the gradient."""
    assert "value" in _rejected_for(loss, loss, _wrong_value(loss))
    assert "gradient" in _rejected_for(loss, f"{loss}_gradient", _wrong_gradient(loss))


def test_slope_beyond_float64_comes_back_in_the_mean():
    """32 / mu overflows, a quarter of it does not: mu is one of four counts."""
    mu = 8.900295434028806e-308
    side = {"mu": np.array([1.0, mu]), "r": np.ones(2)}
    outputs, reads = {"r1": side, "r2": side}, {"reads": np.array([1.0, 32.0])}
    found = nll_loss_gradient(outputs, {"r1": reads, "r2": reads})["r2"]["mu"]
    assert found[1] == -8.0 / mu


def test_infinite_gradient_of_either_sign_where_the_bound_reaches_beyond_the_maximum():
    """The computed number may be anything up to exact + bound before it overflows."""
    exact, allowed, largest = -400.0, 3.4e40, float(np.finfo(np.float32).max)
    assert np.all(error_ratio([np.inf, -np.inf], exact, allowed, largest, overflows=True) <= 1.0)
