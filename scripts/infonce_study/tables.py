"""The pages that `docs/infonce.md` includes."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

import torch

from scripts.infonce_study import accuracy, fuzz, growth, peers, tiles
from scripts.infonce_study.accuracy import Errors, Study, chosen, worst
from scripts.infonce_study.layouts import LAYOUTS
from scripts.infonce_study.methods import METHODS
from torchimpl.kernels.concordance_cuda_tiles import tile

TITLES = {"broadcast": "broadcast formula", "cdist": "`torch.cdist`"}
UNITS = {"float64": "relative", "float32": "units in the last place of float32"}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; the first column to the left."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def machine() -> str:
    """Processor and packages."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if "model name" in line] if info.exists() else []
    name = names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()
    return f"{name}, torch {torch.__version__}, one thread"


def size(batch: int) -> str:
    """A batch size."""
    return f"{batch:,}"


def peers_page(found: peers.Peers) -> str:
    """Time and memory of everyone on every shape, and how far everyone is from ours."""
    heads = [f"D = {features}" for features in peers.FEATURES]
    intro = (
        "Forward and backward, float32, τ = 0.1, ε = 0: median time, ratio to this package within the same "
        f"rounds, peak of extra resident memory. {machine()}.\n"
    )
    parts = [intro]
    for batch in found.batches:
        rows = [
            [method.title, *(peers.cell(found, name, batch, features) for features in peers.FEATURES)]
            for name, method in METHODS.items()
        ]
        parts.append(f"### B = {size(batch)}\n\n{table(['', *heads], rows)}")
    parts.append(
        f"“Not run” names the memory that is needed, where that is more than {peers.LIMIT / 2**30:.1f} GiB. "
        "On a line the unit sphere is two points, so `ClipLoss` does not apply to D = 1; its one direction "
        "computes the matrix product of the other one, too.\n"
    )
    if peers.AGREEMENT in found.batches:
        columns = [(form, features) for form in accuracy.FORMS for features in peers.FEATURES]
        rows = [
            [method.title, *(peers.agreement(found, name, *column) for column in columns)]
            for name, method in METHODS.items()
            if name != "ours"
        ]
        heads = [f"{form}, D = {features}" for form, features in columns]
        parts.append(
            f"### The same loss? B = {peers.AGREEMENT}\n\nDifference of the value / of the gradients, "
            "relative to this package's value / largest component. For `ClipLoss` the gradients' tangential "
            "parts. Here τ = 0.1 D, because at 0.1 some of the formulas are not finite. At D = 64 the loss "
            "is near 10⁻⁶, and forms that add 1 to it lose digits.\n\n" + table(["", *heads], rows)
        )
    parts.append("".join(f"- {line}\n" for line in peers.notes(found)))
    parts.append("Releases: " + ", ".join(sorted(set(peers.releases(found).values()))) + ".\n")
    return "\n".join(part for part in parts if part)


def _triple(found: Errors | None) -> str:
    return " / ".join(_error(value) for value in found[:3]) if found else "none"


def _error(value: float) -> str:
    if value == 0.0:
        return "0"
    return f"{value:.2g}" if 1e-2 <= value < 1e4 else f"{value:.0e}"


def accuracy_page(study: Study, reference: float, sizes: dict[int, int]) -> str:
    """By layout, the worst over all D, τ and ε; then by D, τ and ε, the worst over all layouts."""
    shapes = ", ".join(f"B = {batch:,} at D = {features}" for features, batch in sizes.items())
    intro = (
        f"The largest error of a row / of the mean / of a gradient, normwise, over {shapes}, τ = 0.1 and 5, "
        "ε = 0, 10⁻⁸ and 0.5 (the formulas: ε = 0 and 10⁻⁸). inf: a result is not finite although the true "
        "one, saturated, is. The 80-bit reference is within "
        f"{reference:.0e} of 400 digits on {accuracy.FEW} rows of every layout.\n"
    )
    parts = [intro]
    for form in accuracy.FORMS:
        present = {setting.name for settings in study.values() for setting in settings}
        own = [name for name in ("auto", "sorted", "exact-blocks", "torch") if name in present]
        names = [*own, *(name for name in accuracy.FORMULAS if name in present)]
        rows = [
            [layout, *(_triple(worst(chosen(study, layout=layout, form=form, name=name))) for name in names)]
            for layout in LAYOUTS
        ]
        every = [worst(chosen(study, form=form, name=name)) for name in names]
        rows.append(["**largest**", *(f"**{_triple(found)}**" for found in every)])
        heads = [*(f'`impl="{name}"`' for name in own), *(TITLES[name] for name in names[len(own) :])]
        most = max(found.judged for found, name in zip(every, names, strict=True) if found and name in own)
        target = accuracy.TARGETS[form]
        verdict = "met" if most <= target else "**missed**"
        parts.append(
            f"### {form}: {UNITS[form]}\n\n{table(['', *heads], rows)}\n"
            f"Target of this package: {target:g}. Largest error where the number is 10⁻¹⁶ or more: "
            f"{_error(most)}, {verdict}. A smaller one is exp(-z) and has the error of z, up to 745.\n"
        )
        settings = [(tau, eps) for tau in accuracy.TAUS for eps in accuracy.EPSES]
        rows = [
            [
                f"D = {features}",
                *(
                    _triple(worst(chosen(study, form=form, features=features, name="auto", tau=tau, eps=eps)))
                    for tau, eps in settings
                ),
            ]
            for features in sizes
        ]
        heads = [f"τ = {tau:g}, ε = {eps:g}" for tau, eps in settings]
        parts.append(f'`impl="auto"`, the worst of all layouts:\n\n{table(["", *heads], rows)}')
    return "\n".join(parts)


def fuzz_page(findings: Sequence[fuzz.Finding], batches: int, seed: int) -> str:
    """The worst of every implementation and format."""
    impls = list(dict.fromkeys(one.impl for one in findings))
    rows = []
    for form in fuzz.FORMS:
        for impl in impls:
            some = [one for one in findings if (one.form, one.impl) == (form, impl)]
            if some:
                top = max(some, key=lambda one: one.ratio)
                rows.append(
                    [
                        f'{form}, `impl="{impl}"`',
                        f"{len(some):,}",
                        str(sum(one.broken for one in some)),
                        str(sum(one.ratio > 1.0 for one in some)),
                        f"{top.ratio:.2g}",
                        f"{top.what}; {top.kind}",
                        str(top.index),
                    ]
                )
    head = ["", "batches", "not finite", "beyond the bound", "worst error / bound", "of what", "batch number"]
    ratio = max((one.ratio for one in findings), default=0.0)
    broken = sum(one.broken for one in findings)
    return (
        f"{batches:,} random batches, seed {seed}. Largest error over its derived bound: {ratio:.2g}; "
        f"numbers that are not finite although they must be: {broken}.\n\n"
        + table(head, rows)
        + f"\n`scripts/infonce.py fuzz --seed {seed} --first NUMBER --batches 1` repeats one batch.\n"
    )


def growth_page(found: growth.Growth) -> str:
    """Time and memory by batch size."""
    rows = [
        [
            size(batch),
            peers.duration(seconds),
            peers.mebibytes(found.peaks[batch]),
            peers.digits(1e9 * seconds / batch),
        ]
        for batch, seconds in found.seconds.items()
    ]
    return (
        f"Scalar residuals (D = 1), float32, forward and backward. {machine()}.\n\n"
        + table(["B", "time", "extra memory", "ns per row"], rows)
        + f"\nFrom B = {size(growth.FROM)} to {size(growth.TO)} the time grows by a factor of "
        f"{found.ratio:.3g} within the same rounds.\n"
    )


def tiles_page(found: dict[str, tiles.Measured], device: torch.device) -> str:
    """Times of all tiles on a device, the fastest first, and the entry for `concordance_cuda_tiles`."""
    rows = []
    for kind, one in found.items():
        usual = one.seconds.get(tile(kind, device))
        for one_tile, seconds in sorted(one.seconds.items(), key=lambda item: item[1]):
            ratio = f"{seconds / usual:.2f}" if usual else "-"
            rows.append([kind, "{} x {}, {} warps".format(*one_tile), f"{1e3 * seconds:.3f}", ratio])
        rows += [
            [kind, "{} x {}, {} warps".format(*one_tile), said, "-"]
            for one_tile, said in one.failures.items()
        ]
    name, entry = "cpu", (0, 0)
    if device.type == "cuda":
        name, entry = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
    return (
        f"Forward and backward on {name}, torch {torch.__version__}; medians, in turns; ratio to the tile in "
        "use.\n\n"
        + table(["sum", "tile", "ms", "ratio"], rows)
        + f"\nThe fastest, as an entry of `TUNED`: `{entry}: {tiles.best(found)}`\n"
    )
