"""What a result file says, as frozen values; shares are in [0, 1]."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from harness.report.published import Wanted
from harness.report.statistics import Interval

ROLES = ("dataset", "scenario", "classifier", "attack", "defense")
SETTING = ROLES[:4]
"""What a table of the leaderboard holds fixed."""

Origin = Literal["file", "run"]


@dataclass(frozen=True, slots=True)
class Probe:
    """Poison success on one probe, and the counts of the trainings behind it."""

    name: str
    success: Interval
    counts: tuple[tuple[int, int], ...]
    floor: float | None


@dataclass(frozen=True, slots=True)
class Measured:
    """A row that was measured.

    Attributes:
        labels: The study's short names by role.
        components: What they stand for, with all parameters.
        identities: Digests of what a path in a component leads to, by role.
        goal: How the attack's success is counted.
        trials, failed: Finished and failed trainings.
        targets: Distinct attacked targets.
        accuracy: Natural accuracy; None if every trial failed.
        accuracy_counts: Correct and tested images of each training.
        probes: The first is the headline.
        flags: Why it may earn no credit; see :mod:`harness.report.flags`.
    """

    labels: Mapping[str, str]
    components: Mapping[str, Mapping[str, Any]]
    identities: Mapping[str, str]
    goal: str
    trials: int
    failed: int
    targets: tuple[int, ...]
    accuracy: Interval | None
    accuracy_counts: tuple[tuple[int, int], ...]
    probes: tuple[Probe, ...]
    flags: tuple[str, ...]

    @property
    def defended(self) -> bool:
        """Whether a defense ran."""
        return str(self.components["defense"]["name"]) != "none"

    @property
    def success(self) -> Interval | None:
        """Poison success on the headline probe."""
        return self.probes[0].success if self.probes else None


@dataclass(frozen=True, slots=True)
class Claim:
    """A number from a paper.

    Attributes:
        dataset, scenario: Registered names.
        classifier, attack, defense: With the parameters that the paper tells.
        trials: Trainings behind it, if it says.
        success, accuracy: With the printed spread as ends, where there is one; ``n`` is 0 where
            the trainings are not told.
        source: Where it is printed.
        note: What else is to be known of it.
    """

    dataset: str
    scenario: str
    classifier: Wanted
    attack: Wanted
    defense: Wanted
    trials: int | None
    success: Interval | None
    accuracy: Interval | None
    source: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class StudyFacts:
    """The study behind a measured run; see :class:`harness.report.collect.Study`."""

    name: str
    title: str
    protocol: str
    partial: bool
    command: str
    overrides: tuple[str, ...]
    settings: Mapping[str, Any]
    file: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class MeasuredRun:
    """A run: its rows, and what is needed to check it and to run it again."""

    study: StudyFacts
    rows: tuple[Measured, ...]
    spec_ids: tuple[str, ...]
    environment: tuple[Mapping[str, Any], ...]
    checksums: Mapping[str, str]
    version: str
    checked: tuple[str, ...]
    unchecked: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Submission:
    """A result file.

    Attributes:
        key: 12 hexadecimal digits of the hash of what it says; names its pages.
        name, who, url, notes: As its author gave them.
        run: What was measured, or None.
        claims: What papers print.
        raw: The whole, as plain values.
        origin: ``run`` where the site's builder verified the run itself.
    """

    key: str
    name: str
    who: str
    url: str
    notes: str
    run: MeasuredRun | None
    claims: tuple[Claim, ...]
    raw: Mapping[str, Any]
    origin: Origin = "file"
