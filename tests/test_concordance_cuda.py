"""The CUDA kernels of InfoNCE: in Triton's interpreter, compiled without a device, and on one if at hand."""

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from refimpl import concordance as oracle
from refimpl.bounds import concordance as bounds
from refimpl.bounds.precision import error_ratio, precision
from tests.triton_concordance import evaluated
from tests.triton_process import ROOT, environment, need_triton
from torchimpl.kernels import concordance_cuda_line as line
from torchimpl.kernels import concordance_cuda_space as space
from torchimpl.kernels.concordance import Pairs, loss_gradient, loss_rows
from torchimpl.kernels.concordance_cuda import applicable_cuda, gradient_cuda, rows_cuda
from torchimpl.kernels.concordance_cuda_units import units

FORMATS = precision("float64")
# exponents right to 2^-30, weights below the smallest float32 left out
NARROW_FORMATS = dataclasses.replace(
    FORMATS, work_roundoff=2.0**-30, result_roundoff=2.0**-30, scalar_roundoff=2.0**-30, work_tiny=2.0**-149
)
LARGEST = np.finfo(float).max
TINY = np.finfo(float).smallest_normal
# products with these are exact, so that the bound for cotangent 1 serves
COTANGENTS = np.array([1.0, -1.0, 0.5, 0.0, -0.25])


def pair(features, size=13, noise=0.3, seed=0):
    """Replicates that differ by noise, (size, features) each."""
    generator = np.random.default_rng([seed, features, size])
    x, moves = generator.normal(size=(2, size, features))
    return x, x + noise * moves


def ties(features):
    x, y = pair(features, noise=1.0)
    return np.round(x), np.round(y)


def all_alike(features):
    x, y = pair(features)
    return np.repeat(x[:1], 13, axis=0), np.repeat(y[:1], 13, axis=0)


def far_pairs(features):
    """Own sources 1e12 away for some rows; no two are as far from each other for the others."""
    x, y = pair(features)
    y[::3] += 1e12
    return x, y


def offset(features):
    x, y = pair(features)
    return np.round(x * 1024) / 1024 + 1e6, np.round(y * 1024) / 1024 + 1e6


def isolated(features):
    """Replicates that are alike, pairs that are apart: tiny losses and gradients."""
    x, y = pair(features, noise=0.05)
    step = np.arange(13.0)[:, None]
    return x * 0.05 + step, y * 0.05 + step


def midway(features):
    """A huge row midway between a small and a huge source, the other one beside it; more features are 0."""
    x, y = np.zeros((2, 2, features))
    x[:, 0], y[:, 0] = (1e20, 2e20), (0.5, 2e20)
    return x, y


def doubtful(features):
    """A row whose rounded distances to all sources are equal; two of them are nearer than its own."""
    x, y = np.zeros((2, 3, features))
    y[1:, 0] = y[2, 1] = 1.0
    x[:] = y
    x[0, 0] = 1e20
    return x, y


def misleading(features):
    """As `doubtful`, but the products beside the first anchor are equal, too: the second is 1024 too far."""
    x, y = doubtful(features)
    y[2, 1], y[1, 1] = 0.0, 32.0
    return x, y


def in_a_row(features):
    """Three tiles: the first and the last are far from each other, whatever the arithmetic."""
    x, y = pair(features, size=24, noise=0.05)
    step = 2.0 * np.arange(24.0)[:, None]
    return x * 0.05 + step, y * 0.05 + step


def mixed(features):
    x, y = pair(features)
    powers = np.exp2(np.random.default_rng(9).integers(-40, 41, x.shape))
    return x * powers, y * powers


def one_huge(features):
    """Rows next to the largest float beside ordinary ones."""
    x, y = pair(features)
    x[2], y[5], y[2] = LARGEST, -LARGEST, 0.9 * LARGEST
    return x, y


def scaled_pair(factor):
    return lambda features: tuple(np.tanh(side) * factor for side in pair(features))


HAZARDS = {
    "plain": (pair, {"twice": True}),
    "textbook": (pair, {"eps": 0.0, "tau": 37.0}),
    "much eps": (pair, {"eps": 0.5, "tau": 1.0}),
    "identical replicates": (lambda features: pair(features, noise=0.0), {}),
    "ties": (ties, {"eps": 0.0}),
    "all rows alike": (all_alike, {}),
    "far pairs": (far_pairs, {}),
    "far pairs without eps": (far_pairs, {"eps": 0.0, "narrow": True}),
    "far from every source": (lambda features: (pair(features)[0] + 1e6, pair(features)[1]), {"eps": 0.0}),
    "common offset": (offset, {}),
    "isolated": (isolated, {"eps": 0.0, "tau": 0.01}),
    "mixed magnitudes": (mixed, {}),
    "subnormal": (scaled_pair(TINY), {}),
    "huge": (scaled_pair(LARGEST), {}),
    "one huge": (one_huge, {"eps": 0.0}),
    "absurd tau": (scaled_pair(1e-150), {"tau": 1e-300, "narrow": True}),
    "midway": (midway, {"eps": 0.0, "tau": 1e20}),
    "one row": (lambda features: pair(features, size=1), {"eps": 0.5}),
    "one row alone": (lambda features: pair(features, size=1), {"eps": 0.0}),
}
WIDTHS = {
    "tile border": (lambda features: pair(features, size=8), {"narrow": True}),
    "plain": (lambda features: pair(features, size=9), {"tau": 0.1 * 17}),
    "isolated": (isolated, {"eps": 0.0, "tau": 0.01}),
}
GRADES = tuple(space.GRADES)
# exponents from products of matrices already for three features: every hazard, in every grade
PRODUCTS = {"most_direct": 1, "grade": "float64", "tile": (8, 8, 4)}
NARROW = {"narrow": True}
GRADED = {
    **{f"{name} by products": (make, options | PRODUCTS) for name, (make, options) in HAZARDS.items()},
    **{
        f"{name}, narrow, by products": (make, options | PRODUCTS | NARROW)
        for name, (make, options) in HAZARDS.items()
        if name not in {"subnormal", "huge", "one huge"}
    },
    **{
        f"{name}, {width} by {grade}": (
            HAZARDS[name][0],
            {**HAZARDS[name][1], **options, **PRODUCTS, "grade": grade},
        )
        for name in ("plain", "far pairs", "mixed magnitudes", "subnormal", "one huge")
        for grade in ("tf32x3", "bf16")
        for width, options in (("float64", {}), ("float32", NARROW))
        if width == "float64" or "huge" not in name
    },
    "isolated more softly, narrow, by products": (isolated, {"eps": 0.0, "tau": 0.05} | PRODUCTS | NARROW),
    "doubtful, narrow, by products": (doubtful, {"eps": 0.0, "tau": 1.0} | PRODUCTS | NARROW),
    **{f"in a row by {grade}": (in_a_row, PRODUCTS | {"grade": grade}) for grade in GRADES},
}
SCALARS = {
    "many": (lambda features: pair(features, size=75), {}),
    "spread": (lambda features: tuple(40 * side for side in pair(features, size=75)), {"whole": 0}),
    "windows without eps": (lambda features: pair(features, size=75), {"whole": 0, "eps": 0.0, "tau": 1e-3}),
    "windows and much eps": (lambda features: pair(features, size=75), {"whole": 0, "eps": 0.5, "tau": 0.01}),
    "windows in order": (lambda _: (np.arange(40.0)[:, None], np.arange(40.0)[:, None] + 0.25), {"whole": 0}),
    "one tile": (lambda features: pair(features, size=75), {"tile": (128, 128, 4)}),
}


def cases():
    """Name -> x, y, cotangent and options."""
    table = {}
    few = {"plain": WIDTHS["plain"]}
    direct = {
        "doubtful": (doubtful, {"eps": 0.0, "tau": 1.0}),
        "misleading": (misleading, {"eps": 0.0, "tau": 1.0}),
    }
    some = {name: HAZARDS[name] for name in ("plain", "far pairs", "one huge", "one row")}
    for widths, hazards in (
        *(((1, 2), HAZARDS), ((2,), direct), ((3,), some | GRADED)),
        *(((16, 17), WIDTHS), ((64,), few)),
    ):
        for features in widths:
            table |= {f"{name}, D = {features}": (*case, features) for name, case in hazards.items()}
    table |= {f"{name}, D = 1": (*case, 1) for name, case in SCALARS.items()}
    found = {}
    for name, (make, options, features) in table.items():
        x, y = make(features)
        tile = {"tile": (8, 8, 4)} if features > 2 else {}
        found[name] = (x, y, np.resize(COTANGENTS, len(x)), tile | options)
    return found


def spoilt():
    """Name -> a case with a number that is not finite, and one with 0 in its place."""
    found = {}
    for features in (1, 2):
        for side in (0, 1):
            for bad in (math.nan, math.inf, -math.inf):
                arrays = [part.copy() for part in pair(features)]
                for value in (0.0, bad):
                    arrays[side][4, -1] = value
                    name = f"{value}, side {side}, D = {features}"
                    found[name] = (arrays[0].copy(), arrays[1].copy(), np.resize(COTANGENTS, 13), {})
    return found


CASES, SPOILT = cases(), spoilt()


@pytest.fixture(scope="module")
def triton():
    return need_triton()


def child(folder, *arguments, interpret):
    subprocess.run(
        [sys.executable, ROOT / "tests" / "triton_concordance.py", *arguments],
        check=True,
        env=environment(interpret=interpret, TRITON_CACHE_DIR=str(folder / "cache")),
    )


@pytest.fixture(scope="module")
def interpreted(triton, tmp_path_factory):
    """Name of a case -> its results, and those of a second run where it asks for one."""
    folder = tmp_path_factory.mktemp("interpreter")
    every = CASES | SPOILT
    arrays = {
        f"{name}/{part}": array
        for name, case in every.items()
        for part, array in zip(("x", "y", "cotangent"), case, strict=False)
    }
    options = json.dumps({name: case[3] for name, case in every.items()})
    np.savez(folder / "in.npz", options=options, **arrays)
    child(folder, "interpret", folder / "in.npz", folder / "out.npz", interpret=True)
    with np.load(folder / "out.npz") as stored:
        found = {}
        for key, value in stored.items():
            name, part, run = key.split("/")
            found.setdefault(name, [{}, {}])[int(run)][part] = value
    return found


@pytest.fixture(scope="module")
def on_device():
    """The same from a device."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return {
        name: [evaluated(*arrays, "cuda", **options) for _ in range(2)]
        for name, (*arrays, options) in (CASES | SPOILT).items()
    }


@pytest.fixture(scope="module", params=["interpreted", "on_device"])
def results(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("name", CASES)
def test_rows_and_gradients_stay_within_the_bound(results, name):
    x, y, cotangent, options = CASES[name]
    tau, settings = options.get("tau", 0.1), {"eps": options.get("eps", 1e-8), "reduction": "none"}
    found = results[name][0]
    formats = NARROW_FORMATS if options.get("narrow") else FORMATS
    bound = bounds.concordance_loss_nce(x, y, tau, **settings, precision=formats)
    exact = oracle.concordance_loss_nce(x, y, tau, **settings)
    losses = np.minimum(found["losses"], LARGEST)
    assert np.all(error_ratio(losses, exact, bound.value, LARGEST) <= 1)
    exact = oracle.concordance_loss_nce_gradient(x, y, tau, **settings, cotangent=cotangent)
    # a row counts with its cotangent, in a column at most with the largest, which is 1
    share = np.abs(cotangent)[:, None]
    for actual, expected, allowed, part in zip(
        (found["gx"], found["gy"]), exact, bound.gradient, (share, 1.0), strict=True
    ):
        assert np.all(error_ratio(actual, expected, allowed * part, LARGEST, overflows=True) <= 1)


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("midway")])
def test_no_exponent_is_lost_between_huge_numbers(results, name):
    # d_01 - d_00 = 1e40 - (1e20 - 1/2)² = 1e20 - 1/4: lost where x - n/2 is rounded to one number
    expected = math.log1p(math.exp(-1))
    # 1/tau rounds once in an exponent of 1; exp and log1p round here and in the expectation
    allowed = 8 * (2.0**-30 if CASES[name][3].get("narrow") else 2.0**-53) * expected
    assert abs(results[name][0]["losses"][0] - expected) <= allowed


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("doubtful")])
def test_anchors_that_distances_cannot_tell_are_found_by_differences(results, name):
    # d_02 - d_01 = 1 of distances of 1e40; the cotangent of row 0 is 1
    expected = 2 / (1 + math.e)
    # products of 1 and halves are exact; exp, sum, quotient, product round here, as many in the expectation
    allowed = 8 * (2.0**-30 if CASES[name][3].get("narrow") else 2.0**-53) * expected
    assert abs(results[name][0]["gx"][0, 1] - expected) <= allowed


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("plain")])
def test_anchor_and_normaliser_are_those_of_the_plain_path(results, name):
    x, y, _, options = CASES[name]
    sides = [torch.from_numpy(side) for side in (x, y)]
    pairs = Pairs(*sides, tau=options.get("tau", 0.1), eps=1e-8, rows=0, wide=True)
    _, normaliser = loss_rows(pairs)
    found = results[name][0]
    np.testing.assert_array_equal(found["nearest"], pairs.nearest.numpy())
    # exponents of either path: two differences, a product and a sum for each feature; then exp, and 14 terms
    roundings = 4 * x.shape[1] + 20
    size = 2 * np.abs(normaliser.numpy()).max() + 750 * np.exp(-1.0)
    np.testing.assert_allclose(
        found["normaliser"], normaliser.numpy(), rtol=0, atol=2 * roundings * 2.0**-53 * size
    )


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "twice" in case[3]])
def test_the_same_inputs_give_the_same_bits(results, name):
    first, second = results[name]
    for part, value in second.items():
        np.testing.assert_array_equal(value, first[part])


@pytest.mark.parametrize("name", SPOILT)
def test_a_bad_number_spoils_what_counts_it_and_nothing_else(results, name):
    x, y, _, _ = SPOILT[name]
    _, *others = name.split(",")
    found = results[name][0]
    spoilt_rows = ~np.isfinite(x).all(1) | ~np.isfinite(y).all()
    assert np.array_equal(np.isnan(found["losses"]), spoilt_rows)
    assert np.array_equal(np.isnan(found["gx"]).all(1), spoilt_rows)
    assert np.isnan(found["gy"]).all() == spoilt_rows.any()
    clean = results[",".join(["0.0", *others])][0]
    for part in ("losses", "gx"):
        np.testing.assert_array_equal(found[part][~spoilt_rows], clean[part][~spoilt_rows])


@pytest.fixture(scope="module")
def compiled(triton, tmp_path_factory):
    """What every kernel occupies, compiled for compute capability 9.0, which needs no device."""
    binaries = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    if not (binaries / "ptxas").exists() or not (binaries / "cuobjdump").exists():
        pytest.skip("this Triton comes without the assembler for CUDA devices")
    folder = tmp_path_factory.mktemp("compiled")
    child(folder, "compile", folder / "usage.json", interpret=False)
    return json.loads((folder / "usage.json").read_text())


def direct_tiles(interpreted, name):
    """How many tiles of exponents were formed from differences, of how many."""
    x, _, _, options = CASES[name]
    rows, columns, _ = options.get("tile", (4, 8, 4))
    return int(interpreted[name][0]["direct"]), 3 * -(-len(x) // rows) * -(-len(x) // columns)


class TestProducts:
    """Where exponents come from products of matrices: each of the three ways is taken."""

    @pytest.mark.parametrize("name", ["plain, narrow, by products, D = 3", "tile border, D = 17"])
    def test_narrow_numbers_trust_them(self, interpreted, name):
        assert direct_tiles(interpreted, name)[0] == 0

    @pytest.mark.parametrize("name", ["much eps by products, D = 3", "ties by products, D = 3"])
    def test_what_counts_is_formed_from_differences_in_float64(self, interpreted, name):
        found, every = direct_tiles(interpreted, name)
        assert found == every

    @pytest.mark.parametrize("grade", ["float64", "tf32x3", "bf16"])
    def test_what_cannot_count_is_not_formed_from_differences(self, interpreted, grade):
        found, every = direct_tiles(interpreted, f"in a row by {grade}, D = 3")
        assert 0 < found < every

    def test_far_numbers_are_not_trusted(self, interpreted):
        assert direct_tiles(interpreted, "far pairs, narrow, by products, D = 3")[0] > 0


class TestCompiled:
    def test_no_register_is_spilled(self, compiled):
        # of scalars; of few features; of many, where anchors are refined by the same kernel
        assert len(compiled) == 3 + 5 + 4
        for kernel in compiled.values():
            assert kernel["REG"] <= 255
            assert kernel["STACK"] == kernel["LOCAL"] == 0

    def test_one_compiled_kernel_serves_all_batches(self, compiled):
        assert {kernel["variants"] for kernel in compiled.values()} == {1}


class TestWindows:
    """Which pairs are summed, against every pair looked at."""

    BATCHES = (
        pair(1, 60),
        tuple(30 * side for side in pair(1, 60)),
        (pair(1, 60)[0] * 1e4, pair(1, 60)[1]),
        ties(1),
        far_pairs(1),
        tuple(1e9 + side for side in pair(1, 60)),
    )

    def sorted_line(self, x, y, tau, eps):
        found = units(torch.from_numpy(x), torch.from_numpy(y), tau, narrow=False)
        return line.line(found, eps)

    def exponents(self, of):
        """Exponents of all pairs (rows, sources) beside the anchor."""
        x, n = of.x[:, None], of.rows.anchor
        return line.excess(x, n, of.y) * of.factor

    @pytest.mark.parametrize("batch", BATCHES)
    def test_the_anchor_is_the_nearest_and_its_own_source_if_that_is(self, batch):
        of = self.sorted_line(*batch, 0.1, 1e-8)
        exponents = self.exponents(of)
        own = exponents.gather(1, of.own_place[:, None])
        assert exponents.max() == 0
        assert torch.equal(of.place == of.own_place, own[:, 0] == 0)

    @pytest.mark.parametrize("batch", BATCHES)
    @pytest.mark.parametrize("eps", [0.0, 1e-8, 1e30])
    @pytest.mark.parametrize("whole", [0, line.WHOLE])
    def test_every_source_that_matters_is_inside(self, monkeypatch, batch, eps, whole):
        monkeypatch.setattr(line, "WHOLE", whole)
        of = self.sorted_line(*batch, 0.1, eps)
        first, last = line.windows(of, eps, narrow=True)
        exponents = self.exponents(of)
        places = torch.arange(len(of.x))
        rest = exponents.clone()
        rest[places, of.place] = -torch.inf
        largest = torch.maximum(rest.amax(1), of.rows.eps_exponent)[:, None]
        cut = math.log(len(of.x)) + 30 * math.log(2.0)
        counts = exponents >= -103.3 if whole else (exponents >= largest - cut) & (exponents >= -103.3)
        # beside a larger ε not even the anchor counts
        counts &= exponents >= largest - 103.3
        inside = (places >= first[:, None]) & (places < last[:, None])
        assert not (counts & ~inside).any()
        assert inside.gather(1, of.place[:, None]).all()
        assert (first.diff() >= 0).all()
        assert (last.diff() >= 0).all()

    def test_sources_that_do_not_matter_are_outside(self, monkeypatch):
        monkeypatch.setattr(line, "WHOLE", 0)
        of = self.sorted_line(*(100 * side for side in pair(1, 500)), 0.1, 1e-8)
        first, last = line.windows(of, 1e-8, narrow=True)
        exponents = self.exponents(of)
        places = torch.arange(500)
        inside = (places >= first[:, None]) & (places < last[:, None])
        # ε is at distance 1.36, the second nearest source somewhere
        assert inside.sum(1).float().mean() < 10
        assert exponents[~inside].max() < -27

    def test_rows_that_see_a_source_are_the_transposed_windows(self):
        generator = np.random.default_rng(0)
        first = torch.from_numpy(np.sort(generator.integers(0, 30, 40)))
        last = torch.from_numpy(np.maximum(np.sort(generator.integers(0, 41, 40)), first.numpy() + 1))
        last = last.cummax(0).values
        begin, end = line.seen_by(first, last)
        places = torch.arange(40)
        inside = (places >= first[:, None]) & (places < last[:, None])
        seen = (places[:, None] >= begin) & (places[:, None] < end)
        assert torch.equal(inside, seen)


class TestLauncher:
    def test_torchimpl_needs_no_triton(self):
        code = (
            "import sys\n"
            "import torch\n"
            "import torchimpl\n"
            "assert 'triton' not in sys.modules\n"
            "from torchimpl.kernels import concordance_cuda\n"
            "assert 'triton' not in sys.modules\n"
            "sys.modules['triton'] = None\n"
            "import torchimpl.kernels.concordance_cuda_line_kernels\n"
            "import torchimpl.kernels.concordance_cuda_space_kernels\n"
            "meta = type('OnDevice', (), {'device': torch.device('cuda')})()\n"
            "assert not concordance_cuda.applicable_cuda(meta)\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=environment(interpret=False))

    @pytest.mark.usefixtures("triton")
    def test_applicable_to_cuda_tensors_only(self):
        assert not applicable_cuda(torch.zeros(3, 1))
        with FakeTensorMode(allow_non_fake_inputs=True):
            assert applicable_cuda(torch.zeros(3, 1, device="cuda"))

    @pytest.mark.parametrize("features", [1, 2, 40])
    @pytest.mark.parametrize("eps", [0.0, 0.5])
    def test_nothing_reads_a_value(self, monkeypatch, features, eps):
        """Fake tensors have no values to read: whatever asks for one raises."""
        launched = []
        for module in (line, space):
            monkeypatch.setattr(
                module, "launch", lambda family, name, *_, **__: launched.append(f"{family} {name}")
            )
        with FakeTensorMode():
            x, y = (torch.zeros(50, features, dtype=torch.float64) for _ in range(2))
            losses, *others = rows_cuda(x, y, 0.1, eps, narrow=False, slopes=True)
            gradients = gradient_cuda(losses, x, y, *others, 0.1, eps, narrow=False)
            with pytest.raises(DataDependentOutputException):
                bool((losses == losses[0]).all())
        nearest, normaliser, slopes = others
        assert losses.shape == nearest.shape == (50,)
        assert (normaliser.shape, slopes.shape) == ((2, 50), (2, 0, features))
        assert [g.shape for g in gradients] == [x.shape] * 2
        assert len(launched) == (3 if features == 1 else 5)

    @pytest.mark.parametrize("shape", [(0, 1), (0, 3), (3, 0)])
    def test_nothing_to_compare_is_zero(self, shape):
        x = torch.zeros(shape, dtype=torch.float64)
        losses, *others = rows_cuda(x, x, 0.1, 1e-8, narrow=False, slopes=False)
        assert torch.equal(losses, torch.zeros(shape[0], dtype=torch.float64))
        assert all(g.shape == shape for g in gradient_cuda(losses, x, x, *others, 0.1, 1e-8, narrow=False))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
class TestOnDevice:
    def sides(self, size, features):
        return tuple(torch.from_numpy(side).cuda() for side in pair(features, size))

    def both(self, x, y, cotangent):
        losses, *others = rows_cuda(x, y, 0.1, 1e-8, narrow=True, slopes=False)
        return losses, *gradient_cuda(cotangent, x, y, *others, 0.1, 1e-8, narrow=True)

    @pytest.mark.parametrize("features", [1, 2, 64])
    def test_agrees_with_the_cpu(self, features):
        x, y = (side.float().double() for side in self.sides(300, features))
        cotangent = torch.linspace(-1, 1, 300, dtype=torch.float64, device="cuda")
        pairs = Pairs(x.cpu(), y.cpu(), tau=0.1, eps=1e-8, rows=0, wide=True)
        losses, normaliser = loss_rows(pairs)
        expected = (losses, *loss_gradient(pairs, cotangent.cpu(), normaliser))
        # either is within the bound of the exact numbers
        arrays = (side.cpu().numpy() for side in (x, y))
        bound = bounds.concordance_loss_nce(*arrays, 0.1, reduction="none", precision=NARROW_FORMATS)
        for one, other, allowed in zip(
            self.both(x, y, cotangent), expected, (bound.value, *bound.gradient), strict=True
        ):
            assert np.all(np.abs(one.cpu().numpy() - other.numpy()) <= 2 * allowed)

    @pytest.mark.parametrize("features", [1, 2, 64])
    def test_nothing_waits_for_the_device(self, features):
        x, y = self.sides(500, features)
        cotangent = torch.ones(500, dtype=torch.float64, device="cuda")
        first = self.both(x, y, cotangent)
        torch.cuda.set_sync_debug_mode("error")
        try:
            second = self.both(x, y, cotangent)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))

    @pytest.mark.parametrize("features", [1, 3])
    def test_memory_grows_with_the_batch_not_with_its_square(self, features):
        peaks = []
        for size in (1 << 13, 1 << 15):
            x, y = self.sides(size, features)
            cotangent = torch.ones(size, dtype=torch.float64, device="cuda")
            self.both(x, y, cotangent)
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            self.both(x, y, cotangent)
            peaks.append(torch.cuda.max_memory_allocated() - before)
        # four times the rows: beside 16, the square of it, what a sort takes of its own is little
        assert peaks[1] <= 5 * peaks[0]
