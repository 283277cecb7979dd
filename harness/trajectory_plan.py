"""From a study's trajectories to work: each checked, with its identity and what it needs first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import generative.trajectory
from defenses._purify import check_ddpm_takes
from generative.ddpm import Diffusion
from generative.ebm import EBM, check_energy_takes
from generative.hub import weights_folder
from harness.core.code import code_digest
from harness.core.errors import UsageError
from harness.core.files import file_digest
from harness.core.params import ComponentSpec, construct, is_trained, networks
from harness.core.protocols import ATTACKS, GENERATORS
from harness.core.spec import digest
from harness.core.values import Json
from harness.generator_tools import load_generator
from harness.generator_trajectory import check_temperature, used_temperature, usual_steps
from harness.plan import check_attack
from harness.study import StudySpec
from harness.trajectory_poisons import Pair, rows_of_attack, rows_of_poisons, rows_with_pattern
from harness.trajectory_spec import TrajectorySpec
from harness.workshop import Workshop


@dataclass(frozen=True, slots=True)
class Planned:
    """A trajectory that can be made.

    Attributes:
        spec: What was asked for.
        kind: Name of the generator.
        steps: Where to look.
        temperature: Of Langevin steps, or None.
        key: Of what is measured, in the store: everything that it depends on.
    """

    spec: TrajectorySpec
    kind: str
    steps: tuple[int, ...]
    temperature: float | None
    key: dict[str, Json]

    @property
    def identity(self) -> str:
        """The hash of the key."""
        return digest(self.key)


@dataclass(frozen=True, slots=True)
class Need:
    """Something that trajectories need, and a store may have.

    Attributes:
        stage: ``networks`` or ``poisons``; poisons need networks.
        label: What to call it.
        payload: What :func:`harness.work.make_unit` takes, without store and device.
        key: Its key in the store.
    """

    stage: str
    label: str
    payload: dict[str, Json]
    key: dict[str, Json]


@dataclass(frozen=True, slots=True)
class _Network:
    """A generator before it is there: its name, what it is, and what it can take."""

    name: str
    produces: type
    horizon: int | None
    model: Any = None


def plan_trajectories(study: StudySpec, workshop: Workshop) -> tuple[Planned, ...]:
    """Check a study's trajectories; nothing is made.

    Raises:
        UsageError: For the first that cannot be followed, with its name and the reason.
    """
    found = []
    for spec in study.trajectories:
        try:
            found.append(plan_one(spec, workshop))
        except UsageError as error:
            raise type(error)(f"trajectory {spec.name!r}: {error}") from None
    return tuple(found)


def plan_one(spec: TrajectorySpec, workshop: Workshop) -> Planned:
    """Check one trajectory (see :func:`plan_trajectories`)."""
    data = workshop.dataset(spec.dataset)
    network = _network(spec.generator, workshop)
    judge = None if spec.energy is None else _network(spec.energy, workshop)
    if judge is not None and not issubclass(judge.produces, EBM):
        raise UsageError(f"energy must be an energy network; {judge.name!r} makes another one.")
    steps = spec.steps or usual_steps(network.horizon)
    if network.horizon is not None and max(steps) > network.horizon:
        raise UsageError(
            f"the generator's horizon is {network.horizon} time steps; {max(steps)} are too many."
        )
    check_temperature(network.produces, spec.temperature)
    for images in (data.train, data.test):
        for found in (network, judge):
            if found is not None and issubclass(found.produces, EBM):
                check_energy_takes(found.model, images.image_shape)
        if not issubclass(network.produces, EBM):
            check_ddpm_takes(network.model, Diffusion(steps=max(steps)), images)
    if spec.attack is not None:
        check_attack(spec.attack, data, workshop)
    else:
        poisoned_pair(spec, workshop)
    temperature = used_temperature(network.produces, spec.temperature)
    key = _key(spec, tuple(sorted(steps)), temperature, workshop)
    return Planned(spec, network.name, tuple(sorted(steps)), temperature, key)


def poisoned_pair(spec: TrajectorySpec, workshop: Workshop) -> Pair:
    """Return the clean images, the same ones poisoned, and what the poison is."""
    data = workshop.dataset(spec.dataset)
    if spec.attack is not None:
        return rows_of_attack(data, spec.attack, spec.seed, spec.count, workshop)
    if spec.poisons is not None:
        return rows_of_poisons(data, Path(spec.poisons), spec.count)
    trigger = None if spec.trigger is None else Path(spec.trigger)
    return rows_with_pattern(data, trigger, spec.eps_255, spec.count, spec.seed)


def _network(reference: dict[str, Json], workshop: Workshop) -> _Network:
    if not is_trained(reference):
        name, model = load_generator(weights_folder(reference))
        return _Network(name, type(model), getattr(model, "horizon", None), model)
    workshop.check_trained("generator", reference)
    name = reference["name"]
    own = {k: v for k, v in reference.items() if k not in ("dataset", "seed")}
    generator = construct(GENERATORS, ComponentSpec.from_json(own), {})
    horizon = getattr(generator.recipe, "horizon", None)
    return _Network(name, GENERATORS.get(name).factory.produces, horizon)


def _key(
    spec: TrajectorySpec, steps: tuple[int, ...], temperature: float | None, workshop: Workshop
) -> dict[str, Json]:
    data = workshop.dataset(spec.dataset)
    return workshop.store.key(
        "trajectory",
        {
            "code": code_digest(Path(generative.trajectory.__file__), "generative.trajectory"),
            "generator": workshop.identity("generator", spec.generator),
            "energy": None if spec.energy is None else workshop.identity("generator", spec.energy),
            "train": data.train.digest,
            "test": data.test.digest,
            "poison": _poison_identity(spec, workshop),
            "steps": list(steps),
            "temperature": temperature,
            "count": spec.count,
            "seed": spec.seed,
        },
    )


def _poison_identity(spec: TrajectorySpec, workshop: Workshop) -> Json:
    if spec.attack is not None:
        data = workshop.dataset(spec.dataset)
        return workshop.poison_key(data, spec.attack, spec.seed)
    if spec.poisons is not None:
        return {"poisons": file_digest(Path(spec.poisons))}
    trigger = None if spec.trigger is None else file_digest(Path(spec.trigger))
    return {"trigger": trigger, "eps_255": spec.eps_255}


def identities(planned: Planned, workshop: Workshop) -> dict[str, str]:
    """Return digests of what the words of a trajectory stand for, as a study's ``inputs`` are."""
    spec, key = planned.spec, planned.key
    found = {
        "dataset": digest([key["train"], key["test"]]),
        "generator": digest(key["generator"]),
        "poison": digest(key["poison"]),
    }
    if spec.energy is not None:
        found["energy"] = digest(key["energy"])
    if spec.attack is not None:
        entry = ATTACKS.get(spec.attack.name)
        found["attack"] = digest(workshop.component_identity(entry, spec.attack))
    return found


def needs_of(planned: tuple[Planned, ...], workshop: Workshop) -> list[Need]:
    """Return what trajectories need, each thing once: networks first, then poisons."""
    listed = [need for one in planned for need in _needs(one.spec, workshop)]
    once = {digest(need.key): need for need in listed}
    return sorted(once.values(), key=lambda need: need.stage)


def _needs(spec: TrajectorySpec, workshop: Workshop) -> Iterator[Need]:
    wanted = [("generator", r) for r in (spec.generator, spec.energy) if r and is_trained(r)]
    if spec.attack is not None:
        entry = ATTACKS.get(spec.attack.name)
        wanted += [(r.kind, r.raw) for r in networks(entry, spec.attack)]
    for kind, raw in wanted:
        payload = {"unit": "resource", "kind": kind, "reference": raw}
        yield Need("networks", str(raw["name"]), payload, workshop.identity(kind, raw))
    if spec.attack is not None:
        data = workshop.dataset(spec.dataset)
        own: dict[str, Json] = {
            "unit": "poison", "dataset": spec.dataset.to_json(), "attack": spec.attack.to_json(),
            "seed": spec.seed,
        }  # fmt: skip
        key = workshop.poison_key(data, spec.attack, spec.seed)
        yield Need("poisons", spec.attack.name, own, key)
