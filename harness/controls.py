"""Trainings without an attack: each once, judged on the probes of every attack beside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from harness.core.spec import TrialSpec, attack_id, digest, floor_id


def once_each(controls: Iterable[TrialSpec]) -> list[TrialSpec]:
    """Return one trial per training, judged on what any of the given ones is judged on.

    Parts of a study that differ in their attacks have the same controls: trained and counted twice,
    these would pass for independent repetitions.

    Args:
        controls: Trials without an attack; their order decides that of trials and attacks.
    """
    poison: dict[str, int] = {}
    same: dict[str, list[TrialSpec]] = {}
    for one in controls:
        poison.setdefault(_repetition(one), one.seeds.poison)
        same.setdefault(_training(one), []).append(one)
    return [_judged_on_all(group, poison[_repetition(group[0])]) for group in same.values()]


def _repetition(control: TrialSpec) -> str:
    """Return the same for controls that reports pair, by poison seed too: they have one of it."""
    where = (control.dataset, control.scenario, control.classifier)
    return digest([*(component.to_json() for component in where), control.seeds.victim])


def _training(control: TrialSpec) -> str:
    """Return the same for equal trainings: no poison seed decides them, and without a defense no
    purification seed either.
    """
    purify = None if control.defense.name == "none" else control.seeds.purify
    return digest([_repetition(control), control.defense.to_json(), purify])


def _judged_on_all(group: Sequence[TrialSpec], poison: int) -> TrialSpec:
    floors = {floor_id(*floor): floor for one in group for floor in one.floors}
    attacks = {attack_id(attack): attack for attack, _ in floors.values()}
    seeds = dict.fromkeys((poison, *(seed for _, seed in floors.values())))
    one = replace(
        group[0], seeds=replace(group[0].seeds, poison=poison),
        floor_of=(), floor_seeds=(), floor_pairs=(),
    )  # fmt: skip
    if len(floors) < len(attacks) * len(seeds):  # not each attack under each seed
        return replace(one, floor_pairs=tuple(floors.values()))
    return replace(one, floor_of=tuple(attacks.values()), floor_seeds=tuple(seeds)[1:])
