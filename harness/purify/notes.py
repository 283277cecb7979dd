"""The note of a chunk that is purified: what was read, how far it was moved, and on what."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from harness.core.files import write_text
from harness.core.values import Json
from harness.purify.sources import Image, part_path


@dataclass(frozen=True, slots=True)
class Note:
    """What was read of a chunk's images, how far they were moved, one value per image, and where.

    Attributes:
        files: Size and time of the file that each was read from, see :meth:`Source.states`.
        pixels: Digest of each as it was read.
        l2: L2 distances in units of [0, 1].
        largest: Largest change of a byte, in grey levels; 0 where none changed.
        environment: On what it was done; workers, and calls that go on, may differ.
    """

    files: list[str]
    pixels: list[str]
    l2: list[float]
    largest: list[int]
    environment: dict[str, Json]


def pixels_digest(image: Image) -> str:
    """Return what tells an image from another one; 64 bits, since nobody forges one here."""
    sha = hashlib.sha256(f"{image.shape}".encode())
    sha.update(np.ascontiguousarray(image).data)
    return sha.hexdigest()[:16]


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
        values = (note.files, note.pixels, note.l2, note.largest)
        whole = all(len(value) == count for value in values)
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return note if whole else None
