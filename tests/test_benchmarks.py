"""Every benchmark sets up and runs once at its smallest size, and every loss has one."""

import importlib
import inspect
import json
import math
from functools import partial
from pathlib import Path
from time import sleep

import pytest
import torch

from asv_benchmarks import common, negative_binomial

ROOT = Path(__file__).resolve().parent.parent
ROOMS = (
    "composite",
    "concordance",
    "likelihood",
    "masked",
    "negative_binomial",
    "pearson",
    "quantile",
    "residual",
)


def classes_of(room):
    module = importlib.import_module(f"asv_benchmarks.{room}")
    return [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, common.LossBenchmark)
        and not inspect.isabstract(value)
    ]


BENCHMARKS = [pytest.param(cls, id=cls.__name__) for room in ROOMS for cls in classes_of(room)]


@pytest.fixture(autouse=True)
def _same_threads_afterwards():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def quick(monkeypatch):
    """Measure one pair of times instead of many."""
    monkeypatch.setattr(common, "paired_ratio", partial(common.paired_ratio, seconds=0.0, least=1))


def methods(cls, prefix):
    return [name for name in dir(cls) if name.startswith(prefix)]


def test_every_room_has_a_benchmark_module():
    modules = {path.stem for path in (ROOT / "asv_benchmarks").glob("*.py")}
    assert modules - {"__init__", "common"} == set(ROOMS)
    assert all(classes_of(room) for room in ROOMS)


@pytest.mark.parametrize("cls", BENCHMARKS)
def test_benchmark_runs(cls, quick):
    size = min(cls.params[0])
    benchmark = cls()
    benchmark.setup(size, "cpu")
    for name in methods(cls, "time_"):
        assert getattr(benchmark, name)(size, "cpu") is None
    assert benchmark.track_saved_bytes(size, "cpu") >= 0
    assert math.isnan(benchmark.track_peak_bytes(size, "cpu"))
    (ratio,) = methods(cls, "track_ratio_to_")
    assert 0 < getattr(benchmark, ratio)(size, "cpu") < math.inf


@pytest.mark.parametrize("cls", BENCHMARKS)
def test_loss_and_textbook_are_the_same_quantity(cls):
    """A ratio of times means something only between two ways to the same number."""
    size = min(cls.params[0])
    benchmark = cls()
    benchmark.setup(size, "cpu")
    loss = benchmark.loss(**benchmark.inputs)
    textbook = benchmark.textbook(**benchmark.inputs)
    assert loss.ndim == textbook.ndim == 0
    # half the digits of float32: the textbook versions are rough, another formula is further away
    assert abs(loss.item() - textbook.item()) <= math.sqrt(torch.finfo(torch.float32).eps) * abs(loss.item())


def test_the_ways_to_many_cdfs_are_compared_on_the_same_quantity(quick, monkeypatch):
    monkeypatch.setattr(negative_binomial, "paired_ratio", common.paired_ratio)
    benchmark = negative_binomial.NegativeBinomialCDFOfMany()
    benchmark.setup(500)
    # a count that the table does not have is read as its last one
    benchmark.inputs["y"] = benchmark.inputs["y"].clamp(max=999)
    ours = negative_binomial.kernel_cdf(**benchmark.inputs)
    gradients = torch.autograd.grad(ours, (benchmark.inputs["mu"], benchmark.inputs["r"]))
    table = negative_binomial.table_of_thousand(**benchmark.inputs)
    # half the digits of float64: a table cancels
    assert abs(ours.item() - table.item()) <= math.sqrt(torch.finfo(torch.float64).eps) * ours.item()
    plain = torch.autograd.grad(
        negative_binomial.plain_cdf(**benchmark.inputs), (benchmark.inputs["mu"], benchmark.inputs["r"])
    )
    for one, other in zip(gradients, plain, strict=True):
        half = math.sqrt(torch.finfo(torch.float64).eps)
        assert bool(((one - other).abs() <= half * one.abs().max()).all())
    for name in methods(type(benchmark), "track_ratio_"):
        assert 0 < getattr(benchmark, name)(500) < math.inf


@pytest.mark.parametrize("cls", BENCHMARKS)
def test_every_benchmark_is_complete(cls):
    assert cls.params[1] == common.DEVICES
    assert len(methods(cls, "track_ratio_to_")) == 1
    assert all(getattr(cls, name).unit for name in methods(cls, "track_"))
    assert inspect.getdoc(cls)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
@pytest.mark.parametrize("cls", BENCHMARKS)
def test_missing_device_is_skipped(cls):
    with pytest.raises(NotImplementedError, match="no CUDA device"):
        cls().setup(min(cls.params[0]), "cuda")


def test_paired_ratio_tells_slow_from_fast():
    ratio = common.paired_ratio(lambda: sleep(0.004), lambda: sleep(0.001), seconds=0.0, least=5)
    assert ratio > 1
    assert common.paired_ratio(lambda: sleep(0.001), lambda: sleep(0.004), seconds=0.0, least=5) < 1


def test_saved_bytes_counts_what_the_graph_keeps():
    class Squares(common.LossBenchmark):
        differentiable = ("x",)

        def tensors(self, size):
            return {"x": torch.arange(1.0, size + 1)}

        def loss(self, x):
            return (2 * x).pow(2).sum()

        def textbook(self, x):
            return self.loss(x)

    benchmark = Squares()
    benchmark.setup(100, "cpu")
    assert benchmark.track_saved_bytes() == 100 * 4


def test_asv_keeps_torch_out_of_every_commit():
    lines = (ROOT / "asv.conf.json").read_text().splitlines()
    config = json.loads("\n".join(line for line in lines if not line.strip().startswith("//")))
    assert config["benchmark_dir"] == "asv_benchmarks"
    for command in config["build_command"] + config["install_command"]:
        assert "--no-deps" in command
        assert "--no-index" in command
