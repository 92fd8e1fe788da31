"""InfoNCE between replicates: accuracy against the oracle, hard inputs, memory, derivatives, refusals."""

import inspect
import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from refimpl import concordance as oracle
from refimpl.bounds import concordance as bounds
from refimpl.bounds.precision import error_ratio, precision
from tests.rounding import assert_close_to_rounding
from torchimpl.concordance import ConcordanceLossNCE, concordance_loss_nce
from torchimpl.kernels import concordance_backends as backends
from torchimpl.kernels.concordance import Pairs, loss_curvature, loss_gradient, loss_rows
from torchimpl.kernels.concordance_op import _curvature_op, _gradient_op, _Rows, _rows_op

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
U = 2.0**-53


@pytest.fixture(autouse=True, scope="module", params=["auto", "torch"])
def _implementation(request):
    """All of this twice: as on this device, and as on one without a compiled kernel."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "torch":
            patch.setattr(backends, "choices", lambda _device, _features: ("torch",))
        yield


def _batch(kind, size, features, seed, dtype):
    """Two (size, features) tensors that hold the hazard named `kind`."""
    g = torch.Generator().manual_seed(seed)
    shape = (size, features)
    first, noise = (torch.randn(shape, generator=g, dtype=torch.float64) for _ in range(2))
    second = first + 0.3 * noise
    largest = torch.finfo(dtype).max
    if kind == "identical replicates":
        second = first.clone()
    elif kind == "ties":
        first, second = first.round(), second.round()
    elif kind == "all rows alike":
        first, second = first[:1].expand(shape), second[:1].expand(shape)
    elif kind == "far pairs":
        first, second = 40 * first, 40 * second
    elif kind == "far from every source":
        first = first + 300
    elif kind == "common offset":
        first, second = first + 1000, second + 1000
    elif kind == "shuffled":
        second = second.flip(0)
    elif kind == "huge":
        first, second = first.tanh() * largest, second.tanh() * largest
    elif kind == "subnormal":
        tiny = torch.finfo(dtype).smallest_normal
        first, second = first * tiny, second * tiny
    elif kind == "mixed magnitudes":
        powers = torch.randint(-12, 13, shape, generator=g).double()
        first, second = first * 2**powers, second * 2**powers
    elif kind == "large differences of huge rows":
        first = torch.where(noise > 0, first, first.tanh() * largest)
    first, second = (t.clamp(-largest, largest).to(dtype) for t in (first, second))
    return first.contiguous(), second.contiguous()


KINDS = [
    "plain",
    "identical replicates",
    "ties",
    "all rows alike",
    "far pairs",
    "far from every source",
    "common offset",
    "shuffled",
    "huge",
    "subnormal",
    "mixed magnitudes",
    "large differences of huge rows",
]
adversarial = given(
    batch=st.tuples(st.sampled_from(KINDS), st.integers(1, 7), st.integers(1, 4), st.integers(0, 10**6)),
    tau=st.sampled_from([0.1, 0.01, 1.0, 37.0]),
    eps=st.sampled_from([1e-8, 0.0, 0.5]),
)


def _leaves(*tensors):
    return tuple(t.detach().clone().requires_grad_() for t in tensors)


def _numbers(*tensors):
    return tuple(t.detach().double().numpy() for t in tensors)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@adversarial
def test_value_and_gradient_stay_within_the_bound(dtype, batch, tau, eps):
    x, y = _leaves(*_batch(*batch, dtype))
    formats = precision(str(dtype).removeprefix("torch."))
    arrays = _numbers(x, y)
    bound = bounds.concordance_loss_nce(*arrays, tau, eps=eps, precision=formats)

    value = concordance_loss_nce(x, y, tau, eps=eps)
    exact = oracle.concordance_loss_nce(*arrays, tau, eps=eps)
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert error_ratio(value.item(), exact, bound.value, formats.scalar_max) <= 1

    exact_gradients = oracle.concordance_loss_nce_gradient(*arrays, tau, eps=eps)
    gradients = torch.autograd.grad(value, (x, y))
    for actual, expected, allowed in zip(gradients, exact_gradients, bound.gradient, strict=True):
        assert actual.dtype == dtype
        ratio = error_ratio(*_numbers(actual), expected, allowed, formats.result_max, overflows=True)
        assert np.all(ratio <= 1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@adversarial
def test_every_row_stays_within_the_bound(dtype, batch, tau, eps):
    x, y = _batch(*batch, dtype)
    formats = precision(str(dtype).removeprefix("torch."))
    arrays = _numbers(x, y)
    options = {"eps": eps, "reduction": "none"}
    rows = concordance_loss_nce(x, y, tau, **options)
    assert rows.dtype == dtype
    bound = bounds.concordance_loss_nce(*arrays, tau, **options, precision=formats)
    exact = oracle.concordance_loss_nce(*arrays, tau, **options)
    assert np.all(error_ratio(*_numbers(rows), exact, bound.value, formats.result_max) <= 1)


def _exact_rows(x, y, tau, eps):
    """L_i with 60 digits beyond what the largest exponent needs, from nothing but the definition."""
    with mpmath.workdps(60):
        a, b = ([[mpmath.mpf(v) for v in row] for row in t.double().tolist()] for t in (x, y))
        rows = []
        for i, point in enumerate(a):
            d = [mpmath.fsum((p - q) ** 2 for p, q in zip(point, other, strict=True)) / tau for other in b]
            others = [mpmath.exp(d[i] - d[j]) for j in range(len(b)) if j != i]
            rows.append(mpmath.log1p(mpmath.fsum(others) + eps * mpmath.exp(d[i])))
        return rows


@pytest.mark.parametrize("kind", ["plain", "far pairs", "common offset", "far from every source", "ties"])
def test_rows_against_multiprecision(kind):
    x, y = _batch(kind, 5, 2, 1, torch.float64)
    tau, eps = 0.5, 1e-8
    exact = _exact_rows(x, y, tau, eps)
    rows = concordance_loss_nce(x, y, tau, eps=eps, reduction="none")
    for i, (actual, expected) in enumerate(zip(rows.tolist(), exact, strict=True)):
        # two differences, their product, the sums over 2 features and 6 terms; then exp and log
        distances = ((x[i] - y).square().sum(1) / tau).max().item()
        allowed = U * (14 * distances + 14) * max(float(expected), min(1.0, 14 * float(expected)))
        assert abs(mpmath.mpf(actual) - expected) <= allowed


def test_a_tiny_loss_keeps_its_relative_accuracy():
    x = torch.tensor([0.0, 7.0, 15.0], dtype=torch.float64)
    y = x + 0.125
    rows = concordance_loss_nce(x, y, 1.0, eps=0.0, reduction="none")
    exact = _exact_rows(x[:, None], y[:, None], 1.0, 0.0)
    assert float(max(exact)) < 1e-19
    for actual, expected in zip(rows.tolist(), exact, strict=True):
        # L ~ exp(-z): a relative error of 6 u in z is one of 6 u z in exp(-z)
        assert abs(mpmath.mpf(actual) - expected) <= 6 * U * (1 - mpmath.log(expected)) * expected


def test_a_tiny_gradient_keeps_its_relative_accuracy():
    x, y = _leaves(
        torch.tensor([0.0, 7.0], dtype=torch.float64), torch.tensor([1.0, 7.5], dtype=torch.float64)
    )
    _, gy = torch.autograd.grad(concordance_loss_nce(x, y, 1.0, eps=0.0, reduction="sum"), (x, y))
    # p_01 = 1/(1 + exp(7.5² - 1)), p_10 = 1/(1 + exp(6² - 0.5²))
    p01, p10 = (1 / (1 + mpmath.exp(z)) for z in (mpmath.mpf("55.25"), mpmath.mpf("35.75")))
    for actual, exact in zip(gy.tolist(), [2 * (6 * p10 + p01), 2 * (0.5 * p10 - 7.5 * p01)], strict=True):
        # the exponents are exact here: a few roundings, and no 1 - p formed by subtraction
        assert abs(actual - exact) <= 8 * U * abs(exact)


def test_small_rows_between_huge_sources():
    x = torch.tensor([1.0, -1.0], dtype=torch.float64)
    rows = concordance_loss_nce(x, 1e20 * x, 1e20, eps=0.0, reduction="none")
    # d_01 - d_00 = 4e20, out of distances of 1e40: lost by any difference of distances
    # 1/tau rounds once, which the exponent of 4 turns into 4; exp and log1p round here and in the expectation
    assert rows.tolist() == pytest.approx([math.log1p(math.exp(-4))] * 2, rel=8 * U, abs=0)


def test_a_row_so_far_that_all_distances_look_equal():
    x, y = _leaves(torch.tensor([1e30, 0.0]), torch.tensor([0.0, 1.0]))
    gx, _ = torch.autograd.grad(concordance_loss_nce(x, y, 1.0, eps=0.0, reduction="sum"), (x, y))
    # source 1 is nearer to row 0 by 2e30: p_01 = 1, and the gradient is 2 (y_1 - y_0)
    assert gx[0] == 2


def test_a_row_so_far_that_all_distances_overflow():
    x, y = _leaves(*_batch("large differences of huge rows", 5, 4, 641776, torch.float64))
    gx, _ = torch.autograd.grad(concordance_loss_nce(x, y, 0.01, eps=0.5), (x, y))
    # nothing is near row 0, eps takes all its weight: 2/(B tau) (x - y)
    assert gx[0].isinf().tolist() == [False, True, False, False]
    # roundings: 2/(B tau), its product with the difference, and the difference and product of the expectation
    assert gx[0, 0].item() == pytest.approx(40 * (x[0, 0] - y[0, 0]).item(), rel=4 * U, abs=0)


@pytest.mark.parametrize("eps", [0.0, 1e-8, 0.5])
def test_one_row_is_log1p_of_its_eps(eps):
    x = torch.tensor([0.25], dtype=torch.float64)
    value = concordance_loss_nce(x, -x, 0.5, eps=eps).item()
    expected = math.log1p(eps * math.exp(0.5))
    # the exponent log eps + d/tau is exact to 2 u (|log eps| + 1), exp and log1p to 1 ulp each
    assert abs(value - expected) <= 4 * U * (abs(math.log(eps or 1.0)) + 2) * expected


def test_far_positive_is_a_large_finite_loss():
    # the textbook gives -log(0) for row 0; exactly it is (1000² - 1²)/tau, and row 1 has no rival in reach
    x, y = torch.tensor([0.0, 1.0]), torch.tensor([1000.0, 1.0])
    rows = concordance_loss_nce(x, y, 0.125, eps=0.0, reduction="none")
    assert rows.tolist() == [(1e6 - 1) / 0.125, 0.0]


def test_textbook_formula_where_it_does_not_underflow():
    x, y = _batch("plain", 16, 3, 0, torch.float64)
    d = (x[:, None] - y).square().sum(-1)
    s = torch.exp(-d / 2.0)
    textbook = -torch.log(s.diagonal() / (s.sum(1) + 1e-8)).mean()
    bound = bounds.concordance_loss_nce(*_numbers(x, y), 2.0, eps=1e-8, precision=precision("float64"))
    # each of the two is within the bound of the exact value
    assert abs(concordance_loss_nce(x, y, 2.0) - textbook) <= 2 * bound.value


def test_a_common_offset_does_not_matter():
    x, y = _batch("ties", 32, 2, 0, torch.float64)
    offset = torch.tensor(1e6, dtype=torch.float64)
    near, far = _leaves(x / 8, y / 8), _leaves(x / 8 + offset, y / 8 + offset)
    values = [concordance_loss_nce(*pair) for pair in (near, far)]
    assert torch.equal(*values)
    for a, b in zip(
        *(torch.autograd.grad(v, p) for v, p in zip(values, (near, far), strict=True)), strict=True
    ):
        assert torch.equal(a, b)


extreme = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-3, 3.0, 1e19, -1e19, 3e38, -3e38, 1e-45, 1e-38])
wide = st.sampled_from([1.7e308, -1.7e308, 1e200, -1e160, 5e-324, -1e-310, 1e-150]) | extreme


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@given(
    data=st.data(),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 3)),
    tau=st.sampled_from([0.1, 1e-300, 1e300, 5e-324, 1.7e308, 1e-40]),
    eps=st.sampled_from([1e-8, 0.0, 1e300, 5e-324]),
)
def test_finite_inputs_give_finite_values_and_no_nan(dtype, data, shape, tau, eps):
    count = shape[0] * shape[1]
    numbers = st.lists(wide if dtype == torch.float64 else extreme, min_size=count, max_size=count)
    x, y = _leaves(*(torch.tensor(data.draw(numbers), dtype=dtype).view(shape) for _ in range(2)))
    rows = concordance_loss_nce(x, y, tau, eps=eps, reduction="none")
    assert rows.isfinite().all()
    for reduction in ("mean", "sum"):
        value = concordance_loss_nce(x, y, tau, eps=eps, reduction=reduction)
        assert value.isfinite()
        assert value >= 0
        assert not any(g.isnan().any() for g in torch.autograd.grad(value, (x, y)))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_bad_number_is_not_hidden(bad):
    x, y = _batch("plain", 4, 2, 0, torch.float32)
    x[1, 0] = bad
    rows = concordance_loss_nce(x, y, reduction="none")
    assert rows.isnan().tolist() == [False, True, False, False]
    assert concordance_loss_nce(x, y).isnan()
    # a source counts in every row
    assert concordance_loss_nce(y, x, reduction="none").isnan().all()


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_nothing_to_compare_is_zero_on_the_graph(shape, reduction):
    x, y = _leaves(torch.zeros(shape), torch.zeros(shape))
    value = concordance_loss_nce(x, y, reduction=reduction)
    assert value.item() == 0
    value.backward()
    assert x.grad.shape == y.grad.shape == shape


def test_matched_replicates_score_lower():
    x, y = _batch("plain", 16, 4, 0, torch.float32)
    assert concordance_loss_nce(x, y) < concordance_loss_nce(x, y.roll(1, 0))


def test_reductions_agree():
    x, y = _batch("plain", 8, 2, 0, torch.float64)
    rows = concordance_loss_nce(x, y, reduction="none")
    assert torch.equal(concordance_loss_nce(x, y, reduction="sum"), rows.sum())
    assert torch.equal(concordance_loss_nce(x, y), rows.sum() / 8)


def test_trailing_dimensions_are_flattened():
    x, y = _batch("plain", 4, 6, 0, torch.float32)
    assert torch.equal(concordance_loss_nce(x.view(4, 2, 3), y.view(4, 2, 3)), concordance_loss_nce(x, y))
    assert torch.equal(concordance_loss_nce(x[:, 0], y[:, 0]), concordance_loss_nce(x[:, :1], y[:, :1]))


@pytest.mark.parametrize("chunk_size", [1, 2, 5, 11, 12, 1000])
def test_chunk_size_changes_rounding_only(chunk_size):
    x, y = _leaves(*_batch("plain", 12, 3, 0, torch.float32))
    values = [concordance_loss_nce(x, y, chunk_size=size) for size in (chunk_size, None)]
    gradients = [torch.autograd.grad(value, (x, y)) for value in values]
    assert_close_to_rounding(values[:1], values[1:])
    assert_close_to_rounding(*gradients)


def test_cotangents_weigh_the_rows():
    x, y = _leaves(*_batch("plain", 6, 2, 0, torch.float64))
    rows = concordance_loss_nce(x, y, reduction="none")
    weights = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    gx, _ = torch.autograd.grad(rows, (x, y), weights)
    assert gx[0].abs().min() > 0
    assert torch.equal(gx[1:], torch.zeros_like(gx[1:]))


def test_cotangent_zero_gives_zero_whatever_the_gradient():
    x, y = _leaves(*(torch.tensor([3e38, -3e38]) * sign for sign in (1, -1)))
    gradients = torch.autograd.grad(concordance_loss_nce(x, y), (x, y), torch.tensor(0.0))
    assert all(torch.equal(g, torch.zeros(2)) for g in gradients)


def test_a_loss_scaler_sees_the_overflow():
    x, y = _leaves(torch.tensor([200.0, 0.0]).half(), torch.tensor([0.0, 200.0]).half())
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


def test_a_third_derivative_is_refused():
    x = torch.randn(3, requires_grad=True)
    value = concordance_loss_nce(x, 2 * x)
    for _ in range(2):
        (slope,) = torch.autograd.grad(value, x, create_graph=True)
        value = slope.square().sum()
    with pytest.raises(NotImplementedError, match="first and second derivatives, but no third"):
        torch.autograd.grad(value, x)


def _operator_arguments(impl, features):
    x, y = _batch("plain", 5, features, 0, torch.float64)
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
    x, y = _leaves(*_batch("plain", 5, 2, 0, torch.float64))
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
    x, y = _batch("plain", batch, features, 0, torch.float64)
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
    x, y = _leaves(*_batch("plain", batch, features, 0, torch.float32))
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        concordance_loss_nce(x, y)
    # two float64 copies, two slopes, the anchors, the normalisers, and a handful of scalars
    assert batch * features * 16 <= sum(kept) <= batch * (features * 32 + 8 + 16) + 256


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


def test_integers_promote():
    x = torch.tensor([0, 1, 3])
    value = concordance_loss_nce(x, x.flip(0))
    assert value.dtype == torch.get_default_dtype()
    assert torch.equal(value, concordance_loss_nce(x.float(), x.flip(0).float()))


def test_module_is_the_function():
    x, y = _batch("plain", 5, 2, 0, torch.float32)
    module = ConcordanceLossNCE(0.5, eps=0.0, reduction="sum", chunk_size=2, impl="torch")
    expected = concordance_loss_nce(x, y, 0.5, eps=0.0, reduction="sum", chunk_size=2, impl="torch")
    assert torch.equal(module(x, y), expected)
    shown = "ConcordanceLossNCE(tau=0.5, eps=0.0, reduction='sum', chunk_size=2, impl='torch')"
    assert repr(module) == shown


@pytest.mark.parametrize("eps", [1e-8, 0.0])
@pytest.mark.parametrize("tau", [1e-3, 1.0, 50.0, 1e280])
def test_a_mean_within_float64_survives_a_row_beyond_it(tau, eps):
    """One row is 3e308 or more, the mean over 64 is not."""
    rng = np.random.default_rng(0)
    x, y = np.zeros((64, 2)), rng.normal(size=(64, 2))
    size = math.sqrt(tau) * math.sqrt(5e307)
    x[0], y[0] = (size, size), (-size, 3 * size)
    arrays = [torch.tensor(v, requires_grad=True) for v in (x, y)]
    value = concordance_loss_nce(*arrays, tau, eps=eps)
    exact = oracle.concordance_loss_nce(x, y, tau, eps=eps)
    allowed = bounds.concordance_loss_nce(x, y, tau, eps=eps, precision=precision("float64")).value
    rows = concordance_loss_nce(*arrays, tau, eps=eps, reduction="none")
    assert rows[0].item() == torch.finfo(torch.float64).max
    assert 1e306 < exact < 1e308
    assert abs(value.item() - exact) <= allowed
    value.backward()
    assert not any(a.grad.isnan().any() for a in arrays)


@pytest.mark.parametrize("impl", ["auto", "torch"])
def test_a_huge_feature_that_cancels_hides_no_other_one(impl):
    # row 0 is exactly midway between its own and another source in the first feature, 1e5 apart in the second
    huge, count, tau = 2.0**996, 1000, 2.0**-996
    x = torch.zeros(count, 2, dtype=torch.float64)
    x[1:, 0] = huge * (1 + torch.arange(count - 1, dtype=torch.float64) * 2.0**-8)
    y = x.clone()
    y[0] = torch.tensor([-huge, 2.0**17], dtype=torch.float64)
    value = concordance_loss_nce(x, y, tau, eps=0.0, impl=impl)
    # the loss of row 0 is 2^34/τ, beyond float64; the mean is within it
    expected = mpmath.mpf(2) ** (34 + 996) / count
    assert abs(value.item() / expected - 1) <= 8 * U


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


def test_two_sources_near_a_row_beside_its_own_far_one():
    # rows 1 and 2 lie on their sources; row 0 lies between those two, and has its own at 1e9
    x, y = _leaves(torch.tensor([0.03125, 1.0, -1.0]), torch.tensor([1e9, 1.0, -1.0]))
    (gy,) = torch.autograd.grad(concordance_loss_nce(x, y, 0.1, eps=0.0, reduction="sum"), y)
    # d_02 - d_01 = 1/8; row 2 gives source 1 the weight of a distance of 2
    near, other = 1 / (1 + math.exp(-1.25)), 1 / (1 + math.exp(40))
    expected = 20 * (near * (0.03125 - 1) - 2 * other)
    # the result rounds to float32; the rest is float64
    assert abs(gy[1].item() - expected) <= 2.0**-23 * abs(expected)


def test_a_huge_row_midway_between_a_small_and_a_huge_source():
    x = torch.tensor([1e20, 2e20], dtype=torch.float64)
    y = torch.tensor([0.5, 2e20], dtype=torch.float64)
    rows = concordance_loss_nce(x, y, 1e20, eps=0.0, reduction="none")
    # d_01 - d_00 = 1e40 - (1e20 - 1/2)² = 1e20 - 1/4: lost where x - n/2 is rounded to one number
    # 1/tau rounds once in an exponent of 1; exp and log1p round here and in the expectation
    assert abs(rows[0].item() - math.log1p(math.exp(-1))) <= 8 * U * math.log1p(math.exp(-1))


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


def test_hessian_by_reverse_over_reverse():
    x = torch.tensor([0.3, -0.2, 1.0], dtype=torch.float64)
    y = torch.tensor([0.1, 0.4, -0.5], dtype=torch.float64)

    def loss(x):
        return concordance_loss_nce(x, y, 0.5)

    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
    rows = [torch.autograd.grad(element, leaf, retain_graph=True)[0] for element in gradient]
    assert torch.equal(torch.func.jacrev(torch.func.grad(loss))(x), torch.stack(rows))


def test_module_and_function_have_the_same_defaults():
    of_function, of_module = (
        {name: p.default for name, p in inspect.signature(callable_).parameters.items()}
        for callable_ in (concordance_loss_nce, ConcordanceLossNCE)
    )
    assert {name: of_function[name] for name in of_module} == of_module
