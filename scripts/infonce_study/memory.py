"""Peak resident memory of a call, by the kernel's own account (Linux).

    python memory.py BATCH FEATURES IMPL    bytes of one forward and backward pass of this package's loss

Run as a program it is a process of its own: memory that earlier calls have freed and kept does not count.
"""

from __future__ import annotations

import ctypes
import gc
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
# large blocks go back to the system when they are freed, so that they are counted when they are used
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
WARM = 64


def _status(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", STATUS.read_text(encoding="ascii"), re.MULTILINE)
    if found is None:
        raise OSError(f"{STATUS} has no {name}")
    return 1024 * int(found[1])


def _trim() -> None:
    """Give freed memory back to the system."""
    gc.collect()
    release = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if release is not None:
        release(0)


def peak_extra(call: Callable[[], object]) -> int:
    """Bytes by which resident memory rises above what is resident now, at most, while `call` runs.

    Raises:
        OSError: the system keeps no account of the peak, or it cannot be reset.
    """
    _trim()
    RESET.write_text("5", encoding="ascii")  # the peak becomes what is resident now
    before = _status("VmRSS")
    result = call()
    peak = _status("VmHWM")
    del result
    return max(0, peak - before)


def main(batch: int, features: int, impl: str) -> None:
    """Print the bytes of the loss and both gradients, float32."""
    import torch  # noqa: PLC0415 - importing this module must not start torch

    from torchimpl.concordance import concordance_loss_nce  # noqa: PLC0415

    torch.set_num_threads(int(os.environ.get("BENCH_THREADS", "1")))
    torch.manual_seed(0)
    options = {} if impl == "auto" else {"impl": impl}

    def run(x: torch.Tensor, y: torch.Tensor) -> object:
        return torch.autograd.grad(concordance_loss_nce(x, y, 0.1 * features, **options), (x, y))

    x = torch.randn(batch, features)
    y = (x + 0.3 * torch.randn(batch, features)).requires_grad_()
    x.requires_grad_()
    run(*(side[:WARM].detach().requires_grad_() for side in (x, y)))  # compiled and loaded
    print(peak_extra(lambda: run(x, y)))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
