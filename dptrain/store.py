"""Content-addressed artefacts on disk: atomic, verified, never pickle.

An artefact is a folder `<stage>/<key>` of files plus `manifest.json` with the sha256 of each. It is written beside its final
name, fsynced, and renamed once; a reader verifies every byte. A torn or altered artefact counts as absent.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import io
import json
import math
import os
import platform
import secrets
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

MANIFEST = "manifest.json"


def fingerprint(*parts: Any) -> str:
    """Hex digest of JSON-able parts; equal parts, equal digest."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def code_fingerprint(*patterns: str) -> str:
    """Digest of the source of dptrain modules (`train`, `attacks/*`), so that a changed algorithm never meets an old artefact."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for pattern in patterns:
        for path in sorted(root.glob(f"{pattern}.py")):
            digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


PACKAGES = ("torch", "opacus", "dp-accounting", "numpy", "scipy", "scikit-learn", "cryptography", "mlxtend")
OPTIONAL = ("kymatio",)


@functools.cache
def versions() -> dict[str, str]:
    """Of everything that a number depends on beside this package's code."""
    installed = {distribution.name for distribution in importlib.metadata.distributions() if distribution.name in OPTIONAL}
    packages = {name: importlib.metadata.version(name) for name in (*PACKAGES, *sorted(installed))}
    return {"dptrain": importlib.metadata.version("dptrain"), "python": platform.python_version(), **packages}


def write_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file so that a reader sees the old bytes or the new ones, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        _write_synced(temporary, data, mode)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def to_json(value: Any) -> bytes:
    """Strict JSON (no NaN, no Infinity)."""
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


CHECKSUM = "checksum"


def seal(record: Mapping[str, Any]) -> bytes:
    """Strict JSON of a record with the sha256 of its content, so that a damaged number is not taken for a result."""
    return to_json({**record, CHECKSUM: _checksum(record)})


def unseal(data: bytes) -> dict[str, Any]:
    """The record of `seal`. Raises ValueError where it was altered, where it holds a number that is not finite, and where it has no checksum."""

    def finite(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            raise ValueError(f"{text} is no finite number")
        return value

    record = json.loads(data, parse_constant=finite, parse_float=finite)
    if not isinstance(record, dict) or record.pop(CHECKSUM, None) != _checksum(record):
        raise ValueError("its checksum does not fit")
    return record


def _checksum(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True, allow_nan=False).encode()).hexdigest()


def digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """sha256 of files, and of all files in folders, by their path below `folder`."""
    found = {}
    for name in names:
        path = folder / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                found[file.relative_to(folder).as_posix()] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def to_npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def from_npy(data: bytes) -> np.ndarray:
    return np.load(io.BytesIO(data), allow_pickle=False)


class Store:
    """Artefacts under one root folder."""

    def __init__(self, root: Path):
        self.root = Path(root)

    def _folder(self, stage: str, key: str) -> Path:
        return self.root / stage / key

    def write(self, stage: str, key: str, files: Mapping[str, bytes]) -> None:
        """Publish an artefact. When another writer was first, its artefact stays and this one is dropped."""
        final = self._folder(stage, key)
        temporary = final.with_name(f".{key}.{secrets.token_hex(8)}.tmp")
        temporary.mkdir(parents=True)
        try:
            for name, data in files.items():
                _write_synced(temporary / name, data)
            manifest = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
            _write_synced(temporary / MANIFEST, to_json(manifest))
            _sync_folder(temporary)
            try:
                os.rename(temporary, final)
            except OSError:
                if self.read(stage, key) is None:  # what stands there is torn: replace it
                    shutil.rmtree(final, ignore_errors=True)
                    os.rename(temporary, final)
            _sync_folder(final.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def read(self, stage: str, key: str) -> dict[str, bytes] | None:
        """The files of an artefact, verified against its manifest; None when absent, torn or altered."""
        folder = self._folder(stage, key)
        try:
            manifest = json.loads((folder / MANIFEST).read_bytes())
            files = {name: (folder / name).read_bytes() for name in manifest}
        except (OSError, ValueError):
            return None
        if any(hashlib.sha256(files[name]).hexdigest() != digest for name, digest in manifest.items()):
            return None
        return files

    def write_file(self, stage: str, key: str, data: bytes) -> None:
        """Publish or replace a single-file artefact, for state that changes; its sha256 stands first. Readable by its owner alone."""
        write_atomic(self.root / stage / f"{key}.bin", hashlib.sha256(data).digest() + data, mode=0o600)

    def read_file(self, stage: str, key: str) -> bytes | None:
        """The data of write_file; None when absent, torn or altered."""
        try:
            stored = (self.root / stage / f"{key}.bin").read_bytes()
        except FileNotFoundError:
            return None
        return stored[32:] if hashlib.sha256(stored[32:]).digest() == stored[:32] else None

    def file_keys(self, stage: str) -> list[str]:
        """Keys of the single-file artefacts of a stage."""
        return sorted(path.stem for path in (self.root / stage).glob("*.bin"))

    def delete_file(self, stage: str, key: str) -> None:
        (self.root / stage / f"{key}.bin").unlink(missing_ok=True)

    def leftovers(self) -> list[Path]:
        """What killed writers left behind, here and in the folder of the run."""
        return [*self.root.glob("*/.*.tmp"), *self.root.parent.glob(".*.tmp")]

    def sweep_temporaries(self) -> None:
        """Remove leftovers; call only while no other writer is at work."""
        for leftover in self.leftovers():
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def _write_synced(path: Path, data: bytes, mode: int = 0o644) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
