"""Running a study: artefacts stage by stage, then trials, each result on disk as it comes."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from harness.core.errors import DataError, UsageError
from harness.core.files import write_text
from harness.core.records import TrialRecord
from harness.core.spec import TrialSpec
from harness.core.values import Json
from harness.execution import Done, Executor
from harness.plan import STAGES, Plan, judged_labels, make_plan, names_of
from harness.progress import Progress
from harness.study import StudySpec
from harness.work import do_trial, make_unit, record_path, samples_path
from harness.workshop import Workshop

logger = logging.getLogger(__name__)


class RecordSink(Protocol):
    """Where records go besides the disk."""

    def log(self, record: TrialRecord, samples: Path | None) -> None:
        """Take one finished trial."""
        ...


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What became of a run.

    Attributes:
        run: Its folder.
        planned, done, failed: Numbers of trials; ``done`` counts those of earlier calls too.
        errors: Message of each failed unit or trial.
    """

    run: Path
    planned: int
    done: int
    failed: int
    errors: tuple[str, ...] = field(default=())

    @property
    def complete(self) -> bool:
        """Whether every planned trial has a good record."""
        return self.done == self.planned


def open_run(run: Path, study: StudySpec, plan: Plan, command: str, *, partial: bool) -> None:
    """Create a run's folder, or take up one that is there.

    Raises:
        UsageError: If the folder holds another study; names the first key that differs.
    """
    described = {
        "name": study.name,
        "title": study.title,
        "study": study.raw,
        "overrides": list(study.overrides),
        "command": command,
        "partial": partial,
        "trials": [
            {"spec_id": t.spec_id, "labels": names_of(t, study.labels)} for t in plan.trials
        ],
    }
    path = run / "study.json"
    if path.exists():
        try:
            earlier = json.loads(path.read_text())["study"]
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise DataError(f"{str(path)!r} is damaged: {error}; give another --out.") from error
        now = json.loads(json.dumps(study.raw))
        differing = [k for k in {**earlier, **now} if earlier.get(k) != now.get(k)]
        if differing:
            raise UsageError(
                f"{str(run)!r} holds a run of another study: {', '.join(sorted(differing))} "
                "differ. Give another --out, or the same study to go on with it."
            )
    try:
        write_text(path, json.dumps(described, indent=1, sort_keys=True) + "\n")
    except OSError as error:
        raise UsageError(f"run folder {str(run)!r} cannot be written: {error.strerror}.") from error


def run_study(
    study: StudySpec,
    workshop: Workshop,
    run: Path,
    executor: Callable[[], AbstractContextManager[Executor]],
    *,
    command: str = "",
    limit: int | None = None,
    sink: Callable[[], RecordSink] | None = None,
    progress: Progress | None = None,
) -> RunSummary:
    """Run what is missing of a study and return what became of it.

    Args:
        study: Checked study.
        workshop: Gives access to datasets and store.
        run: Folder of the run; absolute.
        executor: Opened only after everything that can be checked has been.
        command: How to run this again, for the report.
        limit: Run only so many trials; the run is marked as partial.
        sink: Opened with the executor; gets each record after it is on disk.
        progress: Where to show what happens.
    """
    progress = progress or Progress.silent()
    plan = make_plan(study, workshop, limit)
    partial = limit is not None
    open_run(run, study, plan, command, partial=partial)
    missing = [t for t in plan.trials if _finished(run, t) is None]
    errors: list[str] = []
    with progress:
        if not missing:
            progress.note("every trial of this run is done already")
            return _summary(run, plan, errors)
        progress.note("starting")
        with executor() as running:
            records = sink() if sink else None
            errors += _make_units(plan, missing, study, workshop, running, progress)
            for record in _run_trials(missing, study, workshop, run, running, partial, progress):
                if record.status != "ok":
                    errors.append(record.error)
                if records is not None:
                    samples = samples_path(run, record.spec_id)
                    records.log(record, samples if samples.exists() else None)
    return _summary(run, plan, errors)


def _finished(run: Path, trial: TrialSpec) -> TrialRecord | None:
    """Return the good record of a trial; a failed or damaged one is run again."""
    path = record_path(run, trial.spec_id)
    if not path.exists():
        return None
    try:
        record = TrialRecord.read(path)
    except DataError as error:
        logger.warning("%s; the trial runs again", error)
        return None
    return record if record.status == "ok" else None


def _make_units(
    plan: Plan,
    missing: list[TrialSpec],
    study: StudySpec,
    workshop: Workshop,
    executor: Executor,
    progress: Progress,
) -> list[str]:
    errors = []
    common = {"store": str(workshop.store.root), "device": workshop.device}
    for stage in STAGES:
        units = [u for u in plan.of_stage(stage) if u.key is None or not workshop.store.has(u.key)]
        if not units:
            continue
        progress.start(stage, len(units))
        payloads = [{**common, **u.payload} for u in units]
        for done in executor.units(make_unit, payloads, study.resources):
            label = units[done.index].label
            if done.error:
                first = done.error.splitlines()[0]
                errors.append(f"{label}: {first}")
                progress.advance(f"{label} FAILED: {first}")
            else:
                progress.advance(label, done.seconds)
    return errors


def _run_trials(
    trials: list[TrialSpec],
    study: StudySpec,
    workshop: Workshop,
    run: Path,
    executor: Executor,
    partial: bool,
    progress: Progress,
) -> Iterator[TrialRecord]:
    payloads: list[dict[str, Json]] = [
        {
            "store": str(workshop.store.root),
            "device": workshop.device,
            "run": str(run),
            "trial": trial.to_json(),
            "labels": judged_labels(trial, study.labels),
            "names": names_of(trial, study.labels),
            "partial": partial,
        }
        for trial in trials
    ]
    progress.start("trials", len(trials))
    for done in executor.trials(do_trial, payloads, study.resources):
        trial = trials[done.index]
        record = _record_of(done, trial, payloads[done.index], run)
        progress.advance(describe(record), done.seconds)
        yield record


def _record_of(done: Done, trial: TrialSpec, payload: dict[str, Any], run: Path) -> TrialRecord:
    path = record_path(run, trial.spec_id)
    if not done.error:
        return TrialRecord.read(path)
    record = TrialRecord(
        spec=trial.to_json(),
        spec_id=trial.spec_id,
        status="failed",
        error=done.error,
        labels=payload["names"],
        partial=payload["partial"],
    )
    write_text(path, record.to_json())
    return record


def describe(record: TrialRecord) -> str:
    """Return one line on a finished trial, for people."""
    names, seeds = record.labels, record.spec["seeds"]
    target = record.spec["target"]
    what = f"{names.get('attack', '?')} → {names.get('defense', '?')}"
    what += f", target {target}" if target is not None else ""
    what += f", seed {seeds['victim']}"
    if record.status != "ok":
        return f"{what} FAILED: {record.error.splitlines()[0]}"
    text = f"{what}: accuracy {100 * record.natural_accuracy:.1f} %"
    if record.outcomes and record.goal != "none":
        first = record.outcomes[0]
        text += f", poison success {100 * first.successes / first.trials:.1f} %"
    return text


def _summary(run: Path, plan: Plan, errors: list[str]) -> RunSummary:
    done = sum(_finished(run, t) is not None for t in plan.trials)
    there = sum(record_path(run, t.spec_id).exists() for t in plan.trials)
    return RunSummary(run, len(plan.trials), done, there - done, tuple(errors))
