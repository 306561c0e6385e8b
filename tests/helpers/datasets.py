"""Small files in the formats of the named data sets."""

import hashlib
import io
import tarfile

import numpy as np

from dptrain.config import compose
from dptrain.data import datasets, download
from dptrain.data.download import Remote

RNG = np.random.default_rng(0)


def chosen(name, *more):
    return compose.load(
        "sweep", [f"dataset={name}", "training.batch_size=20", "privacy.delta=1e-5", *more]
    ).dataset


def blob(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def archive(path, files):
    with tarfile.open(path, "w:gz") as out:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            out.addfile(entry, io.BytesIO(content))
    return f"sha256:{download.digest(path, 'sha256')}"


def write_location30(folder, monkeypatch):
    """300 rows in the format of Location-30."""
    rows = [f'"{n % 30 + 1}",' + ",".join(map(str, RNG.integers(0, 2, 446))) for n in range(300)]
    checksum = archive(folder / "dataset_location.tgz", {"bangkok": "\n".join(rows).encode()})
    remote = Remote("dataset_location.tgz", "http://none", checksum)
    monkeypatch.setattr(datasets, "LOCATION", remote)


def write_adult(folder, monkeypatch):
    """260 people in the two files of Adult, 50 of whom stand in both."""

    def row(n, end):
        return (
            f"{20 + n % 50}, {['Private', '?'][n % 3 == 0]}, {n}, HS-grad, 9, x, y, z, "
            f"White, Male, 0, 0, 40, Here, {['<=50K', '>50K'][n % 2]}{end}"
        )

    (folder / "adult.data").write_text("\n".join(row(n, "") for n in range(200)) + "\n\n")
    (folder / "adult.test").write_text(
        "|1x3 Cross validator\n" + "\n".join(row(n, ".") for n in range(150, 260)) + "\n"
    )
    files = [
        Remote(name, "http://none", f"md5:{download.digest(folder / name, 'md5')}")
        for name in ("adult.data", "adult.test")
    ]
    monkeypatch.setattr(datasets, "ADULT", files)


FILES = {"adult": write_adult, "location30": write_location30}
