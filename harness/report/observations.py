"""One number per trial, with its counts and the key by which defenses are paired."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from harness.report.nested import Nest
from harness.report.statistics import Interval, mean_interval, share_interval, wilson
from harness.report.trials import PairKey, Ties, Trial


@dataclass(frozen=True, slots=True)
class Observation:
    """A share that one trial showed.

    Attributes:
        key: What it has in common with the same trial under another defense.
        hits, total: Its counts; ``total`` is positive.
        purify: The purification seed.
        ties: What intervals mind, see :class:`Trial`.
    """

    key: PairKey
    hits: int
    total: int
    purify: int | None = None
    ties: Ties = "all"

    @property
    def share(self) -> float:
        """``hits / total``, in [0, 1]."""
        return self.hits / self.total

    @property
    def target(self) -> int | None:
        """The attacked target."""
        return self.key[0]

    @property
    def nest(self) -> Nest:
        """Target, poison, purification and victim seed: as the trial's parts come about."""
        target, poison, victim = self.key
        return _nest(target, poison, (self.purify, victim), self.ties)


def accuracy(trials: Iterable[Trial]) -> list[Observation]:
    """Natural accuracy of each finished trial."""
    return [
        _observed(t, t.target, t.record.test_correct, t.record.test_rows) for t in trials if t.ok
    ]


def class_accuracy(trials: Iterable[Trial]) -> list[Observation]:
    """Accuracy on the clean test images of the attacked class, for triggered attacks."""
    found = []
    for trial in trials:
        rows, target = trial.record.class_rows, trial.target
        if not trial.ok or trial.record.goal != "triggered" or target is None:
            continue
        if 0 <= target < len(rows) and rows[target]:
            hits = trial.record.class_correct[target]
            found.append(_observed(trial, target, hits, rows[target]))
    return found


def successes(
    trials: Iterable[Trial], probe: str, attacks: Collection[str] | None = None
) -> list[Observation]:
    """Poison success on one probe, one observation per finished trial and target.

    Args:
        trials: Any trials.
        probe: Name of the probe.
        attacks: Only outcomes of the attacks with these ids; in trials without an attack they are
            the clean floor of those attacks.
    """
    return [
        _observed(t, t.target if o.target is None else o.target, o.successes, o.trials)
        for t in trials
        if t.ok
        for o in t.record.outcomes
        if o.probe == probe and o.trials and (attacks is None or o.attack in attacks)
    ]


def _observed(trial: Trial, target: int | None, hits: int, total: int) -> Observation:
    key = trial.pair_key(target)
    return Observation(key, hits, total, trial.seeds.get("purify"), trial.ties)


def _nest(target: int | None, poison: int | None, seeds: Sequence[int | None], ties: Ties) -> Nest:
    if ties == "target":  # as if each poison had drawn its own
        return target, poison, *((target, poison, seed) for seed in seeds)
    return target, poison, *seeds


def nests_of(observations: Sequence[Observation]) -> list[Nest] | None:
    """Return where each stands, for its interval; None where that is not to be minded."""
    return None if any(o.ties == "none" for o in observations) else [o.nest for o in observations]


def pooled(observations: Sequence[Observation]) -> Interval | None:
    """k of n over all trials with its Wilson interval, or None of nothing.

    For targeted attacks: each trial decides about its own target image.
    """
    if not observations:
        return None
    return wilson(sum(o.hits for o in observations), sum(o.total for o in observations))


def averaged(observations: Sequence[Observation]) -> Interval | None:
    """Mean of the trials' shares with its bootstrap interval, or None of nothing."""
    if not observations:
        return None
    counts = [(o.hits, o.total) for o in observations]
    return share_interval(counts, nests=nests_of(observations))


def by_target(observations: Iterable[Observation]) -> dict[int | None, list[Observation]]:
    """Group by target, in ascending order."""
    found: dict[int | None, list[Observation]] = {}
    for one in sorted(observations, key=lambda o: -1 if o.target is None else o.target):
        found.setdefault(one.target, []).append(one)
    return found


def mean(observations: Sequence[Observation]) -> float | None:
    """Mean share, or None of nothing."""
    return sum(o.share for o in observations) / len(observations) if observations else None


def by_key(observations: Iterable[Observation]) -> dict[PairKey, float]:
    """Return the mean share per target, poison seed and victim seed, over purification seeds."""
    shares: dict[PairKey, list[float]] = {}
    for one in observations:
        shares.setdefault(one.key, []).append(one.share)
    return {key: sum(values) / len(values) for key, values in shares.items()}


def matched(
    these: Sequence[Observation], those: Sequence[Observation]
) -> tuple[list[Nest] | None, list[float], list[float]]:
    """Return the shares of trials and of their twins, and where these stand.

    Twins attack the same target with the same poison and victim seed; what differs by its
    purification seed is averaged first.
    """
    left, right = by_key(these), by_key(those)
    keys = [key for key in left if key in right]
    ties = {one.ties for one in these} or {"all"}
    nests = None if "none" in ties else [_nest(t, p, (v,), *ties) for t, p, v in keys]
    return nests, [left[key] for key in keys], [right[key] for key in keys]


def paired_difference(
    these: Sequence[Observation], those: Sequence[Observation]
) -> Interval | None:
    """Mean of (these minus those) over the trials that have a twin, or None where none has.

    Twins are those of :func:`matched`; of several, the one of the same purification seed is taken,
    or else their mean. So the interval minds how much purification seeds scatter, which a test of
    the pairs must not take for independent.
    """
    means = by_key(those)
    alike = {(one.key, one.purify): one.share for one in those}
    paired = [one for one in these if one.key in means]
    differences = [one.share - alike.get((one.key, one.purify), means[one.key]) for one in paired]
    return mean_interval(differences, nests=nests_of(paired)) if differences else None
