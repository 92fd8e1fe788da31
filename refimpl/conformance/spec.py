"""What a loss is, as data: how to call it, what is exact, how large an error its bound allows."""

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from hypothesis import strategies as st

from refimpl.bounds.precision import Bound, precision
from refimpl.conformance.batch import Array, Batch
from refimpl.conformance.formats import FORMATS, Format

__all__ = ["Changed", "Demand", "Gradients", "Invariance", "LossSpec", "Refusal"]

Strategy: TypeAlias = Callable[[str, Format], st.SearchStrategy[Batch]]
Gradients: TypeAlias = dict[str, Any]

EVERY = tuple(FORMATS)
# families in which no kink and no edge lies near
SMOOTH = ("ordinary", "column parameters", "heavy tails", "integer counts")


@dataclass(frozen=True)
class Refusal:
    """A wrong call and what it must raise.

    Attributes:
        call: source text; `target` and `torch` are known to it.
        error: the exception that is right.
        mentions: texts that the message must contain.
    """

    call: str
    error: type[Exception]
    mentions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Demand:
    """Two expressions over the names of `demands.SETUP` and `target`, which must be equal."""

    call: str
    equals: str


@dataclass(frozen=True)
class Invariance:
    """A change of the input after which value and gradient are known from those before.

    The change is exact in floating point, so that both exact values obey the relation to the last bit and
    the two computed ones may differ by the sum of their bounds.

    Attributes:
        name: "permutation", "shift", "scale", "swap", "duplication", "concatenation", "complement" or your
            own; "blocks" makes a batch so large that work done in pieces has seams, the oracle judges it.
        holds: the relation, as a formula.
        change: the changed batch, made with the generator's random numbers; None where it cannot be exact
            or does not apply to this batch.
    """

    name: str
    holds: str
    change: Callable[[Batch, np.random.Generator], "Changed | None"]


def _unchanged(*values: Array) -> Array:
    return values[0]


@dataclass(frozen=True)
class Changed:
    """A changed batch and how its answer follows from others.

    `value` and `gradient` are affine and monotone in every single number (each result weighs one number with
    coefficients of one sign only), so that they carry errors as well: the image of the bounds, less the
    image of zero, is the bound of the image.

    Attributes:
        batch: the changed batch.
        value: maps the values of the parts (long double arrays, in their order) to that of the changed batch.
        gradient: maps (path, gradients of the parts by path) to the gradient of the changed batch at this
            path; None where it is not known. No gradient is compared where this is None itself.
        parts: the batches whose answers count; the original alone if empty.
        loss: the loss that is asked about the changed batch; the same one if empty.
    """

    batch: Batch
    value: Callable[..., Array] = _unchanged
    gradient: Callable[..., Array | None] | None = None
    parts: tuple[Batch, ...] = ()
    loss: str = ""


@dataclass(frozen=True, kw_only=True)
class LossSpec:
    """One loss, declared once: suite, command line, benchmarks and tables read it from here.

    Attributes:
        name: its name in the target.
        signature: parameters with their defaults, such as "(x, y, *, reduction='mean')". Those without a
            default are the arrays of a batch, in its order; those with one are its options.
        domain: for which inputs it is defined, in words.
        oracle: exact value; called with the arrays and options of a batch, float64 in and out.
        oracle_gradient: exact gradient of the sum of all results: a tuple with an array (or nested dict)
            for every differentiable argument.
        bounds: largest errors; called like the oracle and with `precision=`, gives a `refimpl.bounds.Bound`.
        strategy: draws batches of a family in a format.
        families: the hazards tried, from the simplest on.
        differentiable: arguments that the gradient oracle answers for, in its order.
        room: the file that holds the loss in every wing; empty for a loss from outside.
        call: source text of the call, `target` is the module under test; made from the signature if empty.
        module: the `nn.Module` of the same loss, where there is one.
        smooth: families on which it has a second derivative everywhere.
        second_derivative: exact derivative of the gradient along a direction, (batch, direction by path) ->
            arrays by path; where there is none, differences of the gradient oracle stand in.
        invariances: what changes of the input do not change.
        reductions: values of the option `reduction`, empty where it has none.
        inert: paths of arrays inside the arguments that the value does not depend on.
        elementwise: whether the result always has one element per input element.
        dtypes: names of the formats tried.
        refusals: calls that must be refused.
        demands: calls that must give what others give.
    """

    name: str
    signature: str
    domain: str
    oracle: Callable[..., Any]
    oracle_gradient: Callable[..., Any]
    bounds: Callable[..., Bound]
    strategy: Strategy
    families: tuple[str, ...]
    differentiable: tuple[str, ...]
    room: str = ""
    call: str = ""
    module: str = ""
    smooth: tuple[str, ...] = SMOOTH
    second_derivative: Callable[[Batch, Mapping[str, Array]], Mapping[str, Array]] | None = None
    invariances: tuple[Invariance, ...] = ()
    inert: tuple[str, ...] = ()
    elementwise: bool = False
    dtypes: tuple[str, ...] = EVERY
    refusals: tuple[Refusal, ...] = field(default=(), repr=False)
    demands: tuple[Demand, ...] = field(default=(), repr=False)
    reductions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a spec that cannot be run."""
        if not self.name.isidentifier():
            raise ValueError(f"name must be an identifier, got {self.name!r}")
        if not self.families:
            raise ValueError(f"{self.name}: families is empty, at least one family is needed")
        unknown = [name for name in self.dtypes if name not in FORMATS]
        if unknown or not self.dtypes:
            raise ValueError(f"{self.name}: dtypes must be some of {', '.join(FORMATS)}, got {self.dtypes}")
        try:
            _ = self.parameters
        except (SyntaxError, ValueError) as error:
            raise ValueError(f"{self.name}: signature {self.signature!r} is no list of parameters") from error
        strange = [name for name in self.differentiable if not self.call and name not in self.parameters]
        if strange:
            raise ValueError(f"{self.name}: differentiable names {strange}, not in {self.signature}")

    @cached_property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """The parsed signature."""
        scope: dict[str, Any] = {}
        exec(f"def parsed{self.signature}: ...", scope)  # noqa: S102 - the text is part of the declaration
        return inspect.signature(scope["parsed"]).parameters

    @property
    def defaults(self) -> dict[str, Any]:
        """The options and their defaults."""
        return {
            name: parameter.default
            for name, parameter in self.parameters.items()
            if parameter.default is not inspect.Parameter.empty
        }

    def call_text(self, left_out: Collection[str] = ()) -> str:
        """Source text of the call without the options that a target does not offer.

        Example:
            >>> from refimpl.conformance.catalogue import CATALOGUE
            >>> CATALOGUE["masked_mse"].call_text()
            'target.masked_mse(x_recon, x, mask, reduction=reduction)'
            >>> CATALOGUE["masked_mse"].call_text({"reduction"})
            'target.masked_mse(x_recon, x, mask)'
        """
        if self.call:
            return self.call
        defaults = self.defaults
        words = [name for name in self.parameters if name not in defaults]
        words += [f"{name}={name}" for name in defaults if name not in left_out]
        return f"target.{self.name}({', '.join(words)})"

    def value(self, batch: Batch) -> Any:
        """The exact value, a float or an array."""
        return self.oracle(*batch.arguments.values(), **batch.options)

    def gradient(self, batch: Batch) -> Gradients:
        """The exact gradient of the sum of all results, by argument."""
        return self._named(self.oracle_gradient(*batch.arguments.values(), **batch.options))

    def bound(self, batch: Batch) -> tuple[Any, Gradients]:
        """The largest errors allowed: of the value, and of the gradient by argument."""
        held = precision(batch.form.name)
        found = self.bounds(*batch.arguments.values(), **batch.options, precision=held)
        return found.value, self._named(found.gradient)

    def _named(self, gradient: Any) -> Gradients:
        parts = gradient if isinstance(gradient, tuple) else (gradient,)
        return dict(zip(self.differentiable, parts, strict=True)) if parts else {}

    def result_is_elementwise(self, options: Mapping[str, Any]) -> bool:
        """Whether this call gives one number per element (or row) instead of a scalar."""
        return self.elementwise or options.get("reduction") == "none"
