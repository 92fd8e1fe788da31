"""The negative-binomial CDF and both first derivatives on the CPU: one compiled pass, vectorised by blocks.

Elements queue up by region; whenever LANES of one region are waiting, its code runs over them at once. The
code is the same in every lane and every block, so that an element's result depends neither on its neighbours
nor on how many threads share the work. Edges and formulas are those of the plain-torch `negative_binomial`.

Importing this module loads Numba. The first call ever compiles and keeps the result in Numba's cache; the
next process loads it. Numba looks for changes in this file only, therefore the digest of all files whose code
is inlined is part of the cache's key.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from torchimpl.kernels.elementary_cpu import CONTRACT, floor, inlined
from torchimpl.kernels.negative_binomial import (
    FRACTION_LIMIT,
    LARGEST,
    LINEAR_STEPS,
)
from torchimpl.kernels.negative_binomial_cpu_fraction import fraction
from torchimpl.kernels.negative_binomial_cpu_lanes import (
    CDF,
    D_MU,
    D_R,
    GROWTH,
    LANES,
    MU,
    SF,
    SIZE,
    B,
    R,
    room_for_sums,
    stage,
)
from torchimpl.kernels.negative_binomial_cpu_regions import quadrature, series, zero_count
from torchimpl.kernels.negative_binomial_regions import Partials

# elements classified at a time
CHUNK = 2048
# below so many elements a second thread costs more than it brings
ELEMENTS_PER_THREAD = 1 << 14
SOURCES = (
    "elementary_cpu",
    "negative_binomial",
    "negative_binomial_constants",
    "negative_binomial_cpu",
    "negative_binomial_cpu_fraction",
    "negative_binomial_cpu_lanes",
    "negative_binomial_cpu_regions",
    "negative_binomial_fraction",
    "negative_binomial_regions",
)

# regions; the fraction has one for each number of terms
ZERO_COUNT, SERIES, QUADRATURE, FRACTION = range(4)
TERMS = (6, 10, 13, 16, 20, 27, 40, 80)
TERMS_0, TERMS_1, TERMS_2, TERMS_3, TERMS_4, TERMS_5, TERMS_6, _ = TERMS
# k·x, for small r: the series loses digits above the first (at 1 and below, what lies beyond a term of the
# fraction cannot be estimated), the fraction needs 80, 40 and 24 terms up to and beyond the others
SERIES_LIMIT, LONG_LIMIT, MEDIUM_LIMIT = 1.125, 1.5, 3.0
TERMS_TABLE = np.array(TERMS)
REGIONS = FRACTION + len(TERMS)
EDGE = -1

(STEP_0, FACTOR_0), (STEP_1, FACTOR_1) = LINEAR_STEPS


@inlined
def linear_growth(mu: float, r: float) -> float:
    """The exact factor by which (mu, r) may grow where the law is linear in them; 1 almost everywhere."""
    size = mu + r
    return (FACTOR_0 if size < STEP_0 else 1.0) * (FACTOR_1 if size < STEP_1 else 1.0)


@inlined
def bucket(needed: float) -> int:
    """The fraction's region with at least so many terms."""
    more = (1 if needed > TERMS_0 else 0) + (1 if needed > TERMS_1 else 0) + (1 if needed > TERMS_2 else 0)
    more += (1 if needed > TERMS_3 else 0) + (1 if needed > TERMS_4 else 0) + (1 if needed > TERMS_5 else 0)
    more += 1 if needed > TERMS_6 else 0
    return FRACTION + more


# IEEE to the letter: this loop has a remainder, whose elements must come out as all others
@njit(error_model="numpy", nogil=True)
def classify(y: np.ndarray, mu: np.ndarray, r: np.ndarray, start: int, count: int, found: np.ndarray) -> None:
    """The region that answers for each of `count` elements from `start` on."""
    for i in range(count):
        k, mu_i, r_i = floor(y[start + i]), mu[start + i], r[start + i]
        inside = (mu_i > 0.0) & (mu_i < math.inf) & (r_i > 0.0) & (k >= 0.0) & (k < math.inf)
        growth = linear_growth(mu_i, r_i)
        mu_i, r_i = mu_i * growth, min(r_i, LARGEST) * growth
        room = room_for_sums(max(mu_i, r_i))
        x = room * r_i / (room * r_i + room * mu_i)
        b = k + 1.0
        least = min(r_i, b)
        needed = 8.0 + 2.6 * math.sqrt(least)
        small = 80.0 if k * x < LONG_LIMIT else (40.0 if k * x < MEDIUM_LIMIT else 24.0)
        needed = min(needed, b) if mu_i >= b else (small if r_i < 6.0 else needed)
        region = QUADRATURE if least > FRACTION_LIMIT else bucket(needed)
        region = SERIES if (r_i < 2.0) & (x < 0.5) & (k * x <= SERIES_LIMIT) else region
        region = ZERO_COUNT if k == 0.0 else region
        found[i] = region if inside else EDGE


@stage
def run_region(region: int, w: np.ndarray) -> None:
    """Evaluate one region over all lanes."""
    if region == ZERO_COUNT:
        zero_count(w)
    elif region == SERIES:
        series(w)
    elif region == QUADRATURE:
        quadrature(w)
    else:
        fraction(w, TERMS_TABLE[region - FRACTION])


@stage
def prepare(w: np.ndarray) -> None:
    """From counts, means and dispersions as given to what the regions take."""
    for i in range(LANES):
        growth = linear_growth(w[MU + i], w[R + i])
        w[GROWTH + i] = growth
        w[B + i] = floor(w[B + i]) + 1.0
        w[MU + i] *= growth
        w[R + i] = min(w[R + i], LARGEST) * growth


@inlined
def evaluate_edge(y: float, mu: float, r: float) -> tuple[float, float, float]:
    """F, S and dF/dmu where no region answers; dF/dr is 0 or, with the others, NaN."""
    count = floor(y)
    valid = mu >= 0.0 and mu < math.inf and r > 0.0 and count == count  # noqa: PLR0124 - not NaN
    if not valid:
        return math.nan, math.nan, math.nan
    above = 1.0 if count >= 0.0 else 0.0
    return above, 1.0 - above, (-1.0 if mu == 0.0 and count == 0.0 else 0.0)


def digest() -> str:
    """One digest of all sources that end up in the compiled kernel."""
    here = Path(__file__).parent
    content = b"".join((here / f"{name}.py").read_bytes() for name in SOURCES)
    return hashlib.sha256(content).hexdigest()


def compiled(key: str) -> Any:
    """The kernel; Numba looks its cache up by the value of `key`, because the kernel's closure holds it."""

    @njit(error_model="numpy", fastmath=set(CONTRACT), nogil=True, cache=True)
    def kernel(
        y: np.ndarray,
        mu: np.ndarray,
        r: np.ndarray,
        cdf: np.ndarray,
        sf: np.ndarray,
        d_mu: np.ndarray,
        d_r: np.ndarray,
        start: int,
        stop: int,
    ) -> int:
        w = np.empty(SIZE)
        found = np.empty(CHUNK, np.int64)
        queues = np.empty((REGIONS, LANES), np.int64)
        waiting = np.zeros(REGIONS, np.int64)
        for first in range(start, stop, CHUNK):
            count = min(CHUNK, stop - first)
            classify(y, mu, r, first, count, found)
            for i in range(count):
                region, index = found[i], first + i
                if region == EDGE:
                    cdf[index], sf[index], d_mu[index] = evaluate_edge(y[index], mu[index], r[index])
                    d_r[index] = 0.0 * cdf[index]
                    continue
                queues[region, waiting[region]] = index
                waiting[region] += 1
                if waiting[region] == LANES:
                    flush(region, LANES, queues[region], w, y, mu, r, cdf, sf, d_mu, d_r)
                    waiting[region] = 0
        for region in range(REGIONS):
            if waiting[region] > 0:
                flush(region, waiting[region], queues[region], w, y, mu, r, cdf, sf, d_mu, d_r)
        return len(key)

    return kernel


@stage
def flush(
    region: int,
    count: int,
    queue: np.ndarray,
    w: np.ndarray,
    y: np.ndarray,
    mu: np.ndarray,
    r: np.ndarray,
    cdf: np.ndarray,
    sf: np.ndarray,
    d_mu: np.ndarray,
    d_r: np.ndarray,
) -> None:
    """Gather the elements that wait, evaluate them, scatter the results."""
    for i in range(LANES):
        # idle lanes repeat the last element
        index = queue[min(i, count - 1)]
        w[B + i], w[MU + i], w[R + i] = y[index], mu[index], r[index]
    prepare(w)
    run_region(region, w)
    for i in range(count):
        index = queue[i]
        cdf[index], sf[index] = w[CDF + i], w[SF + i] / w[GROWTH + i]
        d_mu[index] = w[D_MU + i]
        d_r[index] = 0.0 if r[index] == math.inf else w[D_R + i]


kernel = compiled(digest())


def evaluate_cpu(y: Tensor, mu: Tensor, r: Tensor) -> Partials:
    """F, S, dF/dmu, dF/dr at floor(y), for float64 CPU tensors of one shape and any layout.

    Edges are those of `torchimpl.kernels.negative_binomial.evaluate`. Work is shared among
    `torch.get_num_threads()` threads; the result is the same, bit for bit, for any number of them.

    Args:
        y: counts, any value.
        mu: means; below 0, NaN and inf give NaN.
        r: dispersions; 0 and below and NaN give NaN, inf is the Poisson limit.

    Returns:
        Four contiguous float64 tensors of the same shape.

    Example:
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> [value.item() for value in evaluate_cpu(0 * one, one, one)[:3]]
        [0.5, 0.5, -0.25]
    """
    results = Partials(*(torch.empty(mu.shape, dtype=torch.float64) for _ in range(4)))
    inputs = [t.detach().contiguous().view(-1).numpy() for t in (y, mu, r)]
    arrays = (*inputs, *(t.view(-1).numpy() for t in results))
    size = mu.numel()
    parts = max(1, min(torch.get_num_threads(), size // ELEMENTS_PER_THREAD))
    if parts == 1:
        kernel(*arrays, 0, size)
        return results
    borders = [size * part // parts for part in range(parts + 1)]
    tasks: list[tuple[Any, ...]] = [(*arrays, a, b) for a, b in itertools.pairwise(borders)]
    # threads of this call only: nothing is left that a fork could inherit
    with ThreadPoolExecutor(parts - 1) as pool:
        others = [pool.submit(kernel, *task) for task in tasks[1:]]
        kernel(*tasks[0])
        for other in others:
            other.result()
    return results
