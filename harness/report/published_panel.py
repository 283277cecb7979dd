"""Published results beside ours: one section for the page, and for Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from harness.report import format as fmt
from harness.report.collect import Run
from harness.report.published import (
    TIMED,
    PublishedRow,
    Verdict,
    closest,
    compare,
    items,
    published,
)
from harness.report.published_seconds import (
    HARDWARE,
    Timed,
    seconds_frame,
    seconds_table,
    timed,
)
from harness.report.statistics import Interval
from harness.report.summary import Duel, Row, Summary
from harness.report.table import Entry, Head, Table

TITLE = "Published beside measured"
NOTE = (
    "Published: the printed mean ± the standard deviation of one victim; in brackets the 95 % "
    "interval of the mean, from that deviation and the number of values behind it (t), or, of k of "
    "n targets, Wilson's. Where it is not told how many values a ± is of, or there is none, there "
    "are no brackets. Ours: the main table's 95 % interval of the mean. They agree where these two "
    "intervals share a value, or the one holds the other's bare number; that is no proof that the "
    "two are the same. Without two intervals no difference is told. No verdict is given where the "
    "setting is another one than the table's and its full study's, nor on seconds: the paper's are "
    "of other hardware."
)
SHOWN = 6
"""Most differences that the table shows of a row; the numbers (``published.csv``) have them all."""

_WORDS: dict[Verdict, str] = {
    "agrees": "agrees", "lower": "ours is lower", "higher": "ours is higher",
    "unknown": "no interval",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pair:
    """A row of ours, the published one it is like, and in what it is not.

    Attributes:
        ours, theirs: The two.
        differences: Empty where the setting is the same.
        success, accuracy: Verdicts; None where the setting is another one.
    """

    ours: Row
    theirs: PublishedRow
    differences: tuple[str, ...]
    success: Verdict | None
    accuracy: Verdict | None


@dataclass(frozen=True, slots=True)
class Published:
    """Published results beside ours.

    Attributes:
        source: Which table of which paper.
        pairs: What is compared: shares, or seconds.
        table, frame: The comparison as a table, and as numbers.
    """

    source: str
    pairs: tuple[Pair, ...] | tuple[Timed, ...]
    table: Table
    frame: pd.DataFrame


def published_section(run: Run, summary: Summary) -> Published | None:
    """Return the comparison with what the run's study reproduces.

    Args:
        run: Its ``study.json`` says what is reproduced.
        summary: The run's main table.

    Returns:
        None where the study reproduces nothing, there are no published numbers of it, or no row of
        ours is like one of them.
    """
    given = run.study.study.get("reproduces")
    if not isinstance(given, dict):
        return None
    reference = str(given.get("reference", "")).removesuffix(".csv")
    source = f"{given.get('item', reference)} of {given.get('paper', 'a paper')}"
    if reference == TIMED:
        cost = timed(summary)
        said = f"{source}: {HARDWARE}"
        return Published(said, cost, seconds_table(cost), seconds_frame(cost)) if cost else None
    if reference not in items():
        return None
    found = pairs(published(reference), summary)
    return Published(source, found, _table(found), _frame(found)) if found else None


def pairs(rows: tuple[PublishedRow, ...], summary: Summary) -> tuple[Pair, ...]:
    """Pair each row of ours that has a finished trial with the published row that is most like it.

    Rows without an attack have none: papers print the accuracy under attack.
    """
    return tuple(
        pair
        for duel in summary.duels
        for row in duel.rows
        if row.trials and (pair := _pair(rows, duel, row)) is not None
    )


def _pair(rows: tuple[PublishedRow, ...], duel: Duel, row: Row) -> Pair | None:
    trials = duel.trials[row.defense]
    if not trials[0].attacked:
        return None
    found = closest(rows, trials[0].record.spec)
    if found is None:
        return None
    theirs, differences = found
    if differences:
        return Pair(row, theirs, differences, None, None)
    ours = row.headline.success if row.headline else None
    return Pair(
        row, theirs, (), compare(theirs.success, ours), compare(theirs.accuracy, row.accuracy)
    )


def _table(found: Sequence[Pair]) -> Table:
    printed = "As printed: mean ± standard deviation; in brackets the 95 % interval of the mean."
    heads = (
        Head("Setting", numeric=False), Head("Attack", numeric=False),
        Head("Defense", numeric=False), Head("Success published (%)", printed),
        Head("Success ours (%)"), Head("Success", numeric=False),
        Head("Accuracy published (%)", printed), Head("Accuracy ours (%)"),
        Head("Accuracy", numeric=False),
        Head("Differs in", "In what our setting is not the published one.", numeric=False),
    )  # fmt: skip
    starts = frozenset(
        i for i in range(1, len(found)) if found[i].ours.attack != found[i - 1].ours.attack
    )
    return Table(heads, tuple(map(_entries, found)), starts)


def _entries(pair: Pair) -> tuple[Entry, ...]:
    ours, theirs = pair.ours, pair.theirs
    return (
        _word(", ".join(part for part in ours.setting if part)), _word(ours.attack),
        _word(ours.defense), _percent(theirs.success, theirs.success_std),
        _percent(_measured(ours)), _word(_verdict(pair.success, theirs.success is not None)),
        _percent(theirs.accuracy, theirs.accuracy_std), _percent(ours.accuracy),
        _word(_verdict(pair.accuracy, theirs.accuracy is not None)), _word(_differs(pair, SHOWN)),
    )  # fmt: skip


def _measured(row: Row) -> Interval | None:
    return row.headline.success if row.headline else None


def _differs(pair: Pair, most: int | None = None) -> str:
    shown = pair.differences[:most]
    rest = len(pair.differences) - len(shown)
    more = f"and {rest} more" if rest else ""
    return "; ".join((*shown, *filter(None, [more, pair.theirs.note])))


def _percent(interval: Interval | None, std: float | None = None) -> Entry:
    text = fmt.percent_interval(interval)
    if std is not None:
        mean, space, ends = text.partition(" ")
        text = f"{mean} ± {fmt.percent(std)}{space}{ends}"
    return Entry(text, None if interval is None else interval.value)


def _word(text: str) -> Entry:
    return Entry(text, text)


def _verdict(verdict: Verdict | None, printed: bool) -> str:
    if not printed:
        return fmt.MISSING
    return "another setting" if verdict is None else _WORDS[verdict]


def _frame(found: Sequence[Pair]) -> pd.DataFrame:
    """The comparison as numbers: shares in [0, 1]."""
    return pd.DataFrame([
        {
            "dataset": p.ours.dataset, "scenario": p.ours.scenario,
            "classifier": p.ours.classifier, "attack": p.ours.attack, "defense": p.ours.defense,
            "published_trials": p.theirs.trials,
            **_numbers("published_success", p.theirs.success),
            "published_success_std": p.theirs.success_std,
            **_numbers("success", _measured(p.ours)),
            "success_verdict": _verdict(p.success, p.theirs.success is not None),
            **_numbers("published_accuracy", p.theirs.accuracy),
            "published_accuracy_std": p.theirs.accuracy_std,
            **_numbers("accuracy", p.ours.accuracy),
            "accuracy_verdict": _verdict(p.accuracy, p.theirs.accuracy is not None),
            "differs_in": _differs(p),
        }
        for p in found
    ])  # fmt: skip


def _numbers(name: str, interval: Interval | None) -> dict[str, object]:
    return {
        name: interval.value if interval else None,
        f"{name}_low": interval.low if interval else None,
        f"{name}_high": interval.high if interval else None,
        f"{name}_method": interval.method if interval else "",
    }
