"""Second derivatives of scalar InfoNCE in O(B log B), against 64-bit mantissas and against plain torch.

The bound of every result is u = 2^-53 times the sum of the absolute values of what is added up, each with its
count of roundings, all from the formulas of `concordance_sorted_second_groups`:

- a weight p_ij: 6 per unit of its exponent e_ij (three differences, two products, 2/τ) and 6 per unit of both
  parts of the exponent of ε that divides it, 4 for the exponential, and those of the normaliser: its B terms,
  and 6 per unit of their mean exponent, at most 1 + log B; 8 for shares and quotients;
- two nested sums over at most B terms: 2 B; products outside them: 24;
- by groups: the exponent is split into that of a row and of a source, which differ from e_ij by less than
  SPREAD, and by less than 2M + 1 with M = max |x-y| / sqrt(τ): 6 for each unit of both. Moments, Taylor
  coefficients and Horner's scheme: 3 (TERMS + 2) and 2 TERMS, times e^2 because exp(2uv/τ) is a sum of terms
  that may alternate, |2uv/τ| <= 1. Distances are counted from the middle of a block, whose half width is at
  most sqrt(τ): |y-n| becomes |y-n| + 2 sqrt(τ).
- in groups, ux, uy enter by their size, not by their differences, apart from what all have in common;
- the own term of a row that is alone is left out of p_ij and of 1 - p_ii.
"""

import ast
import inspect
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.budget import examples
from torchimpl.kernels import concordance_sorted_second as second
from torchimpl.kernels import concordance_sorted_second_groups as groups
from torchimpl.kernels.concordance import Pairs, loss_curvature, loss_rows
from torchimpl.kernels.concordance_sorted import TERMS

U = 2.0**-53
SPREAD = 100.0
LAYOUTS = (
    "plain", "independent", "identical", "ties", "comb", "far pairs", "far from every source", "offset",
    "two clusters", "rows apart", "sources apart", "mixed magnitudes", "all alike",
)  # fmt: skip
PATHS = {"rows": 0.0, "groups": math.inf, "chosen": second.PAIR_COST}


def batch(kind, size, seed):
    """Rows and sources of one layout, (size,) each."""
    rng = np.random.default_rng(seed)
    x, noise = rng.normal(size=(2, size))
    y = x + 0.3 * noise
    if kind == "independent":
        y = noise
    elif kind == "identical":
        y = x.copy()
    elif kind == "ties":
        x, y = np.round(2 * x), np.round(2 * y)
    elif kind == "comb":
        x = 0.5 * np.arange(size)
        y = x + 0.1 * noise
    elif kind == "far pairs":
        x, y = 100 * x, 100 * x + noise
    elif kind == "far from every source":
        y = y + 1000
    elif kind == "offset":
        x, y = x + 1e6, y + 1e6
    elif kind == "two clusters":
        x = np.where(noise > 0, 1000.0, 0.0)
        y = x + 1e-3 * rng.normal(size=size)
    elif kind == "rows apart":
        x, y = 1e4 * x, 1e-5 * np.round(noise)
    elif kind == "sources apart":
        x, y = 1e-3 * x, 30 * noise
    elif kind == "mixed magnitudes":
        x, y = (10.0 ** rng.uniform(-12, 12, size) for _ in range(2))
    elif kind == "all alike":
        x, y = np.full(size, x[0]), np.full(size, y[0])
    return x, y


def directions(size, seed):
    """Directions ux, uy and the cotangent, random."""
    return np.random.default_rng(seed + 1).normal(size=(3, size))


def column(values):
    return torch.from_numpy(np.array(values, dtype=np.float64))[:, None]


def settled(x, y, tau, eps):
    """The forward pass: nearest sources and normaliser."""
    pairs = Pairs(column(x), column(y), tau=tau, eps=eps, rows=0, wide=True)
    return pairs, loss_rows(pairs)[1]


def evaluate(vectors, x, y, tau, eps, path="chosen"):
    """What `curvature_sorted` finds by one path, as three arrays, and how it got there."""
    ux, uy, cotangent = vectors
    pairs, normaliser = settled(x, y, tau, eps)
    counts = []

    def recorded(*arguments):
        counts.append(groups.second_kernel(*arguments)[:2])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(second, "PAIR_COST", PATHS[path])
        patch.setattr(second, "second_kernel", recorded)
        found = second.curvature_sorted(
            column(ux), column(uy), column(cotangent)[:, 0], column(x), column(y), pairs.nearest, normaliser,
            tau, eps,
        )  # fmt: skip
    return [tensor.numpy().ravel() for tensor in found], counts[0]


class Exact:
    """Everything about one batch with 64-bit mantissas, pair by pair: rows down, sources across."""

    def __init__(self, x, y, tau, eps):
        wide = np.longdouble
        assert np.finfo(wide).eps <= 2.0**-63
        self.x, self.y, self.tau = np.asarray(x, wide), np.asarray(y, wide), wide(tau)
        self.apart = self.x[:, None] - self.y
        self.nearest = np.abs(self.apart).argmin(1)
        n = self.y[self.nearest]
        self.z, self.away = self.y - n[:, None], self.x - n
        self.exponent = self.z * (2 * self.away[:, None] - self.z) / self.tau
        log_eps = np.log(wide(eps)) if eps else wide(-np.inf)
        eps_exponent = log_eps + self.away**2 / self.tau
        peak = np.maximum(eps_exponent, 0)
        weights, eps_weight = np.exp(self.exponent - peak[:, None]), np.exp(eps_exponent - peak)
        total = weights.sum(1) + eps_weight
        self.p, self.eps_share = weights / total[:, None], eps_weight / total
        self.by_eps = self.eps_share > 0.5
        # the two parts of the exponent of ε, where neither ε nor the sources are without weight
        matters = np.abs(eps_exponent) < 800
        self.eps_parts = np.where(matters, np.abs(log_eps) + self.away**2 / self.tau, 0) if eps else 0 * peak


def expected(exact, vectors):
    """The three results, by the formulas of `loss_curvature`."""
    ux, uy, c = (np.asarray(v, np.longdouble) for v in vectors)
    x, y, p, eps_share, factor = exact.x, exact.y, exact.p, exact.eps_share, 2 / exact.tau
    un, i = uy[exact.nearest], np.arange(len(x))
    u, base = uy - un[:, None], exact.away * (ux - un)
    slope = exact.z * u - exact.away[:, None] * u - (ux - un)[:, None] * exact.z  # b_ij - b_in, without 2/τ
    origin = np.where(exact.by_eps, 0, base)
    mean = (p * (slope + (base - origin)[:, None])).sum(1) - eps_share * origin
    q = p * (slope + (base - origin - mean)[:, None])
    own_slope = np.where(exact.by_eps, (x - y) * (ux - uy), slope[i, i])
    others = p.copy()
    others[i, i] = 0
    first = eps_share * (ux - uy) + (others * (uy - uy[:, None])).sum(1)
    turned = eps_share * (origin + mean) * exact.away - (q * exact.z).sum(1)
    crossed = (c[:, None] * others * (ux[:, None] - uy)).sum(0) - c * (eps_share + others.sum(1)) * (ux - uy)
    return (
        factor * (own_slope - mean),
        factor * c * (first + factor * turned),
        factor * (crossed - factor * (c[:, None] * q * exact.apart).sum(0)),
    )


def bounds(exact, vectors, path, common=0.0):
    """The bound of each element, as the head of this file derives it; `common` is a part of all ux and uy."""
    signed_x, signed_y, c = (np.asarray(v, np.longdouble) for v in vectors)
    ux, uy, c = np.abs(signed_x - common), np.abs(signed_y - common), np.abs(c)
    i, size, root, factor = np.arange(len(ux)), len(ux), np.sqrt(exact.tau), 2 / exact.tau
    un, signed_n = uy[exact.nearest], signed_y[exact.nearest]
    count = 3 * size + 6 * (1 + math.log(size)) + 36
    # a row whose own source dominates is alone on every path
    ratio = np.exp(exact.exponent).sum(1)
    alone = np.ones(size, bool) if path == "rows" else (ratio < 1.2) & (exact.nearest == i)
    if path != "rows":
        split = min(SPREAD, float(2 * np.abs(exact.apart).max() / root) + 1)
        count += math.e**2 * (5 * TERMS + 6) + 12 * split
    floor = np.where(alone, 0, 2 * root)[:, None]
    # weights times their counts of roundings
    p = exact.p * (count + 6 * np.abs(exact.exponent) + 6 * exact.eps_parts[:, None])
    eps_share = exact.eps_share * (count + 6 * exact.eps_parts)
    if size > second.WHOLE:
        # a source that is left out weighs less than 2^-60 / B
        p = p + 2.0**-7 / size
    others = p.copy()
    others[i[alone], i[alone]] = 0

    def sizes(difference, *parts):
        """Sizes of differences where a row is alone, else of what is subtracted."""
        mask = alone.reshape(-1, *[1] * (difference.ndim - 1))
        return np.where(mask, np.abs(difference), sum(parts))

    z, apart, away = np.abs(exact.z) + floor, np.abs(exact.apart) + floor, np.abs(exact.away)
    u, along = sizes(signed_y - signed_n[:, None], uy, un[:, None]), sizes(signed_x - signed_n, ux, un)
    to_own = sizes(signed_y - signed_y[:, None], uy, uy[:, None], 2 * un[:, None])
    to_sources = sizes(signed_x[:, None] - signed_y, ux[:, None], uy, un[:, None])
    own = sizes(signed_x - signed_y, ux, uy)
    slope, base = z * (u + along[:, None]) + away[:, None] * u, away * along
    origin, rest = np.where(exact.by_eps, 0, base), np.where(exact.by_eps, base, 0)
    mean = (p * (slope + rest[:, None])).sum(1) + eps_share * origin
    q = p * (slope + (rest + mean / count)[:, None]) + exact.p * mean[:, None]
    own_slope = np.where(exact.by_eps, np.abs(exact.x - exact.y) * own, slope[i, i])
    first = eps_share * own + (others * to_own).sum(1)
    turned = (eps_share * (origin + mean / count) + exact.eps_share * mean) * away + (q * z).sum(1)
    crossed = (c[:, None] * others * to_sources).sum(0)
    crossed += c * np.where(alone, eps_share + others.sum(1), count) * own
    return (
        U * factor * (count * own_slope + mean),
        U * factor * c * (first + factor * turned),
        U * factor * (crossed + factor * (c[:, None] * q * apart).sum(0)),
    )


def hold(found, truth, limits):
    for name, values, right, bound in zip(("cotangent", "x", "y"), found, truth, limits, strict=True):
        # results below the normal range have an absolute error
        bad = ~(np.abs(values - right) <= bound + 1e-300)
        assert not bad.any(), f"by {name}: {values[bad][0]!r} is not {right[bad][0]!r} +- {bound[bad][0]!r}"


def check(vectors, x, y, tau, eps, path, common=0.0):
    """Hold one evaluation to its bound; return how many rows went into groups, and how many of them alone."""
    found, counts = evaluate(vectors, x, y, tau, eps, path)
    exact = Exact(x, y, tau, eps)
    hold(found, expected(exact, vectors), bounds(exact, vectors, path, common))
    return counts


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("path", PATHS)
def test_layouts(kind, path):
    for tau in (0.1, 5.0):
        for eps in (0.0, 1e-8, 0.5):
            check(directions(90, 7), *batch(kind, 90, 7), tau, eps, path)


@settings(max_examples=examples(60))
@given(
    kind=st.sampled_from(LAYOUTS),
    size=st.integers(1, 40),
    seed=st.integers(0, 10**6),
    tau=st.floats(-2, 2).map(lambda power: 10**power),
    eps=st.sampled_from([0.0, 1e-300, 1e-8, 0.5, 1e6]),
    path=st.sampled_from(sorted(PATHS)),
    spread=st.sampled_from([0, 0, 3, 8]),
)
def test_adversarial_batches(kind, size, seed, tau, eps, path, spread):
    vectors = directions(size, seed)
    vectors = vectors * 10.0 ** np.random.default_rng(seed).uniform(-spread, spread, vectors.shape)
    check(vectors, *batch(kind, size, seed), tau, eps, path)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", LAYOUTS)
def test_directions_of_many_magnitudes(kind, path):
    """The error of a row or source follows the sizes that it meets, not the largest one."""
    for seed in range(3):
        powers = np.random.default_rng(seed).uniform(-8, 8, (3, 40))
        for eps in (0.0, 1e6):
            check(directions(40, seed) * 10.0**powers, *batch(kind, 40, seed), 1.0, eps, path)


@settings(max_examples=examples(60))
@given(
    values=st.lists(st.tuples(*[st.integers(-12, 12).map(lambda n: n / 4)] * 5), min_size=1, max_size=24),
    eps=st.sampled_from([0.0, 1e-8, 0.5]),
    path=st.sampled_from(sorted(PATHS)),
)
def test_small_numbers_with_ties_and_zeros(values, eps, path):
    x, y, ux, uy, cotangent = np.array(values).T
    check((ux, uy, cotangent), x, y, 0.5, eps, path)


def test_all_paths_are_taken_and_right():
    """Rows alone, rows in groups, and rows of a group that are alone because their own source dominates."""
    x, y = batch("plain", 300, 3)
    noise = np.random.default_rng(3).normal(size=(2, 200))
    apart = 50 + 10 * np.arange(40.0)
    # a row that is the only one near its source, in the middle of rows far from theirs
    x = np.concatenate((x, apart, -50 + 0.05 * noise[0], [-49.9]))
    y = np.concatenate((y, apart + 0.01, -51.5 + 0.05 * noise[1], [-49.9]))
    grouped, alone = check(directions(len(x), 3), x, y, 0.1, 1e-8, "chosen")
    assert 200 <= grouped <= len(x) - 40
    assert alone >= 1
    assert evaluate(directions(len(x), 3), x, y, 0.1, 1e-8, "rows")[1] == (0, 0)
    assert evaluate(directions(len(x), 3), x, y, 0.1, 1e-8, "groups")[1][0] == len(x)


def test_windows_of_a_large_batch():
    """Beyond WHOLE rows the windows are cut; the columns of a strip are not full."""
    size = second.WHOLE + 300
    for kind in ("plain", "independent", "comb", "ties"):
        check(directions(size, 5), *batch(kind, size, 5), 0.1, 1e-8, "chosen")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", ["plain", "ties", "far from every source"])
def test_symmetric(kind, path):
    """v·Hu = u·Hv for the Hessian H of Σ c L, and the derivative by c is symmetric to the gradient."""
    size = 70
    x, y = batch(kind, size, 11)
    ux, uy, cotangent = directions(size, 11)
    vx, vy, _ = directions(size, 12)
    exact = Exact(x, y, 0.1, 1e-8)
    products, limit = [], 0.0
    for first, other in (((ux, uy), (vx, vy)), ((vx, vy), (ux, uy))):
        vectors = (*first, cotangent)
        (_, by_x, by_y), _ = evaluate(vectors, x, y, 0.1, 1e-8, path)
        _, bound_x, bound_y = bounds(exact, vectors, path)
        products.append(math.fsum(by_x * other[0]) + math.fsum(by_y * other[1]))
        limit += (bound_x * np.abs(other[0])).sum() + (bound_y * np.abs(other[1])).sum()
    assert abs(products[0] - products[1]) <= limit
    assert abs(products[0]) > 1e6 * limit


@pytest.mark.parametrize("kind", ["plain", "comb", "identical", "offset"])
def test_agrees_with_plain_torch(kind):
    x, y = batch(kind, 200, 17)
    vectors = directions(200, 17)
    pairs, normaliser = settled(x, y, 0.1, 1e-8)
    ux, uy, cotangent = (column(v) for v in vectors)
    plain = [t.numpy().ravel() for t in loss_curvature(pairs, ux, uy, cotangent[:, 0], normaliser)]
    found, _ = evaluate(vectors, x, y, 0.1, 1e-8)
    limits = bounds(Exact(x, y, 0.1, 1e-8), vectors, "chosen")
    hold(found, plain, [2 * limit for limit in limits])


@pytest.mark.parametrize("path", PATHS)
def test_a_common_part_of_the_directions(path):
    """The loss depends on differences: 10^6 more in ux and uy changes the last digits of the sums only."""
    for kind in ("plain", "comb", "far from every source"):
        x, y = batch(kind, 80, 23)
        ux, uy, cotangent = directions(80, 23)
        # so many bits that the sums are exact
        ux, uy = np.round(ux * 1024) / 1024, np.round(uy * 1024) / 1024
        check((ux + 1e6, uy + 1e6, cotangent), x, y, 0.1, 1e-8, path, common=1e6)
        same = np.full(80, 0.1)
        found, _ = evaluate((same, same, cotangent), x, y, 0.1, 1e-8, path)
        assert not any(values.any() for values in found)


@pytest.mark.parametrize("path", PATHS)
def test_zeros(path):
    """Without a cotangent there is no derivative by x and y; without directions there is none at all."""
    x, y = batch("plain", 80, 29)
    ux, uy, cotangent = directions(80, 29)
    none = np.zeros(80)
    (slope, by_x, by_y), _ = evaluate((ux, uy, none), x, y, 0.1, 1e-8, path)
    assert not by_x.any()
    assert not by_y.any()
    np.testing.assert_array_equal(slope, evaluate((ux, uy, cotangent), x, y, 0.1, 1e-8, path)[0][0])
    assert not any(values.any() for values in evaluate((none, none, cotangent), x, y, 0.1, 1e-8, path)[0])
    for vectors in ((none, uy, cotangent), (ux, none, cotangent)):
        check(vectors, x, y, 0.1, 1e-8, path)


@pytest.mark.parametrize("path", PATHS)
def test_powers_of_two_come_out_again_and_nothing_is_left_to_chance(path):
    x, y = batch("plain", 150, 31)
    ux, uy, cotangent = directions(150, 31)
    once, _ = evaluate((ux, uy, cotangent), x, y, 0.1, 1e-8, path)
    again, _ = evaluate((ux, uy, cotangent), x, y, 0.1, 1e-8, path)
    doubled, _ = evaluate((4 * ux, 4 * uy, 8 * cotangent), x, y, 0.1, 1e-8, path)
    # lengths times 2 and τ times 4: a derivative by a length is half as large
    longer, _ = evaluate((ux, uy, cotangent), 2 * x, 2 * y, 0.4, 1e-8, path)
    for values, same, more, half, powers in zip(once, again, doubled, longer, (4, 32, 32), strict=True):
        np.testing.assert_array_equal(values, same)
        np.testing.assert_array_equal(powers * values, more)
        np.testing.assert_array_equal(values, half * (2 if powers == 4 else 4))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", range(3), ids=["ux", "uy", "cotangent"])
@pytest.mark.parametrize("path", PATHS)
def test_what_is_not_finite_shows(path, which, bad):
    """It shows in its own row and in the sources, and stays away from a row that does not see it."""
    x, y = batch("plain", 60, 37)
    x, y = np.append(x, 1e4), np.append(y, 1e4)
    vectors = directions(61, 37)
    clean, _ = evaluate(vectors, x, y, 0.1, 1e-8, path)
    vectors[which, 30] = bad
    (slope, by_x, by_y), _ = evaluate(vectors, x, y, 0.1, 1e-8, path)
    assert not np.isfinite(by_x[30])
    assert not np.isfinite(by_y[30])
    assert np.isfinite(slope[30]) == (which == 2)
    for values, right in zip((slope, by_x, by_y), clean, strict=True):
        assert values[60] == right[60]


def test_a_source_without_weight_does_not_matter():
    """Beside ε the sources weigh nothing: an infinite direction stays in its own row."""
    x, y, ones = np.zeros(2), np.full(2, 1e4), np.ones(2)
    found, _ = evaluate((ones, np.array([2.0, np.inf]), ones), x, y, 0.1, 0.5, "rows")
    clean, _ = evaluate((ones, np.array([2.0, 3.0]), ones), x, y, 0.1, 0.5, "rows")
    assert [values[0] for values in found] == [values[0] for values in clean]
    assert not any(np.isfinite(values[1]) for values in found)


@pytest.mark.parametrize("path", PATHS)
def test_extreme_magnitudes(path):
    """Squares of the distances overflow or vanish; the derivatives do not."""
    size = 40
    rng = np.random.default_rng(41)
    noise, (ux, uy, cotangent) = rng.normal(size=size), directions(size, 41)
    none = np.zeros(size)
    far = [(none, np.full(size, 1e200)), (none + 1.7e308, none - 1.7e308), (1e200 * noise, none + 1e160)]
    for x, y in far:
        check((ux / 1024, none, cotangent), x, y, 0.1, 0.0, path)
        check((ux / 1024, uy / 1024, cotangent), x, y, 0.1, 1e-8, path)
    for eps in (0.0, 1e-8):
        check((ux, uy, cotangent), 5e-324 * np.round(5 * noise), 1e-310 * noise, 0.1, eps, path)
        for tau in (1e-200, 1e200):
            scale = math.sqrt(tau)
            check((ux * scale, uy * scale, cotangent), scale * noise, scale * noise[::-1], tau, eps, path)


@pytest.mark.parametrize("size", [0, 1])
def test_smallest_batches(size):
    x = np.arange(float(size))
    for values in evaluate((x + 1, x, x + 1), x, x + 0.5, 0.1, 0.0)[0]:
        assert values.shape == (size,)
        assert not values.any()


def test_the_key_of_the_cache_covers_every_module_with_compiled_code():
    folder = Path(inspect.getfile(groups)).parent
    needed, seen = ["concordance_sorted_second_groups"], set()
    while needed:
        name = needed.pop()
        if name in seen or not (folder / f"{name}.py").exists():
            continue
        seen.add(name)
        for node in ast.walk(ast.parse((folder / f"{name}.py").read_text(encoding="utf-8"))):
            module = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
            needed += [module.rsplit(".", 1)[1]] if module.startswith("torchimpl.kernels.") else []
    assert seen - {"compiled"} == set(groups.SOURCES)
