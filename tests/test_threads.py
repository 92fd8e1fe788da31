"""The number of threads changes no result by more than its rounding, and repetition changes nothing."""

import pytest
import torch

from tests.cases import CASES
from tests.rounding import assert_close_to_rounding

# beyond the size at which torch starts to share out elementwise work (32768) for inputs of several columns
BATCH = 1500
every_loss = pytest.mark.parametrize("entry", CASES, ids=str)


def _value_and_gradients(entry, threads):
    torch.set_num_threads(threads)
    inputs = entry.inputs(batch=BATCH)
    return (entry.call(*inputs), *entry.gradients(*inputs))


@every_loss
def test_one_thread_and_two(entry):
    assert_close_to_rounding(_value_and_gradients(entry, 2), _value_and_gradients(entry, 1))


@every_loss
def test_repetition_is_bitwise_on_one_thread(entry):
    first, again = _value_and_gradients(entry, 1), _value_and_gradients(entry, 1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
