"""InfoNCE between replicates: cotangents, second derivatives, the operators behind them, memory."""

import math

import mpmath
import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from tests.concordance_batches import (
    hazard,
    implementation,  # noqa: F401 - a fixture of every test here
    leaves,
)
from torchimpl.concordance import concordance_loss_nce
from torchimpl.kernels import concordance_backends as backends
from torchimpl.kernels.concordance import Pairs, loss_curvature, loss_gradient, loss_rows
from torchimpl.kernels.concordance_op import _curvature_op, _gradient_op, _Rows, _rows_op

U = 2.0**-53


def test_cotangents_weigh_the_rows():
    x, y = leaves(*hazard("plain", 6, 2, 0, torch.float64))
    rows = concordance_loss_nce(x, y, reduction="none")
    weights = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    gx, _ = torch.autograd.grad(rows, (x, y), weights)
    assert gx[0].abs().min() > 0
    assert torch.equal(gx[1:], torch.zeros_like(gx[1:]))


def test_cotangent_zero_gives_zero_whatever_the_gradient():
    x, y = leaves(*(torch.tensor([3e38, -3e38]) * sign for sign in (1, -1)))
    gradients = torch.autograd.grad(concordance_loss_nce(x, y), (x, y), torch.tensor(0.0))
    assert all(torch.equal(g, torch.zeros(2)) for g in gradients)


def test_a_loss_scaler_sees_the_overflow():
    x, y = leaves(torch.tensor([200.0, 0.0]).half(), torch.tensor([0.0, 200.0]).half())
    value = concordance_loss_nce(x, y) * 2.0**16
    assert all(g.isinf().any() and not g.isnan().any() for g in torch.autograd.grad(value, (x, y)))


@pytest.mark.parametrize("eps", [0.0, 1e-8, 0.5])
@pytest.mark.parametrize("shape", [(4,), (3, 2), (1, 2)])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_first_and_second_derivatives(eps, shape, reduction):
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randn(shape, generator=g, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def loss(a, b):
        return concordance_loss_nce(a, b, 0.8, eps=eps, reduction=reduction, chunk_size=2)

    assert torch.autograd.gradcheck(loss, (x, y))
    assert torch.autograd.gradgradcheck(loss, (x, y))


def test_hessian_by_reverse_over_reverse():
    x = torch.tensor([0.3, -0.2, 1.0], dtype=torch.float64)
    y = torch.tensor([0.1, 0.4, -0.5], dtype=torch.float64)

    def loss(x):
        return concordance_loss_nce(x, y, 0.5)

    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
    rows = [torch.autograd.grad(element, leaf, retain_graph=True)[0] for element in gradient]
    assert torch.equal(torch.func.jacrev(torch.func.grad(loss))(x), torch.stack(rows))


def test_a_third_derivative_is_refused():
    x = torch.randn(3, requires_grad=True)
    value = concordance_loss_nce(x, 2 * x)
    for _ in range(2):
        (slope,) = torch.autograd.grad(value, x, create_graph=True)
        value = slope.square().sum()
    with pytest.raises(NotImplementedError, match="first and second derivatives, but no third"):
        torch.autograd.grad(value, x)


def test_second_derivatives_of_rows_far_from_their_own_source():
    # each row is next to the other row's source: L_i = (d_ii - d_in)/τ, what it lacks underflows
    x, y = torch.tensor([[-595.0, 1.0], [-1.0, -595.0]], dtype=torch.float64).unbind()
    x.requires_grad_()
    y.requires_grad_()
    loss = concordance_loss_nce(x, y, 0.01, eps=1e-8, reduction="sum")
    slopes = torch.autograd.grad(loss, (x, y), create_graph=True)
    along = sum((slope * 0.5 * leaf.detach()).sum() for slope, leaf in zip(slopes, (x, y), strict=True))
    found = torch.autograd.grad(along, (x, y))
    # quadratic: along half of the arguments the second derivative is half of the gradient
    expected = torch.tensor([[-59400.0, 59600.0], [59400.0, -59600.0]], dtype=torch.float64)
    bound = 32 * 2.0**-53 * expected.abs()  # the roundings of products and sums of like terms
    assert bool(((torch.stack(found) - expected).abs() <= bound).all())


def test_curvature_of_a_row_far_from_two_sources():
    x = torch.tensor([1e8, 0.0], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0.0, 1e-9], dtype=torch.float64)
    rows = concordance_loss_nce(x, y, 1.0, eps=0.0, reduction="none")
    (slope,) = torch.autograd.grad(rows[0], x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope[0], x)
    # (2/τ)² times the variance of the sources, p_1 = 1/(1 + exp(-2 x y_1)) up to y_1²
    p = 1 / (1 + math.exp(-0.2))
    expected = 4 * p * (1 - p) * 1e-18
    # roundings: 1e-9 counts three times, then the exponent, p, 1 - p, products; as many in the expectation
    assert abs(curvature[0].item() - expected) <= 24 * U * expected


@pytest.mark.parametrize("distance", [1e6, 1e9])
def test_curvature_of_a_row_far_from_its_own_and_another_source(distance):
    step = 1e-3 / distance
    x, y = (torch.tensor([[a], [b]], dtype=torch.float64) for a, b in ((0.0, distance), (step, 0.0)))
    pairs = Pairs(x, y, tau=1.0, eps=0.0, rows=0, wide=True)
    losses, normaliser = loss_rows(pairs)
    along = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    slope, _, _ = loss_curvature(pairs, along, torch.zeros_like(y), torch.ones_like(losses), normaliser)
    # row 1: log(1 + e^s) with s = 2 distance step - step², along x
    s = mpmath.mpf(2) * distance * step - mpmath.mpf(step) ** 2
    expected = 2 * step / (1 + mpmath.exp(-s))
    # two products of two factors, their sum and factor; a weight with an exponent of 6 roundings
    assert abs(slope[1].item() / expected - 1) <= 16 * U


def _operator_arguments(impl, features):
    x, y = hazard("plain", 5, features, 0, torch.float64)
    options = {"tau": 0.5, "eps": 1e-8, "rows": 2, "wide": True, "grade": "float64"}
    options |= {"slopes": True, "impl": impl}
    losses, nearest, normaliser, slopes = _rows_op(x, y, **options)
    gradient = (torch.ones_like(losses), x, y, nearest, normaliser)
    return [
        (_rows_op, (x, y), options),
        (_gradient_op, (*gradient, slopes), options),
        (_curvature_op, (y, x, *gradient), options),
    ]


@pytest.mark.parametrize("which", range(3), ids=["rows", "gradient", "curvature"])
@pytest.mark.parametrize("features", [1, 2])
@pytest.mark.parametrize("impl", ["auto", "torch"])
def test_operators_are_well_formed(which, impl, features):
    operator, tensors, options = _operator_arguments(impl, features)[which]
    torch.library.opcheck(operator, tensors, options)


def test_only_the_losses_are_differentiable():
    x, y = leaves(*hazard("plain", 5, 2, 0, torch.float64))
    settings = backends.Settings(tau=0.5, eps=1e-8, rows=0, wide=True, grade="float64", slopes=True)
    outputs = _Rows.apply(x, y, settings._asdict())
    assert [output.requires_grad for output in outputs] == [True, False, False, False]


class _Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation returns."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return result


def test_no_tensor_grows_with_the_square_of_the_batch():
    batch, features = 2048, 3
    x, y = hazard("plain", batch, features, 0, torch.float64)
    with _Largest() as largest:
        pairs = Pairs(x, y, tau=0.1, eps=1e-8, rows=0, wide=True)
        losses, normaliser = loss_rows(pairs)
        loss_gradient(pairs, torch.ones_like(losses), normaliser)
        loss_curvature(pairs, x, y, torch.ones_like(losses), normaliser)
    assert largest.numel <= 2**15
    with _Largest() as textbook:
        (x[:, None, 0] - y[:, 0]).square()
    assert textbook.numel == batch**2


def test_what_is_kept_for_backward_is_linear_in_the_batch():
    kept = []

    def pack(tensor):
        kept.append(tensor.numel() * tensor.element_size())
        return tensor

    batch, features = 2048, 3
    x, y = leaves(*hazard("plain", batch, features, 0, torch.float32))
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        concordance_loss_nce(x, y)
    # two float64 copies, two slopes, the anchors, the normalisers, and a handful of scalars
    assert batch * features * 16 <= sum(kept) <= batch * (features * 32 + 8 + 16) + 256
