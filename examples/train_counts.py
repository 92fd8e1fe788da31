"""Train a negative-binomial regression on two pseudoreplicates of real read counts.

For every genomic bin a small network sees the counts of the neighbouring bins, not of the bin itself, and
predicts mean ``mu`` and dispersion ``r`` of its count, for each replicate. The loss is a weighted sum that a
config names.

    python examples/train_counts.py [--steps 200] [--plot counts.png]
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from refimpl.conformance.data import counts
from torchimpl.likelihood import nll_loss
from torchimpl.registry import create_composite_loss

CONFIG = {
    "losses": [
        {"name": "nll_loss", "weight": 1.0},
        {"name": "negative_pearson_loss", "weight": 0.2},
        {"name": "quantile_absolute_loss", "weight": 0.5},
        {"name": "concordance_loss_nce", "weight": 0.02, "tau": 10.0},
    ]
}
REACH = 8
HELD_OUT = 5_000

Replicates = dict[str, dict[str, Tensor]]


class Regression(nn.Module):
    """(B, 2 * REACH) neighbouring counts -> mu and r, both positive and of shape (B,)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2 * REACH, 32), nn.SiLU(), nn.Linear(32, 2))

    def forward(self, neighbours: Tensor) -> dict[str, Tensor]:
        """Predict mu and r of shape (B,) from neighbouring counts."""
        mu, r = nn.functional.softplus(self.layers(neighbours.log1p())).unbind(-1)
        # a positive floor keeps the model inside the distribution's domain
        return {"mu": mu + 1e-3, "r": r + 1e-3}


def windows(y: np.ndarray) -> tuple[Tensor, Tensor]:
    """Counts of the bins that have neighbours on both sides, and those neighbours."""
    width = 2 * REACH + 1
    rows = torch.tensor(np.lib.stride_tricks.sliding_window_view(y, width).astype(np.float32))
    return rows[:, REACH], torch.cat([rows[:, :REACH], rows[:, REACH + 1 :]], dim=1)


def constant_fit(y: Tensor) -> dict[str, Tensor]:
    """The same negative binomial for every bin, by moments: what the regression has to beat."""
    mean, variance = y.mean(), y.var()
    return {"mu": mean.expand_as(y), "r": (mean**2 / (variance - mean)).expand_as(y)}


def train(steps: int = 200, batch_size: int = 512) -> dict[str, list[float]]:
    """Train, print the components now and then, and return what was measured."""
    torch.manual_seed(0)
    replicates = {name: windows(y) for name, y in zip(("r1", "r2"), counts(), strict=True)}
    bins = len(replicates["r1"][0]) - HELD_OUT

    def outputs_and_batch(index: Tensor | slice) -> tuple[Replicates, Replicates]:
        outputs = {name: model(neighbours[index]) for name, (_, neighbours) in replicates.items()}
        return outputs, {name: {"reads": reads[index]} for name, (reads, _) in replicates.items()}

    model = Regression()
    composite = create_composite_loss({**CONFIG, "return_components": True})
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    history: dict[str, list[float]] = {"total": []}
    for step in range(steps):
        result = composite(*outputs_and_batch(torch.randint(bins, (batch_size,))))
        optimiser.zero_grad()
        result["total"].backward()
        optimiser.step()
        history["total"].append(result["total"].item())
        for name, value in result["components"].items():
            history.setdefault(name, []).append(value.item())
        if step % max(1, steps // 8) == 0:
            line = "  ".join(f"{name} {values[-1]:8.4f}" for name, values in history.items())
            print(f"step {step:4d}  {line}")

    with torch.no_grad():
        outputs, batch = outputs_and_batch(slice(bins, None))
        constant = {name: constant_fit(batch[name]["reads"]) for name in batch}
        history["held_out"] = [nll_loss(outputs, batch).item()]
        history["held_out_constant"] = [nll_loss(constant, batch).item()]
    print(
        f"held-out negative log-likelihood: {history['held_out'][0]:.4f}, "
        f"one distribution for all bins: {history['held_out_constant'][0]:.4f}"
    )
    return history


def plot(history: dict[str, list[float]], path: Path) -> None:
    """Every component over the steps."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - only who asks for a plot needs matplotlib

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for name, values in history.items():
        if not name.startswith("held_out"):
            axes.plot(values, label=name)
    axes.set(xlabel="step", ylabel="loss", title="Negative-binomial regression on read counts")
    axes.legend()
    figure.savefig(path, dpi=120)
    print(f"plot: {path}")


def main(arguments: Sequence[str] | None = None) -> dict[str, list[float]]:
    """Parse the command line, train, plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--plot", type=Path, help="write a PNG of the components")
    options = parser.parse_args(arguments)
    history = train(options.steps)
    if options.plot:
        plot(history, options.plot)
    return history


if __name__ == "__main__":
    main()
