"""The examples run, learn, and beat the version without a model."""

import importlib.util
from pathlib import Path
from statistics import mean

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {"train_counts", "train_spectra"}


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


@pytest.mark.parametrize("name", ["train_counts", "train_spectra"])
def test_plots(name, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "plot.png"
    load(name).main(["--steps", "2", "--plot", str(path)])
    assert path.read_bytes().startswith(b"\x89PNG")
