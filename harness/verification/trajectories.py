"""Deriving every number of a trajectory's tables again, from nothing but its arrays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from generative.trajectory import from_arrays
from harness.core.files import read_arrays
from harness.report.checksums import CHECKSUMS, wrong_files
from harness.report.table import markdown
from harness.report.trajectories import (
    TrajectoryRun,
    Written,
    numbers_table,
    overview_table,
    read_trajectory_run,
)
from harness.report.trajectory_figure import facts
from harness.report.trajectory_page import render_trajectories
from harness.report.trajectory_table import csv_text, ordered_steps
from harness.verification.page import wrong_words
from harness.verification.tables import wrong_cells


def wrong_trajectories(path: Path) -> tuple[list[str], list[str], list[str]]:
    """Return what was looked at of a run of trajectories, what is wrong, and what was not.

    Raises:
        UsageError: If no trajectory in the folder can be read.
    """
    run, report = read_trajectory_run(path), path / "report"
    checked = ["SHA-256 of each trajectory's files", "tables and notes against the arrays"]
    wrong = [f"{problem.file}: {problem.error}" for problem in run.problems]
    wrong += [f"trajectories/{name}: planned, and not there" for name in run.missing]
    for one in run.followed:
        wrong += _wrong_numbers(one, path)
    unchecked = ["figures", "whether data, weights and code are still those of the run"]
    if not report.is_dir():
        return checked, wrong, [*unchecked, "there is no report"]
    if (report / CHECKSUMS).is_file():
        wrong += wrong_files(report)
        checked.append(f"SHA-256 of each file that report/{CHECKSUMS} names")
    for name, text in _tables(run).items():
        if (report / name).is_file():
            wrong += wrong_cells(f"report/{name}", (report / name).read_text(), text)
            checked.append(f"report/{name} against the trajectories")
    page = report / "index.html"
    if page.is_file():
        said = wrong_words(page.read_text(), render_trajectories(run))
        wrong += (f"report/{page.name}, {what}" for what in said)
        checked.append(f"report/{page.name} against the trajectories")
    return checked, wrong, unchecked


def _wrong_numbers(one: Written, path: Path) -> Iterator[str]:
    folder, note = path / "trajectories" / one.name, one.note
    found = from_arrays(read_arrays(folder / "trajectory.npz"))
    where = f"trajectories/{one.name}"
    yield from wrong_cells(f"{where}/trajectory.csv", one.csv, csv_text(found))
    shown = note["figures"].get("energies", {}).get("after_steps")
    derived = {
        "freed": found.freed,
        "outmoved": found.outmoved,
        "nearest": found.nearest,
        "ordered": ordered_steps(found),
        "figures": facts(found, str(note["unit"]), shown),
    }
    for key, value in derived.items():
        if note.get(key) != value:
            yield f"{where}/trajectory.json, {key}: {note.get(key)}; the arrays give {value}"


def _tables(run: TrajectoryRun) -> dict[str, str]:
    tables = {f"{one.name}.csv": one.csv for one in run.followed}
    tables |= {f"{one.name}.md": markdown(numbers_table(one)) for one in run.followed}
    return tables | {"overview.md": markdown(overview_table(run))}
