"""One call's work on a run: what its trials need, then the trials, each with its record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import DataError
from harness.core.files import write_text
from harness.core.protocols import ATTACKS
from harness.core.records import TrialRecord
from harness.core.spec import TrialSpec
from harness.core.values import Json
from harness.execution import Executor
from harness.labels import judged_labels, names_of
from harness.making import make_units
from harness.plan import Plan
from harness.progress import Progress
from harness.study import StudySpec
from harness.together import groups
from harness.work import do_trials, finished, record_path
from harness.workshop import Workshop


@dataclass(frozen=True, slots=True)
class TrialRunner:
    """Runs trials of a study, in whatever order and parts a caller asks for them.

    Attributes:
        study: Says what trials may use, and what to call things.
        plan: Its trials and the artefacts that they need.
        workshop: Gives access to datasets and store.
        run: Folder of the run; absolute.
        executor: Where work runs.
        progress: Where to show what happens.
        partial: Whether the run is one of the first few trials only.
    """

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
        trial would multiply the cost of the failure. One without an attack runs all the same where
        it lacks poisons that it is judged on, but not again with the same ones missing.
        """
        lost = make_units(
            self.plan.units, {t.spec_id for t in trials}, self.workshop, self.executor,
            self.study.resources, self.progress, errors,
        )  # fmt: skip
        self.progress.start("trials", len(trials))
        going = []
        for trial in trials:
            there = finished(self.run, trial.spec_id)
            if trial.spec_id in lost.doomed:
                yield self._record(lost.doomed[trial.spec_id], trial)
            elif there and set(there.unjudged) == lost.floors.get(trial.spec_id, set()):
                yield self._record("", trial)
            else:
                going.append(trial)
        pieces = groups(going)
        payloads = [self._payload(piece, lost.floors) for piece in pieces]
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

    def _payload(self, trials: list[TrialSpec], lost: Mapping[str, Set[str]]) -> dict[str, Json]:
        labels = self.study.labels
        return {
            **self.workshop.for_workers(),
            "run": str(self.run),
            "partial": self.partial,
            "trials": [
                {
                    "trial": trial.to_json(),
                    "labels": judged_labels(trial, labels),
                    "names": names_of(trial, labels),
                    "without": sorted(lost.get(trial.spec_id, ())),
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
                goal=_declared_goal(trial),
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
    if record.unjudged:
        text += f"; judged without {len(record.unjudged)} poisons that could not be made"
    return text


def _declared_goal(trial: TrialSpec) -> str:
    """Return the goal of a trial that measured nothing; "none" where the poisons alone tell it."""
    goal = getattr(ATTACKS.get(trial.attack.name).factory, "goal", "none")
    return goal if isinstance(goal, str) else "none"


def _first_line(error: str) -> str:
    return error.split("\n", 1)[0]
