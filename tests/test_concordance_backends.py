"""Which implementation of InfoNCE answers, and that all that a device has are within the bound."""

import numpy as np
import pytest
import torch

from refimpl import concordance as oracle
from refimpl.bounds import concordance as bounds
from refimpl.bounds.precision import error_ratio, precision
from torchimpl import concordance_loss_nce_wrapper
from torchimpl.concordance import concordance_loss_nce
from torchimpl.kernels import concordance_backends as backends
from torchimpl.kernels.concordance_backends import IMPLS, PLAIN, Settings, backend, choices, slopes_shape

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def _settings(impl="auto", *, slopes=True, grade="float64"):
    return Settings(tau=0.1, eps=1e-8, rows=0, wide=True, grade=grade, slopes=slopes, impl=impl)


def _batch(features, dtype=torch.float64, size=9):
    g = torch.Generator().manual_seed(features)
    x = torch.randn(size, features, generator=g, dtype=torch.float64)
    y = x + 0.3 * torch.randn(size, features, generator=g, dtype=torch.float64)
    return x.to(dtype), y.to(dtype)


def _answering(x, y, impl="auto"):
    """The name of the module whose function forms the losses."""
    rows = backend(x, y, _settings(impl)).rows
    return (getattr(rows, "__wrapped__", rows)).__module__.rsplit(".", maxsplit=1)[-1]


@pytest.mark.parametrize(
    ("features", "impl", "module"),
    [
        (1, "auto", "concordance_cpu"),
        (1, "sorted", "concordance_cpu"),
        (1, "exact-blocks", "concordance_blocks"),
        (1, "torch", "concordance_backends"),
        (3, "auto", "concordance_blocks"),
        (3, "exact-blocks", "concordance_blocks"),
        (3, "torch", "concordance_backends"),
    ],
)
def test_who_answers_on_the_cpu(features, impl, module):
    assert _answering(*_batch(features), impl) == module


@pytest.mark.parametrize("features", [1, 3])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_plain_torch_answers_for_what_is_not_finite(features, bad, side):
    batch = _batch(features)
    batch[side][2, 0] = bad
    assert backend(*batch, _settings()) is PLAIN


@pytest.mark.parametrize("shape", [(0, 1), (0, 3), (3, 0)])
def test_plain_torch_answers_where_nothing_counts(shape):
    empty = torch.empty(shape, dtype=torch.float64)
    assert backend(empty, empty, _settings()) is PLAIN


def test_plain_torch_answers_where_there_is_no_float64():
    x, y = _batch(1, torch.float32)
    assert backend(x, y, _settings()) is PLAIN
    for features in (1, 3):
        assert choices("mps", features) == ("torch",)


def test_cuda_has_kernels_if_triton_is_there(monkeypatch):
    for installed in (False, True):
        found = type("Module", (), {"installed": installed, "rows_cuda": print, "gradient_cuda": print})
        monkeypatch.setattr(backends, "_module", lambda _name, found=found: found)
        expected = [("sorted", "torch"), ("exact-blocks", "torch")] if installed else [("torch",)] * 2
        assert [choices("cuda", features) for features in (1, 3)] == expected


def test_what_the_kernels_on_cuda_are_told(monkeypatch):
    calls = []

    def noted(name):
        return staticmethod(lambda *tensors, **options: calls.append((name, tensors, options)))

    found = type("Module", (), {name: noted(name) for name in ("rows_cuda", "gradient_cuda")})
    monkeypatch.setattr(backends, "_module", lambda _name: found)
    answering, settings = backends._cuda(), _settings(grade="bf16")
    answering.rows("x", "y", settings)
    answering.gradient("cotangent", "x", settings)
    told = {"narrow": True, "grade": "bf16"}
    assert calls == [
        ("rows_cuda", ("x", "y", 0.1, 1e-8), {**told, "slopes": True}),
        ("gradient_cuda", ("cotangent", "x", 0.1, 1e-8), told),
    ]
    assert answering.curvature is PLAIN.curvature


@pytest.mark.parametrize(("features", "impl"), [(1, "auto"), (1, "exact-blocks"), (3, "auto")])
def test_slopes_are_formed_where_they_are_wanted(features, impl):
    x, y = _batch(features)
    for slopes in (True, False):
        settings = _settings(impl, slopes=slopes)
        losses, nearest, normaliser, found = backend(x, y, settings).rows(x, y, settings)
        assert found.shape == slopes_shape(x, settings) == (2, 9 if slopes else 0, features)
        assert (losses.shape, nearest.shape, normaliser.shape) == ((9,), (9,), (2, 9))
        cotangent = torch.ones_like(losses)
        gradients = backend(x, y, settings).gradient(cotangent, x, y, nearest, normaliser, found, settings)
        assert [g.shape for g in gradients] == [x.shape, y.shape]
    plain = _settings("torch")
    assert slopes_shape(x, plain) == PLAIN.rows(x, y, plain)[3].shape == (2, 0, features)


def test_autograd_decides_whether_slopes_are_formed(monkeypatch):
    asked = []
    original = backends.backend

    def noted(x, y, settings):
        asked.append(settings.slopes)
        return original(x, y, settings)

    monkeypatch.setattr("torchimpl.kernels.concordance_op.backend", noted)
    x, y = _batch(1)
    concordance_loss_nce(x, y)
    concordance_loss_nce(x.requires_grad_(), y)
    with torch.no_grad():
        concordance_loss_nce(x, y)
    concordance_loss_nce(x.detach(), y.requires_grad_())
    assert asked == [False, True, False, True]


@pytest.mark.parametrize(
    ("given", "grade"),
    [
        ((torch.float64, torch.float64), "float64"),
        ((torch.float32, torch.float64), "float64"),
        ((torch.float32, torch.float32), "tf32x3"),
        ((torch.bfloat16, torch.bfloat16), "bf16"),
        ((torch.bfloat16, torch.float16), "tf32x3"),
        ((torch.int64, torch.int64), "tf32x3"),
    ],
)
def test_the_grade_follows_the_dtypes(given, grade, monkeypatch):
    asked = []
    original = backends.backend

    def noted(x, y, settings):
        asked.append((settings.grade, settings.narrow, settings.wide))
        return original(x, y, settings)

    monkeypatch.setattr("torchimpl.kernels.concordance_op.backend", noted)
    x, y = (torch.arange(4).to(dtype) for dtype in given)
    concordance_loss_nce(x, y)
    concordance_loss_nce(x, y, 1e-200)
    double = grade == "float64"
    assert asked == [(grade, not double, double), (grade, not double, True)]


@pytest.mark.parametrize("features", [1, 2, 8])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_all_implementations_are_within_the_bound(features, dtype, reduction):
    formats = precision(str(dtype).removeprefix("torch."))
    batch = _batch(features, dtype, size=40)
    arrays = [t.double().numpy() for t in batch]
    options = {"eps": 1e-8, "reduction": reduction}
    bound = bounds.concordance_loss_nce(*arrays, 0.1, **options, precision=formats)
    exact = oracle.concordance_loss_nce(*arrays, 0.1, **options)
    slopes = oracle.concordance_loss_nce_gradient(*arrays, 0.1, eps=1e-8, reduction="mean")
    largest = formats.scalar_max if reduction == "mean" else formats.result_max
    for impl in choices("cpu", features):
        x, y = (t.clone().requires_grad_() for t in batch)
        value = concordance_loss_nce(x, y, 0.1, **options, impl=impl)
        assert np.all(error_ratio(value.detach().double().numpy(), exact, bound.value, largest) <= 1)
        if reduction == "mean":
            found = torch.autograd.grad(value, (x, y))
            for actual, expected, allowed in zip(found, slopes, bound.gradient, strict=True):
                ratio = error_ratio(
                    actual.double().numpy(), expected, allowed, formats.result_max, overflows=True
                )
                assert np.all(ratio <= 1)


def test_the_wrapper_hands_the_choice_on():
    side, reads = {"mu": torch.zeros(3)}, {"reads": torch.arange(3)}
    outputs, batch = {"r1": side, "r2": side}, {"r1": reads, "r2": reads}
    for impl in choices("cpu", 1):
        assert concordance_loss_nce_wrapper(outputs, batch, impl=impl).isfinite()
    with pytest.raises(ValueError, match="impl must be one of"):
        concordance_loss_nce_wrapper(outputs, batch, impl="fast")


# torch's own use of what torch deprecates: the compiler instantiates autograd.Function while it traces one
@pytest.mark.filterwarnings(
    "ignore:<class 'torch.autograd.function.Function'> should not be instantiated:DeprecationWarning"
)
@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("bad", [False, True], ids=["finite", "NaN"])
def test_compiled_in_one_graph(impl, bad):
    torch.compiler.reset()
    compiled = torch.compile(concordance_loss_nce, fullgraph=True, backend="aot_eager")
    x, y = _batch(1)
    if bad:
        x[1] = torch.nan
    found, eager = [], []
    for function, results in ((compiled, found), (concordance_loss_nce, eager)):
        leaves = [t.clone().requires_grad_() for t in (x, y)]
        value = function(*leaves, reduction="none", impl=impl)
        results += [value, *torch.autograd.grad(value.nansum(), leaves)]
    for actual, expected in zip(found, eager, strict=True):
        assert torch.equal(actual.isnan(), expected.isnan())
        assert torch.equal(actual.nan_to_num(), expected.nan_to_num())


@pytest.mark.parametrize("impl", IMPLS)
def test_mapped_over_problems(impl):
    problems = [torch.stack(parts) for parts in zip(*(_batch(1, size=7) for _ in range(2)), strict=True)]
    problems[0][1] += 1
    found = torch.vmap(lambda x, y: concordance_loss_nce(x, y, impl=impl))(*problems)
    one_by_one = [concordance_loss_nce(x, y, impl=impl) for x, y in zip(*problems, strict=True)]
    assert torch.equal(found, torch.stack(one_by_one))


@pytest.mark.parametrize("impl", IMPLS)
def test_gradients_of_transformations_and_of_either_input_alone(impl):
    x, y = _batch(1)
    both = torch.func.grad(lambda a, b: concordance_loss_nce(a, b, impl=impl), argnums=(0, 1))(x, y)
    for side, expected in enumerate(both):
        leaves = [x.clone(), y.clone()]
        leaves[side].requires_grad_()
        (alone,) = torch.autograd.grad(concordance_loss_nce(*leaves, impl=impl), leaves[side])
        # one path weighs rows by the cotangent, the other multiplies sums by it: a rounding of each term
        scale = expected.abs().max()
        assert (alone - expected).abs().max() <= 4 * len(x) * 2.0**-53 * scale
