"""The rules every loss obeys (docs/losses.md), over the one table of losses."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import torchimpl as losses
from tests.budget import examples
from tests.cases import CASES, case

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
POSITIONAL = [c for c in CASES if not c.name.endswith("wrapper")]
every_loss = pytest.mark.parametrize("entry", CASES, ids=str)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)

# which inputs of a case are a mean (>= 0) or a dispersion (> 0)
ELEMENTWISE = ("negative_binomial_cdf", "negative_binomial_sf", "negative_binomial_log_prob")
MEANS, DISPERSIONS = dict.fromkeys(ELEMENTWISE, (1,)), dict.fromkeys(ELEMENTWISE, (2,))
ANY_REAL = {
    "masked_sse",
    "masked_mse",
    "concordance_loss_nce",
    "negative_pearson_loss",
    "compute_residual_mse",
}


def in_domain(entry, position, values):
    """Values that are a mean or a dispersion where the loss takes one at this position."""
    if entry.name in ANY_REAL:
        return values
    if position in MEANS.get(entry.name, (0, 2)):
        return values.abs()
    if position in DISPERSIONS.get(entry.name, (1, 3)):
        return torch.where(values == 0, 1, values.abs()).to(values.dtype)
    return values


def extremes(dtype):
    info = torch.finfo(dtype)
    smallest = torch.nextafter(torch.zeros((), dtype=dtype), torch.ones((), dtype=dtype)).item()
    magnitudes = [
        0.0,
        smallest,
        info.tiny,
        info.eps,
        0.1,
        1.0,
        7.5,
        1e3,
        info.max**0.5,
        info.max / 2,
        info.max,
    ]
    return st.sampled_from([*magnitudes, *(-m for m in magnitudes[1:])])


@every_dtype
@every_loss
@given(data=st.data())
@settings(max_examples=examples(60))
def test_r1_finite_in_finite_out_and_no_gradient_is_nan(entry, dtype, data):
    batch = data.draw(st.integers(1, 3))
    inputs = []
    for position, t in enumerate(entry.inputs(dtype, batch=batch)):
        if t.is_floating_point():
            drawn = data.draw(st.lists(extremes(dtype), min_size=t.numel(), max_size=t.numel()))
            values = torch.tensor(drawn, dtype=dtype).reshape(t.shape)
            inputs.append(in_domain(entry, position, values).requires_grad_(t.requires_grad))
        else:
            inputs.append(t)
    value = entry.call(*inputs)
    assert torch.isfinite(value).all(), value
    # the incoming gradient is 1 per element or 0: neither may turn into NaN
    for incoming in (torch.ones_like(value), torch.zeros_like(value)):
        gradients = torch.autograd.grad(
            value, [inputs[i] for i in entry.differentiable], incoming, retain_graph=True
        )
        assert not any(g.isnan().any() for g in gradients) or _components_overflow(entry, inputs)
        assert incoming.any() or not any(g.any() for g in gradients)


def _components_overflow(entry, inputs):
    """Whether a component of the composite has an infinite gradient: autograd may then add inf and -inf."""
    if entry.name != "CompositeLoss":
        return False
    parts = ("nll_loss", "concordance_loss_nce_wrapper", "negative_pearson_loss_wrapper")
    wanted = [inputs[i] for i in entry.differentiable]
    gradients = [torch.autograd.grad(case(p).call(*inputs), wanted, allow_unused=True) for p in parts]
    return any(g is not None and g.isinf().any() for part in gradients for g in part)


@every_dtype
@every_loss
def test_r2_nan_where_it_counts_is_never_hidden(entry, dtype):
    ignored = {"replicate_concordance_mse_loss": (1, 3), "concordance_loss_nce_wrapper": (1, 3, 6)}
    ignored["negative_pearson_loss_wrapper"] = (1, 3, 6)
    ignored["quantile_absolute_loss"] = ignored["quantile_absolute_loss_wrapper"] = ignored["nll_loss"] = (6,)
    ignored["CompositeLoss"] = (6,)
    for position, t in enumerate(entry.inputs(dtype)):
        if not t.is_floating_point():
            continue
        inputs = [x.detach().clone() for x in entry.inputs(dtype)]
        inputs[position].view(-1)[0] = torch.nan
        value = entry.call(*inputs)
        hidden = position in ignored.get(entry.name, ())
        assert bool(value.isnan().view(-1)[0]) != hidden, position
        assert not value.isnan().view(-1)[1:].any()


@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("reduction", ["mean", "sum", "batch_mean", "none"])
@every_dtype
def test_r2_a_visible_position_has_no_influence_whatever_it_holds(dtype, reduction, poison):
    recon, x, mask = case("masked_mse").make(dtype, 0, 6)

    def value_and_gradients(fill):
        a, b = (torch.where(mask, t, fill).requires_grad_() for t in (recon, x))
        value = losses.masked_mse(a, b, mask, reduction=reduction)
        return value.detach(), *torch.autograd.grad(value, (a, b), torch.ones_like(value))

    clean, poisoned = value_and_gradients(0.0), value_and_gradients(poison)
    for p, q in zip(clean, poisoned, strict=True):
        assert torch.equal(p, q)
    assert not any(g[~mask].any() for g in poisoned[1:])


@pytest.mark.parametrize("entry", POSITIONAL, ids=str)
def test_r3_no_silent_broadcasting(entry):
    wrappers = entry.name in {"nll_loss", "replicate_concordance_mse_loss", "CompositeLoss"}
    for position, t in enumerate(entry.inputs()):
        if t.dim() == 0:
            continue
        column, longer = t.detach().unsqueeze(-1), torch.cat([t.detach(), t.detach()[:1]])
        for changed in [longer] if wrappers else [column, longer]:
            inputs = [x.detach() for x in entry.inputs()]
            inputs[position] = changed
            if wrappers and position in {1, 3, 6} and entry.name == "replicate_concordance_mse_loss":
                continue  # it does not read r
            if entry.name != "replicate_concordance_mse_loss" and position == 6:
                continue  # only the residual loss reads sd_ratio
            with pytest.raises(ValueError, match=r"\(.*\).*\(.*\)") as caught:
                entry.call(*inputs)
            assert str(tuple(changed.shape)) in str(caught.value)


@every_dtype
@every_loss
def test_r4_dtypes_of_value_and_gradient(entry, dtype):
    inputs = entry.inputs(dtype)
    value = entry.call(*inputs)
    if entry.elementwise or dtype == torch.float64:
        assert value.dtype == dtype
    else:
        assert value.dtype == torch.float32
    for g, i in zip(entry.gradients(*inputs), entry.differentiable, strict=True):
        assert g.dtype == dtype
        assert g.shape == inputs[i].shape


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@every_loss
def test_r4_half_inputs_are_computed_in_single_precision(entry, dtype):
    inputs = entry.inputs(dtype)
    wide = [t.detach().float() if t.is_floating_point() else t for t in inputs]
    expected = entry.call(*wide)
    assert torch.equal(entry.call(*inputs), expected.to(dtype) if entry.elementwise else expected)


@every_loss
def test_r4_integer_targets_promote(entry):
    inputs = [t.detach() for t in entry.inputs()]
    for position, t in enumerate(inputs):
        if t.is_floating_point() and position not in entry.differentiable and t.dim():
            changed = list(inputs)
            changed[position] = t.long()
            assert torch.equal(entry.call(*changed), entry.call(*inputs))


@every_loss
def test_r5_partial_requires_grad_and_the_graph_is_always_there(entry):
    for chosen in itertools.chain.from_iterable(
        itertools.combinations(entry.differentiable, n) for n in (1, len(entry.differentiable))
    ):
        inputs = [t.detach().requires_grad_(i in chosen) for i, t in enumerate(entry.inputs())]
        value = entry.scalar(*inputs)
        assert value.requires_grad
        full = entry.gradients(*entry.inputs())
        some = torch.autograd.grad(value, [inputs[i] for i in chosen])
        for g, i in zip(some, chosen, strict=True):
            assert torch.equal(g, full[entry.differentiable.index(i)])


@every_loss
def test_r7_two_forwards_before_one_backward(entry):
    first, second = entry.inputs(seed=1), entry.inputs(seed=2)
    alone = entry.gradients(*first)
    value = entry.scalar(*first)
    entry.scalar(*second)
    together = torch.autograd.grad(value, [first[i] for i in entry.differentiable])
    assert all(torch.equal(p, q) for p, q in zip(alone, together, strict=True))


@every_dtype
@every_loss
def test_r9_an_empty_batch_is_zero_and_on_the_graph(entry, dtype):
    inputs = tuple(
        t.detach()[:0].requires_grad_(i in entry.differentiable) if t.dim() else t
        for i, t in enumerate(entry.inputs(dtype))
    )
    value = entry.scalar(*inputs)
    assert value.item() == 0
    assert value.requires_grad
    for g, i in zip(
        torch.autograd.grad(value, [inputs[i] for i in entry.differentiable]),
        entry.differentiable,
        strict=True,
    ):
        assert g.shape == inputs[i].shape
        assert not g.any()


@pytest.mark.parametrize("name", ["masked_sse", "masked_mse"])
@every_dtype
def test_r9_an_empty_mask_is_zero_with_zero_gradients(name, dtype):
    recon, x, mask = case(name).inputs(dtype)
    for fill in (1.0, torch.inf, torch.nan):
        a = torch.full_like(recon, fill).requires_grad_()
        value = getattr(losses, name)(a, x, torch.zeros_like(mask))
        (gradient,) = torch.autograd.grad(value, a)
        assert value.item() == 0
        assert not gradient.any()


@pytest.mark.parametrize("entry", CASES, ids=str)
@pytest.mark.parametrize("bad", [None, 1.5j, "text", [1.0, 2.0]], ids=lambda b: type(b).__name__)
def test_r10_what_is_not_a_tensor_is_refused_by_name(entry, bad):
    inputs = list(entry.inputs())
    inputs[0] = bad
    with pytest.raises(TypeError, match=type(bad).__name__):
        entry.call(*inputs)


@pytest.mark.parametrize("dtype", [torch.bool, torch.complex64], ids=str)
@every_loss
def test_r10_unsupported_dtypes_are_refused(entry, dtype):
    inputs = [t.detach() for t in entry.inputs()]
    inputs[0] = inputs[0].to(dtype)
    with pytest.raises(TypeError, match=str(dtype)):
        entry.call(*inputs)


@pytest.mark.parametrize(
    "call",
    [
        lambda r: losses.masked_sse(*case("masked_sse").inputs(), reduction=r),
        lambda r: losses.masked_mse(*case("masked_mse").inputs(), reduction=r),
        lambda r: losses.concordance_loss_nce(torch.ones(2), torch.ones(2), reduction=r),
        lambda r: losses.compute_residual_mse(*case("compute_residual_mse").inputs(), reduction=r),
        lambda r: losses.nll_loss(
            {"mu": torch.ones(2), "r": torch.ones(2)}, {"reads": torch.ones(2)}, reduction=r
        ),
        lambda r: losses.quantile_absolute_loss(
            {"mu": torch.ones(2), "r": torch.ones(2)},
            {"mu": torch.ones(2), "r": torch.ones(2)},
            torch.ones(2),
            torch.ones(2),
            reduction=r,
        ),
        lambda r: losses.MaskedSSE(reduction=r),
        lambda r: losses.ConcordanceLossNCE(reduction=r),
    ],
)
def test_r10_an_unknown_reduction_lists_the_allowed_ones(call):
    with pytest.raises(ValueError, match=r"reduction.*'mean'.*'avg'"):
        call("avg")


@pytest.mark.parametrize(
    ("y", "mu", "r", "index", "what"),
    [
        ([1.0, 1.0], [1.0, -2.0], [1.0, 1.0], "1", "-2"),
        ([1.0, 1.0], [1.0, 2.0], [0.0, 1.0], "0", "0"),
        ([1.0, 1.0], [1.0, torch.nan], [1.0, 1.0], "1", "nan"),
    ],
)
def test_r10_validate_names_the_first_offending_index_and_value(y, mu, r, index, what):
    args = [torch.tensor(v) for v in (y, mu, r)]
    model, good = {"mu": args[1], "r": args[2]}, {"mu": torch.ones(2), "r": torch.ones(2)}
    for call in (
        lambda: losses.negative_binomial_cdf(*args, validate=True),
        lambda: losses.negative_binomial_sf(*args, validate=True),
        lambda: losses.negative_binomial_log_prob(*args, validate=True),
        lambda: losses.quantile_absolute_loss(good, model, args[0], args[0], validate=True),
        lambda: losses.nll_loss(model, {"reads": args[0]}, validate=True),
    ):
        with pytest.raises(ValueError, match=rf"{index}.*{what}"):
            call()
    assert losses.negative_binomial_cdf(*args).isnan().sum() == 1


@pytest.mark.parametrize("name", sorted(losses.LOSS_REGISTRY))
def test_r10_a_missing_key_is_named_with_those_present(name):
    flat = case("nll_loss").inputs()
    outputs = {"r1": {"r": flat[1]}, "r2": {"mu": flat[2], "r": flat[3]}}
    batch = {"r1": {"reads": flat[4]}, "r2": {"reads": flat[5]}, "metadata": {"sd_ratio": flat[6]}}
    with pytest.raises(KeyError, match=r"model_outputs\['r1'\]\['mu'\].*'r'"):
        losses.LOSS_REGISTRY[name](outputs, batch)
    with pytest.raises(TypeError, match=r"'tua'.*known"):
        losses.LOSS_REGISTRY[name](outputs, batch, tua=1.0)
