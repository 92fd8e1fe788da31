"""Weighted sums of losses: against the oracle, both call forms, nesting, and what they refuse."""

import copy
import functools
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from refimpl import composite as oracles
from refimpl.bounds import composite as bounds
from refimpl.bounds.precision import error_ratio, precision
from refimpl.conformance.formats import FORMATS
from refimpl.conformance.strategies import PAIRS, pairs
from tests.agreement import as_array, as_tensor
from torchimpl.composite import CompositeLoss, LossComponent


def first(model_outputs, batch):
    return model_outputs["a"]


def second(model_outputs, batch, *, scale=1.0):
    return scale * model_outputs["b"]


def values_of(a, b):
    return {"a": torch.as_tensor(a), "b": torch.as_tensor(b)}


def component(index):
    return lambda values, _: values[index]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(data=st.data())
def test_agrees_with_the_oracle(dtype, data):
    count = data.draw(st.integers(1, 6))
    values, _ = data.draw(pairs(data.draw(st.sampled_from([*PAIRS])), FORMATS[dtype], (count,)))
    weights = data.draw(
        st.lists(
            st.sampled_from([0.0, 0.1, 1.0, -2.5, 1e-300, -1e300, 5e-324]), min_size=count, max_size=count
        )
    )
    tensor = as_tensor(values, getattr(torch, dtype))
    total = CompositeLoss([component(k) for k in range(count)], weights)(tensor, None)
    total.backward()
    held = precision(dtype)
    bound = bounds.composite_loss(values, weights, held)
    exact = oracles.composite_loss(values, weights)
    assert error_ratio(as_array(total), exact, bound.value, held.scalar_max) <= 1.0
    gradient = np.reshape(oracles.composite_loss_gradient(values, weights), -1)
    allowed = np.reshape(bound.gradient, -1)
    assert np.all(
        error_ratio(as_array(tensor.grad), gradient, allowed, held.result_max, overflows=True) <= 1.0
    )


def test_both_historical_call_forms():
    outputs = values_of(2.0, 3.0)
    plain = CompositeLoss([first, second], [1.0, 0.5])
    assert plain(outputs, {}).item() == 3.5
    for loss in (
        CompositeLoss([first, second], [1.0, 0.5], True),
        CompositeLoss([first, second], [1.0, 0.5], return_components=True),
    ):
        result = loss(outputs, {})
        assert result == {"total": 3.5, "components": {"first": 2.0, "second": 3.0}}
    named = CompositeLoss([first, second], [1.0, 0.5], ["x", "y"])
    assert named(outputs, {}) == {"total": 3.5, "components": {"x": 2.0, "y": 3.0}}
    assert CompositeLoss([first, second], (1, 0.5), False)(outputs, {}).item() == 3.5


def test_weight_zero_stops_an_infinite_incoming_gradient_too():
    off, on = torch.tensor(1.0, requires_grad=True), torch.tensor(1.0, requires_grad=True)
    (math.inf * CompositeLoss([first, second], [0.0, 1.0])({"a": off, "b": on}, {})).backward()
    assert off.grad.item() == 0.0
    assert on.grad.item() == math.inf


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weight_zero_switches_off_for_the_total_and_stays_in_the_log(bad):
    off, on = torch.tensor(bad, requires_grad=True), torch.tensor(3e38, requires_grad=True)
    result = CompositeLoss([first, second], [0.0, 10.0], ["off", "on"])({"a": off, "b": on}, {})
    result["total"].backward()
    assert result["total"].item() == torch.finfo(torch.float32).max
    assert not result["components"]["off"].isfinite()
    assert not result["components"]["off"].requires_grad
    assert off.grad.item() == 0.0
    assert on.grad.item() == 10.0


def test_a_component_that_is_not_finite_is_not_hidden():
    loss = CompositeLoss([first, second], [1.0, 1.0])
    assert loss(values_of(math.nan, 1.0), {}).isnan()
    assert loss(values_of(math.inf, 1.0), {}).item() == math.inf
    assert loss(values_of(math.inf, -math.inf), {}).isnan()


def test_terms_that_overflow_each_may_cancel():
    loss = CompositeLoss([component(k) for k in range(3)], [1e300, -1e300, 1.0])
    assert loss([torch.tensor(1e30)] * 3, {}).item() == torch.tensor(1e30).item()


def test_dtypes_promote_and_the_weights_stay_float64():
    loss = CompositeLoss([first, second], [0.1, 1.0])
    for convert in (loss.half, loss.float, loss.bfloat16, loss.double):
        assert convert().weights.dtype is torch.float64
        assert loss.weights[0].item() == 0.1
    single, double = torch.tensor(1.0), torch.tensor(1.0, dtype=torch.float64)
    assert loss({"a": single, "b": double}, {}).dtype is torch.float64
    assert loss({"a": single.half(), "b": single.half()}, {}).dtype is torch.float32
    assert loss({"a": torch.tensor(3), "b": single}, {}).dtype is torch.float32


def test_a_change_of_device_and_dtype_reaches_the_components_and_moves_the_weights():
    linear = torch.nn.Linear(1, 1)
    loss = CompositeLoss([CompositeLoss([linear], [1.0])], [1.0]).to("meta", torch.float16)
    assert loss.weights.device.type == "meta"
    assert loss.weights.dtype is torch.float64
    assert {(p.device.type, p.dtype) for p in loss.parameters()} == {("meta", torch.float16)}


def test_weights_may_change_between_steps_and_travel_in_the_state_dict():
    loss = CompositeLoss([first, second], [1.0, 0.0])
    loss.weights[1] = 2.0
    assert loss(values_of(1.0, 1.0), {}).item() == 3.0
    other = CompositeLoss([first, second], [5.0, 5.0])
    other.load_state_dict(loss.state_dict())
    assert other(values_of(1.0, 1.0), {}).item() == 3.0


def test_modules_are_registered_in_order_and_composites_nest():
    linear = torch.nn.Linear(1, 1)

    class Learned(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = linear

        def forward(self, model_outputs, _batch):
            return self.linear(model_outputs["a"].reshape(1)).sum()

    inner = CompositeLoss([Learned(), first], [1.0, 2.0], ["learned", "first"])
    outer = CompositeLoss([second, inner], [1.0, 0.5])
    assert {id(p) for p in outer.parameters()} == {id(p) for p in linear.parameters()}
    assert sum(isinstance(m, CompositeLoss) for m in outer.modules()) == 2
    outputs = values_of(2.0, 3.0)
    expected = 3.0 + 0.5 * (linear(torch.tensor([2.0])).item() + 4.0)
    assert outer(outputs, {}).item() == torch.tensor(expected).item()
    assert outer.component_names == ["second", "CompositeLoss"]


def test_names_of_partials_lambdas_and_repeats():
    partial = functools.partial(second, scale=2.0)
    loss = CompositeLoss([first, partial, second, LossComponent(first)], [1, 1, 1, 1], True)
    assert loss.component_names == ["first", "second", "second#2", "first#2"]
    assert loss(values_of(1.0, 1.0), {})["total"].item() == 5.0
    assert repr(CompositeLoss([first], [0.5])).splitlines()[1].strip() == "first=0.5"


def test_copies():
    loss = CompositeLoss([first, functools.partial(second, scale=2.0)], [1.0, 0.5], True)
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert twin(values_of(1.0, 1.0), {}) == loss(values_of(1.0, 1.0), {})
        twin.weights[0] = 7.0
    assert loss.weights[0].item() == 1.0


def test_derivatives():
    loss = CompositeLoss([component(0), lambda values, _: values[1] ** 2], [2.0, -3.0])
    values = [torch.randn((), dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(lambda *v: loss(v, {}), values)
    assert torch.autograd.gradgradcheck(lambda *v: loss(v, {}), values)


def test_refusals():
    with pytest.raises(ValueError, match="at least one loss, got none"):
        CompositeLoss([], [])
    with pytest.raises(ValueError, match="one entry per loss, got 1 for 2 losses"):
        CompositeLoss([first, second], [1.0])
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match=r"weights\[1\] must be finite"):
            CompositeLoss([first, second], [1.0, bad])
    for bad, name in ((True, "bool"), ("1", "str"), (None, "NoneType"), (torch.tensor(1.0), "Tensor")):
        with pytest.raises(TypeError, match=rf"weights\[0\] must be a real number, got {name}"):
            CompositeLoss([first], [bad])
    with pytest.raises(TypeError, match="loss_functions must be a list or tuple, got function"):
        CompositeLoss(first, [1.0])
    with pytest.raises(TypeError, match=r"loss_functions\[0\] must be a callable .* 'nll_loss'"):
        CompositeLoss(["nll_loss"], [1.0])
    with pytest.raises(TypeError, match=r"got the class LossComponent; make an instance"):
        CompositeLoss([LossComponent], [1.0])
    with pytest.raises(ValueError, match=r"component_names must be unique, got \['x', 'x'\]"):
        CompositeLoss([first, second], [1.0, 1.0], ["x", "x"])
    with pytest.raises(ValueError, match="component_names must have one entry per loss"):
        CompositeLoss([first, second], [1.0, 1.0], ["x"])
    with pytest.raises(TypeError, match="component_names must be a list or tuple, got str"):
        CompositeLoss([first, second], [1.0, 1.0], "xy")
    with pytest.raises(TypeError, match="component_names must hold strings, got int"):
        CompositeLoss([first], [1.0], [3])


@pytest.mark.parametrize(
    ("returned", "came"),
    [
        (torch.ones(1), r"shape \(1,\)"),
        (torch.ones(2, 3), r"shape \(2, 3\)"),
        (1.0, "float"),
        (None, "NoneType"),
    ],
)
def test_a_component_that_is_not_a_scalar_is_named(returned, came):
    loss = CompositeLoss([first, lambda *_: returned], [1.0, 1.0], ["good", "bad"])
    with pytest.raises(ValueError, match=f"component 'bad' must return a 0-dim tensor, got {came}"):
        loss(values_of(1.0, 1.0), {})
