"""Tiles of InfoNCE's CUDA kernels: which one is taken where, and how the fastest is found."""

import json
import subprocess
import sys

import pytest
import torch

from tests.triton_process import ROOT, environment, need_triton
from torchimpl.kernels.concordance_cuda_tiles import TUNED, UNTUNED, Tile, tile

SMALL, LARGE, WRONG = Tile(16, 16, 4), Tile(16, 32, 4), Tile(3, 16, 4)

# decides for Triton's interpreter: a process of its own
STUDY = """
import json, torch
from scripts.infonce_study import tables, tiles
device = torch.device("cpu")
tiles.SHAPES = {kind: (40, features) for kind, (_, features) in tiles.SHAPES.items()}
candidates = [tiles.Tile(*size) for size in CANDIDATES]
before, steps = dict(tiles.tiles.UNTUNED), []
found = {
    kind: tiles.measure(kind, batch, device, 1, candidates, lambda: steps.append(0))
    for kind, (batch, _) in tiles.SHAPES.items()
}
print(json.dumps({
    "timed": {kind: [tile for tile in one.seconds] for kind, one in found.items()},
    "failed": {kind: [tile for tile in one.failures] for kind, one in found.items()},
    "kept": tiles.tiles.UNTUNED == before,
    "steps": len(steps),
    "page": tables.tiles_page(found, device),
}))
"""


@pytest.mark.parametrize("kind", UNTUNED)
def test_a_device_takes_what_was_measured_on_its_kind(kind, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, device.index))
    monkeypatch.setitem(TUNED, (9, 1), dict.fromkeys(UNTUNED, LARGE))
    assert tile(kind, torch.device("cuda", 1)) == LARGE
    assert tile(kind, torch.device("cuda", 2)) == tile(kind, torch.device("cpu")) == UNTUNED[kind]


def test_every_entry_has_every_kind():
    for entry in (UNTUNED, *TUNED.values()):
        assert list(entry) == ["line", "differences", "products"]
        # products of matrices need 16 of everything
        assert min(entry["products"][:2]) >= 16


def test_the_fastest_tile_is_found_and_what_fails_is_told():
    need_triton()
    code = STUDY.replace("CANDIDATES", repr([tuple(one) for one in (SMALL, LARGE, WRONG)]))
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        cwd=ROOT,
        env=environment(interpret=True),
        stdout=subprocess.PIPE,
        text=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    for kind in UNTUNED:
        assert found["timed"][kind] == [[*SMALL], [*LARGE]]
        assert found["failed"][kind] == [[*WRONG]]
    assert found["kept"]
    assert found["steps"] == len(UNTUNED) * 2 * 3
    assert "16 x 32, 4 warps" in found["page"]
    assert "power of 2" in found["page"]


def test_without_a_device_the_command_says_so():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "infonce.py", "tiles"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "torch finds none here" in done.stderr
