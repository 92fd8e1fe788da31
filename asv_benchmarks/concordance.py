"""InfoNCE between replicates: small batches, every implementation, and peak memory of large batches."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor

from torchimpl.concordance import concordance_loss_nce

from .common import DEVICES, THREADS, LossBenchmark, ratio, synchronise

IMPLS = ("auto", "sorted", "exact-blocks", "torch")
# a program of its own, which imports nothing but torch and the package
PEAK = Path(__file__).resolve().parent.parent / "scripts" / "infonce_study" / "memory.py"
MMAP_FROM = "65536"


class ConcordanceLossNCE(LossBenchmark):
    """concordance_loss_nce on scalar residuals; size = batch."""

    params = ((256, 2048), DEVICES)
    differentiable = ("res1", "res2")
    width = 1

    def tensors(self, size: int) -> dict[str, Tensor]:
        """Residuals of two replicates, correlated, of shape (size, width)."""
        res1 = torch.randn(size, self.width)
        return {"res1": res1, "res2": res1 + 0.3 * torch.randn(size, self.width)}

    def loss(self, res1: Tensor, res2: Tensor) -> Tensor:
        # distances grow with the width, and so does a sensible temperature
        return concordance_loss_nce(res1, res2, 0.5 * self.width)

    def textbook(self, res1: Tensor, res2: Tensor) -> Tensor:
        distance = (res1[:, None] - res2[None, :]).square().sum(2)
        own = torch.arange(len(res1), device=res1.device)
        return torch.nn.functional.cross_entropy(-distance / (0.5 * self.width), own)

    @ratio
    def track_ratio_to_materialised_table(self, *_: object) -> float:
        """Against cross-entropy over the (B, B) table of distances."""
        return self.ratio()


class ConcordanceLossNCEVectors(ConcordanceLossNCE):
    """concordance_loss_nce on residuals of 32 numbers; size = batch."""

    params = ((64, 512), DEVICES)
    width = 32


def residuals(batch: int, width: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Correlated replicates, float32 (batch, width), that require gradients."""
    torch.manual_seed(0)
    res1 = torch.randn(batch, width)
    res2 = res1 + 0.3 * torch.randn(batch, width)
    return res1.to(device).requires_grad_(), res2.to(device).requires_grad_()


class ConcordanceLossNCEImplementations:
    """Forward and backward of one implementation by name; batches of the real size; CPU."""

    params = ((1024, 8192), (1, 8, 64), IMPLS)
    param_names = ("batch", "width", "impl")
    timeout = 120
    rounds = 1
    repeat = (3, 10, 0.5)
    sample_time = 0.02
    warmup_time = 0.1

    def setup(self, batch: int, width: int, impl: str) -> None:
        """Call it once; an implementation that is not there for the shape is skipped."""
        torch.set_num_threads(THREADS)
        self.inputs = residuals(batch, width)
        # a commit from before the choice has the default alone
        self.options = {} if impl == "auto" else {"impl": impl}
        try:
            self.time_forward_backward(batch, width, impl)
        except (TypeError, ValueError) as error:
            raise NotImplementedError(f"no impl={impl!r} for this shape") from error

    def time_forward_backward(self, _batch: int, width: int, _impl: str) -> None:
        """Both gradients of the mean."""
        torch.autograd.grad(concordance_loss_nce(*self.inputs, 0.1 * width, **self.options), self.inputs)


class ConcordanceLossNCEMemory:
    """Peak extra memory of forward and backward: resident in a process of its own; CUDA's allocator."""

    params = (("8192 x 1", "1000000 x 1", "8192 x 64"), DEVICES)
    param_names = ("shape", "device")
    timeout = 120

    def setup(self, _shape: str, device: str) -> None:
        """Skip what is not here."""
        if device == "cuda" and not torch.cuda.is_available():
            raise NotImplementedError("this machine has no CUDA device")

    def track_peak_extra_bytes(self, shape: str, device: str) -> int:
        """Above the inputs and a first small call."""
        batch, width = map(int, shape.split(" x "))
        return self.allocated(batch, width) if device == "cuda" else self.resident(batch, width)

    def resident(self, batch: int, width: int) -> int:
        """What the operating system counts, in a new process, in which no earlier call has left memory."""
        command = [sys.executable, "-P", str(PEAK), str(batch), str(width), "auto"]
        # large blocks go back to the system when they are freed
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": MMAP_FROM, "OMP_NUM_THREADS": str(THREADS)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)  # noqa: S603 - our own file
        return int(done.stdout)

    def allocated(self, batch: int, width: int) -> int:
        """What CUDA's allocator counts."""
        inputs = residuals(batch, width, "cuda")
        synchronise("cuda")
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        torch.autograd.grad(concordance_loss_nce(*inputs, 0.1 * width), inputs)
        synchronise("cuda")
        return torch.cuda.max_memory_allocated() - before


ConcordanceLossNCEMemory.track_peak_extra_bytes.unit = "bytes"
