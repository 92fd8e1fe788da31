"""The error over the plane of mean and dispersion, as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from scripts.accuracy_study import measure, ours, runs
from scripts.accuracy_study.points import Array, Points

MEANS, SIZES = (1e-2, 1e7), (1e-3, 1e8)
QUANTILES = (0.01, 0.5, 0.99)
SAMPLES = 301
LEAST, MOST = 0.1, 1e16  # ulp: the ends of the colours
TITLES = {"ours": "this package", "scipy.special": "scipy betainc, betaincc", "jax": "JAX betainc"}


def places(side: int, seed: int) -> Points:
    """A grid, and three counts from the law at each of its places."""
    rng = np.random.default_rng([seed, 99])
    mu, r = (axis.reshape(-1) for axis in np.meshgrid(np.geomspace(*MEANS, side), np.geomspace(*SIZES, side)))
    # off the grid's own round numbers
    mu, r = mu * rng.uniform(0.95, 1.05, mu.shape), r * rng.uniform(0.95, 1.05, r.shape)
    drawn = rng.poisson(rng.gamma(r, mu / r, (SAMPLES, len(mu))))
    k = np.floor(np.quantile(drawn, QUANTILES, axis=0)).astype(np.float64)
    copies = len(QUANTILES)
    return Points(k.reshape(-1), np.tile(mu, copies), np.tile(r, copies))


def surfaces(points: Points, side: int, python: str, step: runs.Step = lambda: None) -> dict[str, Array]:
    """The largest error of the smaller tail among the counts of a place, in ulp, for everyone."""
    true = measure.truths(points, step)
    found = {"ours": ours.evaluate(points)}
    for name in TITLES:
        if name == "ours":
            continue
        answer = runs.ask(name, points, np.float64, python)
        if "missing" not in answer:
            found[name] = {key: answer[key] for key in measure.VALUES}
    return {
        name: measure.errors(result, true, torch.float64)["tail ulp"]
        .reshape(len(QUANTILES), side, side)
        .max(0)
        for name, result in found.items()
    }


def edges(low: float, high: float, side: int) -> Array:
    """The borders of `side` cells whose centres are evenly spaced in the logarithm."""
    half = (high / low) ** (0.5 / max(side - 1, 1))
    return np.asarray(np.geomspace(low / half, high * half, side + 1))


def draw(found: dict[str, Array], target: Path) -> None:
    """One panel each, one colour bar."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - only who draws needs it
    from matplotlib.colors import LogNorm  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(10.5, 4.0), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    side = next(iter(found.values())).shape[0]
    mu, r = edges(*MEANS, side), edges(*SIZES, side)
    for panel, (name, errors) in zip(panels, found.items(), strict=True):
        shown = np.clip(np.nan_to_num(errors, posinf=MOST), LEAST, MOST)
        mesh = panel.pcolormesh(mu, r, shown, norm=LogNorm(LEAST, MOST), cmap="cividis", shading="flat")
        panel.set(xscale="log", yscale="log", xlabel="mean mu", title=TITLES[name])
        panel.set_xticks([1e-2, 1e1, 1e4, 1e7])
        panel.minorticks_off()
    panels[0].set_ylabel("dispersion r")
    bar = figure.colorbar(mesh, ax=list(panels), ticks=[1e-1, 1e1, 1e4, 1e8, 1e12, 1e16], pad=0.01)
    bar.set_label("largest error of the smaller tail (ulp)")
    bar.minorticks_off()
    figure.savefig(target, dpi=120, metadata={"Software": None})
