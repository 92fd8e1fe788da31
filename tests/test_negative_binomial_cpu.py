"""The compiled CPU kernel: against 50 digits and plain torch, at every edge, in any company and thread."""

import ast
import itertools
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from flint import arb, ctx
from numba import njit

from torchimpl.kernels import elementary_cpu, negative_binomial_cpu
from torchimpl.kernels.negative_binomial import evaluate
from torchimpl.kernels.negative_binomial_cpu import (
    CHUNK,
    EDGE,
    REGIONS,
    SOURCES,
    classify,
    digest,
    evaluate_cpu,
    kernel,
)
from torchimpl.kernels.negative_binomial_cpu_lanes import LANES
from torchimpl.kernels.negative_binomial_ops import cdf_operator, evaluator, second_operator

U = 2.0**-53
INF, NAN = math.inf, math.nan
TOP = np.finfo(float).max
SMALLEST = 5e-324
KERNELS = Path(negative_binomial_cpu.__file__).parent


def double(*columns):
    return tuple(torch.tensor(np.asarray(column, dtype=np.float64)) for column in columns)


def realistic(size, seed):
    """Means .05 to 500, dispersions .1 to 100, counts drawn from the law."""
    rng = np.random.default_rng(seed)
    mu, r = 10 ** rng.uniform(math.log10(0.05), math.log10(500), size), 10 ** rng.uniform(-1, 2, size)
    return rng.negative_binomial(r, r / (r + mu)).astype(float), mu, r


def wide(size, seed):
    """Counts near the mean and anywhere, over as many decades as Arb still sums quickly."""
    rng = np.random.default_rng(seed)
    mu, r = 10 ** rng.uniform(-4, 3, size), 10 ** rng.uniform(-3, 5, size)
    near = np.maximum(0.0, np.floor(mu + rng.uniform(-5, 5, size) * np.sqrt(mu + mu * mu / r)))
    anywhere = np.floor(10 ** rng.uniform(0, 3, size))
    return np.where(rng.random(size) < 0.7, near, anywhere), mu, r


@np.errstate(all="ignore")
def whole_range(size, seed):
    """Every power of two that float64 has, counts near the mean or anywhere."""
    rng = np.random.default_rng(seed)
    mu, r, anywhere = (2.0 ** rng.uniform(-1074, 1024, size) for _ in range(3))
    some = rng.random(size)
    r = np.where(some < 0.3, mu * 2.0 ** rng.uniform(-60, 60, size), r)
    mu, r = np.where(some > 0.8, 10 ** rng.uniform(-3, 5, size), mu), np.where(some > 0.7, r ** (1 / 64), r)
    mu, r = (np.clip(values, SMALLEST, TOP) for values in (mu, r))
    spread = np.sqrt(mu) * np.sqrt(1.0 + np.minimum(mu / r, 1e300))
    near = np.minimum(np.maximum(mu + rng.uniform(-9, 9, size) * np.minimum(spread, 1e300), 0.0), TOP)
    return np.floor(np.where(rng.random(size) < 0.5, near, anywhere)), mu, r


def same(left, right):
    """The same bits, NaN included."""
    return all(
        torch.equal(a.view(torch.int64), b.view(torch.int64)) for a, b in zip(left, right, strict=True)
    )


def allowance(tail, condition):
    """Relative error of the small tail.

    The quotients x, y and (mu-b)/s are good to 3 roundings each and act through the condition number; the two
    deviance terms carry 6 each, relative to themselves (their sum is below |log T| + 1); the rest (Stirling
    terms, square roots, quadrature nodes or steps of a contracting recurrence) at most 64.
    """
    return U * (6 * condition + 12 * (abs(np.log(tail)) + 1) + 64)


class TestElementary:
    FUNCTIONS: ClassVar = {
        "exp": (lambda x: x.exp(), (-745.0, 709.0), 1.0),
        "expm1": (lambda x: x.expm1(), (-60.0, 700.0), 2.0),
        "log": (lambda x: x.log(), (SMALLEST, TOP), 1.0),
        "log1p": (lambda x: x.log1p(), (-0.999, 1e300), 1.0),
    }

    @staticmethod
    def apply(name, values):
        function = getattr(elementary_cpu, name)

        @njit(error_model="numpy", fastmath=set(elementary_cpu.CONTRACT))
        def loop(x, out):
            for i in range(x.size):
                out[i] = function(x[i])

        result = np.empty_like(values)
        loop(values, result)
        return result, loop

    @pytest.mark.parametrize("name", FUNCTIONS)
    def test_within_the_stated_ulps_of_50_digits(self, name):
        ctx.dps = 50
        exact, (low, high), limit = self.FUNCTIONS[name]
        rng = np.random.default_rng(3)
        everywhere = rng.choice([-1.0, 1.0], 4000) * 10 ** rng.uniform(-320, 308, 4000)
        x = np.concatenate([everywhere, rng.uniform(-700, 700, 3000), rng.uniform(0.0, 3.0, 3000)])
        near_1 = 1.0 + rng.choice([-1.0, 1.0], 2000) * 10 ** rng.uniform(-16, -1, 2000)
        x = np.concatenate([x[(x >= low) & (x <= high)], near_1, [low, high]])
        found, _ = self.apply(name, x)
        for value, actual in zip(x.tolist(), found.tolist(), strict=True):
            true = exact(arb(value))
            nearest = float(true)
            distance = abs(float(arb(actual) - true)) / math.ulp(nearest)
            assert distance <= limit, (value, actual, nearest)

    def test_ends_of_the_range(self):
        assert self.apply("exp", np.array([-INF, -1e300, 710.0, INF]))[0].tolist() == [0.0, 0.0, INF, INF]
        assert self.apply("exp", np.array([-745.1]))[0].tolist() == [SMALLEST]
        assert self.apply("log", np.array([0.0, INF, 1.0]))[0].tolist() == [-INF, INF, 0.0]
        assert self.apply("expm1", np.array([-INF, -0.0, SMALLEST]))[0].tolist() == [-1.0, 0.0, SMALLEST]
        assert self.apply("log1p", np.array([0.0, SMALLEST]))[0].tolist() == [0.0, SMALLEST]
        assert math.isnan(self.apply("exp", np.array([NAN]))[0][0])

    @pytest.mark.parametrize("name", FUNCTIONS)
    def test_loops_call_no_library(self, name):
        _, loop = self.apply(name, np.ones(8))
        (code,) = loop.inspect_llvm().values()
        assert re.findall(r"@(?:llvm\.)?(?:exp|log)\w*[.(]", code) == []


class TestAccuracy:
    @staticmethod
    def exact(k, mu, r):
        """F, 1-F, dF/dmu, dF/dr, and the condition of dF/dmu, as balls."""
        h = arb(2) ** -90
        mean, size, b = arb(mu), arb(r), arb(k) + 1

        def cdf(q):
            return (q / (q + mean)).beta_lower(q, b, regularized=True)

        value = cdf(size)
        d_r = (cdf(size * (1 + h)) - cdf(size * (1 - h))) / (2 * h * size)
        log_beta = size.lgamma() + b.lgamma() - (size + b).lgamma()
        density = (size * (size / (size + mean)).log() + b * (mean / (size + mean)).log() - log_beta).exp()
        slope_mu = size * (b - mean) / (size + mean)
        slope_r = size * (
            (size / (size + mean)).log() + (mean - b) / (size + mean) - size.digamma() + (size + b).digamma()
        )
        score = (size + b).digamma() - (size + b).log() - size.digamma() + size.log()
        return value, 1 - value, -density / mean, d_r, abs(slope_mu) + abs(slope_r), score

    @pytest.mark.parametrize("draw", [realistic, wide])
    def test_within_the_bound_of_50_digits(self, draw):
        ctx.prec = 300
        columns = draw(600, seed=11)
        found = [value.tolist() for value in evaluate_cpu(*double(*columns))]
        of_slopes = []
        for k, mu, r, *actual in zip(*(c.tolist() for c in columns), *found, strict=True):
            *balls, sensitivity, score = self.exact(k, mu, r)
            cdf, sf, d_mu, d_r = (float(ball) for ball in balls)
            tail, density = min(cdf, sf), abs(d_mu) * mu
            # Arb may give up, and subnormal numbers have fewer digits
            if min(b.rel_accuracy_bits() for b in balls) < 80 or min(tail, density) < 1e-290:
                continue
            relative = allowance(tail, (mu * abs(d_mu) + r * abs(d_r)) / tail)
            errors = [abs(float(arb(value) - ball)) for value, ball in zip(actual, balls, strict=True)]
            for value, error in ((cdf, errors[0]), (sf, errors[1])):
                assert error <= min(20 * U, relative * tail + U * value), (k, mu, r)
            assert errors[2] <= allowance(density, float(sensitivity)) * abs(d_mu), (k, mu, r)
            # dF/dr is T times a difference of slopes of which none exceeds the score
            of_slopes.append(errors[3] / (2 * U * max(abs(d_r), tail * float(score))))
        assert len(of_slopes) > 500
        assert max(of_slopes) <= 1000.0
        assert np.quantile(of_slopes, 0.99) <= (100.0 if draw is realistic else 1000.0)

    @pytest.mark.parametrize("draw", [realistic, wide])
    def test_within_the_bound_of_plain_torch(self, draw):
        """Two implementations that each keep the bound differ by twice the bound."""
        k, mu, r = draw(200_000, seed=5)
        arguments = double(k, mu, r)
        ours, plain = (
            [value.numpy() for value in found]
            for found in (evaluate_cpu(*arguments), evaluate(*arguments, dense=False))
        )
        tail, density = np.minimum(plain[0], plain[1]), mu * np.abs(plain[2])
        kept = np.minimum(tail, density) > 1e-290
        assert kept.mean() > 0.8
        k, mu, r, tail, density = (values[kept] for values in (k, mu, r, tail, density))
        ours, plain = ([values[kept] for values in found] for found in (ours, plain))
        relative = allowance(tail, (density + r * np.abs(plain[3])) / tail)
        for side in (0, 1):
            assert np.all(np.abs(ours[side] - plain[side]) <= 2 * (relative * tail + U * plain[side]))
        # both slopes of log f0 on logarithmic scales: r(mu-b)/s times factors below 2, and at most 1 more
        sensitivity = 2 * r * np.abs(mu - k - 1) / (r + mu) + 1
        assert np.all(np.abs(ours[2] / plain[2] - 1) <= 2 * allowance(density, sensitivity))


EDGES = (
    *[
        (-1.0, 2.0, 3.0),
        (-0.5, 2.0, 3.0),
        (-INF, 2.0, 3.0),
        (INF, 2.0, 3.0),
        (0.0, 0.0, 3.0),
        (0.7, 0.0, 3.0),
    ],
    *[(1.0, 0.0, 3.0), (-1.0, 0.0, 3.0), (0.0, 0.0, INF), (NAN, 1.0, 1.0), (1.0, NAN, 1.0), (1.0, 1.0, NAN)],
    *[(1.0, -1.0, 1.0), (1.0, INF, 1.0), (1.0, 1.0, 0.0), (1.0, 1.0, -2.0), (-1.0, 1.0, -1.0)],
    *[(INF, 1.0, 0.0), (0.0, 0.0, 0.0), (NAN, 0.0, 1.0), (0.0, -0.0, 2.0), (-0.0, 1.0, 1.0)],
)


class TestEdges:
    def test_as_plain_torch(self):
        arguments = double(*zip(*EDGES, strict=True))
        for ours, plain in zip(evaluate_cpu(*arguments), evaluate(*arguments, dense=False), strict=True):
            torch.testing.assert_close(ours, plain, rtol=4 * U, atol=0.0, equal_nan=True)

    def test_poisson_limit_has_no_slope_in_r(self):
        found = evaluate_cpu(*double([3.0, 60.0], [2.0, 50.0], [INF, INF]))
        assert found.d_r.tolist() == [0.0, 0.0]
        assert bool((found.d_mu < 0.0).all())

    def test_linear_where_sums_are_subnormal(self):
        """1-F is proportional to (mu, r) there, and a power of two is an exact factor."""
        y, mu, r = double([0.0, 1.0, 4.0], [3.0, 1.0, 2.0], [1.0, 2.0, 0.5])
        tiny = evaluate_cpu(y, mu * 2.0**-1000, r * 2.0**-1000)
        less = evaluate_cpu(y, mu * 2.0**-400, r * 2.0**-400)
        assert torch.equal(tiny.sf, less.sf * 2.0**-600)
        assert torch.equal(tiny.d_r, less.d_r)

    def test_the_corners_of_the_range(self):
        sizes = [SMALLEST, 1e-310, 1e-300, 1e-160, 1e-30, 1e-8, 0.3, 1.0, 10.0, 1e4, 1e30, 1e160, 1e300, TOP]
        counts = [0.0, 1.0, 2.0, 60.0, 1e3, 1e15, 1e30, 1e300, TOP]
        rows = list(itertools.product(counts, [0.0, *sizes], [*sizes, INF]))
        found = evaluate_cpu(*double(*zip(*rows, strict=True)))
        assert all(bool(torch.isfinite(value).all()) for value in found)
        assert bool(((found.cdf >= 0) & (found.cdf <= 1) & (found.sf >= 0) & (found.sf <= 1)).all())
        assert bool((found.d_mu <= 0).all())


class TestFuzz:
    SIZE = 1_000_000

    def test_finite_and_a_probability_everywhere(self):
        found = evaluate_cpu(*double(*whole_range(self.SIZE, seed=1)))
        for value in (found.cdf, found.sf):
            assert bool(((value >= 0.0) & (value <= 1.0)).all())
        assert bool((found.d_mu <= 0.0).all())
        assert not bool(found.d_mu.isnan().any() | found.d_r.isnan().any())
        # one of them is 1 - the other, rounded; their sum rounds once more
        assert float((found.cdf + found.sf - 1.0).abs().max()) <= 2 * U

    def test_every_region_is_met(self):
        for draw, share in ((realistic, 2e-3), (whole_range, 2e-5)):
            y, mu, r = draw(self.SIZE, seed=1)
            regions = np.empty(self.SIZE, np.int64)
            classify(y, mu, r, 0, self.SIZE, regions)
            counts = np.bincount(regions, minlength=REGIONS)
            assert counts.min() >= share * self.SIZE, counts

    @pytest.mark.parametrize("draw", [realistic, whole_range])
    def test_monotone_up_to_the_bound(self, draw):
        """F rises with y and falls with mu, whichever regions the two points are in."""
        y, mu, r = double(*draw(self.SIZE // 4, seed=2))
        here = evaluate_cpu(y, mu, r)
        for other in (evaluate_cpu(y + 1.0, mu, r), evaluate_cpu(y, mu * (1.0 - 2.0**-20), r)):
            # each is within 10 eps of a monotone function
            assert bool((other.cdf >= here.cdf - 40 * U).all())
            assert bool((other.sf <= here.sf + 40 * U).all())


class TestCompany:
    """An element's result depends on nothing but its own arguments."""

    @staticmethod
    def mixture(size=3 * CHUNK + 5):
        columns = zip(realistic(size, 7), whole_range(size, 8), strict=True)
        y, mu, r = double(*(np.concatenate(pair) for pair in columns))
        edges = double(*zip(*EDGES, strict=True))
        return tuple(torch.cat(pair) for pair in zip((y, mu, r), edges, strict=True))

    def test_order_does_not_matter(self):
        arguments = self.mixture()
        expected = evaluate_cpu(*arguments)
        for seed in range(3):
            order = torch.randperm(expected.cdf.numel(), generator=torch.Generator().manual_seed(seed))
            shuffled = evaluate_cpu(*(a[order] for a in arguments))
            assert same(shuffled, tuple(value[order] for value in expected))

    def test_alone_as_in_a_crowd(self):
        arguments = self.mixture()
        expected = evaluate_cpu(*arguments)
        for index in range(0, expected.cdf.numel(), 41):
            part = slice(index, index + 1)
            assert same(evaluate_cpu(*(a[part] for a in arguments)), tuple(v[part] for v in expected))

    def test_any_length(self):
        arguments = self.mixture()
        expected = evaluate_cpu(*arguments)
        for size in (0, 1, 7, LANES - 1, LANES, LANES + 1, CHUNK - 1, CHUNK, CHUNK + 3):
            assert same(evaluate_cpu(*(a[:size] for a in arguments)), tuple(v[:size] for v in expected))

    @pytest.mark.parametrize("threads", [2, 3, 7])
    def test_threads_do_not_matter(self, threads, monkeypatch):
        arguments = self.mixture()
        expected = evaluate_cpu(*arguments)
        monkeypatch.setattr(negative_binomial_cpu, "ELEMENTS_PER_THREAD", 100)
        torch.set_num_threads(threads)
        assert same(evaluate_cpu(*arguments), expected)

    def test_a_failing_thread_is_heard(self, monkeypatch):
        def broken(*arguments):
            if arguments[-2] > 0:
                raise MemoryError("no room")

        monkeypatch.setattr(negative_binomial_cpu, "ELEMENTS_PER_THREAD", 100)
        monkeypatch.setattr(negative_binomial_cpu, "kernel", broken)
        torch.set_num_threads(2)
        with pytest.raises(MemoryError, match="no room"):
            evaluate_cpu(*self.mixture())

    def test_a_forked_process_can_go_on(self):
        code = """
import os, torch
from torchimpl.kernels import negative_binomial_cpu as module
module.ELEMENTS_PER_THREAD = 10
torch.set_num_threads(2)
arguments = [torch.rand(200, dtype=torch.float64) + 1 for _ in range(3)]
before = module.evaluate_cpu(*arguments)
child = os.fork()
after = module.evaluate_cpu(*arguments)
good = all(torch.equal(a, b) for a, b in zip(before, after))
if child == 0:
    os._exit(0 if good else 1)
assert good and os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
        subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)


class TestLayout:
    def test_strides_do_not_matter(self):
        y, mu, r = double(*realistic(600, seed=4))
        expected = evaluate_cpu(y, mu, r)
        transposed = evaluate_cpu(*(t.view(20, 30).t() for t in (y, mu, r)))
        assert same([value.t().reshape(-1) for value in transposed], expected)
        spaced = evaluate_cpu(*(torch.stack([t, torch.full_like(t, NAN)], 1)[:, 0] for t in (y, mu, r)))
        assert same(spaced, expected)

    def test_expanded(self):
        y, mu, r = double(np.arange(12.0), 3.0, 2.0)
        expected = evaluate_cpu(y, mu.expand(12).clone(), r.expand(12).clone())
        assert same(evaluate_cpu(y, mu.expand(12), r.expand(12)), expected)

    @pytest.mark.parametrize("shape", [(), (0,), (0, 3), (2, 0), (2, 3, 4)])
    def test_shapes(self, shape):
        found = evaluate_cpu(*(torch.ones(shape, dtype=torch.float64) for _ in range(3)))
        assert all(value.shape == shape and value.dtype == torch.float64 for value in found)
        # one event at mean 1 and dispersion 1: F = 3/4
        assert bool((found.cdf == 0.75).all())

    def test_inputs_are_left_alone(self):
        arguments = double(*realistic(100, seed=4))
        copies = tuple(a.clone() for a in arguments)
        evaluate_cpu(*(a.requires_grad_() for a in arguments))
        assert same([a.detach() for a in arguments], copies)


class TestDispatch:
    def test_cpu_tensors_go_to_the_kernel(self):
        arguments = double(*realistic(1000, seed=6))
        assert evaluator("cpu") is evaluate_cpu
        assert same(cdf_operator(*arguments), evaluate_cpu(*arguments))

    def test_other_devices_go_to_plain_torch(self):
        meta = [torch.empty(3, dtype=torch.float64, device="meta") for _ in range(3)]
        assert evaluator("meta")(*meta).cdf.device.type == "meta"
        arguments = double(*realistic(1000, seed=6))
        assert same(evaluator("xpu")(*arguments), evaluate(*arguments, dense=True))

    # torch's own use of what torch deprecates
    @pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
    @pytest.mark.parametrize("operator", [cdf_operator, second_operator])
    def test_compiled_code_knows_the_layout_of_the_results(self, operator):
        """A fake that promised the strides of mu would fail at the first transposed batch."""
        arguments = tuple(column.view(4, 5).t() for column in double(*realistic(20, seed=6)))
        torch.library.opcheck(operator, arguments)
        compiled = torch.compile(lambda *a: [2.0 * value for value in operator(*a)], fullgraph=True)
        assert same(compiled(*arguments), [2.0 * value for value in operator(*arguments)])


class TestCache:
    def test_the_key_covers_every_file_that_is_inlined(self):
        """Numba looks at the entry's own file only; a file missing here would leave stale code in use."""
        needed, found = ["negative_binomial_cpu"], set()
        while needed:
            name = needed.pop()
            found.add(name)
            tree = ast.parse((KERNELS / f"{name}.py").read_text(encoding="utf-8"))
            modules = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
            for node in modules:
                last = str(node.module).rpartition(".")[2]
                names = [last, *(alias.name for alias in node.names)]
                needed += [n for n in names if (KERNELS / f"{n}.py").is_file() and n not in found]
        assert set(SOURCES) == found

    def test_the_kernel_holds_the_digest(self, monkeypatch):
        assert [cell.cell_contents for cell in kernel.py_func.__closure__] == [digest()]
        monkeypatch.setattr(negative_binomial_cpu, "SOURCES", SOURCES[1:])
        assert digest() != kernel.py_func.__closure__[0].cell_contents

    def test_edges_are_no_region(self):
        regions = np.empty(2, np.int64)
        classify(np.array([1.0, NAN]), np.ones(2), np.ones(2), 0, 2, regions)
        assert regions[0] >= 0
        assert regions[1] == EDGE
