"""Published results beside ours: one section for the page, and for Markdown."""

from __future__ import annotations

from dataclasses import dataclass

from harness.report import format as fmt
from harness.report.collect import Run
from harness.report.published import PublishedRow, Verdict, closest, compare, items, published
from harness.report.statistics import Interval
from harness.report.summary import Duel, Row, Summary
from harness.report.table import Entry, Head, Table

TITLE = "Published beside measured"
NOTE = (
    "Published: the printed mean plus and minus one standard deviation, or k of n targets with its "
    "Wilson interval. Ours: the main table's 95 % interval. They agree where both hold a value. "
    "No verdict is given where the setting is another one."
)
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
        pairs: What is compared.
    """

    source: str
    pairs: tuple[Pair, ...]

    @property
    def table(self) -> Table:
        """The comparison as a table."""
        heads = (
            Head("Setting", numeric=False), Head("Attack", numeric=False),
            Head("Defense", numeric=False), Head("Success published (%)"),
            Head("Success ours (%)"), Head("Success", numeric=False),
            Head("Accuracy published (%)"), Head("Accuracy ours (%)"),
            Head("Accuracy", numeric=False),
            Head("Differs in", "In what our setting is not the published one.", numeric=False),
        )  # fmt: skip
        starts = frozenset(
            i for i in range(1, len(self.pairs))
            if self.pairs[i].ours.attack != self.pairs[i - 1].ours.attack
        )  # fmt: skip
        return Table(heads, tuple(map(_entries, self.pairs)), starts)


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
    if reference not in items():
        return None
    found = pairs(published(reference), summary)
    if not found:
        return None
    source = f"{given.get('item', reference)} of {given.get('paper', 'a paper')}"
    return Published(source, found)


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


def _entries(pair: Pair) -> tuple[Entry, ...]:
    ours, theirs = pair.ours, pair.theirs
    measured = ours.headline.success if ours.headline else None
    differs = "; ".join((*pair.differences, theirs.note) if theirs.note else pair.differences)
    return (
        _word(", ".join(part for part in ours.setting if part)), _word(ours.attack),
        _word(ours.defense), _percent(theirs.success), _percent(measured),
        _word(_verdict(pair.success, theirs.success is not None)),
        _percent(theirs.accuracy), _percent(ours.accuracy),
        _word(_verdict(pair.accuracy, theirs.accuracy is not None)), _word(differs),
    )  # fmt: skip


def _percent(interval: Interval | None) -> Entry:
    return Entry(fmt.percent_interval(interval), None if interval is None else interval.value)


def _word(text: str) -> Entry:
    return Entry(text, text)


def _verdict(verdict: Verdict | None, printed: bool) -> str:
    if not printed:
        return fmt.MISSING
    return "another setting" if verdict is None else _WORDS[verdict]
