"""Content-addressed artefacts on disk: atomic, verified, never pickle.

An artefact is a folder `<stage>/<key>` of files plus `manifest.json` with the sha256 of each. It is
written beside its final name, fsynced, and renamed once; a reader verifies every byte. A torn or
altered artefact counts as absent.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import io
import json
import math
import mmap
import os
import platform
import secrets
import shutil
import tokenize
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

import numpy as np
from jaxtyping import Shaped

MANIFEST = "manifest.json"


def fingerprint(*parts: Any) -> str:
    """Hex digest of JSON-able parts; equal parts, equal digest."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


PACKAGES = (
    "core",
    "config",
    "models",
    "attacks",
    "data",
    "privacy",
    "training",
    "fleet",
    "evaluation",
    "report",
    "pipeline",
)
"""All packages of dptrain, lowest first."""


class _Wording(ast.NodeTransformer):
    """Drops what cannot change a number: docstrings, strings that stand alone, and the words of
    errors, which stand where an error is raised or made, or in a name that is read there alone.
    """

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if is_text(node) else self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        parts = list(ast.walk(node))
        errors = [part for part in parts if isinstance(part, ast.Raise)]
        in_errors = [name.id for error in errors for name in ast.walk(error) if _is_read(name)]
        if not in_errors:
            return self.generic_visit(node)
        read = [name.id for name in parts if _is_read(name)]
        words = {name for name in in_errors if in_errors.count(name) == read.count(name)}
        for part in parts:
            if isinstance(part, ast.Assign) and all(
                isinstance(target, ast.Name) and target.id in words for target in part.targets
            ):
                _silence(part.value)
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        _silence(node)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Name) and node.func.id.endswith("Error"):
            _silence(node)
        return self.generic_visit(node)


def is_text(node: ast.AST) -> bool:
    """Whether a statement is a string that stands alone, such as a docstring."""
    value = node.value if isinstance(node, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _is_read(node: ast.AST) -> TypeGuard[ast.Name]:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)


def _silence(node: ast.AST) -> None:
    """Empty every text in a node."""
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            part.value = ""


def syntax(content: bytes) -> str:
    """The abstract syntax of Python's text, less its docstrings and the words of its errors."""
    return ast.dump(_Wording().visit(ast.parse(content)))


@functools.cache
def _ours(path: Path) -> str:
    return syntax(path.read_bytes())


@functools.cache
def code_fingerprint(*packages: str) -> str:
    """Digest of the abstract syntax of whole dptrain packages (`training`), in hexadecimal.

    A changed operator changes it, so that an old artefact never stands for a new algorithm. A
    changed comment, docstring, layout or error message does not. A process keeps what it read
    first: it runs that code, whatever is written later.
    """
    root = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for package in packages:
        folder = root / package
        if not (folder / "__init__.py").is_file():
            raise ValueError(f"dptrain has no package {package!r}")
        for path in sorted(folder.rglob("*.py")):
            digest.update(f"{path.relative_to(root).as_posix()}\0{_ours(path)}\0".encode())
    return digest.hexdigest()[:16]


VERSIONED = (
    "torch",
    "opacus",
    "dp-accounting",
    "numpy",
    "scipy",
    "scikit-learn",
    "cryptography",
    "mlxtend",
)
OPTIONAL = ("kymatio",)


@functools.cache
def versions() -> dict[str, str]:
    """Of everything that a number depends on beside this package's code."""
    installed = {
        distribution.name
        for distribution in importlib.metadata.distributions()
        if distribution.name in OPTIONAL
    }
    packages = {name: importlib.metadata.version(name) for name in (*VERSIONED, *sorted(installed))}
    return {
        "dptrain": importlib.metadata.version("dptrain"),
        "python": platform.python_version(),
        **packages,
    }


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
    """Strict JSON of a record with the sha256 of its content, so that a damaged number is not taken
    for a result.
    """
    return to_json({**record, CHECKSUM: _checksum(record)})


def unseal(data: bytes) -> dict[str, Any]:
    """The record of `seal`. Raises ValueError where it was altered, where it holds a number that is
    not finite, and where it has no checksum.
    """

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
    by_path = {}
    for name in names:
        path = folder / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                by_path[file.relative_to(folder).as_posix()] = hashlib.sha256(
                    file.read_bytes()
                ).hexdigest()
    return by_path


def to_npy(array: Shaped[np.ndarray, " ..."]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def from_npy(data: bytes) -> np.ndarray:
    result: np.ndarray = np.load(io.BytesIO(data), allow_pickle=False)
    return result


HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
"""Readers of the header of an .npy file, by its version."""


def _npy(mapped: mmap.mmap) -> np.ndarray:
    """The array of a mapped .npy file. Raises ValueError for any other file, and for objects, which
    only pickle could read.
    """
    head = io.BytesIO(mapped[: 1 << 16])
    version = np.lib.format.read_magic(head)
    if version not in HEADERS:
        raise ValueError(f"no reader for .npy files of version {version}")
    shape, fortran, kind = HEADERS[version](head)
    if kind.hasobject:
        raise ValueError("an array of objects")
    flat = np.frombuffer(mapped, kind, math.prod(shape), head.tell())
    return flat.reshape(shape, order="F" if fortran else "C")


class Store:
    """Artefacts under one root folder. used: stage and key of each that this process has read or
    written whole.
    """

    def __init__(self, root: Path):
        self.root = Path(root)
        self.used: set[tuple[str, str]] = set()

    def _folder(self, stage: str, key: str) -> Path:
        return self.root / stage / key

    def write(self, stage: str, key: str, files: Mapping[str, bytes | np.ndarray]) -> None:
        """Publish an artefact; an array becomes an .npy file. When another writer was first, its
        artefact stays and this one is dropped.
        """
        final = self._folder(stage, key)
        temporary = final.with_name(f".{key}.{secrets.token_hex(8)}.tmp")
        temporary.mkdir(parents=True)
        try:
            manifest = {name: _write_synced(temporary / name, data) for name, data in files.items()}
            _write_synced(temporary / MANIFEST, to_json(manifest))
            _sync_folder(temporary)
            try:
                os.rename(temporary, final)
            except OSError:
                if self.read(stage, key) is None:  # what stands there is torn: replace it
                    shutil.rmtree(final, ignore_errors=True)
                    os.rename(temporary, final)
            _sync_folder(final.parent)
            self.used.add((stage, key))
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def rewrite(self, stage: str, key: str, name: str, data: bytes) -> None:
        """Replace one file of an artefact, in the process that holds the folder. After a crash
        between two writes the old file or the new one is there, and the manifest vouches for both.
        """
        path = self._folder(stage, key) / MANIFEST
        manifest = json.loads(path.read_bytes())
        after = hashlib.sha256(data).hexdigest()
        write_atomic(path, to_json({**manifest, name: [*_either(manifest[name]), after]}))
        write_atomic(path.with_name(name), data)
        write_atomic(path, to_json({**manifest, name: after}))

    def read(self, stage: str, key: str) -> dict[str, bytes] | None:
        """The files of an artefact, verified against its manifest; None when absent, torn or
        altered.
        """
        folder = self._folder(stage, key)
        try:
            manifest = json.loads((folder / MANIFEST).read_bytes())
            files = {name: (folder / name).read_bytes() for name in manifest}
        except (OSError, ValueError):
            return None
        for name, digest in manifest.items():
            if hashlib.sha256(files[name]).hexdigest() not in _either(digest):
                return None
        self.used.add((stage, key))
        return files

    def arrays(self, stage: str, key: str) -> dict[str, np.ndarray] | None:
        """The arrays of an artefact that has no other files, verified, and mapped from its files,
        to be read only; None when absent, torn or altered. What is mapped is what was verified;
        whoever writes into such a file later, which no code of ours does, changes the array.
        """
        folder = self._folder(stage, key)
        result = {}
        try:
            for name, digest in json.loads((folder / MANIFEST).read_bytes()).items():
                with open(folder / name, "rb") as file:
                    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                if hashlib.sha256(mapped).hexdigest() not in _either(digest):
                    return None
                result[name] = _npy(mapped)
        except (OSError, ValueError, EOFError, SyntaxError, tokenize.TokenError):
            return None
        self.used.add((stage, key))
        return result

    def keys(self, stage: str) -> list[str]:
        """Keys of the artefacts of a stage, whole or not."""
        folders = (self.root / stage).glob("[!.]*")
        return sorted(path.name for path in folders if path.is_dir())

    def stages(self) -> list[str]:
        return sorted(path.name for path in self.root.glob("[!.]*") if path.is_dir())

    def size(self, stage: str, key: str) -> int:
        """Bytes of an artefact."""
        return sum(path.stat().st_size for path in self._folder(stage, key).iterdir())

    def changed(self, stage: str, key: str) -> float:
        """When an artefact was published, in seconds since the epoch."""
        return (self._folder(stage, key) / MANIFEST).stat().st_mtime

    def delete(self, stage: str, key: str) -> None:
        shutil.rmtree(self._folder(stage, key))

    def write_file(self, stage: str, key: str, data: bytes) -> None:
        """Publish or replace a single-file artefact, for state that changes; its sha256 stands
        first. Readable by its owner alone.
        """
        write_atomic(
            self.root / stage / f"{key}.bin", hashlib.sha256(data).digest() + data, mode=0o600
        )

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
        patterns = ("*/.*.tmp", "*/*/.*.tmp")
        here = [path for pattern in patterns for path in self.root.glob(pattern)]
        return [*here, *self.root.parent.glob(".*.tmp")]

    def sweep_temporaries(self) -> None:
        """Remove leftovers; call only while no other writer is at work."""
        for leftover in self.leftovers():
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def _either(digest: str | list[str]) -> list[str]:
    return [digest] if isinstance(digest, str) else digest


def _write_synced(path: Path, data: bytes | np.ndarray, mode: int = 0o644) -> str:
    """Write a new file; its sha256."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        hashed = _Hashed(file)
        if isinstance(data, np.ndarray):  # in parts: a copy of the whole would be as large again
            np.save(hashed, data, allow_pickle=False)
        else:
            hashed.write(data)
        file.flush()
        os.fsync(file.fileno())
    return hashed.digest.hexdigest()


class _Hashed:
    """A file that is written to, and hashed on the way."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
