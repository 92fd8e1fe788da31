"""InfoNCE between replicates: values and gradients against the oracle and closed forms, hard inputs."""

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from refimpl import concordance as oracle
from refimpl.bounds import concordance as bounds
from refimpl.bounds.precision import error_ratio, precision
from tests.concordance_batches import (
    hazard,
    implementation,  # noqa: F401 - a fixture of every test here
    leaves,
)
from torchimpl.concordance import concordance_loss_nce

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
U = 2.0**-53

KINDS = [
    "plain",
    "identical replicates",
    "ties",
    "all rows alike",
    "far pairs",
    "far from every source",
    "common offset",
    "shuffled",
    "huge",
    "subnormal",
    "mixed magnitudes",
    "large differences of huge rows",
]
adversarial = given(
    batch=st.tuples(st.sampled_from(KINDS), st.integers(1, 7), st.integers(1, 4), st.integers(0, 10**6)),
    tau=st.sampled_from([0.1, 0.01, 1.0, 37.0]),
    eps=st.sampled_from([1e-8, 0.0, 0.5]),
)


def _numbers(*tensors):
    return tuple(t.detach().double().numpy() for t in tensors)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@adversarial
def test_value_and_gradient_stay_within_the_bound(dtype, batch, tau, eps):
    x, y = leaves(*hazard(*batch, dtype))
    formats = precision(str(dtype).removeprefix("torch."))
    arrays = _numbers(x, y)
    bound = bounds.concordance_loss_nce(*arrays, tau, eps=eps, precision=formats)

    value = concordance_loss_nce(x, y, tau, eps=eps)
    exact = oracle.concordance_loss_nce(*arrays, tau, eps=eps)
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert error_ratio(value.item(), exact, bound.value, formats.scalar_max) <= 1

    exact_gradients = oracle.concordance_loss_nce_gradient(*arrays, tau, eps=eps)
    gradients = torch.autograd.grad(value, (x, y))
    for actual, expected, allowed in zip(gradients, exact_gradients, bound.gradient, strict=True):
        assert actual.dtype == dtype
        ratio = error_ratio(*_numbers(actual), expected, allowed, formats.result_max, overflows=True)
        assert np.all(ratio <= 1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@adversarial
def test_every_row_stays_within_the_bound(dtype, batch, tau, eps):
    x, y = hazard(*batch, dtype)
    formats = precision(str(dtype).removeprefix("torch."))
    arrays = _numbers(x, y)
    options = {"eps": eps, "reduction": "none"}
    rows = concordance_loss_nce(x, y, tau, **options)
    assert rows.dtype == dtype
    bound = bounds.concordance_loss_nce(*arrays, tau, **options, precision=formats)
    exact = oracle.concordance_loss_nce(*arrays, tau, **options)
    assert np.all(error_ratio(*_numbers(rows), exact, bound.value, formats.result_max) <= 1)


def _exact_rows(x, y, tau, eps):
    """L_i with 60 digits beyond what the largest exponent needs, from nothing but the definition."""
    with mpmath.workdps(60):
        a, b = ([[mpmath.mpf(v) for v in row] for row in t.double().tolist()] for t in (x, y))
        rows = []
        for i, point in enumerate(a):
            d = [mpmath.fsum((p - q) ** 2 for p, q in zip(point, other, strict=True)) / tau for other in b]
            others = [mpmath.exp(d[i] - d[j]) for j in range(len(b)) if j != i]
            rows.append(mpmath.log1p(mpmath.fsum(others) + eps * mpmath.exp(d[i])))
        return rows


@pytest.mark.parametrize("kind", ["plain", "far pairs", "common offset", "far from every source", "ties"])
def test_rows_against_multiprecision(kind):
    x, y = hazard(kind, 5, 2, 1, torch.float64)
    tau, eps = 0.5, 1e-8
    exact = _exact_rows(x, y, tau, eps)
    rows = concordance_loss_nce(x, y, tau, eps=eps, reduction="none")
    for i, (actual, expected) in enumerate(zip(rows.tolist(), exact, strict=True)):
        # two differences, their product, the sums over 2 features and 6 terms; then exp and log
        distances = ((x[i] - y).square().sum(1) / tau).max().item()
        allowed = U * (14 * distances + 14) * max(float(expected), min(1.0, 14 * float(expected)))
        assert abs(mpmath.mpf(actual) - expected) <= allowed


def test_a_tiny_loss_keeps_its_relative_accuracy():
    x = torch.tensor([0.0, 7.0, 15.0], dtype=torch.float64)
    y = x + 0.125
    rows = concordance_loss_nce(x, y, 1.0, eps=0.0, reduction="none")
    exact = _exact_rows(x[:, None], y[:, None], 1.0, 0.0)
    assert float(max(exact)) < 1e-19
    for actual, expected in zip(rows.tolist(), exact, strict=True):
        # L ~ exp(-z): a relative error of 6 u in z is one of 6 u z in exp(-z)
        assert abs(mpmath.mpf(actual) - expected) <= 6 * U * (1 - mpmath.log(expected)) * expected


def test_a_tiny_gradient_keeps_its_relative_accuracy():
    x, y = leaves(
        torch.tensor([0.0, 7.0], dtype=torch.float64), torch.tensor([1.0, 7.5], dtype=torch.float64)
    )
    _, gy = torch.autograd.grad(concordance_loss_nce(x, y, 1.0, eps=0.0, reduction="sum"), (x, y))
    # p_01 = 1/(1 + exp(7.5² - 1)), p_10 = 1/(1 + exp(6² - 0.5²))
    p01, p10 = (1 / (1 + mpmath.exp(z)) for z in (mpmath.mpf("55.25"), mpmath.mpf("35.75")))
    for actual, exact in zip(gy.tolist(), [2 * (6 * p10 + p01), 2 * (0.5 * p10 - 7.5 * p01)], strict=True):
        # the exponents are exact here: a few roundings, and no 1 - p formed by subtraction
        assert abs(actual - exact) <= 8 * U * abs(exact)


def test_small_rows_between_huge_sources():
    x = torch.tensor([1.0, -1.0], dtype=torch.float64)
    rows = concordance_loss_nce(x, 1e20 * x, 1e20, eps=0.0, reduction="none")
    # d_01 - d_00 = 4e20, out of distances of 1e40: lost by any difference of distances
    roundings = 4 + 2 * 2  # of 1/tau, times an exponent of 4; exp and log1p, here and in the expectation
    assert rows.tolist() == pytest.approx([math.log1p(math.exp(-4))] * 2, rel=roundings * U, abs=0)


def test_a_row_so_far_that_all_distances_look_equal():
    x, y = leaves(torch.tensor([1e30, 0.0]), torch.tensor([0.0, 1.0]))
    gx, _ = torch.autograd.grad(concordance_loss_nce(x, y, 1.0, eps=0.0, reduction="sum"), (x, y))
    # source 1 is nearer to row 0 by 2e30: p_01 = 1, and the gradient is 2 (y_1 - y_0)
    assert gx[0] == 2


def test_a_row_so_far_that_all_distances_overflow():
    x, y = leaves(*hazard("large differences of huge rows", 5, 4, 641776, torch.float64))
    gx, _ = torch.autograd.grad(concordance_loss_nce(x, y, 0.01, eps=0.5), (x, y))
    # nothing is near row 0, eps takes all its weight: 2/(B tau) (x - y)
    assert gx[0].isinf().tolist() == [False, True, False, False]
    roundings = 4  # 1/B, its products with the difference and with 2/tau = 200, that of the expectation
    assert gx[0, 0].item() == pytest.approx(40 * (x[0, 0] - y[0, 0]).item(), rel=roundings * U, abs=0)


@pytest.mark.parametrize("eps", [0.0, 1e-8, 0.5])
def test_one_row_is_log1p_of_its_eps(eps):
    x = torch.tensor([0.25], dtype=torch.float64)
    value = concordance_loss_nce(x, -x, 0.5, eps=eps).item()
    expected = math.log1p(eps * math.exp(0.5))
    # the exponent log eps + d/tau is exact to 2 u (|log eps| + 1), exp and log1p to 1 ulp each
    assert abs(value - expected) <= 4 * U * (abs(math.log(eps or 1.0)) + 2) * expected


def test_far_positive_is_a_large_finite_loss():
    # the textbook gives -log(0) for row 0; exactly it is (1000² - 1²)/tau, and row 1 has no rival in reach
    x, y = torch.tensor([0.0, 1.0]), torch.tensor([1000.0, 1.0])
    rows = concordance_loss_nce(x, y, 0.125, eps=0.0, reduction="none")
    assert rows.tolist() == [(1e6 - 1) / 0.125, 0.0]


def test_textbook_formula_where_it_does_not_underflow():
    x, y = hazard("plain", 16, 3, 0, torch.float64)
    d = (x[:, None] - y).square().sum(-1)
    s = torch.exp(-d / 2.0)
    textbook = -torch.log(s.diagonal() / (s.sum(1) + 1e-8)).mean()
    bound = bounds.concordance_loss_nce(*_numbers(x, y), 2.0, eps=1e-8, precision=precision("float64"))
    # each of the two is within the bound of the exact value
    assert abs(concordance_loss_nce(x, y, 2.0) - textbook) <= 2 * bound.value


def test_a_common_offset_does_not_matter():
    x, y = hazard("ties", 32, 2, 0, torch.float64)
    offset = torch.tensor(1e6, dtype=torch.float64)
    near, far = leaves(x / 8, y / 8), leaves(x / 8 + offset, y / 8 + offset)
    values = [concordance_loss_nce(*pair) for pair in (near, far)]
    assert torch.equal(*values)
    for a, b in zip(
        *(torch.autograd.grad(v, p) for v, p in zip(values, (near, far), strict=True)), strict=True
    ):
        assert torch.equal(a, b)


extreme = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-3, 3.0, 1e19, -1e19, 3e38, -3e38, 1e-45, 1e-38])
wide = st.sampled_from([1.7e308, -1.7e308, 1e200, -1e160, 5e-324, -1e-310, 1e-150]) | extreme


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@given(
    data=st.data(),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 3)),
    tau=st.sampled_from([0.1, 1e-300, 1e300, 5e-324, 1.7e308, 1e-40]),
    eps=st.sampled_from([1e-8, 0.0, 1e300, 5e-324]),
)
def test_finite_inputs_give_finite_values_and_no_nan(dtype, data, shape, tau, eps):
    count = shape[0] * shape[1]
    numbers = st.lists(wide if dtype == torch.float64 else extreme, min_size=count, max_size=count)
    x, y = leaves(*(torch.tensor(data.draw(numbers), dtype=dtype).view(shape) for _ in range(2)))
    rows = concordance_loss_nce(x, y, tau, eps=eps, reduction="none")
    assert rows.isfinite().all()
    for reduction in ("mean", "sum"):
        value = concordance_loss_nce(x, y, tau, eps=eps, reduction=reduction)
        assert value.isfinite()
        assert value >= 0
        assert not any(g.isnan().any() for g in torch.autograd.grad(value, (x, y)))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_bad_number_is_not_hidden(bad):
    x, y = hazard("plain", 4, 2, 0, torch.float32)
    x[1, 0] = bad
    rows = concordance_loss_nce(x, y, reduction="none")
    assert rows.isnan().tolist() == [False, True, False, False]
    assert concordance_loss_nce(x, y).isnan()
    # a source counts in every row
    assert concordance_loss_nce(y, x, reduction="none").isnan().all()


@pytest.mark.parametrize("eps", [1e-8, 0.0])
@pytest.mark.parametrize("tau", [1e-3, 1.0, 50.0, 1e280])
def test_a_mean_within_float64_survives_a_row_beyond_it(tau, eps):
    """One row is 3e308 or more, the mean over 64 is not."""
    rng = np.random.default_rng(0)
    x, y = np.zeros((64, 2)), rng.normal(size=(64, 2))
    size = math.sqrt(tau) * math.sqrt(5e307)
    x[0], y[0] = (size, size), (-size, 3 * size)
    arrays = [torch.tensor(v, requires_grad=True) for v in (x, y)]
    value = concordance_loss_nce(*arrays, tau, eps=eps)
    exact = oracle.concordance_loss_nce(x, y, tau, eps=eps)
    allowed = bounds.concordance_loss_nce(x, y, tau, eps=eps, precision=precision("float64")).value
    rows = concordance_loss_nce(*arrays, tau, eps=eps, reduction="none")
    assert rows[0].item() == torch.finfo(torch.float64).max
    assert 1e306 < exact < 1e308
    assert abs(value.item() - exact) <= allowed
    value.backward()
    assert not any(a.grad.isnan().any() for a in arrays)


@pytest.mark.parametrize("impl", ["auto", "torch"])
def test_a_huge_feature_that_cancels_hides_no_other_one(impl):
    # row 0 is exactly midway between its own and another source in the first feature, 1e5 apart in the second
    huge, count, tau = 2.0**996, 1000, 2.0**-996
    x = torch.zeros(count, 2, dtype=torch.float64)
    x[1:, 0] = huge * (1 + torch.arange(count - 1, dtype=torch.float64) * 2.0**-8)
    y = x.clone()
    y[0] = torch.tensor([-huge, 2.0**17], dtype=torch.float64)
    value = concordance_loss_nce(x, y, tau, eps=0.0, impl=impl)
    # the loss of row 0 is 2^34/τ, beyond float64; the mean is within it
    expected = mpmath.mpf(2) ** (34 + 996) / count
    assert abs(value.item() / expected - 1) <= 8 * U


def test_two_sources_near_a_row_beside_its_own_far_one():
    # rows 1 and 2 lie on their sources; row 0 lies between those two, and has its own at 1e9
    x, y = leaves(torch.tensor([0.03125, 1.0, -1.0]), torch.tensor([1e9, 1.0, -1.0]))
    (gy,) = torch.autograd.grad(concordance_loss_nce(x, y, 0.1, eps=0.0, reduction="sum"), y)
    # d_02 - d_01 = 1/8; row 2 gives source 1 the weight of a distance of 2
    near, other = 1 / (1 + math.exp(-1.25)), 1 / (1 + math.exp(40))
    expected = 20 * (near * (0.03125 - 1) - 2 * other)
    # the result rounds to float32; the rest is float64
    assert abs(gy[1].item() - expected) <= 2.0**-23 * abs(expected)


def test_a_huge_row_midway_between_a_small_and_a_huge_source():
    x = torch.tensor([1e20, 2e20], dtype=torch.float64)
    y = torch.tensor([0.5, 2e20], dtype=torch.float64)
    rows = concordance_loss_nce(x, y, 1e20, eps=0.0, reduction="none")
    # d_01 - d_00 = 1e40 - (1e20 - 1/2)² = 1e20 - 1/4: lost where x - n/2 is rounded to one number
    # 1/tau rounds once in an exponent of 1; exp and log1p round here and in the expectation
    assert abs(rows[0].item() - math.log1p(math.exp(-1))) <= 8 * U * math.log1p(math.exp(-1))
