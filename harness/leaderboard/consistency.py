"""Whether a result file agrees with itself: every estimate is derived again from its counts."""

from __future__ import annotations

from collections.abc import Sequence

from harness.core.errors import DataError
from harness.leaderboard.values import SETTING, Claim, Measured
from harness.report import flags
from harness.report.statistics import Interval, share_interval, wilson

_EXACT = 1e-9
_RESAMPLED = 0.02
"""How far an end may lie from ours, a share: another version's bootstrap draws otherwise."""

Counts = tuple[tuple[int, int], ...]


def check_row(row: Measured, where: str) -> None:
    """Check that counts are possible and give the estimates that stand with them.

    Raises:
        DataError: If not; says what is said and what the counts give.
    """
    counted = len(row.accuracy_counts)
    if counted != row.trials:
        raise DataError(
            f"{where}.accuracy_counts: got {counted} pairs; allowed: one per trial, {row.trials}."
        )
    _check_estimate(row.accuracy, row.accuracy_counts, f"{where}.accuracy", pooled=False)
    attacked = row.components["attack"]["name"] != "none"
    if row.trials and attacked != (row.goal != "none"):
        allowed = "the goal of its attack" if attacked else "'none', without an attack"
        raise DataError(f"{where}.goal: got {row.goal!r}; allowed: {allowed}.")
    for index, probe in enumerate(row.probes):
        at = f"{where}.probes[{index}].success"
        _check_estimate(probe.success, probe.counts, at, pooled=row.goal == "targeted")
    if not attacked and row.probes:
        raise DataError(f"{where}.probes: got {len(row.probes)}; allowed: none without an attack.")
    _check_dead(row, where)


def check_attack_flags(rows: Sequence[Measured], where: str) -> None:
    """Check that each row says of its attack what the others of that attack say.

    A defense has no credit against an attack that is dead, or that nothing shows to be alive.

    Args:
        rows: Of one run.
        where: What to call them in messages.

    Raises:
        DataError: If not.
    """
    groups: dict[tuple[str, ...], list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(tuple(row.labels[role] for role in SETTING), []).append(index)
    for group in groups.values():
        here = [rows[index] for index in group]
        needed = {flag for row in here for flag in row.flags} & flags.OF_ATTACK
        attacked = here[0].components["attack"]["name"] != "none"
        if attacked and all(row.defended or not row.trials for row in here):
            needed.add(flags.UNVERIFIED)
        for index, row in zip(group, here, strict=True):
            for flag in sorted(needed.difference(row.flags)):
                raise DataError(
                    f"{where}[{index}].flags: got none of its attack; needed: {flag!r}, "
                    "as for every row of that attack."
                )


def check_claim(claim: Claim, where: str) -> None:
    """Check that a claim says something, and that its spread is around its number.

    Raises:
        DataError: If not.
    """
    if claim.success is None and claim.accuracy is None:
        raise DataError(f"{where}: got neither success nor accuracy; needed: one of them.")
    for name, interval in (("success", claim.success), ("accuracy", claim.accuracy)):
        if interval is not None:
            _check_order(interval, f"{where}.{name}")


def _check_estimate(
    said: Interval | None, counts: Counts, where: str, *, pooled: bool
) -> None:  # fmt: skip
    for hits, total in counts:
        if not 0 <= hits <= total or not total:
            raise DataError(f"{where}: got {hits} of {total}; allowed: 0 to all of at least one.")
    if said is None or not counts:
        if said is not None or counts:
            raise DataError(f"{where}: got an estimate or counts alone; allowed: both or neither.")
        return
    _check_order(said, where)
    if pooled:
        given = wilson(sum(hits for hits, _ in counts), sum(total for _, total in counts))
    else:
        given = share_interval(counts)
    if abs(said.value - given.value) > _EXACT:
        raise DataError(f"{where}.value: got {said.value:g}; its counts give {given.value:g}.")
    if said.tied and not pooled:
        _check_within(said, counts, where)
        return
    for end in ("low", "high"):
        ours, theirs = getattr(given, end), getattr(said, end)
        if (ours is None) != (theirs is None) or (
            ours is not None and abs(ours - theirs) > _RESAMPLED
        ):
            raise DataError(f"{where}.{end}: got {_show(theirs)}; its counts give {_show(ours)}.")


def _check_within(said: Interval, counts: Counts, where: str) -> None:
    """Counts do not say which of them share a target; but no bootstrap leaves their range."""
    shares = [hits / total for hits, total in counts]
    for end, least, most in (("low", min(shares), said.value), ("high", said.value, max(shares))):
        value = getattr(said, end)
        if value is None or not least - _EXACT <= value <= most + _EXACT:
            raise DataError(
                f"{where}.{end}: got {_show(value)}; its counts allow {least:g} to {most:g}."
            )


def _check_order(interval: Interval, where: str) -> None:
    low, high = interval.low, interval.high
    if low is None or high is None:
        if low is not high:
            raise DataError(f"{where}: got one end of an interval; allowed: both or none.")
    elif not low <= interval.value <= high:
        raise DataError(
            f"{where}: got {low:g} ≤ {interval.value:g} ≤ {high:g}; allowed: low ≤ value ≤ high."
        )


def _check_dead(row: Measured, where: str) -> None:
    """An undefended row tells whether the attack is dead, so its flags must say so."""
    if row.defended or row.success is None or row.goal == "availability":
        return
    dead = flags.attack_is_dead(row.success.value, row.probes[0].floor)
    if dead and flags.DEAD not in row.flags:
        raise DataError(
            f"{where}.flags: got none of a dead attack; needed: {flags.DEAD!r}, for undefended "
            f"success {row.success.value:g} with a clean floor of {_show(row.probes[0].floor)}."
        )


def _show(value: float | None) -> str:
    return "null" if value is None else f"{value:g}"
