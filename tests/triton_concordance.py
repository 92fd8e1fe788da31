"""Run the CUDA kernels of InfoNCE in Triton's interpreter, or compile them for a device that is not there.

`TRITON_INTERPRET=1 python tests/triton_concordance.py interpret IN.npz OUT.npz` evaluates cases, each
twice; `python tests/triton_concordance.py compile OUT.json` lists what every compiled kernel occupies.
Processes of their own, because Triton decides for or against its interpreter when a kernel is defined, and
its driver is global.
"""

import importlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from torchimpl.kernels import concordance_cuda_line as line
from torchimpl.kernels import concordance_cuda_space as space
from torchimpl.kernels import concordance_cuda_tiles as tiles
from torchimpl.kernels.concordance_cuda import gradient_cuda, rows_cuda

# the batches of the tests are small: several tiles, and borders within them
SMALL = tiles.Tile(rows=4, columns=8, warps=4)
WHOLE, MOST_DIRECT = line.WHOLE, space.MOST_DIRECT


def evaluated(x, y, cotangent, device, tau=0.1, eps=1e-8, narrow=False, grade="float64", **_):
    """Losses, nearest, normaliser and both gradients of a case."""
    x, y, cotangent = (torch.from_numpy(side).to(device) for side in (x, y, cotangent))
    with np.errstate(all="ignore"):
        losses, *others = rows_cuda(x, y, tau, eps, narrow=narrow, slopes=False, grade=grade)
        gradients = gradient_cuda(cotangent, x, y, *others, tau, eps, narrow=narrow, grade=grade)
    nearest, normaliser, slopes = others
    assert slopes.shape == (2, 0, x.shape[1])
    names = ("losses", "nearest", "normaliser", "gx", "gy")
    return {
        name: value.cpu().numpy()
        for name, value in zip(names, (losses, nearest, normaliser, *gradients), strict=True)
    }


def record(direct):
    """Note every tile of sums whose exponents are formed from differences."""
    # what looks for anchors keeps its own
    importlib.import_module("torchimpl.kernels.concordance_cuda_anchor_kernels")
    pairs = importlib.import_module("torchimpl.kernels.concordance_cuda_pairs_kernels")
    products = pairs.products

    def noted(*arguments):
        direct.append(1)
        return products(*arguments)

    pairs.products = noted


def interpret(source, target):
    stored, found, direct = np.load(source), {}, []
    record(direct)
    for name, options in json.loads(str(stored["options"])).items():
        size = tiles.Tile(*options["tile"]) if "tile" in options else SMALL
        tiles.UNTUNED.update(dict.fromkeys(tiles.UNTUNED, size))
        line.WHOLE = options.get("whole", WHOLE)
        space.MOST_DIRECT = options.get("most_direct", MOST_DIRECT)
        direct.clear()
        x, y, cotangent = (stored[f"{name}/{part}"] for part in ("x", "y", "cotangent"))
        for run in range(2 if options.get("twice") else 1):
            for part, value in evaluated(x, y, cotangent, "cpu", **options).items():
                found[f"{name}/{part}/{run}"] = value
        found[f"{name}/direct/0"] = np.array(len(direct))
    np.savez(target, **found)


def usage(compiled):
    """Registers, stack (where registers spill to) and local memory of a compiled kernel."""
    binaries = Path(importlib.util.find_spec("triton").origin).parent / "backends" / "nvidia" / "bin"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(compiled.asm["cubin"])
        command = [binaries / "cuobjdump", "-res-usage", path]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {name: int(number) for name, number in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}


def compile_only(target):
    from triton.runtime import driver

    from tests.triton_compiler import Driver

    driver.set_active(Driver())
    compiled = {}

    def launch(family, name, grid, *arguments, **options):
        module = importlib.import_module(f"torchimpl.kernels.concordance_cuda_{family}_kernels")
        for argument in arguments:
            if isinstance(argument, torch.Tensor) and argument.dtype == torch.int64:
                argument.zero_()  # indices that no kernel has written
        found = getattr(module, name).warmup(*arguments, grid=grid, enable_fp_fusion=False, **options)
        constants = {key: value for key, value in options.items() if key != "num_warps"}
        compiled.setdefault(f"{family} {name} {constants}", {})[found.hash] = found

    line.launch = space.launch = launch
    # numbers of float64 take more registers than narrow ones
    for batch, features in ((1, 1), (48, 1), (1, 2), (48, 2), (1, 40), (48, 50)):
        x = torch.zeros(batch, features, dtype=torch.float64)
        losses, *others = rows_cuda(x, x, 0.1, 1e-8, narrow=False, slopes=False)
        gradient_cuda(losses, x, x, *others, 0.1, 1e-8, narrow=False)
    table = {
        name: {"variants": len(found), **usage(next(iter(found.values())))}
        for name, found in compiled.items()
    }
    Path(target).write_text(json.dumps(table))


if __name__ == "__main__":
    {"interpret": interpret, "compile": compile_only}[sys.argv[1]](*sys.argv[2:])
