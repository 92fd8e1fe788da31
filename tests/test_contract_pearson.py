"""What docs/losses.md promises of the Pearson correlation, sentence by sentence.

Expectations are exact, or come from mpmath and scipy; no oracle is asked.
"""

import math

import pytest
import scipy.stats
import torch
from torch import tensor

import torchimpl as losses
from tests.ulps import ulps

F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
FLOATS = [F16, BF16, F32, F64]


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e-3, 1.0, 1e10, 1e30])
@pytest.mark.parametrize("offset", [0.0, 3.0, -2000.0])
def test_pearson_is_scale_free_and_offset_free_over_the_range_of_float32(scale, offset):
    p = torch.randint(-9, 9, (40,)).float() + offset
    t = torch.randint(-9, 9, (40,)).float() + p
    scale = 2.0 ** round(math.log2(scale))
    reference = losses.negative_pearson_loss(p.double(), t.double()).float()
    assert ulps(losses.negative_pearson_loss(p * scale, t), reference) <= 1
    assert ulps(losses.negative_pearson_loss(t, p * scale), reference) <= 1


def test_pearson_agrees_with_scipy():
    for _ in range(20):
        p, t = torch.randn(30, dtype=F64), torch.randn(30, dtype=F64)
        expected = -scipy.stats.pearsonr(p.numpy(), t.numpy()).statistic
        # both sides are n-term sums relative to the norms, twice
        assert abs(losses.negative_pearson_loss(p, t).item() - expected) <= 4 * 30 * 2.0**-53


@pytest.mark.parametrize("constant", [0.1, 1e12, 0.0, 1e-40, -3e38])
@pytest.mark.parametrize("dtype", [F32, F64])
def test_pearson_recognises_a_constant_side_exactly(constant, dtype):
    p = torch.full((7,), constant, dtype=dtype, requires_grad=True)
    t = torch.arange(7, dtype=dtype, requires_grad=True)
    for args in [(p, t), (t, p), (p, p)]:
        value = losses.negative_pearson_loss(*args)
        value.backward()
        assert value.item() == 0
        assert not p.grad.any()
        assert t.grad is not None or args == (p, p)
    assert not t.grad.any()


def test_pearson_of_one_element_and_of_none_is_zero():
    for n in (0, 1):
        p = torch.ones(n, requires_grad=True)
        value = losses.negative_pearson_loss(p, torch.ones(n))
        value.backward()
        assert value.item() == 0
        assert not p.grad.any()


@pytest.mark.parametrize("dtype", FLOATS)
def test_pearson_never_leaves_the_interval(dtype):
    for _ in range(50):
        p = (torch.randn(5) * 10 ** (4 * torch.rand(1) - 2)).to(dtype)
        assert losses.negative_pearson_loss(p, p) >= -1
        assert losses.negative_pearson_loss(p, -p) <= 1


def test_pearson_eps_floors_the_product_of_the_rescaled_norms_and_nothing_else():
    p, t = tensor([0.0, 2.0, 4.0], dtype=F64), tensor([1.0, 1.0, 4.0], dtype=F64)
    # deviations rescaled by their largest magnitude: (-1, 0, 1) and (-1/2, -1/2, 1)
    dot, norms = 1.5, math.sqrt(2) * math.sqrt(1.5)
    assert (
        losses.negative_pearson_loss(p, t, eps=norms * 0.999).item()
        == losses.negative_pearson_loss(p, t, eps=0.0).item()
    )
    assert ulps(losses.negative_pearson_loss(1e3 * p, t, eps=6.0), -dot / 6.0) <= 4
