"""The result in sentences, made from the numbers alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from harness.report import flags
from harness.report.format import percent, percent_interval, points_interval
from harness.report.pairs import ACCURACY, Pair, compare_pairs
from harness.report.statistics import Interval
from harness.report.summary import Duel, Row, Summary

_Estimate = Callable[[Row], Interval | None]
_Pairs = Mapping[frozenset[str], Pair]
"""The comparisons of one duel, by the two defenses, of the measure that its sentences are about."""

TOLERATED_LOSS = 0.02
"""Natural accuracy (a share) that the best defense may lose against the undefended twin."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a run shows of one attack, in words.

    Attributes:
        heading: Setting and attack.
        text: A few sentences.
    """

    heading: str
    text: str


def verdicts(summary: Summary, pairs: Sequence[Pair] | None = None) -> list[Verdict]:
    """Return one paragraph per attack and setting; for a run without attack, per setting.

    Args:
        summary: The main table.
        pairs: Its comparisons (:func:`harness.report.pairs.compare_pairs`), where they are at hand.
            The sentences tell two defenses apart where these tests do.
    """
    compared = compare_pairs(summary) if pairs is None else pairs
    attacked = [d for d in summary.duels if _attacked(d)]
    chosen = attacked or list(summary.duels)
    clean = {
        d.setting: d.undefended.accuracy for d in summary.duels if d.undefended and not _attacked(d)
    }
    return [
        Verdict(_heading(d), " ".join(_sentences(d, clean.get(d.setting), _of(d, compared))))
        for d in chosen
    ]


def _of(duel: Duel, pairs: Sequence[Pair]) -> _Pairs:
    by_accuracy = duel.goal == "availability"
    return {
        frozenset((p.defense, p.against)): p
        for p in pairs
        if (p.setting, p.attack) == (duel.setting, duel.attack)
        and (p.measure == ACCURACY) == by_accuracy
    }


def _attacked(duel: Duel) -> bool:
    return any(t.attacked for group in duel.trials.values() for t in group)


def _heading(duel: Duel) -> str:
    return f"{duel.attack} on " + ", ".join(part for part in duel.setting if part)


def _sentences(duel: Duel, clean: Interval | None, pairs: _Pairs) -> list[str]:
    if not any(r.trials for r in duel.rows):
        return ["Every trial failed; see the list of failed trials."]
    if not _attacked(duel):
        return [_clean(duel)]
    if flags.UNVERIFIED in duel.rows[0].flags:
        return [f"Unverified. {flags.EXPLANATIONS[flags.UNVERIFIED]}"]
    said = [_undefended(duel, clean)]
    if flags.DEAD in duel.rows[0].flags:
        return [*said, _dead(duel)]
    idle = [r.defense for r in duel.rows if flags.NO_OP in r.flags]
    if idle:
        earn = "earns" if len(idle) == 1 else "earn"
        said.append(f"Of the defenses, {_listed(idle)} changed nothing and {earn} no credit.")
    return said + _comparison(duel, pairs)


def _clean(duel: Duel) -> str:
    shown = [f"{r.defense} {percent_interval(r.accuracy)} %" for r in duel.rows if r.accuracy]
    return f"No attack ran. Natural accuracy: {'; '.join(shown)}."


def _undefended(duel: Duel, clean: Interval | None) -> str:
    row = duel.undefended
    if row is None:
        return ""
    accuracy = f"natural accuracy is {percent_interval(row.accuracy)} %"
    if row.headline is None:
        return (
            f"Without a defense {accuracy}, after a clean training {percent_interval(clean)} % "
            f"({_count(row)})."
        )
    floor = row.headline.floor
    return (
        f"Without a defense the poison succeeds on {percent_interval(row.headline.success)} % of "
        f"probe {row.headline.name} ("
        + (f"clean floor {percent(floor)} %" if floor is not None else "clean floor not measured")
        + f"; {_count(row)}), and {accuracy}."
    )


def _dead(duel: Duel) -> str:
    why = f"no more than {100 * flags.DEAD_MARGIN:.0f} points above the clean floor"
    if duel.goal == "availability":
        why = f"less than {100 * flags.DEAD_ACCURACY_LOSS:.0f} points below a clean training"
    return f"That is {why}: the attack is dead in this run, and no defense earns credit."


def _count(row: Row) -> str:
    targets = f", {len(row.targets)} targets" if len(row.targets) > 1 else ""
    return f"{row.trials} trial{'s' if row.trials != 1 else ''}{targets}"


def _comparison(duel: Duel, pairs: _Pairs) -> list[str]:
    rows = [r for r in duel.rows if r.credit]
    if not rows:
        return ["No defense was measured against it."]
    if duel.goal == "availability":
        return _best_accuracy(rows, pairs)
    keep = [r for r in rows if _loss(duel, r) <= TOLERATED_LOSS + 1e-12]
    limit = f"{100 * TOLERATED_LOSS:.0f} points of accuracy"
    if not keep:
        return [f"No defense stays within {limit} of the undefended.", *_cheapest(duel, rows)]
    best = min(keep, key=_order)
    lower = _is_lower(best, duel.undefended, pairs)
    said = [_winner(best, len(keep) == 1, limit, lower)]
    said += _ties(best, [r for r in keep if r is not best], pairs, _success)
    stronger = [r for r in rows if r not in keep and _order(r) < _order(best)]
    for row in stronger:
        doubt = ", which may be chance," if _tied(row, best, pairs, _success) else ","
        said.append(
            f"{_short(row)} goes lower{doubt} but costs {percent(_loss(duel, row))} points."
        )
    return said


def _winner(best: Row, alone: bool, limit: str, lower: bool) -> str:
    if best.headline is None:
        return ""
    lead = f"Of the defenses that lose no more than {limit}, {best.defense} has the lowest success:"
    if alone:
        lead = f"Only {best.defense} loses no more than {limit}; success is"
    said = f"{lead} {percent_interval(best.headline.success)} %"
    if best.headline.delta:
        said += f" ({points_interval(best.headline.delta)} points against the undefended)"
    if best.accuracy_delta:
        said += f", accuracy {points_interval(best.accuracy_delta)} points"
    if best.headline.delta and not lower:
        said += "; that is not clearly below the undefended"
    return f"{said}."


def _ties(best: Row, others: Sequence[Row], pairs: _Pairs, estimate: _Estimate) -> list[str]:
    """Say which defenses the best cannot be told from, and which of them no test looked at."""
    tested = [r for r in others if _tested(_pair(r, best, pairs))]
    untested = [r for r in others if r not in tested]
    said = []
    for group, why in (
        (tested, "tested in pairs and corrected for all comparisons, no difference is shown."),
        (untested, "the two are equal, or the interval of their difference contains 0."),
    ):
        ties = [_short(r) for r in group if _tied(r, best, pairs, estimate)]
        if ties:
            said.append(f"These trials cannot tell it from {_listed(ties)}: {why}")
    if untested:
        them = "the others" if not tested else _listed([r.defense for r in untested])
        said.append(f"Against {them} there are too few pairs for a test: intervals alone decide.")
    return said


def _cheapest(duel: Duel, rows: Sequence[Row]) -> list[str]:
    best = min(rows, key=_order)
    if best.headline is None:
        return []
    return [f"Lowest success: {_short(best)}, at a cost of {percent(_loss(duel, best))} points."]


def _best_accuracy(rows: Sequence[Row], pairs: _Pairs) -> list[str]:
    best = max(rows, key=lambda r: r.accuracy.value if r.accuracy else 0.0)
    gained = f" ({points_interval(best.accuracy_delta)} points)" if best.accuracy_delta else ""
    return [
        f"Natural accuracy is highest under {best.defense}: "
        f"{percent_interval(best.accuracy)} %{gained}.",
        *_ties(best, [r for r in rows if r is not best], pairs, _accuracy),
    ]


def _loss(duel: Duel, row: Row) -> float:
    """Accuracy lost against the undefended: paired where twins exist, else of the means."""
    if row.accuracy_delta:
        return -row.accuracy_delta.value
    bare = duel.undefended
    if bare is None or bare.accuracy is None or row.accuracy is None:
        return 0.0
    return bare.accuracy.value - row.accuracy.value


def _order(row: Row) -> tuple[float, float]:
    """Lowest success first; of equal ones the highest accuracy."""
    success = row.headline.success.value if row.headline else 1.0
    return success, -(row.accuracy.value if row.accuracy else 0.0)


def _success(row: Row) -> Interval | None:
    return row.headline.success if row.headline else None


def _accuracy(row: Row) -> Interval | None:
    return row.accuracy


def _pair(one: Row, other: Row, pairs: _Pairs) -> Pair | None:
    return pairs.get(frozenset((one.defense, other.defense)))


def _tested(pair: Pair | None) -> TypeGuard[Pair]:
    """Whether a test had enough pairs to tell the two apart, all comparisons considered."""
    return pair is not None and (pair.shown or not pair.hopeless)


def _tied(one: Row, other: Row, pairs: _Pairs, estimate: _Estimate) -> bool:
    """Whether two defenses cannot be told apart.

    Judged as in the table of pairs, by the corrected p. With too few pairs for a test, by the
    interval of their paired difference. A single pair, or none, has no such interval: then by
    whether the intervals of the two overlap.
    """
    pair = _pair(one, other, pairs)
    if _tested(pair):
        return not pair.shown
    difference = pair.difference if pair else None
    if difference and difference.low is not None and difference.high is not None:
        return difference.low <= 0 <= difference.high
    if difference and difference.n > 1:  # the same difference in every pair
        return abs(difference.value) < 1e-12
    given = estimate(one), estimate(other)
    if given[0] is None or given[1] is None:
        return False
    ends = [(i.value, i.value) if i.low is None or i.high is None else (i.low, i.high)
            for i in given if i]  # fmt: skip
    return max(low for low, _ in ends) <= min(high for _, high in ends)


def _is_lower(row: Row, bare: Row | None, pairs: _Pairs) -> bool:
    """Whether success is below the undefended's, and the two are told apart."""
    delta = row.headline.delta if row.headline else None
    if bare is None or delta is None:
        return False
    return delta.value < 0 and not _tied(row, bare, pairs, _success)


def _short(row: Row) -> str:
    success = f" ({percent(row.headline.success.value)} %)" if row.headline else ""
    return f"{row.defense}{success}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
