"""Whether the records of a run are those of its study, and agree with themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.core.records import TrialRecord
from harness.core.spec import PROTOCOL, digest
from harness.report.collect import Run


def wrong_records(run: Run) -> Iterator[str]:
    """Yield a line per record that cannot be read or contradicts its study, its id or itself."""
    for problem in run.problems:
        yield f"{problem.file}: {problem.error}"
    labels = _planned_labels(run.path / "study.json")
    protocol = run.study.protocol or PROTOCOL
    for trial in run.trials:
        record = trial.record
        where = f"records/{record.spec_id}.json"
        if digest({"protocol": protocol, "trial": record.spec})[:12] != record.spec_id:
            yield f"{where}: its spec is not the one that its id is the hash of"
        planned = labels.get(record.spec_id)
        if planned is not None and planned != record.labels:
            yield f"{where}: labelled {record.labels}, and study.json says {planned}"
        measured_under = record.environment.get("protocol", protocol)
        if measured_under != protocol:
            yield f"{where}: measured under protocol {measured_under}, the study's is {protocol}"
        yield from (f"{where}: {what}" for what in _contradictions(record))
    if run.study.planned and not run.study.partial:
        for trial in run.trials:
            if trial.record.spec_id not in run.study.planned:
                yield f"records/{trial.record.spec_id}.json: of no trial of the study"


def _planned_labels(path: Path) -> dict[str, Mapping[str, str]]:
    try:
        trials = json.loads(path.read_text())["trials"]
        return {trial["spec_id"]: trial["labels"] for trial in trials if "labels" in trial}
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # a damaged study is among the run's problems


def _contradictions(record: TrialRecord) -> Iterator[str]:
    if record.status != "ok":
        return
    counts: list[tuple[str, Any, str, Any]] = [
        (
            "test_correct",
            record.test_correct,
            "the sum of class_correct",
            sum(record.class_correct),
        ),
        ("test_rows", record.test_rows, "the sum of class_rows", sum(record.class_rows)),
    ]
    attacked = record.spec.get("attack", {}).get("name") != "none"
    if attacked != (record.goal != "none"):
        yield f"its goal is {record.goal!r} {'with' if attacked else 'without'} an attack"
    move = record.movement
    if move is not None:
        counts.append(("train_rows", record.train_rows, "movement.rows_in", move.rows_in))
        if move.poison_kept > record.poisons:
            yield f"{move.poison_kept} poisoned rows were kept, of {record.poisons}"
        moved = move.poison_changed or 0
        if moved > min(move.poison_kept, move.rows_changed):
            yield (
                f"{moved} poisoned rows were changed, of {move.poison_kept} kept and "
                f"{move.rows_changed} changed"
            )
    for name, said, other, found in counts:
        if said != found:
            yield f"{name} is {said}, and {other} is {found}"
    for outcome in record.outcomes:
        if outcome.successes + outcome.correct > outcome.trials:
            yield (
                f"probe {outcome.probe} counts {outcome.successes} successes and "
                f"{outcome.correct} correct of {outcome.trials} images"
            )
