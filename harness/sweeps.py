"""The study files that come with the package."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path

from harness.core.errors import UnknownComponent, nearest
from harness.core.values import Json


def folder() -> Path:
    """Return the folder of the study files."""
    return Path(str(files("sweeps")))


def names() -> list[str]:
    """Return the names of the studies, sorted; that of one in a subfolder is ``paper/table_1``."""
    found = (path.relative_to(folder()).with_suffix("") for path in folder().rglob("*.yaml"))
    return sorted((path.as_posix() for path in found), key=_order)


def _order(name: str) -> tuple[int, list[tuple[int, str]]]:
    """Put those of subfolders last, and ``table_2`` before ``table_10``."""
    parts = re.split(r"(\d+)", name)
    return name.count("/"), [(int(p), "") if i % 2 else (-1, p) for i, p in enumerate(parts)]


def is_name(text: str) -> bool:
    """Whether this is written as the name of a study that comes with the package, there or not.

    That is a bare word, or a word below one of the subfolders, without a suffix.
    """
    path = Path(text)
    if path.suffix or path.is_absolute():
        return False
    above = {name.rpartition("/")[0] for name in names()}
    return path.parent.as_posix() in (".", *above - {""})


def path_of(name: str) -> Path:
    """Return the file of a study.

    Raises:
        UnknownComponent: If there is none of that name.
    """
    if name not in names():
        raise UnknownComponent(
            f"unknown study {name!r}.{nearest(name, names())} Allowed: {', '.join(names())}."
        )
    return folder() / f"{name}.yaml"


def trained_as(weights: str) -> dict[str, Json]:
    """Return how a generator that comes with the package was trained, as a study refers to it."""
    text = (folder() / "weights" / weights / "config.json").read_text()
    reference: dict[str, Json] = json.loads(text)["trained"]
    return reference
