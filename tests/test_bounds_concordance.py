"""The InfoNCE bound: direct evaluations stay inside, come near, and careless ones fall outside."""

import itertools

import numpy as np
import pytest

from refimpl.bounds.concordance import concordance_loss_nce as bound_of
from refimpl.bounds.concordance import concordance_loss_nce_wrapper as wrapper_bound_of
from refimpl.bounds.precision import error_ratio, precision
from refimpl.concordance import (
    concordance_loss_nce,
    concordance_loss_nce_gradient,
    concordance_loss_nce_wrapper,
    concordance_loss_nce_wrapper_gradient,
)

FORMATS = {"float32": np.float32, "float64": np.float64}


def differences(x, y):
    return ((x[:, None] - y[None]) ** 2).sum(axis=2, dtype=x.dtype)


def expansion(x, y):
    squares = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1)[None] - 2 * (x @ y.T)
    return np.maximum(squares, 0)


def direct(x, y, tau, eps, *, distances=differences, tiny_rest=True):
    """Mean and gradients in the dtype of x."""
    kind = x.dtype.type
    rows, gx, gy = direct_rows(x, y, tau, eps, distances=distances, tiny_rest=tiny_rest)
    return rows.sum(dtype=kind) / kind(len(x)), gx / kind(len(x)), gy / kind(len(x))


def direct_rows(x, y, tau, eps, *, distances=differences, tiny_rest=True):
    """Rows and gradients of their sum in the dtype of x, log domain, the loss as the contract writes it."""
    kind = x.dtype.type
    tau = kind(tau)
    a = distances(x, y) / tau
    own = np.diag(a).copy()
    z = own[:, None] - a
    with np.errstate(divide="ignore"):
        e = own + np.log(kind(eps))
    shift = np.maximum(np.maximum(z.max(axis=1), e), 0)
    terms, extra = np.exp(z - shift[:, None]), np.exp(e - shift)
    total = terms.sum(axis=1, dtype=kind) + extra
    np.fill_diagonal(terms, 0)
    rest = terms.sum(axis=1, dtype=kind) + extra
    rows = np.where((shift == 0) & tiny_rest, np.log1p(rest), shift + np.log(total))
    p = np.exp(z - shift[:, None]) / total[:, None]
    gap = x[:, None] - y[None]
    pull = p[..., None] * gap
    factor = kind(2) / tau
    gx = factor * ((x - y) - pull.sum(axis=1, dtype=kind))
    gy = factor * (pull.sum(axis=0, dtype=kind) - (x - y))
    assert rows.dtype == gx.dtype == kind
    return rows, gx, gy


def orders(x, y):
    """The batch as it is, and permuted in rows and features."""
    rng = np.random.default_rng(0)
    yield x, y, np.arange(len(x))
    rows = rng.permutation(len(x))
    columns = rng.permutation(x.shape[1])
    yield x[rows][:, columns], y[rows][:, columns], rows


def ratios(name, x, y, tau, eps, **how):
    """Largest error / bound of the value and of the gradients, over the orders."""
    kind, formats = FORMATS[name], precision(name)
    worst = [0.0, 0.0]
    for a, b, _ in orders(x.astype(kind), y.astype(kind)):
        bound = bound_of(a, b, tau, precision=formats, eps=eps)
        value, *gradients = direct(a, b, tau, eps, **how)
        exact = concordance_loss_nce(a, b, tau, eps=eps)
        worst[0] = max(worst[0], float(error_ratio(value, exact, bound.value, formats.scalar_max)))
        for got, true, allowed in zip(
            gradients, concordance_loss_nce_gradient(a, b, tau, eps=eps), bound.gradient, strict=True
        ):
            worst[1] = max(
                worst[1], error_ratio(got, true, allowed, formats.result_max, overflows=True).max()
            )
    return worst


def layouts(rng):
    """Batches by hazard; each a pair (x, y)."""
    batch, features = int(rng.integers(1, 24)), int(rng.integers(1, 9))
    x = rng.normal(size=(batch, features))
    noise = rng.normal(size=(batch, features))
    yield x, noise
    yield x, x
    yield x, x + 0.1 * noise
    yield x + 1e6, x + 1e6 + noise
    yield 30 * x, 30 * x + noise
    yield x * 1e3, noise * 1e3
    yield rng.poisson(2.0, x.shape) - 1.5, rng.poisson(2.0, x.shape) - 1.5
    yield x * 10.0 ** rng.uniform(-12, 12, x.shape), noise * 10.0 ** rng.uniform(-12, 12, x.shape)


CASES = list(itertools.product(["float32", "float64"], [0.1, 1.0, 20.0], [1e-8, 0.0, 1.0]))


@pytest.mark.parametrize(("name", "tau", "eps"), CASES)
def test_direct_evaluation_is_inside(name, tau, eps):
    rng = np.random.default_rng(int(tau * 10 + eps * 100))
    for _ in range(12):
        for x, y in layouts(rng):
            value, gradient = ratios(name, x, y, tau, eps)
            assert value <= 1.0
            assert gradient <= 1.0


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_bound_is_used(name):
    """At least 5 % of the bound is reached: it says something."""
    rng = np.random.default_rng(7)
    reached = [ratios(name, x, y, 0.1, 1e-8) for _ in range(12) for x, y in layouts(rng)]
    assert min(np.max(reached, axis=0)) >= 0.05


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_expanded_squares_are_outside(name):
    rng = np.random.default_rng(3)
    x = 1e6 + rng.normal(size=(16, 4))
    y = x + 0.3 * rng.normal(size=(16, 4))
    value, gradient = ratios(name, x, y, 1.0, 0.0, distances=expansion)
    assert value > 1.0
    assert gradient > 1.0


def test_float32_accumulation_in_float64_is_outside():
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(2, 16, 4))
    value, gradient = ratios(
        "float64",
        x,
        y,
        1.0,
        0.0,
        distances=lambda a, b: differences(a, b).astype(np.float32).astype(np.float64),
    )
    assert value > 1.0
    assert gradient > 1.0


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_logarithm_of_one_plus_little_is_outside(name):
    """Log(1 + rest) instead of log1p(rest) loses a tiny loss."""
    x = np.arange(4.0)[:, None]
    assert ratios(name, x, x, 0.045, 0.0)[0] <= 1.0
    assert ratios(name, x, x, 0.045, 0.0, tiny_rest=False)[0] > 1.0


@pytest.mark.parametrize("name", ["float16", "float32", "float64"])
def test_rows_and_sums(name):
    """Reductions "none" and "sum"; half inputs go through float32 and come back as half where elementwise."""
    formats = precision(name)
    work = {"float16": np.float32}.get(name, np.dtype(name).type)
    rng = np.random.default_rng(9)
    reached = np.zeros(3)
    for _ in range(40):
        x, y = rng.normal(size=(2, 12, 3)).astype(name)
        rows, *gradients = direct_rows(x.astype(work), y.astype(work), 0.5, 1e-8)
        each = bound_of(x, y, 0.5, precision=formats, reduction="none")
        total = bound_of(x, y, 0.5, precision=formats, reduction="sum")
        exact = [concordance_loss_nce(x, y, 0.5, reduction=r) for r in ("none", "sum")]
        found = [
            error_ratio(rows.astype(name), exact[0], each.value, formats.result_max).max(),
            error_ratio(rows.sum(dtype=work), exact[1], total.value, formats.scalar_max).max(),
        ]
        true = concordance_loss_nce_gradient(x, y, 0.5, reduction="sum")
        for allowed in (each.gradient, total.gradient):
            for got, g, bound in zip(gradients, true, allowed, strict=True):
                ratio = error_ratio(got.astype(name), g, bound, formats.result_max, overflows=True)
                assert ratio.max() <= 1.0
        reached = np.maximum(reached, [*found, ratio.max()])
    assert reached.max() <= 1.0
    assert reached.min() >= 0.05


def test_never_nan_for_extreme_input():
    extreme = np.array([[1.7e308, -5e-324], [-1.7e308, 1e-300], [0.0, 1.0]])
    for name, tau in itertools.product(["float32", "float64"], [5e-324, 0.1, 1.7e308]):
        bound = bound_of(extreme, extreme[::-1], tau, precision=precision(name))
        assert not np.isnan(bound.value)
        assert not any(np.isnan(g).any() for g in bound.gradient)


def test_nothing_counts():
    empty = np.zeros((0, 2))
    bound = bound_of(empty, empty, precision=precision("float32"))
    assert bound.value == 0.0
    assert [g.shape for g in bound.gradient] == [(0, 2), (0, 2)]


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_wrapper_allows_the_rounded_residual(name):
    kind, formats = FORMATS[name], precision(name)
    rng = np.random.default_rng(6)
    reached = 0.0
    for _ in range(60):
        reads, mu = rng.poisson(5.0, size=(2, 9)).astype(kind), rng.gamma(2.0, size=(2, 9)).astype(kind)
        outputs = {"r1": {"mu": mu[0][:, None]}, "r2": {"mu": mu[1]}}
        batch = {"r1": {"reads": reads[0]}, "r2": {"reads": reads[1]}}
        bound = wrapper_bound_of(outputs, batch, precision=formats, tau=0.5)
        x, y = (reads - mu)[..., None]
        value, gx, gy = direct(x, y, 0.5, 1e-8)
        exact = concordance_loss_nce_wrapper(outputs, batch, tau=0.5)
        reached = max(reached, float(error_ratio(value, exact, bound.value, formats.scalar_max)))
        gradients = concordance_loss_nce_wrapper_gradient(outputs, batch, tau=0.5)
        for replicate, got in (("r1", -gx), ("r2", -gy[:, 0])):
            ratio = error_ratio(
                got,
                gradients[replicate]["mu"],
                bound.gradient[replicate]["mu"],
                formats.result_max,
                overflows=True,
            )
            assert ratio.max() <= 1.0
    assert 0.05 <= reached <= 1.0
