"""From raw outputs and batches to tensors of one shape: look-up by path, (B,1)/(B,) alignment, options."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from torch import Tensor

from torchimpl import checks

P = ParamSpec("P")
R = TypeVar("R")


def lookup(root: str, mapping: object, *keys: str) -> Any:
    """Return `mapping[key][key]...`, or say which step failed.

    Args:
        root: the argument's name, for the message.
        mapping: nested mappings.
        *keys: the path.

    Raises:
        TypeError: a step is not a mapping.
        KeyError: a key is missing; the message names the path and the keys present.

    Example:
        >>> lookup("batch", {"r1": {"reads": 3}}, "r1", "reads")
        3
        >>> lookup("batch", {"r1": {"counts": 3}}, "r1", "reads")
        Traceback (most recent call last):
        KeyError: "batch['r1']['reads'] is missing; keys present: 'counts'"
    """
    path, value = root, mapping
    for key in keys:
        if not isinstance(value, Mapping):
            raise TypeError(f"{path} must be a mapping, got {type(value).__name__}")
        path += f"[{key!r}]"
        if key not in value:
            present = ", ".join(repr(known) for known in value) or "none"
            raise KeyError(f"{path} is missing; keys present: {present}")
        value = value[key]
    return value


def align(name: str, value: Tensor, like_name: str, like: Tensor) -> Tensor:
    """Give `value` the shape of `like` where both plainly describe the same batch.

    (B, 1) and (B,) are reshaped into each other, a 0-dim value is expanded; nothing else is broadcast.

    Raises:
        ValueError: any other difference; the message names both shapes.

    Example:
        >>> import torch
        >>> align("mu", torch.zeros(3, 1), "reads", torch.zeros(3)).shape
        torch.Size([3])
        >>> align("mu", torch.zeros(1, 3), "reads", torch.zeros(3))
        Traceback (most recent call last):
        ValueError: mu and reads must have the same shape, got (1, 3) and (3,)
    """
    if value.dim() == 0:
        return value.expand(like.shape)
    columns = {value.dim(), like.dim()} == {1, 2} and value.shape[0] == like.shape[0]
    if columns and value.numel() == like.numel():
        return value.reshape(like.shape)
    checks.same_shape(name, value, like_name, like)
    return value


def aligned(
    model_outputs: object, batch: object, replicate: str | None, parameters: tuple[str, ...]
) -> tuple[Tensor, ...]:
    """Look up the reads and the named parameters of one replicate, all in the shape of the reads.

    Args:
        model_outputs: {'r1': {'mu', 'r'}, 'r2': ...}, or {'mu', 'r'} for `replicate=None`.
        batch: {'r1': {'reads'}, 'r2': ...}, or {'reads'} for `replicate=None`.
        replicate: "r1", "r2", or None where the mappings are one replicate already.
        parameters: which parameters, e.g. ("mu", "r").

    Returns:
        (reads, *parameters).

    Raises:
        KeyError, TypeError: something is missing or is not a tensor; the message names its path.
        ValueError: shapes that are not the same batch.

    Example:
        >>> import torch
        >>> outputs, batch = {"mu": torch.ones(2, 1)}, {"reads": torch.tensor([3, 4])}
        >>> aligned(outputs, batch, None, ("mu",))
        (tensor([3, 4]), tensor([1., 1.]))
    """
    prefix = () if replicate is None else (replicate,)
    reads_path = "batch" + "".join(f"[{key!r}]" for key in (*prefix, "reads"))
    reads = checks.require_tensor(reads_path, lookup("batch", batch, *prefix, "reads"))
    found = [reads]
    for parameter in parameters:
        path = "model_outputs" + "".join(f"[{key!r}]" for key in (*prefix, parameter))
        value = checks.require_tensor(path, lookup("model_outputs", model_outputs, *prefix, parameter))
        found.append(align(path, value, reads_path, reads))
    return tuple(found)


def options_checked(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a dict wrapper: an unknown option raises `TypeError` that lists the known ones.

    Example:
        >>> @options_checked
        ... def wrapper(model_outputs, batch, *, tau=0.1):
        ...     return tau
        >>> wrapper({}, {}, tua=1.0)
        Traceback (most recent call last):
        TypeError: wrapper has no option 'tua'; known: 'tau'; did you mean 'tau'?
    """
    parameters = inspect.signature(function).parameters
    allowed = frozenset(name for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY)
    accepted = frozenset(parameters)
    own_name = getattr(function, "__name__", "this loss")

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for option in kwargs:
            if option not in accepted:
                raise TypeError(f"{own_name} has no option {option!r}; {checks.nearest(option, allowed)}")
        return function(*args, **kwargs)

    return checked
