"""DATASETS: by name, what is public about each and how to read it."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import tarfile
from collections.abc import Callable

import numpy as np
import pandas as pd
from jaxtyping import Shaped

from dptrain.config.schema import DatasetConfig
from dptrain.core import plugins
from dptrain.core.errors import DataError
from dptrain.data import images, table_files
from dptrain.data.download import Remote, combined_digest, obtain
from dptrain.data.splits import Examples, Source

Declared = Callable[[DatasetConfig, int], Source]
GITHUB = "https://github.com/"
LOCATION = Remote(
    "dataset_location.tgz",
    GITHUB
    + "privacytrustlab/datasets/raw/169de9de00de049dd2e571cf7279e64698ac046a/dataset_location.tgz",
    "sha256:927203f85a868f8ee17a0ded1dc61699efe602167beabe34fbf45b4b1de94b33",
)
HUNDRED = (
    GITHUB
    + "xehartnort/Purchase100-Texas100-datasets/raw/a30298a45311a2cdc538a8110e7ad0a4d8729250/"
)
PURCHASE = Remote(
    "purchase100.npz", f"{HUNDRED}purchase100.npz", "git:aa8b5b1d2f4066c2144959bdf2e284031b199e39"
)
TEXAS = Remote(
    "texas100.npz", f"{HUNDRED}texas100.npz", "git:b9be7604db17e9b09ee1b53e2e7c715186c0ff19"
)
UCI = "https://archive.ics.uci.edu/ml/machine-learning-databases/adult/"
ADULT = [
    Remote(
        "adult.data",
        f"{UCI}adult.data",
        "sha256:5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d",
    ),
    Remote(
        "adult.test",
        f"{UCI}adult.test",
        "sha256:a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05",
    ),
]
ADULT_COLUMNS = (
    "age",
    "workclass",
    "fnlwgt",
    "education",
    "education_num",
    "marital_status",
    "occupation",
    "relationship",
    "race",
    "sex",
    "capital_gain",
    "capital_loss",
    "hours_per_week",
    "native_country",
    "income",
)


def _adult_frame(config: DatasetConfig) -> pd.DataFrame:
    """Both parts of UCI's files, 48,842 rows."""
    files = obtain("adult", ADULT, config.path)
    text = "".join(file.read_text().replace("|1x3 Cross validator\n", "") for file in files)
    rows = [
        [value.strip() for value in row]
        for row in csv.reader(io.StringIO(text), skipinitialspace=True)
        if row
    ]
    frame = pd.DataFrame(rows, columns=list(ADULT_COLUMNS)).replace("?", np.nan)
    frame["income"] = frame["income"].str.rstrip(".")
    frame.attrs |= {"target": "income", "digest": combined_digest(files)}
    return frame


def _breast_cancer_frame(config: DatasetConfig) -> pd.DataFrame:
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    frame = pd.DataFrame(bunch.data, columns=bunch.feature_names).assign(target=bunch.target)
    frame.attrs |= {"target": "target", "digest": hashlib.sha256(bunch.data.tobytes()).hexdigest()}
    return frame


def _location30(config: DatasetConfig, seed: int) -> Source:
    """446 binary features of visits; the first column is the class, from 1 (Shokri et al. 2017)."""
    [path] = obtain("location30", [LOCATION], config.path)
    with tarfile.open(path) as archive:
        file = next(
            part for part in map(archive.extractfile, archive.getmembers()) if part is not None
        )
        rows = [[int(value) for value in row] for row in csv.reader(io.TextIOWrapper(file))]
    values = np.array(rows)
    return _binary(values[:, 1:], values[:, 0] - 1, 30, combined_digest([path]))


def _hundred(name: str, remote: Remote) -> Declared:
    def declared(config: DatasetConfig, seed: int) -> Source:
        [path] = obtain(name, [remote], config.path)
        with np.load(path, allow_pickle=False) as arrays:
            return _binary(
                arrays["features"], arrays["labels"].argmax(1), 100, combined_digest([path])
            )

    return declared


def _binary(
    features: Shaped[np.ndarray, "N F"], labels: Shaped[np.ndarray, " N"], classes: int, digest: str
) -> Source:
    examples = Examples(features.astype(np.float32), labels.astype(np.int64))
    return Source(
        "binary features as they are, nothing fitted",
        features.shape[1:],
        classes,
        len(labels),
        lambda: examples,
        digest,
    )


def _digits(config: DatasetConfig, seed: int) -> Source:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    inputs = (bunch.data.astype(np.float32) / 8 - 1).reshape(-1, 1, 8, 8)
    examples = Examples(inputs, bunch.target.astype(np.int64))
    return Source(images.CONSTANTS, (1, 8, 8), 10, len(inputs), lambda: examples)


def _blank(config: DatasetConfig, seed: int) -> Source:
    def read() -> Examples:
        return Examples(
            np.zeros((10_000, 1024), dtype=np.float32), np.arange(10_000, dtype=np.int64) % 2
        )

    return Source("all inputs are zero, nothing fitted", (1024,), 2, 10_000, read)


FRAMES: dict[str, Callable[[DatasetConfig], pd.DataFrame]] = {
    **table_files.FRAMES,
    "adult": _adult_frame,
    "breast_cancer": _breast_cancer_frame,
}
"""How to read those data sets that are tables; attrs["target"] of a frame is its usual target."""

DATASETS: dict[str, Declared] = {
    "mnist5k": images.mnist5k,
    "mnist": images.mnist,
    "fashion_mnist": images.fashion_mnist,
    "cifar10": images.cifar("cifar10", images.CIFAR10, 10),
    "cifar100": images.cifar("cifar100", images.CIFAR100, 100),
    "location30": _location30,
    "purchase100": _hundred("purchase100", PURCHASE),
    "texas100": _hundred("texas100", TEXAS),
    "digits": _digits,
    **{name: table_files.tabular(read) for name, read in FRAMES.items()},
    "idx": images.idx,
    "npz": images.npz,
    "blank": _blank,
}
"""Each takes the `dataset` part of a configuration and the seed of the split, and raises
DataError where a file is absent or wrong. Other packages add theirs by the entry point group
`dptrain.datasets`.
"""


FRAME = "frame"
"""Name of a frame of this program that was given none."""


def hold(name: str, frame: pd.DataFrame) -> None:
    """Make a frame of this program the data set `name`. Raises DataError where there is another."""
    if name in DATASETS and name not in HELD:
        raise DataError(f"{name!r} is a data set already; choose another name", "name")
    HELD[name] = frame
    FRAMES[name] = lambda config: HELD[config.name]
    DATASETS[name] = table_files.tabular(FRAMES[name])


HELD: dict[str, pd.DataFrame] = {}
"""The frames of this program, by the name of the data set."""


def names() -> list[str]:
    """Of all data sets, those of other packages too."""
    return plugins.known("datasets", DATASETS)


def code_of(name: str) -> str:
    """The source of a data set that is not ours."""
    return plugins.code_of(plugins.find("datasets", DATASETS, name))


def source(config: DatasetConfig, seed: int) -> Source:
    """What is public about a data set. Raises DataError."""
    if config.name not in names():
        frame = "; a frame of another program has to be given again, frame=TABLE"
        raise DataError(
            f"unknown data set {config.name!r}; choose from {', '.join(sorted(names()))}"
            f"{frame * (config.name == FRAME)}",
            "name",
        )
    declared = plugins.find("datasets", DATASETS, config.name)(config, seed)
    if declared.digest or not code_of(config.name):
        return declared
    # Nobody vouches for what a data set of a program reads, so its content does.
    examples = declared.read()
    content = hashlib.sha256()
    for array in (examples.inputs, examples.labels):
        content.update(repr((array.shape, array.dtype)).encode())
        content.update(np.ascontiguousarray(array).tobytes())
    return dataclasses.replace(declared, read=lambda: examples, digest=content.hexdigest())
