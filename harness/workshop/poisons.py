"""Poisons, each crafted once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.artifacts import Made
from harness.core.data import Dataset, PoisonedSet
from harness.core.errors import UsageError
from harness.core.files import read_arrays, write_arrays
from harness.core.params import ComponentSpec
from harness.core.protocols import ATTACKS, Restarted
from harness.core.seeds import stream
from harness.core.spec import digest
from harness.core.values import Json
from harness.poisons import check_poison, pack, unpack
from harness.recent import Recent
from harness.workshop.networks import Networks

KEPT_POISONED_SETS = 4


@dataclass
class Poisons(Networks):
    """One process's access to poisons, and to what crafting them needs."""

    _poisoned: Recent[tuple[PoisonedSet, Made]] = field(
        default_factory=lambda: Recent(KEPT_POISONED_SETS)
    )

    def poison_key(self, data: Dataset, attack: ComponentSpec, seed: int) -> dict[str, Json]:
        """Return the key of an attack's poisons on a dataset."""
        return self.store.key(
            "poison",
            {
                "attack": self.component_identity(ATTACKS.get(attack.name), attack),
                "train": data.train.digest,
                "test": data.test.digest,
                "seed": seed,
            },
        )

    def poisoned(self, data: Dataset, attack: ComponentSpec, seed: int) -> tuple[PoisonedSet, Made]:
        """Return the poisoned set of an attack: from memory, the store, or crafted now."""
        if attack.name == "none":
            crafted = self.component(ATTACKS, attack).poison(data.train, data.test, stream(seed))
            return crafted, Made(False, 0.0)
        key = self.poison_key(data, attack, seed)

        def make(folder: Path) -> None:
            build = self.component(ATTACKS, attack)
            if self.tries(attack) > 1:
                numbers = range(build.tries())
                crafted = build.best([self.attempt(data, attack, seed, n)[0] for n in numbers])
            else:
                crafted = build.poison(data.train, data.test, stream(seed, "attack"))
            try:
                check_poison(data.train, crafted, build.bounds(data.train))
            except UsageError as error:
                raise type(error)(f"attack {attack.name!r}: {error}") from None
            write_arrays(folder / "poison.npz", pack(crafted))

        def read(folder: Path) -> PoisonedSet:
            return unpack(read_arrays(folder / "poison.npz"), data.train)

        name = digest(key)
        there = name in self._poisoned
        crafted, made = self._poisoned.get(name, lambda: self.store.recall(key, make, read))
        return crafted, replace(made, reused=made.reused or there)

    def tries(self, attack: ComponentSpec) -> int:
        """Return how many times an attack tries, each a unit of work; 1 for most."""
        if not issubclass(ATTACKS.get(attack.name).factory, Restarted):
            return 1
        build: Restarted = self.component(ATTACKS, attack, check=True)
        return build.tries()

    def attempt(
        self, data: Dataset, attack: ComponentSpec, seed: int, number: int
    ) -> tuple[PoisonedSet, Made]:
        """Return one try of an attack that tries several times."""

        def make(folder: Path) -> None:
            build = self.component(ATTACKS, attack)
            rng = stream(seed, "attack")
            crafted = build.attempt(data.train, data.test, rng, number)
            write_arrays(folder / "poison.npz", pack(crafted))

        def read(folder: Path) -> PoisonedSet:
            return unpack(read_arrays(folder / "poison.npz"), data.train)

        return self.store.recall(self.try_key(data, attack, seed, number), make, read)

    def try_key(
        self, data: Dataset, attack: ComponentSpec, seed: int, number: int
    ) -> dict[str, Json]:
        """Return the key of one try."""
        return {**self.poison_key(data, attack, seed), "kind": "try", "number": number}


def best_of(try_key: dict[str, Json]) -> dict[str, Json]:
    """Return the key of the poisons that a try is one of."""
    return {k: v for k, v in try_key.items() if k != "number"} | {"kind": "poison"}
