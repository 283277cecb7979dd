"""Reading a run folder: what was planned, the records, and what could not be read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from harness.core.errors import DataError, UsageError, nearest
from harness.core.facts import Facts
from harness.core.records import Outcome, TrialRecord
from harness.report.trials import Trial, natural_key


@dataclass(frozen=True, slots=True)
class Problem:
    """A file of the run that could not be read, and why."""

    file: str
    error: str


@dataclass(frozen=True, slots=True)
class Study:
    """What ``study.json`` says of the run; every part may be missing.

    Attributes:
        name, title: Of the study.
        study: The study as the user wrote it.
        overrides: ``key=value`` given on the command line.
        command: The command that runs it again.
        planned: Spec ids in the order of the study.
        partial: Whether it ran under a limit.
        sessions: The calls that worked on it, see :func:`harness.run_sessions.session`.
        protocol: Version of the protocol.
        inputs: Digests of what the study's words stand for: images, weights, components' code.
        facts: What it says of each component.
        trajectories: Those that it follows, instead of any trials: the key of each by its name.
    """

    name: str = ""
    title: str = ""
    study: dict[str, Any] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    command: str = ""
    planned: tuple[str, ...] = ()
    partial: bool = False
    sessions: tuple[dict[str, Any], ...] = ()
    protocol: str = ""
    inputs: dict[str, Any] = field(default_factory=dict)
    facts: Facts = field(default_factory=Facts)
    trajectories: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Study:
        """Read the parts that are there and have the type they should have."""

        def part(key: str, kind: type) -> Any:
            value = raw.get(key)
            return value if isinstance(value, kind) else kind()

        planned = [
            t["spec_id"] for t in part("trials", list) if isinstance(t, dict) and "spec_id" in t
        ]
        return cls(
            name=part("name", str), title=part("title", str), study=part("study", dict),
            overrides=tuple(map(str, part("overrides", list))), command=part("command", str),
            planned=tuple(map(str, planned)), partial=part("partial", bool),
            sessions=tuple(s for s in part("sessions", list) if isinstance(s, dict)),
            protocol=part("protocol", str),
            inputs=part("inputs", dict),
            facts=Facts.from_json(part("components", dict)),
            trajectories={
                str(t["name"]): str(t.get("key", "")) for t in part("trajectories", list)
                if isinstance(t, dict) and "name" in t
            },
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder as read.

    Attributes:
        path: The folder.
        study: What was planned.
        trials: In the order of the study; those it does not name come last, by label.
        problems: Files that could not be read.
    """

    path: Path
    study: Study
    trials: tuple[Trial, ...]
    problems: tuple[Problem, ...] = ()

    @property
    def partial(self) -> bool:
        """Whether the study, or any trial of it, ran under a limit."""
        return self.study.partial or any(t.record.partial for t in self.trials)

    @property
    def missing(self) -> tuple[str, ...]:
        """Planned spec ids without a readable record."""
        read = {t.record.spec_id for t in self.trials}
        return tuple(s for s in self.study.planned if s not in read)


def read_run(path: Path) -> Run:
    """Read a run folder; a file that cannot be read is listed, not fatal.

    Raises:
        UsageError: If there is no such folder, or no record in it that can be read.
    """
    if not path.is_dir():
        siblings = [p.name for p in path.parent.glob("*/")] if path.parent.is_dir() else []
        raise UsageError(
            f"{str(path)!r} is no run folder.{nearest(path.name, siblings)} "
            "Allowed: a folder with records/*.json, as a study leaves behind."
        )
    problems: list[Problem] = []
    study = read_study_file(path / "study.json", problems)
    trials = []
    for file in sorted((path / "records").glob("*.json")):
        try:
            trials.append(Trial.of(_read_record(file), study.facts))
        except (DataError, OSError, UnicodeDecodeError) as error:
            problems.append(Problem(f"records/{file.name}", str(error)))
    if not trials and study.trajectories:
        raise UsageError(
            f"{str(path)!r} holds trajectories, no trials. "
            "Allowed for it: report, verify, status, ui."
        )
    if not trials:
        unread = f" First of the unreadable ones: {problems[0].error}" if problems else ""
        raise UsageError(
            f"{str(path)!r} holds no record; allowed: a folder with records/*.json.{unread}"
        )
    place = {spec_id: index for index, spec_id in enumerate(study.planned)}
    trials.sort(key=lambda t: (place.get(t.record.spec_id, len(place)), _by_label(t)))
    return Run(path, study, tuple(trials), tuple(problems))


def to_frame(trials: Sequence[Trial]) -> pd.DataFrame:
    """Return one row per trial and probe, with flat columns; shares are in [0, 1].

    A trial without probes has one row, with empty probe columns, so that none is lost.
    """
    rows = []
    for trial in trials:
        for index, outcome in enumerate(trial.record.outcomes or (None,)):
            rows.append(_trial_columns(trial) | _outcome_columns(outcome, index))
    return pd.DataFrame(rows)


def _read_record(file: Path) -> TrialRecord:
    record = TrialRecord.from_json(file.read_text(), file.name)
    if record.spec_id != file.stem:  # a copied file would count its trial twice
        raise DataError(f"{file.name} holds the record of trial {record.spec_id!r}.")
    return record


def _by_label(trial: Trial) -> tuple[Any, ...]:
    labels = (*trial.setting, trial.attack, trial.defense)
    seeds = tuple(trial.seeds.get(k, -1) for k in ("poison", "purify", "victim"))
    target = -1 if trial.target is None else trial.target
    return (*map(natural_key, labels), target, *seeds, trial.record.spec_id)


def read_study_file(path: Path, problems: list[Problem]) -> Study:
    """Return what ``study.json`` says; what is wrong with it is added to ``problems``."""
    try:
        raw = json.loads(path.read_text())
    except FileNotFoundError:
        return Study()
    except (OSError, ValueError) as error:
        problems.append(Problem(path.name, str(error)))
        return Study()
    if not isinstance(raw, dict):
        problems.append(Problem(path.name, "it is no JSON object."))
        return Study()
    return Study.from_json(raw)


def _trial_columns(trial: Trial) -> dict[str, Any]:
    record, move = trial.record, trial.record.movement
    stages = {f"seconds_{k}": s.seconds for k, s in record.stages.items()}
    peaks = {f"peak_mib_{k}": s.peak_mib for k, s in record.stages.items()}
    peaks |= {
        f"gpu_peak_mib_{k}": s.gpu_peak_mib for k, s in record.stages.items() if s.gpu_peak_mib
    }
    return {
        "spec_id": record.spec_id,
        "status": record.status,
        "error": record.error,
        "dataset": trial.dataset,
        "scenario": trial.scenario,
        "classifier": trial.classifier,
        "attack": trial.attack,
        "defense": trial.defense,
        "goal": record.goal,
        "target": trial.target,
        **{f"seed_{k}": trial.seeds.get(k) for k in ("poison", "purify", "victim")},
        "partial": record.partial,
        "test_rows": record.test_rows,
        "test_correct": record.test_correct,
        "natural_accuracy": record.natural_accuracy,
        "best_accuracy": record.best_accuracy,
        "train_rows": record.train_rows,
        "poisons": record.poisons,
        "rows_out": move.rows_out if move else None,
        "rows_changed": move.rows_changed if move else None,
        "poison_kept": move.poison_kept if move else None,
        "poison_changed": move.poison_changed if move else None,
        "clean_l2": move.clean_l2 if move else None,
        "poison_l2": move.poison_l2 if move else None,
        **stages,
        **peaks,
    }


def _outcome_columns(outcome: Outcome | None, index: int) -> dict[str, Any]:
    if outcome is None:
        return dict.fromkeys(
            ("probe", "probe_index", "probe_attack", "probe_target", "probe_trials",
             "probe_successes", "probe_correct", "success")
        )  # fmt: skip
    return {
        "probe": outcome.probe,
        "probe_index": index,
        "probe_attack": outcome.label,
        "probe_target": outcome.target,
        "probe_trials": outcome.trials,
        "probe_successes": outcome.successes,
        "probe_correct": outcome.correct,
        "success": outcome.successes / outcome.trials if outcome.trials else None,
    }
