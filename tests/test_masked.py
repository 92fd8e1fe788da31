"""Masked squared errors: against the oracle, at the edges, and what they refuse."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl import masked as oracles
from refimpl.bounds import masked as bounds
from refimpl.conformance.formats import FORMATS
from refimpl.conformance.strategies import PAIRS, masks, pairs, shapes
from tests.agreement import DTYPES, assert_agrees
from tests.budget import examples
from torchimpl.masked import REDUCTIONS, MaskedMSE, MaskedSSE, masked_mse, masked_sse

ALL = torch.ones(2, 3, dtype=torch.bool)
BOTH = [masked_sse, masked_mse]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", BOTH)
@settings(max_examples=examples(60))
@given(data=st.data())
def test_agrees_with_the_oracle(loss, dtype, data):
    family = data.draw(st.sampled_from([*PAIRS, "empty mask", "full mask"]))
    shape = data.draw(shapes(family))
    x_recon, x = data.draw(pairs(family, FORMATS[dtype], shape))
    mask = data.draw(masks(family, shape))
    reduction = data.draw(st.sampled_from(REDUCTIONS))
    assert_agrees(loss, (oracles, bounds), (x_recon, x, mask), dtype, reduction=reduction)


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9), st.booleans()), min_size=1, max_size=40))
def test_small_integers_are_exact(rows):
    x_recon, x, mask = (torch.tensor(column)[None] for column in zip(*rows, strict=True))
    expected = sum((a - b) ** 2 for a, b, counted in rows if counted)
    for dtype in (torch.int64, torch.int8, *DTYPES.values()):
        assert masked_sse(x_recon.to(dtype), x.to(dtype), mask).item() == expected


def test_integer_inputs_keep_digits_that_float32_lacks():
    x = torch.tensor([[2**40 + 1]])
    assert masked_sse(x.float() * 0 + 2**40, x, torch.tensor([[True]])).item() == 1.0


@pytest.mark.parametrize("dtype", DTYPES.values())
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_visible_positions_have_no_influence(reduction, dtype):
    mask = torch.tensor([[True, False, False], [False, True, False]])
    poison = torch.tensor([[0.0, math.nan, math.inf], [-math.inf, 0.0, math.nan]], dtype=dtype)
    base = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], dtype=dtype)
    results = []
    for x_recon, x in ((base, base * 0), (base + poison, poison * 3)):
        recon, other = x_recon.clone().requires_grad_(), torch.where(mask, 0, x).requires_grad_()
        value = masked_sse(recon, other, mask, reduction=reduction)
        value.sum().backward()
        assert (recon.grad[~mask] == 0).all()
        assert (other.grad[~mask] == 0).all()
        results.append((value, recon.grad, other.grad))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_non_finite_at_a_counted_position_is_not_hidden(reduction, bad):
    x = torch.zeros(2, 3)
    x[0, 0] = bad
    value = masked_sse(x, torch.zeros(2, 3), ALL, reduction=reduction)
    assert not value.isfinite().all()
    assert value.isnan().any() == math.isnan(bad)


@pytest.mark.parametrize("count", [1, 2, 4, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradient_is_right_where_the_difference_itself_overflows(dtype, count):
    largest = torch.finfo(dtype).max
    x_recon = torch.full((1, count), largest, dtype=dtype, requires_grad=True)
    value = masked_mse(x_recon, -x_recon.detach(), torch.ones(1, count, dtype=torch.bool))
    value.backward()
    assert value.item() == largest
    assert (x_recon.grad == (largest / count * 4 if count >= 4 else math.inf)).all()


@pytest.mark.parametrize("level", [2.0**65, 2.0**-77])
def test_a_representable_result_of_squares_that_are_not_is_right(level):
    # one square is 2^130 or 2^-154, beyond float32 at either end
    large = level > 1
    x = torch.zeros(1, 64) if large else torch.full((1, 64), level)
    x[0, 0] = level
    value = masked_mse(x, x * 0, torch.ones_like(x, dtype=torch.bool), reduction="mean" if large else "sum")
    assert value.item() == (2.0**124 if large else 2.0**-148)


@pytest.mark.parametrize("loss", BOTH)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("shape", "filled"), [((2, 3), False), ((0, 3), True), ((2, 0), True)])
def test_nothing_counted_is_zero_on_the_graph(loss, reduction, shape, filled):
    x_recon, x = (
        torch.full(shape, math.inf, requires_grad=True),
        torch.full(shape, math.nan, requires_grad=True),
    )
    value = loss(x_recon, x, torch.full(shape, filled), reduction=reduction)
    value.sum().backward()
    assert (value == 0).all()
    assert (x_recon.grad == 0).all()
    assert (x.grad == 0).all()


def test_zero_incoming_gradient_gives_zero_even_for_inf():
    x_recon = torch.tensor([[math.inf, 1.0]], requires_grad=True)
    (0.0 * masked_mse(x_recon, torch.zeros(1, 2), ALL[:1, :2])).backward()
    assert x_recon.grad.tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_first_and_second_derivatives(reduction):
    x_recon, x = (torch.randn(2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    mask = torch.tensor([[True, False, True], [True, True, False]])

    def loss(x_recon, x):
        return masked_sse(x_recon, x, mask, reduction=reduction)

    assert torch.autograd.gradcheck(loss, (x_recon, x))
    assert torch.autograd.gradgradcheck(loss, (x_recon, x))


def test_partial_gradients_and_two_forwards_before_one_backward():
    x = torch.tensor([[3.0, 1.0]], requires_grad=True)
    first, second = (masked_sse(torch.zeros(1, 2), k * x, ALL[:1, :2]) for k in (1, 2))
    (first + second).backward()
    assert x.grad.tolist() == [[30.0, 10.0]]


@pytest.mark.parametrize("loss", BOTH)
def test_half_results(loss):
    for dtype in (torch.float16, torch.bfloat16):
        x = torch.full((2, 3), 300.0, dtype=dtype)
        assert loss(x, 0 * x, ALL, reduction="sum").dtype is torch.float32
        elements = loss(x, 0 * x, ALL, reduction="none")
        assert elements.dtype is dtype
        assert elements[0, 0] == min(300.0**2, torch.finfo(dtype).max) or dtype is torch.bfloat16


def test_refusals():
    x = torch.zeros(2, 3)
    with pytest.raises(
        TypeError, match=r"mask must have dtype torch.bool, got torch.int64; .* mask.bool\(\)"
    ):
        masked_sse(x, x, ALL.long())
    with pytest.raises(TypeError, match=r"mask must be a torch.Tensor .* got list"):
        masked_sse(x, x, [[True]])
    with pytest.raises(TypeError, match=r"x_recon must be a torch.Tensor, got ndarray"):
        masked_sse(np.zeros((2, 3)), x, ALL)
    with pytest.raises(TypeError, match=r"x must have dtype .* got torch.complex64"):
        masked_sse(x, x.to(torch.complex64), ALL)
    with pytest.raises(ValueError, match=r"x_recon and x .* \(2, 3\) and \(3,\)"):
        masked_sse(x, x[0], ALL)
    with pytest.raises(ValueError, match=r"mask and x .* \(3,\) and \(2, 3\)"):
        masked_sse(x, x, ALL[0])
    with pytest.raises(ValueError, match="batch dimension"):
        masked_sse(x[0, 0], x[0, 0], ALL[0, 0])
    with pytest.raises(ValueError, match="'batch_mean', 'mean', 'sum', 'none', got 'avg'"):
        masked_mse(x, x, ALL, reduction="avg")
    with pytest.raises(TypeError, match=r"reduction .* got NoneType"):
        MaskedMSE(reduction=None)


def test_modules_are_the_functions():
    x = torch.randn(2, 3)
    assert torch.equal(MaskedSSE()(x, 2 * x, ALL), masked_sse(x, 2 * x, ALL))
    assert torch.equal(MaskedMSE()(x, 2 * x, ALL), masked_mse(x, 2 * x, ALL))
    assert repr(MaskedMSE(reduction="sum")) == "MaskedMSE(reduction='sum')"
