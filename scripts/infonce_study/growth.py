"""How time and memory of our loss grow with the batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

from scripts.infonce_study.child import ask

SIZES = (1000, 8192, 10_000, 100_000, 1_000_000)
FROM, TO = 100_000, 1_000_000
LONGEST = 2.0
SHORT = (128, 256, 512, 1024, 2048, 4096, 8192)
LONG = (*SHORT, 16_384, 32_768, 65_536, 131_072, 262_144, 524_288, 1_048_576)
Step = Callable[[str], None]


class Curve(NamedTuple):
    """One line of the picture."""

    way: str
    label: str
    features: int
    batches: tuple[int, ...]
    style: str


CURVES = (
    Curve("sorted", "sorted", 1, LONG, "o-"),
    Curve("exact-blocks", "compiled blocks", 1, LONG[:9], "s-"),
    Curve("torch", "plain torch", 1, LONG[:9], "^-"),
    Curve("broadcast", "broadcast formula", 1, SHORT, "x--"),
    Curve("exact-blocks", "compiled blocks", 8, LONG[:9], "s-"),
    Curve("torch", "plain torch", 8, LONG[:9], "^-"),
    Curve("cdist", "torch.cdist", 8, SHORT, "+:"),
    # 8,192 rows would need 8 GiB
    Curve("broadcast", "broadcast formula", 8, SHORT[:-1], "x--"),
)
STEPS = 2 + len(CURVES)


class Growth(NamedTuple):
    """Seconds and bytes of our loss of scalars by batch size, the ratio of two sizes, the curves."""

    seconds: dict[int, float]
    peaks: dict[int, int | str | None]
    ratio: float
    curves: list[list[float | None]]


def measure(python: str, seconds: float, step: Step = lambda _: None) -> Growth:
    """Everything, each in a process of its own."""
    step("growth: time")
    samples = ask(python, "growth", batches=list(SIZES), seconds=seconds)
    step("growth: memory")
    peaks = ask(python, "peaks", name="ours", shapes=[[size, 1] for size in SIZES])
    curves = []
    for one in CURVES:
        step(f"growth: {one.label}, D = {one.features}")
        curves.append(
            ask(
                python,
                "curve",
                way=one.way,
                features=one.features,
                batches=list(one.batches),
                longest=LONGEST,
            )
        )
    pairs = zip(samples[str(TO)], samples[str(FROM)], strict=True)
    return Growth(
        {size: median(samples[str(size)]) for size in SIZES},
        dict(zip(SIZES, peaks, strict=True)),
        median(one / other for one, other in pairs),
        curves,
    )


def draw(found: Growth, target: Path) -> None:
    """Time over batch size, both logarithmic; one panel a number of features."""
    from matplotlib import rc_context  # noqa: PLC0415 - only who draws needs it
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.ticker import NullFormatter  # noqa: PLC0415

    widths = sorted({one.features for one in CURVES})
    colours = {"sorted": "#0072b2", "exact-blocks": "#009e73", "torch": "#e69f00", "cdist": "#cc79a7"}
    # ids that do not change from run to run
    with rc_context({"svg.hashsalt": "infonce", "font.size": 10}):
        figure = Figure(figsize=(9.5, 4.2), layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        panels = figure.subplots(1, len(widths), sharey=True, squeeze=False)[0]
        for panel, features in zip(panels, widths, strict=True):
            for one, times in zip(CURVES, found.curves, strict=True):
                points = [(b, t) for b, t in zip(one.batches, times, strict=True) if t is not None]
                if one.features == features and points:
                    colour = colours.get(one.way, "#d55e00")
                    panel.plot(*zip(*points, strict=True), one.style, color=colour, ms=4.5, label=one.label)
            panel.set(xscale="log", yscale="log", xlabel="batch size B", title=f"D = {features}")
            panel.xaxis.set_minor_formatter(NullFormatter())
            panel.grid(alpha=0.3)
            panel.legend(frameon=False)
        panels[0].set_ylabel("forward and backward, one thread (s)")
        figure.savefig(target, metadata={"Date": None, "Creator": None})
