"""Large arrays in files without a name."""

import os

import numpy as np
import pytest

from dptrain.core import arrays


@pytest.mark.parametrize("large", [1, 1 << 40])
def test_an_array_holds_what_is_put_there(monkeypatch, tmp_path, large):
    monkeypatch.setattr(arrays, "LARGE", large)
    monkeypatch.setattr(arrays.tempfile, "tempdir", str(tmp_path))
    table = arrays.empty((3, 5), np.float32)
    table[:] = np.arange(15).reshape(3, 5)
    assert table.dtype == np.float32
    assert type(table) is np.ndarray
    assert table.sum() == 105
    assert not list(tmp_path.iterdir())  # nothing is left, whoever is killed


def test_a_full_disk_is_no_crash(monkeypatch):
    """Writing to a page that the disk has no room for would kill the process."""

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(arrays, "LARGE", 1)
    monkeypatch.setattr(os, "posix_fallocate", full)
    table = arrays.empty((4, 4))
    table[:] = 1
    assert table.sum() == 16
