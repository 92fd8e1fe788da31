"""Other ways to the mean textbook InfoNCE loss, float32 or float64, with what each needs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from scripts.infonce_study import formulas, ours

Loss: TypeAlias = Callable[[Tensor, Tensor, float], Tensor]
Bytes: TypeAlias = Callable[[int, int], float]

FLOAT32 = 4


@dataclass(frozen=True)
class Method:
    """One way to the loss.

    `build` imports what it needs and gives the loss of (x, y, tau); `needs` estimates the bytes of forward
    and backward in float32; `package` is the distribution whose release is named; `least` the fewest
    features; `sphere` says that rows have to be of length 1; `compiles` that a new shape is compiled.
    """

    title: str
    package: str
    build: Callable[[], Loss]
    needs: Bytes
    least: int = 1
    sphere: bool = False
    compiles: bool = False


def tables(number: float) -> Bytes:
    """So many (B, B) tables."""
    return lambda batch, _: number * FLOAT32 * batch**2


def table_of_differences(batch: int, features: int) -> float:
    """The (B, B, D) differences, their squares and gradients, and five (B, B) tables."""
    return FLOAT32 * (4.0 * features + 1.0) * batch**2


def table_of_pairs(batch: int, _: int) -> float:
    """Every positive pair beside every negative one: (B, B (B - 1)) numbers, six times."""
    return 6.0 * FLOAT32 * batch**3


def linear(batch: int, features: int) -> float:
    """Some copies of the input."""
    return 16.0 * FLOAT32 * batch * features


def _ours() -> Loss:
    return lambda x, y, tau: ours.loss(x, y, tau, 0.0)


def _broadcast() -> Loss:
    return lambda x, y, tau: formulas.broadcast(x, y, tau).mean()


def _logsumexp() -> Loss:
    return lambda x, y, tau: formulas.logsumexp(x, y, tau).mean()


def _cdist() -> Loss:
    return lambda x, y, tau: formulas.cdist(x, y, tau).mean()


def _compiled() -> Loss:
    compiled: Loss = torch.compile(_broadcast(), dynamic=False)
    return compiled


def _metric_learning() -> Loss:
    """Row i is the anchor, source i its only positive, every other source a negative."""
    from pytorch_metric_learning.distances import LpDistance  # noqa: PLC0415 - only who has it
    from pytorch_metric_learning.losses import NTXentLoss  # noqa: PLC0415

    def loss(x: Tensor, y: Tensor, tau: float) -> Tensor:
        distance = LpDistance(p=2, power=2, normalize_embeddings=False)
        labels = torch.arange(len(x))
        # a second tensor: with the very same one a row and its own source would not be a pair
        found: Tensor = NTXentLoss(temperature=tau, distance=distance)(
            x, labels, ref_emb=y, ref_labels=labels.clone()
        )
        return found

    return loss


def _keops() -> Loss:
    import pykeops  # noqa: PLC0415
    from pykeops.torch import LazyTensor  # noqa: PLC0415

    pykeops.set_verbose(False)

    def loss(x: Tensor, y: Tensor, tau: float) -> Tensor:
        rows, sources = LazyTensor(x[:, None].contiguous()), LazyTensor(y[None].contiguous())
        distance = ((rows - sources) ** 2).sum(-1) / tau
        total = (-distance).logsumexp(dim=1)[:, 0]
        return ((x - y).square().sum(1) / tau + total).mean()

    return loss


def _clip() -> Loss:
    """-d/τ is 2/τ x·y less a constant on the sphere; one of the two directions that ClipLoss averages."""
    package = importlib.util.find_spec("open_clip")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'open_clip'")
    # its module of losses alone: the package imports torchvision, which this needs nowhere
    source = Path(package.submodule_search_locations[0], "loss.py")
    spec = importlib.util.spec_from_file_location("open_clip_loss", source)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"{source.name} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    clip = module.ClipLoss()

    def loss(x: Tensor, y: Tensor, tau: float) -> Tensor:
        logits, _ = clip.get_logits(x, y, 2.0 / tau)
        return torch.nn.functional.cross_entropy(logits, clip.get_ground_truth(x.device, len(x)))

    return loss


METHODS: dict[str, Method] = {
    "ours": Method("**this package**", "torch", _ours, linear),
    "broadcast": Method("broadcast formula", "torch", _broadcast, table_of_differences),
    "logsumexp": Method("broadcast, `logsumexp`", "torch", _logsumexp, table_of_differences),
    "cdist": Method("`torch.cdist`, `logsumexp`", "torch", _cdist, tables(6)),
    "compiled": Method(
        "`torch.compile` of the broadcast formula", "torch", _compiled, tables(3), compiles=True
    ),
    "metric": Method(
        "`NTXentLoss`, `LpDistance(power=2)`", "pytorch-metric-learning", _metric_learning, table_of_pairs
    ),
    "keops": Method("KeOps, `LazyTensor.logsumexp`", "pykeops", _keops, linear),
    "clip": Method(
        "`ClipLoss`, one direction, unit sphere", "open_clip_torch", _clip, tables(8), least=2, sphere=True
    ),
}
