"""First and second derivatives against finite differences, in float64."""

import pytest
import torch

from tests.cases import CASES

every_loss = pytest.mark.parametrize("entry", CASES, ids=str)


@every_loss
def test_first_derivative(entry):
    assert torch.autograd.gradcheck(entry.call, entry.inputs(torch.float64, batch=4))


@every_loss
def test_second_derivative(entry):
    assert torch.autograd.gradgradcheck(entry.call, entry.inputs(torch.float64, batch=4))


@every_loss
def test_partial_requires_grad(entry):
    complete = entry.gradients(*entry.inputs())
    for k, position in enumerate(entry.differentiable):
        inputs = tuple(t.detach().requires_grad_(i == position) for i, t in enumerate(entry.inputs()))
        (alone,) = torch.autograd.grad(entry.scalar(*inputs), inputs[position])
        assert torch.equal(alone, complete[k])


@every_loss
def test_two_forwards_before_one_backward(entry):
    first, second = entry.inputs(seed=0), entry.inputs(seed=1)
    values = entry.scalar(*first), entry.scalar(*second)
    wanted = [first[i] for i in entry.differentiable], [second[i] for i in entry.differentiable]
    for value, leaves, inputs in zip(values, wanted, (first, second), strict=True):
        for actual, expected in zip(
            torch.autograd.grad(value, leaves), entry.gradients(*inputs), strict=True
        ):
            assert torch.equal(actual, expected)


@every_loss
def test_backward_twice_through_a_retained_graph(entry):
    inputs = entry.inputs()
    value, leaves = entry.scalar(*inputs), [inputs[i] for i in entry.differentiable]
    once = torch.autograd.grad(value, leaves, retain_graph=True)
    again = torch.autograd.grad(value, leaves)
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
