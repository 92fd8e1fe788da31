"""What every loss refuses alike, and how it says so."""

import numpy as np
import pytest
import torch

from torchimpl import checks


def test_a_tensor_that_is_not_dense_is_refused():
    with pytest.raises(TypeError, match=r"x must be a dense tensor, got layout torch.sparse_coo; .*to_dense"):
        checks.require_tensor("x", torch.ones(3).to_sparse())


def test_a_dtype_without_an_order_is_refused_and_the_message_lists_the_others():
    with pytest.raises(TypeError, match=r"float64 or an integer dtype, got torch.complex64"):
        checks.require_tensor("x", torch.ones(3, dtype=torch.complex64))


@pytest.mark.parametrize(("wrong", "came"), [(None, "NoneType"), (1, "int"), (["mean"], "list")])
def test_a_reduction_that_is_no_text(wrong, came):
    with pytest.raises(TypeError, match=f"reduction must be one of 'mean', 'sum', got {came}"):
        checks.reduction(wrong, ("mean", "sum"))


@pytest.mark.parametrize("number", [2, 2.0, np.float32(2.0), np.int64(2)])
def test_real_numbers(number):
    assert type(checks.real_number("tau", number)) is float
    assert checks.real_number("tau", number) == 2.0


@pytest.mark.parametrize("wrong", [True, "2", None, 2j, torch.tensor(2.0)])
def test_no_real_number(wrong):
    with pytest.raises(TypeError, match=f"tau must be a real number, got {type(wrong).__name__}"):
        checks.real_number("tau", wrong)


def test_an_unknown_name_beside_the_known_ones():
    assert checks.nearest("tua", ["tau", "eps"]) == "known: 'eps', 'tau'; did you mean 'tau'?"
    assert checks.nearest("something", ["tau", "eps"]) == "known: 'eps', 'tau'"
