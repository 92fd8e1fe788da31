"""The quantile loss: against the oracle, in the far tails, at ties and edges, and what it refuses."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl import quantile as oracles
from refimpl.bounds import quantile as bounds
from refimpl.bounds.precision import error_ratio, precision
from tests.budget import examples
from torchimpl.quantile import QuantileAbsoluteLoss, quantile_absolute_loss

INF, NAN = float("inf"), float("nan")


def model(mu, r, *, grad=False, dtype=torch.float64):
    return {
        "mu": torch.tensor(mu, dtype=dtype, requires_grad=grad),
        "r": torch.tensor(r, dtype=dtype, requires_grad=grad),
    }


@st.composite
def batches(draw, dtype):
    count = draw(st.integers(1, 6))

    def column(strategy):
        return np.array([draw(strategy) for _ in range(count)]).astype(dtype).astype(np.float64)

    exponents = st.floats(-3, 2.5)
    models = [
        {"mu": column(exponents.map(lambda e: 10**e)), "r": column(exponents.map(lambda e: 10**e))}
        for _ in range(2)
    ]
    counts = [column(st.one_of(st.integers(0, 20), st.integers(0, 1000))) for _ in range(2)]
    if draw(st.booleans()):  # identical replicates
        models[1], counts[1] = models[0], counts[0]
    return (*models, *counts)


@pytest.mark.parametrize("form", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@settings(max_examples=examples(40))
@given(data=st.data())
def test_agrees_with_the_oracle(form, reduction, data):
    dtype = getattr(torch, form)
    arrays = data.draw(batches("float32" if form == "bfloat16" else form))
    models = [model(m["mu"], m["r"], grad=True, dtype=dtype) for m in arrays[:2]]
    counts = [torch.tensor(y) for y in arrays[2:]]
    # what the narrow format holds is the input
    exact_input = (*({k: v.detach().double().numpy() for k, v in m.items()} for m in models), *arrays[2:])
    held = precision(form)
    value = quantile_absolute_loss(*models, *counts, reduction=reduction)
    value.backward()
    exact = oracles.quantile_absolute_loss(*exact_input, reduction=reduction)
    gradients = oracles.quantile_absolute_loss_gradient(*exact_input, reduction=reduction)
    allowed = bounds.quantile_absolute_loss(*exact_input, held, reduction=reduction)
    assert error_ratio(value.item(), exact, allowed.value, held.scalar_max) <= 1.0
    for found, expected, limit in zip(models, gradients, allowed.gradient, strict=True):
        for key in ("mu", "r"):
            actual = found[key].grad.double().numpy()
            ratio = error_ratio(actual, expected[key], limit[key], held.result_max, overflows=True)
            assert np.max(ratio) <= 1.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_keeps_its_digits_where_both_cdfs_round_to_1(dtype):
    same = model([5.0], [5.0], dtype=dtype)
    value = quantile_absolute_loss(same, same, torch.tensor([80]), torch.tensor([100]))
    # 1-F of NB(mu=5, r=5) at k is Σ_{i<5} C(k+5, i)/2^(k+5), exact in Python's integers
    tails = []
    for k in (80, 100):
        n, total, term = k + 5, 0, 1
        for i in range(5):
            total += term
            term = term * (n - i) // (i + 1)
        tails.append(total * 2.0**-n)
    exact = tails[0] - tails[1]
    # |log tail| < 100: the deviance carries 12 roundings of that size, the rest 64; then the result
    roundoff = 0.5 * torch.finfo(dtype).eps
    assert abs(value.item() - exact) <= (2.0**-53 * (12 * 100 + 64 + 6 * 200) + roundoff) * exact


def test_tie_has_value_and_gradient_0():
    one, other = model([5.0, 2.0], [3.0, 2.0], grad=True), model([5.0, 2.0], [3.0, 2.0], grad=True)
    value = quantile_absolute_loss(one, other, torch.tensor([3, 40]), torch.tensor([3, 40]))
    value.backward()
    assert value.item() == 0.0
    assert all(v.grad.tolist() == [0.0, 0.0] for m in (one, other) for v in m.values())


def test_edges():
    y_1 = torch.tensor([-1.0, INF, 0.0, 1.0], dtype=torch.float64)
    y_2 = torch.tensor([INF, INF, -1.0, INF], dtype=torch.float64)
    one, other = model([1.0, 1.0, 0.0, 0.0], [2.0, INF, 1.0, 1.0]), model([1.0] * 4, [2.0] * 4)
    assert quantile_absolute_loss(one, other, y_1, y_2, reduction="none").tolist() == [1.0, 0.0, 1.0, 0.0]
    broken = quantile_absolute_loss(
        model([NAN, 1.0], [1.0, 1.0]), model([1.0] * 2, [1.0] * 2), *[y_1[:2]] * 2
    )
    assert broken.isnan()


def test_reductions_constants_and_empty():
    one, other = model([1.0, 2.0], [2.0, 3.0]), model(4.0, 5.0, grad=True)
    counts = torch.tensor([1, 2]), torch.tensor([5, 3])
    rows = quantile_absolute_loss(one, other, *counts, reduction="none")
    assert torch.equal(quantile_absolute_loss(one, other, *counts, reduction="sum"), rows.sum())
    assert torch.equal(quantile_absolute_loss(one, other, *counts), rows.sum() / 2)
    nothing = model([], [], grad=True)
    value = quantile_absolute_loss(nothing, model([], []), torch.zeros(0), torch.zeros(0))
    value.backward()
    assert value.item() == 0.0
    assert nothing["mu"].grad.shape == (0,)


@pytest.mark.parametrize(
    ("form", "scalar"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_dtypes(form, scalar):
    arguments = model([1.0], [1.0], dtype=form), model([2.0], [1.0], dtype=form)
    counts = torch.tensor([1]), torch.tensor([2])
    assert quantile_absolute_loss(*arguments, *counts).dtype == scalar
    assert quantile_absolute_loss(*arguments, *counts, reduction="none").dtype == form


def test_gradcheck_and_gradgradcheck():
    counts = torch.tensor([1, 8, 30]), torch.tensor([4, 2, 25])
    leaves = [
        torch.tensor(v, dtype=torch.float64, requires_grad=True)
        for v in ([2.0, 9.0, 20.0], [1.5, 0.5, 70.0], [3.0, 1.0, 30.0], [2.5, 4.0, 60.0])
    ]

    def loss(mu_1, r_1, mu_2, r_2):
        return quantile_absolute_loss({"mu": mu_1, "r": r_1}, {"mu": mu_2, "r": r_2}, *counts)

    assert torch.autograd.gradcheck(loss, leaves)
    assert torch.autograd.gradgradcheck(loss, leaves)


def test_module_is_the_function():
    arguments = model([1.0], [2.0]), model([3.0], [2.0]), torch.tensor([1]), torch.tensor([4])
    module = QuantileAbsoluteLoss(reduction="sum")
    assert torch.equal(module(*arguments), quantile_absolute_loss(*arguments, reduction="sum"))
    assert repr(module) == "QuantileAbsoluteLoss(reduction='sum', validate=False)"


def test_refusals():
    good, counts = model([1.0], [2.0]), torch.tensor([1])
    with pytest.raises(KeyError, match=r"model_r2\['r'\] is missing; keys present: 'mu'"):
        quantile_absolute_loss(good, {"mu": counts}, counts, counts)
    with pytest.raises(TypeError, match="model_r1 must be a mapping, got list"):
        quantile_absolute_loss([good], good, counts, counts)
    with pytest.raises(TypeError, match=r"model_r1\['mu'\] must be a torch\.Tensor, got float"):
        quantile_absolute_loss({"mu": 1.0, "r": counts}, good, counts, counts)
    with pytest.raises(ValueError, match=r"y_r1 and y_r2 must have the same shape, got \(1,\) and \(1, 1\)"):
        quantile_absolute_loss(good, good, counts, counts[None])
    with pytest.raises(ValueError, match=r"mu and y must have the same shape, got \(2,\) and \(1,\)"):
        quantile_absolute_loss(model([1.0, 2.0], [1.0, 2.0]), good, counts, counts)
    with pytest.raises(ValueError, match="reduction must be one of 'mean', 'sum', 'none', got 'batch_mean'"):
        quantile_absolute_loss(good, good, counts, counts, reduction="batch_mean")
    with pytest.raises(ValueError, match="reduction must be one of"):
        QuantileAbsoluteLoss(reduction="avg")
    with pytest.raises(ValueError, match=r"r must be > 0, got r\[0\] = -2\.0"):
        quantile_absolute_loss(good, model([1.0], [-2.0]), counts, counts, validate=True)
