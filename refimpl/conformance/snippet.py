"""A failing call as a piece of Python to paste into a terminal."""

import numpy as np

from refimpl.conformance.batch import Array, Batch, Tree, leaves
from refimpl.conformance.target import Subject

__all__ = ["snippet"]


def snippet(subject: Subject, batch: Batch, message: str) -> str:
    """Source text that makes the call and prints value and gradients.

    Args:
        subject: the loss of the target, as the adapter calls it.
        batch: its input, written out in full.
        message: what is wrong; becomes a comment.
    """
    comment = " ".join(message.split())
    framework = subject.adapter.name
    lines = [f"# {subject.spec.name}, {batch.form.name}, {batch.family}: {comment}"]
    lines += ["import numpy as np" if framework == "numpy" else f"import {framework}"]
    lines += ["from math import inf, nan"] if _has_special(batch) else []
    if "distribution(" in subject.text:
        lines.append("from refimpl.conformance.adapters.torch import distribution")
    if batch.layout == "vmap":
        lines.append("from refimpl.conformance.adapters.torch import vmapped")
    module, function = subject.target.place(subject.spec.name)
    lines += [f"import {module} as target", ""]
    wanted: list[str] = []
    for name, tree in batch.arguments.items():
        lines.append(f"{name} = {_literal(subject, batch, name, tree, wanted)}")
    lines += [f"{name} = {value!r}" for name, value in batch.options.items()]
    call = subject.text.replace(f"target.{subject.spec.name}(", f"target.{function}(")
    names = ", ".join(batch.arguments)
    called = f"vmapped(lambda {names}: {call}, {names})" if batch.layout == "vmap" else call
    lines += [f"value = {called}", 'print("value", value.tolist())']
    lines += _gradients(subject, call, wanted)
    return "\n".join(lines) + "\n"


def _gradients(subject: Subject, call: str, wanted: list[str]) -> list[str]:
    if subject.adapter.name == "torch" and wanted:
        shown = [f'print("gradient of {path.replace(chr(34), chr(39))}", {path}.grad)' for path in wanted]
        return ["value.sum().backward()", *shown]
    if subject.adapter.name == "numpy" and subject.target.has(f"{subject.spec.name}_gradient"):
        return [f'print("gradient", {call.replace("(", "_gradient(", 1)})']
    return []


def _has_special(batch: Batch) -> bool:
    return any(not np.all(np.isfinite(array)) for _, array in leaves(dict(batch.arguments))) or any(
        value in {np.inf, -np.inf} for value in batch.options.values() if isinstance(value, float)
    )


def _literal(subject: Subject, batch: Batch, path: str, tree: Tree, wanted: list[str]) -> str:
    if isinstance(tree, dict):
        items = (
            f'"{key}": {_literal(subject, batch, f"{path}.{key}", branch, wanted)}'
            for key, branch in tree.items()
        )
        return "{" + ", ".join(items) + "}"
    return _array(subject, batch, path, tree, wanted)


# how a memory layout is made of an array that has none
_LAID_OUT = {
    "torch": {
        "strided": ".repeat_interleave(2, 0)[::2]",
        "transposed": ".transpose(0, -1).contiguous().transpose(0, -1)",
        "expanded": "[:1].expand({shape})",
    },
    "numpy": {"strided": ".repeat(2, 0)[::2]", "transposed": ".copy(order='F')", "expanded": ""},
}


def _array(subject: Subject, batch: Batch, path: str, array: Array, wanted: list[str]) -> str:
    dtype = batch.form.name if array.dtype == np.float64 else str(array.dtype)
    inside = batch.layout == "offset" and array.ndim and len(array)
    text = subject.adapter.literal(np.concatenate([array[:1], array]) if inside else array, dtype)
    text += "[1:]" if inside else ""
    if array.ndim and len(array):
        text += _LAID_OUT.get(subject.adapter.name, {}).get(batch.layout, "").format(shape=array.shape)
    if path not in subject.wanted(batch) or subject.adapter.name != "torch":
        return text
    root, *keys = path.split(".")
    wanted.append(root + "".join(f'["{key}"]' for key in keys))
    return text + ".requires_grad_()"
