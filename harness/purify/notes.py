"""The note of a chunk that is purified: how far its images were moved, and on what."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.core.files import write_text
from harness.core.values import Json
from harness.purify.sources import part_path


@dataclass(frozen=True, slots=True)
class Note:
    """How far the images of a chunk were moved, one value per image, and where.

    Attributes:
        l2: L2 distances in units of [0, 1].
        largest: Largest change of a byte, in grey levels; 0 where none changed.
        environment: On what it was done; workers, and calls that go on, may differ.
    """

    l2: list[float]
    largest: list[int]
    environment: dict[str, Json]


def note_path(parts: Path, start: int) -> Path:
    """Return where the chunk that begins at a row is noted."""
    return part_path(parts, start, ".done.json")


def write_note(parts: Path, start: int, note: Note) -> None:
    """Note a chunk; from then on it is not made again."""
    write_text(note_path(parts, start), json.dumps(asdict(note)))


def read_note(parts: Path, start: int, count: int) -> Note | None:
    """Return the note of a chunk of so many images; None where there is none of this form.

    Another version may have noted less, or chunks of another size; such a chunk is made again.
    """
    try:
        note = Note(**json.loads(note_path(parts, start).read_text()))
        whole = len(note.l2) == len(note.largest) == count
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return note if whole else None
