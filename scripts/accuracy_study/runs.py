"""One run of the study: points, truth, our results and those of the peers."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from scripts.accuracy_study import measure, ours, peers
from scripts.accuracy_study.measure import Results, Truths
from scripts.accuracy_study.points import SETS, Array, Points, drawn

PEER_SETS = ("realistic", "wide", "independent")
FORMS = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
# sets that a format can hold
FORM_SETS = {
    "float64": tuple(SETS),
    "float32": PEER_SETS,
    "float16": ("realistic",),
    "bfloat16": ("realistic",),
}
Step = Callable[[], None]


class Case(NamedTuple):
    """A set of points in one format."""

    points: Points
    true: Truths
    region: Array
    found: Results  # ours


class Peer(NamedTuple):
    """What a peer is, and its results for every set; `missing` says why there are none."""

    title: str
    version: str
    missing: str
    found: dict[str, Results]


def rounded(points: Points, form: str) -> Points:
    """Mu and r as the format holds them; points where one becomes 0 or infinite are left out."""
    dtype = FORMS[form]
    mu, r = (torch.from_numpy(v).to(dtype).to(torch.float64).numpy() for v in (points.mu, points.r))
    kept = (mu > 0.0) & (r > 0.0) & np.isfinite(mu) & np.isfinite(r)
    return Points(points.k[kept], mu[kept], r[kept])


def planned(size: int, seed: int) -> dict[tuple[str, str], Points]:
    """The points of every format and set; fewer of those that only formats with short numbers need."""
    plan = {}
    for form, sets in FORM_SETS.items():
        for name in sets:
            count, offset = (size, 0) if form == "float64" else (size // 2, 1)
            # thousands of bits at some of them: a hundred times the time of the others
            count = count // 5 if name == "extreme" else count
            plan[form, name] = rounded(drawn(name, max(1, count), seed + offset), form)
    return plan


def case(points: Points, form: str, step: Step = lambda: None) -> Case:
    """Truth and our results at some points."""
    true = measure.truths(points, step)
    found = ours.evaluate(points, FORMS[form], second=form == "float64")
    return Case(points, true, measure.regions(points), found)


def joined(cases: list[Points]) -> Points:
    """Several sets in one."""
    return Points(*(np.concatenate(columns) for columns in zip(*cases, strict=True)))


def ask(name: str, points: Points, dtype: type[np.floating], python: str) -> Results:
    """One peer's results in another process: "missing" where it cannot."""
    module = Path(peers.__file__)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.npz"), Path(folder, "out.npz")
        np.savez(source, k=points.k.astype(dtype), mu=points.mu.astype(dtype), r=points.r.astype(dtype))
        subprocess.run([python, str(module), name, str(source), str(target)], check=True, capture_output=True)  # noqa: S603 - our own file
        with np.load(target) as found:
            return {
                key: value.astype(np.float64) if value.dtype.kind == "f" else value
                for key, value in found.items()
            }


def peer(name: str, cases: dict[str, Points], dtype: type[np.floating], python: str) -> Peer:
    """A peer at all sets, in one process."""
    found = ask(name, joined(list(cases.values())), dtype, python)
    title = peers.PEERS[name][0]
    if "missing" in found:
        return Peer(title, "", str(found["missing"]), {})
    release = str(found.pop("version"))
    ends = np.cumsum([len(points.k) for points in cases.values()])[:-1]
    pieces = {key: np.split(value, ends) for key, value in found.items()}
    results = {one: {key: parts[i] for key, parts in pieces.items()} for i, one in enumerate(cases)}
    return Peer(title, release, "", results)
