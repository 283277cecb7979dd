"""Running a study: artefacts stage by stage, then trials, each result on disk as it comes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from harness.core.files import write_text
from harness.core.records import TrialRecord
from harness.execution import Executor
from harness.plan import Plan, make_plan
from harness.progress import Progress
from harness.run_control import controlled
from harness.run_folder import check_run, describe_run, open_run
from harness.run_sessions import session
from harness.study import StudySpec
from harness.trial_runner import TrialRunner
from harness.work import finished, record_path, samples_path, settled
from harness.workshop import Workshop

logger = logging.getLogger(__name__)


class RecordSink(Protocol):
    """Where records go besides the disk."""

    def log(self, record: TrialRecord, samples: Path | None) -> None:
        """Take one finished trial."""
        ...

    def log_trajectory(self, folder: Path) -> None:
        """Take one trajectory, from what was written of it."""
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
    missing = [t for t in plan.trials if not settled(run, t.spec_id)]
    errors: list[str] = []

    def done() -> int:
        return sum(finished(run, t.spec_id) is not None for t in plan.trials)

    progress.note("getting ready" if missing else "every trial of this run is done already")
    with progress, services(bool(missing)) as (executor, sink):
        if executor is not None:
            workshop.store.check_nodes(executor, {"run folder": run})
        open_run(run, described)
        if limit is None:
            _no_longer_partial(run, plan)
        if executor is not None:
            runner = TrialRunner(study, plan, workshop, run, executor, progress, limit is not None)
            where = executor.where()
            if where.get("gpus") and not study.resources.gpus and workshop.device != "cpu":
                progress.note(
                    f"{where['gpus']} GPUs stand idle, since no trial asks for one: "
                    "--set resources.gpus=1, or a part of 1, gives each trial its own"
                )
            with controlled(run), session(run, where, done):
                for record in runner.records(missing, errors):
                    if sink is not None:
                        samples = samples_path(run, record.spec_id)
                        sink.log(record, samples if samples.exists() else None)
    there = sum(record_path(run, t.spec_id).exists() for t in plan.trials)
    return RunSummary(run, len(plan.trials), done(), there - done(), tuple(errors))


def _no_longer_partial(run: Path, plan: Plan) -> None:
    """Take the mark off records that an earlier, limited call has left."""
    for trial in plan.trials:
        record = finished(run, trial.spec_id)
        if record is not None and record.partial:
            unmarked = record.with_values(partial=False)
            write_text(record_path(run, trial.spec_id), unmarked.to_json())
