"""Second derivatives by the compiled CPU kernel: against Arb at fresh points, at edges, in any company."""

import ast
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from flint import ctx

from scripts.accuracy_study import gauss, measure
from scripts.accuracy_study.points import Points, drawn
from scripts.accuracy_study.truth import truth
from torchimpl.kernels import negative_binomial_second_cpu
from torchimpl.kernels.negative_binomial_cpu import CHUNK, QUADRATURE, REGIONS, classify
from torchimpl.kernels.negative_binomial_cpu_lanes import LANES
from torchimpl.kernels.negative_binomial_ops import second_evaluator, second_operator
from torchimpl.kernels.negative_binomial_second import second_partials
from torchimpl.kernels.negative_binomial_second_cpu import (
    LONG_FRACTION,
    LONG_LIMIT,
    SECOND_SOURCES,
    second_cpu,
    second_region,
)
from torchimpl.negative_binomial import negative_binomial_cdf, negative_binomial_sf

U, EPS = 2.0**-53, 2.0**-52
INF, NAN, TOP, SMALLEST = math.inf, math.nan, float(np.finfo(np.float64).max), 5e-324
KERNELS = Path(negative_binomial_second_cpu.__file__).parent
NAMES = ("d_mu_mu", "d_mu_r", "d_r_r")
SIZES = {"realistic": 300, "wide": 300, "borders": 300, "independent": 60}
# every kind of region: zero count, series, fraction (also instead of the quadrature), quadrature
EVERYWHERE = (
    (0.0, 3.0, 2.0),
    (4.0, 30.0, 0.5),
    (3.0, 0.4, 0.7),
    (7.0, 9.0, 4.0),
    (7.0, 5.0, 4.0),
    (60.0, 66.0, 70.0),
    (120.0, 110.0, 130.0),
    (120.0, 140.0, 130.0),
)


def double(rows):
    return tuple(torch.tensor(np.array(rows, dtype=np.float64).T.copy()))


def same(left, right):
    """The same bits, NaN included."""
    return all(
        torch.equal(a.view(torch.int64), b.view(torch.int64)) for a, b in zip(left, right, strict=True)
    )


def enclosed(point):
    """The truth at a point, and T (smax² + |d smax/dr|)."""
    found = truth(*point)
    law = gauss.law(*point)
    ctx.prec = 700
    steepest, slope = (
        (law.r.log() - law.r.digamma()) - (law.c.log() - law.c.digamma()),
        (1 / law.r - gauss.trigamma(law.r)) - (1 / law.c - gauss.trigamma(law.c)),
    )
    return found, float(found.tail * (steepest * steepest + abs(slope)))


def judged(points):
    """For each derivative its errors over eps and over what is derived, in units of its scale."""
    rows = list(zip(*(column.tolist() for column in points), strict=True))
    found = [value.numpy() for value in second_cpu(*double(rows))]
    truths, scales = zip(*map(enclosed, rows), strict=True)
    # F and all its derivatives are f0 times something. Its exponent, near log T, is rounded twice; so are the
    # arguments on the way to it, which costs the condition number; 64 roundings for its factors
    tail = np.array([float(one.tail) for one in truths])
    condition = np.array([float(one.condition) for one in truths])
    roundings = 64.0 + condition + 2.0 * np.abs(np.log(np.maximum(tail, SMALLEST)))
    beside = (
        [float(one.scale_mu_mu) for one in truths],
        [float(one.scale_mu_r) for one in truths],
        scales,
    )
    out = {}
    for name, actual, scale in zip(NAMES, found, beside, strict=True):
        true = measure.pair(getattr(one, name) for one in truths)
        size = np.maximum(np.abs(true.high), np.array(scale))
        error = measure.off(actual, true)
        # f0 may be subnormal, and so may results: 16 of the smallest numbers, times its factor
        faint = 16 * SMALLEST * (1.0 + size / np.maximum(tail, SMALLEST))
        out[name] = (error / np.maximum(EPS * size, SMALLEST), error / (U * roundings * size + faint))
    return out


@pytest.fixture(scope="module")
def studies():
    return {name: judged(drawn(name, size, 5)) for name, size in SIZES.items()}


@pytest.mark.parametrize("derivative", NAMES)
@pytest.mark.parametrize("name", SIZES)
def test_within_the_derived_bound_of_arb(studies, name, derivative):
    _, ratio = studies[name][derivative]
    assert ratio.max() <= 1.0


@pytest.mark.parametrize("name", ["realistic", "wide"])
def test_a_hundred_eps_where_counts_come_from_the_law(studies, name):
    for errors, _ in studies[name].values():
        assert errors.max() <= 100.0


def test_small_dispersions_and_means():
    """Where terms of the size of 1/r cancel: T is of the order of r, and T'' is 0 at mu = r for k = 1."""
    sizes = (1e-12, 1e-6, 1e-3, 0.1)
    rows = [
        (k, r * share, r)
        for k, r, share in itertools.product((1.0, 2.0, 5.0, 20.0), sizes, (0.3, 1.0, 1.7, 40.0))
    ]
    for _, ratio in judged(Points(*(np.array(column) for column in zip(*rows, strict=True)))).values():
        assert ratio.max() <= 1.0


FAINT = (
    # the density or dF/dmu underflows, a second derivative does not
    (11.0, float.fromhex("0x1.831d1e2fb93e5p+778"), float.fromhex("0x0.000025cba39e6p-1022")),
    (2.0, 1.80239035e-260, 8.70750342e16),
    (19.0, 7.24261755e-17, 6.62063648e136),
    (12.0, 1.18381640e-273, 2.33706531e-235),
    (4.0, 4.68990369e-117, 1.46194292e-48),
    (1.0, 1e-323, 2.4e-49),
    (1.0, 1.47e-317, 2.45e79),
    # r + mu is subnormal
    (1.0, 3e-310, 4e-310),
    (3.0, 5e-324, 1e-310),
    (0.0, 1.0, 1e-310),
)


@pytest.mark.parametrize("point", FAINT)
def test_what_does_not_underflow(point):
    found = [value.item() for value in second_cpu(*double([point]))]
    true, scale = enclosed(point)
    k, mu, r = point
    # f0 by its logarithm: 4 logarithms for each count, each rounded with what they add up to
    depth = (k + 1.0) * (abs(math.log(mu)) + abs(math.log(r)) + math.log(k + 2.0) + 20.0)
    for name, actual, beside in zip(NAMES, found, (0.0, 0.0, scale), strict=True):
        exact = float(getattr(true, name))
        if math.isinf(exact):
            assert actual == exact
            continue
        assert abs(actual - exact) <= 4.0 * U * (64.0 + depth) * max(abs(exact), beside) + 16 * SMALLEST


class TestEdges:
    ROWS = tuple(
        itertools.product(
            (NAN, -INF, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 60.0, INF),
            (NAN, -1.0, 0.0, 1.0, INF),
            (NAN, -1.0, 0.0, 0.5, 3.0, INF),
        )
    )

    def test_the_edges_are_those_of_plain_torch(self):
        arrays = double(self.ROWS)
        y, mu, r = arrays
        ordinary = (y >= 0.0) & (y < INF) & (mu > 0.0) & (mu < INF) & (r > 0.0)
        found, plain = second_cpu(*arrays), second_partials(*arrays, dense=True)
        for actual, expected in zip(found, plain, strict=True):
            assert torch.equal(actual.isnan(), expected.isnan())
            assert torch.equal(actual[~ordinary].nan_to_num(7.0), expected[~ordinary].nan_to_num(7.0))

    def test_invalid_is_nan_and_outside_is_zero(self):
        y, mu, r = double(self.ROWS)
        invalid = y.isnan() | ~(mu >= 0.0) | (mu == INF) | ~(r > 0.0)
        outside = ~invalid & ((y < 0.0) | (y == INF))
        for value in second_cpu(y, mu, r):
            assert torch.equal(value.isnan(), invalid)
            assert (value[outside] == 0.0).all()

    def test_mean_zero_is_the_limit(self):
        found = [value.tolist() for value in second_cpu(*double([(k, 0.0, 2.0) for k in (0.0, 1.0, 2.0)]))]
        assert found == [[1.5, -1.5, 0.0], [0.0] * 3, [0.0] * 3]

    def test_infinite_dispersion_is_the_poisson_law(self):
        rows = ((0.0, 2.0), (3.0, 2.0), (70.0, 66.0))
        d_mu_mu, *in_r = second_cpu(*double([(k, mu, INF) for k, mu in rows]))
        # dF/dmu = -p(k), so that the second derivative is p(k) - p(k-1)
        masses = [math.exp(k * math.log(mu) - mu - math.lgamma(k + 1.0)) for k, mu in rows]
        for actual, mass, (k, mu) in zip(d_mu_mu.tolist(), masses, rows, strict=True):
            size = mass * (1.0 + k / mu)
            # lgamma(71) is 231: the reference rounds three numbers of its size
            assert abs(actual - (mass - mass * k / mu)) <= U * (64.0 + 4.0 * math.lgamma(k + 3.0)) * size
        assert all((value == 0.0).all() for value in in_r)

    def test_no_nan_at_any_size(self):
        sizes = (5e-324, 1e-310, 1e-300, 1e-160, 1e-30, 1e-8, 0.3, 1.0, 10.0, 1e4, 1e30, 1e160, 1e300, TOP)
        counts = (0.0, 1.0, 2.0, 60.0, 1e3, 1e15, 1e30, 1e300, TOP)
        found = second_cpu(*double(list(itertools.product(counts, (0.0, *sizes), (*sizes, INF)))))
        assert not any(value.isnan().any() for value in found)


@pytest.fixture(scope="module")
def arrays():
    parts = [drawn(name, 2000, 9) for name in ("realistic", "wide", "independent", "extreme")]
    return tuple(
        torch.from_numpy(np.concatenate([getattr(p, name) for p in parts])) for name in Points._fields
    )


class TestCompany:
    def test_every_region_answers(self, arrays):
        y, mu, r = (array.numpy() for array in arrays)
        found = np.empty(len(y), np.int64)
        for start in range(0, len(y), CHUNK):
            count = min(CHUNK, len(y) - start)
            classify(y, mu, r, start, count, found[start:])
        pairs = zip(found.tolist(), y, r, strict=True)
        answering = {second_region.py_func(region, math.floor(k), size) for region, k, size in pairs}
        assert answering == set(range(REGIONS))

    def test_neighbours_do_not_matter(self, arrays):
        whole = second_cpu(*arrays)
        order = torch.randperm(arrays[0].numel(), generator=torch.Generator().manual_seed(1))
        shuffled = second_cpu(*(array[order] for array in arrays))
        assert same(shuffled, [value[order] for value in whole])
        for size in (1, LANES - 1, LANES + 1):
            assert same(second_cpu(*(array[:size] for array in arrays)), [value[:size] for value in whole])

    @pytest.mark.parametrize("threads", [2, 3])
    def test_threads_do_not_matter(self, arrays, threads, monkeypatch):
        expected = second_cpu(*arrays)
        monkeypatch.setattr(negative_binomial_second_cpu, "ELEMENTS_PER_THREAD", 1000)
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            assert same(second_cpu(*arrays), expected)
        finally:
            torch.set_num_threads(before)

    def test_layouts_and_empty(self, arrays):
        expected = second_cpu(*arrays)
        strided = [torch.stack([array, array], 1)[:, 0] for array in arrays]
        assert same(second_cpu(*strided), expected)
        assert [value.shape for value in second_cpu(*(array[:0].view(0, 3) for array in arrays))] == [
            (0, 3)
        ] * 3


def test_who_answers():
    assert second_evaluator("cpu") is second_cpu
    assert second_evaluator("cuda").func is second_partials
    arrays = double(EVERYWHERE)
    assert same(second_operator(*arrays), second_cpu(*arrays))


def test_the_quadrature_leaves_what_is_near_to_the_fraction():
    assert second_region(QUADRATURE, LONG_LIMIT - 1.0, 1e9) == LONG_FRACTION
    assert second_region(QUADRATURE, LONG_LIMIT, 1e9) == QUADRATURE


def test_gradcheck_and_gradgradcheck():
    y, mu, r = double(EVERYWHERE)
    mu.requires_grad_()
    r.requires_grad_()
    for function in (negative_binomial_cdf, negative_binomial_sf):
        assert torch.autograd.gradcheck(lambda mu, r, f=function: f(y, mu, r), (mu, r))
        assert torch.autograd.gradgradcheck(lambda mu, r, f=function: f(y, mu, r), (mu, r))


def test_the_key_of_the_cache_covers_every_source():
    needed, found = ["negative_binomial_second_cpu"], set()
    while needed:
        name = needed.pop()
        if name in found:
            continue
        found.add(name)
        tree = ast.parse((KERNELS / f"{name}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                names = [str(node.module).rpartition(".")[2], *(alias.name for alias in node.names)]
                needed += [n for n in names if (KERNELS / f"{n}.py").is_file()]
    assert found == set(SECOND_SOURCES)
