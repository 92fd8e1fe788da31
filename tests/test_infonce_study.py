"""The study of InfoNCE judges others: its reference, layouts, formulas, units and plan are held here."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from asv_benchmarks import concordance as benchmarks
from refimpl import concordance as oracle
from scripts.infonce_study import accuracy, child, formulas, fuzz, growth, memory, ours, peers, tables, worker
from scripts.infonce_study.layouts import APART, LAYOUTS, OFFSET, OPPOSED, drawn
from scripts.infonce_study.methods import METHODS
from scripts.infonce_study.truth import WIDE, Batch, by_digits
from torchimpl.kernels import concordance_blocks, concordance_cpu

ROWS = 60
U = 2.0**-53
needs_long_double = pytest.mark.skipif(not WIDE, reason="long double is float64 here")
# what a test can see of memory: the system's pages and what a call allocates besides
PAGES = 2**20


def layout(name, features=1, rows=ROWS):
    return drawn(name, rows, features, seed=3)


def distances(x, y):
    return np.abs(x[:, None] - y[None]).max(2)


# the reference


@needs_long_double
@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("features", [1, 3])
def test_long_double_agrees_with_digits(name, features):
    """A thousandth of the target in float64 is left for the reference."""
    x, y = layout(name, features, rows=8)
    for tau in accuracy.TAUS:
        for eps, true in zip(accuracy.EPSES, Batch(x, y).truths(tau, accuracy.EPSES), strict=True):
            off = accuracy.errors(true, by_digits(x, y, tau, eps), "float64")
            assert off.worst() <= accuracy.TARGETS["float64"] / 1000


@needs_long_double
@pytest.mark.parametrize("name", LAYOUTS)
def test_long_double_agrees_with_the_oracle(name):
    """The oracle's promise is 1 ulp, and for gradients that cancel 2^-80 of their terms."""
    x, y = layout(name, 2)
    for eps, true in zip(accuracy.EPSES, Batch(x, y).truths(0.1, accuracy.EPSES), strict=True):
        rows = oracle.concordance_loss_nce(x, y, 0.1, eps=eps, reduction="none")
        assert accuracy.off(rows, true.rows, "float64").max() <= 2 * U
        for found, side in zip(
            oracle.concordance_loss_nce_gradient(x, y, 0.1, eps=eps), (true.gx, true.gy), strict=True
        ):
            assert accuracy.normwise(found, side, "float64") <= 2 * U


@needs_long_double
def test_a_tie_of_rounded_distances_is_decided_by_their_difference():
    # 1e12 + 1 squared and 1e12 squared agree in 64 bits, up to the side
    x, y = np.array([[1e24], [0.0]]), np.array([[1.0], [3.0]])
    assert Batch(x, y).nearest.tolist() == [1, 0]


# the layouts


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("features", accuracy.SIZES)
def test_layouts_are_finite_of_their_shape_and_repeatable(name, features):
    x, y = layout(name, features)
    assert x.shape == y.shape == (ROWS, features)
    assert x.dtype == y.dtype == np.float64
    assert np.isfinite(x).all()
    assert np.isfinite(y).all()
    again = layout(name, features)
    assert (x == again[0]).all()
    assert (y == again[1]).all()


def test_layouts_are_what_their_names_say():
    def sd(v):
        return float(np.std(v))

    x, y = layout("normal", rows=2000)
    assert 0.9 < sd(x) < 1.1
    assert 0.27 < sd(y - x) < 0.33
    wide = layout("normal × 100", rows=2000)
    assert 90 < sd(wide[0]) < 110
    x, y = layout("independent", rows=2000)
    assert abs(np.corrcoef(x[:, 0], y[:, 0])[0, 1]) < 0.1
    x, y = layout("identical")
    assert (x == y).all()
    assert len(np.unique(x)) == ROWS
    x, y = layout("identical, far")
    apart = distances(x, y)
    assert (np.diag(apart) == 0).all()
    assert apart[~np.eye(ROWS, dtype=bool)].min() == 1e3
    x, y = layout("two far clusters")
    assert (np.sign(x) == np.sign(y)).all()
    assert (np.abs(np.abs(np.concatenate([x, y])) - 1e3) < 10).all()
    x, y = layout("opposed, 100 apart", 4)
    assert abs((y - x)[:, 0].mean() - OPPOSED) < 1
    assert abs((y - x)[:, 1:].mean()) < 1
    x, _ = layout("Cauchy", rows=2000)
    assert 0.9 < np.quantile(np.abs(x), 0.5) < 1.1
    assert np.abs(x).max() > 100
    x, _ = layout("Cauchy × 1,000", rows=2000)
    assert 900 < np.quantile(np.abs(x), 0.5) < 1100
    x, y = layout("zero-inflated counts", rows=2000)
    assert (x == np.floor(x)).all()
    assert 0.8 < (x == 0).mean() < 1
    assert x.max() > 5
    x, _ = layout("count residuals", rows=2000)
    assert abs(x.mean()) < 0.3
    assert (x != np.floor(x)).any()
    x, y = layout("1e-30 to 1e30", rows=2000)
    assert np.abs(x).min() < 1e-28
    assert np.abs(x).max() > 1e28
    assert np.quantile(np.abs(y / x - 1), 0.45) < 1e-2
    x, y = layout("spread against tight", rows=2000)
    assert sd(x) / sd(y) > 8000
    x, y = layout("geometric, 2^±40")
    assert (np.frexp(np.abs(np.concatenate([x, y])))[0] == 0.5).all()
    assert np.abs(x).max() / np.abs(x).min() > 2**60
    for features in (1, 3):
        x, y = layout("midpoints", features)
        assert (x - y == np.roll(y, -1, axis=0) - x).all()
    x, y = layout("midpoints")
    assert np.mean(np.sort(distances(x, y), axis=1)[:, 0] == np.diag(distances(x, y))) > 0.9
    x, y = layout("comb", 2)
    assert (np.abs(x - np.round(x)) < 1e-8).all()
    assert (np.round(x) == np.round(y)).all()
    assert (x != y).any()
    x, _ = layout("common offset 1e6")
    assert abs(x.mean() - OFFSET) < 1
    x, y = layout("positive pairs 1e12 apart", 2)
    assert (np.abs(np.abs(x - y) - APART) < 10).all()
    assert (distances(x, y).min(1) < 10).all()


# errors and their units


def test_errors_have_the_units_of_their_formats():
    one, third = np.longdouble(1.0), np.longdouble(1.0) + np.longdouble(2.0) ** -23
    assert accuracy.off(third, one, "float32") == 1.0
    assert accuracy.off(third, one, "float64") == 2.0**-23
    # half of an ulp below a power of two is a whole one
    assert accuracy.off(np.longdouble(2.0), np.longdouble(2.0 - 2.0**-23), "float32") == 1.0
    # subnormal numbers: the smallest is the unit, in float64 the smallest normal one
    assert accuracy.off(np.longdouble(2.0**-149), np.longdouble(0.0), "float32") == 1.0
    assert accuracy.off(np.longdouble(2.0**-1074), np.longdouble(0.0), "float64") == 2.0**-52
    # saturated is right
    assert accuracy.off(np.longdouble(np.finfo(np.float32).max), np.longdouble(1e60), "float32") == 0.0
    assert np.isinf(accuracy.off(np.longdouble(np.inf), np.longdouble(1e60), "float32"))
    assert np.isinf(accuracy.off(np.longdouble(np.nan), one, "float64"))


def test_normwise_errors_are_relative_to_the_largest_component():
    true = np.array([[4.0], [1e-9]], np.longdouble)
    found = true + np.array([[0.0], [1e-6]])
    assert math.isclose(accuracy.normwise(found, true, "float64"), 2.5e-7, rel_tol=1e-6)
    assert accuracy.normwise(true, true, "float32") == 0.0
    assert np.isinf(accuracy.normwise(found * np.nan, true, "float64"))


def test_tiny_losses_are_shown_but_not_judged():
    rows = np.array([1.0, accuracy.TINY / 4], np.longdouble)
    true = accuracy.Truth(rows, rows.mean(), rows[:, None], rows[:, None])
    small = accuracy.Truth(rows[1:], rows[1], rows[1:, None], rows[1:, None])
    assert accuracy.errors(small._replace(mean=2 * small.mean), small, "float64") == (0.0, 1.0, 0.0, 0.0)
    found = true._replace(rows=rows * np.array([1.0, 1.5]))
    assert accuracy.errors(found, true, "float64") == (0.5, 0.0, 0.0, 0.0)
    found = true._replace(rows=rows * np.array([1.5, 1.0]))
    assert accuracy.errors(found, true, "float64").judged == 0.5


@needs_long_double
def test_a_wrong_loss_is_noticed_in_every_column():
    unit = accuracy.Unit("normal", "float64", 2)
    x, y = accuracy.batch_of(unit, ROWS)
    (true,) = Batch(x, y).truths(0.1, [0.0])
    (other,) = Batch(x, y * (1 + 1e-12)).truths(0.1, [0.0])
    assert min(accuracy.errors(other, true, "float64")) > accuracy.TARGETS["float64"]


@needs_long_double
@pytest.mark.parametrize("form", accuracy.FORMS)
@pytest.mark.parametrize("features", [1, 8])
def test_our_loss_meets_the_targets_on_small_batches(form, features):
    for name in LAYOUTS:
        found = accuracy.measure(accuracy.Unit(name, form, features), 40)
        own = {s: e for s, e in found.items() if s.name in ours.NAMES}
        assert len(own) >= len(accuracy.TAUS) * len(accuracy.EPSES)
        # a loss of exp(-z) has the error of z, at most 745, in D + 8 roundings
        tiny = (features + 8) * U * 745 if form == "float64" else 0.0
        for setting, errors in own.items():
            assert errors.judged <= accuracy.TARGETS[form], (name, setting)
            assert errors.worst() <= max(accuracy.TARGETS[form], tiny), (name, setting)


# formulas and methods


@pytest.mark.parametrize("name", ["broadcast", "logsumexp", "cdist"])
@pytest.mark.parametrize("eps", accuracy.EPSES)
def test_formulas_are_the_oracles_loss_where_they_should(name, eps):
    x, y = layout("normal", 3)
    pair = [torch.from_numpy(side).requires_grad_() for side in (x, y)]
    rows = getattr(formulas, name)(*pair, 1.5, eps)
    half = math.sqrt(torch.finfo(torch.float64).eps)  # rough forms; another loss is further away
    true = oracle.concordance_loss_nce(x, y, 1.5, eps=eps, reduction="none")
    assert np.abs(rows.detach().numpy() / true - 1).max() <= half
    for found, side in zip(
        torch.autograd.grad(rows.mean(), pair),
        oracle.concordance_loss_nce_gradient(x, y, 1.5, eps=eps),
        strict=True,
    ):
        assert np.abs(found.numpy() - side).max() <= half * np.abs(side).max()


@pytest.mark.parametrize("name", [name for name, one in METHODS.items() if not one.compiles])
def test_methods_that_are_here_are_the_same_loss(name):
    found, missing = worker.built([name])
    if missing:
        pytest.skip(missing[name])
    off = worker.differences(found[name], name, 12, 5, torch.float64)
    assert max(off.values()) <= math.sqrt(torch.finfo(torch.float64).eps)


def test_another_loss_is_not_the_same():
    off = worker.differences(lambda x, y, tau: ours.loss(x, y, tau, 1e-3), "cdist", 12, 5, torch.float64)
    assert min(off.values()) > math.sqrt(torch.finfo(torch.float64).eps)
    nan = worker.differences(
        lambda x, y, tau: ours.loss(x, y, tau, 0) * math.nan, "cdist", 12, 5, torch.float64
    )
    assert set(nan.values()) == {math.inf}


def test_a_method_that_raises_or_is_not_there_is_told(monkeypatch):
    def absent():
        raise ModuleNotFoundError("No module named 'absent'")

    def broken():
        def loss(*_):
            raise RuntimeError("it does\nnot work")

        return loss

    kept = METHODS["cdist"]
    monkeypatch.setitem(METHODS, "metric", type(kept)("absent", "torch", absent, kept.needs))
    monkeypatch.setitem(METHODS, "keops", type(kept)("broken", "torch", broken, kept.needs))
    found = worker.times(["ours", "metric", "keops"], 12, 1, 0.0, agree=True)
    assert found["metric"] == {"missing": "ModuleNotFoundError: No module named 'absent'"}
    assert found["keops"]["failed"] == "RuntimeError: it does"
    assert found["ours"]["ratio"] == 1.0
    results = {(peers.AGREEMENT, features): found for features in peers.FEATURES}
    memory_of = {shape: {"ours": 5 * 2**20} for shape in results}
    page = tables.peers_page(peers.Peers(results, memory_of, (peers.AGREEMENT,)))
    assert "| absent | missing | missing | missing |" in page
    assert "- absent missing: ModuleNotFoundError: No module named 'absent'" in page
    assert f"- broken failed at B = {peers.AGREEMENT}, D = 1: RuntimeError: it does" in page
    assert "5.00 MiB" in page


def test_what_needs_too_much_memory_is_not_run():
    assert "broadcast" in peers.runnable(1024, 64)
    assert "broadcast" not in peers.runnable(8192, 64)
    assert peers.refusal(METHODS["broadcast"], 8192, 64) == "not run: 64 GiB"
    assert "metric" in peers.runnable(256, 1)
    assert "metric" not in peers.runnable(1024, 1)
    assert peers.refusal(METHODS["clip"], 8192, 1) == "does not apply"
    assert all(
        peers.runnable(batch, features)[0] == "ours" for batch, features in peers.shapes(peers.BATCHES)
    )


# time and memory


def test_rounds_alternate_and_everyone_has_as_many_samples():
    order = []
    runs = {name: lambda name=name: order.append(name) for name in "ab"}
    samples = worker.alternating(runs, {"a": 1, "b": 2}, 0.0)
    assert order == ["b", "b", "a", "a", "b", "b", "b", "b", "a"]
    assert {len(sample) for sample in samples.values()} == {worker.LEAST_ROUNDS}


def test_peak_of_memory_counts_what_a_call_needs_for_a_moment():
    program = (
        "import numpy as np; from scripts.infonce_study import memory\n"
        "def call():\n    kept = np.ones(2**22); del kept\n    np.ones(2**21)\n"
        "np.ones(2**24)\n"  # earlier, and larger
        "print(memory.peak_extra(call))\n"
    )
    if not memory.RESET.exists():
        pytest.skip("no account of peaks here")
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=child.ROOT, capture_output=True, text=True, check=True
    )
    assert 2**25 - PAGES <= int(done.stdout) <= 2**25 + PAGES


def test_a_job_runs_in_another_process(tmp_path):
    source, target = tmp_path / "job.json", tmp_path / "result.json"
    source.write_text(
        json.dumps({"task": "curve", "way": "none", "features": 1, "batches": [8], "longest": 1})
    )
    threads = torch.get_num_threads()
    worker.main(str(source), str(target))
    torch.set_num_threads(threads)
    assert json.loads(target.read_text()) == [None]


def test_a_curve_ends_where_it_takes_too_long():
    assert [v is None for v in worker.curve("torch", 1, [8, 16, 32], 0.0)] == [False, True, True]
    assert None not in worker.curve("broadcast", 2, [8, 16], 10.0)


def test_growth_page_and_picture(tmp_path):
    curves = [[1e-3 * b for b in one.batches] for one in growth.CURVES]
    found = growth.Growth(dict.fromkeys(growth.SIZES, 0.25), dict.fromkeys(growth.SIZES, 2**21), 11.5, curves)
    page = tables.growth_page(found)
    assert "| 1,000,000 | 250 ms | 2.00 MiB | 250 |" in page
    assert "by a factor of 11.5 within" in page
    growth.draw(found, tmp_path / "one.svg")
    growth.draw(found, tmp_path / "two.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


# fuzz


def test_random_batches_hold_what_they_are_for():
    batches = [fuzz.drawn(index, 0) for index in range(400)]
    assert {len(b.x) for b in batches} >= {1, 2, 3}
    assert {b.x.shape[1] for b in batches} == {1, 2, 3, 4, 5, 6}
    # large enough for both kernels to leave something out
    assert sum(b.x.shape[1] == 1 and len(b.x) > concordance_cpu.WHOLE for b in batches) > 5
    assert sum(b.x.shape[1] > 1 and len(b.x) * b.x.size > concordance_blocks.WHOLE for b in batches) > 30
    assert min(b.tau for b in batches) < 1e-2
    assert max(b.tau for b in batches) > 1e2
    for form in fuzz.FORMS:
        info = np.finfo(form)
        held = [b for b in batches if b.form == form]
        largest = max(np.abs(b.x).max() for b in held)
        assert largest == info.max
        assert any(((np.abs(b.x) > 0) & (np.abs(b.x) < info.tiny)).any() for b in held)
        assert all((b.x.astype(form) == b.x).all() and np.isfinite(b.y).all() for b in held)
    assert any(len(np.unique(b.y)) < len(b.y) / 4 for b in batches)
    assert any("midpoints" in b.kind and (b.x == (b.y + np.roll(b.y, 1, 0)) / 2).all() for b in batches)
    assert len({b.kind.split(",")[0] for b in batches}) == len(fuzz.KINDS)
    assert (fuzz.drawn(7, 0).x == fuzz.drawn(7, 0).x).all()


@pytest.mark.parametrize("index", [374, 795])
def test_batches_that_once_failed(index):
    """A mean of rows beyond float64 that cancel, and a row so far that a rounded product hid all sources."""
    assert [one for one in fuzz.judge(index, 0) if one.broken or not one.ratio <= 1.0] == []


def test_fuzzing_finds_nothing_in_the_loss_and_something_in_a_wrong_one(monkeypatch):
    indices = [index for index in range(60) if len(fuzz.drawn(index, 1).x) <= 60]
    findings = [one for index in indices for one in fuzz.judge(index, 1)]
    assert [one for one in findings if one.broken or not one.ratio <= 1.0] == []

    right = ours.loss
    monkeypatch.setattr(ours, "loss", lambda *args, **options: right(*args, **options) * 1.001)
    assert any(one.ratio > 1.0 for index in indices[:8] for one in fuzz.judge(index, 1))
    monkeypatch.setattr(ours, "loss", lambda *args, **options: right(*args, **options) * math.nan)
    broken = fuzz.judge(indices[0], 1)
    assert all(one.broken for one in broken)
    page = tables.fuzz_page(broken, 1, 1)
    assert "derived bound: inf" in page


# benchmarks


def test_implementations_are_timed_or_skipped():
    benchmark = benchmarks.ConcordanceLossNCEImplementations()
    for width in benchmark.params[1]:
        for impl in benchmarks.IMPLS:
            if impl in ours.implementations(width):
                benchmark.setup(64, width, impl)
                assert benchmark.time_forward_backward(64, width, impl) is None
            else:
                with pytest.raises(NotImplementedError, match=impl):
                    benchmark.setup(64, width, impl)
    assert set(benchmarks.IMPLS) == set(ours.NAMES)


def test_memory_is_measured_in_a_process_of_its_own():
    benchmark = benchmarks.ConcordanceLossNCEMemory()
    assert benchmark.track_peak_extra_bytes.unit == "bytes"
    if not torch.cuda.is_available():
        with pytest.raises(NotImplementedError, match="no CUDA device"):
            benchmark.setup("8192 x 1", "cuda")
    if not memory.RESET.exists():
        pytest.skip("no account of peaks here")
    benchmark.setup("20000 x 1", "cpu")
    found = benchmark.track_peak_extra_bytes("20000 x 1", "cpu")
    # the gradients at the least, and far from a table of pairs
    assert 2 * 4 * 20_000 <= found <= 20_000**2
