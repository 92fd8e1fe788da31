"""The negative-binomial CDF on CUDA devices: the launcher of the Triton kernel.

One launch gives F, S and both first derivatives of all elements. Nothing waits for the device and no shape
depends on data, so that a CUDA graph can record it, once the kernel has been compiled by a call before.

The arithmetic is float64 whatever the caller's dtype: tails computed in float32 are off by up to hundreds of
units in the last place of float32, and one is promised.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import subprocess
import warnings
from typing import Any

import torch
from torch import Tensor

from torchimpl.kernels.negative_binomial_regions import Partials

# one warp a program, one element a thread: a warp runs in step anyway, and so skips a region wherever it can
WARP = 32
BLOCK = WARP
MOST_WARPS = 32
# only `fma` fuses: what the interpreter tests is what runs, and a difference of two products is that of the
# rounded products, 0 where they are equal
FUSION = False


def available() -> bool:
    """Whether `evaluate_cuda` can run: Triton is installed, and a launch succeeds where there is a device."""
    if not importlib.import_module("torchimpl.kernels.negative_binomial_cuda_triton").installed:
        return False
    # no trial while a graph is recorded, nor in the interpreter, which has no device
    trial = torch.cuda.is_available() and not torch.cuda.is_current_stream_capturing()
    return launches() if trial else True


@functools.cache
def launches() -> bool:
    """Whether one element can be evaluated on the current device; a warning says what is in the way.

    Triton compiles its launcher with the C compiler of the machine, which may be missing.
    """
    one = torch.ones(1, dtype=torch.float64, device="cuda" if torch.cuda.is_available() else "cpu")
    refusal = importlib.import_module("triton.errors").TritonError
    try:
        evaluate_cuda(one, one, one)
    except (RuntimeError, OSError, subprocess.SubprocessError, refusal) as error:
        message = (
            f"the negative-binomial CDF runs without its CUDA kernel, which Triton cannot launch: {error}"
        )
        warnings.warn(message, RuntimeWarning, stacklevel=2)
        return False
    return True


@functools.cache
def kernel() -> Any:
    """The kernel; only now is Triton imported."""
    return importlib.import_module("torchimpl.kernels.negative_binomial_cuda_kernel").kernel


def evaluate_cuda(y: Tensor, mu: Tensor, r: Tensor, *, block: int = BLOCK, every: bool = False) -> Partials:
    """F = I_x(r, floor(y)+1), x = r/(r+mu), with S = 1-F, dF/dmu and dF/dr, in one launch.

    Float64 tensors of one shape in any layout, on one CUDA device (in Triton's interpreter: on the CPU).
    The first call compiles the kernel, which takes some ten seconds.

    Args:
        y: counts, any value.
        mu: means; below 0, NaN and inf give NaN.
        r: dispersions; 0 and below and NaN give NaN, inf is the Poisson limit.
        block: elements per program, a power of two; the results do not depend on it.
        every: run every region in every block; nor on this.

    Raises:
        TypeError: not float64.
        ValueError: shapes or devices differ.

    Example:
        >>> y, mu, r = torch.empty(3, 0, dtype=torch.float64)
        >>> evaluate_cuda(y, mu, r).cdf.shape
        torch.Size([0])
    """
    for name, value in (("y", y), ("mu", mu), ("r", r)):
        if value.dtype != torch.float64:
            raise TypeError(f"{name} must be float64, got {value.dtype}")
        if value.shape != mu.shape or value.device != mu.device:
            raise ValueError(
                f"{name} must have the shape and device of mu, got {tuple(value.shape)} on {value.device}"
                f" and {tuple(mu.shape)} on {mu.device}"
            )
    outputs = Partials(*(torch.empty(mu.shape, dtype=mu.dtype, device=mu.device) for _ in range(4)))
    count = mu.numel()
    if count == 0:
        return outputs
    arguments, steps = zip(*(flat(value) for value in (y, mu, r)), strict=True)
    # Triton launches on the current device, whatever device the tensors are on
    with torch.cuda.device(mu.device) if mu.is_cuda else contextlib.nullcontext():
        kernel()[-(-count // block),](
            *arguments,
            *outputs,
            count,
            *steps,
            BLOCK=block,
            EVERY=int(every),
            num_warps=warps(block),
            enable_fp_fusion=FUSION,
        )
    return outputs


def warps(block: int) -> int:
    """Warps of a program: one element a thread, as far as a device allows.

    Example:
        >>> warps(8), warps(128), warps(4096)
        (1, 4, 32)
    """
    return min(max(block // WARP, 1), MOST_WARPS)


def flat(value: Tensor) -> tuple[Tensor, int]:
    """The elements in order, and the step from one to the next: 0 for one number expanded to a shape.

    Example:
        >>> flat(torch.tensor(2.0).expand(2, 3))[1], flat(torch.ones(2, 3).t())[1]
        (0, 1)
    """
    if value.dim() > 0 and not any(value.stride()):
        return value, 0
    return value.contiguous(), 1
