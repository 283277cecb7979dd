"""What ``torch.save`` writes, old and new, read without torch and without its unpickler.

A file is a zip with ``data.pkl`` and one member per storage, or, before torch 1.6 and inside plain
pickles, five pickles in a row followed by the storages.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from harness.interop.inert import ForeignStorage, Refused
from harness.interop.safe_pickle import PLAIN, Budget, Globals, Name, names, run

MAGIC = 0x1950A86A20F9469CFC6C
VERSION = 1001
MOST_MEMBERS = 300_000
_DTYPES = {
    "Double": "f8", "Float": "f4", "Half": "f2", "Long": "i8", "Int": "i4", "Short": "i2",
    "Char": "i1", "Byte": "u1", "Bool": "b1",
}  # fmt: skip
_STORAGES = {f"torch.{kind}Storage": np.dtype(f"<{code}") for kind, code in _DTYPES.items()}
_KEY = re.compile(r"[0-9]{1,20}")
# A tensor's own bytes, nested in a plain pickle, hold a storage and nothing to nest further.
NESTED: Globals = {**PLAIN, **names(*map(Name, _STORAGES))}


def _load_from_bytes(arguments: tuple[Any, ...], budget: Budget) -> ForeignStorage:
    if len(arguments) != 1 or type(arguments[0]) is not bytes:
        raise Refused("_load_from_bytes takes bytes")
    budget.copy(len(arguments[0]))
    value = read_torch(arguments[0], budget, NESTED)
    if type(value) is not ForeignStorage:
        raise Refused("the bytes of a tensor are no storage")
    return value


ALLOWED: Globals = {
    **NESTED,
    **names(Name("torch.storage._load_from_bytes", _load_from_bytes)),
}


def read_any(data: bytes, budget: Budget) -> Any:
    """Return what a plain pickle or a file of torch holds (see :func:`safe_pickle.run`).

    Raises:
        Refused: If it is neither, or holds more than data.
    """
    if data[:2] == b"PK":
        return _read_zip(data, budget, ALLOWED)
    value, end = run(data, 0, ALLOWED, budget)
    if type(value) is int and value == MAGIC:
        return _read_legacy(data, end, budget, ALLOWED)
    if end != len(data):
        raise Refused(f"{len(data) - end} bytes follow its end")
    return value


def read_torch(data: bytes, budget: Budget, allowed: Globals = ALLOWED) -> Any:
    """Return what a file of torch holds (see :func:`read_any`)."""
    if data[:2] == b"PK":
        return _read_zip(data, budget, allowed)
    value, end = run(data, 0, allowed, budget)
    if type(value) is not int or value != MAGIC:
        raise Refused("it is no file of torch")
    return _read_legacy(data, end, budget, allowed)


def _storage(saved: Any, items: int) -> tuple[str, ForeignStorage]:
    """Return key and empty storage of a persistent id: 'storage', type, key, location, count."""
    if type(saved) is not tuple or len(saved) != items or type(saved[1]) is not Name:
        raise Refused("a persistent id is no storage")
    word, kind, key, _, count = saved[:5]
    dtype = _STORAGES.get(kind.text)
    named = type(word) is str and word == "storage" and type(key) is str and dtype is not None
    if not named or type(count) is not int or not 0 <= count < 2**48 or not _KEY.fullmatch(key):
        raise Refused("a persistent id is no storage")
    return key, ForeignStorage(dtype or np.dtype("<u1"), count)


class _Storages:
    """The storages of one file by key; each is made once."""

    def __init__(self, items: int, fill: Callable[[str, ForeignStorage], None]) -> None:
        self.items, self.fill = items, fill
        self.known: dict[str, ForeignStorage] = {}

    def __call__(self, saved: Any) -> ForeignStorage:
        key, storage = _storage(saved, self.items)
        if self.items == 6 and saved[5] is not None:
            raise Refused("a storage is a view of another one")
        known = self.known.get(key)
        if known is None:
            self.fill(key, storage)
            known = self.known[key] = storage
        elif (known.dtype, known.count) != (storage.dtype, storage.count):
            raise Refused("a storage has two types or sizes")
        return known


# Zip


def _members(archive: zipfile.ZipFile, size: int) -> Mapping[str, zipfile.ZipInfo]:
    """Return the members by name; torch stores them as they are, side by side.

    Nothing is compressed and no two members may share bytes, so that they are no larger than the
    file. Names only serve to find them: nothing is unpacked to disk.
    """
    infos = archive.infolist()
    if len(infos) > MOST_MEMBERS:
        raise Refused(f"it has {len(infos)} members; {MOST_MEMBERS} are read")
    found: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        path = PurePosixPath(info.filename)
        if path.is_absolute() or ".." in path.parts or "\\" in info.filename:
            raise Refused(f"a member leads outside: {info.filename[:80]!a}")
        if info.filename in found:
            raise Refused(f"the member {info.filename[:80]!a} stands twice")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise Refused("a member is compressed or encrypted; torch writes none such")
        found[info.filename] = info
    if sum(info.file_size for info in infos) > size:
        raise Refused("its members are together larger than the file")
    return found


def _read_zip(data: bytes, budget: Budget, allowed: Globals) -> Any:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _read_members(archive, len(data), budget, allowed)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError, KeyError) as error:
        raise Refused(f"it is a damaged zip: {str(error)[:100]!a}") from None


def _read_members(archive: zipfile.ZipFile, size: int, budget: Budget, allowed: Globals) -> Any:
    members = _members(archive, size)
    roots = [name[: -len("data.pkl")] for name in members if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise Refused("it is a zip, but not of torch: it has no data.pkl of its own")
    (root,) = roots
    if any(name.startswith((f"{root}code/", f"{root}constants.pkl")) for name in members):
        raise Refused("it is a program of TorchScript, not data")
    order = archive.read(f"{root}byteorder") if f"{root}byteorder" in members else b"little"
    if order != b"little":
        raise Refused("its numbers are not little-endian")

    def fill(key: str, storage: ForeignStorage) -> None:
        name = f"{root}data/{key}"
        if name not in members:
            raise Refused(f"it lacks the storage {key}")
        storage.fill(archive.read(name))

    pickled = archive.read(f"{root}data.pkl")
    value, end = run(pickled, 0, allowed, budget, _Storages(5, fill))
    if end != len(pickled):
        raise Refused(f"{len(pickled) - end} bytes follow its end")
    return value


# The older files


def _read_legacy(data: bytes, start: int, budget: Budget, allowed: Globals) -> Any:
    version, end = run(data, start, {}, budget)
    system, end = run(data, end, {}, budget)
    if (
        type(version) is not int
        or version != VERSION
        or type(system) is not dict
        or system.get("little_endian") is not True
    ):
        raise Refused("it is of an unknown version of torch, or not little-endian")
    storages = _Storages(6, lambda key, storage: None)
    value, end = run(data, end, allowed, budget, storages)
    keys, end = run(data, end, {}, budget)
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise Refused("it does not list its storages")
    for key in keys:
        storage = storages.known.get(key)
        if storage is None:
            raise Refused("it holds a storage that nothing refers to")
        count = int.from_bytes(data[end : end + 8], "little", signed=True)
        size = storage.count * storage.dtype.itemsize
        if count != storage.count or storage.raw is not None:
            raise Refused(f"a storage of {storage.count} numbers comes with {count!a}")
        storage.fill(data[end + 8 : end + 8 + size])
        end += 8 + size
    if end != len(data):
        raise Refused(f"{len(data) - end} bytes follow its end")
    return value
