"""A result file as plain values: strangers write it, so size, depth and text are limited first."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from harness.core.errors import DataError

MAX_BYTES = 5_000_000
MAX_DEPTH = 24
"""Nested lists and mappings; a study with a chain of defenses needs about ten."""

_UNSEEN = re.compile(
    # Control characters but tab and line feed; what turns or hides text; halves of characters.
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)


def read_json(path: Path) -> Any:
    """Return what a file says.

    Raises:
        DataError: If it cannot be read, is too large or too deep, or is no plain JSON: numbers must
            be finite, a key must not stand twice, and text must be visible.
    """
    where = f"result file {str(path)!r}"
    try:
        with path.open("rb") as handle:
            content = handle.read(MAX_BYTES + 1)
    except OSError as error:
        raise DataError(f"{where} cannot be read: {error.strerror}.") from error
    if len(content) > MAX_BYTES:
        raise DataError(
            f"{where} is larger than allowed: at most {MAX_BYTES / 1e6:.0f} MB. "
            "Leave trials out, or give each part of the study a run of its own."
        )
    return parse(content, where)


def parse(content: bytes, where: str) -> Any:
    """Return what the bytes of a file say (see :func:`read_json`)."""
    try:
        value = json.loads(
            content.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_number
        )
    except RecursionError as error:
        raise _too_deep(where) from error
    except ValueError as error:  # of JSON and of UTF-8 alike
        raise DataError(f"{where} is no JSON: {error}.") from error
    for spot, item in _walk(value, where):
        if isinstance(item, str) and (found := _UNSEEN.search(item)):
            raise DataError(
                f"{where}, at {spot}: got text with the character U+{ord(found[0]):04X}; allowed: "
                "visible text, tabs and line feeds."
            )
    return value


def spot_of(parts: Iterable[Any]) -> str:
    """Return a path in a file as people write it.

    >>> spot_of(["measured", "rows", 2, "goal"])
    'measured.rows[2].goal'
    """
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return text.lstrip(".") or "the top"


def _walk(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Yield every value and key with its place; in a loop, as a stack of calls has an end."""
    open_: list[tuple[tuple[Any, ...], Any]] = [((), value)]
    while open_:
        place, item = open_.pop()
        if len(place) > MAX_DEPTH:
            raise _too_deep(where)
        if isinstance(item, dict):
            spot = spot_of(place)
            yield from ((f"a key of {spot}", key) for key in item)
            open_ += [((*place, key), inner) for key, inner in item.items()]
        elif isinstance(item, list):
            open_ += [((*place, index), inner) for index, inner in enumerate(item)]
        elif isinstance(item, str):
            yield spot_of(place), item


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {twice[:60]!r} stands twice")
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def _too_deep(where: str) -> DataError:
    return DataError(f"{where} is nested too deeply; allowed: {MAX_DEPTH} levels.")
