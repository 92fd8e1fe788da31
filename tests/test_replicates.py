"""The dict wrappers: alignment, agreement with their cores and with the oracle, and what they refuse."""

import math

import pytest
import torch

from refimpl import concordance, pearson
from refimpl.bounds.precision import error_ratio, precision
from torchimpl.alignment import align, aligned, lookup, options_checked
from torchimpl.concordance import concordance_loss_nce
from torchimpl.likelihood import nll_loss
from torchimpl.pearson import negative_pearson_loss
from torchimpl.quantile import quantile_absolute_loss
from torchimpl.replicates import (
    concordance_loss_nce_wrapper,
    negative_pearson_loss_wrapper,
    quantile_absolute_loss_wrapper,
    replicate_concordance_mse_loss,
)

WRAPPERS = [
    concordance_loss_nce_wrapper,
    negative_pearson_loss_wrapper,
    quantile_absolute_loss_wrapper,
    nll_loss,
    replicate_concordance_mse_loss,
]
NEEDS_R = {quantile_absolute_loss_wrapper, nll_loss}


def replicates(dtype=torch.float32, count=5, shape=(-1,), reads_dtype=torch.int64):
    """Model outputs on the graph and a batch; mu and r in the given shape."""
    made = torch.Generator().manual_seed(3)
    outputs = {
        name: {
            "mu": (4 * torch.rand(count, generator=made) + 1).to(dtype).reshape(shape).requires_grad_(),
            "r": (4 * torch.rand(count, generator=made) + 1).to(dtype).reshape(shape).requires_grad_(),
        }
        for name in ("r1", "r2")
    }
    batch = {
        name: {"reads": torch.randint(0, 9, (count,), generator=made).to(reads_dtype), "covariates": None}
        for name in ("r1", "r2")
    }
    return outputs, {**batch, "metadata": {"sd_ratio": torch.tensor(0.5, dtype=dtype), "grp_idx": 0}}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_columns_and_vectors_are_the_same_batch(wrapper, dtype):
    results = []
    for shape in ((-1,), (-1, 1)):
        outputs, batch = replicates(dtype, shape=shape)
        value = wrapper(outputs, batch)
        value.backward()
        assert value.dtype is (torch.float64 if dtype is torch.float64 else torch.float32)
        assert value.dim() == 0
        gradient = outputs["r1"]["mu"].grad
        assert gradient.shape == outputs["r1"]["mu"].shape
        assert gradient.dtype is dtype
        results.append((value, gradient.reshape(-1)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_reads_may_be_columns_and_floating(wrapper):
    outputs, batch = replicates()
    expected = wrapper(outputs, batch)
    for name in ("r1", "r2"):
        batch[name] = {"reads": batch[name]["reads"].float()[:, None]}
    assert torch.equal(wrapper(outputs, batch), expected)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_constants_expand(wrapper):
    outputs, batch = replicates()
    for name in ("r1", "r2"):
        outputs[name] = {
            "mu": torch.tensor(2.0, requires_grad=True),
            "r": torch.tensor(3.0, requires_grad=True),
        }
    spread = {name: {key: v.expand(5) for key, v in outputs[name].items()} for name in outputs}
    value = wrapper(outputs, batch)
    value.backward()
    assert torch.equal(value, wrapper(spread, batch))
    assert outputs["r1"]["mu"].grad.shape == ()


def test_wrappers_are_their_cores():
    outputs, batch = replicates(torch.float64)
    mu = [outputs[name]["mu"] for name in ("r1", "r2")]
    reads = [batch[name]["reads"] for name in ("r1", "r2")]
    residuals = [y - m for y, m in zip(reads, mu, strict=True)]
    options = {"tau": 0.7, "eps": 0.0, "reduction": "sum"}
    assert torch.equal(
        concordance_loss_nce_wrapper(outputs, batch, **options), concordance_loss_nce(*residuals, **options)
    )
    assert torch.equal(
        negative_pearson_loss_wrapper(outputs, batch, eps=5.0),
        negative_pearson_loss(torch.cat(mu), torch.cat(reads), 5.0),
    )
    assert torch.equal(
        quantile_absolute_loss_wrapper(outputs, batch, reduction="none"),
        quantile_absolute_loss(outputs["r1"], outputs["r2"], *reads, reduction="none"),
    )


def test_residuals_are_not_rounded_before_the_loss():
    # in float32 counts beyond 2^24 swallow the fractions of mu
    outputs, batch = replicates(count=2)
    for name, shift in (("r1", 0.25), ("r2", 0.5)):
        outputs[name]["mu"] = torch.tensor([shift, 2 * shift])
        batch[name]["reads"] = torch.tensor([2**24, 2**24 + 1])
    value = concordance_loss_nce_wrapper(outputs, batch, tau=1.0)
    plain = [{"mu": outputs[name]["mu"].double().numpy()} for name in ("r1", "r2")]
    counts = [{"reads": batch[name]["reads"].numpy()} for name in ("r1", "r2")]
    exact = concordance.concordance_loss_nce_wrapper(
        dict(zip(("r1", "r2"), plain, strict=True)), dict(zip(("r1", "r2"), counts, strict=True)), tau=1.0
    )
    # one rounding to float32 of what float64 leaves
    assert abs(value.item() - exact) <= abs(exact) * 2.0**-24 * (1 + 2.0**-20)


def test_overflowing_residuals_are_finite():
    outputs, batch = replicates(torch.float64, count=2)
    largest = torch.finfo(torch.float64).max
    for name in ("r1", "r2"):
        outputs[name]["mu"] = torch.full((2,), -largest, dtype=torch.float64, requires_grad=True)
        batch[name]["reads"] = torch.tensor([largest, 1.0], dtype=torch.float64)
    value = concordance_loss_nce_wrapper(outputs, batch)
    value.backward()
    assert value.isfinite()
    assert not outputs["r1"]["mu"].grad.isnan().any()


def test_none_keeps_the_dtype_of_the_inputs():
    for dtype in (torch.float16, torch.float32, torch.float64):
        outputs, batch = replicates(dtype)
        assert concordance_loss_nce_wrapper(outputs, batch, reduction="none").dtype is dtype


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_nan_is_not_hidden(wrapper):
    outputs, batch = replicates()
    outputs["r2"]["mu"] = torch.full((5,), math.nan)
    assert wrapper(outputs, batch).isnan()


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_empty_batches_are_zero_on_the_graph(wrapper):
    outputs, batch = replicates(count=0)
    value = wrapper(outputs, batch)
    value.backward()
    assert value.item() == 0.0
    assert outputs["r1"]["mu"].grad.shape == (0,)


def test_pearson_wrapper_agrees_with_its_oracle():
    outputs, batch = replicates(torch.float64)
    plain = {name: {"mu": outputs[name]["mu"].detach().numpy()} for name in ("r1", "r2")}
    counts = {name: {"reads": batch[name]["reads"].numpy()} for name in ("r1", "r2")}
    exact = pearson.negative_pearson_loss_wrapper(plain, counts)
    from refimpl.bounds.pearson import negative_pearson_loss_wrapper as bounds

    held = precision("float64")
    bound = bounds(plain, counts, precision=held).value
    value = negative_pearson_loss_wrapper(outputs, batch).item()
    assert error_ratio(value, exact, bound, held.scalar_max) <= 1.0


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_missing_keys_are_named_with_their_path(wrapper):
    outputs, batch = replicates()
    with pytest.raises(
        KeyError, match=r"model_outputs\['r2'\]\['mu'\] is missing; keys present: 'mean', 'r'"
    ):
        wrapper({**outputs, "r2": {"mean": 1, "r": outputs["r2"]["r"]}}, batch)
    with pytest.raises(KeyError, match=r"batch\['r1'\]\['reads'\] is missing; keys present: none"):
        wrapper(outputs, {**batch, "r1": {}})
    if wrapper in NEEDS_R:
        with pytest.raises(KeyError, match=r"model_outputs\['r1'\]\['r'\] is missing; keys present: 'mu'"):
            wrapper({**outputs, "r1": {"mu": outputs["r1"]["mu"]}}, batch)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_other_refusals(wrapper):
    outputs, batch = replicates()
    with pytest.raises(TypeError, match="has no option 'tua'; known: "):
        wrapper(outputs, batch, tua=1.0)
    with pytest.raises(TypeError, match=r"model_outputs\['r1'\]\['mu'\] must be a torch.Tensor, got list"):
        wrapper({**outputs, "r1": {**outputs["r1"], "mu": [1.0]}}, batch)
    with pytest.raises(TypeError, match=r"batch\['r1'\] must be a mapping, got int"):
        wrapper(outputs, {**batch, "r1": 3})
    with pytest.raises(
        ValueError, match=r"model_outputs\['r1'\]\['mu'\] and batch\['r1'\]\['reads'\] .* \(1, 5\) and \(5,\)"
    ):
        wrapper({**outputs, "r1": {**outputs["r1"], "mu": outputs["r1"]["mu"][None]}}, batch)


def test_alignment_pieces():
    reads = torch.zeros(3)
    assert align("mu", torch.zeros(3, 1), "reads", reads).shape == (3,)
    assert align("mu", torch.zeros(3), "reads", reads[:, None]).shape == (3, 1)
    assert align("mu", torch.tensor(1.0), "reads", reads).shape == (3,)
    for shape in ((4,), (1,), (3, 3), (1, 3), (3, 1, 1)):
        with pytest.raises(ValueError, match="mu and reads must have the same shape"):
            align("mu", torch.zeros(shape), "reads", reads)
    assert lookup("batch", {"a": {"b": 1}}, "a", "b") == 1
    alone = aligned({"mu": reads, "r": reads}, {"reads": reads}, None, ("mu", "r"))
    assert [t.shape for t in alone] == [(3,)] * 3

    @options_checked
    def loss(model_outputs, batch, *, tau=1.0):
        return tau

    assert loss({}, {}, tau=3.0) == 3.0
    with pytest.raises(TypeError, match="loss has no option 'taus'; known: 'tau'; did you mean 'tau'"):
        loss({}, {}, taus=1)
