"""A failing call as a piece of Python to paste into a terminal."""

from typing import Any

import numpy as np

from refimpl.conformance.batch import Array, Batch, Tree, leaves
from refimpl.conformance.catalogue import LossSpec
from refimpl.conformance.execution import has_gradient

__all__ = ["snippet"]


def snippet(target: str, spec: LossSpec, batch: Batch, message: str) -> str:
    """Source text that makes the call and prints value and gradients.

    Args:
        target: importable name of the module under test.
        spec: the loss.
        batch: its input, written out in full.
        message: what is wrong; becomes a comment.
    """
    comment = " ".join(message.split())
    lines = [f"# {spec.name}, {batch.form.name}, {batch.family}: {comment}", "import torch"]
    lines += ["from math import inf, nan"] if _has_special(batch) else []
    if "distribution(" in spec.call:
        lines.append("from refimpl.conformance.execution import distribution")
    if batch.layout == "vmap":
        lines.append("from refimpl.conformance.execution import vmapped")
    lines += [f"import {target} as target", ""]
    wanted: list[str] = []
    for name, tree in batch.arguments.items():
        lines.append(f"{name} = {_literal(spec, batch, name, tree, wanted)}")
    lines += [f"{name} = {value!r}" for name, value in batch.options.items()]
    lines += [f"value = {_call(spec, batch)}", 'print("value", value.tolist())']
    if wanted:
        lines.append("value.sum().backward()")
        lines += [f'print("gradient of {path.replace(chr(34), chr(39))}", {path}.grad)' for path in wanted]
    return "\n".join(lines) + "\n"


def _call(spec: LossSpec, batch: Batch) -> str:
    names = ", ".join(batch.arguments)
    return f"vmapped(lambda {names}: {spec.call}, {names})" if batch.layout == "vmap" else spec.call


def _has_special(batch: Batch) -> bool:
    return any(not np.all(np.isfinite(array)) for _, array in leaves(dict(batch.arguments))) or any(
        value in {np.inf, -np.inf} for value in batch.options.values() if isinstance(value, float)
    )


def _literal(spec: LossSpec, batch: Batch, path: str, tree: Tree, wanted: list[str]) -> str:
    if isinstance(tree, dict):
        items = (
            f'"{key}": {_literal(spec, batch, f"{path}.{key}", branch, wanted)}'
            for key, branch in tree.items()
        )
        return "{" + ", ".join(items) + "}"
    return _tensor(spec, batch, path, tree, wanted)


def _tensor(spec: LossSpec, batch: Batch, path: str, array: Array, wanted: list[str]) -> str:
    dtype = batch.form.name if array.dtype == np.float64 else str(array.dtype)
    numbers: Any = array.tolist()
    text = f"torch.tensor({numbers!r}, dtype=torch.{dtype})"
    if 0 in array.shape:
        text = f"torch.zeros({array.shape}, dtype=torch.{dtype})"
    elif array.ndim and batch.layout == "strided":
        text += ".repeat_interleave(2, 0)[::2]"
    elif array.ndim and batch.layout == "expanded" and np.array_equal(array, array[:1].repeat(len(array), 0)):
        text += f"[:1].expand({array.shape})"
    if not has_gradient(spec, path, array):
        return text
    root, *keys = path.split(".")
    wanted.append(root + "".join(f'["{key}"]' for key in keys))
    return text + ".requires_grad_()"
