"""Published seconds of a training under each defense, beside ours: of other hardware, no verdict.

Source: Table 5 of PureGen (arXiv:2405.18627), on a TPU v3.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import pandas as pd

from harness.report import format as fmt
from harness.report.published import TIMED
from harness.report.summary import Row, Summary
from harness.report.table import Entry, Head, Table

HARDWARE = "seconds on a TPU v3, which is other hardware than ours: no verdict"


@dataclass(frozen=True, slots=True)
class PublishedSeconds:
    """What a paper reports of the cost of one defense, in seconds.

    Attributes:
        defense: Registered name.
        single: Of one training under it, a median.
        each: By attack, of each of many trainings: mean and standard deviation.
    """

    defense: str
    single: float
    each: dict[str, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Timed:
    """A row of ours and the published seconds of its defense.

    Attributes:
        ours, theirs: The two.
        each: Published mean and standard deviation under the attack of our row, or None.
    """

    ours: Row
    theirs: PublishedSeconds
    each: tuple[float, float] | None

    @property
    def total(self) -> float | None:
        """Our seconds of training and purification together; None where no training was timed."""
        train, purify = self.ours.seconds_train, self.ours.seconds_purify
        return None if train is None else train + (purify or 0.0)


def published_seconds() -> tuple[PublishedSeconds, ...]:
    """Read the table of seconds."""
    text = files("harness.report").joinpath("published", f"{TIMED}.csv").read_text("utf-8")
    return tuple(
        PublishedSeconds(
            raw["defense"], float(raw["seconds_single"]),
            {
                attack: (float(raw[f"seconds_{attack}"]), float(raw[f"seconds_{attack}_std"]))
                for attack in ("gradient_matching", "narcissus")
            },
        )
        for raw in csv.DictReader(text.splitlines())
    )  # fmt: skip


def timed(summary: Summary) -> tuple[Timed, ...]:
    """Put the published seconds of its defense beside each row of ours that has a finished trial.

    Matched by the registered name alone: parameters, data and hardware are others anyway.
    """
    known = {one.defense: one for one in published_seconds()}
    found = []
    for duel in summary.duels:
        for row in duel.rows:
            spec = duel.trials[row.defense][0].record.spec
            theirs = known.get(spec["defense"]["name"])
            if row.trials and theirs is not None:
                found.append(Timed(row, theirs, theirs.each.get(spec["attack"]["name"])))
    return tuple(found)


def seconds_table(rows: Sequence[Timed]) -> Table:
    """Return the comparison as a table."""
    heads = (
        Head("Setting", numeric=False), Head("Attack", numeric=False),
        Head("Defense", numeric=False),
        Head("One training published (s)", "Of one training alone, a median."),
        Head("Each of many published (s)", "Mean and standard deviation of each of 100 trainings "
             "(gradient matching) or of 10 (Narcissus)."),
        Head("Train ours (s)"), Head("Purify ours (s)"),
        Head("Together ours (s)", "Mean of a trial: training and purification."),
    )  # fmt: skip
    starts = frozenset(
        i for i in range(1, len(rows)) if rows[i].ours.attack != rows[i - 1].ours.attack
    )
    return Table(heads, tuple(map(_entries, rows)), starts)


def _entries(one: Timed) -> tuple[Entry, ...]:
    ours = one.ours
    each = "{} ± {}".format(*map(fmt.seconds, one.each)) if one.each else fmt.MISSING
    words = (", ".join(part for part in ours.setting if part), ours.attack, ours.defense)
    return (
        *(Entry(word, word) for word in words),
        _seconds(one.theirs.single), Entry(each, one.each[0] if one.each else None),
        *map(_seconds, (ours.seconds_train, ours.seconds_purify, one.total)),
    )  # fmt: skip


def _seconds(value: float | None) -> Entry:
    return Entry(fmt.seconds(value), value)


def seconds_frame(rows: Sequence[Timed]) -> pd.DataFrame:
    """Return the comparison as numbers: seconds."""
    return pd.DataFrame([
        {
            "dataset": one.ours.dataset, "scenario": one.ours.scenario,
            "classifier": one.ours.classifier, "attack": one.ours.attack,
            "defense": one.ours.defense, "published_single": one.theirs.single,
            "published_each": one.each[0] if one.each else None,
            "published_each_std": one.each[1] if one.each else None,
            "seconds_train": one.ours.seconds_train, "seconds_purify": one.ours.seconds_purify,
            "seconds_together": one.total,
        }
        for one in rows
    ])  # fmt: skip
