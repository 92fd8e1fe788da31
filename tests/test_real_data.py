"""The bundled real data are what their README says."""

from importlib.resources import files

import numpy as np
import pytest

from refimpl.conformance import data


def correlation(a, b):
    return np.corrcoef(a, b)[0, 1]


def test_counts_are_two_halves_of_the_same_reads():
    y1, y2 = data.counts()
    assert y1.shape == y2.shape == (25_000,)
    assert y1.dtype == y2.dtype == np.int32
    assert min(y1.min(), y2.min()) == 0
    assert y1.sum() + y2.sum() == 46_624


def test_counts_have_the_documented_shape():
    y1, y2 = data.counts()
    assert (y1.max(), y2.max()) == (168, 151)
    assert y1.argmax() == y2.argmax()
    for y in (y1, y2):
        assert 0.862 < np.mean(y == 0) < 0.864
        assert 30 < y.var() / y.mean() < 33
    assert 0.964 < correlation(y1, y2) < 0.965


def test_halves_look_like_a_fair_coin():
    y1, y2 = data.counts()
    reads = int(y1.sum() + y2.sum())
    # four standard deviations of a fair binomial split
    assert abs(int(y1.sum()) - reads / 2) < 4 * np.sqrt(reads) / 2
    # a fair split has variance y1 + y2 in every bin: the mean square over the busy bins is near 1
    busy = (y1 + y2) > 20
    z2 = (y1 - y2)[busy] ** 2 / (y1 + y2)[busy]
    assert abs(z2.mean() - 1) < 4 * np.sqrt(2 / busy.sum())


def test_coffee_spectra():
    rows = data.spectra("coffee")
    assert rows.shape == (60, 461)
    assert rows.dtype == np.float32
    assert np.isfinite(rows).all()
    assert -0.003 < rows.min() < 0 < rows.max() < 1.09
    assert all(np.corrcoef(rows[start : start + 20]).min() > 0.99 for start in (0, 20, 40))


def test_fermentation_spectra_are_neighbouring_pairs():
    rows = data.spectra("fermentation")
    assert rows.shape == (40, 1_047)
    assert rows.dtype == np.float32
    assert np.isfinite(rows).all()
    assert (rows.min(), rows.max()) == (np.float32(-4064.142857), np.float32(2401.166667))
    agreement = [correlation(rows[2 * k], rows[2 * k + 1]) for k in range(19)]
    assert 0.915 < agreement[0] < 0.916
    assert min(agreement[1:]) > 0.999


def test_last_two_raman_scans_are_identical_constants():
    rows = data.spectra("fermentation")
    assert (rows[-2:] == 1).all()
    assert all((rows[2 * k] != rows[2 * k + 1]).any() for k in range(19))


def test_last_28_raman_wavenumbers_are_empty():
    rows = data.spectra("fermentation")[:-2]
    assert (rows[:, -28:] == 0).all()
    assert (rows[:, -29] != 0).any()


def test_randhie():
    y, X = data.randhie()
    assert (y.shape, y.dtype) == ((20_190,), np.int32)
    assert (X.shape, X.dtype) == ((20_190, 9), np.float64)
    assert (y.min(), y.max()) == (0, 77)
    assert 0.312 < np.mean(y == 0) < 0.313
    assert 20.2 < y.var() < 20.3
    assert np.isfinite(X).all()


def test_loaders_give_fresh_arrays():
    first, _ = data.counts()
    first[:] = -1
    assert data.counts()[0].min() == 0


def test_unknown_spectra_are_refused():
    with pytest.raises(ValueError, match=r"'milk'.*'coffee', 'fermentation'"):
        data.spectra("milk")


def test_files_are_small_and_attributed():
    folder = files(data)
    archives = [entry for entry in folder.iterdir() if entry.name.endswith(".npz")]
    sizes = {entry.name: len(entry.read_bytes()) for entry in archives}
    assert sorted(sizes) == ["coffee.npz", "counts.npz", "fermentation.npz", "randhie.npz"]
    assert max(sizes.values()) < 200_000
    assert sum(sizes.values()) < 500_000
    readme = folder.joinpath("README.md").read_text(encoding="utf-8")
    assert all(
        name in readme for name in [*sizes, "pseudoreplicates", "Ryan Dale", "Pau Cabaneros", "public domain"]
    )
