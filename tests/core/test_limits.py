"""Tests of core.limits."""

import gzip
import io
import os
import zipfile

import numpy as np

from dptrain.config import compose
from dptrain.data import datasets, images
from tests.helpers.tables import refused_within


def npz(path, **arrays):
    np.savez(path, **arrays)
    return lambda: datasets.source(
        compose.load("sweep", ["dataset=npz", f"dataset.path={path}"]).dataset, 0
    )


def test_bombs_are_refused_before_memory_is_taken(tmp_path):
    refused_within(
        60,
        "a label is 10,000,000",
        npz(tmp_path / "a.npz", inputs=np.zeros((4, 2)), labels=np.array([0, 1, 0, 10**7])),
    )
    bomb = tmp_path / "b.npz"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "<f8", "fortran_order": False, "shape": (10**12, 8)}
        )
        archive.writestr("inputs.npy", header.getvalue() + bytes(800))
    refused_within(
        60,
        "does not fit its bytes|half of this machine",
        lambda: datasets.source(
            compose.load("sweep", ["dataset=npz", f"dataset.path={bomb}"]).dataset, 0
        ),
    )
    for name in ("train", "t10k"):
        head = bytes([0, 0, 8, 3]) + b"".join(int(d).to_bytes(4, "big") for d in (10, 4, 4))
        (tmp_path / f"{name}-images-idx3-ubyte.gz").write_bytes(
            gzip.compress(head + bytes(200_000_000), 1)
        )
        (tmp_path / f"{name}-labels-idx1-ubyte.gz").write_bytes(
            gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 10]) + bytes(10))
        )
    refused_within(60, "more than the 176 bytes", lambda: images.idx_parts(tmp_path))


def test_a_pipe_is_no_file(tmp_path):
    pipe = tmp_path / "pipe.npz"
    os.mkfifo(pipe)
    source = ["dataset=npz", f"dataset.path={pipe}"]
    refused_within(
        60, "no regular file", lambda: datasets.source(compose.load("sweep", source).dataset, 0)
    )
