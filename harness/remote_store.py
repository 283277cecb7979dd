"""A store behind a URI: S3, Google Cloud Storage, Azure, or whatever else fsspec reaches.

Each node has a folder of its own, the cache, in which artefacts are as in any store. What is made
is sent to the remote, and what the cache lacks is looked for there before it is made. Locks are the
cache's: two nodes may make one artefact at once. Objects are named by their content and the label
that lists them is sent last, so that whichever label wins, all that it lists is there.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

from harness.artifacts import LABEL, Made, Store, is_labelled, put_in_place, what_label_says
from harness.core.errors import DataError, UsageError
from harness.core.paths import home, is_uri
from harness.core.values import Json

if TYPE_CHECKING:
    from harness.execution import Executor

T = TypeVar("T")
CACHE_VARIABLE = "PUREGEN_BENCH_CACHE"
PROBE = ".writable"
BLOCK_BYTES = 2**22
_SECRET = re.compile("key|secret|token|password", re.IGNORECASE)


def address_of(given: str) -> str:
    """Return the address of a store: an absolute path, or a URI; contact nobody.

    Raises:
        UsageError: If it holds a password, which would then stand in records and pages.
    """
    if not is_uri(given):
        return str(Path(given).expanduser().resolve())
    parts = urlsplit(given)
    if parts.scheme == "file":
        return str(Path(unquote(parts.path)).resolve())
    if parts.password or any(_SECRET.search(name) for name in parse_qs(parts.query)):
        raise UsageError(
            "a secret in --store would stand in records and pages; give it by the environment "
            "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS, …)."
        )
    return given.rstrip("/") if parts.netloc else given


def open_store(address: str) -> Store:
    """Return the store at an address as :func:`address_of` gives it; nothing is written.

    Raises:
        UsageError: If nothing that is installed can reach it.
    """
    if not is_uri(address):
        return Store(Path(address))
    filesystem, base = _connect(address)
    if not base.strip("/"):
        raise UsageError(f"store {address!r} names no bucket; give for example s3://BUCKET/store.")
    return RemoteStore(cache_folder(address), address, filesystem, base.rstrip("/"))


def trouble_with(address: str) -> str:
    """Return why this process cannot use a store; "" if it can."""
    try:
        open_store(address).check()
    except UsageError as error:
        return str(error)
    return ""


def cache_folder(address: str) -> Path:
    """Return this node's folder for what is behind a URI.

    It lies in the environment variable ``PUREGEN_BENCH_CACHE``, or in ``cache/`` of
    :func:`harness.core.paths.home`.
    """
    given = os.environ.get(CACHE_VARIABLE)
    base = Path(given).expanduser().absolute() if given else home() / "cache"
    return base / hashlib.sha256(address.encode()).hexdigest()[:16]


def _connect(address: str) -> tuple[Any, str]:
    """Return a file system of pyarrow's and the path in it."""
    from pyarrow import ArrowException, ArrowInvalid, ArrowNotImplementedError, fs

    try:
        filesystem, base = fs.FileSystem.from_uri(address)
        return filesystem, base
    except (ArrowInvalid, ArrowNotImplementedError) as error:
        if not re.search("Unrecognized filesystem|built without", str(error)):
            raise UsageError(f"store {address!r}: {_first_line(error)}.") from error
    except (OSError, ArrowException) as error:
        raise UsageError(f"store {address!r} cannot be reached: {_first_line(error)}.") from error
    from fsspec.core import url_to_fs

    try:
        foreign, base = url_to_fs(address)
    except (ValueError, ImportError, OSError) as error:
        raise UsageError(
            f"store {address!r} cannot be reached: {_first_line(error)}. Allowed: a path, s3://…, "
            "gs://…, abfs://…, or a URI for which a package of fsspec is installed."
        ) from error
    return fs.PyFileSystem(fs.FSSpecHandler(foreign)), base


@dataclass(frozen=True)
class RemoteStore(Store):
    """Artefacts that nodes share through a remote, each with a cache, ``root``, of its own.

    Attributes:
        uri: Where the remote is.
        filesystem: A ``pyarrow.fs.FileSystem``.
        base: The path in it.
    """

    uri: str
    filesystem: Any
    base: str
    _sent: set[str] = field(default_factory=set, compare=False, repr=False)

    @property
    def address(self) -> str:
        """The URI: each node has a cache of its own."""
        return self.uri

    def check(self) -> None:
        """Check that the cache can be written, and that the remote can be written and read."""
        super().check()
        path = f"{self.base}/{PROBE}"
        with self._telling("cannot be used"):
            try:
                self._put(io.BytesIO(b"puregen-bench"), path)
            except NotImplementedError as error:  # http:// and the like, of fsspec
                raise OSError("what reaches it can only read") from error
            with self.filesystem.open_input_stream(path) as source:
                source.read()

    def check_nodes(self, executor: Executor, folders: Mapping[str, Path]) -> None:
        """Check that each node sees the folders, and can use what is behind the URI."""
        executor.check_folders(folders)
        executor.check_nodes(trouble_with, self.uri)

    def has(self, key: dict[str, Json]) -> bool:
        """Whether the remote has it: what only this node's cache has, others cannot see."""
        place = self._place(key)
        if place not in self._sent and self._exists(f"{place}/{LABEL}"):
            self._sent.add(place)
        return place in self._sent

    def recall(
        self,
        key: dict[str, Json],
        make: Callable[[Path], None],
        read: Callable[[Path], T],
    ) -> tuple[T, Made]:
        """Return an artefact from cache or remote, made and sent if neither has it."""
        found = super().recall(key, make, read)
        self._send(key)  # looked at each time: an earlier call may have failed to send it
        return found

    def obtain(self, key: dict[str, Json], make: Callable[[Path], None]) -> Made:
        """Fetch an artefact, or make it."""
        return self._fetch(key) or super().obtain(key, make)

    def bring(self, key: dict[str, Json]) -> Path:
        """Return the folder of an artefact, fetched if only the remote has it."""
        folder = self.folder(key)
        if not is_labelled(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with self.alone(folder):
                if not is_labelled(folder):
                    self._fetch(key)
        return folder

    def _place(self, key: dict[str, Json]) -> str:
        return f"{self.base}/{self.folder(key).relative_to(self.root).as_posix()}"

    def _fetch(self, key: dict[str, Json]) -> Made | None:
        """Fetch what the remote has; None if it has no label, and thus not the whole.

        Raises:
            DataError: If it is not what was stored.
        """
        place = self._place(key)
        if not self.has(key):
            return None
        with put_in_place(self.folder(key)) as aside, self._telling("cannot be read"):
            try:
                self._get(f"{place}/{LABEL}", aside / LABEL)
                for name, content in _files(aside / LABEL).items():
                    self._get(f"{place}/{_object(name, content)}", aside / name)
            except FileNotFoundError:  # then the label is there alone
                (aside / LABEL).unlink(missing_ok=True)
            made = what_label_says(aside, key) if is_labelled(aside) else None
            if made is None:
                raise DataError(
                    f"{LABEL} of {place!r} in store {self.uri!r}, or a file that it lists, is not "
                    "what was stored; remove this label to have the artefact made again."
                )
        return made

    def _send(self, key: dict[str, Json]) -> None:
        if self.has(key):
            return
        folder, place = self.folder(key), self._place(key)
        with self.alone(folder):
            if self.has(key):
                return
            names = {n: _object(n, c) for n, c in _files(folder / LABEL).items()} | {LABEL: LABEL}
            with self._telling("cannot be written"):
                for name, called in names.items():  # the label last: it says that all is there
                    with (folder / name).open("rb") as source:
                        self._put(source, f"{place}/{called}")
        self._sent.add(place)

    def _exists(self, path: str) -> bool:
        from pyarrow.fs import FileType

        with self._telling("cannot be read"):
            return bool(self.filesystem.get_file_info(path).type == FileType.File)

    def _get(self, path: str, target: Path) -> None:
        with self.filesystem.open_input_stream(path) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink, BLOCK_BYTES)

    def _put(self, source: BinaryIO, path: str) -> None:
        try:
            stream = self.filesystem.open_output_stream(path)
        except FileNotFoundError:  # where folders are things of their own
            self.filesystem.create_dir(path.rpartition("/")[0], recursive=True)
            stream = self.filesystem.open_output_stream(path)
        with stream:
            shutil.copyfileobj(source, stream, BLOCK_BYTES)

    @contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        """Turn a failure of the remote into one message."""
        from pyarrow import ArrowException

        try:
            yield
        except (OSError, ArrowException) as error:
            raise DataError(f"store {self.uri!r} {what}: {_first_line(error)}.") from error


def _object(name: str, content: str) -> str:
    """Return what a file is called in the remote: two makers' files of one name may differ."""
    return f"{content[:16]}-{name}"


def _files(label: Path) -> dict[str, str]:
    """Return the digests of an artefact's files by name; none if the label cannot be trusted."""
    try:
        files = dict(json.loads(label.read_text())["files"])
    except (ValueError, KeyError, TypeError):
        return {}
    plain = all(Path(n).name == n and isinstance(c, str) and c.isalnum() for n, c in files.items())
    return files if plain else {}


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0].rstrip(".")
