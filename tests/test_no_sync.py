"""No loss looks at a value: it runs on tensors that have none, and traces to a graph without a read-back."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from tests.cases import CASES

every_loss = pytest.mark.parametrize("entry", CASES, ids=str)
# each of these waits for the device, or has a shape that only the values know
READ_BACK = ("_local_scalar_dense", "aten.nonzero", "masked_select", "is_nonzero", "aten.equal", "unique")


@every_loss
def test_meta_tensors(entry):
    inputs = tuple(
        t.detach().to("meta").requires_grad_(i in entry.differentiable) for i, t in enumerate(entry.inputs())
    )
    result = entry.call(*inputs)
    expected = entry.call(*entry.inputs())
    assert result.device.type == "meta"
    assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
    gradients = entry.gradients(*inputs)
    assert all(g.shape == inputs[i].shape for g, i in zip(gradients, entry.differentiable, strict=True))


@every_loss
def test_fake_tensors(entry):
    with FakeTensorMode(allow_non_fake_inputs=True):  # the composite holds its weights
        inputs = entry.inputs()
        result = entry.call(*inputs)
        gradients = entry.gradients(*inputs)
    assert result.dim() == (1 if entry.elementwise else 0)
    assert all(g.shape == inputs[i].shape for g, i in zip(gradients, entry.differentiable, strict=True))


def _operators(entry):
    """Names of the operators that value and gradients trace to."""
    inputs = tuple(t.detach() for t in entry.inputs())

    def value_and_gradients(*tensors):
        leaves = tuple(t.requires_grad_(i in entry.differentiable) for i, t in enumerate(tensors))
        return entry.call(*leaves).detach(), *entry.gradients(*leaves)

    graph = make_fx(value_and_gradients, tracing_mode="fake", _allow_non_fake_inputs=True)(*inputs)
    return [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]


@every_loss
def test_no_operator_reads_back(entry):
    operators = _operators(entry)
    assert operators
    assert [name for name in operators if any(part in name for part in READ_BACK)] == []


def test_a_read_back_would_be_seen():
    graph = make_fx(lambda x: x[x > 0].sum())(torch.randn(4))
    names = [str(node.target) for node in graph.graph.nodes]
    assert any(part in name for name in names for part in (*READ_BACK, "index.Tensor"))


@every_loss
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device to catch a synchronisation")
def test_no_synchronisation_on_cuda(entry):
    inputs = tuple(
        t.detach().cuda().requires_grad_(i in entry.differentiable) for i, t in enumerate(entry.inputs())
    )
    entry.gradients(*inputs)
    torch.cuda.set_sync_debug_mode("error")
    try:
        entry.gradients(*inputs)
    finally:
        torch.cuda.set_sync_debug_mode("default")
