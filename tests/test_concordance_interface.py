"""InfoNCE between replicates: shapes, reductions, dtypes and options as called, refusals, the module."""

import inspect
import math

import pytest
import torch

from tests.concordance_batches import (
    hazard,
    implementation,  # noqa: F401 - a fixture of every test here
    leaves,
)
from tests.rounding import assert_close_to_rounding
from torchimpl.concordance import ConcordanceLossNCE, concordance_loss_nce


def test_matched_replicates_score_lower():
    x, y = hazard("plain", 16, 4, 0, torch.float32)
    assert concordance_loss_nce(x, y) < concordance_loss_nce(x, y.roll(1, 0))


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_nothing_to_compare_is_zero_on_the_graph(shape, reduction):
    x, y = leaves(torch.zeros(shape), torch.zeros(shape))
    value = concordance_loss_nce(x, y, reduction=reduction)
    assert value.item() == 0
    value.backward()
    assert x.grad.shape == y.grad.shape == shape


def test_reductions_agree():
    x, y = hazard("plain", 8, 2, 0, torch.float64)
    rows = concordance_loss_nce(x, y, reduction="none")
    assert torch.equal(concordance_loss_nce(x, y, reduction="sum"), rows.sum())
    assert torch.equal(concordance_loss_nce(x, y), rows.sum() / 8)


def test_trailing_dimensions_are_flattened():
    x, y = hazard("plain", 4, 6, 0, torch.float32)
    assert torch.equal(concordance_loss_nce(x.view(4, 2, 3), y.view(4, 2, 3)), concordance_loss_nce(x, y))
    assert torch.equal(concordance_loss_nce(x[:, 0], y[:, 0]), concordance_loss_nce(x[:, :1], y[:, :1]))


@pytest.mark.parametrize("chunk_size", [1, 2, 5, 11, 12, 1000])
def test_chunk_size_changes_rounding_only(chunk_size):
    x, y = leaves(*hazard("plain", 12, 3, 0, torch.float32))
    values = [concordance_loss_nce(x, y, chunk_size=size) for size in (chunk_size, None)]
    gradients = [torch.autograd.grad(value, (x, y)) for value in values]
    assert_close_to_rounding(values[:1], values[1:])
    assert_close_to_rounding(*gradients)


def test_integers_promote():
    x = torch.tensor([0, 1, 3])
    value = concordance_loss_nce(x, x.flip(0))
    assert value.dtype == torch.get_default_dtype()
    assert torch.equal(value, concordance_loss_nce(x.float(), x.flip(0).float()))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tau": 0.0}, ValueError, "tau must be finite and > 0, got 0.0"),
        ({"tau": -1}, ValueError, "tau must be finite and > 0, got -1"),
        ({"tau": math.nan}, ValueError, "tau must be finite"),
        ({"tau": math.inf}, ValueError, "tau must be finite"),
        ({"tau": True}, TypeError, "tau must be a real number, got bool"),
        ({"tau": "0.1"}, TypeError, "tau must be a real number, got str"),
        ({"tau": torch.tensor(0.1)}, TypeError, "tau must be a real number, got Tensor"),
        ({"eps": -1e-9}, ValueError, "eps must be finite and >= 0"),
        ({"eps": math.inf}, ValueError, "eps must be finite"),
        ({"eps": None}, TypeError, "eps must be a real number, got NoneType"),
        ({"reduction": "avg"}, ValueError, "reduction must be one of 'mean', 'sum', 'none', got 'avg'"),
        ({"chunk_size": 0}, ValueError, "chunk_size must be >= 1, got 0"),
        ({"chunk_size": 2.0}, TypeError, "chunk_size must be an int or None, got float"),
        ({"chunk_size": True}, TypeError, "chunk_size must be an int or None, got bool"),
    ],
)
def test_bad_options(options, error, message):
    x = torch.zeros(3)
    with pytest.raises(error, match=message):
        concordance_loss_nce(x, x, **options)
    with pytest.raises(error, match=message):
        ConcordanceLossNCE(**options)


def test_bad_tensors():
    x = torch.zeros(3)
    with pytest.raises(ValueError, match=r"same shape, got \(3, 1\) and \(3,\)"):
        concordance_loss_nce(x[:, None], x)
    with pytest.raises(ValueError, match="got a 0-dim tensor"):
        concordance_loss_nce(x[0], x[0])
    with pytest.raises(TypeError, match=r"res2 must be a torch\.Tensor, got list"):
        concordance_loss_nce(x, [0.0, 0.0, 0.0])
    with pytest.raises(TypeError, match=r"res1 must have dtype .*, got torch.complex64"):
        concordance_loss_nce(x.to(torch.complex64), x)
    with pytest.raises(TypeError, match=r"res1 must have dtype .*, got torch.bool"):
        concordance_loss_nce(x.bool(), x)


def test_module_is_the_function():
    x, y = hazard("plain", 5, 2, 0, torch.float32)
    module = ConcordanceLossNCE(0.5, eps=0.0, reduction="sum", chunk_size=2, impl="torch")
    expected = concordance_loss_nce(x, y, 0.5, eps=0.0, reduction="sum", chunk_size=2, impl="torch")
    assert torch.equal(module(x, y), expected)
    shown = "ConcordanceLossNCE(tau=0.5, eps=0.0, reduction='sum', chunk_size=2, impl='torch')"
    assert repr(module) == shown


def test_module_and_function_have_the_same_defaults():
    of_function, of_module = (
        {name: p.default for name, p in inspect.signature(callable_).parameters.items()}
        for callable_ in (concordance_loss_nce, ConcordanceLossNCE)
    )
    assert {name: of_function[name] for name in of_module} == of_module
