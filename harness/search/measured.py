"""What a configuration has measured: means over its trials, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.core.records import TrialRecord
from harness.report.statistics import Interval, share_interval, wilson

Measured = Mapping[str, Interval]
"""Mean over some trials with its interval, by metric."""


def measure(records: Sequence[TrialRecord], metrics: Sequence[str]) -> Measured | None:
    """Return the mean of each metric over trials, or None where one failed or lacks a metric.

    Trials of one image each (targeted attacks) are counted as k of n; of others, each counts alike.
    """
    found: dict[str, Interval] = {}
    for metric in metrics:
        counts = [_counts(record, metric) for record in records]
        if not counts or None in counts:
            return None
        pairs = [pair for pair in counts if pair is not None]
        single = all(total == 1 for _, total in pairs)
        found[metric] = (
            wilson(sum(k for k, _ in pairs), len(pairs)) if single else share_interval(pairs)
        )
    return found


def _counts(record: TrialRecord, metric: str) -> tuple[int, int] | None:
    if record.status != "ok":
        return None
    hits, total = 0, 0
    if metric == "natural_accuracy":
        hits, total = record.test_correct, record.test_rows
    elif metric == "poison_success" and record.outcomes:
        hits, total = record.outcomes[0].successes, record.outcomes[0].trials
    elif metric == "attacked_class_accuracy" and record.spec["target"] is not None:
        target = record.spec["target"]
        hits, total = record.class_correct[target], record.class_rows[target]
    return (hits, total) if total else None


def means(measured: Measured) -> dict[str, float]:
    """Return the means alone."""
    return {metric: interval.value for metric, interval in measured.items()}
