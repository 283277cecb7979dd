"""Trial specs: everything that decides a trial's numbers, as plain values with a hash."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.core.values import Json

if TYPE_CHECKING:
    from harness.core.params import ComponentSpec

PROTOCOL = "0.1"  # records under the same one are comparable; see CHANGELOG.md


def digest(value: Json) -> str:
    """Return the SHA-256 of a plain value in its canonical JSON form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Seeds:
    """One seed per source of variance, so that their shares can be told apart."""

    poison: int = 0
    purify: int = 0
    victim: int = 0


@dataclass(frozen=True, slots=True)
class TrialSpec:
    """One training: which data, attack, defense, classifier, target and seeds.

    Attributes:
        dataset, attack, defense, classifier: Components with all their parameters; a classifier
            may name the weights it starts from.
        scenario: How the victim comes to its weights.
        seeds: Of poison, purification and victim.
        target: The attacked target, for tables; the attack's own parameter holds it too.
        floor_of: Attacks whose probes a trial without an attack is tested on as well.
        floor_seeds: Further poison seeds of these attacks: no training without an attack depends on
            such a seed, so one is tested on the probes of all.
        floor_pairs: Attacks with a poison seed each, instead of the two above, where parts of a
            study have attacks under different poison seeds.
    """

    dataset: ComponentSpec
    scenario: ComponentSpec
    attack: ComponentSpec
    defense: ComponentSpec
    classifier: ComponentSpec
    seeds: Seeds
    target: int | None = None
    floor_of: tuple[ComponentSpec, ...] = ()
    floor_seeds: tuple[int, ...] = ()
    floor_pairs: tuple[tuple[ComponentSpec, int], ...] = ()

    @property
    def floors(self) -> tuple[tuple[ComponentSpec, int], ...]:
        """Attacks and poison seeds on whose probes a trial without an attack is tested as well."""
        seeds = (self.seeds.poison, *self.floor_seeds)
        return (*itertools.product(self.floor_of, seeds), *self.floor_pairs)

    def to_json(self) -> dict[str, Json]:
        """Return the spec as plain values."""
        pairs = [[attack.to_json(), seed] for attack, seed in self.floor_pairs]
        return {
            "dataset": self.dataset.to_json(),
            "scenario": self.scenario.to_json(),
            "attack": self.attack.to_json(),
            "defense": self.defense.to_json(),
            "classifier": self.classifier.to_json(),
            "seeds": {
                "poison": self.seeds.poison,
                "purify": self.seeds.purify,
                "victim": self.seeds.victim,
            },
            "target": self.target,
            "floor_of": [a.to_json() for a in self.floor_of],
            **({"floor_seeds": list(self.floor_seeds)} if self.floor_seeds else {}),
            **({"floor_pairs": pairs} if pairs else {}),
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> TrialSpec:
        """Read a spec back; ``from_json(to_json(s)) == s``."""
        from harness.core.params import ComponentSpec  # with torch, which a report does without

        roles = ("dataset", "scenario", "attack", "defense", "classifier")
        return cls(
            **{role: ComponentSpec.from_json(raw[role]) for role in roles},
            seeds=Seeds(**raw["seeds"]),
            target=raw["target"],
            floor_of=tuple(ComponentSpec.from_json(a) for a in raw["floor_of"]),
            floor_seeds=tuple(raw.get("floor_seeds", ())),
            floor_pairs=tuple(
                (ComponentSpec.from_json(a), seed) for a, seed in raw.get("floor_pairs", ())
            ),
        )

    @property
    def spec_id(self) -> str:
        """Hash of the spec and the protocol: 12 hexadecimal digits."""
        return digest({"protocol": PROTOCOL, "trial": self.to_json()})[:12]


def attack_id(attack: ComponentSpec) -> str:
    """Return the hash by which a record tells whose probes an outcome is of."""
    return digest(attack.to_json())[:12]


def floor_id(attack: ComponentSpec, seed: int) -> str:
    """Return what a record calls the probes of an attack under a poison seed."""
    return f"{attack_id(attack)}/{seed}"
