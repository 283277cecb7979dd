"""A trajectory in numbers: means over images with standard errors, and what follows from them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.report.trajectory_band import band

if TYPE_CHECKING:  # a report needs no torch
    from generative.trajectory import Trajectory


def table_rows(found: Trajectory) -> list[dict[str, float]]:
    """Return one row per snapshot: means with their standard errors, and what energy tells."""
    columns: dict[str, NDArray[Any]] = {"steps": np.array(found.steps)}
    for name, values in _curves(found):
        line = band(values)
        columns |= {name: line.mean, f"{name}_se": line.error}
    told = [found.told_apart(i) for i in range(len(found.steps))]
    if told[0] is not None:
        columns["told_apart"] = np.array(told)
    return [
        {name: float(values[i]) for name, values in columns.items()}
        for i in range(len(found.steps))
    ]


def csv_text(found: Trajectory) -> str:
    """Return the table as CSV."""
    rows, text = table_rows(found), io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def text_lines(found: Trajectory) -> list[str]:
    """Return the table as lines of a terminal."""
    rows = table_rows(found)
    shown = [[f"{value:>{len(name)}.4g}" for name, value in row.items()] for row in rows]
    return ["  ".join(rows[0]), *("  ".join(row) for row in shown)]


def conclusions(note: Mapping[str, Any]) -> list[str]:
    """Return what the curves say, a line each: the crossings, the minimum, the energies' order.

    Args:
        note: What is written of a trajectory, as numbers.
    """
    lowest, ordered = note["figures"]["distances"]["minimum"]["l2"], note["ordered"]
    nearest = (
        f"they are nearest to the clean images at step {note['nearest']} (L2 {lowest:.2f})"
        if note["nearest"]
        else "no number of steps that was looked at brings them nearer to the clean images"
    )
    lines = [
        f"poisoned images move further than clean ones: {_from(note['outmoved'])}",
        "purified poisons are nearer to the clean images than to the poisons: "
        f"{_from(note['freed'])}",
        nearest,
    ]
    if ordered is not None:
        kept = ", ".join(map(str, ordered)) or "no step"
        lines.append(f"energies clean < purified poisoned < poisoned at: {kept}")
    return lines


def _from(step: float | None) -> str:
    if not step:  # from the start on there is nothing to tell apart yet
        return "never" if step is None else "from the first step on"
    return f"from step {step:.0f} on"


def ordered_steps(found: Trajectory) -> list[int] | None:
    """Return the counts after which energies order clean < purified poisoned < poisoned.

    None without energies.
    """
    if found.energy_clean is None:
        return None
    return [step for i, step in enumerate(found.steps) if i and found.ordered(i)]


def _curves(found: Trajectory) -> Iterator[tuple[str, NDArray[np.float32]]]:
    yield "clean_moved", found.clean_moved
    yield "clean_to_poison", found.clean_to_poison
    yield "poison_moved", found.poison_moved
    if found.energy_clean is not None and found.energy_poison is not None:
        yield "energy_clean", found.energy_clean
        yield "energy_poison", found.energy_poison
