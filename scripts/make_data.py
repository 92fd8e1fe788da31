"""Regenerate the bundled real data (``refimpl/conformance/data``) from the published packages that carry it.

    python scripts/make_data.py             download, derive, write
    python scripts/make_data.py --check     download, derive, compare with the bundled arrays, write nothing
    python scripts/make_data.py --sources D use files already downloaded into D

The three packages are downloaded with pip and opened as archives; nothing of them is installed, but pip
builds the metadata of the source package (pybedtools). Where that fails, fetch its sdist by hand and use
``--sources``.
"""

import argparse
import csv
import hashlib
import random
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

DATA = Path(__file__).resolve().parent.parent / "refimpl" / "conformance" / "data"

BIN_WIDTH = 200
SPLIT_SEED = 20250101
COFFEE_STEP = 4
# the pair that agrees least, 16 spread over the run, those holding maximum and minimum, the constant one
FERMENTATION_PAIRS = (0, *range(60, 1561, 100), 750, 754, 1626)

# what pip is asked for, and whether as source
PACKAGES = (("pybedtools==0.12.1", True), ("chemotools==0.5.0", False), ("statsmodels==0.15.0", False))


class Source(NamedTuple):
    """One file inside one archive; the hash notices a changed source before it changes the tests."""

    archive: str
    member: str
    sha256: str


BED = Source(
    "pybedtools-0.12.1.tar.gz",
    "pybedtools-0.12.1/pybedtools/test/data/x.bed",
    "63a526ea45f9e6af78bc397016555d512cce463d0b9c181cd3e62b321dbd4298",
)
COFFEE = Source(
    "chemotools-0.5.0-*.whl",
    "chemotools/datasets/data/coffee_spectra.csv",
    "540fac378bb4842e6200b951c71923f8af3b2f3ddbde69941c124fa035f27212",
)
FERMENTATION = Source(
    "chemotools-0.5.0-*.whl",
    "chemotools/datasets/data/fermentation_spectra.csv",
    "31a68d3103f49728098056c4a145f4394a9d03e89df261792e5bdffef8fdb499",
)
RANDHIE = Source(
    "statsmodels-0.15.0-*.whl",
    "statsmodels/datasets/randhie/randhie.csv",
    "9f6c87d05aef087a82cc4465310c8cd3f38327be6eafa43bd81fb98c4f3d088c",
)

Arrays = dict[str, np.ndarray]


def download(folder: Path) -> None:
    """Fetch the three archives into ``folder`` with pip, without their dependencies."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]

    def fetch(arguments: list[str]) -> bool:
        # every argument is one of the constants above
        return subprocess.run([*pip, *arguments], check=False).returncode == 0  # noqa: S603

    for requirement, is_source in PACKAGES:
        print(f"downloading {requirement}", flush=True)
        name = requirement.split("==")[0]
        arguments = ["--no-binary", name, requirement] if is_source else [requirement]
        if not (fetch(arguments) or fetch(["--no-build-isolation", *arguments])):
            sys.exit(
                f"pip could not fetch {requirement}: put its archive into a folder, pass --sources FOLDER"
            )


def read(folder: Path, source: Source) -> str:
    """Text of one source file, from its archive in ``folder``."""
    archives = sorted(folder.glob(source.archive))
    if not archives:
        sys.exit(f"{folder} holds no {source.archive}")
    if archives[0].suffix == ".whl":
        with zipfile.ZipFile(archives[0]) as wheel:
            content = wheel.read(source.member)
    else:
        with tarfile.open(archives[0]) as sdist:
            handle = sdist.extractfile(source.member)
            content = handle.read() if handle else b""
    found = hashlib.sha256(content).hexdigest()
    if found != source.sha256:
        sys.exit(f"{archives[0].name}: {source.member} has sha256 {found}, expected {source.sha256}")
    return content.decode()


def table(text: str) -> np.ndarray:
    """Numbers below the header line of a comma-separated text."""
    return np.loadtxt(text.splitlines(), delimiter=",", skiprows=1)


def make_counts(bed: str) -> Arrays:
    """Count reads by start position in 200-bp bins; a fair seeded coin sends every read to one half."""
    starts = np.array([int(row[1]) for row in csv.reader(bed.splitlines(), delimiter="\t")])
    # Mersenne bits are the same in every Python version; numpy promises less
    coins = random.Random(SPLIT_SEED).getrandbits(starts.size)  # noqa: S311 - not cryptography
    first = np.array([bool(coins >> k & 1) for k in range(starts.size)])
    bins = int(starts.max()) // BIN_WIDTH + 1
    halves = (starts[first], starts[~first])
    y1, y2 = (np.bincount(half // BIN_WIDTH, minlength=bins).astype(np.int16) for half in halves)
    return {"y1": y1, "y2": y2}


def make_coffee(text: str) -> Arrays:
    """All 60 ATR-FTIR spectra at every fourth wavelength."""
    return {"spectra": table(text)[:, ::COFFEE_STEP].astype(np.float32)}


def make_fermentation(text: str) -> Arrays:
    """Twenty pairs of neighbouring Raman scans, all wavenumbers; rows 2k and 2k+1 are neighbours."""
    rows = [row for start in sorted(FERMENTATION_PAIRS) for row in (start, start + 1)]
    wavenumber = np.array([float(v) for v in text.splitlines()[0].split(",")], dtype=np.float32)
    return {
        "spectra": table(text)[rows].astype(np.float32),
        "source_row": np.array(rows, dtype=np.int16),
        "wavenumber": wavenumber,
    }


def make_randhie(text: str) -> Arrays:
    """All 20,190 counts of outpatient visits and their nine covariates."""
    values = table(text)
    return {"y": values[:, 0].astype(np.int16), "X": values[:, 1:]}


def derive(folder: Path) -> dict[str, Arrays]:
    """All data sets from the archives in ``folder``."""
    return {
        "counts": make_counts(read(folder, BED)),
        "coffee": make_coffee(read(folder, COFFEE)),
        "fermentation": make_fermentation(read(folder, FERMENTATION)),
        "randhie": make_randhie(read(folder, RANDHIE)),
    }


def differences(made: dict[str, Arrays]) -> list[str]:
    """What the bundled files say differently from ``made``: dtype, shape or any bit of an array."""
    found = []
    for name, arrays in made.items():
        with np.load(DATA / f"{name}.npz", allow_pickle=False) as bundled:
            if set(bundled.files) != set(arrays):
                found.append(f"{name}: arrays {sorted(bundled.files)}, made {sorted(arrays)}")
                continue
            for key, array in arrays.items():
                old = bundled[key]
                if old.dtype != array.dtype or old.shape != array.shape or old.tobytes() != array.tobytes():
                    found.append(f"{name}[{key!r}] differs")
    return found


def main() -> int:
    """Write the data, or compare with what is bundled."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the bundled arrays, write nothing")
    parser.add_argument("--sources", type=Path, help="folder with the archives, instead of downloading them")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.sources or Path(temporary)
        if options.sources is None:
            download(folder)
        made = derive(folder)
    if options.check:
        found = differences(made)
        print("\n".join(found) or "the bundled data are what the sources give")
        return 1 if found else 0
    for name, arrays in made.items():
        path = DATA / f"{name}.npz"
        np.savez_compressed(path, **arrays)
        print(f"{path.name:18} {path.stat().st_size:7d} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
