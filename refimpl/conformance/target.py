"""The implementation under test: where its functions are, which options they offer, how they are called."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from refimpl.conformance.batch import Batch, leaves
from refimpl.conformance.outcome import Outcome
from refimpl.conformance.spec import LossSpec

if TYPE_CHECKING:
    from refimpl.conformance.adapters import Adapter

__all__ = ["Subject", "Target", "has_gradient", "parse_map"]


def parse_map(entries: Sequence[str]) -> dict[str, str]:
    """`["masked_mse=my.pkg:fn"]` as {"masked_mse": "my.pkg:fn"}.

    Raises:
        ValueError: an entry is not of the form LOSS=MODULE:FUNCTION.

    Example:
        >>> parse_map(["masked_mse=my.pkg:fn"])
        {'masked_mse': 'my.pkg:fn'}
    """
    found = {}
    for entry in entries:
        loss, separator, place = entry.partition("=")
        module, colon, function = place.partition(":")
        if not (separator and colon and loss and module and function):
            raise ValueError(f"map entry {entry!r} is not of the form LOSS=MODULE:FUNCTION")
        found[loss] = place
    return found


class Target:
    """Somebody's losses under the contract's names: `target.masked_mse` is their function.

    Args:
        source: a module or any object with the losses as attributes; None where all are mapped.
        mapping: loss -> "module:function" for those that live elsewhere or have another name.
        name: importable name of `source` for messages and snippets.

    Raises:
        ImportError: a mapped module cannot be imported.
        AttributeError: a mapped module lacks the function.

    Example:
        >>> Target(None, {"masked_mse": "torch.nn.functional:mse_loss"}).masked_mse.__name__
        'mse_loss'
    """

    def __init__(self, source: Any, mapping: Mapping[str, str] | None = None, name: str = "") -> None:
        self.source = source
        self.mapping = MappingProxyType(dict(mapping or {}))
        self.name = name or getattr(source, "__name__", type(source).__name__)
        self._mapped = {loss: _imported(place) for loss, place in self.mapping.items()}

    def __getattr__(self, name: str) -> Any:
        if name in self.__dict__.get("_mapped", {}):
            return self._mapped[name]
        # `<loss>_gradient` of a mapped loss stands beside it
        loss = name.removesuffix("_gradient")
        if loss != name and loss in self.__dict__.get("_mapped", {}):
            return _imported(f"{self.mapping[loss]}_gradient")
        return getattr(self.source, name)

    def has(self, loss: str) -> bool:
        """Whether the target has something under this name."""
        return hasattr(self, loss)

    def place(self, loss: str) -> tuple[str, str]:
        """Module and function name of a loss, for a snippet."""
        module, _, function = self.mapping.get(loss, f"{self.name}:{loss}").partition(":")
        return module, function


def _imported(place: str) -> Any:
    module, _, path = place.partition(":")
    found: Any = import_module(module)
    for name in path.split("."):
        found = getattr(found, name)
    return found


def has_gradient(spec: LossSpec, path: str, array: Any) -> bool:
    """Whether the value depends smoothly on the array at this path."""
    root = path.split(".", 1)[0]
    return root in spec.differentiable and path not in spec.inert and array.dtype == "float64"


@dataclass(frozen=True)
class Subject:
    """One loss of a target, as an adapter calls it."""

    target: Target
    spec: LossSpec
    adapter: "Adapter"

    @cached_property
    def left_out(self) -> tuple[str, ...]:
        """Options of the contract that the function does not take: they are judged at their default."""
        return tuple(name for name in self.spec.defaults if not self.takes(name))

    def takes(self, keyword: str) -> bool:
        """Whether the function has this keyword, as far as its signature tells."""
        try:
            parameters = inspect.signature(getattr(self.target, self.spec.name)).parameters.values()
        except (AttributeError, TypeError, ValueError):
            return True
        kinds = inspect.Parameter
        return any(
            parameter.kind is kinds.VAR_KEYWORD
            or (parameter.name == keyword and parameter.kind is not kinds.POSITIONAL_ONLY)
            for parameter in parameters
        )

    @property
    def text(self) -> str:
        """Source text of the call."""
        return self.spec.call_text(self.left_out)

    def settled(self, batch: Batch) -> Batch:
        """The batch with a value for every option; the default where the target takes no other."""
        defaults = self.spec.defaults
        asked = {name: value for name, value in batch.options.items() if name not in self.left_out}
        needed = defaults if not self.spec.call else {}
        return batch.with_options({**needed, **asked})

    def function(self, batch: Batch, suffix: str = "", **more: Any) -> Callable[..., Any]:
        """The call as a function of the batch's arguments; `suffix` names a companion such as "_gradient"."""
        head, _, rest = self.text.partition("(")
        text = f"{head}{suffix}({rest}"
        if more:
            text = text[:-1] + "".join(f", {key}={key}" for key in more) + ")"
        names = tuple(batch.arguments)
        scope = {"target": self.target, **self.adapter.scope(), **batch.options, **more}

        def evaluate(*given: Any) -> Any:
            # the text is the spec's own; it is evaluated so that reports can print what was run
            return eval(text, {**scope, **dict(zip(names, given, strict=True))})  # noqa: S307

        return evaluate

    def wanted(self, batch: Batch, only: str = "") -> tuple[str, ...]:
        """Paths of the arrays to differentiate, or the one of them that is asked for."""
        paths = (
            path for path, array in leaves(dict(batch.arguments)) if has_gradient(self.spec, path, array)
        )
        return tuple(path for path in paths if only in {"", path})

    def execute(self, batch: Batch, *, cotangent: float = 1.0, only: str = "") -> Outcome:
        """Call the target on a batch and differentiate the sum of what it returns, times `cotangent`."""
        try:
            return self.adapter.evaluate(self, batch, cotangent=cotangent, only=only)
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 - whatever a target raises
            return Outcome(error=raised(error))


def raised(error: BaseException) -> str:
    """One line for an exception.

    Example:
        >>> raised(ValueError("no such thing"))
        'raised ValueError: no such thing'
    """
    return f"raised {type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"
