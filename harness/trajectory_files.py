"""What is written of a trajectory: a table, arrays, figures, and a note of what was done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from generative.trajectory import Trajectory, to_arrays
from harness.core.errors import DataError
from harness.core.files import file_digest, write_arrays, write_aside, write_text
from harness.core.values import Json
from harness.report.trajectory_figure import draw, facts, write
from harness.report.trajectory_table import conclusions, csv_text, ordered_steps, text_lines
from harness.sample_grid import sample_grid

NOTE, TABLE, ARRAYS, PICTURES = (
    "trajectory.json", "trajectory.csv", "trajectory.npz", "images.png",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Traced:
    """A trajectory, and what was written of it.

    Attributes:
        found: What was measured.
        note: What was done, and what follows from the numbers.
        files: Table, arrays, settings and figures.
    """

    found: Trajectory
    note: dict[str, Json]
    files: tuple[Path, ...]

    @property
    def unit(self) -> str:
        """What its steps are."""
        return str(self.note["unit"])

    @property
    def lines(self) -> list[str]:
        """The table and what follows from it, for people."""
        said = [*text_lines(self.found), *conclusions(self.note)]
        return [*said, *(f"written: {file}" for file in self.files)]


def write_trajectory(
    out: Path, found: Trajectory, unit: str, usual: int, note: Mapping[str, Json]
) -> Traced:
    """Write the folder of a trajectory; its note comes last and says that the rest is whole.

    Args:
        out: Folder.
        found: What was measured.
        unit: What its steps are.
        usual: Count of steps after which energies are shown, where it was looked at.
        note: What was purified, how.
    """
    (out / NOTE).unlink(missing_ok=True)
    write_text(out / TABLE, csv_text(found))
    write_arrays(out / ARRAYS, to_arrays(found))
    written = [out / TABLE, out / ARRAYS]
    if found.pictures is not None:
        written.append(out / PICTURES)
        grid = sample_grid({_after(s): p for s, p in zip(found.steps, found.pictures, strict=True)})
        write_aside(written[-1], lambda path: grid.save(path, format="png", optimize=True))
    written += write(draw(found, unit, usual), out)
    said = {
        **note,
        "unit": unit,
        "freed": found.freed,
        "outmoved": found.outmoved,
        "nearest": found.nearest,
        "ordered": ordered_steps(found),
        "figures": facts(found, unit, usual),
        "files": {file.name: file_digest(file) for file in written},
    }
    write_text(out / NOTE, json.dumps(said, indent=1) + "\n")
    return Traced(found, said, (written[0], out / NOTE, *written[1:]))


def read_note(folder: Path) -> dict[str, Json] | None:
    """Return the note of a trajectory whose files are what was written; None for any other."""
    try:
        note = json.loads((folder / NOTE).read_text())
        whole = all(file_digest(folder / name) == sha for name, sha in note["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, DataError):
        return None
    return note if whole else None


def _after(steps: int) -> str:
    return f"after {steps}" if steps else "poisoned"
