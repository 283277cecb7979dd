"""Whether a written table says what the records give, cell by cell."""

from __future__ import annotations

import csv
import io
import itertools
import math
import re
from collections.abc import Iterator, Sequence

_EXACT = 1e-9  # relative: the same number through text, and no more


def wrong_cells(name: str, written: str, derived: str) -> Iterator[str]:
    """Yield a line per cell, or line of text, in which a written file is not what was derived.

    Args:
        name: Of the file; ``.csv``, ``.md`` or ``.tex``.
        written: What the file says.
        derived: What the records give.
    """
    if written != derived:
        compare = _csv if name.endswith(".csv") else _lines
        yield from (f"{name}, {what}" for what in compare(written, derived))


def _csv(written: str, derived: str) -> Iterator[str]:
    said, given = (list(csv.reader(io.StringIO(text))) for text in (written, derived))
    if not said or not said[0]:
        yield "is empty"
        return
    heads, right = said[0], given[0]
    for column in [c for c in heads if c not in right]:
        yield f"column {column}: the records give none"
    for column in [c for c in right if c not in heads]:
        yield f"column {column}: not there, and the records give one"
    if len(said) != len(given):
        yield f"{len(said) - 1} rows, and the records give {len(given) - 1}"
    for number, (ours, theirs) in enumerate(zip(said[1:], given[1:], strict=False), start=1):
        for column in [c for c in right if c in heads]:
            one, other = _at(ours, heads.index(column)), _at(theirs, right.index(column))
            if not _same(one, other):
                yield (
                    f"row {number}{_who(theirs, right)}, column {column}: "
                    f"says {one!r}, the records give {other!r}"
                )


def _at(row: Sequence[str], index: int) -> str:
    return row[index] if index < len(row) else ""


def _who(row: Sequence[str], heads: Sequence[str]) -> str:
    named = [_at(row, heads.index(name)) for name in ("attack", "defense") if name in heads]
    return f" ({' / '.join(named)})" if named else ""


def _same(one: str, other: str) -> bool:
    if one == other:
        return True
    try:
        return math.isclose(float(one), float(other), rel_tol=_EXACT, abs_tol=1e-12)
    except ValueError:
        return False


def _lines(written: str, derived: str) -> Iterator[str]:
    said, given = written.splitlines(), derived.splitlines()
    for number, (one, other) in enumerate(itertools.zip_longest(said, given), start=1):
        if one is None:
            yield f"line {number}: not there, and the records give {other!r}"
        elif other is None:
            yield f"line {number}: says {one!r}, and the records give no such line"
        elif one != other:
            yield from (f"line {number}, {what}" for what in _cells(one, other))


def _cells(said: str, given: str) -> Iterator[str]:
    ours, theirs = (re.split(r" (?:\||&) |^\| | \|$", line) for line in (said, given))
    if len(ours) != len(theirs):
        yield f"says {said!r}, the records give {given!r}"
        return
    for one, other in zip(ours, theirs, strict=True):
        if one != other:
            yield f"says {one!r}, the records give {other!r}"
