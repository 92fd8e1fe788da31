"""Real counts and spectra, bundled as small derived files.

``README.md`` beside this module says where each comes from, under which licence, and what was done to it;
``scripts/make_data.py`` makes the files again.
"""

from importlib.resources import files

import numpy as np

__all__ = ["counts", "randhie", "spectra"]

SPECTRA = ("coffee", "fermentation")


def _load(name: str, *keys: str) -> tuple[np.ndarray, ...]:
    with files(__package__).joinpath(f"{name}.npz").open("rb") as stream, np.load(stream) as archive:
        return tuple(archive[key] for key in keys)


def counts() -> tuple[np.ndarray, np.ndarray]:
    """Read counts of 25,000 genomic bins, split into two pseudoreplicates.

    Returns:
        Two int32 arrays of shape (25000,): the same bins in both halves of the reads.

    Example:
        >>> y1, y2 = counts()
        >>> y1.shape, int(y1.sum() + y2.sum())
        ((25000,), 46624)
    """
    y1, y2 = _load("counts", "y1", "y2")
    return y1.astype(np.int32), y2.astype(np.int32)


def spectra(name: str) -> np.ndarray:
    """Measured spectra, one a row.

    Args:
        name: ``"coffee"`` (60 infrared spectra, 461 wavelengths, twenty of each of three origins) or
            ``"fermentation"`` (40 Raman spectra, 1,047 wavenumbers; rows 2k and 2k+1 are neighbouring
            scans of one run; the last two are constant 1.0 in the source).

    Returns:
        A float32 array of shape (rows, wavelengths).

    Raises:
        ValueError: for another name.

    Example:
        >>> spectra("fermentation").shape
        (40, 1047)
    """
    if name not in SPECTRA:
        raise ValueError(f"name is {name!r}, allowed are {', '.join(map(repr, SPECTRA))}")
    (rows,) = _load(name, "spectra")
    return rows


def randhie() -> tuple[np.ndarray, np.ndarray]:
    """Visits to a doctor in the RAND health insurance experiment: a real negative-binomial regression.

    Returns:
        ``y`` int32 of shape (20190,), and ``X`` float64 of shape (20190, 9) with the columns lncoins, idp,
        lpi, fmde, physlm, disea, hlthg, hlthf, hlthp.

    Example:
        >>> y, X = randhie()
        >>> int(y.max()), X.shape
        (77, (20190, 9))
    """
    y, X = _load("randhie", "y", "X")
    return y.astype(np.int32), X
