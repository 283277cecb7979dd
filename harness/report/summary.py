"""The main table: one row per setting, attack and defense."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from harness.report import flags
from harness.report import observations as obs
from harness.report.statistics import Interval
from harness.report.trials import Setting, Trial, labels_of


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Poison success on one probe.

    Attributes:
        name: Of the probe.
        success: Triggered: mean over targets and seeds, bootstrap over targets and seeds.
            Targeted: k of n trials, Wilson.
        floor: Mean success that trainings without attack and defense show on the same probes of
            the same targets; None where there is none.
        delta: Success minus that of the undefended twins; None without twins.
    """

    name: str
    success: Interval
    floor: float | None
    delta: Interval | None


@dataclass(frozen=True, slots=True)
class Row:
    """What one defense did against one attack in one setting. Shares are in [0, 1].

    Attributes:
        dataset, scenario, classifier, attack, defense: Labels.
        goal: How success is counted; ``none`` without an attack.
        trials, failed: Finished and failed trials.
        targets: Distinct attacked targets.
        accuracy: Natural accuracy, mean over targets and seeds; None if every trial failed.
        accuracy_delta: Accuracy minus that of the undefended twins.
        best_accuracy: Mean accuracy after each training's best epoch, chosen on the test set.
        class_accuracy: Accuracy on the attacked class (triggered attacks).
        probes: Per probe; the first is the headline. Empty without probes.
        worst, worst_target: Highest headline success of one target (mean over its trials), and
            that target; triggered attacks with more than one target.
        worst_name: Name of the class ``worst_target``, or "".
        seconds_train, seconds_purify: Mean cost per trial.
        clean_l2, poison_l2: Mean distance that the defense moved a clean and a poisoned image, L2
            in units of [0, 1].
        flags: See :mod:`harness.report.flags`.
        best: ``accuracy`` and ``success`` where this defense has the best of those with credit.
    """

    dataset: str
    scenario: str
    classifier: str
    attack: str
    defense: str
    goal: str
    trials: int
    failed: int
    targets: tuple[int, ...]
    accuracy: Interval | None
    accuracy_delta: Interval | None
    best_accuracy: float | None
    class_accuracy: Interval | None
    probes: tuple[ProbeResult, ...]
    worst: float | None
    worst_target: int | None
    worst_name: str
    seconds_train: float | None
    seconds_purify: float | None
    clean_l2: float | None
    poison_l2: float | None
    defended: bool
    flags: tuple[str, ...] = ()
    best: frozenset[str] = frozenset()

    @property
    def setting(self) -> Setting:
        """Dataset, scenario and classifier."""
        return self.dataset, self.scenario, self.classifier

    @property
    def headline(self) -> ProbeResult | None:
        """The probe that gives the headline success, or None."""
        return self.probes[0] if self.probes else None

    @property
    def credit(self) -> bool:
        """Whether this is a defense whose numbers may count in its favour."""
        return self.defended and self.trials > 0 and not flags.NO_CREDIT.intersection(self.flags)


@dataclass(frozen=True, slots=True)
class Duel:
    """Every row of one setting under one attack, with the trials behind each."""

    setting: Setting
    attack: str
    rows: tuple[Row, ...]
    trials: dict[str, tuple[Trial, ...]]

    @property
    def goal(self) -> str:
        """How the attack's success is counted."""
        return next((r.goal for r in self.rows if r.goal != "none"), "none")

    @property
    def undefended(self) -> Row | None:
        """The row without a defense, if a trial of it finished."""
        return next((r for r in self.rows if not r.defended and r.trials), None)


@dataclass(frozen=True, slots=True)
class Summary:
    """The main table, grouped by setting and attack; attack ``none`` first in each setting."""

    duels: tuple[Duel, ...]

    @property
    def rows(self) -> tuple[Row, ...]:
        """All rows in the order of the table."""
        return tuple(row for duel in self.duels for row in duel.rows)

    @property
    def defenses(self) -> tuple[str, ...]:
        """Labels of all defenses, the undefended first, then in order of appearance."""
        rows = sorted(self.rows, key=lambda r: r.defended)
        return tuple(dict.fromkeys(r.defense for r in rows))


def ties_of(summary: Summary) -> set[str]:
    """Return what trials hang together by, in any interval: ``nested``, ``crossed``."""
    return {
        interval.tied
        for row in summary.rows
        for interval in (
            row.accuracy, row.accuracy_delta, row.class_accuracy,
            *(i for probe in row.probes for i in (probe.success, probe.delta)),
        )
        if interval is not None and interval.tied
    }  # fmt: skip


def summarise(trials: Sequence[Trial]) -> Summary:
    """Return the main table of a run.

    Args:
        trials: In the order in which settings, attacks and defenses shall stand.
    """
    duels = []
    for setting in dict.fromkeys(t.setting for t in trials):
        here = [t for t in trials if t.setting == setting]
        clean = [t for t in here if not t.attacked and not t.defended]
        here.sort(key=lambda t: t.attacked)
        for attack in labels_of(here, "attack"):
            duels.append(_duel(setting, attack, [t for t in here if t.attack == attack], clean))
    return Summary(tuple(duels))


def _duel(setting: Setting, attack: str, trials: list[Trial], clean: list[Trial]) -> Duel:
    trials.sort(key=lambda t: t.defended)
    undefended = [t for t in trials if not t.defended]
    groups = {
        defense: tuple(t for t in trials if t.defense == defense)
        for defense in labels_of(trials, "defense")
    }
    rows = [_row(group, undefended, clean) for group in groups.values()]
    attack_flags = _attack_flags(trials[0], rows, clean)
    rows = [dataclasses.replace(r, flags=(*attack_flags, *r.flags)) for r in rows]
    return Duel(setting, attack, tuple(_with_best(rows)), groups)


def _row(group: Sequence[Trial], undefended: list[Trial], clean: list[Trial]) -> Row:
    first, finished = group[0], [t for t in group if t.ok]
    accuracy = obs.accuracy(group)
    probes = _probes(finished, undefended, clean) if first.attacked else ()
    worst, worst_target = _worst(finished, probes[0].name) if probes else (None, None)
    moves = [t.record.movement for t in finished]
    return Row(
        dataset=first.dataset, scenario=first.scenario, classifier=first.classifier,
        attack=first.attack, defense=first.defense, defended=first.defended,
        goal=_goal(group), trials=len(finished), failed=len(group) - len(finished),
        targets=_targets(finished),
        accuracy=obs.averaged(accuracy),
        accuracy_delta=(
            obs.paired_difference(accuracy, obs.accuracy(undefended)) if first.defended else None
        ),
        best_accuracy=_mean(t.record.best_accuracy for t in finished),
        class_accuracy=obs.averaged(obs.class_accuracy(group)),
        probes=probes, worst=worst, worst_target=worst_target,
        worst_name=_class_name(first, worst_target),
        seconds_train=_mean(t.seconds("train") for t in finished),
        seconds_purify=_mean(t.seconds("purify") for t in finished),
        clean_l2=_mean(m.clean_l2 for m in moves if m),
        poison_l2=_mean(m.poison_l2 for m in moves if m),
        flags=_flags(group, undefended),
    )  # fmt: skip


def _flags(group: Sequence[Trial], undefended: Sequence[Trial]) -> tuple[str, ...]:
    """What can be said of a defense by its own trials."""
    found = [flags.ORACLE] if flags.is_oracle(group[0]) else []
    if flags.is_no_op(group, undefended):
        found.append(flags.NO_OP)
    return tuple(found)


def _probes(
    finished: list[Trial], undefended: list[Trial], clean: list[Trial]
) -> tuple[ProbeResult, ...]:
    names = dict.fromkeys(o.probe for t in finished for o in t.record.outcomes if o.trials)
    found = []
    for name in names:
        here = obs.successes(finished, name)
        estimate = obs.pooled if _goal(finished) == "targeted" else obs.averaged
        success = estimate(here)
        if success is None:
            continue
        delta = (
            obs.paired_difference(here, obs.successes(undefended, name))
            if finished[0].defended
            else None
        )
        found.append(ProbeResult(name, success, _floor(finished, name, clean), delta))
    return tuple(found)


def _floor(finished: list[Trial], probe: str, clean: list[Trial]) -> float | None:
    """Mean of the clean trainings' outcomes on the same probe of the very same attacks.

    An attack's id is the hash of its spec, which names the target too.
    """
    attacks = {o.attack for t in finished for o in t.record.outcomes}
    return obs.mean(obs.successes(clean, probe, attacks))


def _worst(finished: list[Trial], probe: str) -> tuple[float | None, int | None]:
    if _goal(finished) != "triggered":
        return None, None
    means = {
        target: obs.mean(group)
        for target, group in obs.by_target(obs.successes(finished, probe)).items()
        if target is not None
    }
    shares = [(share, -target) for target, share in means.items() if share is not None]
    if len(shares) < 2:
        return None, None
    share, target = max(shares)  # of equal ones the lowest target
    return share, -target


def _targets(finished: list[Trial]) -> tuple[int, ...]:
    named = {t.target for t in finished}
    if any(t.attacked for t in finished):  # a clean training judges the targets of others
        named |= {o.target for t in finished for o in t.record.outcomes}
    return tuple(sorted(t for t in named if t is not None))


def _attack_flags(first: Trial, rows: Sequence[Row], clean: list[Trial]) -> tuple[str, ...]:
    if not first.attacked:
        return ()
    bare = next((r for r in rows if not r.defended and r.trials), None)
    goal = next((r.goal for r in rows if r.trials), "none")
    if goal == "availability":
        baseline = obs.mean(obs.accuracy(clean))
        if bare is None or bare.accuracy is None or baseline is None:
            return (flags.UNVERIFIED,)
        dead = flags.availability_is_dead(baseline, bare.accuracy.value)
        return (flags.DEAD,) if dead else ()
    if bare is None or bare.headline is None:
        return (flags.UNVERIFIED,)
    floor = bare.headline.floor
    dead = flags.attack_is_dead(bare.headline.success.value, floor)
    return ((flags.DEAD,) if dead else ()) + ((flags.NO_FLOOR,) if floor is None else ())


def _with_best(rows: Sequence[Row]) -> list[Row]:
    """Mark the best success and the best accuracy among the defenses with credit; ties share."""
    credited = [r for r in rows if r.credit and r.accuracy]
    top = max((r.accuracy.value for r in credited if r.accuracy), default=None)
    low = min((r.headline.success.value for r in credited if r.headline), default=None)
    marked = []
    for row in rows:
        best = set()
        if row.credit and row.accuracy and row.accuracy.value == top:
            best.add("accuracy")
        if row.credit and row.headline and row.headline.success.value == low:
            best.add("success")
        marked.append(dataclasses.replace(row, best=frozenset(best)))
    return marked


def _goal(group: Iterable[Trial]) -> str:
    """Goal of the trials; a trial that failed early may not have noted it."""
    return next((t.record.goal for t in group if t.record.goal != "none"), "none")


def _class_name(trial: Trial, target: int | None) -> str:
    names = trial.record.class_names
    name = names[target] if target is not None and target < len(names) else ""
    return "" if name == str(target) else name  # data whose classes are numbered


def _mean(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return fmean(known) if known else None
