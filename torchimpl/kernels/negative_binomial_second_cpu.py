"""Second derivatives of the negative-binomial CDF on the CPU: one compiled pass, vectorised by blocks.

All three are analytic: second-order jets in r go through the same formulas as F itself. How elements queue up
by region and how threads share them is as in `negative_binomial_cpu`; an element's result depends neither on
its neighbours nor on the number of threads.

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
from torchimpl.kernels.elementary_cpu import CONTRACT, floor, inlined
from torchimpl.kernels.negative_binomial_cpu import (
    CHUNK,
    EDGE,
    FRACTION,
    QUADRATURE,
    REGIONS,
    SERIES,
    SOURCES,
    TERMS,
    TERMS_TABLE,
    ZERO_COUNT,
    classify,
    prepare,
)
from torchimpl.kernels.negative_binomial_cpu_lanes import GROWTH, LANES, MU, B, R, stage
from torchimpl.kernels.negative_binomial_second_cpu_fraction import fraction_second
from torchimpl.kernels.negative_binomial_second_cpu_regions import (
    D_MU_MU,
    D_MU_R,
    D_R_R,
    SECOND_SIZE,
    quadrature_second,
    series_second,
    zero_count_second,
)

Three = tuple[Tensor, Tensor, Tensor]
# below so many elements a further thread costs more than it brings
ELEMENTS_PER_THREAD = 1 << 13
# the fraction with so many terms reaches min(r, b) up to here, and the quadrature needs more than 48
LONG_TERMS, LONG_LIMIT = 40, 96.0
LONG_FRACTION = FRACTION + TERMS.index(LONG_TERMS)
SECOND_SOURCES = (
    *SOURCES,
    "compiled",
    "negative_binomial_second_cpu",
    "negative_binomial_second_cpu_fraction",
    "negative_binomial_second_cpu_regions",
)


@inlined
def second_region(region: int, k: float, r: float) -> int:
    """The region that answers for second derivatives, from the one that answers for F."""
    if region == QUADRATURE:
        return QUADRATURE if min(r, k + 1.0) > LONG_LIMIT else LONG_FRACTION
    # a lower tail and small r: derivatives take longer to converge than the fraction itself
    more = (region == LONG_FRACTION or region == LONG_FRACTION - 1) and r < 6.0
    return region + 1 if more else region


@inlined
def edge_curvature(y: float, mu: float, r: float) -> tuple[float, float]:
    """d²F/dmu² where no region answers, and the other two derivatives: 0, or NaN at invalid arguments.

    mu = 0: dF/dmu = -1 + (r+1)/r mu - ... at count 0, and -(r+1)/r mu + ... at count 1.
    """
    k = floor(y)
    valid = mu >= 0.0 and mu < math.inf and r > 0.0 and k == k  # noqa: PLR0124 - not NaN
    if not valid:
        return math.nan, math.nan
    if mu > 0.0 or k < 0.0 or k > 1.0:
        return 0.0, 0.0
    return (1.0 + 1.0 / r if k == 0.0 else -1.0 - 1.0 / r), 0.0


@stage
def run_region(region: int, w: np.ndarray) -> None:
    """Evaluate one region over all lanes."""
    if region == ZERO_COUNT:
        zero_count_second(w)
    elif region == SERIES:
        series_second(w)
    elif region == QUADRATURE:
        quadrature_second(w)
    else:
        fraction_second(w, TERMS_TABLE[region - FRACTION])


@stage
def flush(
    region: int,
    count: int,
    queue: np.ndarray,
    w: np.ndarray,
    inputs: tuple[np.ndarray, ...],
    results: tuple[np.ndarray, ...],
) -> None:
    """Gather the elements that wait, evaluate them, scatter the results."""
    y, mu, r = inputs
    d_mu_mu, d_mu_r, d_r_r = results
    for i in range(LANES):
        # idle lanes repeat the last element
        index = queue[min(i, count - 1)]
        w[B + i], w[MU + i], w[R + i] = y[index], mu[index], r[index]
    prepare(w)
    run_region(region, w)
    for i in range(count):
        index = queue[i]
        # where the law is linear in (mu, r), second derivatives are of degree -1 in them
        growth, poisson = w[GROWTH + i], r[index] == math.inf
        d_mu_mu[index] = w[D_MU_MU + i] * growth
        d_mu_r[index] = 0.0 if poisson else w[D_MU_R + i] * growth
        d_r_r[index] = 0.0 if poisson else w[D_R_R + i] * growth


def compiled(key: str) -> Any:
    """The kernel; Numba looks its cache up by the value of `key`, because the kernel's closure holds it."""

    @njit(error_model="numpy", fastmath=set(CONTRACT), nogil=True, cache=True)
    def kernel(inputs: tuple[np.ndarray, ...], results: tuple[np.ndarray, ...], start: int, stop: int) -> int:
        y, mu, r = inputs
        w = np.empty(SECOND_SIZE)
        found = np.empty(CHUNK, np.int64)
        queues = np.empty((REGIONS, LANES), np.int64)
        waiting = np.zeros(REGIONS, np.int64)
        for first in range(start, stop, CHUNK):
            count = min(CHUNK, stop - first)
            classify(y, mu, r, first, count, found)
            for i in range(count):
                region, index = found[i], first + i
                if region == EDGE:
                    results[0][index], flat = edge_curvature(y[index], mu[index], r[index])
                    results[1][index] = results[2][index] = flat
                    continue
                region = second_region(region, floor(y[index]), r[index])
                queues[region, waiting[region]] = index
                waiting[region] += 1
                if waiting[region] == LANES:
                    flush(region, LANES, queues[region], w, inputs, results)
                    waiting[region] = 0
        for region in range(REGIONS):
            if waiting[region] > 0:
                flush(region, waiting[region], queues[region], w, inputs, results)
        return len(key)

    return kernel


kernel = compiled(digest_of(SECOND_SOURCES))


def second_cpu(y: Tensor, mu: Tensor, r: Tensor) -> Three:
    """(d²F/dmu², d²F/dmu dr, d²F/dr²) at floor(y), for float64 CPU tensors of one shape and any layout.

    d²F/dmu² = dF/dmu · (x (k-mu)/mu - 1/(r+mu)), d²F/dmu dr = dF/dmu · d log f0/dr; d²F/dr² is the second
    derivative of what evaluates F. Edges are those of `second_partials`. Work is shared among
    `torch.get_num_threads()` threads; the result is the same, bit for bit, for any number of them.

    Args:
        y: counts, any value.
        mu: means; below 0, NaN and inf give NaN.
        r: dispersions; 0 and below and NaN give NaN; inf is the Poisson limit, without derivatives in r.

    Returns:
        Three contiguous float64 tensors of the same shape.

    Example:
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> second_cpu(0 * one, one, one)[0].item()
        0.25
    """
    results = tuple(torch.empty(mu.shape, dtype=torch.float64) for _ in range(3))
    inputs = tuple(t.detach().contiguous().view(-1).numpy() for t in (y, mu, r))
    outputs = tuple(t.view(-1).numpy() for t in results)
    run_shared(kernel, (inputs, outputs), mu.numel(), ELEMENTS_PER_THREAD)
    d_mu_mu, d_mu_r, d_r_r = results
    return d_mu_mu, d_mu_r, d_r_r
