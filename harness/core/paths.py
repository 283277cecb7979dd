"""Where things lie on this machine's disk unless a study says otherwise."""

from __future__ import annotations

import os
from pathlib import Path

HOME_VARIABLE = "PUREGEN_BENCH_HOME"


def home() -> Path:
    """Return the folder of all that is kept between runs.

    It is the environment variable ``PUREGEN_BENCH_HOME``, or ``~/.cache/puregen-bench``.
    """
    given = os.environ.get(HOME_VARIABLE)
    folder = Path(given) if given else Path("~/.cache/puregen-bench")
    return folder.expanduser().absolute()


def cache_dir() -> Path:
    """Return the folder for downloaded datasets; it may not exist yet."""
    return home() / "datasets"


def store_dir() -> Path:
    """Return the folder of the artefact store; it may not exist yet."""
    return home() / "store"
