"""The section ``trajectories`` of a study file: images that are followed through a purification."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import UnknownComponent, UsageError, nearest
from harness.core.params import (
    ComponentSpec,
    absent,
    complete,
    complete_dataset,
    complete_reference,
)
from harness.core.paths import check_name
from harness.core.protocols import ATTACKS, GENERATORS
from harness.core.registry import Parameter
from harness.core.values import Json, check_value

KEYS = {
    "name": "short name; the folder of what is written",
    "generator": "the network that purifies, as a defense has it",
    "energy": "an energy network that judges the images; default: the generator, if it is one",
    "dataset": "clean images; default: those of the study",
    "attack": "an attack with its target, whose poisons are followed",
    "trigger": "a published trigger, .npy, that is added to test images",
    "poisons": "the folder of an imported set of poisons",
    "eps_255": "bound of a trigger, or of the random pattern without any source; 8",
    "steps": "counts of steps at which to look",
    "temperature": "of the Langevin steps of an energy network; that of the paper",
    "count": "at most so many images; 128",
    "seed": "of noise, pattern and attack; 0",
}
SOURCES = ("attack", "trigger", "poisons")
_TYPES: dict[str, Any] = {
    "eps_255": int, "steps": tuple[int, ...], "temperature": float, "count": int, "seed": int,
    "trigger": Path, "poisons": Path,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class TrajectorySpec:
    """Clean and poisoned images, and the purification that both go through.

    Attributes:
        name: Of its folder.
        generator, energy: References to networks (see :mod:`harness.core.params`).
        dataset: Clean images.
        attack, trigger, poisons: At most one of them; without any, one random pattern of ±eps_255.
        eps_255: Bound of trigger and pattern in grey levels.
        steps: Where to look; None leaves it to the generator.
        temperature: Of Langevin steps; None is that of the paper.
        count: At most so many images.
        seed: Of noise, pattern and attack.
    """

    name: str
    generator: dict[str, Json]
    dataset: ComponentSpec
    energy: dict[str, Json] | None = None
    attack: ComponentSpec | None = None
    trigger: str | None = None
    poisons: str | None = None
    eps_255: int = 8
    steps: tuple[int, ...] | None = None
    temperature: float | None = None
    count: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("eps_255", 1), ("count", 2), ("seed", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} must be at least {least}; got {getattr(self, name)}.")
        if self.eps_255 > 255:
            raise UsageError(f"eps_255 is in grey levels, 1..255; got {self.eps_255}.")
        steps = self.steps
        if steps is not None and (not steps or min(steps) < 1 or len(set(steps)) < len(steps)):
            raise UsageError(f"steps are different integers from 1 on; got {list(steps)}.")
        if self.temperature is not None and not 0 < self.temperature < math.inf:
            raise UsageError(f"temperature must be a number above 0; got {self.temperature}.")

    def components(self) -> Iterator[tuple[str, str]]:
        """Yield role and name of each component; networks that are files have none."""
        yield "dataset", self.dataset.name
        if self.attack is not None:
            yield "attack", self.attack.name
        for network in (self.generator, self.energy or {}):
            if "name" in network:
                yield "generator", str(network["name"])

    def to_json(self) -> dict[str, Json]:
        """Return plain values."""
        attack = self.attack.to_json() if self.attack else None
        return {**asdict(self), "dataset": self.dataset.to_json(), "attack": attack}

    @classmethod
    def from_json(cls, raw: Mapping[str, Json]) -> TrajectorySpec:
        """Read them back."""
        attack, steps = raw["attack"], raw["steps"]
        given = {
            **raw,
            "dataset": ComponentSpec.from_json(raw["dataset"]),
            "attack": None if attack is None else ComponentSpec.from_json(attack),
            "steps": None if steps is None else tuple(steps),
        }
        return cls(**given)


def read_trajectories(raw: Mapping[str, Json], base: Path) -> tuple[TrajectorySpec, ...]:
    """Check the section, and fill in defaults.

    Args:
        raw: The study.
        base: Folder that relative paths start from.

    Raises:
        UsageError: For anything that cannot be used.
    """
    listed = raw["trajectories"]
    if not isinstance(listed, list) or not listed:
        raise UsageError(f"trajectories is a list of mappings; got {listed!r}.")
    found: dict[str, TrajectorySpec] = {}
    for index, given in enumerate(listed):
        where = f"trajectories[{index}]"
        if not isinstance(given, Mapping):
            raise UsageError(f"{where} is a mapping; got {given!r}.")
        shared = {"dataset": raw["dataset"]} if "dataset" in raw else {}
        spec = _read(shared | dict(given), where, base)
        if spec.name in found:
            raise UsageError(f"{where}: the name {spec.name!r} stands twice.")
        found[spec.name] = spec
    return tuple(found.values())


def _read(given: Mapping[str, Json], where: str, base: Path) -> TrajectorySpec:
    for key in given:
        if key not in KEYS:
            raise UnknownComponent(
                f"{where} has no key {key!r}.{nearest(key, KEYS)} Allowed: {', '.join(KEYS)}."
            )
    for key in ("name", "generator", "dataset"):
        if not given.get(key):
            raise UsageError(f"{where} needs {key!r}: {KEYS[key]}.")
    name = check_name(given["name"], f"{where}.name")
    sources = [key for key in SOURCES if given.get(key) is not None]
    if len(sources) > 1:
        raise UsageError(f"{where}: give one source of poisons; got {' and '.join(sources)}.")
    if "eps_255" in given and sources and sources != ["trigger"]:
        raise UsageError(
            f"{where}: eps_255 bounds a trigger or the random pattern; {sources[0]} has its own."
        )
    values: dict[str, Any] = {
        key: check_value(Parameter(key, kind, None, ""), given[key], f"{where}.{key}", base)
        for key, kind in _TYPES.items()
        if given.get(key) is not None
    }
    if "steps" in values:
        values["steps"] = tuple(values["steps"])
    energy = given.get("energy")
    parts: dict[str, Any] = {
        "generator": _generator(given["generator"], f"{where}.generator", base),
        "energy": None if energy is None else _generator(energy, f"{where}.energy", base),
        "dataset": complete_dataset(given["dataset"], f"{where}.dataset", base),
        "attack": _attack(given.get("attack"), f"{where}.attack", base),
    }
    try:
        return TrajectorySpec(name=name, **parts, **values)
    except UsageError as error:
        raise type(error)(f"{where}: {error}") from None


def _generator(raw: Json, where: str, base: Path) -> dict[str, Json]:
    """Check a reference to a generator of any kind."""
    wanted: type = object
    if not isinstance(raw, Mapping) or not {"path", "hub"} & set(raw):
        spec = complete(GENERATORS, raw, where, base, extra=("dataset", "seed"))
        wanted = GENERATORS.get(spec.name).factory.produces
    found: dict[str, Json] = complete_reference("generator", wanted, raw, where, base)
    return found


def _attack(raw: Json, where: str, base: Path) -> ComponentSpec | None:
    if raw is None:
        return None
    spec = complete(ATTACKS, raw, where, base)
    if spec.name == "none":
        raise UsageError(f"{where} must poison something; leave it out for a random pattern.")
    lacking = absent(ATTACKS.get(spec.name), spec)
    if lacking:
        raise UsageError(f"{where} ({spec.name}) needs {' and '.join(map(repr, lacking))}.")
    return spec
