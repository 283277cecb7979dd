"""The study files that come with the package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from harness.core.errors import UnknownComponent, nearest


def folder() -> Path:
    """Return the folder of the study files."""
    return Path(str(files("sweeps")))


def names() -> list[str]:
    """Return the names of the studies, sorted."""
    return sorted(path.stem for path in folder().glob("*.yaml"))


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
