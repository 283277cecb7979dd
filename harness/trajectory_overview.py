"""What a study of trajectories would do: for each, what is there and what has to be made first."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from harness.study import StudySpec
from harness.trajectory_plan import Planned, needs_of, plan_trajectories
from harness.trajectory_work import is_written
from harness.workshop import Workshop


def trajectory_overview(study: StudySpec, workshop: Workshop, run: Path) -> Table:
    """Return a row per trajectory; nothing is made.

    Args:
        study: Checked study.
        workshop: Gives access to datasets and store.
        run: Folder of the run, there or not.
    """
    table = Table(box=None, pad_edge=False)
    table.add_column("trajectory", style="bold", no_wrap=True)
    for title in ("generator", "images", "steps", "state", "has to be made first"):
        table.add_column(title, justify="right" if title == "images" else "left")
    for one in plan_trajectories(study, workshop):
        steps = ", ".join(map(str, one.steps))
        state, needs = _state(one, workshop, run)
        images = f"≤ {one.spec.count}"
        table.add_row(one.spec.name, one.kind, images, steps, state, needs)
    return table


def _state(one: Planned, workshop: Workshop, run: Path) -> tuple[str, str]:
    if is_written(run, one):
        return "written", ""
    if workshop.store.has(one.key):
        return "in the store", ""
    left = [need for need in needs_of((one,), workshop) if not workshop.store.has(need.key)]
    return "to be made", ", ".join(f"{need.label} ({need.stage})" for need in left) or "nothing"
