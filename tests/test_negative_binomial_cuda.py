"""The CUDA kernel of the negative-binomial CDF: in Triton's interpreter, and on a device if there is one."""

import csv
import importlib.util
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from refimpl import negative_binomial as oracles
from refimpl.bounds import negative_binomial as bounds
from refimpl.bounds.precision import error_ratio, precision
from tests.triton_interpreter import FORMS, evaluated
from tests.triton_process import ROOT, environment, need_triton
from torchimpl.kernels import negative_binomial_cuda as cuda
from torchimpl.kernels.negative_binomial import evaluate
from torchimpl.kernels.negative_binomial_cuda import available, evaluate_cuda, flat
from torchimpl.negative_binomial import negative_binomial_cdf

POINTS = ROOT / "tests" / "data" / "negative_binomial_points.csv"
INF, NAN = float("inf"), float("nan")
LARGEST = np.finfo(float).max
U = 2.0**-53
BLOCK = 32
# (count, mu, r) of one region each, and the regions that run
HOMES = {
    "zero": ((0.0, 3.0, 2.0), ["zero_count"]),
    "series": ((4.0, 30.0, 0.5), ["series"]),
    "short": ((3.0, 20.0, 6.0), ["fraction", "prefactor"]),
    "long": ((20.0, 10.0, 1.2), ["fraction", "prefactor"]),
    "quadrature": ((80.0, 95.0, 90.0), ["prefactor", "quadrature"]),
    "special": ((1.0, -1.0, 2.0), []),
}
EDGES = [
    *[(-1.0, 2.0, 3.0), (-0.5, 2.0, 3.0), (-INF, 2.0, 3.0), (INF, 2.0, 3.0), (0.0, 0.0, 3.0)],
    *[(0.7, 0.0, 3.0), (1.0, 0.0, 3.0), (-1.0, 0.0, 3.0), (0.0, 0.0, INF), (INF, 0.0, INF)],
    *[(NAN, 1.0, 1.0), (1.0, NAN, 1.0), (1.0, 1.0, NAN), (1.0, -1.0, 1.0), (1.0, INF, 1.0)],
    *[(1.0, 1.0, 0.0), (1.0, 1.0, -2.0), (-1.0, 1.0, -1.0), (INF, 1.0, 0.0), (0.0, 0.0, 0.0)],
    *[(INF, -1.0, 1.0), (-INF, 1.0, 0.0), (NAN, 0.0, 1.0), (1.0, -INF, 1.0), (1.0, 1.0, -INF)],
]


def stored_points():
    with POINTS.open() as lines:
        rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    return np.array([[float.fromhex(value) for value in row.values()] for row in rows]).T


def drawn(generator, count, counts, means, dispersions):
    """Log-uniform in the three ranges (exponents of 10); counts are whole."""
    k, mu, r = (10.0 ** generator.uniform(*ends, count) for ends in (counts, means, dispersions))
    return np.stack([np.floor(k), mu, r])


def feasible_points():
    """What the oracle can sum: realistic, wide, near the mean, and any float at all for mu and r."""
    generator = np.random.default_rng(1)
    realistic = drawn(generator, 500, (-0.5, 2.5), (-1.3, 2.7), (-1.0, 2.0))
    wide = drawn(generator, 500, (0.0, 2.5), (-8.0, 8.0), (-6.0, 8.0))
    near = drawn(generator, 500, (0.0, 0.0), (0.0, 4.0), (-3.0, 10.0))
    near[0] = np.floor(near[1] * generator.uniform(0.5, 1.6, 500))
    anything = np.exp2(generator.uniform(-1074.0, 1024.0, (3, 700)))
    anything[0] = generator.integers(0, 61, 700)
    poisson = drawn(generator, 100, (-0.5, 2.5), (-1.3, 2.7), (0.0, 0.0))
    poisson[2] = INF
    return np.concatenate([realistic, wide, near, anything, poisson], axis=1)


def large_points():
    """What no summation can reach, near the mean and far from it."""
    generator = np.random.default_rng(2)
    near = drawn(generator, 1500, (0.0, 0.0), (3.0, 15.0), (-6.0, 15.0))
    spread = np.sqrt(near[1] + near[1] * near[1] / near[2])
    near[0] = np.floor(np.maximum(near[1] + generator.uniform(-4.0, 4.0, 1500) * spread, 1.0))
    return np.concatenate([near, drawn(generator, 1500, (3.0, 15.0), (-3.0, 15.0), (-6.0, 15.0))], axis=1)


def corner_points():
    sizes = [5e-324, 1e-310, 1e-300, 1e-160, 1e-30, 1e-8, 0.3, 1.0, 10.0, 1e4, 1e30, 1e160, 1e300, LARGEST]
    counts = [0.0, 1.0, 2.0, 60.0, 1e3, 1e15, 1e30, 1e300, LARGEST]
    corners = np.array(list(itertools.product(counts, sizes, [*sizes, INF]))).T
    generator = np.random.default_rng(3)
    anything = np.exp2(generator.uniform(-1074.0, 1024.0, (3, 4000)))
    anything[0] = np.floor(anything[0])
    return np.concatenate([corners, anything], axis=1)


def homely_points():
    """Blocks of one region each: two numbers around the point of the region."""
    generator = np.random.default_rng(4)
    blocks = [np.repeat(np.array([row]).T, BLOCK, axis=1) for row, _ in HOMES.values()]
    for block in blocks:
        block[1:] *= generator.uniform(0.95, 1.05, (2, BLOCK))
    return np.concatenate(blocks, axis=1)


SHUFFLE = np.random.default_rng(5).permutation(BLOCK * len(HOMES))
CASES = {
    "stored": (stored_points()[:3], {"block": 256}),
    "feasible": (feasible_points(), {"block": 4096}),
    "large": (large_points(), {"block": 4096}),
    "corners": (corner_points(), {"block": 8192}),
    "edges": (np.array(EDGES).T, {"block": 32}),
    "homely": (homely_points(), {"block": BLOCK}),
    "every": (homely_points(), {"block": 256, "every": True}),
    "shuffled": (homely_points()[:, SHUFFLE], {"block": 128}),
    **{name: (np.repeat(np.array([row]).T, 5, axis=1), {"block": 8}) for name, (row, _) in HOMES.items()},
    "every region": (np.array([HOMES["special"][0]]).T, {"block": 8, "every": True}),
    # the elements of the block "short"
    **{form: (homely_points()[:, 2 * BLOCK : 3 * BLOCK], {"form": form}) for form in FORMS},
}


@pytest.fixture(scope="module")
def triton():
    return need_triton()


@pytest.fixture(scope="module")
def interpreted(triton, tmp_path_factory):
    """Name of a case -> F, S, dF/dmu, dF/dr; and "<name> ran" -> the regions that ran."""
    folder = tmp_path_factory.mktemp("interpreter")
    options = json.dumps({name: case[1] for name, case in CASES.items()})
    np.savez(folder / "in.npz", options=options, **{name: case[0] for name, case in CASES.items()})
    subprocess.run(
        [sys.executable, ROOT / "tests" / "triton_interpreter.py", folder / "in.npz", folder / "out.npz"],
        check=True,
        env=environment(interpret=True),
    )
    with np.load(folder / "out.npz") as found:
        return dict(found)


@pytest.fixture(scope="module")
def on_device():
    """The same from a device."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    # the interpreter is fast with large blocks, which would take a compiler very long
    return {
        name: evaluated(points, "cuda", **{**options, "block": min(options.get("block", BLOCK), 128)})
        for name, (points, options) in CASES.items()
    }


@pytest.fixture(scope="module", params=["interpreted", "on_device"])
def results(request):
    return request.getfixturevalue(request.param)


def plain(name):
    """The torch path's answer to a case."""
    return torch.stack(evaluate(*torch.from_numpy(CASES[name][0]), dense=False)).numpy()


def ratios_to_truth(points, found, exact):
    """Errors of F, S and the gradients of both in units of what is allowed."""
    worst = []
    for value, sign, bound in (
        (0, 1.0, bounds.negative_binomial_cdf),
        (1, -1.0, bounds.negative_binomial_sf),
    ):
        allowed = bound(*points, precision("float64"))
        worst.append(error_ratio(found[value], exact[value], allowed.value, LARGEST))
        for row, limit in zip((2, 3), allowed.gradient, strict=True):
            worst.append(error_ratio(sign * found[row], sign * exact[row], limit, LARGEST, overflows=True))
    return np.max(worst, axis=1)


def test_agrees_with_the_stored_points(results):
    table = stored_points()
    assert np.all(ratios_to_truth(table[:3], results["stored"], table[3:]) <= 1.0)


def test_agrees_with_the_oracle(results):
    points = CASES["feasible"][0]
    F, S, _, d_mu, d_r = oracles.negative_binomial_partials(*points)
    assert np.all(ratios_to_truth(points, results["feasible"], (F, S, d_mu, d_r)) <= 1.0)


def test_agrees_with_the_torch_path_where_no_summation_can_go(results):
    (k, mu, r), found, expected = CASES["large"][0], results["large"], plain("large")
    F, S, d_mu, d_r = expected
    # each side is within the bound of the exact number, which the other stands for; far from underflow
    kept = np.minimum(F, S) > 1e-280
    assert kept.sum() > 1000
    errors = bounds._general(k, mu, r, np.stack([F, S, F, d_mu, d_r]), U)
    for row, allowed in zip((0, 1, 2, 3), errors.values(), strict=True):
        assert np.all((np.abs(found[row] - expected[row]) <= 2.0 * allowed)[kept])


def test_edges_are_those_of_the_torch_path(results):
    np.testing.assert_array_equal(results["edges"], plain("edges"))


def test_no_nan_anywhere(results):
    F, S, d_mu, _ = results["corners"]
    assert np.isfinite(results["corners"]).all()
    assert F.min() >= 0.0
    assert F.max() <= 1.0
    assert S.min() >= 0.0
    assert S.max() <= 1.0
    assert d_mu.max() <= 0.0
    # the larger one is 1 - tail, rounded; their sum rounds once more
    np.testing.assert_allclose(F + S, 1.0, rtol=2.0 * U)


def test_an_element_does_not_depend_on_its_block(results):
    homely = results["homely"]
    np.testing.assert_array_equal(results["every"], homely)
    np.testing.assert_array_equal(results["shuffled"], homely[:, SHUFFLE])


@pytest.mark.parametrize("name", HOMES)
def test_a_region_runs_only_where_some_element_needs_it(interpreted, name):
    assert interpreted[f"{name} ran"].tolist() == HOMES[name][1]


def test_every_region_runs_if_asked(interpreted):
    assert len(interpreted["every region ran"]) == 5


def test_layout_and_shape_do_not_matter(results):
    found = results["plain"]
    np.testing.assert_array_equal(found, results["homely"][:, 2 * BLOCK : 3 * BLOCK])
    np.testing.assert_array_equal(results["columns"].transpose(0, 2, 1).reshape(found.shape), found)
    np.testing.assert_array_equal(results["constants"], np.repeat(found[:, :1], BLOCK, axis=1))
    np.testing.assert_array_equal(results["scalars"], found[:, 0])
    assert results["empty"].shape == (4, 0)


@pytest.fixture(scope="module")
def compiled(triton, tmp_path_factory):
    """A folder with the kernel as compiled for compute capability 9.0, which needs no device."""
    folder = tmp_path_factory.mktemp("compiled")
    subprocess.run(
        [sys.executable, ROOT / "tests" / "triton_compiler.py", folder],
        check=True,
        env=environment(interpret=False, TRITON_CACHE_DIR=str(folder / "cache")),
    )
    return folder


class TestCompiled:
    def test_one_compiled_kernel_serves_all_calls(self, compiled):
        names = json.loads((compiled / "compiled.json").read_text())
        assert len(names) == 4
        assert len(set(names)) == 1

    def test_no_register_is_spilled(self, compiled):
        binaries = Path(importlib.util.find_spec("triton").origin).parent / "backends" / "nvidia" / "bin"
        command = [binaries / "cuobjdump", "-res-usage", compiled / "kernel.cubin"]
        usage = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        numbers = dict(re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", usage))
        assert int(numbers.pop("REG")) <= 255
        assert numbers == {"STACK": "0", "SHARED": "0", "LOCAL": "0"}

    def test_arithmetic_is_that_of_the_interpreter(self, compiled):
        found = re.findall(
            r"\b(?:add|sub|mul|fma|mad|div|rcp|sqrt|rsqrt)\.[\w.]*f\d\d\b",
            (compiled / "kernel.ptx").read_text(),
        )
        # each names its rounding, which forbids to fuse; the approximate inverse begins a library's division
        rounded = {f"{name}.rn.f64" for name in ("add", "sub", "mul", "fma", "div", "sqrt")}
        assert set(found) - {"rcp.approx.ftz.f64"} == rounded

    def test_offsets_have_64_bits(self, compiled):
        lines = (compiled / "kernel.ttir").read_text().splitlines()
        (program,) = (line.split()[0] for line in lines if "tt.get_program_id" in line)
        uses = [line for line in lines if re.search(rf"{program}\b(?! =)", line)]
        assert uses
        assert all("arith.extsi" in line and "i32 to i64" in line for line in uses)


class TestLauncher:
    def points(self, *, count=3):
        return [torch.full((count,), value, dtype=torch.float64) for value in (3.0, 2.0, 1.0)]

    def test_torchimpl_needs_no_triton(self):
        code = (
            "import sys\n"
            "import torchimpl\n"
            "assert 'torchimpl.kernels.negative_binomial_cuda_kernel' not in sys.modules\n"
            "sys.modules['triton'] = None\n"
            "import torchimpl.kernels.negative_binomial_cuda_kernel\n"
            "from torchimpl.kernels.negative_binomial_cuda import available\n"
            "assert not available()\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=environment(interpret=False))

    @pytest.mark.usefixtures("triton")
    def test_available_where_triton_is(self):
        assert available()

    @pytest.mark.usefixtures("triton")
    @pytest.mark.parametrize("error", [RuntimeError, OSError])
    def test_a_launch_that_fails_is_told_and_not_tried_again(self, monkeypatch, error):
        def refuse(*_):
            raise error("no C compiler")

        monkeypatch.setattr(cuda, "evaluate_cuda", refuse)
        with pytest.warns(RuntimeWarning, match="no C compiler"):
            assert not cuda.launches.__wrapped__()

    def test_other_dtypes_shapes_and_devices_are_refused(self):
        y, mu, r = self.points()
        with pytest.raises(TypeError, match=re.escape("y must be float64, got torch.float32")):
            evaluate_cuda(y.float(), mu, r)
        with pytest.raises(
            ValueError, match=re.escape("r must have the shape and device of mu, got (2,) on cpu")
        ):
            evaluate_cuda(y, mu, r[:2])
        with pytest.raises(ValueError, match="y must have the shape and device of mu"):
            evaluate_cuda(y.to("meta"), mu, r)

    def test_one_launch_without_fusion(self, monkeypatch):
        launches = []

        class Kernel:
            def __getitem__(self, grid):
                return lambda *arguments, **options: launches.append((grid, arguments, options))

        monkeypatch.setattr(cuda, "kernel", Kernel)
        y, mu, r = self.points(count=BLOCK + 1)
        found = evaluate_cuda(y, mu[0].expand(y.shape), r)
        ((grid, arguments, options),) = launches
        assert grid == (2,)
        assert [argument.data_ptr() for argument in arguments[3:7]] == [value.data_ptr() for value in found]
        assert arguments[7:] == (BLOCK + 1, 1, 0, 1)
        assert options["enable_fp_fusion"] is False
        assert (options["BLOCK"], options["num_warps"]) == (BLOCK, 1)

    def test_a_step_of_zero_only_for_one_number(self):
        one, column = torch.ones(1), torch.ones(3, 1)
        assert flat(one.expand(4)[:, None])[1] == 1  # a dimension of one element has any stride
        assert flat(column.expand(3, 4))[1] == 1
        assert flat(torch.tensor(1.0))[1] == 1
        assert flat(torch.tensor(1.0).expand(2, 0))[1] in (0, 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
class TestOnDevice:
    def points(self, name="homely"):
        return torch.from_numpy(CASES[name][0]).cuda().unbind()

    def test_the_public_function_launches_it(self):
        y, mu, r = self.points()
        one, other = negative_binomial_cdf(y, mu, r), evaluate_cuda(y, mu, r).cdf
        assert torch.equal(one.nan_to_num(), other.nan_to_num())

    def test_nothing_waits_for_the_device(self):
        points = self.points()
        evaluate_cuda(*points)
        torch.cuda.set_sync_debug_mode("error")
        try:
            evaluate_cuda(*points)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def test_a_graph_records_it(self):
        points = self.points()
        expected = evaluate_cuda(*points)
        y, mu, r = (torch.ones_like(row) for row in points)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = evaluate_cuda(y, mu, r)
        for empty, row in zip((y, mu, r), points, strict=True):
            empty.copy_(row)
        graph.replay()
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one.nan_to_num(), other.nan_to_num())

    def test_the_device_of_the_tensors_counts(self):
        if torch.cuda.device_count() < 2:
            pytest.skip("one CUDA device")
        first = self.points()
        second = [row.to("cuda:1") for row in first]
        for one, other in zip(evaluate_cuda(*first), evaluate_cuda(*second), strict=True):
            assert torch.equal(one.cpu().nan_to_num(), other.cpu().nan_to_num())

    def test_more_elements_than_32_bits_can_count(self):
        count = 2**31 + 5
        if torch.cuda.mem_get_info()[0] < 5 * 8 * count:
            pytest.skip("needs 86 GB of device memory")
        _, mu, r = (torch.tensor(value, dtype=torch.float64, device="cuda") for value in HOMES["zero"][0])
        long = torch.zeros(count, dtype=torch.float64, device="cuda")
        long[-1] = 3.0
        found = evaluate_cuda(long, mu.expand(count), r.expand(count))
        expected = evaluate_cuda(long[-2:], mu.expand(2), r.expand(2))
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one[-2:], other)
