"""The compiled -log pmf: against 50 digits, the oracle and plain torch; at every edge, in any company."""

import ast
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from flint import arb, ctx

from refimpl import negative_binomial_log_pmf as oracle
from refimpl import negative_binomial_log_pmf_gradient as oracle_gradient
from refimpl.bounds import negative_binomial_log_pmf as bounds
from refimpl.bounds.precision import error_ratio, precision
from tests.test_negative_binomial_cpu import double, realistic, same, whole_range, wide
from torchimpl.kernels import compiled, negative_binomial_log_pmf_cpu
from torchimpl.kernels.compiled import digest_of
from torchimpl.kernels.negative_binomial_log_pmf import (
    NegativeLogPMF,
    evaluators,
    log_pmf_slopes,
    log_pmf_value,
    pulled_back,
    slopes_operator,
    value_operator,
)
from torchimpl.kernels.negative_binomial_log_pmf_cpu import (
    CHUNK,
    COUNTED,
    OTHERS,
    SOURCES,
    ZERO_COUNT,
    classify,
    kernel,
    pull_back_cpu,
    pull_back_kernel,
    slopes_cpu,
    value_and_slopes_cpu,
    value_cpu,
)
from torchimpl.kernels.negative_binomial_log_pmf_cpu_general import any_slopes, any_value
from torchimpl.kernels.negative_binomial_log_pmf_one_pass import (
    negative_log_pmf,
    one_pass_operator,
    pull_back_operator,
)

INF, NAN = math.inf, math.nan
TOP = np.finfo(float).max
DOUBLE = precision("float64")
KERNELS = Path(negative_binomial_log_pmf_cpu.__file__).parent
EDGES = (-INF, -1.0, -0.0, 0.0, 5e-324, 1e-310, 1e-300, 0.5, 1.0, 1.5, 48.0, 1e10, 1e300, TOP, INF, NAN)
# both sides of the ordinary range as well
SIZES = (5e-324, 1e-310, 1e-300, 1e-160, 6e-61, 7e-61, 1e-30, 1e-8, 0.49, 0.999, 1.0, 7.0, 1e4, 1e15, 1e60)
SIZES += (2e60, 1e160, 1e300, TOP)
COUNTS = (0.0, 1.0, 2.0, 3.0, 48.0, 1e3)


def table(*columns):
    return double(*zip(*itertools.product(*columns), strict=True))


def classes(y, mu, r):
    found = np.empty(y.numel(), np.int64)
    classify(y.numpy(), mu.numpy(), r.numpy(), 0, found.size, found)
    return found


def assert_within(found, exact, arguments):
    """Value and slopes within the derived bounds of exact numbers; overflows as the oracle's."""
    bound = bounds(*(a.numpy() for a in arguments), DOUBLE)
    for actual, true, allowed in zip(found, exact, (bound.value, *bound.gradient), strict=True):
        ratios = error_ratio(actual.numpy(), true, allowed, DOUBLE.result_max, overflows=True)
        worst = int(np.argmax(ratios))
        assert ratios[worst] <= 1.0, [float(a[worst]) for a in arguments]


class TestAccuracy:
    @staticmethod
    def exact(k, mu, r):
        """-log pmf and its slopes as balls."""
        k, mu, r = arb(k), arb(mu), arb(r)
        total = mu + r
        log_mass = (k + r).lgamma() - r.lgamma() - (k + 1).lgamma()
        log_mass += r * (r / total).log() + k * (mu / total).log()
        d_r = r.digamma() - (k + r).digamma() + (total / r).log() + (k - mu) / total
        return -log_mass, r * (mu - k) / (mu * total), d_r

    @pytest.mark.parametrize("draw", [realistic, wide])
    def test_within_the_bound_of_100_digits(self, draw):
        ctx.dps = 100
        arguments = double(*draw(1500, seed=21))
        balls = [self.exact(*row) for row in zip(*(a.tolist() for a in arguments), strict=True)]
        assert all(ball.rel_accuracy_bits() > 80 for row in balls for ball in row)
        exact = np.array([[float(ball) for ball in row] for row in balls]).T
        assert_within(value_and_slopes_cpu(*arguments), exact, arguments)

    def test_within_the_bound_at_the_corners_of_the_range(self):
        arguments = table(COUNTS, (0.0, *SIZES), (*SIZES, INF))
        columns = [a.numpy() for a in arguments]
        assert {ZERO_COUNT, COUNTED, OTHERS} == set(classes(*arguments))
        slopes = (-slope for slope in oracle_gradient(*columns))
        assert_within(value_and_slopes_cpu(*arguments), (-oracle(*columns), *slopes), arguments)

    def test_a_tiny_mean_beside_a_huge_count(self):
        """Logarithms of the ratios would cancel; the plain torch path has the same formula."""
        ctx.dps = 400
        row = (3.25311969415347e158, 1e-323, 1.5812667891866e-310)
        expected = float(self.exact(*row)[0])
        arguments = double(*([x] for x in row))
        for found in (value_cpu(*arguments), log_pmf_value(*arguments)):
            # two deviances of four roundings each, two logarithms of 1 ulp, the sum
            assert abs(found.item() / expected - 1.0) <= 11 * 2.0**-53

    def test_one_event_at_a_small_mean_and_dispersion(self):
        """The fractions 1/r and (1-mu)/s, far larger than their difference, are subtracted exactly."""
        ctx.dps = 400
        # the last of both: where the parameters grow by powers of two
        sizes = [10.0**-e for e in range(1, 15)]
        columns = table([1.0], [*sizes, 5e-324], [*sizes, 1e-155])
        both = torch.stack([value_and_slopes_cpu(*columns)[2], log_pmf_slopes(*columns)[1]], 1)
        for k, mu, r, actual in zip(*(c.tolist() for c in (*columns, both)), strict=True):
            exact = self.exact(k, mu, r)[2]
            error = max(abs(float(arb(slope) - exact)) for slope in actual)
            # the fraction, two logarithms and the rest of the score: at most 8 roundings each
            terms = mu * (1 + r) / ((mu + r) * r) + math.log((1 + r) / (mu + r)) + math.log((1 + r) / r) + 2
            assert error <= 8 * 2.0**-53 * terms, (mu, r)

    @pytest.mark.parametrize("draw", [realistic, wide])
    def test_both_ways_keep_the_bound(self, draw):
        """The guarded scalar code and the lanes are two evaluations of one number."""
        arguments = double(*draw(2000, seed=22))
        assert not np.any(classes(*arguments) == OTHERS)
        rows = list(zip(*(a.tolist() for a in arguments), strict=True))
        general = [double([any_value(*row) for row in rows])[0]]
        general += double(*zip(*(any_slopes(*row)[:2] for row in rows), strict=True))
        assert_within(general, [found.numpy() for found in value_and_slopes_cpu(*arguments)], arguments)


class TestEdges:
    def test_as_plain_torch(self):
        arguments = table(EDGES, EDGES, EDGES)
        expected = (log_pmf_value(*arguments), *log_pmf_slopes(*arguments))
        for ours, theirs in zip((value_cpu(*arguments), *slopes_cpu(*arguments)), expected, strict=True):
            special = ~torch.isfinite(theirs)
            assert torch.equal(special, ~torch.isfinite(ours))
            assert torch.equal(ours[special].isnan(), theirs[special].isnan())
            assert torch.equal(ours[special].nan_to_num(), theirs[special].nan_to_num())

    def test_as_plain_torch_to_both_bounds(self):
        """The same formulas, of which a term may round otherwise; counts as far as the oracle sums."""
        arguments = table([y for y in EDGES if y < 1e3], EDGES, EDGES)
        bound = bounds(*(a.numpy() for a in arguments), DOUBLE)
        expected = (log_pmf_value(*arguments), *log_pmf_slopes(*arguments)[:2])
        allowed = (bound.value, *bound.gradient)
        for ours, theirs, error in zip(value_and_slopes_cpu(*arguments), expected, allowed, strict=True):
            finite = torch.isfinite(theirs)
            assert bool(((ours - theirs).abs() <= 2 * torch.tensor(error))[finite].all())

    def test_shrunk_slopes(self):
        arguments = table(EDGES, EDGES, EDGES)
        d_mu, d_r, far_mu, far_r = slopes_cpu(*arguments)
        for slope, far in ((d_mu, far_mu), (d_r, far_r)):
            finite = torch.isfinite(slope)
            assert torch.equal(far[finite], slope[finite] * 2.0**-512)
            beyond = torch.isinf(slope) & torch.isfinite(far)
            assert int(beyond.sum()) > 10
            assert bool((far[beyond].abs() >= 2.0**511).all())

    def test_poisson_has_no_slope_in_r_even_at_an_infinite_count(self):
        arguments = double([INF, 3.0, 0.0], [2.0, 2.0, 2.0], [INF, INF, INF])
        for found in (slopes_cpu(*arguments), log_pmf_slopes(*arguments)):
            assert found[1].tolist() == [0.0, 0.0, 0.0]
            assert found[3].tolist() == [0.0, 0.0, 0.0]
            assert found[0][0].item() == -INF

    def test_no_mass_at_mean_zero(self):
        value, d_mu, d_r = value_and_slopes_cpu(*double([0.5, 1.0, 2.0], [0.0] * 3, [2.0] * 3))
        assert value.tolist() == [0.0, INF, INF]
        assert d_mu.tolist() == [1.0, -INF, -INF]
        assert d_r[:2].tolist() == [0.0, 0.0]

    def test_classes(self):
        y, mu, r = double(
            [0.5, 1.0, NAN, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1e-61, 1.0, 1.0], [1.0] * 4 + [2e60, INF]
        )
        assert classes(y, mu, r).tolist() == [ZERO_COUNT, COUNTED, OTHERS, OTHERS, OTHERS, OTHERS]


class TestPullBack:
    def test_bits_of_plain_torch(self):
        arguments = table(EDGES, EDGES, EDGES)
        d_mu, d_r, far_mu, far_r = slopes_cpu(*arguments)
        for factor in (0.0, -0.0, 1.0, -3.0, 2.0**-8, 2.0**-400, 2.0**-1070, TOP, INF, NAN):
            cotangent = torch.full_like(d_mu, factor)
            found = pull_back_cpu(cotangent, *arguments, d_mu, d_r)
            expected = [
                pulled_back(cotangent, slope, far, slope) for slope, far in ((d_mu, far_mu), (d_r, far_r))
            ]
            for ours, theirs in zip(found, expected, strict=True):
                assert torch.equal(ours.isnan(), theirs.isnan())
                assert torch.equal(ours.nan_to_num(0.0), theirs.nan_to_num(0.0))

    def test_a_slope_beyond_the_range(self):
        arguments = double([7.0], [2.0**-1030], [1.0])
        _, d_mu, d_r = value_and_slopes_cpu(*arguments)
        assert d_mu.item() == -INF
        found, _ = pull_back_cpu(*double([2.0**-20]), *arguments, d_mu, d_r)
        assert found.item() == -7.0 * 2.0**1010


class TestCompany:
    """An element's result depends on nothing but its own arguments."""

    @staticmethod
    def mixture(size=CHUNK + 5):
        columns = zip(realistic(size, 7), whole_range(size, 8), strict=True)
        edges = zip(*itertools.product(EDGES, EDGES, EDGES), strict=True)
        joined = [np.concatenate([*pair, edge]) for pair, edge in zip(columns, edges, strict=True)]
        order = np.random.default_rng(9).permutation(joined[0].size)
        return double(*(column[order] for column in joined))

    def test_order_does_not_matter(self):
        arguments = self.mixture()
        expected = value_and_slopes_cpu(*arguments)
        for seed in range(3):
            order = torch.randperm(len(expected[0]), generator=torch.Generator().manual_seed(seed))
            shuffled = value_and_slopes_cpu(*(a[order] for a in arguments))
            assert same(shuffled, tuple(found[order] for found in expected))

    def test_alone_as_in_a_crowd(self):
        arguments = self.mixture()
        expected = value_and_slopes_cpu(*arguments)
        for index in range(0, len(expected[0]), 7):
            part = slice(index, index + 1)
            alone = value_and_slopes_cpu(*(a[part] for a in arguments))
            assert same(alone, tuple(found[part] for found in expected))

    def test_any_length(self):
        arguments = self.mixture()
        expected = value_and_slopes_cpu(*arguments)
        for size in (0, 1, 7, 31, 32, 33, CHUNK - 1, CHUNK, CHUNK + 3):
            part = value_and_slopes_cpu(*(a[:size] for a in arguments))
            assert same(part, tuple(found[:size] for found in expected))

    @pytest.mark.parametrize("threads", [2, 3, 7])
    def test_threads_do_not_matter(self, threads, monkeypatch):
        arguments = self.mixture()
        expected = value_and_slopes_cpu(*arguments)
        products = pull_back_cpu(arguments[0], *arguments, *expected[1:])
        for name in ("ELEMENTS_PER_THREAD", "PRODUCTS_PER_THREAD"):
            monkeypatch.setattr(negative_binomial_log_pmf_cpu, name, 100)
        torch.set_num_threads(threads)
        assert same(value_and_slopes_cpu(*arguments), expected)
        assert same(pull_back_cpu(arguments[0], *arguments, *expected[1:]), products)

    def test_value_alone_has_the_same_bits(self):
        arguments = self.mixture()
        value, d_mu, d_r = value_and_slopes_cpu(*arguments)
        assert same([value_cpu(*arguments), *slopes_cpu(*arguments)[:2]], [value, d_mu, d_r])

    def test_a_failing_thread_is_heard(self):
        def broken(start, _stop):
            if start > 0:
                raise MemoryError("no room")

        torch.set_num_threads(2)
        with pytest.raises(MemoryError, match="no room"):
            compiled.run_shared(broken, (), 100, 10)

    def test_every_element_once(self):
        seen = []

        def note(start, stop):
            seen.extend(range(start, stop))

        torch.set_num_threads(7)
        compiled.run_shared(note, (), 1000, 10)
        assert sorted(seen) == list(range(1000))


class TestLayout:
    def test_strides_do_not_matter(self):
        y, mu, r = double(*realistic(600, seed=4))
        expected = value_and_slopes_cpu(y, mu, r)
        transposed = value_and_slopes_cpu(*(t.view(20, 30).t() for t in (y, mu, r)))
        assert same([found.t().reshape(-1) for found in transposed], expected)
        spaced = value_and_slopes_cpu(
            *(torch.stack([t, torch.full_like(t, NAN)], 1)[:, 0] for t in (y, mu, r))
        )
        assert same(spaced, expected)

    def test_expanded(self):
        y, mu, r = double(np.arange(12.0), 3.0, 2.0)
        expected = value_and_slopes_cpu(y, mu.expand(12).clone(), r.expand(12).clone())
        assert same(value_and_slopes_cpu(y, mu.expand(12), r.expand(12)), expected)

    @pytest.mark.parametrize("shape", [(), (0,), (0, 3), (2, 0), (2, 3, 4)])
    def test_shapes(self, shape):
        found = value_and_slopes_cpu(*(torch.ones(shape, dtype=torch.float64) for _ in range(3)))
        assert all(part.shape == shape and part.dtype == torch.float64 for part in found)

    def test_inputs_are_left_alone(self):
        arguments = double(*realistic(100, seed=4))
        copies = tuple(a.clone() for a in arguments)
        value_and_slopes_cpu(*(a.requires_grad_() for a in arguments))
        assert same([a.detach() for a in arguments], copies)

    @pytest.mark.parametrize("transposed", [False, True])
    def test_operators_pass_opcheck(self, transposed):
        arguments = [a.view(2, 3).t() if transposed else a for a in double(*realistic(6, seed=4))]
        slopes = one_pass_operator(*arguments)[1:]
        for operator in (value_operator, slopes_operator, one_pass_operator):
            torch.library.opcheck(operator, arguments)
        torch.library.opcheck(pull_back_operator, (torch.ones_like(arguments[0]), *arguments, *slopes))


class TestDispatch:
    def test_cpu_tensors_go_to_the_kernel(self):
        arguments = double(*realistic(1000, seed=6))
        assert evaluators("cpu") == (value_cpu, slopes_cpu)
        assert same([value_operator(*arguments)], [value_cpu(*arguments)])
        assert same(one_pass_operator(*arguments), value_and_slopes_cpu(*arguments))

    def test_other_devices_go_to_plain_torch(self):
        assert evaluators("cuda") == (log_pmf_value, log_pmf_slopes)
        meta = [torch.empty(3, dtype=torch.float64, device="meta") for _ in range(3)]
        assert negative_log_pmf(*meta).device.type == "meta"

    @staticmethod
    def gradients(function, y, *parameters, create_graph=False):
        leaves = [p.detach().requires_grad_() for p in parameters]
        first = torch.autograd.grad(function(y, *leaves).sum(), leaves, create_graph=create_graph)
        if not create_graph:
            return first
        return [*first, *torch.autograd.grad(sum(slope.sum() for slope in first), leaves)]

    @pytest.mark.parametrize("shared", [(), (0,), (1,), (0, 1)])
    def test_gradients_are_those_of_the_two_passes(self, shared):
        y, *parameters = double(*realistic(50, seed=6))
        parameters = [p[0] if i in shared else p for i, p in enumerate(parameters)]
        for create_graph in (False, True):
            ours, theirs = (
                self.gradients(f, y, *parameters, create_graph=create_graph)
                for f in (negative_log_pmf, NegativeLogPMF.apply)
            )
            assert same([g.detach() for g in ours], [g.detach() for g in theirs])

    def test_without_gradients_the_same_value(self):
        arguments = double(*realistic(50, seed=6))
        with torch.no_grad():
            silent = negative_log_pmf(*arguments)
        assert same([silent], [negative_log_pmf(*arguments)])

    def test_a_batch_of_cotangents(self):
        y, mu, r = double(*realistic(5, seed=6))
        value = negative_log_pmf(y, mu.requires_grad_(), r)
        rows = torch.autograd.grad(value, mu, torch.eye(5, dtype=torch.float64), is_grads_batched=True)[0]
        single = self.gradients(negative_log_pmf, y, mu, r)[0]
        assert torch.equal(rows, torch.diag(single))


class TestCache:
    def test_the_key_covers_every_file_that_is_inlined(self):
        """Numba looks at the entry's own file only; a file missing here would leave stale code in use."""
        needed, found = ["negative_binomial_log_pmf_cpu"], set()
        while needed:
            name = needed.pop()
            found.add(name)
            tree = ast.parse((KERNELS / f"{name}.py").read_text(encoding="utf-8"))
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom):
                    names = [str(node.module).rpartition(".")[2], *(alias.name for alias in node.names)]
                    needed += [n for n in names if (KERNELS / f"{n}.py").is_file() and n not in found]
        assert set(SOURCES) == found

    def test_the_kernels_hold_the_digest(self):
        for function in (kernel, pull_back_kernel):
            assert [cell.cell_contents for cell in function.py_func.__closure__] == [digest_of(SOURCES)]
        assert digest_of(SOURCES[1:]) != digest_of(SOURCES)
