"""Negative Pearson correlation: against the oracle and scipy, at the edges, and what it refuses."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl import pearson as oracles
from refimpl.bounds import pearson as bounds
from refimpl.bounds.precision import precision
from refimpl.conformance.formats import FORMATS, round_to
from refimpl.conformance.strategies import PAIRS, pairs, shapes, uniform
from tests.agreement import DTYPES, assert_agrees
from tests.budget import examples
from torchimpl.kernels import blocks
from torchimpl.pearson import NegativePearsonLoss, negative_pearson_loss


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=examples(150))
@given(data=st.data())
def test_agrees_with_the_oracle(dtype, data):
    family = data.draw(st.sampled_from([*PAIRS]))
    arrays = data.draw(pairs(family, FORMATS[dtype], data.draw(shapes(family, data.draw(st.integers(1, 2))))))
    assert_agrees(
        negative_pearson_loss,
        (oracles, bounds),
        arrays,
        dtype,
        eps=data.draw(st.sampled_from([1e-8, 0.0, 0.5])),
    )


@given(data=st.data())
def test_agrees_with_scipy(data):
    form = FORMATS["float64"]
    preds, targets = (data.draw(uniform(form, (data.draw(st.just(7)),))) for _ in range(2))
    if np.ptp(preds) == 0 or np.ptp(targets) == 0:
        return
    ours = negative_pearson_loss(torch.tensor(preds), torch.tensor(targets)).item()
    # both evaluate in float64, so both are within the bound of one evaluation
    allowed = 2 * bounds.negative_pearson_loss(preds, targets, precision=precision("float64")).value
    assert abs(ours + scipy.stats.pearsonr(preds, targets).statistic) <= allowed


@given(data=st.data(), shift=st.integers(-90, 90), offset=st.sampled_from([0.0, 2.0**12, -(2.0**16)]))
def test_scale_and_exact_offset_change_nothing(data, shift, offset):
    form = FORMATS["float32"]
    preds, targets = (torch.tensor(data.draw(uniform(form, (9,)))) for _ in range(2))
    # seven-bit numbers: adding the offset and scaling are exact in float32
    preds, targets = ((x * 16).round().float() for x in (preds, targets))
    moved = (preds + offset) * 2.0**shift
    assert torch.equal(negative_pearson_loss(moved, targets), negative_pearson_loss(preds, targets))


@pytest.mark.parametrize("dtype", DTYPES.values())
@pytest.mark.parametrize("level", [0.0, 0.1, -3e4, 1e12, 1e30, 1e-30])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_constant_sides_give_zero_with_zero_gradient(count, level, dtype):
    level = min(level, torch.finfo(dtype).max)
    constant = torch.full((count,), level, dtype=dtype, requires_grad=True)
    other = torch.arange(count).to(dtype).requires_grad_()
    for pair in ((constant, other), (other, constant)):
        value = negative_pearson_loss(*pair)
        value.backward()
        assert value.item() == 0.0
        assert not math.copysign(1.0, value.item()) < 0
    assert (constant.grad == 0).all()
    assert (other.grad == 0).all()


def test_nearly_constant_is_not_constant():
    one_ulp = torch.tensor([1e12, 1e12, np.nextafter(np.float32(1e12), np.float32(np.inf))])
    assert negative_pearson_loss(one_ulp, torch.tensor([0.0, 0.0, 1.0])).item() == -1.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_is_nan_beside_anything(bad):
    spoilt = torch.tensor([1.0, bad, 2.0])
    for other in (torch.tensor([1.0, 2.0, 4.0]), torch.ones(3), spoilt, torch.full((3,), bad)):
        assert negative_pearson_loss(spoilt, other).isnan()
        assert negative_pearson_loss(other, spoilt).isnan()


def test_always_within_one_even_for_identical_sides():
    for seed in range(50):
        x = torch.randn(17, generator=torch.Generator().manual_seed(seed))
        for dtype in DTYPES.values():
            value = negative_pearson_loss(x.to(dtype), x.to(dtype)).item()
            assert value >= -1.0
            assert value == -1.0 or dtype is torch.float64


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1.0, 1e30])
def test_the_gradient_scales_inversely(scale):
    x = torch.tensor([1.0, 2.0, 4.0, 3.0], dtype=torch.float64)
    targets = torch.tensor([1.0, 3.0, 2.0, 5.0])
    preds = (x * scale).float().requires_grad_()
    negative_pearson_loss(preds, targets).backward()
    exact = oracles.negative_pearson_loss_gradient(preds.detach().numpy(), targets.numpy())[0]
    allowed = bounds.negative_pearson_loss(
        preds.detach().numpy(), targets.numpy(), precision=precision("float32")
    )
    assert (np.abs(preds.grad.double().numpy() - exact) <= allowed.gradient[0]).all()


def test_empty_is_zero_on_the_graph():
    x = torch.zeros(0, 3, requires_grad=True)
    value = negative_pearson_loss(x, x)
    value.backward()
    assert value.item() == 0.0
    assert x.grad.shape == (0, 3)


@pytest.mark.parametrize("eps", [0.0, 1e-8, 10.0])
def test_first_and_second_derivatives(eps):
    preds, targets = (torch.randn(6, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def loss(preds, targets):
        return negative_pearson_loss(preds, targets, eps)

    assert torch.autograd.gradcheck(loss, (preds, targets))
    assert torch.autograd.gradgradcheck(loss, (preds, targets))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("eps", [1e-8, 10.0])
def test_long_vectors_in_pieces(monkeypatch, dtype, eps):
    monkeypatch.setattr(blocks, "BLOCK", 4)
    preds, targets = (round_to(x, FORMATS[dtype]) for x in np.random.default_rng(0).normal(size=(2, 11)))
    assert_agrees(negative_pearson_loss, (oracles, bounds), (preds, targets), dtype, eps=eps)
    x, y = (torch.tensor(array, requires_grad=True) for array in (preds, targets))
    assert torch.autograd.gradgradcheck(lambda *pair: negative_pearson_loss(*pair, eps), (x, y))


def test_parts_of_the_gradient_that_overflow_do_not_cancel_to_nan():
    preds = torch.tensor([1.9e-6, 1.2e-7], dtype=torch.float16, requires_grad=True)
    negative_pearson_loss(preds, torch.tensor([1.0, -1.0]), 2.5).backward()
    assert not preds.grad.isnan().any()


def test_eps_floors_the_product_of_the_norms_relative_to_the_largest_deviations():
    # deviations ±1 and ±3: norms √2 and 3√2, so ‖p‖‖t‖ / (max|p| max|t|) = 2
    preds, targets = torch.tensor([0.0, 2.0]), torch.tensor([1.0, 7.0])
    assert negative_pearson_loss(preds, targets, 2.0).item() == -1.0
    assert negative_pearson_loss(preds, targets, 4.0).item() == -0.5


def test_integer_targets_and_dtypes():
    counts = torch.tensor([1, 2, 4])
    assert negative_pearson_loss(counts.half(), counts).dtype is torch.float32
    assert negative_pearson_loss(counts.double(), counts).dtype is torch.float64
    assert negative_pearson_loss(counts, counts).item() == -1.0


def test_refusals():
    x = torch.zeros(3)
    with pytest.raises(ValueError, match=r"preds and targets .* \(3, 1\) and \(3,\)"):
        negative_pearson_loss(x[:, None], x)
    with pytest.raises(TypeError, match=r"targets must be a torch.Tensor, got list"):
        negative_pearson_loss(x, [1.0])
    with pytest.raises(TypeError, match=r"preds must have dtype .* got torch.bool"):
        negative_pearson_loss(x > 0, x)
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="eps must be finite and >= 0"):
            negative_pearson_loss(x, x, bad)
    with pytest.raises(TypeError, match="eps must be a real number, got bool"):
        NegativePearsonLoss(True)


def test_module_is_the_function():
    x, y = torch.randn(5), torch.randn(5)
    assert torch.equal(NegativePearsonLoss(10.0)(x, y), negative_pearson_loss(x, y, 10.0))
    assert repr(NegativePearsonLoss()) == "NegativePearsonLoss(eps=1e-08)"
