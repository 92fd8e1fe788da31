"""-log pmf of the negative binomial and its slopes on the CPU: one compiled pass, vectorised by blocks.

Elements queue up by class: ordinary ones with count 0, ordinary ones with another count, all others. Whenever
LANES of a class are waiting, its code runs over them at once; the others go through scalar code with every
guard. Which class an element is in and what its code does depend on nothing but the element itself, so that
its result depends neither on its neighbours nor on how many threads share the work.

Importing this module loads Numba. The first call ever compiles and keeps the result in Numba's cache; the
next process loads it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from torchimpl.kernels.compiled import digest_of, run_shared
from torchimpl.kernels.elementary_cpu import CONTRACT, floor
from torchimpl.kernels.negative_binomial_cpu_lanes import LANES, stage
from torchimpl.kernels.negative_binomial_log_pmf_cpu_general import GROW, SHRINK, any_slopes, any_value
from torchimpl.kernels.negative_binomial_log_pmf_cpu_lanes import (
    D_MU,
    D_R,
    LARGEST_ORDINARY,
    MU,
    SIZE,
    SMALLEST_ORDINARY,
    VALUE,
    K,
    R,
    slopes,
    value,
    zero_slopes,
    zero_value,
)

Two = tuple[Tensor, Tensor]
Three = tuple[Tensor, Tensor, Tensor]
Four = tuple[Tensor, Tensor, Tensor, Tensor]
# elements classified at a time
CHUNK = 2048
# below so many elements a second thread costs more than it brings; products are ten times as quick
ELEMENTS_PER_THREAD = 1 << 15
PRODUCTS_PER_THREAD = 1 << 18
SOURCES = (
    "compiled",
    "elementary_cpu",
    "negative_binomial",
    "negative_binomial_constants",
    "negative_binomial_cpu_lanes",
    "negative_binomial_fraction",
    "negative_binomial_log_pmf_cpu",
    "negative_binomial_log_pmf_cpu_general",
    "negative_binomial_log_pmf_cpu_lanes",
    "negative_binomial_regions",
)
ZERO_COUNT, COUNTED, OTHERS = range(3)
CLASSES = 3


# IEEE to the letter: this loop has a remainder, whose elements must come out as all others
@njit(error_model="numpy", nogil=True)
def classify(y: np.ndarray, mu: np.ndarray, r: np.ndarray, start: int, count: int, found: np.ndarray) -> None:
    """The class of each of `count` elements from `start` on."""
    for i in range(count):
        k, mu_i, r_i = floor(y[start + i]), mu[start + i], r[start + i]
        ordinary = (k >= 0.0) & (k <= LARGEST_ORDINARY)
        ordinary = ordinary & (mu_i >= SMALLEST_ORDINARY) & (mu_i <= LARGEST_ORDINARY)
        ordinary = ordinary & (r_i >= SMALLEST_ORDINARY) & (r_i <= LARGEST_ORDINARY)
        found[i] = (ZERO_COUNT if k == 0.0 else COUNTED) if ordinary else OTHERS


@stage
def flush(
    kind: int,
    count: int,
    queue: np.ndarray,
    w: np.ndarray,
    inputs: tuple[np.ndarray, ...],
    results: tuple[np.ndarray, ...],
    with_slopes: bool,
) -> None:
    """Gather the ordinary elements that wait, evaluate them, scatter the results."""
    y, mu, r = inputs
    for i in range(LANES):
        # idle lanes repeat the last element
        index = queue[min(i, count - 1)]
        w[K + i], w[MU + i], w[R + i] = floor(y[index]), mu[index], r[index]
    if kind == ZERO_COUNT:
        zero_value(w)
    else:
        value(w)
    for i in range(count):
        results[0][queue[i]] = w[VALUE + i]
    if not with_slopes:
        return
    if kind == ZERO_COUNT:
        zero_slopes(w)
    else:
        slopes(w)
    for i in range(count):
        results[1][queue[i]], results[2][queue[i]] = w[D_MU + i], w[D_R + i]


@stage
def one_by_one(
    count: int,
    queue: np.ndarray,
    inputs: tuple[np.ndarray, ...],
    results: tuple[np.ndarray, ...],
    with_slopes: bool,
) -> None:
    """Evaluate elements of any kind."""
    y, mu, r = inputs
    found, d_mu, d_r = results
    for index in queue[:count]:
        arguments = y[index], mu[index], r[index]
        found[index] = any_value(*arguments)
        if with_slopes:
            d_mu[index], d_r[index], _, _ = any_slopes(*arguments)


def compiled(key: str) -> Any:
    """The kernel; Numba looks its cache up by the value of `key`, because the kernel's closure holds it."""

    @njit(error_model="numpy", fastmath=set(CONTRACT), nogil=True, cache=True)
    def kernel(
        inputs: tuple[np.ndarray, ...],
        results: tuple[np.ndarray, ...],
        with_slopes: bool,
        start: int,
        stop: int,
    ) -> int:
        y, mu, r = inputs
        w = np.empty(SIZE)
        found = np.empty(CHUNK, np.int64)
        queues = np.empty((CLASSES, LANES), np.int64)
        waiting = np.zeros(CLASSES, np.int64)
        for first in range(start, stop, CHUNK):
            count = min(CHUNK, stop - first)
            classify(y, mu, r, first, count, found)
            for i in range(count):
                kind = found[i]
                queues[kind, waiting[kind]] = first + i
                waiting[kind] += 1
                if waiting[kind] < LANES:
                    continue
                waiting[kind] = 0
                if kind == OTHERS:
                    one_by_one(LANES, queues[kind], inputs, results, with_slopes)
                else:
                    flush(kind, LANES, queues[kind], w, inputs, results, with_slopes)
        for kind in (ZERO_COUNT, COUNTED):
            if waiting[kind] > 0:
                flush(kind, waiting[kind], queues[kind], w, inputs, results, with_slopes)
        one_by_one(waiting[OTHERS], queues[OTHERS], inputs, results, with_slopes)
        return len(key)

    return kernel


@stage
def product(cotangent: float, slope: float, far: float) -> float:
    """Cotangent · slope, overflowing only where that does; 0 beside any slope gives 0."""
    overflowed = abs(slope) == math.inf
    factor = far if overflowed else slope
    if cotangent == 0.0 and not abs(factor) < math.inf:
        return 0.0
    return cotangent * factor * (GROW if overflowed else 1.0)


def compiled_pull_back(key: str) -> Any:
    """Cotangents times slopes; `key` as in `compiled`."""

    @njit(error_model="numpy", nogil=True, cache=True)
    def kernel(
        cotangents: np.ndarray,
        inputs: tuple[np.ndarray, ...],
        slopes_: tuple[np.ndarray, ...],
        products: tuple[np.ndarray, ...],
        start: int,
        stop: int,
    ) -> int:
        y, mu, r = inputs
        for i in range(start, stop):
            d_mu, d_r, far_mu, far_r = slopes_[0][i], slopes_[1][i], 0.0, 0.0
            if abs(d_mu) == math.inf or abs(d_r) == math.inf:
                _, _, far_mu, far_r = any_slopes(y[i], mu[i], r[i])
            products[0][i] = product(cotangents[i], d_mu, far_mu)
            products[1][i] = product(cotangents[i], d_r, far_r)
        return len(key)

    return kernel


kernel = compiled(digest_of(SOURCES))
pull_back_kernel = compiled_pull_back(digest_of(SOURCES))


def arrays(*tensors: Tensor) -> tuple[np.ndarray, ...]:
    """Flat views; of what is not contiguous, copies."""
    return tuple(t.detach().contiguous().view(-1).numpy() for t in tensors)


def empty(like: Tensor, number: int) -> tuple[Tensor, ...]:
    """Contiguous tensors for the results."""
    return tuple(torch.empty(like.shape, dtype=torch.float64) for _ in range(number))


def value_cpu(y: Tensor, mu: Tensor, r: Tensor) -> Tensor:
    """-log pmf(⌊y⌋) of float64 CPU tensors of one shape and any layout; inf where the pmf is 0.

    Edges are those of `torchimpl.kernels.negative_binomial_log_pmf.log_pmf_value`. Work is shared among
    `torch.get_num_threads()` threads; the result is the same, bit for bit, for any number of them.

    Args:
        y: counts, any value.
        mu: means; below 0, NaN and inf give NaN.
        r: dispersions; 0 and below and NaN give NaN, inf is the Poisson limit.

    Returns:
        A contiguous float64 tensor of the same shape.

    Example:
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> value_cpu(0 * one, one, one).exp().item()
        2.0
    """
    results = empty(mu, 1)
    run_shared(kernel, (arrays(y, mu, r), arrays(*results) * 3, False), mu.numel(), ELEMENTS_PER_THREAD)
    return results[0]


def value_and_slopes_cpu(y: Tensor, mu: Tensor, r: Tensor) -> Three:
    """`value_cpu`, and the derivatives of -log pmf in mu and r.

    Arguments are those of `value_cpu`; edges are those of
    `torchimpl.kernels.negative_binomial_log_pmf.log_pmf_slopes`.

    Returns:
        Three contiguous float64 tensors of the same shape.

    Example:
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> [round(slope.item(), 12) for slope in value_and_slopes_cpu(3 * one, one, one)[1:]]
        [-1.0, -0.140186152773]
    """
    value_, d_mu, d_r = results = empty(mu, 3)
    run_shared(kernel, (arrays(y, mu, r), arrays(*results), True), mu.numel(), ELEMENTS_PER_THREAD)
    return value_, d_mu, d_r


def pull_back_cpu(cotangent: Tensor, y: Tensor, mu: Tensor, r: Tensor, d_mu: Tensor, d_r: Tensor) -> Two:
    """Cotangent · d_mu and cotangent · d_r, which overflow only where the products do.

    Args:
        cotangent: one per element; 0 beside any slope gives 0.
        y: as for `value_cpu`.
        mu: as for `value_cpu`.
        r: as for `value_cpu`.
        d_mu: as `value_and_slopes_cpu` found it at (y, mu, r); may have overflowed.
        d_r: likewise.

    Returns:
        Two contiguous float64 tensors of the same shape.

    Example:
        >>> y, mu, r, small = torch.tensor([7.0, 2.0**-1030, 1.0, 2.0**-20], dtype=torch.float64)[:, None]
        >>> _, d_mu, d_r = value_and_slopes_cpu(y, mu, r)
        >>> d_mu.item(), (pull_back_cpu(small, y, mu, r, d_mu, d_r)[0] / 2.0**1010).item()
        (-inf, -7.0)
    """
    on_mu, on_r = results = empty(mu, 2)
    arguments = (*arrays(cotangent), arrays(y, mu, r), arrays(d_mu, d_r), arrays(*results))
    run_shared(pull_back_kernel, arguments, mu.numel(), PRODUCTS_PER_THREAD)
    return on_mu, on_r


def slopes_cpu(y: Tensor, mu: Tensor, r: Tensor) -> Four:
    """Both derivatives of -log pmf, and both times 2^-512, which overflow later.

    Arguments and edges are those of `value_and_slopes_cpu`.

    Example:
        >>> y, mu, r = torch.tensor([7.0, 2.0**-1030, 1.0], dtype=torch.float64)[:, None]
        >>> [(slope / 2.0**518).item() for slope in slopes_cpu(y, mu, r)[::2]]
        [-inf, -7.0]
    """
    _, d_mu, d_r = value_and_slopes_cpu(y, mu, r)
    factor = torch.full(mu.shape, SHRINK, dtype=torch.float64)
    far_mu, far_r = pull_back_cpu(factor, y, mu, r, d_mu, d_r)
    return d_mu, d_r, far_mu, far_r
