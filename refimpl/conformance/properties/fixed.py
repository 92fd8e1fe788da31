"""Calls that need no drawn batch: those to refuse, and those that must equal another."""

import ast
from collections.abc import Iterator
from typing import Any

import torch

from refimpl.conformance.demands import SETUP
from refimpl.conformance.formats import Format
from refimpl.conformance.properties.base import Fixed
from refimpl.conformance.spec import Demand, Refusal
from refimpl.conformance.target import Subject, raised

__all__ = ["option", "refusal"]


def refusal(subject: Subject, _form: Format, _seed: int) -> Iterator[Fixed]:
    """Every wrong call of the spec raises what is right, with a message that says what came."""
    for wrong in subject.spec.refusals:
        if _offered(subject, wrong.call):
            message = _accepted(subject, wrong)
            if message:
                yield _fixed(subject, message, "import torch\n", wrong.call)


def option(subject: Subject, _form: Format, _seed: int) -> Iterator[Fixed]:
    """Every demand of the spec is met."""
    for demand in subject.spec.demands:
        if _offered(subject, demand.call) and _offered(subject, demand.equals):
            message = _unmet(subject, demand)
            if message:
                yield _fixed(subject, message, SETUP, f"print({demand.call}, {demand.equals})")


def _offered(subject: Subject, text: str) -> bool:
    """Whether the target takes the options that the call uses; with fewer it is judged without the call."""
    required = sum(name not in subject.spec.defaults for name in subject.spec.parameters)
    for node in ast.walk(ast.parse(text, mode="eval")):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == f"target.{subject.spec.name}":
            keywords = {keyword.arg for keyword in node.keywords}
            if keywords & {*subject.left_out} or (subject.left_out and len(node.args) > required):
                return False
            if "validate" in keywords and not subject.takes("validate"):
                return False
    return True


def _fixed(subject: Subject, message: str, setup: str, call: str) -> Fixed:
    comment = " ".join(message.split())
    module, function = subject.target.place(subject.spec.name)
    call = call.replace(f"target.{subject.spec.name}(", f"target.{function}(")
    return Fixed(message, f"# {comment}\n{setup}import {module} as target\n\n{call}\n")


def _accepted(subject: Subject, wrong: Refusal) -> str:
    """What is wrong with the way the target takes a wrong call; nothing if it refuses as it should."""
    try:
        eval(wrong.call, {"target": subject.target, "torch": torch})  # noqa: S307 - a constant of the spec
    except wrong.error as error:
        missing = [text for text in wrong.mentions if text not in str(error)]
        return f"{wrong.call} raised {error!r}, which does not mention {missing[0]!r}" if missing else ""
    except Exception as error:  # noqa: BLE001 - any other exception is the finding
        return f"{wrong.call} raised {type(error).__name__}, not {wrong.error.__name__}"
    return f"{wrong.call} was accepted, {wrong.error.__name__} is right"


def _unmet(subject: Subject, demand: Demand) -> str:
    """What is wrong with the way the target meets a demand; nothing if it does."""
    scope: dict[str, Any] = {"target": subject.target}
    exec(SETUP, scope)  # noqa: S102 - a constant of the package
    try:
        found, right = (eval(text, scope) for text in (demand.call, demand.equals))  # noqa: S307 - constants
    except Exception as error:  # noqa: BLE001 - whatever a foreign implementation raises is the finding
        return f"{demand.call} {raised(error)}"
    both = isinstance(found, torch.Tensor) and isinstance(right, torch.Tensor)
    if torch.equal(found, right) if both else found == right:
        return ""
    return f"{demand.call} is {found}, {right} = {demand.equals} is right"
