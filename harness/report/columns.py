"""The columns of the main table: what each shows, once for every form it is written in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.report import format as fmt
from harness.report.statistics import Interval
from harness.report.summary import ProbeResult, Row

Value = float | str | None


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        key: Stable name, made into CSS classes.
        title: Heading, with the unit.
        help: What the number means, in one sentence.
        text: The cell as text.
        value: The cell as a value to sort by; None sorts last.
        numeric: Whether it is aligned to the right.
        best: The mark of :attr:`Row.best` that sets this cell off, or "".
        note: How an interval came about, or "".
    """

    key: str
    title: str
    help: str
    text: Callable[[Row], str]
    value: Callable[[Row], Value]
    numeric: bool = True
    best: str = ""
    note: Callable[[Row], str] = lambda row: ""


def main_columns(rows: Sequence[Row]) -> list[Column]:
    """Return the columns of which at least one row has a value.

    Dataset, scenario and classifier stand only where they differ between rows.
    """
    extra = dict.fromkeys(p.name for r in rows for p in r.probes[1:])
    columns = [
        *_settings(rows), _label("attack", "Attack"), _label("defense", "Defense"), _flags(),
        *_results(rows), *_best_epoch(rows), *(_probe(name) for name in extra),
        *_targets(), *_costs(),
    ]  # fmt: skip
    return [c for c in columns if any(c.value(r) not in (None, "") for r in rows)]


def _settings(rows: Sequence[Row]) -> list[Column]:
    wanted = [
        ("dataset", "Dataset"), ("scenario", "Scenario"), ("classifier", "Classifier"),
    ]  # fmt: skip
    return [_label(key, title) for key, title in wanted if len({getattr(r, key) for r in rows}) > 1]


def _label(key: str, title: str) -> Column:
    def label(row: Row) -> str:
        return str(getattr(row, key))

    return Column(key, title, "", label, label, numeric=False)


def _results(rows: Sequence[Row]) -> list[Column]:
    headlines = {r.headline.name for r in rows if r.headline}
    alone = headlines.pop() if len(headlines) == 1 else ""
    return [
        _share(
            "accuracy", "Natural accuracy (%)",
            "Share of clean test images classified right: mean over targets and seeds.",
            lambda r: r.accuracy, best="accuracy",
        ),
        _change(
            "accuracy_delta", "Accuracy vs undefended (points)",
            "Paired with the undefended trial of the same target and seeds.",
            lambda r: r.accuracy_delta,
        ),
        _share(
            "success", f"Poison success{' ' + alone if alone else ''} (%)",
            "Share of the headline probe given the attacker's label. Triggered: mean over targets "
            "and seeds. Targeted: k of n target images.",
            lambda r: r.headline.success if r.headline else None, best="success",
        ),
        _change(
            "success_delta", "Success vs undefended (points)",
            "Paired with the undefended trial of the same target and seeds.",
            lambda r: r.headline.delta if r.headline else None,
        ),
        Column(
            "floor", "Clean floor (%)",
            "Success that a model trained without attack and defense shows on the same probe.",
            lambda r: fmt.percent(_floor(r)), _floor,
        ),
    ]  # fmt: skip


def _best_epoch(rows: Sequence[Row]) -> list[Column]:
    """Availability attacks are known to be weaker against training that stops in time."""
    if all(r.goal != "availability" for r in rows):
        return []
    return [
        Column(
            "best_accuracy", "Best epoch (%)",
            "Natural accuracy after the best epoch, chosen on the test set: what stopping in time "
            "could win back at most, and no score of a defense.",
            lambda r: fmt.percent(r.best_accuracy), lambda r: r.best_accuracy,
        )
    ]  # fmt: skip


def _probe(name: str) -> Column:
    def result(row: Row) -> ProbeResult | None:
        return next((p for p in row.probes[1:] if p.name == name), None)

    def success(row: Row) -> Interval | None:
        found = result(row)
        return found.success if found else None

    return _share(f"success_{name}", f"Success {name} (%)", f"The same on probe {name}.", success)


def _targets() -> list[Column]:
    return [
        Column(
            "worst", "Worst target (%)",
            "Highest success of one target, mean over its seeds; the target in parentheses.",
            _worst, lambda r: r.worst,
        ),
        _share(
            "class_accuracy", "Attacked class (%)",
            "Accuracy on clean test images of the attacked class.", lambda r: r.class_accuracy,
        ),
        Column(
            "trials", "Trials", "Finished trials (failed ones in parentheses).",
            _trials, lambda r: r.trials,
        ),
    ]  # fmt: skip


def _costs() -> list[Column]:
    return [
        Column("train_s", "Train (s)", "Mean seconds of training per trial.",
               lambda r: fmt.seconds(r.seconds_train), lambda r: r.seconds_train),
        Column("purify_s", "Purify (s)",
               "Mean seconds of purification per trial; what was reused counts at its first cost.",
               lambda r: fmt.seconds(r.seconds_purify), lambda r: r.seconds_purify),
        Column("clean_l2", "Moved clean (L2)",
               "Mean L2 distance, pixels in [0, 1], that the defense moved an unpoisoned image.",
               lambda r: fmt.distance(r.clean_l2), lambda r: r.clean_l2),
        Column("poison_l2", "Moved poison (L2)", "The same for a poisoned image.",
               lambda r: fmt.distance(r.poison_l2), lambda r: r.poison_l2),
    ]  # fmt: skip


def _flags() -> Column:
    def text(row: Row) -> str:
        return ", ".join(row.flags)

    return Column(
        "flags", "Flags", "Why a row earns no credit; explained below.", text, text, False
    )


def _share(
    key: str, title: str, help: str, get: Callable[[Row], Interval | None], best: str = ""
) -> Column:
    return Column(
        key, title, help, lambda r: fmt.percent_interval(get(r)), lambda r: _estimate(get(r)),
        best=best, note=lambda r: _note(get(r)),
    )  # fmt: skip


def _change(key: str, title: str, help: str, get: Callable[[Row], Interval | None]) -> Column:
    return Column(
        key, title, help, lambda r: fmt.points_interval(get(r)), lambda r: _estimate(get(r)),
        note=lambda r: _note(get(r)),
    )  # fmt: skip


def _estimate(interval: Interval | None) -> float | None:
    return interval.value if interval else None


def _note(interval: Interval | None) -> str:
    if interval is None:
        return ""
    if interval.low is None:
        return f"n = {interval.n}, no interval"
    return f"n = {interval.n}, 95 % {interval.method}"


def _floor(row: Row) -> float | None:
    return row.headline.floor if row.headline else None


def _trials(row: Row) -> str:
    return f"{row.trials} ({row.failed} failed)" if row.failed else str(row.trials)


def _worst(row: Row) -> str:
    if row.worst is None:
        return fmt.MISSING
    name = f" {row.worst_name}" if row.worst_name else ""
    return f"{fmt.percent(row.worst)} ({row.worst_target}{name})"
