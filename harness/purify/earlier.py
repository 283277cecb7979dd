"""Whether what an earlier call left in an output is of the same job, and of the same images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.errors import DataError, UsageError
from harness.core.files import write_text
from harness.core.values import Json
from harness.progress import Progress
from harness.purify.changed import compare_images, compare_lists
from harness.purify.notes import note_path
from harness.purify.sources import Source

if TYPE_CHECKING:
    from harness.purify.job import Job

JOB, IMAGES = "job.json", "images.json"
OF_IMAGES = frozenset(["images", "content"])  # keys that say which images a job has
SHOWN = 4  # of the chunks that hold other images by now


def _what_begun(what: dict[str, Json], source: Source) -> dict[str, Json]:
    """Return what must be the same for a job to go on; images are looked at one by one."""
    return {k: v for k, v in what.items() if k not in OF_IMAGES} | {"column": source.column}


def write_begun(job: Job, source: Source, what: dict[str, Json]) -> None:
    """Write into an output's folder of chunks what it is of."""
    begun = json.dumps(_what_begun(what, source), indent=1, sort_keys=True)
    write_text(job.parts / JOB, begun + "\n")
    write_text(job.parts / IMAGES, json.dumps(source.names(0, len(source))))


def finished(job: Job, source: Source, what: dict[str, Json]) -> dict[str, Json] | None:
    """Return the manifest of the output if it is finished.

    Raises:
        UsageError: If the output is of something else.
    """
    out, manifest, begun = str(job.out), job.manifest, job.parts / JOB
    if manifest.is_file():
        earlier: dict[str, Json] = _read(manifest, dict)
        if other := _other(earlier, what):
            raise UsageError(
                f"{out!r} was made {other} (see {str(manifest)!r}). Give another output."
            )
        if not job.out.exists():
            raise UsageError(
                f"{out!r} is no longer there, though {str(manifest)!r} says that it was made. "
                f"Remove that and {str(job.changes)!r} to make it anew."
            )
        return earlier
    if begun.is_file():
        if other := _other(_read(begun, dict), _what_begun(what, source)):
            raise UsageError(
                f"{out!r} was begun {other} (see {str(begun)!r}). Call as then to go on, give "
                f"another output, or {_anew(job)}."
            )
        return None
    for path in (job.out, job.changes):
        if path.exists() and not (
            job.source.is_dir() and path.is_dir() and not any(path.iterdir())
        ):
            raise UsageError(f"{str(path)!r} is there already; give another output.")
    return None


def _other(earlier: dict[str, Json], what: dict[str, Json]) -> str:
    """Return by or of what else an earlier output is, or ""."""
    lacking = [key for key in what if key not in earlier]
    if lacking:
        return f"by another version, which says nothing of {' and '.join(map(repr, lacking))}"
    differing = [key for key in what if earlier[key] != what[key]]
    if not differing:
        return ""
    if OF_IMAGES.issuperset(differing):
        return "of the source as it was: names, sizes or times of its files are others by now"
    return f"by another purification: {' and '.join(differing)} differ"


def _read(path: Path, kind: type) -> Any:
    try:
        read = json.loads(path.read_text())
    except ValueError as error:
        raise DataError(f"{str(path)!r} is damaged: {error}; give another output.") from error
    if not isinstance(read, kind):
        raise DataError(f"{str(path)!r} is damaged; give another output.")
    return read


def check_images(job: Job, source: Source, chunk: int, progress: Progress) -> None:
    """Check that the images which have been purified are those of the source by now.

    Raises:
        UsageError: If some are not: how many, and what to do.
    """
    if not (job.parts / IMAGES).is_file():
        return
    then = _read(job.parts / IMAGES, list)
    begun = f"{str(job.out)!r} was begun with other images"
    anew = f"another output, or {_anew(job)}"
    if differ := compare_lists(then, source.names(0, len(source))):
        raise UsageError(
            f"{begun}: {differ}. Noise goes by an image's place among all, so put the names back "
            f"to go on (what was not purified yet may be replaced); or give {anew}."
        )
    starts = range(0, len(source), chunk)
    found = compare_images(source, job.parts, starts, chunk, progress.note)
    if found.other:
        notes = [str(note_path(job.parts, start)) for start in found.starts]
        listed = " and ".join(map(repr, notes[:SHOWN])) + (" and so on" if notes[SHOWN:] else "")
        raise UsageError(
            f"{begun}: of {found.purified} that are purified, {found.other} hold other pixels by "
            f"now ({found.first!r}), {found.sized} of them in files of another size; {found.timed} "
            f"more differ in their files' times or sizes alone, which is no hindrance. Put those "
            f"of other pixels back to go on; or remove {listed} to have their chunks purified "
            f"again as they are now; or give {anew}."
        )
    if found.timed:
        progress.note(f"files that have changed, but not in their pixels: {found.timed}")


def _anew(job: Job) -> str:
    made = " and all else in the output" if job.source.is_dir() else ""
    return f"remove {str(job.parts)!r}{made} to begin anew"
