"""A run of trajectories: what was written of each, and the tables that its report has."""

from __future__ import annotations

import csv
import io
import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import DataError, UsageError
from harness.core.files import file_digest
from harness.report.collect import Problem, Study, read_study_file
from harness.report.figures import Drawing
from harness.report.table import Entry, Head, Table

_CURVES = (
    ("clean_moved", "Clean → purified clean",
     "L2 between a clean image and what purification makes of it: the price."),
    ("clean_to_poison", "Clean → purified poison",
     "L2 between a clean image and its poison, purified: what of the poison, and of the price, is "
     "left."),
    ("poison_moved", "Poison → purified poison", "L2 between a poison and itself, purified."),
    ("energy_clean", "Energy of clean", "Of clean images, purified; lower is more natural."),
    ("energy_poison", "Energy of poisoned", "Of poisoned images, purified."),
)  # fmt: skip
_TOLD = Head(
    "Told apart", "Probability that a purified poison has a higher energy than a clean image that "
    "was not purified (AUC); 0.5 is not at all.",
)  # fmt: skip
_TITLES = {
    "distances": "Distances on the way", "energies": "Energies", "images": "Images on the way",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Written:
    """What a run has of one trajectory.

    Attributes:
        name: Of its folder.
        note: Its settings, and what was found.
        csv: Its table.
        drawings: Its figures.
    """

    name: str
    note: Mapping[str, Any]
    csv: str
    drawings: tuple[Drawing, ...]

    @property
    def rows(self) -> list[dict[str, str]]:
        """The table, row by row."""
        return list(csv.DictReader(io.StringIO(self.csv)))


@dataclass(frozen=True, slots=True)
class TrajectoryRun:
    """A run folder as read.

    Attributes:
        path: The folder.
        study: What was planned.
        followed: In the order of the study.
        missing: Names of those that are not written.
        problems: Files that could not be read.
    """

    path: Path
    study: Study
    followed: tuple[Written, ...]
    missing: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


def is_of_trajectories(run: Path) -> bool:
    """Whether a folder is that of a run that follows images, and has no trials."""
    return bool(read_study_file(run / "study.json", []).trajectories)


def read_trajectory_run(path: Path) -> TrajectoryRun:
    """Read a run folder; a trajectory that cannot be read is listed, not fatal.

    Raises:
        UsageError: If no trajectory in it can be read.
    """
    problems: list[Problem] = []
    study = read_study_file(path / "study.json", problems)
    found, missing = [], []
    for name, key in study.trajectories.items():
        folder = path / "trajectories" / name
        if not (folder / "trajectory.json").is_file():
            missing.append(name)
            continue
        try:
            one = _read(name, folder)
        except (DataError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            problems.append(Problem(f"trajectories/{name}", str(error)))
            continue
        if one.note["key"] == key:
            found.append(one)
        else:  # of an earlier call with other settings, which are not the study's any more
            missing.append(name)
    if not found:
        unread = f" {problems[0].file}: {problems[0].error}" if problems else ""
        raise UsageError(f"{str(path)!r} holds no trajectory that can be read.{unread}")
    return TrajectoryRun(path, study, tuple(found), tuple(missing), tuple(problems))


def _read(name: str, folder: Path) -> Written:
    note = json.loads((folder / "trajectory.json").read_text())
    for file, sha in note["files"].items():
        if file_digest(folder / file) != sha:
            raise DataError(f"{file} is not what was written.")
    captions = {key: said["caption"] for key, said in note["figures"].items()}
    if "images.png" in note["files"]:
        captions["images"] = (
            f"The first poisoned images, and what becomes of them after more and more "
            f"{note['unit']}."
        )
    drawings = tuple(_drawing(key, folder, text) for key, text in captions.items())
    return Written(name, note, (folder / "trajectory.csv").read_text(), drawings)


def _drawing(name: str, folder: Path, caption: str) -> Drawing:
    png = (folder / f"{name}.png").read_bytes()
    vector = folder / f"{name}.svg"
    if not vector.is_file():
        width = struct.unpack(">I", png[16:20])[0]  # of a PNG's header
        return Drawing(name, _TITLES[name], caption, "", png, raster=True, width_px=width)
    svg = vector.read_text()
    points = re.search(r'<svg[^>]* width="([\d.]+)pt"', svg)
    width = round(float(points[1]) * 96 / 72) if points else 540
    return Drawing(name, _TITLES[name], caption, svg, png, raster=False, width_px=width)


def numbers_table(one: Written, *, told: bool = True) -> Table:
    """Return a trajectory's means with their standard errors, a row per count of steps."""
    rows = one.rows
    curves = [curve for curve in _CURVES if curve[0] in rows[0]]
    heads = [Head(str(one.note["unit"]).capitalize(), "After so many.")]
    heads += [Head(title, text) for _, title, text in curves]
    last = told and "told_apart" in rows[0]
    lines = []
    for row in rows:
        entries = [Entry(f"{float(row['steps']):.0f}", float(row["steps"]))]
        for key, _, _ in curves:
            mean, error = float(row[key]), float(row[f"{key}_se"])
            entries.append(Entry(f"{mean:.3f} ± {error:.3f}", mean))
        if last:
            entries.append(Entry(f"{float(row['told_apart']):.2f}", float(row["told_apart"])))
        lines.append(tuple(entries))
    return Table((*heads, *([_TOLD] if last else [])), tuple(lines))


def overview_table(run: TrajectoryRun) -> Table:
    """Return what each trajectory found, a row each."""
    heads = (
        Head("Trajectory", numeric=False), Head("Generator", numeric=False),
        Head("Poison", numeric=False), Head("Images"),
        Head("Poisons nearer to clean from step", "Linear between two counts that were looked at."),
        Head("Poisons move further from step", "Than clean images do; likewise."),
        Head("Nearest at step", "Of those that were looked at."),
        Head("L2 there", "Between clean images and purified poisons; before: at step 0."),
        Head("L2 before"),
        Head("Energies in order", "Steps after which clean < purified poisoned < poisoned.",
             numeric=False),
    )  # fmt: skip
    return Table(heads, tuple(_overview(one) for one in run.followed))


def _overview(one: Written) -> tuple[Entry, ...]:
    note, rows = one.note, one.rows
    lowest = note["figures"]["distances"]["minimum"]
    before = float(rows[0]["clean_to_poison"])
    steps = note["ordered"]
    ordered = "-" if steps is None else ", ".join(map(str, steps)) or "none"
    kind = note["generator"]["kind"]
    return (
        Entry(one.name, one.name), Entry(kind, kind), Entry(note["poisons"], note["poisons"]),
        Entry(str(note["images"]), note["images"]), _step(note["freed"]), _step(note["outmoved"]),
        Entry(str(note["nearest"]), note["nearest"]), Entry(f"{lowest['l2']:.3f}", lowest["l2"]),
        Entry(f"{before:.3f}", before), Entry(ordered, ordered),
    )  # fmt: skip


def _step(value: float | None) -> Entry:
    if value is None:
        return Entry("never")
    return Entry(f"{value:.0f}" if value else "the first", value)
