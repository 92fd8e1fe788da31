"""The negative-binomial CDF: against the oracle, Arb and torch's pmf, at every edge, and transformed."""

import importlib.util
import itertools
from pathlib import Path

import mpmath as mp
import numpy as np
import pytest
import scipy.stats
import torch
from flint import arb, ctx
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributions import Categorical, NegativeBinomial, Poisson
from torch.utils._python_dispatch import TorchDispatchMode

from refimpl import negative_binomial as oracles
from refimpl.bounds import negative_binomial as bounds
from refimpl.bounds.deviance import deviance_error
from refimpl.bounds.precision import error_ratio, precision
from tests.budget import examples
from torchimpl.distributions import NegativeBinomial as NegativeBinomialDistribution
from torchimpl.kernels.negative_binomial import evaluate
from torchimpl.kernels.negative_binomial_ops import cdf_operator, second_operator
from torchimpl.kernels.negative_binomial_second import STEP, second_partials
from torchimpl.likelihood import negative_binomial_nll
from torchimpl.negative_binomial import (
    compute_numeric_cdf,
    negative_binomial_cdf,
    negative_binomial_log_prob,
    negative_binomial_sf,
    parameters_of,
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
# one point of every region and both sides of the mode: zero count, series, fraction, quadrature
REGIONS = (
    (0, 3.0, 2.0),
    (4, 30.0, 0.5),
    (3, 1.0, 1.5),
    (3, 20.0, 6.0),
    (30, 12.0, 900.0),
    (80, 95.0, 60.0),
    (140, 95.0, 60.0),
    (70, 60.0, 1e7),
)


def double(*values):
    return [torch.tensor(value, dtype=torch.float64) for value in values]


def points(rows=REGIONS, *, grad=False):
    y, mu, r = (torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True))
    return y, mu.requires_grad_(grad), r.requires_grad_(grad)


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


def arb_tails(k, mu, r):
    """F and 1-F as exact rational functions of Arb balls."""
    cdf = (r / (r + mu)).beta_lower(r, arb(k) + 1, regularized=True)
    return cdf, 1 - cdf


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


class TestDerivatives:
    def test_gradcheck_and_gradgradcheck(self):
        y, mu, r = points(grad=True)
        for function in (negative_binomial_cdf, negative_binomial_sf, negative_binomial_log_prob):
            assert torch.autograd.gradcheck(lambda mu, r, f=function: f(y, mu, r), (mu, r))
            assert torch.autograd.gradgradcheck(lambda mu, r, f=function: f(y, mu, r), (mu, r))

    @pytest.mark.parametrize("dense", [False, True])
    @pytest.mark.parametrize(("k", "mu", "r"), [row for row in REGIONS if row[2] < 1e3])
    def test_second_derivatives_agree_with_arb(self, k, mu, r, dense):
        ctx.prec = 500
        h, mean, size = arb(2) ** -100, arb(mu), arb(r)

        def cdf(i, j):
            return arb_tails(k, mean * (1 + i * h), size * (1 + j * h))[0]

        middle, slope = cdf(0, 0), (cdf(0, 1) - cdf(0, -1)) / (2 * size * h)
        exact = (
            (cdf(1, 0) - 2 * middle + cdf(-1, 0)) / (mean * h) ** 2,
            (cdf(1, 1) - cdf(1, -1) - cdf(-1, 1) + cdf(-1, -1)) / (4 * mean * size * h * h),
            (cdf(0, 1) - 2 * middle + cdf(0, -1)) / (size * h) ** 2,
        )
        found = [value.item() for value in second_partials(*double([k], [mu], [r]), dense=dense)]
        d_mu = float((cdf(1, 0) - cdf(-1, 0)) / (2 * mean * h))
        # closed forms: 64 roundings of terms no larger than dF/dmu times (1 + k)/min(mu, r)
        closed = 64 * U * abs(d_mu) * (1 + k) / min(mu, r)
        # the difference in r: its truncation and rounding, relative to the slopes it is made of
        difference = (STEP**4 + 64 * U / STEP) * (abs(float(exact[2])) + abs(float(slope)) / r)
        for actual, expected, allowed in zip(found, exact, (closed, closed, difference), strict=True):
            assert abs(actual - float(expected)) <= allowed

    def test_second_derivative_at_mu_0_is_the_limit(self):
        y, mu, r = double([0.0, 1.0, 2.0], [0.0] * 3, [2.0] * 3)
        d_mu_mu, d_mu_r, d_r_r = second_partials(y, mu, r, dense=False)
        assert d_mu_mu.tolist() == [1.5, -1.5, 0.0]
        assert d_mu_r.tolist() == d_r_r.tolist() == [0.0] * 3

    def test_third_derivatives_are_refused(self):
        y, mu, r = points(grad=True)
        (first,) = torch.autograd.grad(negative_binomial_cdf(y, mu, r).sum(), mu, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), mu, create_graph=True)
        with pytest.raises(NotImplementedError, match="no third ones"):
            second.sum().backward()

    @pytest.mark.parametrize("index", [1, 2])
    def test_partial_requires_grad(self, index):
        arguments = list(points())
        full = torch.autograd.grad(
            negative_binomial_cdf(*points(grad=True)).sum(),
            (leaf := points(grad=True))[1:],
            allow_unused=True,
        )
        assert full == (None, None)
        _, mu, r = leaf
        full = torch.autograd.grad(negative_binomial_cdf(*leaf).sum(), (mu, r))
        arguments[index] = arguments[index].requires_grad_()
        (one,) = torch.autograd.grad(negative_binomial_cdf(*arguments).sum(), arguments[index])
        assert torch.equal(one, full[index - 1])

    def test_two_forwards_before_one_backward(self):
        y, mu, r = points(grad=True)
        total = negative_binomial_cdf(y, mu, r).sum() + negative_binomial_cdf(y + 1, mu, r).sum()
        (both,) = torch.autograd.grad(total, mu)
        singles = [torch.autograd.grad(negative_binomial_cdf(y + i, mu, r).sum(), mu)[0] for i in (0, 1)]
        assert torch.equal(both, singles[0] + singles[1])


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
class TestTransformations:
    def test_operators_pass_opcheck(self):
        torch.library.opcheck(cdf_operator, points())
        torch.library.opcheck(second_operator, points())

    def test_compile_without_graph_breaks(self):
        compiled = torch.compile(negative_binomial_cdf, fullgraph=True, dynamic=True)
        for count in (8, 3):
            y, mu, r = points(REGIONS[:count], grad=True)
            one, other = compiled(y, mu, r), negative_binomial_cdf(y, mu, r)
            assert torch.equal(one, other)
            for a, b in zip(*(torch.autograd.grad(v.sum(), (mu, r)) for v in (one, other)), strict=True):
                assert torch.equal(a, b)

    def test_functional_transformations(self):
        y, mu, r = points()
        leaf = mu.clone().requires_grad_()
        (slope,) = torch.autograd.grad(negative_binomial_cdf(y, leaf, r).sum(), leaf, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum(), leaf)

        def single(mu, y, r):
            return negative_binomial_cdf(y, mu, r)

        grad, vmap = torch.func.grad, torch.func.vmap
        assert torch.equal(grad(lambda mu: single(mu, y, r).sum())(mu), slope)
        assert torch.equal(vmap(single)(mu, y, r), negative_binomial_cdf(y, mu, r))
        assert torch.equal(
            vmap(single, (0, None, None))(mu, y[1], r[1]), single(mu, y[1].expand(8), r[1].expand(8))
        )
        assert torch.equal(vmap(grad(single))(mu, y, r), slope)
        assert torch.equal(vmap(grad(grad(single)))(mu, y, r), curvature)
        assert torch.equal(
            vmap(single, 1, 1)(*(a.view(2, 4) for a in (mu, y, r))), single(mu, y, r).view(2, 4)
        )

    def test_meta_and_fake_tensors(self):
        assert negative_binomial_cdf(*(a.to("meta") for a in points())).shape == (8,)
        with FakeTensorMode() as mode:
            fake = [mode.from_tensor(a) for a in points()]
            assert negative_binomial_cdf(*fake).shape == (8,)

    def test_layout_does_not_matter(self):
        y, mu, r = (a.view(2, 4).t() for a in points())
        assert torch.equal(
            negative_binomial_cdf(y, mu, r), negative_binomial_cdf(*(a.contiguous() for a in (y, mu, r)))
        )


class _Counter(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls = self.largest = 0

    def __torch_dispatch__(self, function, types, arguments=(), kwargs=None):
        result = function(*arguments, **(kwargs or {}))
        self.calls += 1
        if isinstance(result, torch.Tensor):
            self.largest = max(self.largest, result.numel())
        return result


@pytest.mark.parametrize("dense", [False, True])
def test_the_cost_does_not_depend_on_the_count(dense):
    work = []
    for k in (200.0, 2e5, 2e15):
        with _Counter() as counter:
            evaluate(*double([k] * 4, [k] * 4, [1e3] * 4), dense=dense)
        work.append((counter.calls, counter.largest))
    assert work[0] == work[1] == work[2]


def test_dense_evaluation_has_no_data_dependent_shape():
    # meta tensors have no data: any look at a value would raise
    assert evaluate(*(a.to("meta") for a in points()), dense=True).cdf.shape == (8,)


class TestRefusals:
    @pytest.mark.parametrize(
        "function", [negative_binomial_cdf, negative_binomial_sf, negative_binomial_log_prob]
    )
    def test_shapes(self, function):
        with pytest.raises(ValueError, match=r"mu and y must have the same shape, got \(3, 1\) and \(3,\)"):
            function(torch.zeros(3), torch.ones(3, 1), torch.ones(3))
        with pytest.raises(ValueError, match=r"r and y must have the same shape, got \(2,\) and \(\)"):
            function(torch.tensor(0.0), torch.tensor(1.0), torch.ones(2))

    def test_types(self):
        with pytest.raises(TypeError, match=r"mu must be a torch\.Tensor, got float"):
            negative_binomial_cdf(torch.zeros(3), 1.0, torch.ones(3))
        with pytest.raises(TypeError, match=r"r must have dtype .* got torch\.complex64"):
            negative_binomial_cdf(torch.zeros(3), torch.ones(3), torch.ones(3, dtype=torch.complex64))

    @pytest.mark.parametrize(
        ("y", "mu", "r", "message"),
        [
            ([0.0, NAN], [1.0, 1.0], [1.0, 1.0], r"y must not be NaN, got y\[1\] = nan"),
            ([0.0, 1.0], [1.0, -2.0], [1.0, 1.0], r"mu must be finite and >= 0, got mu\[1\] = -2.0"),
            ([0.0, 1.0], [INF, -2.0], [1.0, 1.0], r"mu must be finite and >= 0, got mu\[0\] = inf"),
            ([0.0, 1.0], [1.0, 1.0], 0.0, r"r must be > 0, got r = 0.0"),
        ],
    )
    def test_validate(self, y, mu, r, message):
        arguments = double(y, mu, r)
        for function in (negative_binomial_cdf, negative_binomial_log_prob):
            assert function(*arguments).isnan().any()
            with pytest.raises(ValueError, match=message):
                function(*arguments, validate=True)

    def test_validate_lets_valid_input_pass(self):
        assert torch.equal(negative_binomial_cdf(*points(), validate=True), negative_binomial_cdf(*points()))


class TestLogProb:
    """What the table of losses does not ask of it; `SIDES` holds it against the oracle."""

    TOP = np.finfo(np.float64).max

    @pytest.mark.parametrize(
        ("y", "mu", "r", "value", "d_mu", "d_r"),
        [
            (-1.0, 2.0, 3.0, -TOP, 0.0, 0.0),
            (-0.5, 2.0, 3.0, -TOP, 0.0, 0.0),
            (-INF, 2.0, 3.0, -INF, 0.0, 0.0),
            (INF, 2.0, 3.0, -INF, INF, -INF),
            (0.0, 0.0, 3.0, 0.0, -1.0, 0.0),
            (0.7, 0.0, 3.0, 0.0, -1.0, 0.0),
            # at mu = 0 < k the score in r is a sum over 1 <= j < k: empty at k = 1
            (1.0, 0.0, 3.0, -TOP, INF, 0.0),
            (-1.0, 0.0, 3.0, -TOP, 0.0, 0.0),
            (0.0, 2.0, INF, -2.0, -1.0, 0.0),
        ],
    )
    def test_edges(self, y, mu, r, value, d_mu, d_r):
        y, mu, r = double([y], [mu], [r])
        found = negative_binomial_log_prob(y, mu.requires_grad_(), r.requires_grad_())
        gradients = torch.autograd.grad(found.sum(), (mu, r))
        assert (found.item(), *(g.item() for g in gradients)) == (value, d_mu, d_r)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_no_mass_is_the_lowest_number_of_the_dtype(self, dtype):
        y = torch.tensor([-1.0, 3.0, 60000.0], dtype=dtype)
        mu, r = torch.tensor([1.0, 0.0, 2.0**-14], dtype=dtype), torch.tensor(1e4, dtype=dtype)
        found = negative_binomial_log_prob(y, mu, r)
        assert found.dtype == dtype
        assert found[:2].tolist() == [torch.finfo(dtype).min] * 2
        # 60,000 log(60000 / mu) is beyond float16 only
        assert (found[2].item() == torch.finfo(dtype).min) == (dtype == torch.float16)

    @pytest.mark.parametrize(
        ("y", "mu", "r"),
        [
            *[(NAN, 1.0, 1.0), (1.0, NAN, 1.0), (1.0, 1.0, NAN), (1.0, -1.0, 1.0), (1.0, INF, 1.0)],
            *[(1.0, 1.0, 0.0), (1.0, 1.0, -2.0), (-1.0, 1.0, -1.0), (INF, 1.0, 0.0), (0.0, 0.0, 0.0)],
        ],
    )
    def test_invalid_is_nan_at_its_place_only(self, y, mu, r):
        y, mu, r = (torch.cat([a, b]) for a, b in zip(double([y], [mu], [r]), points(), strict=True))
        value = negative_binomial_log_prob(y, mu.requires_grad_(), r.requires_grad_())
        clean = points(grad=True)
        expected = negative_binomial_log_prob(*clean)
        assert value[0].isnan()
        assert torch.equal(value[1:], expected)
        found = torch.autograd.grad(value.sum(), (mu, r))
        for dirty, right in zip(found, torch.autograd.grad(expected.sum(), clean[1:]), strict=True):
            assert dirty[0].isnan()
            assert torch.equal(dirty[1:], right)

    def test_is_the_element_of_the_likelihood(self):
        y, mu, r = points([*REGIONS, (-1, 2.0, 3.0), (INF, 2.0, 3.0), (2, 0.0, 1.0)])
        for dtype in (torch.float16, torch.float32, torch.float64):
            arguments = [part.to(dtype) for part in (y, mu, r)]
            losses = negative_binomial_nll(*arguments, reduction="none")
            assert torch.equal(negative_binomial_log_prob(*arguments), -losses)

    @pytest.mark.parametrize(
        ("k", "mu", "r"), [(1e12, 1e12, 1e10), (2e7, 1.9e7, 1e3), (5e8, 3e8, 0.7), (60.0, 61.0, 1e17)]
    )
    def test_agrees_with_mpmath_where_no_summation_can_go(self, k, mu, r):
        with mp.workdps(60):
            size, total = mp.mpf(r), mp.mpf(r) + mp.mpf(mu)
            ways = mp.loggamma(k + size) - mp.loggamma(size) - mp.loggamma(mp.mpf(k) + 1)
            exact = float(ways + size * mp.log(size / total) + k * mp.log(mp.mpf(mu) / total))
        found = negative_binomial_log_prob(*double([k], [mu], [r])).item()
        # refimpl.bounds.log_mass: the deviance, 7 roundings of the half logarithm and of Stirling's error
        (deviance,) = deviance_error(np.array([k]), np.array([mu]), np.array([r]), U)
        half = abs(np.log(r / (2 * np.pi * k * (k + r)))) / 2 + min(
            1 / (12 * r), np.log(2 * np.pi * r) / 2 + 1
        )
        allowed = deviance + U * (7 * half + abs(exact) + 10)
        assert abs(found - exact) <= allowed
        # and log-gamma functions are not within it
        y, mean, one = double([k], [mu], [r])
        naive = torch.lgamma(y + one) - torch.lgamma(one) - torch.lgamma(y + 1)
        naive = naive + one * torch.log(one / (one + mean)) + y * torch.log(mean / (one + mean))
        assert abs(naive.item() - exact) > allowed

    def test_masses_add_up_to_the_cdf(self):
        mu, r = double(5.0, 0.7)
        y = torch.arange(400.0, dtype=torch.float64)
        masses = negative_binomial_log_prob(y, mu, r).exp()
        cdf = negative_binomial_cdf(y, mu, r)
        # |log p| < 60 and 50 more roundings in each mass, 400 additions
        assert torch.all((masses.cumsum(0) - cdf).abs() <= 512 * U * cdf)


class TestDistributions:
    def test_is_the_sum_of_torchs_own_pmf(self):
        probs = torch.tensor([0.3, 0.8], dtype=torch.float64)
        size = torch.tensor([2.5, 40.0], dtype=torch.float64)
        x = torch.tensor([4.5, 150.0], dtype=torch.float64)
        for dist in (
            NegativeBinomial(size, probs=probs),
            NegativeBinomial(size, logits=probs.logit()),
            Poisson(size),
        ):
            pmf = dist.log_prob(torch.arange(151.0, dtype=torch.float64)[:, None]).exp()
            sums = torch.stack([pmf[:5, 0].sum(), pmf[:, 1].sum()])
            # torch's log pmf adds three lgamma and two products of at most 900: about 16 roundings, each an
            # absolute error of 900 U in the exponent and so a relative one of the pmf
            torch.testing.assert_close(compute_numeric_cdf(dist, x), sums, rtol=900 * 16 * U, atol=0.0)

    def test_differentiable_in_the_parameters(self):
        x = torch.tensor([2.0, 5.0], dtype=torch.float64)
        size = torch.tensor([2.5, 4.0], dtype=torch.float64, requires_grad=True)
        parameter = torch.tensor([0.3, 0.6], dtype=torch.float64, requires_grad=True)
        for name in ("probs", "logits"):
            assert torch.autograd.gradcheck(
                lambda size, p, name=name: compute_numeric_cdf(NegativeBinomial(size, **{name: p}), x),
                (size, parameter),
            )
        assert torch.autograd.gradcheck(lambda size: compute_numeric_cdf(Poisson(size), x), (size,))

    def test_extreme_probabilities(self):
        x = torch.tensor([0.0], dtype=torch.float64)
        # 1-probs = 1e-9, which float32 cannot express but logits can: F(0) = (1-probs)^r
        logits = torch.tensor([np.log(1e9)], dtype=torch.float64)
        value = compute_numeric_cdf(
            NegativeBinomial(torch.tensor([0.5], dtype=torch.float64), logits=logits), x
        )
        assert abs(value.item() - (1e9 + 1) ** -0.5) <= 64 * U * value.item()
        probs = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
        certain = NegativeBinomial(torch.tensor([3.0], dtype=torch.float64), probs=probs, validate_args=False)
        value = compute_numeric_cdf(certain, x)
        value.backward()
        assert value.item() == 0.0
        assert torch.isfinite(probs.grad).all()

    def test_refusals(self):
        with pytest.raises(TypeError, match="NegativeBinomial or Poisson, got Categorical"):
            compute_numeric_cdf(Categorical(torch.ones(3)), torch.zeros(3))
        with pytest.raises(ValueError, match=r"batch shape \(\) or that of x, got \(3,\) and \(3, 1\)"):
            compute_numeric_cdf(Poisson(torch.ones(3)), torch.zeros(3, 1))
        with pytest.raises(TypeError, match=r"x must be a torch\.Tensor, got float"):
            compute_numeric_cdf(Poisson(torch.ones(3)), 0.0)


def test_the_constants_are_what_the_script_generates():
    script = Path(__file__).parents[1] / "scripts" / "make_constants.py"
    spec = importlib.util.spec_from_file_location("make_constants", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.module_text() == module.TARGET.read_text(encoding="utf-8")


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "made",
    [
        lambda mu, r: NegativeBinomial(r, mu / (mu + r)),
        lambda mu, r: NegativeBinomial(r, logits=(mu / r).log()),
        lambda mu, r: NegativeBinomialDistribution(mean=mu, dispersion=r),
        lambda mu, _r: Poisson(mu),
    ],
    ids=["probs", "logits", "mean", "poisson"],
)
def test_parameters_become_float64_before_any_arithmetic(made, dtype):
    """Plain torch would promote what is left narrow; a compiled kernel reads it as something else."""
    given = torch.tensor([[3.0, 0.5], [2.0, 7.0]], dtype=dtype)
    mu, r, result = parameters_of(made(*given))
    assert (mu.dtype, r.dtype, result) == (torch.float64, torch.float64, dtype)
