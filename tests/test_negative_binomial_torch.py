"""The negative-binomial CDF as a part of torch: derivatives, transformations, distributions, refusals."""

import numpy as np
import pytest
import torch
from flint import arb, ctx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributions import Categorical, NegativeBinomial, Poisson
from torch.utils._python_dispatch import TorchDispatchMode

from tests.negative_binomial_points import REGIONS, arb_tails, double, points
from torchimpl.distributions import NegativeBinomial as NegativeBinomialDistribution
from torchimpl.kernels.negative_binomial import evaluate
from torchimpl.kernels.negative_binomial_ops import cdf_operator, second_operator
from torchimpl.kernels.negative_binomial_second import STEP, second_partials
from torchimpl.negative_binomial import (
    compute_numeric_cdf,
    negative_binomial_cdf,
    negative_binomial_log_prob,
    negative_binomial_sf,
    parameters_of,
)

INF, NAN = float("inf"), float("nan")
U = 2.0**-53


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
