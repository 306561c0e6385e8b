"""Files of named data sets: found where they are, or downloaded, verified and only then given their
name.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import DownloadColumn, Progress

from dptrain.core.errors import DataError

BLOCK = 1 << 20
SECONDS = 30


@dataclass(frozen=True)
class Remote:
    """A file: its name, where it is to be had, and `algorithm:digest`; git is the SHA-1 of a git
    blob, for files whose only published checksum is that of their repository.
    """

    name: str
    url: str
    checksum: str


def cache() -> Path:
    """Where downloads lie: $DPTRAIN_DATA, or the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("DPTRAIN_DATA") or Path(base) / "dptrain")


def digest(path: Path, algorithm: str) -> str:
    """Hexadecimal digest of a file by md5, sha256 or git."""
    made: dict[str, Callable[[], hashlib._Hash]] = {
        "md5": lambda: hashlib.md5(usedforsecurity=False),
        "sha256": hashlib.sha256,
        "git": lambda: hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False),
    }
    hashed = made[algorithm]()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            hashed.update(block)
    return hashed.hexdigest()


def combined_digest(paths: Sequence[Path]) -> str:
    """Of several files, in their order."""
    return hashlib.sha256("".join(digest(path, "sha256") for path in paths).encode()).hexdigest()


def verified(path: Path, checksum: str) -> bool:
    algorithm, _, wanted = checksum.partition(":")
    return digest(path, algorithm) == wanted


def obtain(
    data_set: str, files: Sequence[Remote], path: str | None, elsewhere: Sequence[Path] = ()
) -> list[Path]:
    """Where each file lies: in the folder `path` if given, else in one of `elsewhere`, else in the
    cache, downloaded if absent.

    Raises DataError for a file that is absent or that is not the published one, with what to put
    where.
    """
    if path is not None:
        return [_checked(Path(path) / file.name, file, data_set) for file in files]
    for folder in elsewhere:
        if all((folder / file.name).is_file() for file in files):
            # A system's package manager has verified them.
            return [folder / file.name for file in files]
    return [_cached(cache() / data_set / file.name, file, data_set) for file in files]


def _checked(file_path: Path, file: Remote, data_set: str) -> Path:
    if not file_path.is_file():
        raise DataError(
            f"no {file.name} in {file_path.parent}, which {data_set} needs; get it from {file.url}",
            "path",
        )
    if not verified(file_path, file.checksum):
        raise DataError(
            f"{file_path} is not the published file ({file.checksum}); get it from {file.url}",
            "path",
        )
    return file_path


def _cached(target: Path, file: Remote, data_set: str) -> Path:
    if target.is_file() and verified(target, file.checksum):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f"{file.name}.")
    except OSError as error:
        raise DataError(
            f"cannot write to {target.parent} ({error.strerror}); set DPTRAIN_DATA, or "
            "give a folder",
            "path",
        ) from None
    part = Path(temporary)
    try:
        with os.fdopen(handle, "wb") as out:
            _download(file.url, out.write)
        if not verified(part, file.checksum):
            raise DataError(
                f"what {file.url} sent is not the published file ({file.checksum}); try "
                "again, or give a folder",
                "path",
            )
        part.replace(target)
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        reason = str(getattr(error, "reason", error)) or type(error).__name__
        wanted = (
            f"{file.name} for {data_set} is not here and {file.url} cannot be reached ({reason})"
        )
        raise DataError(
            f"{wanted}; put the file into a folder and give path=FOLDER", "path"
        ) from None
    finally:
        part.unlink(missing_ok=True)
    return target


def _download(url: str, write: Callable[[bytes], object]) -> None:
    with urllib.request.urlopen(url, timeout=SECONDS) as answer:
        size = int(answer.headers.get("Content-Length") or 0) or None
        console = Console(stderr=True)
        columns = (*Progress.get_default_columns(), DownloadColumn())
        with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
            task = bar.add_task(escape(url.rsplit("/", 1)[-1]), total=size)
            while block := answer.read(BLOCK):
                write(block)
                bar.advance(task, len(block))
