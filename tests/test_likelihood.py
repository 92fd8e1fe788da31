"""The negative log likelihood: against the oracle and torch, where the pmf is 0 or 1, and what it refuses."""

import mpmath as mp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl import likelihood as oracles
from refimpl.bounds import likelihood as bounds
from refimpl.bounds.precision import error_ratio, precision
from tests.budget import examples
from tests.rounding import assert_close_to_rounding
from torchimpl.kernels.negative_binomial_log_pmf import (
    log_pmf_curvatures,
    log_pmf_slopes,
    log_pmf_value,
    slopes_operator,
    value_operator,
)
from torchimpl.likelihood import NLLLoss, negative_binomial_nll, nll_loss

INF, NAN = float("inf"), float("nan")
U = 2.0**-53


def double(*values, grad=False):
    return [torch.tensor(value, dtype=torch.float64, requires_grad=grad) for value in values]


@st.composite
def replicates(draw, dtype, names=("mu", "r", "reads")):
    """One replicate's arrays: dispersions over 30 decades, counts as far as summation goes."""
    count = draw(st.integers(1, 6))
    kinds = {
        "mu": st.floats(-15, 6).map(lambda e: 10**e),
        "r": st.floats(-15, 15).map(lambda e: 10**e),
        "reads": st.one_of(st.integers(0, 3), st.integers(0, 10**5)),
    }
    return {
        name: np.array([draw(kinds[name]) for _ in range(count)]).astype(dtype).astype(np.float64)
        for name in names
    }


@pytest.mark.parametrize("form", ["float64", "float32"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@settings(max_examples=examples(40))
@given(data=st.data())
def test_agrees_with_the_oracle(form, reduction, data):
    arrays = data.draw(replicates(form))
    outputs, batch = {"mu": arrays["mu"], "r": arrays["r"]}, {"reads": arrays["reads"]}
    tensors = {name: torch.tensor(a).to(getattr(torch, form)) for name, a in arrays.items()}
    leaves = {name: tensors[name].requires_grad_() for name in ("mu", "r")}
    value = nll_loss(leaves, {"reads": tensors["reads"]}, reduction=reduction)
    value.sum().backward()
    held = precision(form)
    allowed = bounds.nll_loss(outputs, batch, held, reduction=reduction)
    exact = oracles.nll_loss(outputs, batch, reduction=reduction)
    cotangent = np.ones(value.shape)
    gradient = oracles.nll_loss_gradient(outputs, batch, cotangent, reduction=reduction)
    actual = value.detach().double().numpy()
    assert np.max(error_ratio(actual, exact, allowed.value, held.scalar_max)) <= 1.0
    for name, leaf in leaves.items():
        found = leaf.grad.double().numpy()
        ratio = error_ratio(found, gradient[name], allowed.gradient[name], held.result_max, overflows=True)
        assert np.max(ratio) <= 1.0


@pytest.mark.parametrize(
    ("k", "mu", "r"),
    [(0, 3.0, 2.0), (1, 1e-6, 1e-3), (4, 30.0, 0.5), (3, 3.5, 1.0), (900, 1000.0, 1e9), (10**6, 2e6, 1e-3)],
)
def test_second_derivatives_agree_with_mpmath(k, mu, r):
    with mp.workdps(50):
        m, size = mp.mpf(mu), mp.mpf(r)
        total = m + size
        exact = (
            k / m**2 - (k + size) / total**2,
            (m - k) / total**2,
            mp.psi(1, size) - mp.psi(1, k + size) - 1 / size + 1 / total + (m - k) / total**2,
        )
        # 64 roundings of the terms that cancel
        scales = ((k + size) / total**2 + k / m**2, abs(m - k) / total**2 + mp.mpf(k) / total**2)
        scales = (*scales, mp.psi(1, size) - 1 / size + (k - m) ** 2 / (total**2 * (k + size)))
    found = log_pmf_curvatures(*double([float(k)], [mu], [r]))
    for actual, expected, scale in zip(found, exact, scales, strict=True):
        assert abs(actual.item() - float(expected)) <= 64 * U * float(scale)


def test_gradcheck_and_gradgradcheck():
    y = torch.tensor([0, 1, 4, 40, 3])
    mu, r = double([3.0, 0.3, 30.0, 20.0, 3.5], [2.0, 0.5, 0.7, 50.0, 1.5], grad=True)
    for reduction in ("mean", "none"):
        assert torch.autograd.gradcheck(
            lambda m, r, how=reduction: negative_binomial_nll(y, m, r, reduction=how), (mu, r)
        )
        assert torch.autograd.gradgradcheck(
            lambda m, r, how=reduction: negative_binomial_nll(y, m, r, reduction=how), (mu, r)
        )


class TestSlopesBeyondTheRange:
    """The gradient is the product with the cotangent, rounded: it may be finite where the slope is not."""

    # growth of the parameters and their edges; both sides of mu = 1/2
    POINTS = (
        (32.0, 8.900295434028806e-308, 1.0),
        (1.0, 1e-310, 1e-312),
        (7.0, 5e-324, 1.0),
        (7.0, 5e-324, 5e-324),
        (2.0, 1e-300, 1e-315),
        (1e300, 1e-20, 1e-20),
        (5.0, 1.0, 1e-309),
        (1.0, 0.25, 5e-324),
        (5.0, 0.0, 1e-309),
        (5.0, 0.0, 5e-324),
        (1.7e308, 0.5, 5e-309),
    )

    @staticmethod
    def exact(k, mu, r):
        """Both derivatives of -log pmf, as mpmath numbers."""
        total = mu + r
        d_r = mp.psi(0, r) - mp.psi(0, k + r) + mp.log(total / r) + (k - mu) / total
        return -mp.inf if mu == 0 else r * (mu - k) / (mu * total), d_r

    @pytest.mark.parametrize("exponent", [-8, -40, -300])
    @pytest.mark.parametrize(("k", "mu", "r"), POINTS)
    def test_overflow_only_where_the_product_does(self, k, mu, r, exponent):
        leaves = double([mu], [r], grad=True)
        rows = negative_binomial_nll(*double([k]), *leaves, reduction="none")
        found = torch.autograd.grad(rows, leaves, torch.tensor([2.0**exponent], dtype=torch.float64))
        with mp.workdps(1000):
            wanted = [float(mp.ldexp(slope, exponent)) for slope in self.exact(*map(mp.mpf, (k, mu, r)))]
        for actual, expected in zip(found, wanted, strict=True):
            # at most 32 roundings, none of which is magnified: the terms that count do not cancel
            assert actual.item() == expected or abs(actual.item() - expected) <= 32 * U * abs(expected)

    def test_the_mean_of_two_replicates(self):
        mu, r = double([1.0, 8.900295434028806e-308], [1.0, 1.0], grad=True)
        side, reads = {"mu": mu, "r": r}, {"reads": torch.tensor([1, 32])}
        other = {name: tensor.detach() for name, tensor in side.items()}
        nll_loss({"r1": side, "r2": other}, {"r1": reads, "r2": reads}).backward()
        assert mu.grad.tolist() == [0.0, -8.0 / 8.900295434028806e-308]

    def test_opposite_overflows_in_one_parameter_for_all(self):
        y, mu, weights = double([5.0, 5.0], [0.0, 1.0], [2.0**-8, 2.0**-8])
        r = torch.tensor(1e-309, dtype=torch.float64, requires_grad=True)
        rows = negative_binomial_nll(y, mu, r, reduction="none")
        (found,) = torch.autograd.grad(rows, r, weights)
        with mp.workdps(1000):
            slopes = [self.exact(mp.mpf(5), mp.mpf(m), mp.mpf(1e-309))[1] for m in (0.0, 1.0)]
            expected = float(mp.ldexp(sum(slopes), -8))
        assert abs(found.item() - expected) <= 32 * U * expected
        (doubled,) = torch.autograd.grad(negative_binomial_nll(y, mu, r, reduction="sum"), r)
        assert doubled.item() == INF

    def test_second_derivatives(self):
        mu, r = double([8.900295434028806e-308], [1.0], grad=True)
        total = 0.25 * negative_binomial_nll(torch.tensor([32]), mu, r)
        (slope,) = torch.autograd.grad(total, mu, create_graph=True)
        assert slope.item() == -8.0 / 8.900295434028806e-308
        assert torch.autograd.grad(slope, r)[0].item() == -8.0  # mu against r = 1 is nothing

    def test_functional_transformations(self):
        y, mu, r = double([32.0, 5.0], [8.900295434028806e-308, 1.0], [1.0, 1e-309])
        gradient = torch.func.grad(lambda m, s, k: 2.0**-8 * negative_binomial_nll(k, m, s), (0, 1))
        singles = [gradient(*problem) for problem in zip(mu, r, y, strict=True)]
        expected = [torch.stack(column) for column in zip(*singles, strict=True)]
        actual = torch.func.vmap(gradient)(mu, r, y)
        assert all(map(torch.equal, actual, expected))
        assert all(bool(torch.isfinite(column).all()) for column in actual)


def test_functional_transformations():
    y, mu, r = double([0.0, 2.0, 40.0], [1.0, 3.0, 20.0], [2.0, 0.5, 9.0])

    def single(mu, y, r):
        return negative_binomial_nll(y, mu, r, reduction="sum")

    value, slope = value_operator(y, mu, r), slopes_operator(y, mu, r)[0]
    curvature = log_pmf_curvatures(y, mu, r)[0]
    grad, vmap = torch.func.grad, torch.func.vmap
    assert torch.equal(vmap(single)(mu, y, r), value)
    assert torch.equal(grad(single)(mu, y, r), slope)
    assert torch.equal(vmap(grad(single))(mu, y, r), slope)
    assert torch.equal(vmap(grad(grad(single)))(mu, y, r), curvature)


class TestEdges:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize(("y", "mu"), [(-1.0, 2.0), (1.0, 0.0), (7.0, 0.0)])
    def test_impossible_counts_saturate(self, dtype, y, mu):
        mean = torch.tensor([mu, 1.0], dtype=dtype, requires_grad=True)
        size = torch.ones(2, dtype=dtype, requires_grad=True)
        counts = torch.tensor([y, 1.0], dtype=dtype)
        rows = negative_binomial_nll(counts, mean, size, reduction="none")
        assert rows[0].item() == torch.finfo(dtype).max
        total = negative_binomial_nll(counts, mean, size)
        total.backward()
        assert torch.isfinite(total)
        assert mean.grad[0].item() == (-INF if mu == 0.0 else 0.0)
        assert torch.isfinite(mean.grad[1])
        assert torch.isfinite(size.grad).all()

    def test_certain_zero(self):
        mu, r = double([0.0], [3.0], grad=True)
        value = negative_binomial_nll(torch.tensor([0]), mu, r)
        value.backward()
        assert (value.item(), mu.grad.item(), r.grad.item()) == (0.0, 1.0, 0.0)

    def test_small_values_keep_their_digits(self):
        mu, r = double([1e-300, 1e-20, 1e-9], [2.0, 1e-3, 0.5])
        value = negative_binomial_nll(torch.zeros(3), mu, r, reduction="none")
        with mp.workdps(50):
            exact = [
                float(mp.mpf(b) * mp.log1p(mp.mpf(a) / mp.mpf(b)))
                for a, b in zip(mu.tolist(), r.tolist(), strict=True)
            ]
        assert torch.all((value - torch.tensor(exact, dtype=torch.float64)).abs() <= 8 * U * value)

    @pytest.mark.parametrize(
        ("y", "mu", "r"),
        [
            (NAN, 1.0, 1.0),
            (1.0, NAN, 1.0),
            (1.0, 1.0, NAN),
            (1.0, -1.0, 1.0),
            (1.0, 1.0, 0.0),
            (1.0, 1.0, -1.0),
        ],
    )
    def test_invalid_is_nan_at_its_place_only(self, y, mu, r):
        rows = negative_binomial_nll(*double([y, 1.0], [mu, 1.0], [r, 1.0]), reduction="none")
        assert rows[0].isnan()
        assert rows[1].isfinite()

    def test_infinite_count_gives_infinity(self):
        assert negative_binomial_nll(*double([INF], [1.0], [1.0])).item() == INF

    def test_poisson_limit(self):
        y, rate = double([0.0, 3.0, 900.0], [2.5, 2.5, 1000.0])
        value = negative_binomial_nll(y, rate, torch.tensor(INF), reduction="none")
        with mp.workdps(50):
            exact = [
                float(m - k * mp.log(m) + mp.loggamma(k + 1))
                for k, m in zip(y.tolist(), map(mp.mpf, rate.tolist()), strict=True)
            ]
        assert torch.all((value - torch.tensor(exact, dtype=torch.float64)).abs() <= 16 * U * value)

    def test_no_nan_anywhere(self):
        sizes = [
            5e-324,
            1e-310,
            1e-300,
            1e-160,
            1e-30,
            1e-8,
            0.3,
            1.0,
            10.0,
            1e4,
            1e30,
            1e160,
            1e300,
            np.finfo(float).max,
        ]
        grid = torch.cartesian_prod(
            *double([-1.0, 0.0, 1.0, 2.0, 60.0, 1e15, 1e300, sizes[-1]], [0.0, *sizes], [*sizes, INF])
        )
        y, mu, r = grid.unbind(1)
        value = log_pmf_value(y, mu, r)
        assert not value.isnan().any()
        assert bool((value >= 0).all())
        assert not any(slope.isnan().any() for slope in log_pmf_slopes(y, mu, r))

    def test_cotangent_zero_gives_zero(self):
        mu, r = double([0.0, -1.0], [1.0, 1.0], grad=True)
        rows = negative_binomial_nll(torch.tensor([3, 1]), mu, r, reduction="none")
        for gradient in torch.autograd.grad(rows, (mu, r), torch.zeros(2, dtype=torch.float64)):
            assert gradient.tolist() == [0.0, 0.0]

    def test_empty(self):
        (mu,) = double([], grad=True)
        value = negative_binomial_nll(torch.zeros(0), mu, torch.tensor(1.0))
        value.backward()
        assert value.item() == 0.0


def test_two_replicates_are_averaged_and_columns_aligned():
    mu, r = torch.tensor([[2.0], [3.0]]), torch.tensor([1.0, 4.0])
    outputs = {"r1": {"mu": mu, "r": r}, "r2": {"mu": mu[:, 0] + 1, "r": torch.tensor(2.0)}}
    batch = {"r1": {"reads": torch.tensor([1, 2])}, "r2": {"reads": torch.tensor([[5], [0]])[:, 0]}}
    singles = [nll_loss(outputs[name], batch[name]) for name in ("r1", "r2")]
    # each single value is rounded to float32, the average of both only once
    assert_close_to_rounding((nll_loss(outputs, batch),), (0.5 * singles[0] + 0.5 * singles[1],))
    assert nll_loss(outputs, batch, reduction="none").shape == (2,)
    assert torch.equal(NLLLoss()(outputs, batch), nll_loss(outputs, batch))
    assert repr(NLLLoss(validate=True)) == "NLLLoss(reduction='mean', validate=True)"


def test_refusals():
    one = torch.ones(2)
    outputs, batch = {"mu": one, "r": one}, {"reads": one}
    with pytest.raises(KeyError, match=r"model_outputs\['r'\] is missing; keys present: 'mu'"):
        nll_loss({"mu": one}, batch)
    with pytest.raises(KeyError, match=r"model_outputs\['r2'\] is missing"):
        nll_loss({"r1": outputs}, {"r1": batch, "r2": batch})
    with pytest.raises(KeyError, match=r"batch\['reads'\] is missing"):
        nll_loss(outputs, {"counts": one})
    with pytest.raises(TypeError, match="model_outputs must be a mapping, got list"):
        nll_loss([outputs], batch)
    with pytest.raises(TypeError, match=r"nll_loss has no option 'reductoin'.*did you mean 'reduction'"):
        nll_loss(outputs, batch, reductoin="sum")
    with pytest.raises(ValueError, match="reduction must be one of 'mean', 'sum', 'none', got 'max'"):
        nll_loss(outputs, batch, reduction="max")
    with pytest.raises(ValueError, match=r"mu and y must have the same shape, got \(2, 1\) and \(2,\)"):
        negative_binomial_nll(one, one[:, None], one)
    with pytest.raises(ValueError, match=r"mu must be finite and >= 0, got mu\[1\] = -1\.0"):
        negative_binomial_nll(one, torch.tensor([1.0, -1.0]), one, validate=True)


def test_a_reduction_that_does_not_exist_is_named_whatever_the_form():
    y, mu = torch.tensor([1.0]), torch.tensor([2.0])
    with pytest.raises(ValueError, match="'average'"):
        negative_binomial_nll(y, mu, mu, reduction="average")


def test_module_and_function_validate_alike_by_default():
    invalid = {"mu": torch.tensor([1.0]), "r": torch.tensor([-1.0])}, {"reads": torch.tensor([1.0])}
    assert NLLLoss()(*invalid).isnan()
    assert nll_loss(*invalid).isnan()
