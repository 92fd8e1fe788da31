"""Strides and the order of the batch are no part of the answer."""

import pytest
import torch

from tests.cases import CASES, case
from tests.rounding import assert_close_to_rounding

every_loss = pytest.mark.parametrize("entry", CASES, ids=str)


def _strided(tensor):
    """The same numbers, every second one of a larger buffer."""
    if tensor.dim() == 0:
        return tensor
    spaced = torch.stack([tensor, torch.ones_like(tensor)], -1)[..., 0]
    assert not spaced.is_contiguous()
    return spaced


def _transposed(tensor):
    return tensor.t().contiguous().t() if tensor.dim() == 2 else tensor


def _offset(tensor):
    """The same numbers, not at the start of their storage and not aligned."""
    buffer = torch.cat([tensor.new_ones(1), tensor.flatten()])
    return buffer[1:].view(tensor.shape)


@every_loss
@pytest.mark.parametrize("relaid", [_strided, _transposed, _offset])
def test_memory_layout(entry, relaid):
    inputs = entry.inputs()
    others = tuple(relaid(t.detach()).requires_grad_(i in entry.differentiable) for i, t in enumerate(inputs))
    assert_close_to_rounding((entry.call(*others),), (entry.call(*inputs),))
    assert_close_to_rounding(entry.gradients(*others), entry.gradients(*inputs))


@every_loss
def test_expanded_inputs(entry):
    inputs = tuple(t.detach() for t in entry.inputs())
    expanded = tuple(t[:1].expand(t.shape) if t.dim() else t for t in inputs)
    copied = tuple(t.contiguous() for t in expanded)
    assert_close_to_rounding((entry.call(*expanded),), (entry.call(*copied),))


@every_loss
def test_gradient_through_an_expanded_result_and_an_expanded_input(entry):
    inputs = entry.inputs()
    rows = [i for i in entry.differentiable if inputs[i].dim()]
    base = [inputs[i].detach()[:1].clone().requires_grad_() for i in rows]
    expanded = list(inputs)
    for i, tensor in zip(rows, base, strict=True):
        expanded[i] = tensor.expand(inputs[i].shape)
    # an expanded cotangent has strides 0
    result = entry.call(*expanded)
    gradients = torch.autograd.grad(result, base, torch.ones(()).expand_as(result))
    assert all(g.shape == b.shape and g.isfinite().all() for g, b in zip(gradients, base, strict=True))


@every_loss
def test_permuting_the_batch(entry):
    inputs = entry.inputs()
    order = torch.randperm(len(inputs[0]), generator=torch.Generator().manual_seed(3))
    permuted = tuple(
        (t.detach()[order] if t.dim() else t.detach()).requires_grad_(i in entry.differentiable)
        for i, t in enumerate(inputs)
    )
    value, expected = entry.call(*permuted), entry.call(*inputs)
    assert_close_to_rounding((value,), (expected[order] if entry.elementwise else expected,))
    gradients = tuple(g[order] if g.dim() else g for g in entry.gradients(*inputs))
    assert_close_to_rounding(entry.gradients(*permuted), gradients)


@pytest.mark.parametrize(
    "name", ["masked_sse", "masked_mse", "concordance_loss_nce", "negative_pearson_loss"]
)
def test_channels_last(name):
    entry = case(name)
    inputs = tuple(
        t.detach().reshape(4, 2, 2, 3) for t in entry.make(torch.float32, 0, 12 if "mas" in name else 24)
    )
    shuffled = tuple(t.contiguous(memory_format=torch.channels_last) for t in inputs)
    assert_close_to_rounding((entry.call(*shuffled),), (entry.call(*inputs),))
