"""InfoNCE of scalar residuals by sorting: layouts within their bounds, windows, parts, threads, memory."""

import itertools
import math
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.budget import examples
from torchimpl.concordance import concordance_loss_nce
from torchimpl.kernels import concordance_cpu as cpu
from torchimpl.kernels import concordance_sorted_sums as sums
from torchimpl.kernels.concordance import scaled
from torchimpl.kernels.concordance_cpu import ALLOWED, LARGEST_EXPONENT, WHOLE, cut_off, sorted_rows
from torchimpl.kernels.concordance_sorted import STRIP, TERMS, add_moments, taylor
from torchimpl.kernels.concordance_sorted_blocks import SPREAD, cut

U = 2.0**-53
SIZE = 900
TINY = 2.0**-1070
CUT = cut_off(SIZE, narrow=False)


def _layouts(size, rng):
    """Scalar residuals of two replicates, by what is hard about them."""
    z, noise = rng.normal(size=size), 0.3 * rng.normal(size=size)
    counts = rng.poisson(rng.gamma(0.5, 10, size)).astype(float)
    odd, huge = np.arange(size) % 2, np.sort(1e30 * z)
    return {
        "normal": (z, z + noise),
        "wide": (100 * z, 100 * z + noise),
        "independent": (z, rng.normal(size=size)),
        "identical": (z, z.copy()),
        "identical counts": (counts, counts.copy()),
        "all alike": (np.ones(size), np.ones(size)),
        "far pairs": (z, z + 1000),
        "two clusters": (1e3 * odd, 1e3 * odd),
        "near clusters": (3.0 * odd, 3.0 * odd),
        "opposed": (np.zeros(size), np.full(size, 100.0)),
        "midpoint": (np.where(odd, 50.0, z), 100.0 * odd + 1e-3 * noise),
        # x - n/2 does not fit into one number, and y/2 is next to it
        "rounded midpoint": (np.where(odd, 1e3 / 3 + 1e-4 * z, 1e-9 * z), 2e3 / 3 * odd + 1e-4 * noise),
        "huge midpoints": (0.5 * (huge + np.roll(huge, 1)), huge),
        "one match": (np.zeros(size), np.where(np.arange(size) == size // 2, 0.0, 1.5 + 1e-3 * z)),
        "cauchy": (z / rng.normal(size=size), z / rng.normal(size=size)),
        "counts": (counts - 5, rng.poisson(counts + 0.1) - 5.0),
        "magnitudes": (10 ** rng.uniform(-30, 30, size), 10 ** rng.uniform(-30, 30, size)),
        "comb": (np.arange(size) * 0.5, np.arange(size) * 0.5 + 0.1 * z),
        "separated": (np.arange(size) * 2.3, np.arange(size) * 2.3),
        "separated beside a crowd": (np.where(odd, np.arange(size) * 2.3, -3 + 0.01 * z),) * 2,
        "offset": (1e6 + z, 1e6 + z + noise),
        "1e12 apart": (1e12 * z, 1e12 * z[::-1]),
        "subnormal": (z * 2.0**-1060, noise * 2.0**-1060),
    }


LAYOUTS = sorted(_layouts(4, np.random.default_rng(0)))


def _from_middle(x, a, b):
    """The difference x - a - b, although x - a may need more digits than there are."""
    high = x - a
    back = high - x
    return (high - b) + ((x - (high - back)) - (a + back))


class _Exact:
    """Losses, gradients and their allowed errors, in extended precision from all pairs.

    A weight exp(e_ij) has the relative error κ·u: an exponent of at most C in its window and 2·SPREAD in the
    blocks is a product of four rounded factors and one rounded 2/τ (5 roundings), the exponential has 2, the
    polynomial 2·TERMS and its moments 4; a sum of positive numbers adds the roundings of one strip and of the
    strips. The sums over the rest are off by that, a share by twice that; τ/2 dL/dx and τ/2 dL/dy are sums of
    shares times differences, with 4 roundings more.
    """

    def __init__(self, x, y, tau, eps, cotangent):
        x, y, w, tau = (np.asarray(v, np.longdouble) for v in (x, y, cotangent, tau))
        batch = len(x)
        own = np.arange(batch)
        distance = np.abs(x[:, None] - y)
        nearest = np.where(distance.diagonal() <= distance.min(1), own, distance.argmin(1))
        n = y[nearest][:, None]
        exponent = 2 * (y - n) * _from_middle(x[:, None], n / 2, y / 2) / tau
        weight = np.exp(exponent)
        weight[own, nearest] = 0
        rest = weight.sum(1)
        apart = (x - y[nearest]) ** 2 / tau
        log_eps = np.log(np.longdouble(eps)) + apart if eps else np.full(batch, -np.inf)
        log_rest = np.log1p(rest)
        gap = -exponent.diagonal()
        self.loss = np.logaddexp(log_rest, log_eps) + gap
        log_total = np.logaddexp(log_rest, log_eps)
        weight[own, nearest] = 1
        share = weight * np.exp(-log_total)[:, None]
        eps_share = np.exp(log_eps - log_total)
        others = share.copy()
        others[own, own] = 0
        left = eps_share + others.sum(1)
        self.gx = 2 / tau * w * (eps_share * (x - y) + (others * (y - y[:, None])).sum(1))
        terms = w[:, None] * others * (x[:, None] - y)
        self.gy = 2 / tau * (terms.sum(0) - w * left * (x - y))

        reach_of_weights = LARGEST_EXPONENT
        kappa = 5 * (reach_of_weights + 2 * SPREAD) + 2 + 2 * TERMS + 4 + STRIP + batch / STRIP
        # the exponent of ε: a rounded logarithm, a square with 4 roundings, and the rounding of their sum
        away = eps_share * (5 * apart + 2 * abs(math.log(eps)) + 4 if eps else 0)
        shares = rest / (1 + rest)
        self.loss_error = U * (kappa * shares + 6 * gap + away + 4 * self.loss) + TINY
        relative = U * (2 * kappa + 8 + away + 6 * apart * (eps_share < 1) * eps_share)
        reach = np.abs(y - n) + np.abs(n - y[:, None])
        row = eps_share * np.abs(x - y) + (others * reach).sum(1)
        self.gx_error = 2 / tau * np.abs(w) * relative * row + TINY / tau
        column = (relative[:, None] * np.abs(w)[:, None] * others * np.abs(x[:, None] - y)).sum(0)
        # unless a row is dominated, p_jj (x_j - y_j) is taken off a sum that holds it
        held = np.where((nearest == own) & (rest < 0.25), 0, share.diagonal())
        own_error = relative * np.abs(w) * (left + 2 * held) * np.abs(x - y)
        self.gy_error = 2 / tau * (column + own_error + batch * U * np.abs(terms).sum(0)) + TINY / tau
        # what the windows may leave out
        own_apart = np.abs(w * (x - y))
        self.gx_error += ALLOWED * U * (np.abs(self.gx) + 2 / tau * own_apart)
        self.gy_error += ALLOWED * U * (np.abs(self.gy) + 2 / tau * own_apart)


def _run(x, y, tau, eps, cotangent):
    rows = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (x, y)]
    losses = concordance_loss_nce(*rows, tau, eps=eps, reduction="none", impl="sorted")
    gradients = torch.autograd.grad(losses, rows, torch.tensor(cotangent))
    return [t.detach().numpy() for t in (losses, *gradients)]


def _assert_within(x, y, tau, eps, cotangent):
    with np.errstate(all="ignore"):
        exact = _Exact(x, y, tau, eps, cotangent)
    found = _run(x, y, tau, eps, cotangent)
    for name, actual in zip(("loss", "gx", "gy"), found, strict=True):
        expected, allowed = getattr(exact, name), getattr(exact, f"{name}_error")
        assert np.all(np.abs(actual - expected) <= allowed), name


@pytest.mark.parametrize("eps", [0.0, 1e-8, 0.5])
@pytest.mark.parametrize("tau", [0.002, 0.1, 5.0])
@pytest.mark.parametrize("kind", LAYOUTS)
def test_every_layout_stays_within_its_bound(kind, tau, eps):
    rng = np.random.default_rng(0)
    x, y = _layouts(SIZE, rng)[kind]
    _assert_within(x, y, tau, eps, rng.normal(size=SIZE))


@settings(max_examples=examples(25))
@given(
    size=st.integers(WHOLE + 1, 600),
    seed=st.integers(0, 10**6),
    kinds=st.lists(st.sampled_from(LAYOUTS), min_size=1, max_size=3, unique=True),
    power=st.integers(-8, 8),
    tau=st.sampled_from([0.1, 0.01, 1.0, 37.0]),
    eps=st.sampled_from([1e-8, 0.0, 0.5]),
)
def test_mixed_layouts_stay_within_their_bound(size, seed, kinds, power, tau, eps):
    rng = np.random.default_rng(seed)
    layouts = _layouts(size, rng)
    which = rng.integers(len(kinds), size=size)
    x, y = (np.choose(which, [layouts[kind][side] for kind in kinds]) * 2.0**power for side in (0, 1))
    _assert_within(x, y, tau, eps, rng.normal(size=size))


@pytest.mark.parametrize(("kind", "tau"), [("identical", 0.001), ("identical counts", 0.015)])
def test_components_of_nothing_but_tiny_weights_are_summed_whole(kind, tau, monkeypatch):
    rng = np.random.default_rng(0)
    x, y = _layouts(SIZE, rng)[kind]
    again, check = [], cpu.check_kernel
    monkeypatch.setattr(cpu, "check_kernel", lambda *a: again.append(check(*a)) or again[-1])
    _assert_within(x, y, tau, 0.0, rng.normal(size=SIZE))
    assert again == [True, True]
    sides = [torch.tensor(side) for side in (x, y)]
    without = concordance_loss_nce(*sides, tau, eps=0.0, reduction="none")
    assert np.array_equal(without.numpy(), _run(x, y, tau, 0.0, np.ones(SIZE))[0])
    monkeypatch.setattr(cpu, "check_kernel", lambda *_: False)
    with pytest.raises(AssertionError):
        _assert_within(x, y, tau, 0.0, rng.normal(size=SIZE))


def _sorted_rows(x, y, tau):
    units = scaled(*(torch.tensor(v, dtype=torch.float64)[:, None] for v in (x, y)), tau)
    return units, sorted_rows(units, None, CUT)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_windows_hold_all_that_counts_and_move_to_the_right(kind):
    x, y = _layouts(SIZE, np.random.default_rng(1))[kind]
    units, found = _sorted_rows(x, y, 0.1)
    rows, sources = found.found, found.sources.astype(np.longdouble)
    anchor = sources[rows.anchor_place]
    exponents = 2 * (sources - anchor[:, None]) * (rows.x[:, None] - (sources + anchor[:, None]) / 2)
    exponents *= float(units.inverse_tau)
    place = np.arange(SIZE)
    inside = (rows.first[:, None] <= place) & (place < rows.last[:, None])
    # 5 roundings: two factors, their product, 1/τ and the product with it
    limit, slack = -CUT, 5 * U * CUT
    assert exponents[~inside].max(initial=-np.inf) < limit + slack
    assert exponents[inside].min() >= limit - slack
    assert np.all(np.diff(rows.first) >= 0)
    assert np.all(np.diff(rows.last) >= 0)
    assert exponents.max() <= slack  # none is nearer than the anchor
    nearer = exponents[place, rows.own_place] >= 0
    assert np.array_equal(rows.anchor_place[nearer], rows.own_place[nearer])


@pytest.mark.parametrize("radius", [0.0, 0.01, 0.3, 5.0])
@pytest.mark.parametrize("centre", [-30.0, 0.5, 1.0, 1e3])
def test_blocks_cover_the_window_and_are_narrow(radius, centre):
    sources = np.sort(np.random.default_rng(2).normal(size=500))
    starts = np.empty(501, np.int64)
    tau = 0.1
    count = cut(sources, 3, 480, centre, radius, tau, starts, math.inf, -math.inf)
    borders = starts[: count + 1]
    assert borders[0] == 3
    assert borders[-1] == 480
    assert np.all(np.diff(borders) > 0)
    assert count > 1
    for low, high in itertools.pairwise(borders):
        ahead = centre - sources[low:high]
        width = np.ptp(ahead)
        # a few roundings of each side
        assert radius * width <= tau * (1 + 8 * U)
        assert np.ptp(ahead**2) <= SPREAD * tau * (1 + 8 * U) + 8 * U * (ahead**2).max()


def test_a_block_is_the_sum_of_exponentials():
    rng = np.random.default_rng(3)
    z, weights, t = rng.uniform(-1, 1, 50), rng.uniform(0, 1, 50), 0.7
    moments, series, slopes = np.zeros(TERMS + 1), np.empty(TERMS), np.empty(TERMS)
    add_moments(weights.copy(), z, len(z), moments)
    taylor(moments, 1.0, 2.0, series, slopes)
    terms = weights * np.exp(np.longdouble(t) * z)
    powers = np.longdouble(t) ** np.arange(TERMS)
    # exponentials of at most e, TERMS products and sums of them, and 50 terms
    allowed = U * (3 * TERMS + 50) * np.e * weights.sum()
    assert abs((series * powers).sum() - terms.sum()) <= allowed
    assert abs((slopes * powers).sum() - 2 * (z * terms).sum()) <= 2 * allowed


@pytest.mark.parametrize(("kind", "path"), [("normal", "sum_group"), ("cauchy", "sum_row")])
def test_groups_and_single_rows_are_both_reached(kind, path, monkeypatch):
    found, original = [], getattr(sums, path)
    monkeypatch.setattr(sums, path, lambda *arguments: (found.append(1), original(*arguments)))
    x, y = _layouts(SIZE, np.random.default_rng(0))[kind]
    units, rows = _sorted_rows(x, y, 0.1)
    options = (float(units.inverse_tau), -math.inf, CUT, np.zeros(SIZE), 0, SIZE, True)
    sums.sum_rows.py_func(rows.found, 0, SIZE, rows.sources, *options)
    assert found


@pytest.mark.parametrize(("apart", "tau"), [(1.0, 0.1), (0.0, 1e-4)], ids=["once", "again"])
def test_the_number_of_threads_changes_nothing(apart, tau, monkeypatch):
    rng = np.random.default_rng(4)
    x = rng.normal(size=10_000)
    y, cotangent = x + apart * rng.normal(size=10_000), rng.normal(size=10_000)
    found, again, check = [], [], cpu.check_kernel
    monkeypatch.setattr(cpu, "check_kernel", lambda *a: again.append(check(*a)) or again[-1])
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(_run(x, y, tau, 0.0, cotangent))
    assert set(again) == {apart == 0.0}
    for others in found[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(found[0], others, strict=True))


@pytest.mark.parametrize("spacing", [2.3, 5.0, 8.0])
def test_a_tiny_loss_of_a_large_batch_keeps_its_digits(spacing):
    x = spacing * np.arange(2000.0)
    losses, gx, _ = _run(x, x, 0.1, 0.0, np.ones(2000))
    expected = np.exp(-(np.longdouble(spacing) ** 2) / np.longdouble(0.1))
    # an exponent of 5 roundings
    allowed = U * (5 * spacing**2 / 0.1 + 8)
    assert abs(losses[0] / expected - 1) <= allowed
    assert abs(losses[1] / (2 * expected) - 1) <= allowed
    assert abs(gx[0] / (20 * spacing * expected) - 1) <= allowed


def test_equal_cotangents_scale_what_the_forward_pass_found():
    x, y = _layouts(SIZE, np.random.default_rng(5))["normal"]
    together, again = (_run(x, y, 0.1, 1e-8, w) for w in (np.full(SIZE, 3.0), np.full(SIZE, 3.0)))
    assert all(np.array_equal(a, b) for a, b in zip(together, again, strict=True))
    nearly = np.full(SIZE, 3.0)
    nearly[0] = np.nextafter(3.0, 4.0)
    _, gx, gy = _run(x, y, 0.1, 1e-8, nearly)
    # both are within the bound of the layouts; here: the same to the digits of a sum over the batch
    for a, b in zip(together[1:], (gx, gy), strict=True):
        assert np.abs(a - b).max() <= 2 * U * SIZE * np.abs(a).max()


def _peak(x, y, tau):
    """Bytes that NumPy holds at most in forward and backward."""
    sides = [torch.tensor(side, requires_grad=True) for side in (x, y)]
    concordance_loss_nce(*sides, tau, eps=0.0).backward()
    tracemalloc.start()
    concordance_loss_nce(*sides, tau, eps=0.0).backward()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def test_memory_is_linear_in_the_batch():
    x, y = np.random.default_rng(6).normal(size=(2, 20_000))
    # about 15 arrays of the batch for the rows, 5 for each of the parts
    assert _peak(x, y, 0.1) <= 8 * 20_000 * (20 + 5 * 8)


def test_a_batch_summed_again_holds_one_pass_at_a_time(monkeypatch):
    x = np.random.default_rng(6).normal(size=20_000)
    check, again = cpu.check_kernel, []
    monkeypatch.setattr(cpu, "check_kernel", lambda *a: again.append(check(*a)) or again[-1])
    twice = _peak(x, x, 1e-4)
    assert all(again)
    # all windows as wide as in the second pass, and no first one; the losses are kept from it
    monkeypatch.setattr(cpu, "cut_off", lambda _batch, *, narrow: LARGEST_EXPONENT)  # noqa: ARG005
    assert twice <= _peak(x, x, 1e-4) + 2 * 8 * 20_000


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_goes_to_plain_torch(bad):
    x, y = torch.arange(4.0), torch.arange(4.0)
    x[1] = bad
    found, plain = (concordance_loss_nce(x, y, reduction="none", impl=impl) for impl in ("sorted", "torch"))
    assert torch.equal(found.nan_to_num(nan=-1.0), plain.nan_to_num(nan=-1.0))
    assert found.isnan().tolist() == plain.isnan().tolist() == [False, True, False, False]


def test_sorted_needs_one_feature():
    with pytest.raises(ValueError, match="impl='sorted' is not there for D = 2 on cpu; use 'auto' or"):
        concordance_loss_nce(torch.zeros(3, 2), torch.zeros(3, 2), impl="sorted")
    with pytest.raises(ValueError, match="impl must be one of 'auto', 'exact-blocks', 'sorted', 'torch'"):
        concordance_loss_nce(torch.zeros(3), torch.zeros(3), impl="fast")
    with pytest.raises(TypeError, match="impl must be a str, got NoneType"):
        concordance_loss_nce(torch.zeros(3), torch.zeros(3), impl=None)
