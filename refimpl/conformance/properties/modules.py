"""The `nn.Module` of a loss: the function with its options, and nothing that a copy or a cast could lose."""

import copy
import operator
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import hypothesis
import torch
from hypothesis import HealthCheck, Phase, given, settings

from refimpl.conformance.adapters.torch import TorchAdapter, outcome
from refimpl.conformance.batch import Batch
from refimpl.conformance.formats import Format
from refimpl.conformance.outcome import Outcome, same
from refimpl.conformance.properties.base import Fixed, Property
from refimpl.conformance.properties.judge import brief
from refimpl.conformance.snippet import snippet
from refimpl.conformance.spec import SMOOTH, LossSpec
from refimpl.conformance.target import Subject, raised

__all__ = ["MODULE", "first_value", "second_value"]

EXAMPLES = 6
COMPOSITE = "CompositeLoss"
WEIGHTS = (0.1, 3.0)  # 0.1 is another number in every dtype

# what may happen to a module between its construction and its call, as it is written in a snippet
CHANGES: Mapping[str, Callable[[torch.nn.Module], torch.nn.Module]] = {
    "module": lambda module: module,
    "copy.deepcopy(module)": copy.deepcopy,
    "pickle.loads(pickle.dumps(module))": lambda module: pickle.loads(pickle.dumps(module)),  # noqa: S301 - its own
    "copy.deepcopy(module).half()": lambda module: copy.deepcopy(module).half(),
    "copy.deepcopy(module).double()": lambda module: copy.deepcopy(module).double(),
    "copy.deepcopy(module).to(torch.bfloat16)": lambda module: copy.deepcopy(module).to(torch.bfloat16),
    "copy.deepcopy(module).eval()": lambda module: copy.deepcopy(module).eval(),
    "copy.deepcopy(module).train()": lambda module: copy.deepcopy(module).train(),
}


def first_value(model_outputs: Mapping[str, Any], _batch: object) -> Any:
    """A component of the composite under test that can be pickled.

    Example:
        >>> first_value({"values": [1, 2]}, {})
        1
    """
    return model_outputs["values"][0]


def second_value(model_outputs: Mapping[str, Any], _batch: object) -> Any:
    """Another one.

    Example:
        >>> second_value({"values": [1, 2]}, {})
        2
    """
    return model_outputs["values"][1]


def module(subject: Subject, form: Format, seed: int) -> Iterator[Fixed]:
    """Whatever is wrong with the module; nothing where the target has none."""
    if subject.spec.name == COMPOSITE:
        yield from _composite(subject)
    elif subject.target.has(subject.spec.module):
        yield from _module(subject, form, seed)


def _module(subject: Subject, form: Format, seed: int) -> Iterator[Fixed]:
    kind = getattr(subject.target, subject.spec.module)
    batches = [subject.settled(batch) for batch in _drawn(subject.spec, form, seed)]
    # without options, then once for every choice of options
    asked: list[tuple[Batch, dict[str, Any]]] = [
        (batches[-1].with_options(subject.settled(batches[-1].with_options({})).options), {})
    ]
    asked += [(batch, dict(batch.options)) for batch in batches]
    for batch, options in asked:
        message, change = _differs(subject, kind, batch, options)
        if message:
            yield _fixed(subject, batch, options, message, change)
            return


def _drawn(spec: LossSpec, form: Format, seed: int) -> list[Batch]:
    """A few batches of the plainest family, one for every choice of options."""
    family = next((name for name in SMOOTH if name in spec.families), spec.families[0])
    found: list[Batch] = []

    @hypothesis.seed(seed)
    @settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(spec.strategy(family, form))
    def keep(batch: Batch) -> None:
        found.append(batch)

    keep()
    return found


def _differs(subject: Subject, kind: Any, batch: Batch, options: Mapping[str, Any]) -> tuple[str, str]:
    """What is wrong, and which change of the module shows it."""
    right, again = subject.execute(batch), subject.execute(batch)
    if right.value is None or not same(right, again):  # other properties say so
        return "", ""
    written = f"{subject.spec.module}({', '.join(f'{name}={value!r}' for name, value in options.items())})"
    try:
        made = kind(**options)
        repr(made)
    except Exception as error:  # noqa: BLE001 - whatever a foreign implementation raises is the finding
        return f"{written} {raised(error)}", "module"
    if not isinstance(made, torch.nn.Module):
        return f"{written} is a {type(made).__name__}, not a torch.nn.Module", "module"
    if list(made.parameters()):
        return f"{written} has parameters; an optimizer would change the loss", "module"
    message, change = _changed(subject, made, batch, right)
    if message:
        return f"{written}: {message}", change
    return _restored(subject, kind, made, batch, options, right)


def _changed(subject: Subject, made: torch.nn.Module, batch: Batch, right: Outcome) -> tuple[str, str]:
    """Call the module, and what copies and casts make of it; the module itself once more at the end."""
    for change in (*CHANGES, "module"):
        if "pickle" in change and not _importable(type(made)):
            continue
        try:
            answer = _answer(subject, CHANGES[change](made), batch)
        except Exception as error:  # noqa: BLE001 - as above
            return f"{change} {raised(error)}", change
        if not same(right, answer):
            return f"{change} gives {_brief(answer)}, the function {_brief(right)}", change
    return "", ""


def _restored(
    subject: Subject,
    kind: Any,
    made: torch.nn.Module,
    batch: Batch,
    options: Mapping[str, Any],
    right: Outcome,
) -> tuple[str, str]:
    """A new module with the state of the old one."""
    change = f"{subject.spec.module}(...).load_state_dict(module.state_dict())"
    try:
        other = kind(**options)
        other.load_state_dict(made.state_dict())
        answer = _answer(subject, other, batch)
    except Exception as error:  # noqa: BLE001 - as above
        return f"{change} {raised(error)}", "module"
    return ("", "") if same(right, answer) else (f"after {change} it gives {_brief(answer)}", "module")


def _answer(subject: Subject, made: torch.nn.Module, batch: Batch) -> Outcome:
    assert isinstance(subject.adapter, TorchAdapter)
    arguments, wanted = subject.adapter.tensors(subject, batch)
    return outcome(made(*arguments.values()), wanted)


def _brief(answer: Outcome) -> str:
    assert answer.value is not None
    gradients = (brief(part) for part in answer.gradients.values() if part is not None)
    return f"{brief(answer.value)} with gradients {', '.join(gradients)}"


def _importable(kind: type) -> bool:
    """Whether pickle finds the class by its name; a class made on the fly cannot help it."""
    try:
        return operator.attrgetter(kind.__qualname__)(sys.modules[kind.__module__]) is kind
    except (KeyError, AttributeError):
        return False


def _fixed(subject: Subject, batch: Batch, options: Mapping[str, Any], message: str, change: str) -> Fixed:
    call = f"({', '.join(batch.arguments)})"
    given_options = ", ".join(f"{name}={value!r}" for name, value in options.items())
    lines = [
        "import copy, pickle",
        f"module = target.{subject.spec.module}({given_options})",
        f'print("module", {change}{call})',
    ]
    return Fixed(message, snippet(subject, batch, message) + "\n".join(lines) + "\n", batch)


def _composite(subject: Subject) -> Iterator[Fixed]:
    """The weights are state; a cast leaves them what they are."""
    message = _composite_message(getattr(subject.target, subject.spec.name))
    if message:
        place, name = subject.target.place(subject.spec.name)
        lines = [
            f"# {' '.join(message.split())}",
            "import copy, pickle",
            "import torch",
            f"import {place} as target",
            "from refimpl.conformance.properties.modules import first_value, second_value",
            "",
            f"module = target.{name}([first_value, second_value], {list(WEIGHTS)})",
            "print(module.state_dict())",
        ]
        yield Fixed(message, "\n".join(lines) + "\n")


def _composite_message(kind: Any) -> str:
    components, outputs = [first_value, second_value], {"values": torch.tensor([1.0, 1.0])}
    doing = f"{COMPOSITE}([first_value, second_value], {list(WEIGHTS)})"
    try:
        made = kind(components, list(WEIGHTS))
        if not isinstance(made, torch.nn.Module):
            return f"{COMPOSITE} is no torch.nn.Module"
        right = made(outputs, {})
        if list(made.parameters()):
            return f"{doing} has parameters; an optimizer would change the weights"
        for change, apply in CHANGES.items():
            doing = change
            if "pickle" in change and not _importable(type(made)):
                continue
            answer = apply(made)(outputs, {})
            if not torch.equal(answer, right):
                return f"{change} gives {answer}, {right} is right"
        doing = "load_state_dict"
        other = kind(components, [1.0, 1.0])
        other.load_state_dict(made.state_dict())
        if not torch.equal(other(outputs, {}), right):
            return "the weights are not in state_dict: loaded into another composite they do not arrive"
        doing = "a module as component"
        part = torch.nn.Identity()
        if all(found is not part for found in kind([part], [1.0]).modules()):
            return "a component that is a module is not registered: .to(device) does not reach it"
    except Exception as error:  # noqa: BLE001 - whatever a foreign implementation raises is the finding
        return f"{doing} {raised(error)}"
    return ""


def _applies(spec: LossSpec) -> bool:
    return bool(spec.module) or spec.name == COMPOSITE


MODULE = Property(
    "module",
    "the module is the function: with its options, as a copy, unpickled, cast and restored",
    "fixed",
    module,
    frozenset({"torch"}),
    ("float32",),
    _applies,
)
