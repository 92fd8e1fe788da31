"""Let the launcher compile its kernel for a device that is not there, and store what came out.

`python tests/triton_compiler.py FOLDER` leaves kernel.ptx, kernel.ttir, kernel.cubin and compiled.json: the
names of the kernels that calls with different tensors would have launched. A process of its own, because
Triton's driver is global.
"""

import json
import sys
from pathlib import Path

import torch

from torchimpl.kernels import negative_binomial_cuda as cuda


class Driver:
    """As much of a driver as compiling takes, for compute capability 9.0."""

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, _device):
        return 0


class Compiling:
    """A kernel that is compiled instead of launched."""

    def __init__(self, kernel):
        self.kernel, self.compiled = kernel, []

    def __getitem__(self, grid):
        def compile_only(*arguments, **options):
            self.compiled.append(self.kernel.warmup(*arguments, grid=grid, **options))

        return compile_only


def main(folder):
    from triton.runtime import driver

    driver.set_active(Driver())
    kernel = Compiling(cuda.kernel())
    cuda.kernel = lambda: kernel
    row = torch.ones(100, dtype=torch.float64)
    # aligned, not aligned, one number for all, one element, a multiple of 16
    for y, mu, r in (
        (row, row, row),
        (row[1:], row[1:], row[:1].expand(99)),
        (row[:1],) * 3,
        (row[:16],) * 3,
    ):
        cuda.evaluate_cuda(y, mu, r)
    (folder / "compiled.json").write_text(json.dumps([found.hash for found in kernel.compiled]))
    for name in ("ptx", "ttir"):
        (folder / f"kernel.{name}").write_text(kernel.compiled[0].asm[name])
    (folder / "kernel.cubin").write_bytes(kernel.compiled[0].asm["cubin"])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
