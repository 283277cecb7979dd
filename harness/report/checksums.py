"""Digests of what a report was made from, and of the report, as ``sha256sum -c`` reads them."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from harness.core.errors import DataError

CHECKSUMS = "SHA256SUMS"


def checksums(run: Path, files: Iterable[Path]) -> str:
    """Return a line per record, sample, study file and file of the report; paths from the report.

    Args:
        run: Folder of the run.
        files: Those of the report.
    """
    sources = [*sorted((run / "records").glob("*.json")), *sorted((run / "samples").glob("*.npz"))]
    study = run / "study.json"
    named = [*([study] if study.is_file() else []), *sources, *sorted(files)]
    return file_lines(named, run / "report")


def file_lines(files: Iterable[Path], start: Path) -> str:
    """Return a line per file, with its path from a folder."""
    return "".join(f"{_sha256(file)}  {_relative(file, start)}\n" for file in files)


def records_digest(run: Path) -> str:
    """Return one SHA-256 of all records of a run: of their names and contents."""
    sha = hashlib.sha256()
    for file in sorted((run / "records").glob("*.json")):
        sha.update(f"{_sha256(file)}  {file.name}\n".encode())
    return sha.hexdigest()


def wrong_files(report: Path) -> Iterator[str]:
    """Yield a line per file that is not there or not what the checksums of a report say.

    Raises:
        DataError: If the list of checksums is damaged.
    """
    for line in (report / CHECKSUMS).read_text().splitlines():
        found = re.fullmatch(r"([0-9a-f]{64})  (.+)", line)
        if not found:
            raise DataError(f"{CHECKSUMS}: no line of a checksum: {line!r}.")
        digest, name = found.groups()
        file = Path(os.path.normpath(report / name))
        shown = _relative(file, report.parent)
        if not file.is_file():
            yield f"{shown}: named in report/{CHECKSUMS} and not there"
        elif _sha256(file) != digest:
            yield f"{shown}: changed since the report was made (SHA-256 differs)"


def _relative(file: Path, start: Path) -> str:
    return Path(os.path.relpath(file, start)).as_posix()


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
