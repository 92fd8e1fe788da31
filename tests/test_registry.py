"""Losses by name and composite losses from configs: every form, the way back, and what is refused."""

import copy
import json
import os
import pickle
import tomllib
from types import MappingProxyType

import omegaconf
import pytest
import torch

from tests.test_replicates import replicates
from torchimpl.composite import CompositeLoss
from torchimpl.registry import LOSS_REGISTRY, create_composite_loss, register

NAMES = [
    "replicate_concordance_mse",
    "nll_loss",
    "concordance_loss_nce",
    "negative_pearson_loss",
    "quantile_absolute_loss",
]
PAIR = [
    {"name": "concordance_loss_nce", "weight": 0.5, "tau": 2.0},
    {"name": "replicate_concordance_mse", "reduction": "sum"},
]


@pytest.fixture
def scratch():
    """Take back what a test registers."""
    before = dict(LOSS_REGISTRY)
    yield LOSS_REGISTRY
    LOSS_REGISTRY.clear()
    LOSS_REGISTRY.update(before)


def expected_of_pair(outputs, batch):
    nce = LOSS_REGISTRY["concordance_loss_nce"](outputs, batch, tau=2.0)
    mse = LOSS_REGISTRY["replicate_concordance_mse"](outputs, batch, reduction="sum")
    return 0.5 * nce + mse


def test_the_five_names():
    assert list(LOSS_REGISTRY) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_bare_name(name):
    outputs, batch = replicates(torch.float64)
    loss = create_composite_loss(name)
    assert isinstance(loss, CompositeLoss)
    assert loss.component_names == [name]
    assert torch.equal(loss(outputs, batch), LOSS_REGISTRY[name](outputs, batch))


@pytest.mark.parametrize(
    "convert",
    [
        lambda config: config,
        MappingProxyType,
        omegaconf.OmegaConf.create,
        lambda config: json.loads(json.dumps(config)),
        lambda config: {"losses": tuple(config["losses"])},
        lambda _: tomllib.loads(
            '[[losses]]\nname = "concordance_loss_nce"\nweight = 0.5\ntau = 2.0\n'
            '[[losses]]\nname = "replicate_concordance_mse"\nreduction = "sum"\n'
        ),
    ],
)
def test_every_kind_of_mapping(convert):
    outputs, batch = replicates(torch.float64)
    loss = create_composite_loss(convert({"losses": PAIR}))
    assert torch.equal(loss(outputs, batch), expected_of_pair(outputs, batch))
    json.dumps(loss.to_config())


@pytest.mark.parametrize(
    "config",
    [
        "nll_loss",
        {"losses": PAIR},
        {"losses": ["nll_loss", "negative_pearson_loss"], "weights": [1, 0.25]},
        {"losses": ["nll_loss", "nll_loss"], "return_components": True},
        {"losses": ["nll_loss"], "component_names": ["likelihood"]},
        {"losses": [{"losses": PAIR, "weight": 0.1, "return_components": True}, "nll_loss"]},
    ],
)
def test_the_way_back(config):
    outputs, batch = replicates(torch.float64)
    loss = create_composite_loss(config)
    again = create_composite_loss(loss.to_config())
    assert again.to_config() == loss.to_config()
    assert again(outputs, batch) == loss(outputs, batch)
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert twin(outputs, batch) == loss(outputs, batch)


def test_a_config_is_not_shared_with_the_loss():
    config = {"losses": [dict(PAIR[0])]}
    loss = create_composite_loss(config)
    config["losses"][0]["tau"] = 9.0
    loss.to_config()["losses"][0]["tau"] = 8.0
    assert loss.to_config()["losses"][0]["tau"] == 2.0


def test_options_are_data_of_any_depth_and_not_shared_either(scratch):
    @register("deep")
    def deep(model_outputs, batch, *, table=None, rows=()):
        return torch.tensor(float(len(rows)))

    config = {"losses": [{"name": "deep", "table": None, "rows": [{"a": [1, True]}, "text"]}]}
    loss = create_composite_loss(config)
    config["losses"][0]["rows"][0]["a"][0] = 2
    loss.to_config()["losses"][0]["rows"][0]["a"][0] = 3
    loss.to_config()["losses"][0]["rows"].clear()
    assert loss.to_config()["losses"][0] == {
        "name": "deep",
        "table": None,
        "rows": [{"a": [1, True]}, "text"],
        "weight": 1.0,
    }


def test_return_forms():
    outputs, batch = replicates()
    named = create_composite_loss({"losses": ["nll_loss"], "component_names": ["likelihood"]})(outputs, batch)
    assert list(named["components"]) == ["likelihood"]
    repeated = create_composite_loss({"losses": ["nll_loss"] * 2, "return_components": True})(outputs, batch)
    assert list(repeated["components"]) == ["nll_loss", "nll_loss#2"]


def test_own_losses(scratch):
    @register("own")
    def own(model_outputs, batch, scale, *, shift=0.0):
        return scale * model_outputs["x"] + shift

    config = {"losses": [{"name": "own", "scale": 2.0, "shift": 1.0}]}
    assert create_composite_loss(config)({"x": torch.tensor(3.0)}, {}).item() == 7.0
    with pytest.raises(ValueError, match="name 'own' is taken; pass overwrite=True"):
        register("own")

    @register("own", overwrite=True)
    def anything(model_outputs, batch, **options):
        return torch.tensor(float(options["any"]))

    assert create_composite_loss({"losses": [{"name": "own", "any": 4}]})({}, {}).item() == 4.0


def test_a_registered_module_keeps_its_parameters(scratch):
    class Learned(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(2.0))

        def forward(self, model_outputs, _batch):
            return self.scale * model_outputs

    module = register("learned")(Learned())
    loss = create_composite_loss("learned")
    assert list(loss.parameters()) == [module.scale]
    assert loss(torch.tensor(3.0), {}).item() == 6.0


def test_refused_registrations(scratch):
    with pytest.raises(TypeError, match="name must be a string, got function"):
        register(test_own_losses)
    with pytest.raises(ValueError, match="name must not be empty"):
        register("")
    for bad in (CompositeLoss, 3):
        with pytest.raises(TypeError, match="a loss must be a function or a callable object"):
            register("bad")(bad)
    assert "bad" not in scratch


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            "nll_los",
            r"unknown loss 'nll_los'; known: .*'replicate_concordance_mse'; did you mean 'nll_loss'\?",
        ),
        ("os.system", "unknown loss 'os.system'"),
        ("torchimpl.replicates.nll_loss", "unknown loss 'torchimpl.replicates.nll_loss'"),
        ({"loses": ["nll_loss"]}, r"unknown key 'loses' in config; .*did you mean 'losses'\?"),
        ({"weights": [1.0]}, "must have the key 'losses'"),
        ({"losses": []}, "at least one loss, got none"),
        ({"losses": ["nll_loss"], "weights": [1.0, 2.0]}, "one entry per loss, got 2 for 1 losses"),
        ({"losses": [{"name": "nll_loss", "weight": 1.0}], "weights": [1.0]}, "weights must be given once"),
        ({"losses": [{"weight": 1.0}]}, r"config\['losses'\]\[0\] must have either 'name' or 'losses'"),
        (
            {"losses": [{"name": "concordance_loss_nce", "tua": 1.0}]},
            r"no option 'tua'; .*did you mean 'tau'\?",
        ),
        ({"losses": [{"name": "nll_loss", "wieght": 1.0}]}, r"no option 'wieght'; .*did you mean 'weight'\?"),
        ({"losses": [{"name": "nll_loss", "weight": float("nan")}]}, r"weights\[0\] must be finite"),
        ({"losses": [{"losses": ["nll_loss"], "tau": 1.0}]}, "unknown key 'tau' in config"),
    ],
)
def test_refused_values(config, message):
    with pytest.raises(ValueError, match=message):
        create_composite_loss(config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (["nll_loss"], "config must be a name or a mapping, got list"),
        (None, "config must be a name or a mapping, got NoneType"),
        ({"losses": "nll_loss"}, r"config\['losses'\] must be a list, got str"),
        ({"losses": {"nll_loss": 1.0}}, r"config\['losses'\] must be a list, got dict"),
        ({"losses": [os.system]}, r"config\['losses'\]\[0\] must be a name or a mapping, got builtin"),
        ({"losses": [{"name": os.system}]}, r"config\['losses'\]\[0\]\['name'\] must be data"),
        ({"losses": [{"name": "nll_loss", "reduction": print}]}, r"\['reduction'\] must be data"),
        ({"losses": [{"name": 3}]}, "the name of a loss must be a string, got int"),
        ({"losses": ["nll_loss"], "weights": 1.0}, r"config\['weights'\] must be a list, got float"),
        ({"losses": ["nll_loss"], "weights": ["1e-3"]}, r"weights\[0\] must be a real number, got str"),
        ({"losses": ["nll_loss"], "weights": [True]}, r"weights\[0\] must be a real number, got bool"),
        (
            {"losses": ["nll_loss"], "component_names": "x"},
            r"config\['component_names'\] must be a list, got str",
        ),
        ({"losses": ["nll_loss"], "return_components": 1}, r"\['return_components'\] must be true or false"),
    ],
)
def test_refused_types(config, message):
    with pytest.raises(TypeError, match=message):
        create_composite_loss(config)


def test_a_composite_of_functions_has_no_config():
    def mine(model_outputs, batch):
        return torch.tensor(1.0)

    for loss, name in ((mine, "mine"), (torch.nn.Identity(), "Identity")):
        with pytest.raises(ValueError, match=f"component '{name}' is not a registered loss"):
            CompositeLoss([loss], [1.0]).to_config()
