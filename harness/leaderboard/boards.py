"""Submissions as tables: what was measured under one setting, ranked, with claims beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.core.spec import digest
from harness.leaderboard.values import ROLES, SETTING, Claim, Measured, Submission
from harness.report import flags
from harness.report.statistics import Interval
from harness.report.trials import natural_key

UNTOLD = "as told"
"""What a table of claims alone is measured under."""


@dataclass(frozen=True, slots=True)
class Rank:
    """The places that an interval allows: the best and the worst; the order of the estimates."""

    best: int
    worst: int
    place: int

    @property
    def tied(self) -> bool:
        """Whether its interval overlaps that of another row."""
        return self.best != self.worst


@dataclass(frozen=True, slots=True)
class Standing:
    """A row of a table: something measured, a claim, or both of the same defense.

    Attributes:
        submission: Whose row it is.
        measured: None for a claim without a measurement.
        claims: Claims of the same defense, with whose they are.
        rank: None without credit, without a defense, of a partial run, and for claims alone.
    """

    submission: Submission
    measured: Measured | None
    claims: tuple[tuple[Submission, Claim], ...]
    rank: Rank | None = None

    @property
    def defense(self) -> str:
        """The defense's label."""
        if self.measured is not None:
            return self.measured.labels["defense"]
        return told(self.claims[0][1], "defense")

    @property
    def partial(self) -> bool:
        """Whether what was measured ran under a limit."""
        run = self.submission.run
        return self.measured is not None and run is not None and run.study.partial


@dataclass(frozen=True, slots=True)
class Board:
    """A table of the leaderboard.

    Attributes:
        key: Different for each; names it in addresses.
        labels: Dataset, scenario, classifier and attack by role.
        differing: The parameters in which it differs from tables with the same labels.
        protocol: Under which it was measured; :data:`UNTOLD` for claims alone.
        goal: How success is counted.
        standings: Undefended first, then by rank, then what has none.
    """

    key: str
    labels: Mapping[str, str]
    differing: tuple[str, ...]
    protocol: str
    goal: str
    standings: tuple[Standing, ...]

    @property
    def targets_differ(self) -> bool:
        """Whether its rows attacked different targets."""
        found = {s.measured.targets for s in self.standings if s.measured and s.measured.trials}
        return len(found) > 1


def boards_of(submissions: Sequence[Submission]) -> tuple[Board, ...]:
    """Return the tables of submissions, those with measurements first, then by their labels.

    What decides whether two rows stand in one table is all parameters of dataset, scenario,
    classifier and attack, what their paths lead to, and the protocol; not the labels, which are
    short names within one study.
    """
    groups: dict[str, list[tuple[Submission, Measured]]] = {}
    for one in submissions:
        for row in one.run.rows if one.run else ():
            groups.setdefault(_identity(one, row), []).append((one, row))
    claims = [(one, claim) for one in submissions for claim in one.claims]
    matched: set[int] = set()
    boards = []
    for key, rows in groups.items():
        here = [pair for pair in claims if _is_of(pair[1], rows[0][1])]
        matched.update(id(claim) for _, claim in here)
        boards.append(_board(key, rows, here))
    boards = _told_apart(boards, {key: rows[0][1] for key, rows in groups.items()})
    boards.sort(key=lambda b: (b.goal == "none", _by_labels(b)))
    alone = _claimed([pair for pair in claims if id(pair[1]) not in matched])
    return (*boards, *sorted(alone, key=_by_labels))


def told(claim: Claim, role: str) -> str:
    """Return a part of a claim's setting in words: ``narcissus eps_255=8``."""
    part = getattr(claim, role)
    if isinstance(part, str):
        return part
    return " ".join([part.name, *(f"{key}={value}" for key, value in part.params)])


def _identity(one: Submission, row: Measured) -> str:
    protocol = one.run.study.protocol if one.run else ""
    parts = {role: [row.components[role], row.identities.get(role)] for role in SETTING}
    return digest({"protocol": protocol, **parts})


def _is_of(claim: Claim, row: Measured) -> bool:
    """Whether a claim's setting is that of a row, as far as the paper tells it."""
    parts = row.components
    return (
        claim.dataset == parts["dataset"]["name"]
        and claim.scenario == parts["scenario"]["name"]
        and all(
            wanted.name == parts[role]["name"] and not wanted.differences(parts[role])
            for role, wanted in (("classifier", claim.classifier), ("attack", claim.attack))
        )
    )


def _board(
    key: str, rows: Sequence[tuple[Submission, Measured]], claims: list[tuple[Submission, Claim]]
) -> Board:
    standings = []
    used: set[int] = set()
    for submission, row in rows:
        defense = row.components["defense"]
        beside = [
            (whose, claim) for whose, claim in claims
            if claim.defense.name == defense["name"] and not claim.defense.differences(defense)
        ]  # fmt: skip
        used.update(id(claim) for _, claim in beside)
        standings.append(Standing(submission, row, tuple(beside)))
    standings += [
        Standing(whose, None, ((whose, claim),)) for whose, claim in claims if id(claim) not in used
    ]
    submission, row = rows[0]
    goal = next((r.goal for _, r in rows if r.goal != "none"), "none")
    protocol = submission.run.study.protocol if submission.run else UNTOLD
    labels = {role: row.labels[role] for role in SETTING}
    return Board(key[:12], labels, (), protocol, goal, tuple(_ranked(standings, goal)))


def _ranked(standings: Sequence[Standing], goal: str) -> list[Standing]:
    """Rank by what the attack wants: success, lowest first; else accuracy, highest first."""
    by_accuracy = goal in ("availability", "none")
    scored = [(s, _losses(s, by_accuracy)) for s in standings]
    bare = [s for s, _ in scored if s.measured and not s.measured.defended]
    fit = [(s, ends) for s, ends in scored if ends is not None and s not in bare]
    fit.sort(key=lambda pair: pair[1][1])
    ranked = []
    for place, (standing, (low, _, high)) in enumerate(fit, 1):
        better = sum(other[2] < low for _, other in fit)
        worse = sum(other[0] > high for _, other in fit)
        ranked.append(replace(standing, rank=Rank(better + 1, len(fit) - worse, place)))
    rest = [s for s, ends in scored if ends is None and s not in bare]
    return [*bare, *ranked, *sorted(rest, key=lambda s: s.measured is None)]


def _losses(standing: Standing, by_accuracy: bool) -> tuple[float, float, float] | None:
    """Low end, estimate and high end of what is to be small; None where there is no rank."""
    row = standing.measured
    if row is None or standing.partial or flags.NO_CREDIT.intersection(row.flags):
        return None
    found = row.accuracy if by_accuracy else row.success
    if found is None:
        return None
    low, high = _ends(found)
    return (-high, -found.value, -low) if by_accuracy else (low, found.value, high)


def _ends(interval: Interval) -> tuple[float, float]:
    if interval.low is None or interval.high is None:
        return interval.value, interval.value
    return interval.low, interval.high


def _told_apart(boards: list[Board], first: Mapping[str, Measured]) -> list[Board]:
    """Say of tables with the same labels in which parameters they differ."""
    rows = {key[:12]: row for key, row in first.items()}
    found = []
    for board in boards:
        alike = [b for b in boards if b.labels == board.labels]
        flat = {b.key: _flat(rows[b.key]) | {"protocol": b.protocol} for b in alike}
        own = flat[board.key]
        differing = [
            f"{key} {_brief(own.get(key))}"
            for key in dict.fromkeys(key for parts in flat.values() for key in parts)
            if any(parts.get(key) != own.get(key) for parts in flat.values())
        ]
        found.append(replace(board, differing=tuple(differing)))
    return found


def _flat(row: Measured) -> dict[str, Any]:
    found = {key: value for role in SETTING for key, value in flat(row.components[role], role)}
    return found | {f"{role} (digest)": digest[:12] for role, digest in row.identities.items()
                    if role in SETTING}  # fmt: skip


def flat(value: Any, name: str) -> Iterable[tuple[str, Any]]:
    """Yield every plain value of nested mappings with its dotted name."""
    if not isinstance(value, Mapping):
        yield name, value
        return
    for key, inner in value.items():
        yield from flat(inner, f"{name}.{key}")


def _brief(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _claimed(claims: Sequence[tuple[Submission, Claim]]) -> list[Board]:
    groups: dict[tuple[str, ...], list[tuple[Submission, Claim]]] = {}
    for pair in claims:
        groups.setdefault(tuple(told(pair[1], role) for role in SETTING), []).append(pair)
    return [
        Board(
            digest(list(setting))[:12], dict(zip(SETTING, setting, strict=True)), (), UNTOLD, "",
            tuple(Standing(pair[0], None, (pair,)) for pair in pairs),
        )
        for setting, pairs in groups.items()
    ]  # fmt: skip


def _by_labels(board: Board) -> tuple[Any, ...]:
    return tuple(natural_key(board.labels[role]) for role in ROLES if role in board.labels)
