"""Where things lie on this machine's disk unless a study says otherwise."""

from __future__ import annotations

import os
import re
from pathlib import Path

HOME_VARIABLE = "PUREGEN_BENCH_HOME"
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


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


def is_uri(given: str) -> bool:
    """Whether something is a URI, and no path.

    >>> is_uri("s3://bucket/store"), is_uri("/shared/store"), is_uri("~/store")
    (True, False, False)
    """
    return _URI.match(given) is not None
