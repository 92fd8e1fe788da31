"""`torch.func`: a batch of problems equals the problems one by one."""

import pytest
import torch
from torch.func import grad, vmap

from tests.cases import CASES
from tests.rounding import assert_close_to_rounding

PROBLEMS = 3
every_loss = pytest.mark.parametrize("entry", CASES, ids=str)


def _problems(entry):
    return [tuple(t.detach() for t in entry.inputs(seed=seed)) for seed in range(PROBLEMS)]


def _stacked(problems):
    return tuple(torch.stack(tensors) for tensors in zip(*problems, strict=True))


@every_loss
def test_vmap_equals_the_loop(entry):
    problems = _problems(entry)
    expected = torch.stack([entry.call(*problem) for problem in problems])
    assert_close_to_rounding((vmap(entry.call)(*_stacked(problems)),), (expected,))


@every_loss
def test_vmap_over_another_dimension_and_over_some_inputs_only(entry):
    problems = _problems(entry)
    first, *rest = _stacked(problems)
    in_dims = (first.dim() - 1, *(None for _ in rest))
    actual = vmap(entry.call, in_dims)(first.movedim(0, -1), *problems[0][1:])
    expected = torch.stack([entry.call(problem[0], *problems[0][1:]) for problem in problems])
    assert_close_to_rounding((actual,), (expected,))


@every_loss
def test_grad_equals_backward(entry):
    inputs = entry.inputs()
    actual = grad(entry.scalar, entry.differentiable)(*(t.detach() for t in inputs))
    assert_close_to_rounding(actual, entry.gradients(*inputs))


@every_loss
def test_vmap_of_grad_equals_the_loop(entry):
    problems = _problems(entry)
    gradient = grad(entry.scalar, entry.differentiable)
    expected = _stacked([gradient(*problem) for problem in problems])
    assert_close_to_rounding(vmap(gradient)(*_stacked(problems)), expected)


@every_loss
def test_second_derivatives_under_func(entry):
    inputs = tuple(t.detach() for t in entry.inputs())
    position = entry.differentiable[0]

    def slope(*tensors):
        return grad(entry.scalar, position)(*tensors).square().sum()

    actual = grad(slope, position)(*inputs)
    leaves = entry.inputs()
    first = torch.autograd.grad(entry.scalar(*leaves), leaves[position], create_graph=True)[0]
    expected = torch.autograd.grad(first.square().sum(), leaves[position])
    assert_close_to_rounding((actual,), expected)
