"""How far every answer was from the exact one, in units of its bound: small histograms as inline SVG."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO

from refimpl.conformance.formats import FORMATS

__all__ = ["Axis", "histogram"]

STEPS = 2  # bins of one decade
CROWDED = 12  # decades from which a label at an end of the axis meets that of 0 or inf
SMALLEST = 0.1  # height of a bar of one input, in rows; every outlier is to be seen
# what matplotlib draws in a colour of this table, the style sheet of the page draws in its own, light or dark
INK, WRONG = "#010101", "#010102"
COLOURS = {f"#0102{place:02x}": f"var(--{name})" for place, name in enumerate(FORMATS)}
CSS = {INK: "currentColor", WRONG: "var(--violated)", **COLOURS, "#0102ff": "var(--other)"}


@dataclass(frozen=True)
class Axis:
    """Decades from `low` to `high` of error / bound; 0 lies left of it and inf right.

    Example:
        >>> Axis.around([0.0, 0.5, math.inf])
        Axis(low=-3, high=1)
        >>> axis = Axis.around([1e-5, 2e4, 1e300])
        >>> axis, axis.bin(0.0), axis.bin(1e300), axis.bin(math.inf), axis.bin(1.5)
        (Axis(low=-5, high=9), -6.5, 8.5, 10.0, 0.0)
    """

    low: int
    high: int

    @classmethod
    def around(cls, ratios: Iterable[float]) -> "Axis":
        """The axis of these ratios: at least 1e-3 to 1e1, at most 1e-9 to 1e9."""
        found = [math.log10(ratio) for ratio in ratios if 0.0 < ratio < math.inf]
        low, high = min(found, default=0.0), max(found, default=0.0)
        return cls(min(max(math.floor(low), -9), -3), max(min(math.ceil(high), 9), 1))

    def bin(self, ratio: float) -> float:
        """Left edge of the bar that counts a ratio; what lies beyond the axis counts in its last bar."""
        if ratio == 0.0:
            return self.low - 1.0 - 1 / STEPS
        if not ratio < math.inf:  # NaN too
            return self.high + 1.0
        place = math.floor(math.log10(ratio) * STEPS) / STEPS
        # a ratio of exactly 1 keeps its bound
        place -= 1 / STEPS if ratio == 1.0 else 0.0
        return min(max(place, self.low), self.high - 1 / STEPS)


def histogram(ratios: Mapping[str, Sequence[float]], axis: Axis, name: str) -> str:
    """One row of bars for every dtype over log10 of error / bound.

    The height of a bar is the square root of its share of the tallest one.

    Args:
        ratios: error / bound of every input by dtype.
        axis: the decades shown.
        name: letters, digits and hyphens; makes the ids of this picture unique in a page.

    Returns:
        An `<svg>` element without a reference to anything outside; the page's style sheet gives the colours.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> text = histogram({"float32": [0.0, 0.25, 3.0]}, Axis(-3, 1), "mse-value")
        >>> text.startswith("<svg"), "var(--float32)" in text, "http" in text
        (True, True, False)
    """
    import matplotlib as mpl  # noqa: PLC0415 - half a second that only a page with pictures needs
    from matplotlib.backends.backend_svg import FigureCanvasSVG  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    height = 0.42 + 0.24 * len(ratios)
    file = BytesIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 8.0}):
        figure = Figure(figsize=(3.2, height))
        FigureCanvasSVG(figure)
        axes = figure.add_axes((0.18, 0.33 / height, 0.8, (height - 0.37) / height))
        axes.axvspan(0.0, axis.high + 2.0, color=WRONG, alpha=0.09, lw=0)
        for row, (dtype, found) in enumerate(ratios.items()):
            counts = Counter(axis.bin(ratio) for ratio in found)
            heights = [max(0.85 * math.sqrt(n / max(counts.values())), SMALLEST) for n in counts.values()]
            base = len(ratios) - 1 - row
            colour = next((code for code, css in COLOURS.items() if css == f"var(--{dtype})"), "#0102ff")
            axes.bar(list(counts), heights, 0.92 / STEPS, base, align="edge", color=colour)
            axes.axhline(base, color=INK, lw=0.4, alpha=0.5)
        axes.axvline(0.0, color=WRONG, lw=1.2)
        ends = axis.high - axis.low > CROWDED
        decades = range(-3 * (-axis.low // 3), axis.high + 1, 3)
        inner = [place for place in decades if not (ends and place in {axis.low, axis.high})]
        places = [axis.low - 1.25, *inner, axis.high + 1.25]
        axes.set_xticks(places, ["0", *(_power(place) for place in places[1:-1]), "inf"])
        axes.set_yticks([len(ratios) - 0.6 - row for row in range(len(ratios))], list(ratios))
        axes.set(xlim=(axis.low - 2.0, axis.high + 2.0), ylim=(-0.02, len(ratios)))
        axes.tick_params(length=2, width=0.5, color=INK, labelcolor=INK)
        axes.tick_params(axis="y", length=0)
        axes.patch.set_visible(False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return _inline(file.getvalue().decode(), name)


def _power(place: float) -> str:
    return "1" if place == 0 else f"1e{place:.0f}"


def _inline(text: str, name: str) -> str:
    """The element alone, its ids its own, its colours those of the page."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r' width="[^"]*pt" height="[^"]*pt"| font-family: [^;]*;', "", text, count=0)
    text = re.sub(r"\s*\n\s*", " ", text)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href=", "href=")
    text = re.sub(r'(id="|href="#|url\(#)', rf"\1{name}-", text)
    for code, css in CSS.items():
        text = text.replace(code, css)
    return text.strip()
