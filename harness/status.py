"""How far a run is, from its folder alone: from another terminal, or another machine."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import DataError, UsageError
from harness.core.records import TrialRecord
from harness.work import record_path


@dataclass(frozen=True, slots=True)
class Status:
    """How far a run is.

    Attributes:
        run: Its folder.
        planned: Trials, or trajectories, that it was last asked for.
        done, failed: Of them, those with a good record, and with one that says why not.
        idle_seconds: Since the last record was written; None before the first.
        left_seconds: What the rest takes at the pace of the last trials; None if unknown or done.
        errors: First line of why trials failed, by the trial's id.
        noun: What is counted.
    """

    run: Path
    planned: int
    done: int
    failed: int
    idle_seconds: float | None
    left_seconds: float | None
    errors: dict[str, str]
    noun: str = "trials"

    @property
    def complete(self) -> bool:
        """Whether every trial has a good record."""
        return self.done == self.planned


def status_of(run: Path) -> Status:
    """Read how far a run is.

    Raises:
        UsageError: If the folder holds no run.
    """
    path = run / "study.json"
    if not path.is_file():
        raise UsageError(f"{str(run)!r} is no run folder: it holds no study.json.")
    try:
        said = json.loads(path.read_text())
        if "trajectories" in said:
            return _of_trajectories(run, {t["name"]: t["key"] for t in said["trajectories"]})
        wanted = [trial["spec_id"] for trial in said["trials"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{str(path)!r} is damaged: {error}.") from error
    done, errors, times = 0, {}, []
    for spec_id in wanted:
        record = record_path(run, spec_id)
        if not record.is_file():
            continue
        times.append(record.stat().st_mtime)
        try:
            read = TrialRecord.read(record)
        except DataError as error:
            errors[spec_id] = str(error)
            continue
        if read.status == "ok":
            done += 1
        else:
            errors[spec_id] = read.error.partition("\n")[0]
    times.sort()
    return Status(
        run, len(wanted), done, len(errors),
        idle_seconds=time.time() - times[-1] if times else None,
        left_seconds=_left(times, len(wanted) - done - len(errors)),
        errors=errors,
    )  # fmt: skip


def _of_trajectories(run: Path, wanted: Mapping[str, str]) -> Status:
    """Count what is written under the key that the run was last asked for."""
    times = []
    for name, key in wanted.items():
        note = run / "trajectories" / name / "trajectory.json"
        if note.is_file() and json.loads(note.read_text()).get("key") == key:
            times.append(note.stat().st_mtime)
    return Status(
        run, len(wanted), len(times), 0,
        idle_seconds=time.time() - max(times) if times else None, left_seconds=None, errors={},
        noun="trajectories",
    )  # fmt: skip


def _left(times: list[float], left: int, recent: int = 10) -> float | None:
    """Go on at the pace of the last trials; the time of artefacts before the first is not in it."""
    last = times[-recent - 1 :]
    if left <= 0 or len(last) < 2:
        return None
    return left * (last[-1] - last[0]) / (len(last) - 1)


def words(status: Status) -> list[str]:
    """Return the status in a few lines."""
    lines = [
        f"{status.run}: {status.done} of {status.planned} {status.noun} have a result"
        + (f", {status.failed} failed" if status.failed else "")
        + "."
    ]
    if status.idle_seconds is not None and not status.complete:
        lines.append(f"The last record is {status.idle_seconds:.0f} s old.")
    if status.left_seconds is not None:
        lines.append(f"At the pace of the last ones, {status.left_seconds / 60:.0f} min are left.")
    lines += [f"failed: {spec_id}: {why}" for spec_id, why in status.errors.items()]
    return lines
