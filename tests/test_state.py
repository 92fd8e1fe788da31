"""The modules: copies, pickles, state and printed form."""

import copy
import pickle

import pytest
import torch

from tests.cases import MODULES, case

every_module = pytest.mark.parametrize("entry", MODULES, ids=str)


def _value(entry, module):
    return entry.call(module)(*case(entry.case).inputs())


@every_module
def test_deepcopy_and_pickle_compute_the_same(entry):
    expected = _value(entry, entry.module)
    assert torch.equal(_value(entry, copy.deepcopy(entry.module)), expected)
    assert torch.equal(_value(entry, pickle.loads(pickle.dumps(entry.module))), expected)


@every_module
def test_state_dict_round_trip(entry):
    other = copy.deepcopy(entry.module)
    assert not list(other.parameters())
    state = entry.module.state_dict()
    other.load_state_dict(state)
    assert torch.equal(_value(entry, other), _value(entry, entry.module))


@every_module
def test_the_option_is_printed_and_matters(entry):
    assert type(entry.module).__name__ in repr(entry.module)
    assert entry.option in repr(entry.module)


@every_module
def test_moving_the_module_changes_no_number(entry):
    expected = _value(entry, entry.module)
    for move in (torch.nn.Module.half, torch.nn.Module.double, torch.nn.Module.eval):
        assert torch.equal(_value(entry, move(copy.deepcopy(entry.module))), expected)


def test_the_option_reaches_the_function():
    entry = next(m for m in MODULES if str(m) == "ConcordanceLossNCE")
    function = case("concordance_loss_nce")
    assert torch.equal(_value(entry, entry.module), function.call(*function.inputs(), tau=0.25))
    assert not torch.equal(_value(entry, entry.module), function.call(*function.inputs()))
