"""Running a study: artefacts stage by stage, then trials, each result on disk as it comes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from harness.core.errors import DataError
from harness.core.files import write_text
from harness.core.records import TrialRecord
from harness.core.spec import TrialSpec
from harness.core.values import Json
from harness.execution import Executor
from harness.labels import judged_labels, names_of
from harness.making import make_units
from harness.plan import Plan, make_plan
from harness.progress import Progress
from harness.run_control import controlled
from harness.run_folder import check_run, describe_run, open_run
from harness.study import StudySpec
from harness.together import groups
from harness.work import do_trials, finished, record_path, samples_path
from harness.workshop import Workshop

logger = logging.getLogger(__name__)


class RecordSink(Protocol):
    """Where records go besides the disk."""

    def log(self, record: TrialRecord, samples: Path | None) -> None:
        """Take one finished trial."""
        ...


Services = Callable[[bool], AbstractContextManager[tuple[Executor | None, RecordSink | None]]]
"""Opens what a run needs: an executor, unless told that there is nothing to do, and a sink."""


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What became of a run.

    Attributes:
        run: Its folder.
        planned, done, failed: Numbers of trials; ``done`` counts those of earlier calls too.
        errors: What failed, and the first line of why.
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


def run_study(
    study: StudySpec,
    workshop: Workshop,
    run: Path,
    services: Services,
    *,
    command: str = "",
    limit: int | None = None,
    progress: Progress | None = None,
) -> RunSummary:
    """Run what is missing of a study and return what became of it.

    Args:
        study: Checked study.
        workshop: Gives access to datasets and store.
        run: Folder of the run; absolute.
        services: Opened only after everything that can be checked has been.
        command: How to run this again, for the report.
        limit: Run only so many trials; the run is marked as partial.
        progress: Where to show what happens.

    Raises:
        UsageError: For anything that cannot be used; nothing has been started by then.
    """
    progress = progress or Progress.silent()
    plan = make_plan(study, workshop, limit)
    described = describe_run(study, plan, workshop, command, partial=limit is not None)
    check_run(run, described)
    missing = [t for t in plan.trials if finished(run, t.spec_id) is None]
    errors: list[str] = []
    progress.note("starting" if missing else "every trial of this run is done already")
    with progress, services(bool(missing)) as (executor, sink):
        if executor is not None:
            executor.check_folders({"run folder": run, "store": workshop.store.root})
        open_run(run, described)
        if limit is None:
            _no_longer_partial(run, plan)
        if executor is not None:
            work = _Work(study, plan, workshop, run, executor, progress, limit is not None)
            with controlled(run):
                for record in work.records(missing, errors):
                    if sink is not None:
                        samples = samples_path(run, record.spec_id)
                        sink.log(record, samples if samples.exists() else None)
    done = sum(finished(run, t.spec_id) is not None for t in plan.trials)
    there = sum(record_path(run, t.spec_id).exists() for t in plan.trials)
    return RunSummary(run, len(plan.trials), done, there - done, tuple(errors))


def _no_longer_partial(run: Path, plan: Plan) -> None:
    """Take the mark off records that an earlier, limited call has left."""
    for trial in plan.trials:
        record = finished(run, trial.spec_id)
        if record is not None and record.partial:
            unmarked = record.with_values(partial=False)
            write_text(record_path(run, trial.spec_id), unmarked.to_json())


@dataclass(frozen=True, slots=True)
class _Work:
    """One call's work on a run."""

    study: StudySpec
    plan: Plan
    workshop: Workshop
    run: Path
    executor: Executor
    progress: Progress
    partial: bool

    def records(self, trials: list[TrialSpec], errors: list[str]) -> Iterator[TrialRecord]:
        """Run trials and what they need, and yield their records; append to ``errors``.

        A trial that lacks what it needs fails with the error of that: trying it again in each
        trial would multiply the cost of the failure.
        """
        doomed = make_units(
            self.plan.units, {t.spec_id for t in trials}, self.workshop, self.executor,
            self.study.resources, self.progress, errors,
        )  # fmt: skip
        going = [t for t in trials if t.spec_id not in doomed]
        self.progress.start("trials", len(trials))
        for trial in trials:
            if trial.spec_id in doomed:
                yield self._record(doomed[trial.spec_id], trial)
        pieces = groups(going)
        payloads = [self._payload(piece) for piece in pieces]
        for done in self.executor.trials(do_trials, payloads, self.study.resources):
            piece = pieces[done.index]
            failed = done.value["errors"] if done.value else {}
            for trial in piece:
                error = failed.get(trial.spec_id, "")
                if done.error and finished(self.run, trial.spec_id) is None:
                    error = done.error  # others of the piece may have been done by then
                record = self._record(error, trial, done.seconds / len(piece))
                if record.status != "ok":
                    errors.append(describe(record))
                yield record

    def _payload(self, trials: list[TrialSpec]) -> dict[str, Json]:
        labels = self.study.labels
        return {
            "store": str(self.workshop.store.root),
            "device": self.workshop.device,
            "run": str(self.run),
            "partial": self.partial,
            "trials": [
                {
                    "trial": trial.to_json(),
                    "labels": judged_labels(trial, labels),
                    "names": names_of(trial, labels),
                }
                for trial in trials
            ],
        }

    def _record(self, error: str, trial: TrialSpec, seconds: float = 0.0) -> TrialRecord:
        path = record_path(self.run, trial.spec_id)
        if not error and not path.exists():
            error = f"no record {path}: all nodes must share the folders of run and store."
        if error:
            record = TrialRecord(
                spec=trial.to_json(),
                spec_id=trial.spec_id,
                status="failed",
                error=error,
                labels=names_of(trial, self.study.labels),
                partial=self.partial,
            )
            try:
                write_text(path, record.to_json())
            except OSError as failure:  # a full disk: going on could keep nothing
                raise DataError(
                    f"record {str(path)!r} cannot be written: {failure.strerror}. What is finished "
                    f"is kept, and the same command goes on. The trial failed: {_first_line(error)}"
                ) from failure
        else:
            record = TrialRecord.read(path)
        self.progress.advance(describe(record), seconds)
        return record


def describe(record: TrialRecord) -> str:
    """Return one line on a finished trial, for people."""
    names, seeds = record.labels, record.spec["seeds"]
    target = record.spec["target"]
    what = f"{names.get('attack', '?')} → {names.get('defense', '?')}"
    what += f", target {target}" if target is not None else ""
    what += f", seed {seeds['victim']}"
    if record.status != "ok":
        return f"{what} FAILED: {_first_line(record.error)}"
    text = f"{what}: accuracy {100 * record.natural_accuracy:.1f} %"
    if record.outcomes and record.goal != "none":
        first = record.outcomes[0]
        text += f", poison success {100 * first.successes / first.trials:.1f} %"
    return text


def _first_line(error: str) -> str:
    return error.split("\n", 1)[0]
