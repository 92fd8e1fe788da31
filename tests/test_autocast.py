"""Half inputs give a float32 scalar; autocast changes no number."""

import pytest
import torch

from tests.cases import CASES

every_loss = pytest.mark.parametrize("entry", CASES, ids=str)
half = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)


@every_loss
@half
def test_half_inputs_give_a_float32_scalar_and_half_gradients(entry, dtype):
    inputs = entry.inputs(dtype)
    result = entry.call(*inputs)
    assert result.dtype == (dtype if entry.elementwise else torch.float32)
    gradients = entry.gradients(*inputs)
    assert all(g.dtype == dtype and g.isfinite().all() for g in gradients)


@every_loss
@half
def test_a_half_input_means_what_its_float32_copy_means(entry, dtype):
    inputs = entry.inputs(dtype)
    widened = tuple(t.detach().float() if t.is_floating_point() else t for t in inputs)
    expected = entry.call(*widened)
    assert torch.equal(entry.call(*inputs), expected.to(dtype) if entry.elementwise else expected)


@every_loss
@half
@pytest.mark.parametrize("autocast_to", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_changes_nothing(entry, dtype, autocast_to):
    for kind in (dtype, torch.float32):
        inputs = entry.inputs(kind)
        expected, gradients = entry.call(*inputs), entry.gradients(*inputs)
        with torch.autocast("cpu", dtype=autocast_to):
            result = entry.call(*inputs)
        assert result.dtype == expected.dtype
        assert torch.equal(result, expected)
        under_autocast = torch.autograd.grad(
            result, [inputs[i] for i in entry.differentiable], torch.ones_like(result)
        )
        assert all(torch.equal(a, b) for a, b in zip(under_autocast, gradients, strict=True))


@every_loss
def test_float64_stays_float64(entry):
    inputs = entry.inputs(torch.float64)
    assert entry.call(*inputs).dtype == torch.float64
    assert all(g.dtype == torch.float64 for g in entry.gradients(*inputs))
