"""Whether images that have been purified are still those of their source."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.purify.notes import pixels_digest, read_note, write_note
from harness.purify.sources import Source


@dataclass
class Changes:
    """What has become of images that were purified, in numbers of them.

    Attributes:
        purified: All of them.
        other: Those that hold other pixels now.
        sized: Of these, those whose file has another size.
        timed: Those whose file is another, by its time or size, and holds the same pixels.
        first: Name of the first of ``other``.
        starts: Chunks that hold the others, by their first row.
    """

    purified: int = 0
    other: int = 0
    sized: int = 0
    timed: int = 0
    first: str = ""
    starts: list[int] = field(default_factory=list)


def compare_lists(then: Sequence[str], now: Sequence[str]) -> str:
    """Return which images are gone and which are new, in words; "" if none is.

    >>> compare_lists(["a", "b", "c"], ["b", "d"])
    "2 are gone ('a'), 1 new ('d')"
    """
    there, here = set(then), set(now)
    gone = [name for name in then if name not in here]
    new = [name for name in now if name not in there]
    counted = [("are gone", gone), ("new", new)]
    return ", ".join(f"{len(names)} {what} ({names[0]!r})" for what, names in counted if names)


def compare_images(
    source: Source, parts: Path, starts: Iterable[int], chunk: int, tell: Callable[[str], None]
) -> Changes:
    """Hold images that were purified against what the source holds now.

    Pixels are read only in chunks of which a file's size or time is another. Where they are the
    same, that is noted, so that the next call need not read them again.

    Args:
        source: Opened now; the list of its images is the same.
        parts: Where chunks are noted.
        starts: Their first rows; those without a note are passed over.
        chunk: Images in each.
        tell: Is told when reading begins, since it may take long.
    """
    found = Changes()
    for start in starts:
        count = min(chunk, len(source) - start)
        note = read_note(parts, start, count)
        if note is None:
            continue
        found.purified += count
        files = source.states(start, start + count)
        touched = [row for row in range(count) if files[row] != note.files[row]]
        if not touched:
            continue
        if not found.other and not found.timed:
            tell("files have changed; their pixels are held against those that were purified")
        images = source.read(start, start + count)
        other = [row for row in touched if pixels_digest(images[row]) != note.pixels[row]]
        found.timed += len(touched) - len(other)
        if not other:
            write_note(parts, start, replace(note, files=files))
            continue
        found.first = found.first or source.names(start, start + count)[other[0]]
        found.other += len(other)
        found.sized += sum(_size(files[row]) != _size(note.files[row]) for row in other)
        found.starts.append(start)
    return found


def _size(state: str) -> str:
    return state.partition(" ")[0]
