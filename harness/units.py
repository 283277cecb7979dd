"""The artefacts that trials need, each once: networks, poisons, purified rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from harness.core.errors import DataError
from harness.core.params import ComponentSpec, networks
from harness.core.protocols import ATTACKS, CLASSIFIERS, DEFENSES
from harness.core.registry import Registry
from harness.core.spec import TrialSpec, digest
from harness.core.values import Json
from harness.labels import attack_label, label_of
from harness.snapshots import chain_of, snapshot_parameter
from harness.workshop import Workshop, best_of, is_rowwise

STAGES = ("networks", "tries", "poisons", "clean rows", "poisoned rows")

Key = dict[str, Json]
_MakeKey = Callable[[], Key]


@dataclass(frozen=True, slots=True)
class Unit:
    """One artefact that trials need, or several that one chain makes.

    Attributes:
        stage: Which of ``STAGES``: what kind of artefact it is.
        wave: Units of a wave need those of earlier waves, and none of their own.
        payload: What :func:`harness.work.make_unit` takes, without store and device.
        label: What to call it in progress lines.
        key: Its key in the store; None where it depends on what an earlier stage makes.
        trials: Ids of the trials that use it.
        beside: Those of them that can do without it: an attack's floor is lost, and no more.
        parts: The artefacts that one chain makes, each as a unit, the longest last; payload and key
            are those of the longest. Empty for a unit of one artefact.
    """

    stage: str
    wave: int
    payload: dict[str, Json]
    label: str
    key: Key | None
    trials: frozenset[str]
    parts: tuple[Unit, ...] = ()
    beside: frozenset[str] = frozenset()

    @property
    def purifies(self) -> bool:
        """Whether it is one of many that use the same networks."""
        return self.stage in ("clean rows", "poisoned rows")

    def there(self, workshop: Workshop) -> bool:
        """Whether the store has it; whoever then makes it says what is wrong with its parts."""
        if self.parts:
            return all(part.there(workshop) for part in self.parts)
        if self.key is not None:
            made = workshop.store.has(self.key)
            # Of a try nothing is left to learn once the best one is kept.
            return made or (self.stage == "tries" and workshop.store.has(best_of(self.key)))
        data, attack, defense = (
            ComponentSpec.from_json(self.payload[part]) for part in ("dataset", "attack", "defense")
        )
        clean, seed = workshop.dataset(data), self.payload["poison_seed"]
        if attack.name != "none" and not workshop.store.has(
            workshop.poison_key(clean, attack, seed)
        ):
            return False
        try:
            poisoned, _ = workshop.poisoned(clean, attack, seed)
        except DataError:
            return False
        return workshop.has_purified(clean, poisoned, defense, self.payload["seed"])

    def left(self, workshop: Workshop, wanted: Set[str]) -> Unit | None:
        """Return what of it these trials need and the store lacks; None for nothing."""
        if self.parts:
            parts = [part for part in self.parts if part.left(workshop, wanted)]
            return on_one_chain(parts) if parts else None
        return self if self.trials & wanted and not self.there(workshop) else None

    @property
    def passes(self) -> str:
        """What its chain passes, in words."""
        defense = ComponentSpec.from_json(self.payload["defense"])
        values = [_value(part) for part in self.parts]
        return f"{defense.name} {snapshot_parameter(defense)} {', '.join(map(str, values))}"


def on_one_chain(units: Sequence[Unit]) -> Unit:
    """Return units that differ in the parameter that grows along a chain as one unit."""
    if len(units) == 1:
        return units[0]
    *shorter, longest = sorted(units, key=_value)
    earlier = [_value(unit) for unit in shorter]
    return replace(
        longest,
        payload={**longest.payload, "earlier": earlier},
        label=f"{longest.label}, passing {', '.join(map(str, earlier))}",
        trials=longest.trials.union(*(unit.trials for unit in shorter)),
        parts=(*shorter, longest),
    )


def _value(unit: Unit) -> int:
    defense = ComponentSpec.from_json(unit.payload["defense"])
    value: int = defense.params[str(snapshot_parameter(defense))]
    return value


def _chain(unit: Unit) -> str:
    """Return the same for units that one chain makes, and for no others."""
    if not unit.purifies:
        return digest(unit.payload)
    defense = ComponentSpec.from_json(unit.payload["defense"])
    return digest({**unit.payload, "defense": chain_of(defense)})


def units_of(
    trials: Iterable[TrialSpec], workshop: Workshop, labels: Mapping[str, str]
) -> list[Unit]:
    """Return what the trials need, stage by stage; nothing is made."""
    needs = _Needs(workshop, labels)
    for trial in trials:
        needs.of(trial)
    return needs.units()


class _Needs:
    """Collects units by what they are; keys, which cost digests, are made once per unit."""

    def __init__(self, workshop: Workshop, labels: Mapping[str, str]) -> None:
        self.workshop, self.labels = workshop, labels
        self._found: dict[str, tuple[str, int, dict[str, Json], str, _MakeKey | None]] = {}
        self._trials: dict[str, set[str]] = {}  # that cannot do without
        self._beside: dict[str, set[str]] = {}
        self._who = ""  # id of the trial that is being looked at
        self._whose = self._trials  # to which of the two it goes

    def of(self, trial: TrialSpec) -> None:
        self._who, self._whose = trial.spec_id, self._trials
        self._networks(CLASSIFIERS, trial.classifier)
        if trial.attack.name != "none":
            self._poison(trial, trial.attack)
        if trial.defense.name != "none":
            self._purified(trial)
        self._whose = self._beside
        for attack, seed in trial.floors:
            self._poison(replace(trial, seeds=replace(trial.seeds, poison=seed)), attack)

    def units(self) -> list[Unit]:
        found = []
        for name, (stage, wave, payload, label, key) in self._found.items():
            needed, beside = self._trials.get(name, set()), self._beside.get(name, set())
            found.append(
                Unit(
                    stage, wave, payload, label, key() if key else None,
                    frozenset(needed | beside), beside=frozenset(beside - needed),
                )
            )  # fmt: skip
        chains: dict[str, list[Unit]] = {}
        for unit in found:
            chains.setdefault(_chain(unit), []).append(unit)
        merged = [on_one_chain(units) for units in chains.values()]
        return sorted(merged, key=lambda u: (u.wave, STAGES.index(u.stage)))

    def _add(self, stage: str, wave: int, label: str, key: _MakeKey | None, **what: Json) -> None:
        name = digest(what)
        self._found.setdefault(name, (stage, wave, what, label, key))
        self._whose.setdefault(name, set()).add(self._who)

    def _networks(self, registry: Registry[Any], spec: ComponentSpec) -> int:
        """Add the networks that a component needs, and return the wave after them."""
        needed = networks(registry.get(spec.name), spec)
        for reference in needed:
            kind, raw = reference.kind, reference.raw
            self._add(
                "networks", 0, f"{raw['name']} on {raw['dataset']['name']}",
                partial(self.workshop.identity, kind, raw),
                unit="resource", kind=kind, reference=raw,
            )  # fmt: skip
        return 1 if needed else 0

    def _poison(self, trial: TrialSpec, attack: ComponentSpec) -> None:
        wave = self._networks(ATTACKS, attack)
        data, seed = self.workshop.dataset(trial.dataset), trial.seeds.poison
        what = {"dataset": trial.dataset.to_json(), "attack": attack.to_json(), "seed": seed}
        tries = self.workshop.tries(attack)
        if tries > 1:
            for number in range(tries):
                self._add(
                    "tries", wave, f"{self._aimed(trial, attack)} try {number}",
                    partial(self.workshop.try_key, data, attack, seed, number),
                    unit="try", number=number, **what,
                )  # fmt: skip
            wave += 1
        self._add(
            "poisons", wave, self._aimed(trial, attack),
            partial(self.workshop.poison_key, data, attack, seed),
            unit="poison", **what,
        )  # fmt: skip

    def _purified(self, trial: TrialSpec) -> None:
        wave = self._networks(DEFENSES, trial.defense)
        seed = trial.seeds.purify
        base = {"dataset": trial.dataset.to_json(), "defense": trial.defense.to_json()}
        name = f"{label_of(trial.defense, self.labels)} seed {seed}"
        rowwise = is_rowwise(trial.defense)
        if rowwise:
            train = self.workshop.dataset(trial.dataset).train
            for index, rows in enumerate(self.workshop.blocks(train)):
                self._add(
                    "clean rows", wave, f"{name} block {index}",
                    partial(self.workshop.purify_key, rows, trial.defense, seed),
                    unit="block", seed=seed, block=index, **base,
                )  # fmt: skip
        if not rowwise or trial.attack.name != "none":
            self._add(
                "poisoned rows", 3, f"{name} of {self._aimed(trial, trial.attack)}",
                None,
                unit="changed", attack=trial.attack.to_json(), poison_seed=trial.seeds.poison,
                seed=seed, **base,
            )  # fmt: skip

    def _aimed(self, trial: TrialSpec, attack: ComponentSpec) -> str:
        field = ATTACKS.get(attack.name).factory.target_field
        target = f" target {attack.params[field]}" if field else ""
        return f"{attack_label(attack, self.labels)}{target} seed {trial.seeds.poison}"
