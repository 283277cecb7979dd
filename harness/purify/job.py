"""One purification of many images: cut into chunks, each made once, and a manifest at the end."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.data import ImageSet
from harness.core.device import pick_device, pick_dtype
from harness.core.errors import DataError, UsageError
from harness.core.files import write_aside, write_text
from harness.core.params import ComponentSpec, is_trained, networks, references
from harness.core.paths import check_writable
from harness.core.protocols import DEFENSES
from harness.core.registry import one_message
from harness.core.seeds import stream
from harness.core.spec import PROTOCOL, digest
from harness.core.values import Json
from harness.environment import environment
from harness.execution import Done, Executor
from harness.plan import check_weights
from harness.progress import Progress
from harness.purify.earlier import check_images, finished, write_begun
from harness.purify.notes import Note, note_path, pixels_digest, read_note, write_note
from harness.purify.sources import Image, Source, open_source
from harness.study import Resources
from harness.work import make_unit, workshop_for, workshop_of
from harness.workshop import Workshop, is_rowwise

CHUNK = 256  # images that are lost at most when a worker is killed; it changes no byte
MANIFEST, CHANGES = "manifest.json", "changes.csv"


@dataclass(frozen=True, slots=True)
class Job:
    """What to purify, and with what.

    Attributes:
        source: Folder or file, absolute.
        out: What it becomes; the same kind of thing, elsewhere.
        defense: With all its parameters.
        seed: Of the defense.
        column: Array or column of the images, or None.
    """

    source: Path
    out: Path
    defense: ComponentSpec
    seed: int = 0
    column: str | None = None

    @property
    def parts(self) -> Path:
        """Where chunks are noted, and kept until the end."""
        if self.source.is_dir():
            return self.out / ".purify"
        return self.out.with_name(f".{self.out.name}.purify")

    @property
    def manifest(self) -> Path:
        """Where what was done is written at the end."""
        return self.out / MANIFEST if self.source.is_dir() else self.out.with_suffix(".json")

    @property
    def changes(self) -> Path:
        """Where it is written how far each image was moved."""
        return self.out / CHANGES if self.source.is_dir() else self.out.with_suffix(f".{CHANGES}")

    def open(self) -> Source:
        """Return the images."""
        return open_source(str(self.source), self.column)


def check_job(job: Job, workshop: Workshop) -> Source:
    """Check all that can be known before; nothing is written.

    Raises:
        UsageError: If the defense needs more than pixels, or cannot take one of the images.
    """
    source = job.open()
    name = job.defense.name
    if name == "none" or not is_rowwise(job.defense):
        raise UsageError(
            f"defense {name!r} does not purify images one by one: it does nothing, looks at the "
            "whole training set, or acts in the training. It has its place in a study."
        )
    if job.out.suffix != source.suffix:
        wanted = f"a {source.suffix} file" if source.suffix else "a folder"
        raise UsageError(f"the source is {wanted}, and so is the output; got {str(job.out)!r}.")
    if job.out == job.source or job.source in job.out.parents:
        raise UsageError(f"output {str(job.out)!r} lies in the source; give another place.")
    check_writable(job.manifest.parent)
    check_weights(DEFENSES, job.defense, workshop)
    defense = workshop.component(DEFENSES, job.defense, check=True)
    if defense.hooks():
        raise UsageError(
            f"defense {name!r} acts in the training, in part at least, and images cannot carry "
            "that along. It has its place in a study."
        )
    for shape, row in source.shapes().items():
        [called] = source.names(row, row + 1)
        with one_message("defense", DEFENSES.get(name), of=called):
            defense.check(_as_set([np.zeros(shape, np.uint8)], [row]))
    return source


def run_job(
    job: Job,
    workshop: Workshop,
    services: Callable[[], AbstractContextManager[Executor]],
    progress: Progress,
) -> dict[str, Json] | list[str]:
    """Purify what is not purified yet; return the manifest, or why some chunks failed.

    Raises:
        UsageError: See :func:`check_job`; also if ``out`` is of another job, or of images that the
            source no longer has.
    """
    source = check_job(job, workshop)
    what = _identity(job, source, workshop)
    there = finished(job, source, what)
    if there is not None:
        progress.note("this has been done before")
        return there
    check_images(job, source, CHUNK, progress)
    starts = [s for s in range(0, len(source), CHUNK) if _noted(job, source, s) is None]
    missing = sum(_count(source, s) for s in starts)
    progress.note(f"{len(source)} images, {missing} to purify")
    if unusable := sum(note_path(job.parts, s).is_file() for s in starts):
        progress.note(f"{unusable} chunks were noted by another version and are made again")
    if starts:
        failed = _make(job, source, what, workshop, services, progress, starts)
        if failed:
            return failed
    progress.note("every image is purified")
    now = job.open()  # it may have changed in the hours since
    check_images(job, now, CHUNK, progress)
    now.finish(job.parts, job.out, CHUNK)
    return _conclude(job, now, {**what, "content": now.identity()})


def _make(
    job: Job,
    source: Source,
    what: dict[str, Json],
    workshop: Workshop,
    services: Callable[[], AbstractContextManager[Executor]],
    progress: Progress,
    starts: list[int],
) -> list[str]:
    wanted = networks(DEFENSES.get(job.defense.name), job.defense)
    lacking = [
        r for r in wanted
        if is_trained(r.raw) and not workshop.store.has(workshop.identity(r.kind, r.raw))
    ]  # fmt: skip
    common = workshop.for_workers()
    trainings = [
        {**common, "unit": "resource", "kind": r.kind, "reference": r.raw} for r in lacking
    ]
    names = digest(source.names(0, len(source)))
    fixed = {**common, **_payload(job), "content": what["content"], "names": names}
    chunks: list[dict[str, Json]] = [{**fixed, "start": s} for s in starts]
    with services() as executor, progress:
        # Only now: where there is no such Ray, nothing is left that another call has to go on with.
        write_begun(job, source, what)
        workshop.store.check_nodes(executor, {"result": job.parts})
        there = workshop.device != "cpu" and bool(executor.where().get("gpus"))
        of_use = workshop.device == "cuda" or _has_network(job.defense)
        resources = Resources(gpus=float(there and of_use))
        for stage, run, function, payloads in (
            ("trainings", executor.units, make_unit, trainings),
            ("chunks", executor.stream, purify_chunk, chunks),
        ):
            progress.start(stage, len(payloads))
            failed = []
            for done in run(function, payloads, resources):
                progress.advance(_told(done, payloads[done.index]), done.seconds)
                failed += [done.error.partition("\n")[0]] if done.error else []
            if failed:
                return failed
    return []


def _has_network(defense: ComponentSpec) -> bool:
    """Whether a defense, or one that it is made of, computes with a network."""
    found = references(DEFENSES.get(defense.name), defense)
    return any(r.kind != "defense" or _has_network(ComponentSpec.from_json(r.raw)) for r in found)


def _told(done: Done, payload: Mapping[str, Json]) -> str:
    what = f"from image {payload['start']} on" if "start" in payload else "a generator"
    return f"{what} FAILED: {done.error.partition(chr(10))[0]}" if done.error else what


def _payload(job: Job) -> dict[str, Json]:
    return {
        "source": str(job.source),
        "out": str(job.out),
        "defense": job.defense.to_json(),
        "seed": job.seed,
        "column": job.column,
    }


def purify_chunk(payload: dict[str, Json]) -> dict[str, Json]:
    """Purify one chunk, unless that has been done; runs in this process or in a worker.

    ``payload``: what :func:`harness.work.workshop_for` takes, ``start``, that of :func:`_payload`,
    and what the driver found: ``content`` and a digest of all ``names``.
    """
    job = Job(
        Path(payload["source"]),
        Path(payload["out"]),
        ComponentSpec.from_json(payload["defense"]),
        payload["seed"],
        payload["column"],
    )
    start = int(payload["start"])
    source = _opened(payload["source"], payload["column"], payload["content"], payload["names"])
    if _noted(job, source, start) is None:
        stop = start + _count(source, start)
        files = source.states(start, stop)  # first: what changes while it is read, is found
        before = source.read(start, stop)
        workshop = workshop_for(payload)
        after = _purify(job, workshop, before, start)
        source.write(job.parts, job.out, start, after)
        # Last: it says that the rest is there.
        write_note(job.parts, start, _noting(files, before, after, workshop.device))
    return {}


@lru_cache(maxsize=1)
def _defense(store: str, device: str, session: str, spec: str) -> Any:
    workshop = workshop_of(store, device, session)
    return workshop.component(DEFENSES, ComponentSpec.from_json(json.loads(spec)))


@lru_cache(maxsize=1)
def _opened(source: str, column: str | None, content: str, names: str) -> Source:
    """Return the images, opened once; another ``content`` is that of changed files.

    Raises:
        DataError: If they are not those that the driver listed, whose rows are numbered.
    """
    opened = open_source(source, column)
    if digest(opened.names(0, len(opened))) != names:
        raise DataError(f"images of {source!r} were added, taken away or renamed meanwhile.")
    return opened


def _purify(job: Job, workshop: Workshop, images: list[Image], start: int) -> list[Image]:
    """Purify images of one shape together; a row's noise depends on its number alone."""
    spec = json.dumps(job.defense.to_json(), sort_keys=True)
    defense = _defense(workshop.store.address, workshop.device, workshop.session, spec)
    done: list[Image | None] = [None] * len(images)
    for shape in sorted({image.shape for image in images}):
        rows = [i for i, image in enumerate(images) if image.shape == shape]
        same = _as_set([images[i] for i in rows], [start + i for i in rows])
        purified = defense.purify(same, stream(job.seed, "defense"))
        for row, image in zip(rows, purified.images, strict=True):
            done[row] = np.asarray(image)
    return [image for image in done if image is not None]


def _as_set(images: list[Image], rows: list[int]) -> ImageSet:
    labels = np.zeros(len(rows), np.int64)  # of no use to a row-wise defense
    return ImageSet(np.stack(images), labels, np.array(rows, np.int64), 1)


def _noting(files: list[str], before: list[Image], after: list[Image], device: str) -> Note:
    steps: list[NDArray[np.int16]] = [
        new.astype(np.int16) - old for old, new in zip(before, after, strict=True)
    ]
    where = pick_device(device)
    return Note(
        files,
        [pixels_digest(image) for image in before],
        [round(float(np.sqrt(np.square(step / 255).sum())), 6) for step in steps],
        [int(np.abs(step).max()) for step in steps],
        environment(where, pick_dtype("auto", where)),
    )


def _count(source: Source, start: int) -> int:
    return min(CHUNK, len(source) - start)


def _noted(job: Job, source: Source, start: int) -> Note | None:
    return read_note(job.parts, start, _count(source, start))


def _identity(job: Job, source: Source, workshop: Workshop) -> dict[str, Json]:
    """Return what the output is of, as it is read from a file."""
    entry = DEFENSES.get(job.defense.name)
    what: dict[str, Json] = {
        "source": str(job.source),
        "images": len(source),
        "content": source.identity(),
        "defense": workshop.component_identity(entry, job.defense),
        "seed": job.seed,
        "protocol": PROTOCOL,
    }
    read: dict[str, Json] = json.loads(json.dumps(what))
    return read


def _conclude(job: Job, source: Source, what: dict[str, Json]) -> dict[str, Json]:
    """Write what changed by how much and the manifest, then take the chunks' notes away."""
    changed, l2, largest = 0, 0.0, 0
    environments: list[dict[str, Json]] = []

    def write(path: Path) -> None:
        nonlocal changed, l2, largest
        with path.open("w", newline="") as handle:
            table = csv.writer(handle, lineterminator="\n")
            table.writerow(["image", "l2", "largest_change"])
            for start in range(0, len(source), CHUNK):
                moved = _noted(job, source, start)
                if moved is None:
                    raise DataError(f"{str(note_path(job.parts, start))!r} was taken away.")
                names = source.names(start, start + len(moved.l2))
                table.writerows(zip(names, moved.l2, moved.largest, strict=True))
                changed += sum(most > 0 for most in moved.largest)
                l2 += sum(moved.l2)
                largest = max(largest, *moved.largest)
                if moved.environment not in environments:
                    environments.append(moved.environment)

    write_aside(job.changes, write)
    if not changed:
        job.changes.unlink()
        raise DataError(f"defense {job.defense.name!r} changed no byte of {len(source)} images.")
    manifest: dict[str, Json] = {
        **what,
        "parameters": job.defense.to_json(),
        "changed": changed,
        "mean_l2": l2 / len(source),
        "largest_change": largest,
        "environments": environments,
    }
    write_text(job.manifest, json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    shutil.rmtree(job.parts)
    return manifest
