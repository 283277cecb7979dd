"""Files that are either whole or not there, and arrays in them that can run no code."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, is_zipfile

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import DataError


def write_aside(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under another name, flush it to disk, then rename: never a partial file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part{path.suffix}")
    try:
        write(aside)
        with aside.open("rb") as handle:
            os.fsync(handle.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, atomically."""
    write_aside(path, lambda aside: aside.write_text(text))


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write an ``.npz``, atomically."""
    named: dict[str, Any] = dict(arrays)
    write_aside(path, lambda aside: np.savez(aside, **named))


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read an ``.npz``; objects in it are refused.

    Raises:
        DataError: If the file is missing, corrupt, or holds Python objects.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, BadZipFile, AttributeError, TypeError) as error:
        reason = why_no_arrays(path, error)
        raise DataError(f"{str(path)!r} cannot be read as .npz: {reason}") from error


def why_no_arrays(path: Path, error: Exception) -> str:
    """Return why a file gives no arrays: numpy's reason, without its advice to unpickle."""
    if path.is_file() and not is_zipfile(path):
        return "it is no whole zip of arrays, as numpy.savez writes one."
    if "pickle" in str(error):
        return "it holds Python objects, and to read them can run code; save plain arrays."
    return str(error)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of all files of a folder with their names.

    Raises:
        DataError: If there is no such file or folder.
    """
    if not path.exists():
        raise DataError(f"{str(path)!r} does not exist.")
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    sha = hashlib.sha256()
    for file in files:
        sha.update(str(file.relative_to(path)).encode())
        with file.open("rb") as handle:
            sha.update(hashlib.file_digest(handle, "sha256").digest())
    return sha.hexdigest()
