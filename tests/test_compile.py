"""One graph, symbolic shapes: `torch.compile(fullgraph=True, dynamic=True)` changes nothing."""

import pytest
import torch

from tests.cases import CASES, case
from tests.rounding import assert_close_to_rounding

# torch's own use of what torch deprecates: the compiler instantiates autograd.Function while it traces one,
# and inductor imports modules that use torch.jit
pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:<class 'torch.autograd.function.Function'> should not be instantiated:DeprecationWarning"
    ),
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def _compiled(entry, backend):
    return torch.compile(entry.call, fullgraph=True, dynamic=True, backend=backend)


@pytest.mark.parametrize("entry", CASES, ids=str)
def test_same_value_and_gradients_as_eager(entry):
    compiled = _compiled(entry, "aot_eager")
    for batch in (6, 9):
        inputs = entry.inputs(batch=batch)
        assert_close_to_rounding((compiled(*inputs),), (entry.call(*inputs),))
        assert_close_to_rounding(entry.gradients(*inputs, call=compiled), entry.gradients(*inputs))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["masked_mse", "concordance_loss_nce"])
def test_inductor_gives_the_same(name):
    entry = case(name)
    compiled = _compiled(entry, "inductor")
    inputs = entry.inputs()
    assert_close_to_rounding((compiled(*inputs),), (entry.call(*inputs),))
    assert_close_to_rounding(entry.gradients(*inputs, call=compiled), entry.gradients(*inputs))


@pytest.mark.parametrize("name", ["masked_mse", "concordance_loss_nce", "negative_binomial_cdf"])
def test_the_hundredth_call_equals_the_first(name):
    entry = case(name)
    compiled = _compiled(entry, "aot_eager")
    inputs = entry.inputs()
    first = compiled(*inputs)
    for _ in range(98):
        compiled(*inputs)
    assert torch.equal(compiled(*inputs), first)
