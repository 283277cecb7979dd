"""Where things lie on this machine's disk unless a study says otherwise."""

from __future__ import annotations

import os
import re
from pathlib import Path

from harness.core.errors import UsageError

HOME_VARIABLE = "PUREGEN_BENCH_HOME"
_LONGEST_NAME = 200  # bytes; file systems take 255, and some are added for files beside it
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


def check_writable(folder: Path, called: str = "") -> None:
    """Check that a folder can be written, or made; write nothing.

    Args:
        folder: Where something is to be kept.
        called: What it is, for the message.

    Raises:
        UsageError: If it cannot; says which folder of its path is in the way.
    """
    # lexists: a link to nothing is in the way as well, and a closed folder raises nothing.
    there = next(p for p in (folder, *folder.parents) if os.path.lexists(p))
    is_folder = there.is_dir()
    if not is_folder or not os.access(there, os.W_OK | os.X_OK):
        reason = "may not be written" if is_folder else "is no folder"
        what = f"{called} {str(folder)!r}".strip()
        raise UsageError(f"{what} cannot be written: {str(there)!r} {reason}.")


def check_name(given: object, where: str) -> str:
    """Return a name that a folder is called after.

    Args:
        given: What stands in the study.
        where: What to call it in messages.

    Raises:
        UsageError: If no folder can be called so.
    """
    if not isinstance(given, str) or not re.fullmatch(r"\w[\w.-]*", given):
        raise UsageError(
            f"{where} is made of letters, digits, '_', '.' and '-', and starts with none of the "
            f"last two; got {given!r}."
        )
    length = len(given.encode())
    if length > _LONGEST_NAME:
        raise UsageError(
            f"{where} takes at most {_LONGEST_NAME} bytes, one for each ASCII letter; "
            f"got {length}, {given[:20]!r}…"
        )
    return given


def is_uri(given: str) -> bool:
    """Whether something is a URI, and no path.

    >>> is_uri("s3://bucket/store"), is_uri("/shared/store"), is_uri("~/store")
    (True, False, False)
    """
    return _URI.match(given) is not None
