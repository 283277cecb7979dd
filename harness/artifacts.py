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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from filelock import FileLock

from harness.core.errors import DataError, UsageError
from harness.core.files import file_digest
from harness.core.spec import PROTOCOL, digest
from harness.core.values import Json

if TYPE_CHECKING:
    from harness.execution import Executor

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

    @property
    def address(self) -> str:
        """What :func:`harness.remote_store.open_store` finds this store by, on any node."""
        return str(self.root)

    def check(self) -> None:
        """Check that artefacts can be kept.

        Raises:
            UsageError: If not; says why.
        """
        named = f"store {str(self.root)!r}"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{named} cannot be written: {error.strerror}.") from error
        if not os.access(self.root, os.W_OK | os.X_OK):
            raise UsageError(f"{named} cannot be written: permission denied.")

    def check_nodes(self, executor: Executor, folders: Mapping[str, Path]) -> None:
        """Check that whoever works for an executor can use the store, and sees some folders.

        Args:
            executor: Where work is about to run.
            folders: By what to call them; absolute.

        Raises:
            UsageError: If some node cannot; names it.
        """
        executor.check_folders({**folders, "store": self.root})

    def key(self, kind: str, parts: dict[str, Json]) -> dict[str, Json]:
        """Return the full key of an artefact."""
        return {"kind": kind, "protocol": PROTOCOL, **parts}

    def folder(self, key: dict[str, Json]) -> Path:
        """Return where the artefact of a key is, or would be."""
        return self.root / str(key["kind"]) / digest(key)[:24]

    def bring(self, key: dict[str, Json]) -> Path:
        """Return the folder of an artefact, which is seen here if the artefact is anywhere."""
        return self.folder(key)

    def has(self, key: dict[str, Json]) -> bool:
        """Whether the artefact is there."""
        return is_labelled(self.folder(key))

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
        if not is_labelled(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with self.alone(folder):
                if not is_labelled(folder):
                    made = self.obtain(key, make)
                    return read(folder), made
        if (made_before := what_label_says(folder, key)) is None:
            raise DataError(
                f"{str(folder)!r} is not what was stored; remove this folder to have it made again."
            )
        return read(folder), made_before

    def alone(self, folder: Path) -> FileLock:
        """Return the lock under which an artefact is made."""
        return FileLock(folder.with_suffix(".lock"))

    def obtain(self, key: dict[str, Json], make: Callable[[Path], None]) -> Made:
        """Have an artefact that is not there; whoever calls holds its lock."""
        began = time.perf_counter()
        with put_in_place(self.folder(key)) as aside:
            make(aside)
            seconds = time.perf_counter() - began
            files = {p.name: file_digest(p) for p in sorted(aside.iterdir())}
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            label = {"key": key, "files": files, "seconds": seconds, "peak_mib": peak}
            (aside / LABEL).write_text(json.dumps(label, indent=1, sort_keys=True))
        return Made(False, seconds, peak)


def is_labelled(folder: Path) -> bool:
    """Whether a folder is an artefact's, and whole; what is in its files is checked elsewhere."""
    return (folder / LABEL).is_file()


@contextmanager
def put_in_place(folder: Path) -> Iterator[Path]:
    """Yield a folder to fill; it is renamed once it is full, so that no part is ever seen."""
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield aside
        for path in aside.iterdir():
            with path.open("rb") as handle:
                os.fsync(handle.fileno())
        aside.chmod(0o755)
        shutil.rmtree(folder, ignore_errors=True)  # one that lost its label
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def what_label_says(folder: Path, key: dict[str, Json]) -> Made | None:
    """Return what an artefact did cost; None unless label and files are what was written."""
    try:
        label = json.loads((folder / LABEL).read_text())
        whole = digest(label["key"]) == digest(key) and all(
            (folder / name).is_file() and file_digest(folder / name) == expected
            for name, expected in label["files"].items()
        )
        made = Made(True, float(label["seconds"]), float(label.get("peak_mib", 0)))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return made if whole else None
