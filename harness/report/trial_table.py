"""The table of all trials, one row each."""

from __future__ import annotations

from collections.abc import Sequence

from harness.report import format as fmt
from harness.report.table import Entry, Head, Table
from harness.report.trials import Trial, labels_of

_SETTING = ("dataset", "scenario", "classifier")
_HEADS = (
    Head("Dataset", numeric=False), Head("Scenario", numeric=False),
    Head("Classifier", numeric=False), Head("Attack", numeric=False),
    Head("Defense", numeric=False), Head("Target"),
    Head("Seeds (poison, purify, victim)", numeric=False), Head("Status", numeric=False),
    Head("Accuracy (%)"), Head("Success", numeric=False), Head("Poisons"), Head("Rows kept"),
    Head("Rows changed"), Head("Train (s)"), Head("Purify (s)"), Head("Spec id", numeric=False),
)  # fmt: skip


def trial_table(trials: Sequence[Trial]) -> Table:
    """Return one row per trial; the columns of the setting only where they differ."""
    constant = {i for i, field in enumerate(_SETTING) if len(labels_of(trials, field)) == 1}
    shown = [i for i in range(len(_HEADS)) if i not in constant]
    rows = [_entries(trial) for trial in trials]
    return Table(
        tuple(_HEADS[i] for i in shown), tuple(tuple(row[i] for i in shown) for row in rows)
    )


def _entries(trial: Trial) -> list[Entry]:
    record, move = trial.record, trial.record.movement
    seeds = " ".join(str(trial.seeds.get(k, fmt.MISSING)) for k in ("poison", "purify", "victim"))
    accuracy = record.natural_accuracy if trial.ok else None
    train, purify = trial.seconds("train"), trial.seconds("purify")
    return [
        *(Entry(text, text) for text in (trial.dataset, trial.scenario, trial.classifier)),
        Entry(trial.attack, trial.attack),
        Entry(trial.defense, trial.defense),
        Entry(fmt.MISSING if trial.target is None else str(trial.target), trial.target),
        Entry(seeds, seeds),
        Entry(record.status, record.status),
        Entry(fmt.percent(accuracy), accuracy),
        Entry(_outcomes(trial), _headline_share(trial)),
        Entry(str(record.poisons), record.poisons),
        Entry(f"{move.rows_out} of {move.rows_in}" if move else fmt.MISSING,
              move.rows_out if move else None),
        Entry(str(move.rows_changed) if move else fmt.MISSING, move.rows_changed if move else None),
        Entry(fmt.seconds(train), train),
        Entry(fmt.seconds(purify), purify),
        Entry(record.spec_id, record.spec_id),
    ]  # fmt: skip


def _outcomes(trial: Trial) -> str:
    """Counts per probe; of a clean training, which judges every attack, only how many."""
    outcomes = [o for o in trial.record.outcomes if o.trials]
    if not trial.attacked and outcomes:
        return f"clean floor of {len(outcomes)} probes"
    return ", ".join(f"{o.probe} {o.successes}/{o.trials}" for o in outcomes) or fmt.MISSING


def _headline_share(trial: Trial) -> float | None:
    outcomes = trial.record.outcomes
    if not trial.attacked or not outcomes or not outcomes[0].trials:
        return None
    return outcomes[0].successes / outcomes[0].trials
