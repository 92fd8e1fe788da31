"""Residual MSE between replicates: against the oracle, at the edges, and what it refuses."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl import residual as oracles
from refimpl.bounds import residual as bounds
from refimpl.conformance.formats import FORMATS, round_to
from refimpl.conformance.strategies import PAIRS, pairs, shapes
from tests.agreement import DTYPES, assert_agrees
from tests.budget import examples
from torchimpl.kernels import blocks
from torchimpl.residual import (
    REDUCTIONS,
    ReplicateConcordanceMSELoss,
    _ResidualSquares,
    compute_residual_mse,
    replicate_concordance_mse_loss,
)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=examples(100))
@given(data=st.data())
def test_agrees_with_the_oracle(dtype, data):
    family = data.draw(st.sampled_from([*PAIRS]))
    form = FORMATS[dtype]
    shape = data.draw(shapes(family, 1))
    first, second = (data.draw(pairs(family, form, shape)) for _ in range(2))
    ratio = round_to(data.draw(st.sampled_from([0.0, 0.1, 1.0, -3.0, 1e-30, 1e30])), form)
    if data.draw(st.booleans()):
        ratio = data.draw(pairs(family, form, shape))[1]
    assert_agrees(
        compute_residual_mse,
        (oracles, bounds),
        (*first, *second, ratio),
        dtype,
        reduction=data.draw(st.sampled_from(REDUCTIONS)),
    )


@given(st.lists(st.tuples(*[st.integers(-9, 9)] * 4), min_size=1, max_size=30), st.integers(-3, 3))
def test_small_integers_are_exact(rows, ratio):
    columns = [torch.tensor(column) for column in zip(*rows, strict=True)]
    expected = sum(((a - b) - ratio * (c - d)) ** 2 for a, b, c, d in rows)
    for dtype in (torch.int64, *DTYPES.values()):
        y1, mu1, y2, mu2 = (column.to(dtype) for column in columns)
        for s in (ratio, torch.tensor(ratio), torch.full(y1.shape, ratio)):
            assert compute_residual_mse(y1, mu1, y2, mu2, s, reduction="sum").item() == expected


def test_the_gradient_of_the_ratio_does_not_become_nan_where_its_terms_overflow():
    huge = torch.tensor([1e200, 1e200], dtype=torch.float64)
    ratio = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    value = compute_residual_mse(huge, huge * 0, huge * torch.tensor([1.0, -1.0]), huge * 0, ratio)
    value.backward()
    assert value.item() == torch.finfo(torch.float64).max
    assert ratio.grad.item() == 0.0


def test_overflowing_residuals_of_both_signs_do_not_cancel_to_nan():
    largest = torch.full((8,), torch.finfo(torch.float64).max, dtype=torch.float64)
    mu1 = (-largest).requires_grad_()
    value = compute_residual_mse(largest, mu1, largest, -largest, 1.0 - 2.0**-53)
    value.backward()
    assert value.isfinite()
    assert mu1.grad.isfinite().all()
    assert (mu1.grad < 0).all()


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_empty_is_zero_on_the_graph(reduction):
    empty = torch.zeros(0, requires_grad=True)
    ratio = torch.tensor(1.0, requires_grad=True)
    value = compute_residual_mse(empty, empty, empty, empty, ratio, reduction=reduction).sum()
    value.backward()
    assert value == 0
    assert ratio.grad == 0
    assert empty.grad.shape == (0,)


@pytest.mark.parametrize("position", range(5))
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_inputs_are_not_hidden(position, bad):
    inputs = [torch.ones(3) for _ in range(5)]
    inputs[position][1] = bad
    inputs[2] = inputs[2] + 1.0
    assert not compute_residual_mse(*inputs).isfinite()
    assert compute_residual_mse(*inputs, reduction="none").isfinite().tolist() == [True, False, True]


def test_zero_incoming_gradient_gives_zero_even_for_inf():
    inputs = [torch.tensor([math.inf, 1.0], requires_grad=True) for _ in range(4)]
    ratio = torch.tensor(2.0, requires_grad=True)
    (0.0 * compute_residual_mse(*inputs, ratio)).backward()
    assert all((t.grad == 0).all() for t in (*inputs, ratio))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(), (4,)])
def test_first_and_second_derivatives(reduction, shape):
    inputs = [torch.randn(4, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    ratio = torch.randn(shape, dtype=torch.float64, requires_grad=True)

    def loss(*arguments):
        return compute_residual_mse(*arguments, reduction=reduction)

    assert torch.autograd.gradcheck(loss, (*inputs, ratio))
    assert torch.autograd.gradgradcheck(loss, (*inputs, ratio))


@pytest.mark.parametrize("divisor", [None, 11.0])
@pytest.mark.parametrize("shape", [(), (11,)])
def test_derivatives_without_guards_in_pieces(monkeypatch, divisor, shape):
    # what float32 inputs go through, differentiated in float64
    monkeypatch.setattr(blocks, "BLOCK", 4)
    inputs = [torch.randn(11, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    ratio = torch.randn(shape, dtype=torch.float64, requires_grad=True)

    def loss(*arguments):
        return _ResidualSquares.apply(*arguments, divisor)

    assert torch.autograd.gradcheck(loss, (*inputs, ratio))
    assert torch.autograd.gradgradcheck(loss, (*inputs, ratio))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (11,)])
def test_long_vectors_in_pieces(monkeypatch, dtype, reduction, shape):
    monkeypatch.setattr(blocks, "BLOCK", 4)
    generator = np.random.default_rng(0)
    sizes = [(11,)] * 4 + [shape]
    arrays = tuple(round_to(generator.normal(size=size), FORMATS[dtype]) for size in sizes)
    assert_agrees(compute_residual_mse, (oracles, bounds), arrays, dtype, reduction=reduction)


@pytest.mark.parametrize("ratio", [1e200, torch.tensor(1e200, dtype=torch.float64)])
def test_a_ratio_beyond_float32_saturates(ratio):
    inputs = [torch.tensor([1.0, 2.0]) * scale for scale in (1.0, 2.0, 3.0, 1e38)]
    inputs[3].requires_grad_()
    value = compute_residual_mse(*inputs, ratio)
    value.backward()
    assert value.item() == torch.finfo(torch.float32).max
    assert (inputs[3].grad == math.inf).all()


def test_dtypes():
    y = torch.arange(3)
    half = torch.ones(3, dtype=torch.float16)
    assert compute_residual_mse(y, half, y, half, 2.0).dtype is torch.float32
    assert compute_residual_mse(y, half, y, half, 2.0, reduction="none").dtype is torch.float16
    assert compute_residual_mse(y, half.float(), y, half.double(), 2.0).dtype is torch.float64
    assert compute_residual_mse(y, half, y, half, torch.tensor(2.0).double()).dtype is torch.float32


def _batch(ratio, reads=(3, 5)):
    reads = {"reads": torch.tensor(reads)}
    return {"r1": reads, "r2": reads, "metadata": {"sd_ratio": ratio}}


def _outputs(shape=(2, 1)):
    return {r: {"mu": torch.tensor([1.0, 4.0]).reshape(shape)} for r in ("r1", "r2")}


def test_the_wrapper_aligns_every_form_of_the_ratio():
    column = torch.full((2, 1), 2.0)
    for ratio in (2, 2.0, np.float32(2), column, column[:, 0], column[0, 0]):
        for shape in ((2, 1), (2,)):
            assert replicate_concordance_mse_loss(_outputs(shape), _batch(ratio)).item() == 2.5
    module = ReplicateConcordanceMSELoss(reduction="sum")
    assert module(_outputs(), _batch(2.0)).item() == 5.0
    assert repr(module) == "ReplicateConcordanceMSELoss(reduction='sum')"


def test_refusals():
    x = torch.zeros(3)
    with pytest.raises(ValueError, match=r"mu_tech_r2 and y_r1 .* \(3, 1\) and \(3,\)"):
        compute_residual_mse(x, x, x, x[:, None], 1.0)
    with pytest.raises(ValueError, match=r"sd_ratio_r1_to_r2 and y_r1 .* \(2,\) and \(3,\)"):
        compute_residual_mse(x, x, x, x, x[:2])
    with pytest.raises(TypeError, match="sd_ratio_r1_to_r2 must be a real number, got str"):
        compute_residual_mse(x, x, x, x, "1")
    with pytest.raises(TypeError, match=r"y_r2 must be a torch.Tensor, got NoneType"):
        compute_residual_mse(x, x, None, x, 1.0)
    with pytest.raises(ValueError, match="'mean', 'sum', 'none', got 'max'"):
        compute_residual_mse(x, x, x, x, 1.0, reduction="max")
    with pytest.raises(
        KeyError, match=r"batch\['metadata'\]\['sd_ratio'\] is missing; keys present: 'grp_idx'"
    ):
        replicate_concordance_mse_loss(_outputs(), {**_batch(1.0), "metadata": {"grp_idx": 1}})
    with pytest.raises(ValueError, match=r"\['sd_ratio'\] and batch\['r1'\]\['reads'\] .* \(3,\) and \(2,\)"):
        replicate_concordance_mse_loss(_outputs(), _batch(torch.ones(3)))
    with pytest.raises(
        TypeError, match="has no option 'reductio'; known: 'reduction'; did you mean 'reduction'"
    ):
        replicate_concordance_mse_loss(_outputs(), _batch(1.0), reductio="sum")
