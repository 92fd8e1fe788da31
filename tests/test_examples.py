"""The examples run, learn, and beat the version without a model."""

import importlib.util
import sys
from pathlib import Path
from statistics import mean

import pytest

from refimpl.conformance.catalogue import CATALOGUE

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # torch.compile looks up where a function comes from
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {
        "train_counts",
        "train_spectra",
        "verify_numpy",
        "verify_own_loss",
    }


def test_counts(capsys):
    history = load("train_counts").main(["--steps", "80"])
    assert mean(history["total"][-20:]) < mean(history["total"][:20])
    assert history["held_out"][0] < history["held_out_constant"][0]
    assert "held-out negative log-likelihood" in capsys.readouterr().out


def test_spectra(capsys):
    history = load("train_spectra").main(["--steps", "120"])
    assert mean(history["loss"][-20:]) < mean(history["loss"][:20]) / 2
    assert history["held_out"][0] < history["held_out_mean"][0]
    assert "held-out masked_mse" in capsys.readouterr().out


def test_own_loss(capsys):
    try:
        reports = load("verify_own_loss").main(["--max-examples", "3"])
    finally:
        CATALOGUE.pop("mean_absolute_error", None)
    assert reports["Careful"].ok
    assert {"dtype", "finite"} <= {violation.property for violation in reports["Careless"].violations}
    assert "no violation" in capsys.readouterr().out


def test_numpy_functions(capsys):
    assert load("verify_numpy").main(["--max-examples", "2"]).ok
    assert "masked_mse" in capsys.readouterr().out


def test_jax_functions(capsys):
    """The first thing one writes: right on ordinary numbers, not where a mask is empty."""
    pytest.importorskip("jax")
    options = ["--adapter", "jax", "--dtype", "float32", "--max-examples", "2"]
    main = load("verify_numpy").main
    sound = main([*options, "--family", "full mask"]).violations
    assert not {"value", "gradient", "finite"} & {violation.property for violation in sound}
    found = main([*options, "--family", "empty mask"]).violations
    assert {"finite"} <= {violation.property for violation in found}
    capsys.readouterr()


@pytest.mark.parametrize("name", ["train_counts", "train_spectra"])
def test_plots(name, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "plot.png"
    load(name).main(["--steps", "2", "--plot", str(path)])
    assert path.read_bytes().startswith(b"\x89PNG")
