"""What docs/losses.md promises of InfoNCE, sentence by sentence.

Expectations are exact, or come from mpmath and scipy; no oracle is asked.
"""

import math

import mpmath
import pytest
import torch
from torch import tensor

import torchimpl as losses
from tests.ulps import ulps

F32, F64 = torch.float32, torch.float64
inf, nan = math.inf, math.nan


def infonce(x, y, tau, eps):
    """The contract's formula, 60 digits, rows of features."""
    with mpmath.workdps(60):
        rows = []
        for i, a in enumerate(x):
            d = [
                mpmath.fsum((mpmath.mpf(p) - mpmath.mpf(q)) ** 2 for p, q in zip(a, b, strict=True))
                for b in y
            ]
            total = mpmath.mpf(eps) + mpmath.fsum(mpmath.exp(-v / tau) for v in d)
            rows.append(d[i] / tau + mpmath.log(total))
        return rows


@pytest.mark.parametrize("eps", [1e-8, 0.0, 0.5])
@pytest.mark.parametrize("tau", [0.1, 1.0, 7.0])
@pytest.mark.parametrize("shape", [(5,), (5, 1), (4, 3), (3, 2, 2)])
def test_concordance_is_the_formula(shape, tau, eps):
    x, y = torch.randn(shape, dtype=F64), torch.randn(shape, dtype=F64)
    rows = infonce(x.reshape(len(x), -1).tolist(), y.reshape(len(y), -1).tolist(), tau, eps)
    value = losses.concordance_loss_nce(x, y, tau, eps=eps)
    each = losses.concordance_loss_nce(x, y, tau, eps=eps, reduction="none")
    total = losses.concordance_loss_nce(x, y, tau, eps=eps, reduction="sum")
    # a handful of roundings, each relative: exponents of at most 1e3 carry 1e3 roundoffs into a row
    roundoffs = 2.0**-53 * 1e3 * max(abs(float(r)) for r in rows)
    assert value.shape == total.shape == ()
    assert each.shape == (shape[0],)
    assert abs(value.item() - float(sum(rows) / len(rows))) <= roundoffs
    assert abs(total.item() - float(sum(rows))) <= len(rows) * roundoffs
    assert max(abs(a - float(b)) for a, b in zip(each.tolist(), rows, strict=True)) <= roundoffs


@pytest.mark.parametrize("dtype", [F32, F64])
def test_concordance_keeps_relative_accuracy_when_the_loss_is_tiny(dtype):
    one = tensor([3.0], dtype=dtype)
    # ε enters as exp(log ε): half a roundoff of a logarithm of 18.4, relative to the loss
    assert ulps(losses.concordance_loss_nce(one, one), math.log1p(1e-8)) <= 1 + abs(math.log(1e-8))
    assert losses.concordance_loss_nce(one, one, eps=0.0) == 0
    pair = tensor([0.0, 2.0], dtype=dtype)
    with mpmath.workdps(60):
        expected = mpmath.log1p(mpmath.exp(-4 / mpmath.mpf(0.1)))
    # the exponent of 40 carries a rounding of the difference, the product and the quotient into exp
    assert ulps(losses.concordance_loss_nce(pair, pair, 0.1, eps=0.0), expected) <= 3 * 40


def test_concordance_no_far_pair_underflows():
    x, y = tensor([0.0, 1e3], dtype=F64), tensor([50.0, 1e3 + 40], dtype=F64)
    expected = sum(infonce([[0.0], [1e3]], [[50.0], [1e3 + 40]], 0.1, 1e-8)) / 2
    value = losses.concordance_loss_nce(x, y)
    assert ulps(value, expected) <= 4


@pytest.mark.parametrize("dtype", [F32, F64])
def test_concordance_does_not_see_a_common_offset(dtype):
    x, y = torch.randint(-8, 8, (6, 3)).to(dtype), torch.randint(-8, 8, (6, 3)).to(dtype)
    plain, moved = (
        losses.concordance_loss_nce(x, y, 50.0),
        losses.concordance_loss_nce(x + 2**20, y + 2**20, 50.0),
    )
    assert torch.equal(plain, moved)


@pytest.mark.parametrize("tau", [0.0, -1.0, inf, nan])
def test_concordance_refuses_a_bad_tau(tau):
    with pytest.raises(ValueError, match="tau"):
        losses.concordance_loss_nce(torch.zeros(2), torch.zeros(2), tau)


@pytest.mark.parametrize("eps", [-1e-9, nan, inf])
def test_concordance_refuses_a_bad_eps(eps):
    with pytest.raises(ValueError, match="eps"):
        losses.concordance_loss_nce(torch.zeros(2), torch.zeros(2), eps=eps)
