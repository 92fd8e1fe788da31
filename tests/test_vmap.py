"""`torch.func`: a batch of problems equals the problems one by one."""

import pytest
import torch
from torch.func import grad, vmap

from tests.cases import CASES
from tests.rounding import assert_close_to_rounding
from torchimpl.saturate import replace_through

PROBLEMS = 3
every_loss = pytest.mark.parametrize("entry", CASES, ids=str)
every_argument = pytest.mark.parametrize(
    ("entry", "mapped"),
    [
        pytest.param(entry, position, id=f"{entry}-{position}")
        for entry in CASES
        for position in range(len(entry.inputs()))
    ],
)


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


@every_argument
def test_one_problem_of_a_batch_in_one_argument(entry, mapped):
    shared, other = _problems(entry)[:2]
    single = [other[i] if i == mapped else tensor for i, tensor in enumerate(shared)]
    batch = [torch.stack([t, other[i]]) if i == mapped else t for i, t in enumerate(shared)]
    for position in entry.differentiable:
        single[position] = single[position].clone().requires_grad_()
        batch[position] = batch[position].clone().requires_grad_()
    in_dims = tuple(0 if i == mapped else None for i in range(len(batch)))
    actual, expected = vmap(entry.scalar, in_dims)(*batch)[1], entry.scalar(*single)
    assert_close_to_rounding((actual,), (expected,))
    found = torch.autograd.grad(actual, [batch[i] for i in entry.differentiable])
    wanted = torch.autograd.grad(expected, [single[i] for i in entry.differentiable])
    for position, gradient, reference in zip(entry.differentiable, found, wanted, strict=True):
        own = gradient
        if position == mapped:
            unconcerned, own = gradient
            assert not unconcerned.any()
        assert_close_to_rounding((own,), (reference,))


@every_loss
def test_vmap_of_vmap_over_one_argument_each(entry):
    shared, other = _problems(entry)[:2]
    outer, inner = entry.differentiable[:2]
    single = [other[i] if i in (outer, inner) else tensor for i, tensor in enumerate(shared)]
    batch = [torch.stack([t, other[i]]) if i in (outer, inner) else t for i, t in enumerate(shared)]

    def in_dims(mapped):
        return tuple(0 if i == mapped else None for i in range(len(batch)))

    gradient = grad(entry.scalar, entry.differentiable)
    nested = vmap(vmap(gradient, in_dims(inner)), in_dims(outer))(*batch)
    assert_close_to_rounding(tuple(g[1, 1] for g in nested), gradient(*single))


def test_a_replaced_value_leaves_every_problem_its_own_gradient():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    replaced = vmap(replace_through, (0, None))(x, torch.tensor(5.0))
    (replaced * torch.tensor([3.0, 7.0])).sum().backward()
    assert replaced.tolist() == [5.0, 5.0]
    assert x.grad.tolist() == [3.0, 7.0]


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
