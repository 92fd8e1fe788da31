"""What docs/losses.md promises of the masked losses, sentence by sentence.

Expectations are exact, or come from mpmath and scipy; no oracle is asked.
"""

import pytest
import torch
from torch import tensor

import torchimpl as losses

F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
FLOATS = [F16, BF16, F32, F64]


E = tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
MASK = tensor([[True, False, True], [False, True, True]])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("reduction", "expected"), [("sum", 71.0), ("mean", 71 / 4), ("batch_mean", 71 / 2)])
@pytest.mark.parametrize("loss", [losses.masked_sse, losses.masked_mse])
def test_masked_reductions_are_exact_on_integers_and_agree_between_the_two_functions(
    loss, reduction, expected, dtype
):
    value = loss(E.to(dtype), torch.zeros(2, 3, dtype=dtype), MASK, reduction=reduction)
    assert value.item() == expected
    assert value.dtype == (F64 if dtype == F64 else F32)


def test_masked_defaults():
    assert losses.masked_sse(E, 0 * E, MASK) == 71 / 2
    assert losses.masked_mse(E, 0 * E, MASK) == 71 / 4


@pytest.mark.parametrize("dtype", FLOATS)
def test_masked_none_is_the_square_and_zero_at_visible_positions(dtype):
    value = losses.masked_mse(E.to(dtype), 0 * E.to(dtype), MASK, reduction="none")
    assert value.dtype == dtype
    assert value.tolist() == [[1, 0, 9], [0, 25, 36]]


def test_masked_gradients_flow_to_both_arguments():
    recon, x = E.clone().requires_grad_(), torch.zeros(2, 3).requires_grad_()
    losses.masked_mse(recon, x, MASK).backward()
    expected = torch.where(MASK, E / 2, 0)
    assert torch.equal(recon.grad, expected)
    assert torch.equal(x.grad, -expected)


def test_masked_works_in_more_dimensions():
    e = torch.arange(24.0).reshape(2, 3, 2, 2)
    assert losses.masked_sse(e, 0 * e, e > 20, reduction="batch_mean") == (21**2 + 22**2 + 23**2) / 2


@pytest.mark.parametrize("bad", [MASK.float(), MASK.int(), MASK.to(torch.uint8)])
def test_masked_refuses_a_mask_that_is_not_bool_and_says_how_to_make_one(bad):
    with pytest.raises(TypeError, match=r"mask.*bool"):
        losses.masked_mse(E, 0 * E, bad)


def test_masked_mean_of_overflowing_squares_is_right_when_it_is_representable():
    recon = tensor([[2.0**64, 0.0, 0.0, 0.0]])
    assert losses.masked_mse(recon, 0 * recon, recon > -1).item() == 2.0**126
    assert losses.masked_sse(recon, 0 * recon, recon > -1).item() == torch.finfo(F32).max
    wide = tensor([[2.0**512, 0.0, 0.0, 0.0]], dtype=F64)
    assert losses.masked_mse(wide, 0 * wide, wide > -1).item() == 2.0**1022


def test_masked_gradient_is_exact_when_the_difference_itself_overflows():
    top = torch.finfo(F32).max
    recon = torch.full((1, 8), top, requires_grad=True)
    value = losses.masked_mse(recon, torch.full((1, 8), -top), torch.ones(1, 8, dtype=torch.bool))
    value.backward()
    assert value.item() == top
    assert torch.equal(recon.grad, torch.full((1, 8), top / 2))
