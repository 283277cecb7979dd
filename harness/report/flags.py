"""Which rows of the main table earn no credit, and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.report.trials import PairKey, Trial

DEAD_MARGIN = 0.10
"""An attack is alive above its clean floor plus this much success (a share)."""

DEAD_ACCURACY_LOSS = 0.05
"""An availability attack is alive when it costs at least this much natural accuracy (a share)."""

DEAD, NO_OP, UNVERIFIED, NO_FLOOR = "dead attack", "no-op", "unverified attack", "no clean floor"
ORACLE = "oracle"

NO_CREDIT = frozenset({DEAD, NO_OP, UNVERIFIED, ORACLE})
OF_ATTACK = frozenset({DEAD, UNVERIFIED, NO_FLOOR})
"""What every row of an attack says alike."""

EXPLANATIONS = {
    DEAD: (
        "Undefended success on the headline probe is not above its clean floor by more than "
        f"{100 * DEAD_MARGIN:.0f} points (availability attacks: natural accuracy falls by less "
        f"than {100 * DEAD_ACCURACY_LOSS:.0f} points). There is nothing to defend against, so no "
        "defense earns credit."
    ),
    NO_OP: (
        "The defense moved no pixel and dropped no row, and where the undefended twin of a trial "
        "was run, both trained to the very same result. It did nothing, so it earns no credit."
    ),
    UNVERIFIED: (
        "The attack was not run without a defense (or, for an availability attack, there is no "
        "clean training to compare with), so nothing shows that it is alive. No credit."
    ),
    ORACLE: (
        "It is told which rows are poisoned. It shows what a defense could reach at best, and is "
        "none that anybody can have, so it earns no credit."
    ),
    NO_FLOOR: (
        "No training without attack and defense judged this attack's probes; the clean floor is "
        "taken as 0 where the attack's life is judged."
    ),
}


def attack_is_dead(undefended: float, floor: float | None) -> bool:
    """Whether undefended success (a share) shows no more than a clean model does.

    >>> attack_is_dead(0.12, 0.02), attack_is_dead(0.13, 0.02), attack_is_dead(0.1, None)
    (True, False, True)
    """
    return undefended - (floor or 0.0) <= DEAD_MARGIN + 1e-12  # 0.12 - 0.02 > 0.10 in binary


def availability_is_dead(clean_accuracy: float, undefended_accuracy: float) -> bool:
    """Whether an availability attack leaves natural accuracy about where it was."""
    return clean_accuracy - undefended_accuracy < DEAD_ACCURACY_LOSS - 1e-12


def is_oracle(trial: Trial) -> bool:
    """Whether a trial's defense is told which rows are poisoned; False if it is not known."""
    spec = trial.record.spec.get("defense")
    name = spec.get("name") if isinstance(spec, dict) else spec
    return trial.facts.of("defense", str(name)).oracle


def is_no_op(trials: Iterable[Trial], undefended: Sequence[Trial]) -> bool:
    """Whether a defense did nothing in every finished trial.

    A defense that acts through a training hook leaves the pixels alone too. What tells it from one
    that did nothing is the training: with the same seeds it differs from the undefended twin's.

    Args:
        trials: Those of the defense under one attack.
        undefended: Those of the same attack without a defense.
    """
    twins = {_key(t): t for t in undefended if t.ok}
    finished = [t for t in trials if t.ok]
    return bool(finished) and all(_did_nothing(t, twins.get(_key(t))) for t in finished)


def _did_nothing(trial: Trial, twin: Trial | None) -> bool:
    move, rows = trial.record.movement, trial.record.curves.get("rows", [])
    if not trial.defended or move is None or not move.nothing_moved:
        return False
    if any(count != move.rows_out for count in rows):
        return False
    if twin is None:
        return trial.record.hooks == 0  # what a hook did shows only beside the twin
    return _result(trial) == _result(twin)


def _key(trial: Trial) -> PairKey:
    return trial.pair_key(trial.target)


def _result(trial: Trial) -> tuple[object, ...]:
    record = trial.record
    counts = tuple((o.probe, o.target, o.successes, o.correct) for o in record.outcomes)
    return record.curves.get("loss", []), record.test_correct, record.class_correct, counts
