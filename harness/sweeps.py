"""The study files that come with the package."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

from harness.core.errors import UnknownComponent, nearest
from harness.core.values import Json


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


def trained_as(weights: str) -> dict[str, Json]:
    """Return how a generator that comes with the package was trained, as a study refers to it."""
    text = (folder() / "weights" / weights / "config.json").read_text()
    reference: dict[str, Json] = json.loads(text)["trained"]
    return reference
