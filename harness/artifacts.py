"""A content-addressed store of what is costly to make: poisons, purified rows, trained networks.

An artefact is a folder named by the hash of its key; the key says everything it depends on (the
digests of the data, the parameters, the seed, the protocol). It is written aside and renamed, so
that what is there is whole, and its files' checksums are verified when it is read.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

from harness.core.errors import DataError
from harness.core.files import file_digest
from harness.core.spec import PROTOCOL, digest
from harness.core.values import Json

T = TypeVar("T")
LABEL = "artifact.json"


@dataclass(frozen=True, slots=True)
class Made:
    """Whether an artefact was there already, and what it cost to make.

    Attributes:
        reused: Whether it was there.
        seconds: Wall time of making it.
        peak_mib: Largest memory that the process which made it had used by then.
    """

    reused: bool
    seconds: float
    peak_mib: float = 0.0


@dataclass(frozen=True, slots=True)
class Store:
    """Artefacts below one folder, which several processes and nodes may share."""

    root: Path

    def key(self, kind: str, parts: dict[str, Json]) -> dict[str, Json]:
        """Return the full key of an artefact."""
        return {"kind": kind, "protocol": PROTOCOL, **parts}

    def folder(self, key: dict[str, Json]) -> Path:
        """Return where the artefact of a key is, or would be."""
        return self.root / str(key["kind"]) / digest(key)[:24]

    def has(self, key: dict[str, Json]) -> bool:
        """Whether the artefact is there."""
        return (self.folder(key) / LABEL).is_file()

    def recall(
        self,
        key: dict[str, Json],
        make: Callable[[Path], None],
        read: Callable[[Path], T],
    ) -> tuple[T, Made]:
        """Return an artefact, made first if it is not there.

        Two processes that want the same one at once make it once.

        Args:
            key: Everything it depends on.
            make: Writes its files into the folder that it is given.
            read: Reads them.

        Raises:
            DataError: If a file of the artefact is not what was written; the artefact is named,
                so that it can be removed.
        """
        folder = self.folder(key)
        if self.has(key):
            return self._read(folder, key, read)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if self.has(key):
                return self._read(folder, key, read)
            began = time.perf_counter()
            aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
            try:
                make(aside)
                seconds = time.perf_counter() - began
                files = {p.name: file_digest(p) for p in sorted(aside.iterdir())}
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
                label = {"key": key, "files": files, "seconds": seconds, "peak_mib": peak}
                (aside / LABEL).write_text(json.dumps(label, indent=1, sort_keys=True))
                for path in aside.iterdir():
                    with path.open("rb") as handle:
                        os.fsync(handle.fileno())
                aside.chmod(0o755)
                shutil.rmtree(folder, ignore_errors=True)  # one that lost its label
                aside.rename(folder)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
        return read(folder), Made(False, seconds, peak)

    def _read(
        self, folder: Path, key: dict[str, Json], read: Callable[[Path], T]
    ) -> tuple[T, Made]:
        """Read an artefact whose label and files are what was written."""
        try:
            label = json.loads((folder / LABEL).read_text())
            whole = digest(label["key"]) == digest(key) and all(
                (folder / name).is_file() and file_digest(folder / name) == expected
                for name, expected in label["files"].items()
            )
            made = Made(True, float(label["seconds"]), float(label.get("peak_mib", 0)))
        except (ValueError, KeyError, TypeError, AttributeError):
            whole = False
        if not whole:
            raise DataError(
                f"{str(folder)!r} is not what was stored; remove this folder to have it made again."
            )
        return read(folder), made
