"""What every compiled CPU kernel needs: a key for Numba's cache, and threads that share the elements.

Numba looks for changes in the kernel's own file only. Therefore the digest of all files whose code is inlined
is part of the cache's key: a kernel is defined inside a function of the key, which its closure holds.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch


def digest_of(sources: Sequence[str]) -> str:
    """One digest of modules of this folder, by name.

    Example:
        >>> digest_of(["compiled"]) == digest_of(["compiled", "blocks"])
        False
    """
    here = Path(__file__).parent
    content = b"".join((here / f"{name}.py").read_bytes() for name in sources)
    return hashlib.sha256(content).hexdigest()


def run_shared(
    kernel: Callable[..., object], arguments: Sequence[Any], size: int, elements_per_thread: int
) -> None:
    """Call `kernel(*arguments, start, stop)` for parts of range(size) on `torch.get_num_threads()` threads.

    Args:
        kernel: releases the interpreter's lock; an element's result must not depend on the parts.
        arguments: what the kernel takes before the two borders.
        size: number of elements.
        elements_per_thread: below so many a further thread costs more than it brings.

    Raises:
        Exception: whatever the kernel raises in any thread.
    """
    parts = max(1, min(torch.get_num_threads(), size // elements_per_thread))
    borders = [size * part // parts for part in range(parts + 1)]
    run_tasks(kernel, [(*arguments, a, b) for a, b in itertools.pairwise(borders)])


def run_tasks(kernel: Callable[..., object], tasks: Sequence[tuple[Any, ...]]) -> None:
    """Call `kernel(*task)` for every task, on at most `torch.get_num_threads()` threads.

    Args:
        kernel: releases the interpreter's lock.
        tasks: arguments of each call; no call may need another's results.

    Raises:
        Exception: whatever the kernel raises in any thread.
    """
    threads = min(torch.get_num_threads(), len(tasks))
    if threads <= 1:
        for task in tasks:
            kernel(*task)
        return
    # threads of this call only: nothing is left that a fork could inherit
    with ThreadPoolExecutor(threads) as pool:
        for call in [pool.submit(kernel, *task) for task in tasks]:
            call.result()
