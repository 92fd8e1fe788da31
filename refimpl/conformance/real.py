"""Windows of the bundled real data, rounded to the format under test."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from refimpl.conformance import data
from refimpl.conformance.formats import Format, round_to

__all__ = ["masked_spectra", "replicate_counts", "replicate_spectra"]

Real = NDArray[np.float64]


@lru_cache(maxsize=4)
def _spectra(name: str) -> Real:
    return np.asarray(data.spectra(name), dtype=np.float64)


@lru_cache(maxsize=1)
def _counts() -> tuple[Real, Real]:
    y1, y2 = data.counts()
    return y1.astype(np.float64), y2.astype(np.float64)


def masked_spectra(form: Format, row: int, columns: int, seed: int) -> tuple[Real, Real, NDArray[np.bool_]]:
    """Two Raman spectra, the next two as their reconstruction, and the 75 % mask of a masked autoencoder."""
    spectra = _spectra("fermentation")[:, :: max(1, 1047 // columns)]
    x, x_recon = spectra[row : row + 2], spectra[row + 2 : row + 4]
    mask = np.random.default_rng(seed).random(x.shape) < 0.75
    return round_to(x_recon, form), round_to(x, form), mask


def replicate_spectra(form: Format, row: int, columns: int) -> tuple[Real, Real]:
    """Scans row, row + 2, row + 4 of a fermentation and their neighbours row + 1, row + 3, row + 5."""
    spectra = _spectra("fermentation")[row : row + 6, :: max(1, 1047 // columns)]
    return round_to(spectra[::2], form), round_to(spectra[1::2], form)


def replicate_counts(form: Format, start: int, count: int) -> tuple[Real, Real, Real]:
    """Reads of two pseudoreplicates in a window of the genome, and a running mean of the second as model."""
    y1, y2 = (np.floor(round_to(y[start : start + count], form)) for y in _counts())
    mean = np.convolve(y2, np.full(5, 0.2), mode="same") + 0.05
    return y1, y2, round_to(mean, form)
