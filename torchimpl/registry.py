"""Losses by name, and composite losses from configs.

A config is data: it names registered losses and their options, and can import or call nothing else.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from torchimpl import checks
from torchimpl.composite import CompositeLoss, LossComponent
from torchimpl.likelihood import nll_loss
from torchimpl.replicates import (
    concordance_loss_nce_wrapper,
    negative_pearson_loss_wrapper,
    quantile_absolute_loss_wrapper,
    replicate_concordance_mse_loss,
)

Function = TypeVar("Function", bound=Callable[..., Any])

LOSS_REGISTRY: dict[str, Callable[..., Any]] = {
    "replicate_concordance_mse": replicate_concordance_mse_loss,
    "nll_loss": nll_loss,
    "concordance_loss_nce": concordance_loss_nce_wrapper,
    "negative_pearson_loss": negative_pearson_loss_wrapper,
    "quantile_absolute_loss": quantile_absolute_loss_wrapper,
}
"""Name -> loss, called as `loss(model_outputs, batch, **options)`."""

_TOP_KEYS = ("losses", "weights", "component_names", "return_components")


def register(name: str, *, overwrite: bool = False) -> Callable[[Function], Function]:
    """Register a loss under a name, as a decorator.

    Args:
        name: how configs call it.
        overwrite: allow to replace a loss of that name.

    Raises:
        TypeError: the name is not a string, or what is decorated is a class or not callable.
        ValueError: the name is empty or taken.

    Example:
        >>> @register("doctest_loss", overwrite=True)
        ... def doctest_loss(model_outputs, batch, *, scale=1.0):
        ...     return scale * model_outputs["x"].sum()
        >>> create_composite_loss("doctest_loss").component_names
        ['doctest_loss']
        >>> del LOSS_REGISTRY["doctest_loss"]
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, got {type(name).__name__}")
    if not name:
        raise ValueError("name must not be empty")
    if name in LOSS_REGISTRY and not overwrite:
        raise ValueError(f"name {name!r} is taken; pass overwrite=True to replace that loss")

    def decorate(function: Function) -> Function:
        if not callable(function) or isinstance(function, type):
            raise TypeError(f"a loss must be a function or a callable object, got {function!r}")
        LOSS_REGISTRY[name] = function
        return function

    return decorate


def create_composite_loss(config: object) -> CompositeLoss:
    """Make a `CompositeLoss` from a config.

    Forms:

        "nll_loss"
        {"losses": ["nll_loss", "concordance_loss_nce"], "weights": [1.0, 0.1]}
        {"losses": [{"name": "concordance_loss_nce", "weight": 0.1, "tau": 0.5}, ...]}
        {"losses": [{"losses": [...], "weight": 0.5}, ...]}

    Weights default to 1; the last form is a composite in a composite. Beside them "component_names" and
    "return_components", as in `CompositeLoss`. Any mapping will do, e.g. parsed YAML, JSON or TOML, or an
    OmegaConf node. `CompositeLoss.to_config` is the way back.

    Raises:
        TypeError: an entry has the wrong type, or holds something callable.
        ValueError: an unknown loss, option or key (the message lists the known ones and the nearest),
            weights given twice, and what `CompositeLoss` refuses.

    Example:
        >>> entry = {"name": "concordance_loss_nce", "weight": 0.1, "tau": 0.5}
        >>> loss = create_composite_loss({"losses": [entry]})
        >>> loss.to_config()["losses"]
        [{'name': 'concordance_loss_nce', 'tau': 0.5, 'weight': 0.1}]
        >>> create_composite_loss("nll_los")
        Traceback (most recent call last):
        ValueError: unknown loss 'nll_los'; known: ...; did you mean 'nll_loss'?
    """
    if isinstance(config, str):
        return CompositeLoss([_component({"name": config})], [1.0])
    if not isinstance(config, Mapping):
        raise TypeError(f"config must be a name or a mapping, got {type(config).__name__}")
    for key in config:
        if key not in _TOP_KEYS:
            raise ValueError(f"unknown key {key!r} in config; {checks.nearest(key, _TOP_KEYS)}")
    if "losses" not in config:
        raise ValueError("config must have the key 'losses', a list of names or mappings")
    entries = [_entry(k, value) for k, value in enumerate(_sequence("losses", config["losses"]))]
    return CompositeLoss(
        [_component(entry) for entry in entries],
        _weights(config, entries),
        _names(config),
        _flag("return_components", config.get("return_components", False)),
    )


def _sequence(name: str, value: object) -> list[Any]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return list(value)
    raise TypeError(f"config[{name!r}] must be a list, got {type(value).__name__}")


def _flag(name: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise TypeError(f"config[{name!r}] must be true or false, got {type(value).__name__}")


def _names(config: Mapping[str, Any]) -> list[str] | None:
    names = config.get("component_names")
    return None if names is None else _sequence("component_names", names)


def _entry(k: int, value: object) -> dict[str, Any]:
    """One entry of "losses" as a plain dict with "name" or "losses"."""
    if isinstance(value, str):
        return {"name": value}
    if not isinstance(value, Mapping):
        raise TypeError(f"config['losses'][{k}] must be a name or a mapping, got {type(value).__name__}")
    if ("name" in value) == ("losses" in value):
        raise ValueError(
            f"config['losses'][{k}] must have either 'name' or 'losses', got {sorted(map(str, value))}"
        )
    return {str(key): _data(f"config['losses'][{k}][{key!r}]", entry) for key, entry in value.items()}


def _weights(config: Mapping[str, Any], entries: list[dict[str, Any]]) -> list[Any]:
    """The weights, from the list or from the entries, taken out of these."""
    own = ["weight" in entry for entry in entries]
    if config.get("weights") is None:
        return [entry.pop("weight", 1.0) for entry in entries]
    if any(own):
        raise ValueError(
            "weights must be given once: as config['weights'] or as 'weight' of each loss, not both"
        )
    return _sequence("weights", config["weights"])


def _component(entry: dict[str, Any]) -> CompositeLoss | LossComponent:
    """The loss of one entry, its name and options checked."""
    options = {key: value for key, value in entry.items() if key != "weight"}
    if "losses" in options:
        return create_composite_loss(options)
    name = options.pop("name")
    if not isinstance(name, str):
        raise TypeError(f"the name of a loss must be a string, got {type(name).__name__}")
    if name not in LOSS_REGISTRY:
        raise ValueError(f"unknown loss {name!r}; {checks.nearest(name, LOSS_REGISTRY)}")
    function = LOSS_REGISTRY[name]
    _check_options(name, function, options)
    return LossComponent(function, options, name)


def _check_options(name: str, function: Callable[..., Any], options: dict[str, Any]) -> None:
    """Refuse options that the loss does not have, at construction."""
    parameters = list(inspect.signature(function).parameters.values())[2:]
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    known = [p.name for p in parameters if p.kind in {p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD}]
    for option in options:
        if option not in known:
            raise ValueError(
                f"loss {name!r} has no option {option!r}; {checks.nearest(option, [*known, 'weight'])}"
            )


def _data(path: str, value: Any) -> Any:
    """Copy nested mappings and sequences into plain dicts and lists; refuse what is not data."""
    if isinstance(value, Mapping):
        return {str(key): _data(f"{path}[{key!r}]", entry) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_data(f"{path}[{k}]", entry) for k, entry in enumerate(value)]
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise TypeError(f"{path} must be data (text, number, true/false, null, list, mapping), got {value!r}")
