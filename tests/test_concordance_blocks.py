"""InfoNCE of points on the CPU, exact blocks: the filter, each branch against the oracle, threads."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from refimpl import concordance as oracle
from refimpl.bounds import concordance as bounds
from refimpl.bounds.precision import error_ratio, precision
from torchimpl.kernels import concordance_blocks as blocks
from torchimpl.kernels import concordance_blocks_cpu_left_out as left_out
from torchimpl.kernels.concordance import Pairs, loss_gradient, loss_rows, scaled
from torchimpl.kernels.concordance_blocks import gradient_blocks, make_filter, make_products, rows_blocks
from torchimpl.kernels.concordance_blocks_cpu_filter import GROUP, NEVER, fill_block

U = 2.0**-53


def _normal(size, features, g):
    return torch.randn(size, features, generator=g, dtype=torch.float64)


def _replicates(size, features, g):
    x = _normal(size, features, g)
    return x, x + 0.3 * _normal(size, features, g)


def _independent(size, features, g):
    return _normal(size, features, g), _normal(size, features, g)


def _identical(size, features, g):
    x = _normal(size, features, g)
    return x, x.clone()


def _offset(size, features, g):
    return tuple(t + 1e6 for t in _replicates(size, features, g))


def _apart(size, features, g):
    x, y = _replicates(size, features, g)
    return x, y + 1e12


def _clusters(size, features, g):
    where = torch.where(torch.arange(size) % 2 == 0, 50.0, -50.0)[:, None]
    return tuple(t + where for t in _replicates(size, features, g))


def _cauchy(size, features, g):
    return tuple(torch.tan(t) for t in _replicates(size, features, g))


def _counts(size, features, g):
    return tuple((2 * t).round() for t in _replicates(size, features, g))


def _identical_counts(size, features, g):
    x = (2 * _normal(size, features, g)).round()
    return x, x.clone()


def _mixed(size, features, g):
    power = torch.randint(-30, 31, (size, 1), generator=g).double()
    return tuple(t * 10.0**power for t in _replicates(size, features, g))


def _subnormal(size, features, g):
    return tuple(t * 1e-310 for t in _replicates(size, features, g))


def _huge(size, features, g):
    return tuple(t.tanh() * 1.7e308 for t in _replicates(size, features, g))


def _midpoints(size, features, g):
    sign = torch.where(torch.arange(size) % 2 == 0, 3.0, -3.0)[:, None]
    return 1e-3 * _normal(size, features, g), sign * torch.ones(size, features, dtype=torch.float64)


def _alike(size, features, g):
    return tuple(t[:1].expand(size, features) for t in _replicates(size, features, g))


def _sphere(size, features, g):
    return tuple(torch.nn.functional.normalize(t, dim=1) for t in _replicates(size, features, g))


def _outliers(size, features, g):
    """Two sources far from all others, each near the other one's row."""
    x, y = _replicates(size, features, g)
    x[:2], y[:2] = 1e6 + x[0], 1e6 + y[0]
    return x, y


LAYOUTS = {
    f.__name__.removeprefix("_"): f
    for f in (
        _replicates,
        _independent,
        _identical,
        _offset,
        _apart,
        _clusters,
        _cauchy,
        _counts,
        _identical_counts,
        _mixed,
        _subnormal,
        _huge,
        _midpoints,
        _alike,
        _sphere,
        _outliers,
    )
}


def _batch(layout, size, features, seed=0):
    return LAYOUTS[layout](size, features, torch.Generator().manual_seed(seed))


def _record_dense(monkeypatch):
    """A list that receives how many rows each run of the kernel summed over all sources."""
    counts, kernel = [], blocks.kernel

    def run(*arguments):
        counts.append(kernel(*arguments))
        return counts[-1]

    monkeypatch.setattr(blocks, "kernel", run)
    return counts


def _held(x, y, tau, eps, *, narrow=False, cotangent=None):
    """The largest error of losses and gradients, in units of the bound."""
    formats = precision("float32" if narrow else "float64")
    losses, *kept = rows_blocks(x, y, tau, eps, narrow=narrow, slopes=True)
    ones = torch.ones(len(x), dtype=torch.float64) if cotangent is None else cotangent
    gradients = gradient_blocks(ones, x, y, *kept, tau, eps, narrow=narrow)
    arrays, weights = (x.numpy(), y.numpy()), ones.numpy()
    exact = oracle.concordance_loss_nce(*arrays, tau, eps=eps, reduction="none")
    bound = bounds.concordance_loss_nce(*arrays, tau, eps=eps, reduction="none", precision=formats)
    expected = oracle.concordance_loss_nce_gradient(
        *arrays, tau, eps=eps, reduction="none", cotangent=weights
    )
    found = np.minimum(losses.numpy(), np.finfo(np.float64).max)
    # the filter may leave out exp(-CUT) of what all others weigh: 1 - p_ii <= min(1, L_i), as L_i = -log p_ii
    lost = np.minimum(exact, 1.0) * np.exp(-(blocks.NARROW_CUT if narrow else blocks.CUT))
    worst = [error_ratio(found, exact, bound.value + lost, np.finfo(np.float64).max).max()]
    largest = np.abs(weights).max()
    for g, e, allowed in zip(gradients, expected, bound.gradient, strict=True):
        # one more rounding for the product with the cotangent
        limit = largest * allowed + U * np.abs(e)
        worst.append(error_ratio(g.numpy(), e, limit, np.finfo(np.float64).max, overflows=True).max())
    return max(worst)


layouts = st.sampled_from(sorted(LAYOUTS))
finite_sums = st.sampled_from(sorted(set(LAYOUTS) - {"huge"}))
taus, epsilons = st.sampled_from([0.003, 0.1, 5.0]), st.sampled_from([1e-8, 0.0, 0.5])


@given(layouts, st.integers(1, 7), st.integers(1, 9), st.integers(0, 10**6), taus, epsilons)
@example("alike", 1, 1, 0, 0.1, 0.0)
def test_small_batches_stay_within_the_bound(layout, size, features, seed, tau, eps):
    assert _held(*_batch(layout, size, features, seed), tau, eps) <= 1


@pytest.mark.parametrize("narrow", [False, True], ids=["wide", "narrow"])
@settings(max_examples=30)
@given(layout=finite_sums, size=st.integers(80, 120), features=st.integers(2, 9), tau=taus, eps=epsilons)
def test_filtered_batches_stay_within_the_bound(narrow, layout, size, features, tau, eps):
    x, y = _batch(layout, size, features)
    if narrow:
        x, y = (t.clamp(-3e38, 3e38).float().double() for t in (x, y))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "WHOLE", 0)
        assert _held(x, y, tau, eps, narrow=narrow) <= 1


@pytest.mark.parametrize("layout", ["replicates", "sphere"])
def test_cotangents_weigh_the_rows(layout, monkeypatch):
    monkeypatch.setattr(blocks, "WHOLE", 0)
    x, y = _batch(layout, 100, 4)
    cotangent = _normal(100, 1, torch.Generator().manual_seed(1))[:, 0]
    cotangent[::3] = 0.0
    assert _held(x, y, 0.1, 1e-8, cotangent=cotangent) <= 1
    assert _held(x, y, 0.1, 1e-8, cotangent=torch.full_like(cotangent, -2.5)) <= 1
    nothing = torch.zeros_like(cotangent)
    kept = rows_blocks(x, y, 0.1, 1e-8, narrow=False, slopes=False)[1:]
    assert not any(g.any() for g in gradient_blocks(nothing, x, y, *kept, 0.1, 1e-8, narrow=False))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("whole", [0, blocks.WHOLE])
def test_a_cotangent_that_is_no_number_stays_in_its_terms(bad, whole, monkeypatch):
    monkeypatch.setattr(blocks, "WHOLE", whole)
    x, y = _batch("identical", 100, 4)
    cotangent = torch.ones(100, dtype=torch.float64)
    cotangent[7] = bad
    kept = rows_blocks(x, y, 0.1, 0.0, narrow=False, slopes=True)[1:]
    gx, gy = gradient_blocks(cotangent, x, y, *kept, 0.1, 0.0, narrow=False)
    assert torch.equal(gx.isfinite().all(1), torch.arange(100) != 7)
    assert not gy[7].isfinite().any()


def test_the_check_sees_a_wrong_weight(monkeypatch):
    x, y = _batch("replicates", 5, 2)
    monkeypatch.setattr(blocks, "scaled", lambda x, y, tau: scaled(x, y, tau * (1 + 1e-13)))
    assert _held(x, y, 0.1, 1e-8) > 1


# layout, features, tau, narrow, rows over all sources
BRANCHES = [
    ("replicates", 16, 0.1, False, "few"),
    ("clusters", 16, 0.1, True, "few"),
    ("outliers", 16, 0.1, False, "few"),
    ("sphere", 8, 0.1, False, "all"),
    ("sphere", 8, 0.1, True, "all"),
    ("replicates", 3, 50.0, False, "all"),
]


@pytest.mark.parametrize(("layout", "features", "tau", "narrow", "rows"), BRANCHES)
def test_every_branch_answers(layout, features, tau, narrow, rows, monkeypatch):
    monkeypatch.setattr(blocks, "WHOLE", 0)
    counts = _record_dense(monkeypatch)
    x, y = (t.float().double() for t in _batch(layout, 256, features))
    assert _held(x, y, tau, 1e-8, narrow=narrow) <= 1
    assert len(counts) == 2
    assert sum(counts) == 256 if rows == "all" else sum(counts) < 128


@pytest.mark.parametrize(
    ("layout", "tau", "narrow"),
    [
        ("identical", 0.02, False),
        ("identical", 0.02, True),
        ("identical_counts", 0.01, False),
        ("identical_counts", 0.05, True),
    ],
)
def test_tiny_components_are_summed_over_all_pairs(layout, tau, narrow, monkeypatch):
    """Weights that the filter leaves out: nothing beside the loss, and all there is in a component."""
    monkeypatch.setattr(blocks, "WHOLE", 0)
    x, y = (t.float().double() for t in _batch(layout, 200, 4))
    again = []

    def sum_again(problem, known, inverse_tau, total):
        before = total.copy()
        left_out.sum_again(problem, known, inverse_tau, total)
        again.append((before != total).any())

    monkeypatch.setattr(blocks, "sum_again", sum_again)
    assert _held(x, y, tau, 0.0, narrow=narrow) <= 1
    assert again == [True]
    monkeypatch.setattr(blocks, "sum_again", lambda *_: None)
    assert _held(x, y, tau, 0.0, narrow=narrow) > 1


@pytest.mark.parametrize("layout", ["identical", "identical_counts", "replicates"])
def test_losses_are_the_same_with_and_without_slopes(layout, monkeypatch):
    monkeypatch.setattr(blocks, "WHOLE", 0)
    x, y = _batch(layout, 200, 4)
    counts = _record_dense(monkeypatch)
    with_slopes, without = (rows_blocks(x, y, 0.01, 0.0, narrow=False, slopes=s)[0] for s in (True, False))
    assert torch.equal(with_slopes, without)
    if layout == "identical_counts":
        assert counts[0] > counts[1]


def test_a_filter_without_a_use_is_left_alone(monkeypatch):
    """Rows beyond float32: all pairs are summed, and most blocks are not even tried."""
    monkeypatch.setattr(blocks, "WHOLE", 0)
    counts = _record_dense(monkeypatch)
    x, y = (t * 2.0**60 for t in _batch("replicates", 160, 3))
    assert make_filter(*scaled(x, y, 0.1)[:2], 1.0, 4, narrow=False).slack.min() == np.inf
    assert _held(x, y, 0.1, 1e-8) <= 1
    assert counts == [160]


def _exact_products(x, y):
    """s_ij of the centred points in long double, whose roundings are 2^-11 of those of float64."""
    centre = blocks.middle(y).numpy().astype(np.longdouble)
    rows, sources = (t.numpy().astype(np.longdouble) - centre for t in (x, y))
    return rows @ sources.T - 0.5 * (sources**2).sum(1)


def _filter_error(layout, size, features, seed):
    """|S_ij - s_ij| / slack_i of all pairs that are in the filter."""
    x, y = scaled(*_batch(layout, size, features, seed), 0.1)[:2]
    known = make_filter(x, y, 1.0, size + (-size) % 4, narrow=False)
    s = np.empty((size + (-size) % 4, len(known.bias)), np.float32)
    fill_block(known, 0, size, s, np.empty((len(s), len(known.bias) // GROUP), np.float32))
    inside = s[:size, :size] > NEVER
    inside &= np.isfinite(known.slack)[:, None]
    if not inside.any():
        return 0.0
    error = np.abs(s[:size, :size] - _exact_products(x, y))
    slack = np.broadcast_to(known.slack[:, None], error.shape)
    return float((error[inside] / slack[inside]).max())


filtered = st.sampled_from(sorted(set(LAYOUTS) - {"huge", "alike"}))


@given(filtered, st.integers(2, 40), st.integers(2, 70), st.integers(0, 10**6))
def test_the_filter_keeps_its_bound(layout, size, features, seed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "WHOLE", 0)
        assert _filter_error(layout, size, features, seed) <= 1


def test_the_bound_of_the_filter_is_not_idle(monkeypatch):
    monkeypatch.setattr(blocks, "WHOLE", 0)
    assert _filter_error("replicates", 40, 3, 0) > 2.0**-6
    monkeypatch.setattr(blocks, "SINGLE", 2.0**-31)
    assert _filter_error("replicates", 40, 3, 0) > 1


@given(layouts, st.integers(80, 120), st.integers(2, 9), st.integers(0, 10**6))
@settings(max_examples=30)
def test_the_filter_loses_no_source_that_counts(layout, size, features, seed):
    """With and without it: up to what it may leave out and the rounding of sums, the losses are the same."""
    x, y = _batch(layout, size, features, seed)
    whole = rows_blocks(x, y, 0.1, 0.0, narrow=False, slopes=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "WHOLE", 0)
        found = rows_blocks(x, y, 0.1, 0.0, narrow=False, slopes=False)
    assert torch.equal(whole[1], found[1])
    # other sums of the same positive terms, each of which is computed in the same way
    normal = whole[0].clamp(min=2.0**-1022)
    near = (whole[0] - found[0]).abs() <= (2 * size + 2) * U * normal
    assert bool((near | (whole[0] == found[0])).all())


def test_narrow_products_are_within_their_bound(monkeypatch):
    monkeypatch.setattr(blocks, "WHOLE", 0)
    x, y = (t.float().double() for t in _batch("sphere", 160, 8))
    assert len(make_products(*scaled(x, y, 0.1)[:2], 10.0, narrow=True).bias)
    assert not len(make_products(*scaled(x, y, 0.1)[:2], 10.0, narrow=False).bias)
    assert not len(make_products(*scaled(1e3 * x, 1e3 * y, 0.1)[:2], 10.0, narrow=True).bias)
    narrow, wide = (rows_blocks(x, y, 0.1, 0.0, narrow=n, slopes=False)[0] for n in (True, False))
    assert not torch.equal(narrow, wide)
    # others' weights move by 2^-30 each and lose 2^-30 to the cut, the loss no more than they
    assert bool(((narrow - wide).abs() <= 2.0**-28 * wide).all())


@pytest.mark.parametrize(
    ("layout", "tau"),
    [("replicates", 0.1), ("sphere", 0.1), ("clusters", 0.1), ("outliers", 0.1), ("identical", 0.02)],
)
@pytest.mark.parametrize("features", [1, 3, 8])
def test_the_number_of_threads_changes_no_bit(layout, tau, features):
    x, y = _batch(layout, 700, features)
    cotangent = _normal(700, 1, torch.Generator().manual_seed(1))[:, 0]
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        for narrow in (False, True):
            rows = rows_blocks(x, y, tau, 1e-8, narrow=narrow, slopes=True)
            results.append((*rows, *gradient_blocks(cotangent, x, y, *rows[1:], tau, 1e-8, narrow=narrow)))
    for found in results[2:]:
        assert any(all(map(torch.equal, found, first)) for first in results[:2])


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_anchor_and_normaliser_serve_plain_torch(layout):
    """The second derivative is formed from them by `Pairs`."""
    x, y = _batch(layout, 20, 3)
    _, nearest, normaliser, _ = rows_blocks(x, y, 0.1, 1e-8, narrow=False, slopes=False)
    pairs = Pairs(x, y, tau=0.1, eps=1e-8, rows=0, wide=True, nearest=nearest)
    ones = torch.ones(20, dtype=torch.float64)
    gradients = loss_gradient(pairs, ones, normaliser)
    expected = oracle.concordance_loss_nce_gradient(x.numpy(), y.numpy(), 0.1, eps=1e-8, reduction="sum")
    bound = bounds.concordance_loss_nce(
        x.numpy(), y.numpy(), 0.1, eps=1e-8, reduction="sum", precision=precision("float64")
    )
    for g, e, allowed in zip(gradients, expected, bound.gradient, strict=True):
        assert error_ratio(g.numpy(), e, allowed, np.finfo(np.float64).max, overflows=True).max() <= 1


def test_numbers_next_to_the_largest_are_plain_torch():
    x, y = _batch("huge", 9, 2)
    losses, nearest, normaliser, slopes = rows_blocks(x, y, 0.1, 1e-8, narrow=False, slopes=True)
    pairs = Pairs(x, y, tau=0.1, eps=1e-8, rows=0, wide=True)
    expected, expected_normaliser = loss_rows(pairs)
    assert torch.equal(losses, expected)
    assert torch.equal(normaliser, expected_normaliser)
    assert torch.equal(nearest, pairs.nearest)
    assert slopes.shape == (2, 9, 2)
    cotangent = torch.arange(9.0, dtype=torch.float64)
    found = gradient_blocks(cotangent, x, y, nearest, normaliser, slopes, 0.1, 1e-8, narrow=False)
    assert all(map(torch.equal, found, loss_gradient(pairs, cotangent, normaliser)))


def test_without_slopes_none_are_kept():
    x, y = _batch("replicates", 50, 3)
    with_slopes, without = (rows_blocks(x, y, 0.1, 1e-8, narrow=False, slopes=s) for s in (True, False))
    assert without[3].shape == (2, 0, 3)
    assert all(map(torch.equal, with_slopes[:3], without[:3]))


@pytest.mark.parametrize("batch", [1, 100, 5000, 10**6])
def test_a_block_is_linear_in_the_batch(batch):
    rows = blocks.rows_per_block(batch)
    assert rows % 4 == 0
    assert 4 <= rows <= blocks.LONGEST_BLOCK
    assert rows * batch <= max(4 * batch, blocks.BLOCK)


def test_arrays_handed_to_the_kernel_are_linear_in_the_batch(monkeypatch):
    sizes, kernel = [], blocks.kernel

    def run(problem, known, products, *rest):
        arrays = [a for a in (*problem, *known, *products, *rest) if isinstance(a, np.ndarray)]
        sizes.append(max(a.size for a in arrays))
        return kernel(problem, known, products, *rest)

    monkeypatch.setattr(blocks, "kernel", run)
    x, y = _batch("sphere", 1024, 5)
    rows_blocks(x, y, 0.1, 1e-8, narrow=True, slopes=True)
    # features are padded to a multiple of 4, sources by up to two groups, rows by a block
    assert max(sizes) <= 8 * (1024 + 2 * GROUP + blocks.LONGEST_BLOCK)
