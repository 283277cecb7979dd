"""A trajectory as an MLflow run: what it measured step by step, and its figures."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.flat_record import RAN_ON, spec_params
from harness.tracking_inputs import log_followed_dataset
from harness.tracking_store import log_batch

if TYPE_CHECKING:
    from mlflow import MlflowClient

NOTE, TABLE = "trajectory.json", "trajectory.csv"
_FOUND = ("freed", "outmoved", "nearest", "images", "seconds")


def note_digest(folder: Path) -> str:
    """Return a digest of what a trajectory's note says, its files' digests among it."""
    return hashlib.sha256((folder / NOTE).read_bytes()).hexdigest()[:12]


def log_trajectory(
    client: MlflowClient, experiment: str, parent: str, folder: Path, tags: Mapping[str, str]
) -> str:
    """Log what was written of a trajectory as a child run, and return the run's id.

    Args:
        client: Of the store.
        experiment: Id.
        parent: Id of the study's run.
        folder: Of the trajectory.
        tags: Of the study, and of the trajectory's generators where they are registered.
    """
    note = json.loads((folder / NOTE).read_text())
    ran_on = {name: str(note["environment"].get(name) or "") for name in RAN_ON}
    run = client.create_run(
        experiment,
        run_name=note["name"],
        tags={
            "mlflow.parentRunId": parent,
            "puregen.kind": "trajectory",
            "puregen.spec_id": note["name"],
            **{f"puregen.{name}": text for name, text in ran_on.items() if text},
            **tags,
        },
    ).info.run_id
    log_batch(client, run, _points(note, folder), spec_params(note["spec"]))
    log_followed_dataset(client, run, note)
    client.log_artifacts(run, str(folder))
    client.set_tag(run, "puregen.record", note_digest(folder))
    client.set_terminated(run, "FINISHED")
    return str(run)


def _points(note: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, int, float]]:
    """Yield name, step count and value of each number."""
    for name in _FOUND:
        if note.get(name) is not None:
            yield name, 0, float(note[name])
    with (folder / TABLE).open(newline="") as table:
        for row in csv.DictReader(table):
            step = int(float(row.pop("steps")))
            yield from ((name, step, float(value)) for name, value in row.items())
