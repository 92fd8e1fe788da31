"""Train a tiny masked autoencoder on real Raman spectra: three quarters of every spectrum are hidden.

The network sees the visible patches and reconstructs all; ``masked_mse`` counts the hidden ones only.

    python examples/train_spectra.py [--steps 300] [--plot spectra.png]
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from refimpl.conformance.data import spectra
from torchimpl.masked import masked_mse

PATCH = 16
# the last 28 of 1,047 wavenumbers are zero in the source: 63 patches leave them out
PATCHES = 63
LENGTH = PATCH * PATCHES
HIDDEN_FRACTION = 0.75
HELD_OUT = 8


class Autoencoder(nn.Module):
    """(B, LENGTH) spectrum with hidden parts set to 0, and what is visible -> (B, LENGTH) reconstruction."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(LENGTH + PATCHES, 128), nn.SiLU(), nn.Linear(128, 64), nn.SiLU(), nn.Linear(64, LENGTH)
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Reconstruct spectra of shape (B, LENGTH) from where ``mask`` is False."""
        seen = torch.where(mask, 0.0, x)
        return self.layers(torch.cat([seen, mask[:, ::PATCH].to(x.dtype)], dim=1))


def random_masks(rows: int) -> Tensor:
    """Boolean (rows, LENGTH), True = hidden: the same number of patches in every row."""
    order = torch.rand(rows, PATCHES).argsort(dim=1)
    return (order < round(HIDDEN_FRACTION * PATCHES)).repeat_interleave(PATCH, dim=1)


def load() -> tuple[Tensor, Tensor]:
    """Spectra to learn from and held-out ones, standardised at every wavenumber by those to learn from."""
    # the last pair is constant in the source: no measurement
    rows = torch.tensor(spectra("fermentation")[:-2, :LENGTH])
    # neighbouring scans are nearly equal: whole pairs are held out, spread over the run
    held_out = torch.zeros(len(rows), dtype=torch.bool)
    pairs = torch.linspace(2, len(rows) // 2 - 2, HELD_OUT // 2).long()
    held_out[2 * pairs] = held_out[2 * pairs + 1] = True
    centre, spread = rows[~held_out].mean(0), rows[~held_out].std(0)
    rows = (rows - centre) / spread
    return rows[~held_out], rows[held_out]


def train(steps: int = 300, batch_size: int = 64) -> tuple[dict[str, list[float]], dict[str, Tensor]]:
    """Train, print the loss now and then; return what was measured and one held-out reconstruction."""
    torch.manual_seed(0)
    known, unknown = load()
    model = Autoencoder()
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    history: dict[str, list[float]] = {"loss": []}
    for step in range(steps):
        x = known[torch.randint(len(known), (batch_size,))]
        mask = random_masks(len(x))
        loss = masked_mse(model(x, mask), x, mask)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history["loss"].append(loss.item())
        if step % max(1, steps // 8) == 0:
            print(f"step {step:4d}  masked_mse {history['loss'][-1]:.5f}")

    mask = random_masks(len(unknown))
    with torch.no_grad():
        reconstruction = model(unknown, mask)
        history["held_out"] = [masked_mse(reconstruction, unknown, mask).item()]
        # after the standardisation the mean spectrum is zero
        history["held_out_mean"] = [masked_mse(torch.zeros_like(unknown), unknown, mask).item()]
    print(
        f"held-out masked_mse: {history['held_out'][0]:.5f}, "
        f"mean spectrum instead of a model: {history['held_out_mean'][0]:.5f}"
    )
    return history, {"x": unknown[0], "mask": mask[0], "reconstruction": reconstruction[0]}


def plot(example: dict[str, Tensor], path: Path) -> None:
    """A held-out spectrum, what the model saw of it, and its reconstruction of the rest."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - only who asks for a plot needs matplotlib

    x, mask, reconstruction = example["x"], example["mask"], example["reconstruction"]
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(x, color="0.7", linewidth=3, label="measured")
    axes.plot(torch.where(mask, torch.nan, x), color="black", label="visible to the model")
    axes.plot(torch.where(mask, reconstruction, torch.nan), color="tab:red", label="reconstructed")
    axes.set(
        xlabel="wavenumber index",
        ylabel="deviation from the mean spectrum",
        title="A held-out Raman spectrum",
    )
    axes.legend()
    figure.savefig(path, dpi=120)
    print(f"plot: {path}")


def main(arguments: Sequence[str] | None = None) -> dict[str, list[float]]:
    """Parse the command line, train, plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--plot", type=Path, help="write a PNG of one reconstruction")
    options = parser.parse_args(arguments)
    history, example = train(options.steps)
    if options.plot:
        plot(example, options.plot)
    return history


if __name__ == "__main__":
    main()
