"""Artefacts: atomic, verified, never half there."""

import contextlib
import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from dptrain.core import store
from dptrain.core.store import (
    Store,
    code_fingerprint,
    fingerprint,
    from_npy,
    to_json,
    to_npy,
    write_atomic,
)


def test_round_trip(tmp_path):
    place = Store(tmp_path)
    assert place.read("model", "k") is None
    place.write("model", "k", {"a.bin": b"1", "b.npy": to_npy(np.arange(3))})
    files = place.read("model", "k")
    assert files["a.bin"] == b"1"
    assert from_npy(files["b.npy"]).tolist() == [0, 1, 2]


def test_arrays_are_the_same_files_and_are_mapped(tmp_path):
    """Byte for byte what to_npy gives, and read from the file itself."""
    place, table = Store(tmp_path), np.arange(12.0).reshape(3, 4)
    place.write("attack", "k", {"a.npy": table, "b.npy": table[:, ::2].astype(np.int32)})
    files = place.read("attack", "k")
    assert files["a.npy"] == to_npy(table)
    arrays = place.arrays("attack", "k")
    np.testing.assert_array_equal(arrays["a.npy"], table)
    np.testing.assert_array_equal(arrays["b.npy"], from_npy(files["b.npy"]))
    assert type(arrays["a.npy"]) is np.ndarray
    assert not arrays["a.npy"].flags.writeable


@pytest.mark.parametrize(
    "table",
    [
        np.zeros((0, 3)),
        np.array(5.0),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(3, dtype=">i4"),
    ],
)
def test_arrays_of_every_layout_come_back(tmp_path, table):
    place = Store(tmp_path)
    place.write("attack", "k", {"a.npy": table})
    np.testing.assert_array_equal(place.arrays("attack", "k")["a.npy"], table)
    assert place.read("attack", "k")["a.npy"] == to_npy(table)


def test_what_is_mapped_is_what_was_verified(tmp_path, monkeypatch):
    """A file that is put in the place of another between the two is not read."""
    place = Store(tmp_path)
    place.write("attack", "k", {"a.npy": np.arange(4.0)})
    path, verify = tmp_path / "attack" / "k" / "a.npy", store.hashlib.sha256

    other = tmp_path / "other.npy"
    other.write_bytes(to_npy(-np.arange(4.0)))

    def swapped(data):
        digest = verify(data)
        other.replace(path)
        return digest

    monkeypatch.setattr(store.hashlib, "sha256", swapped)
    assert place.arrays("attack", "k")["a.npy"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "manifest", "object", "empty", "text"])
def test_a_damaged_array_reads_as_absent(tmp_path, damage):
    place = Store(tmp_path)
    place.write("attack", "k", {"a.npy": np.arange(100.0)})
    folder = tmp_path / "attack" / "k"
    path = folder / ("manifest.json" if damage == "manifest" else "a.npy")
    data = path.read_bytes()
    if damage == "remove":
        path.unlink()
    elif damage in ("object", "empty", "text"):  # with a manifest that vouches for it
        np.save(path, np.array([{}], dtype=object), allow_pickle=True)
        content = {"object": path.read_bytes(), "empty": b"", "text": b"no array"}
        place.rewrite("attack", "k", "a.npy", content[damage])
    else:
        altered = data[:-1] + bytes([data[-1] ^ 1])
        path.write_bytes({"flip": altered, "cut": data[:-8], "manifest": b"{"}[damage])
    assert place.arrays("attack", "k") is None


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "manifest"])
def test_damage_reads_as_absent_and_is_replaced(tmp_path, damage):
    place = Store(tmp_path)
    place.write("model", "k", {"a.bin": b"hello", "b.bin": b"world"})
    path = tmp_path / "model" / "k" / ("manifest.json" if damage == "manifest" else "a.bin")
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes({"flip": b"hellp", "cut": b"hel", "manifest": b"{"}[damage])
    assert place.read("model", "k") is None
    place.write("model", "k", {"a.bin": b"again"})
    assert place.read("model", "k") == {"a.bin": b"again"}


def test_first_writer_wins(tmp_path):
    place = Store(tmp_path)
    place.write("model", "k", {"a": b"first"})
    place.write("model", "k", {"a": b"second"})
    assert place.read("model", "k") == {"a": b"first"}
    assert not list(tmp_path.glob("*/.*"))


def _write(root, number):
    Store(Path(root)).write("model", "k", {"a": bytes([number]) * 100_000})


def test_many_writers(tmp_path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(str(tmp_path), number)) for number in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    data = Store(tmp_path).read("model", "k")["a"]
    assert len(set(data)) == 1


@pytest.mark.parametrize("crash", ["fsync", "rename"])
def test_a_writer_that_fails_leaves_no_half(tmp_path, monkeypatch, crash):
    place = Store(tmp_path)

    def fail(*_args):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(store.os, crash, fail)
        with pytest.raises(OSError, match="disk full"):
            place.write("model", "k", {"a": b"1"})
    assert place.read("model", "k") is None
    assert not list(tmp_path.glob("*/.*"))


@pytest.mark.parametrize("completed", range(4))
def test_a_crash_while_a_file_is_replaced_loses_no_artefact(tmp_path, monkeypatch, completed):
    place = Store(tmp_path)
    place.write("model", "k", {"a": b"old", "b": b"same"})
    real, left = store.write_atomic, iter(range(completed))

    def dies(*arguments):
        if next(left, None) is None:
            raise OSError("killed")
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_atomic", dies)
        with contextlib.suppress(OSError):
            place.rewrite("model", "k", "a", b"new")
    files = place.read("model", "k")
    assert files == {"a": b"old" if completed < 2 else b"new", "b": b"same"}
    place.rewrite("model", "k", "a", b"newest")
    assert place.read("model", "k")["a"] == b"newest"
    (tmp_path / "model" / "k" / "a").write_bytes(b"old")
    assert place.read("model", "k") is None


@pytest.mark.parametrize("crash", ["fsync", "replace"])
def test_a_replacement_that_fails_keeps_the_old_file(tmp_path, monkeypatch, crash):
    place = Store(tmp_path)
    place.write_file("checkpoint", "k", b"old")

    def fail(*_args):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(store.os, crash, fail)
        with pytest.raises(OSError, match="disk full"):
            place.write_file("checkpoint", "k", b"new")
    assert place.read_file("checkpoint", "k") == b"old"
    assert not list(tmp_path.glob("*/.*"))


def test_leftovers_of_killed_writers_are_swept(tmp_path):
    place = Store(tmp_path)
    (tmp_path / "model" / ".k.abc.tmp").mkdir(parents=True)
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / ".k.bin.abc.tmp").write_bytes(b"half")
    place.sweep_temporaries()
    assert not list(tmp_path.glob("*/.*"))


def test_file_artefacts_replace(tmp_path):
    place = Store(tmp_path)
    assert place.read_file("checkpoint", "k") is None
    place.write_file("checkpoint", "k", b"1")
    place.write_file("checkpoint", "k", b"2")
    assert place.read_file("checkpoint", "k") == b"2"
    place.delete_file("checkpoint", "k")
    assert place.read_file("checkpoint", "k") is None


def test_fingerprints_tell_apart():
    assert fingerprint("a", {"x": 1, "y": 2}) == fingerprint("a", {"y": 2, "x": 1})
    assert (
        len(
            {
                fingerprint("a"),
                fingerprint("b"),
                fingerprint("a", "b"),
                fingerprint(["a", "b"]),
                fingerprint("a", 1),
                fingerprint("a", "1"),
            }
        )
        == 6
    )
    assert code_fingerprint("training") != code_fingerprint("models")


def test_json_is_strict():
    with pytest.raises(ValueError, match="JSON"):
        to_json({"x": float("nan")})


def test_npy_refuses_objects(tmp_path):
    with pytest.raises(ValueError, match="Object arrays"):
        to_npy(np.array([{}], dtype=object))


def test_write_atomic_leaves_one_file(tmp_path):
    write_atomic(tmp_path / "deep" / "x.json", b"1")
    write_atomic(tmp_path / "deep" / "x.json", b"2")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["x.json"]
