"""The negative-binomial CDF: against the oracle, Arb and scipy, and at every edge."""

import importlib.util
import itertools
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from flint import arb, ctx
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from refimpl import negative_binomial as oracles
from refimpl.bounds import negative_binomial as bounds
from refimpl.bounds.precision import error_ratio, precision
from tests.budget import examples
from tests.negative_binomial_points import REGIONS, arb_tails, double, points
from torchimpl.kernels.negative_binomial import evaluate
from torchimpl.kernels.negative_binomial_second import second_partials
from torchimpl.negative_binomial import (
    negative_binomial_cdf,
    negative_binomial_log_prob,
    negative_binomial_sf,
)

INF, NAN = float("inf"), float("nan")
U = 2.0**-53
SIDES = {
    "cdf": (
        negative_binomial_cdf,
        oracles.negative_binomial_cdf,
        oracles.negative_binomial_cdf_gradient,
        bounds.negative_binomial_cdf,
    ),
    "sf": (
        negative_binomial_sf,
        oracles.negative_binomial_sf,
        oracles.negative_binomial_sf_gradient,
        bounds.negative_binomial_sf,
    ),
    "log_prob": (
        negative_binomial_log_prob,
        oracles.negative_binomial_log_prob,
        oracles.negative_binomial_log_prob_gradient,
        bounds.negative_binomial_log_prob,
    ),
}


@st.composite
def batches(draw, dtype):
    """Feasible for summation: r over twelve decades, counts near the mean and far from it."""
    rows = []
    for _ in range(draw(st.integers(1, 8))):
        r = 10 ** draw(st.floats(-6, 6))
        mu = draw(st.sampled_from([0.0, 1e-30, 10 ** draw(st.floats(-8, 3))]))
        spread = (mu + mu * mu / r) ** 0.5
        near = max(0.0, np.floor(mu + draw(st.floats(-6, 6)) * min(spread, 1e3)))
        anywhere = float(draw(st.integers(0, 3000)))
        rows.append((draw(st.sampled_from([0.0, 1.0, 2.0, near, -1.0, anywhere])), mu, r))
    return [np.array(column).astype(dtype).astype(np.float64) for column in zip(*rows, strict=True)]


def worst_ratio(side, arrays, values, gradients, form, highest):
    _, oracle, oracle_gradient, bound = SIDES[side]
    allowed = bound(*arrays, precision(form))
    ratios = [error_ratio(values, oracle(*arrays), allowed.value, highest)]
    exact = oracle_gradient(*arrays)
    for actual, expected, limit in zip(gradients, exact, allowed.gradient, strict=True):
        ratios.append(error_ratio(actual, expected, limit, highest, overflows=True))
    return max(float(np.max(ratio)) for ratio in ratios)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("form", ["float64", "float32"])
@settings(max_examples=examples(60))
@given(data=st.data())
def test_agrees_with_the_oracle(side, form, data):
    arrays = data.draw(batches(form))
    assume(np.all(arrays[2] > 0))
    y, mu, r = (torch.tensor(array).to(getattr(torch, form)) for array in arrays)
    mu.requires_grad_()
    r.requires_grad_()
    result = SIDES[side][0](y, mu, r)
    gradients = [g.double().numpy() for g in torch.autograd.grad(result.sum(), (mu, r))]
    highest = torch.finfo(result.dtype).max
    values = result.detach().double().numpy()
    assert worst_ratio(side, arrays, values, gradients, form, highest) <= 1.0


@settings(max_examples=examples(60))
@given(arrays=batches("float64"))
def test_dense_evaluation_agrees_with_the_oracle(arrays):
    found = evaluate(*double(*arrays), dense=True)
    for side, value, sign in (("cdf", found.cdf, 1.0), ("sf", found.sf, -1.0)):
        gradients = (sign * found.d_mu.numpy(), sign * found.d_r.numpy())
        assert worst_ratio(side, arrays, value.numpy(), gradients, "float64", np.finfo(float).max) <= 1.0


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize(
    ("k", "mu", "r"),
    [
        (1e12, 1e12, 1e10),
        (1e12, 1e12 + 3e7, 1e10),
        (2e7, 1.9e7, 1e3),
        (3e6, 5.0, 2e-6),
        (5e8, 3e8, 0.7),
        (60.0, 61.0, 1e17),
        (1e6, 1.01e6, 4e4),
        (1e9, 1e9, 1e9),
    ],
)
def test_agrees_with_arb_where_no_summation_can_go(k, mu, r, dense):
    ctx.prec = 400
    h = arb(2) ** -100
    exact = arb_tails(k, arb(mu), arb(r))
    step_mu = arb_tails(k, arb(mu) * (1 + h), arb(r))[0]
    step_r = arb_tails(k, arb(mu), arb(r) * (1 + h))[0]
    found = evaluate(*double([k], [mu], [r]), dense=dense)
    which = 0 if exact[0] < exact[1] else 1
    tail, actual = float(exact[which]), (found.cdf, found.sf)[which].item()
    condition = float((abs((step_mu - exact[0]) / h) + abs((step_r - exact[0]) / h)) / exact[which])
    # Roundings: the quotients x, y, (mu-b)/s act through the condition number, the two deviance terms
    # carry 6 each, relative to themselves (their sum is below |log T| + 1), the rest (Stirling terms, square
    # roots, 24 quadrature nodes or 40 steps of a contracting recurrence) at most 64.
    allowed = U * (6 * condition + 12 * (abs(np.log(tail)) + 1) + 64) * tail
    assert abs(actual - tail) <= allowed
    # the larger one is 1 - tail, rounded; their sum rounds once more
    assert found.cdf.item() + found.sf.item() == pytest.approx(1.0, rel=2 * U, abs=0.0)


def test_the_parametrisation_is_scipys_with_p_equal_r_over_r_plus_mu():
    y, mu, r = (array.numpy() for array in points())
    theirs = scipy.stats.nbinom.cdf(y, r, r / (r + mu))
    ours = negative_binomial_cdf(*points()).numpy()
    # scipy states no error bound: half of the digits tell this parametrisation from every other
    np.testing.assert_allclose(ours, theirs, rtol=U**0.5)


def test_closed_forms():
    k = torch.arange(6.0, dtype=torch.float64)
    mu, one = double(3.0, 1.0)
    # r = 1 is the geometric law: 1-F = (mu/(1+mu))^(k+1), six roundings and a power of six factors
    exact = 0.75 ** (k + 1)
    assert torch.all((negative_binomial_sf(k, mu, one) - exact).abs() <= 32 * U * exact)


class TestEdges:
    @pytest.mark.parametrize(
        ("y", "mu", "r", "cdf", "d_mu"),
        [
            (-1.0, 2.0, 3.0, 0.0, 0.0),
            (-0.5, 2.0, 3.0, 0.0, 0.0),
            (-INF, 2.0, 3.0, 0.0, 0.0),
            (INF, 2.0, 3.0, 1.0, 0.0),
            (0.0, 0.0, 3.0, 1.0, -1.0),
            (0.7, 0.0, 3.0, 1.0, -1.0),
            (1.0, 0.0, 3.0, 1.0, 0.0),
            (-1.0, 0.0, 3.0, 0.0, 0.0),
            (0.0, 0.0, INF, 1.0, -1.0),
        ],
    )
    def test_values_and_slopes(self, y, mu, r, cdf, d_mu):
        y, mu, r = double([y], [mu], [r])
        value = negative_binomial_cdf(y, mu.requires_grad_(), r.requires_grad_())
        gradients = torch.autograd.grad(value.sum(), (mu, r))
        assert (value.item(), *(g.item() for g in gradients)) == (cdf, d_mu, 0.0)
        assert negative_binomial_sf(y, mu, r).item() == 1.0 - cdf

    def test_the_slope_at_mu_0_is_the_limit(self):
        for k, limit in ((0.0, -1.0), (1.0, 0.0), (5.0, 0.0)):
            y, mu, r = double([k], [1e-300], [2.0])
            (slope,) = torch.autograd.grad(negative_binomial_cdf(y, mu.requires_grad_(), r).sum(), mu)
            assert abs(slope.item() - limit) <= 1e-299

    @pytest.mark.parametrize(
        ("y", "mu", "r"),
        [
            *[(NAN, 1.0, 1.0), (1.0, NAN, 1.0), (1.0, 1.0, NAN), (1.0, -1.0, 1.0), (1.0, INF, 1.0)],
            *[(1.0, 1.0, 0.0), (1.0, 1.0, -2.0), (-1.0, 1.0, -1.0), (INF, 1.0, 0.0), (0.0, 0.0, 0.0)],
        ],
    )
    @pytest.mark.parametrize("dense", [False, True])
    def test_invalid_is_nan_at_its_place_only(self, y, mu, r, dense):
        clean = evaluate(*points(), dense=dense)
        dirty = evaluate(
            *(torch.cat([a, b]) for a, b in zip(double([y], [mu], [r]), points(), strict=True)), dense=dense
        )
        for one, both in zip(clean, dirty, strict=True):
            assert both[0].isnan()
            assert torch.equal(one, both[1:])

    def test_floors_and_takes_integers(self):
        y, mu, r = points()
        expected = negative_binomial_cdf(y, mu, r)
        assert torch.equal(negative_binomial_cdf(y + 0.75, mu, r), expected)
        assert torch.equal(negative_binomial_cdf(y.to(torch.int64), mu, r), expected)

    def test_y_has_no_gradient(self):
        y, mu, r = points(grad=True)
        y.requires_grad_()
        grads = torch.autograd.grad(negative_binomial_cdf(y, mu, r).sum(), (y, mu), allow_unused=True)
        assert grads[0] is None
        assert grads[1] is not None

    def test_poisson_limit(self):
        y, rate, _ = points()
        value = negative_binomial_cdf(y, rate, torch.tensor(INF, dtype=torch.float64))
        arrays = y.numpy(), rate.numpy()
        allowed = bounds.poisson_cdf(*arrays, precision("float64")).value
        assert np.max(error_ratio(value.numpy(), oracles.poisson_cdf(*arrays), allowed, 1.0)) <= 1.0

    @pytest.mark.parametrize("dense", [False, True])
    def test_no_nan_anywhere(self, dense):
        sizes = [5e-324, 1e-310, 1e-300, 1e-160, 1e-30, 1e-8, 0.3, 1.0, 10.0, 1e4, 1e30, 1e160, 1e300]
        top = np.finfo(float).max
        counts = [0.0, 1.0, 2.0, 60.0, 1e3, 1e15, 1e30, 1e300, top]
        rows = list(itertools.product(counts, [0.0, *sizes, top], [*sizes, top, INF]))
        y, mu, r = points(rows)
        found = evaluate(y, mu, r, dense=dense)
        assert all(torch.isfinite(value).all() for value in found)
        assert bool(((found.cdf >= 0) & (found.cdf <= 1) & (found.sf >= 0) & (found.sf <= 1)).all())
        assert bool((found.d_mu <= 0).all())
        assert not any(value.isnan().any() for value in second_partials(y, mu, r, dense=dense))

    @pytest.mark.parametrize(
        ("k", "mu", "r", "sf", "d_r"),
        [
            # 1-F -> r (log(mu/r) - H_k - gamma) as r/mu -> 0, gamma cancelling against Gamma(1+r) at k = 0
            (0.0, 1.0, 1e-300, 1e-300 * np.log(1e300), -(np.log(1e300) - 1.0)),
            # r + mu -> 0: 1-F = r Σ_{j>k} y^j/j
            (1.0, 1e-310, 1e-310, 1e-310 * (np.log(2.0) - 0.5), -(np.log(2.0) - 0.5 - 0.25)),
        ],
    )
    def test_tiny_dispersions_keep_their_digits(self, k, mu, r, sf, d_r):
        y, mu, r = double([k], [mu], [r])
        value = negative_binomial_sf(y, mu, r.requires_grad_())
        (slope,) = torch.autograd.grad(negative_binomial_cdf(y, mu, r).sum(), r)
        assert abs(value.item() - sf) <= 16 * U * sf + 5e-324
        assert abs(slope.item() - d_r) <= 32 * U * abs(d_r)

    def test_cotangent_zero_gives_zero(self):
        y, mu, r = double([NAN, 1.0], [1.0, 1.0], [1.0, -1.0])
        value = negative_binomial_cdf(y, mu.requires_grad_(), r.requires_grad_())
        for gradient in torch.autograd.grad(value, (mu, r), torch.zeros(2, dtype=torch.float64)):
            assert gradient.tolist() == [0.0, 0.0]

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
    def test_narrow_dtypes_are_the_float64_result_rounded(self, dtype):
        y, mu, r = (array.to(dtype) for array in points(REGIONS[:6]))
        narrow = negative_binomial_cdf(y, mu, r)
        assert narrow.dtype == dtype
        assert torch.equal(narrow, negative_binomial_cdf(y.double(), mu.double(), r.double()).to(dtype))


def test_empty_and_constants():
    empty = torch.zeros(0, requires_grad=True)
    value = negative_binomial_cdf(torch.zeros(0), empty, torch.tensor(2.0))
    (gradient,) = torch.autograd.grad(value.sum(), empty)
    assert value.shape == gradient.shape == (0,)
    mu = torch.tensor(2.0, requires_grad=True)
    value = negative_binomial_cdf(torch.arange(3), mu, torch.tensor(2.0))
    value.sum().backward()
    assert (value.shape, mu.grad.shape) == ((3,), ())


def test_the_constants_are_what_the_script_generates():
    script = Path(__file__).parents[1] / "scripts" / "make_constants.py"
    spec = importlib.util.spec_from_file_location("make_constants", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.module_text() == module.TARGET.read_text(encoding="utf-8")
