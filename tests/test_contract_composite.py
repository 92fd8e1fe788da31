"""What docs/losses.md promises of wrappers, registry and composite, sentence by sentence.

Expectations are exact, or come from mpmath and scipy; no oracle is asked.
"""

import math

import pytest
import torch
from torch import tensor

import torchimpl as losses
from tests.ulps import ulps

F32, F64 = torch.float32, torch.float64
inf, nan = math.inf, math.nan


def pair(dtype=F64, column=False):
    """A batch in the dict format, with parameters (B,) or (B, 1)."""
    generator = torch.Generator().manual_seed(5)

    def draw(low, high):
        return (low + (high - low) * torch.rand(6, generator=generator, dtype=F64)).to(dtype)

    shape = (6, 1) if column else (6,)
    outputs = {n: {"mu": draw(1, 9).reshape(shape), "r": draw(0.5, 4).reshape(shape)} for n in ("r1", "r2")}
    batch = {n: {"reads": draw(0, 12).floor(), "covariates": draw(0, 1)} for n in ("r1", "r2")}
    batch["metadata"] = {"sd_ratio": draw(0.5, 2), "grp_idx": torch.arange(6)}
    return outputs, batch


NAMES = [
    "replicate_concordance_mse",
    "nll_loss",
    "concordance_loss_nce",
    "negative_pearson_loss",
    "quantile_absolute_loss",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_column_of_parameters_is_the_same_batch(name):
    loss = losses.LOSS_REGISTRY[name]
    assert torch.equal(loss(*pair()), loss(*pair(column=True)))


@pytest.mark.parametrize("name", NAMES)
def test_integer_reads_are_taken(name):
    outputs, batch = pair(F32)
    integers = {**batch, **{n: {"reads": batch[n]["reads"].long()} for n in ("r1", "r2")}}
    assert torch.equal(
        losses.LOSS_REGISTRY[name](outputs, batch), losses.LOSS_REGISTRY[name](outputs, integers)
    )


def test_wrappers_call_their_cores():
    outputs, batch = pair()
    reads, mu = [batch[n]["reads"] for n in ("r1", "r2")], [outputs[n]["mu"] for n in ("r1", "r2")]
    residuals = [y - m for y, m in zip(reads, mu, strict=True)]
    assert (
        ulps(
            losses.concordance_loss_nce_wrapper(outputs, batch, tau=3.0),
            losses.concordance_loss_nce(*residuals, 3.0),
        )
        <= 2
    )
    assert torch.equal(
        losses.negative_pearson_loss_wrapper(outputs, batch),
        losses.negative_pearson_loss(torch.cat(mu), torch.cat(reads)),
    )
    direct = losses.quantile_absolute_loss(outputs["r1"], outputs["r2"], *reads)
    assert torch.equal(losses.quantile_absolute_loss_wrapper(outputs, batch), direct)


def test_the_registry_holds_the_five_wrappers():
    assert sorted(losses.LOSS_REGISTRY) == sorted(NAMES)
    assert losses.LOSS_REGISTRY["concordance_loss_nce"] is losses.concordance_loss_nce_wrapper
    assert losses.LOSS_REGISTRY["replicate_concordance_mse"] is losses.replicate_concordance_mse_loss


@pytest.mark.parametrize(
    "config",
    [
        "nll_loss",
        {"losses": ["nll_loss", "concordance_loss_nce"], "weights": [0.5, 2.0]},
        {
            "losses": [
                {"name": "nll_loss", "weight": 0.5},
                {"name": "concordance_loss_nce", "weight": 2.0, "tau": 4.0},
            ]
        },
    ],
)
def test_a_config_makes_the_weighted_sum_and_round_trips(config):
    outputs, batch = pair()
    made = losses.create_composite_loss(config)
    again = losses.create_composite_loss(made.to_config())
    assert again.to_config() == made.to_config()
    assert torch.equal(made(outputs, batch), again(outputs, batch))
    nll, nce = losses.nll_loss(outputs, batch), losses.LOSS_REGISTRY["concordance_loss_nce"]
    if isinstance(config, str):
        expected = nll
    elif isinstance(config["losses"][0], str):
        expected = 0.5 * nll + 2 * nce(outputs, batch)
    else:
        expected = 0.5 * nll + 2 * nce(outputs, batch, tau=4.0)
    assert ulps(made(outputs, batch), expected) <= 2


def test_a_config_accepts_omegaconf_and_parsed_text():
    omegaconf = pytest.importorskip("omegaconf", reason="a test extra")
    text = "losses:\n  - {name: nll_loss, weight: 1.5}\n  - {name: negative_pearson_loss, weight: 2}\n"
    node = omegaconf.OmegaConf.create(text)
    plain = {"losses": [{"name": "nll_loss", "weight": 1.5}, {"name": "negative_pearson_loss", "weight": 2}]}
    outputs, batch = pair()
    made, reference = losses.create_composite_loss(node), losses.create_composite_loss(plain)
    assert torch.equal(made(outputs, batch), reference(outputs, batch))
    assert losses.create_composite_loss(made.to_config()).to_config() == reference.to_config()


def test_an_unknown_name_lists_the_known_ones_and_the_nearest():
    with pytest.raises((KeyError, ValueError), match=r"nll_los\b.*") as caught:
        losses.create_composite_loss("nll_los")
    for name in NAMES:
        assert name in str(caught.value)
    assert "did you mean" in str(caught.value).lower()


@pytest.mark.parametrize(
    "bad",
    [
        torch.nn.functional.mse_loss,
        ["os.system"],
        {"losses": ["os.system"], "weights": [1.0]},
        {"losses": [print], "weights": [1.0]},
        {"losses": [{"name": "builtins.eval", "weight": 1.0}]},
        {"_target_": "os.system"},
        3,
        None,
    ],
)
def test_a_config_can_never_name_anything_but_a_registered_loss(bad):
    with pytest.raises((TypeError, ValueError, KeyError)):
        losses.create_composite_loss(bad)


def const(value):
    return lambda *_: tensor(value, dtype=F64)


def test_composite_both_historical_call_forms():
    functions, weights = [const(3.0), const(5.0)], [2.0, -1.0]
    assert losses.CompositeLoss(functions, weights)({}, {}).item() == 1
    flagged = losses.CompositeLoss(functions, weights, True)({}, {})
    assert flagged["total"].item() == 1
    assert len(flagged["components"]) == 2
    named = losses.CompositeLoss(functions, weights, ["a", "b"])({}, {})
    assert {k: v.item() for k, v in named["components"].items()} == {"a": 3, "b": 5}
    assert losses.CompositeLoss(functions, weights, return_components=True)({}, {})["total"].item() == 1


def test_composite_components_are_detached_scalars():
    leaf = torch.ones((), dtype=F64, requires_grad=True)
    made = losses.CompositeLoss([lambda *_: 2 * leaf], [3.0], ["a"])
    result = made({}, {})
    assert not result["components"]["a"].requires_grad
    result["total"].backward()
    assert leaf.grad.item() == 6


@pytest.mark.parametrize("value", [inf, -inf, nan])
def test_composite_weight_zero_switches_a_component_off_and_keeps_it_in_the_log(value):
    leaf = torch.ones((), dtype=F64, requires_grad=True)
    made = losses.CompositeLoss([lambda *_: leaf * value, lambda *_: 2 * leaf], [0.0, 1.0], ["off", "on"])
    result = made({}, {})
    assert result["total"].item() == 2
    logged = result["components"]["off"].item()
    assert logged == value or (math.isnan(logged) and math.isnan(value))


def test_composite_refuses_a_component_that_is_not_a_scalar():
    made = losses.CompositeLoss([lambda *_: torch.ones(1)], [1.0], ["column"])
    with pytest.raises(ValueError, match=r"column.*\(1,\)"):
        made({}, {})


def test_composites_nest_and_register_their_parts():
    inner = losses.CompositeLoss([losses.NLLLoss()], [2.0], ["nll"])
    outer = losses.CompositeLoss([inner, const(1.0)], [3.0, 1.0], ["inner", "one"])
    assert inner in list(outer.modules())
    assert [n for n, _ in outer.named_buffers() if "weights" in n]
    outputs, batch = pair()
    assert ulps(outer(outputs, batch)["total"], 6 * losses.nll_loss(outputs, batch) + 1) <= 2


def test_composite_total_of_finite_components_is_finite():
    made = losses.CompositeLoss([const(1e308), const(1e308)], [10.0, -10.0])
    assert made({}, {}).item() == 0
    assert losses.CompositeLoss([const(1e308)], [10.0])({}, {}).item() == torch.finfo(F64).max
