"""The rows of a study's main table as MLflow runs: what its pages compare defenses by."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.core.records import TrialRecord
from harness.core.spec import digest
from harness.flat_record import params_of, tags_of
from harness.report.collect import read_run
from harness.report.statistics import Interval
from harness.report.summary import Row, summarise
from harness.tracking_store import log_batch, search
from harness.tracking_view import share_view

if TYPE_CHECKING:
    from mlflow import MlflowClient

LONGEST_TAG = 8000  # characters that MLflow keeps


@dataclass(frozen=True)
class SummaryRun:
    """A row of the main table, as MLflow is to have it.

    Attributes:
        name: ``attack / defense``, and what else tells it from the other rows.
        tags, params: Texts by name; the parameters are those that all its trials share.
        metrics: Numbers by name: shares in [0, 1], seconds, counts, L2 in units of [0, 1].
        trial: One of its trials, for what they have in common.
    """

    name: str
    tags: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, float]
    trial: TrialRecord

    @property
    def digest(self) -> str:
        """What changes with anything that is logged of it."""
        said = {k: v for k, v in asdict(self).items() if k != "trial"}
        return digest(json.loads(json.dumps(said)))[:12]


def summary_runs(
    run_folder: Path, also: Callable[[Iterable[str]], dict[str, str]] = lambda trials: {}
) -> list[SummaryRun]:
    """Return the rows of a run's main table, in its order.

    Args:
        run_folder: Of the run.
        also: Given the ids of a row's trials, returns further tags of the row.

    Raises:
        UsageError: If there is no record that can be read.
    """
    summary = summarise(read_run(run_folder).trials)
    settings = {duel.setting for duel in summary.duels}
    told = [i for i in range(3) if len({setting[i] for setting in settings}) > 1]
    return [
        _summary_run(row, [trial.record for trial in duel.trials[row.defense]], told, also)
        for duel in summary.duels
        for row in duel.rows
    ]


def log_summaries(
    client: MlflowClient,
    experiment: str,
    parent: str,
    rows: Sequence[SummaryRun],
    tags: Mapping[str, str],
    also: Callable[[str, TrialRecord], object],
) -> None:
    """Log the rows of a study's run in place of those of an earlier call.

    A row that is there already as it is now stays, so that links to it hold. The others go only
    when the new ones are there.

    Args:
        client: Of the store.
        experiment: Id of the study's experiment.
        parent: Id of the study's run.
        rows: In the order of the table.
        tags: Of every row.
        also: Called with the id of each new run and one of its trials.
    """
    there: dict[str, str] = {}
    stale = []
    for run in search(client, [experiment], f"tags.`puregen.study_run` = '{parent}'"):
        known = run.data.tags.get("puregen.record", "")
        if known and known not in there and run.info.status == "FINISHED":
            there[known] = run.info.run_id
        else:
            stale.append(run.info.run_id)
    began = client.get_run(parent).info.start_time
    for index, row in enumerate(rows):
        mark = digest([row.digest, index, dict(tags)])[:12]
        if there.pop(mark, None):
            continue
        # Pages show the newest first: the table's first row is to be that, whichever were replaced.
        start = began - index
        own = {"puregen.kind": "summary", "puregen.study_run": parent, "puregen.row": str(index)}
        run = client.create_run(experiment, start_time=start, tags={**row.tags, **tags, **own},
                                run_name=row.name)  # fmt: skip
        name = run.info.run_id
        log_batch(client, name, ((key, 0, value) for key, value in row.metrics.items()), row.params)
        also(name, row.trial)
        client.set_tag(name, "puregen.record", mark)
        client.set_terminated(name, "FINISHED", start)
    for old in (*stale, *there.values()):
        client.delete_run(old)
    share_view(client, experiment, parent, rows)


def joined_tags(records: Iterable[TrialRecord]) -> dict[str, str]:
    """Return the tags of several trials; where they differ, every value that occurs."""
    found: dict[str, dict[str, None]] = {}
    for record in records:
        for name, text in tags_of(record).items():
            found.setdefault(name, {})[text] = None
    return {name: ", ".join(texts)[:LONGEST_TAG] for name, texts in found.items()}


def _summary_run(
    row: Row,
    trials: list[TrialRecord],
    told: list[int],
    also: Callable[[Iterable[str]], dict[str, str]],
) -> SummaryRun:
    setting = [row.setting[i] for i in told]
    flags = {"puregen.flags": "; ".join(row.flags), "puregen.best": "; ".join(sorted(row.best))}
    return SummaryRun(
        name=" · ".join([f"{row.attack} / {row.defense}", *setting]),
        tags={
            **joined_tags(trials),
            **also(record.spec_id for record in trials),
            "puregen.goal": row.goal,
            "puregen.partial": str(any(record.partial for record in trials)).lower(),
            **{name: text for name, text in flags.items() if text},
        },
        params=_shared(trials),
        metrics={name: value for name, value in _metrics(row) if math.isfinite(value)},
        trial=trials[0],
    )


def _shared(trials: Sequence[TrialRecord]) -> dict[str, str]:
    """Return the parameters that all trials of a row have; seeds are what they differ in."""
    first, *rest = (params_of(record) for record in trials)
    return {
        name: text
        for name, text in first.items()
        if not name.startswith("seed.") and all(other.get(name) == text for other in rest)
    }


def _metrics(row: Row) -> Iterator[tuple[str, float]]:
    """Yield what a row measured; the first number that all have is what MLflow draws at first."""
    for index, probe in enumerate(row.probes):
        name = "poison_success" if index == 0 else f"poison_success_{probe.name}"
        yield from _ends(name, probe.success)
        yield from _ends(f"{name}_delta", probe.delta)
        if probe.floor is not None:
            yield f"{name}_floor", probe.floor
    yield from _ends("natural_accuracy", row.accuracy)
    yield from _ends("natural_accuracy_delta", row.accuracy_delta)
    numbers = {
        "poison_success_worst_target": row.worst,
        "seconds_purify": row.seconds_purify,
        "seconds_train": row.seconds_train,
        "l2_clean": row.clean_l2,
        "l2_poison": row.poison_l2,
    }
    yield from ((name, value) for name, value in numbers.items() if value is not None)
    yield "trials", float(row.trials)
    yield "trials_failed", float(row.failed)


def _ends(name: str, interval: Interval | None) -> Iterator[tuple[str, float]]:
    if interval is None:
        return
    yield name, interval.value
    if interval.low is not None and interval.high is not None:
        yield f"{name}_low", interval.low
        yield f"{name}_high", interval.high
