"""Making the artefacts that trials need, wave by wave."""

from __future__ import annotations

import itertools
from collections.abc import Sequence, Set
from dataclasses import dataclass, field

from harness.core.params import ComponentSpec
from harness.core.spec import floor_id
from harness.execution import Executor
from harness.progress import Progress
from harness.study import Resources
from harness.units import Unit
from harness.work import make_unit
from harness.workshop import Workshop


@dataclass(frozen=True, slots=True)
class Lost:
    """What could not be made, and whom that hits.

    Attributes:
        doomed: Why some trials cannot run, by their ids.
        floors: By the id of a trial without an attack, what it cannot be judged on; see
            :func:`harness.core.spec.floor_id`.
    """

    doomed: dict[str, str] = field(default_factory=dict)
    floors: dict[str, set[str]] = field(default_factory=dict)

    def add(self, unit: Unit, wanted: Set[str], error: str) -> None:
        """Note that a unit could not be made."""
        for spec_id in unit.trials & wanted:
            if spec_id not in unit.beside:
                self.doomed.setdefault(spec_id, f"{unit.label}: {error}")
            elif unit.stage == "poisons":
                attack = ComponentSpec.from_json(unit.payload["attack"])
                name = floor_id(attack, unit.payload["seed"])
                self.floors.setdefault(spec_id, set()).add(name)


def make_units(
    units: Sequence[Unit],
    wanted: Set[str],
    workshop: Workshop,
    executor: Executor,
    resources: Resources,
    progress: Progress,
    errors: list[str],
) -> Lost:
    """Make what the store lacks and return what could not be made.

    Args:
        units: In the order of their waves.
        wanted: Ids of the trials to make them for.
        workshop: Knows what is there.
        executor: Where units are made.
        resources: What one unit may use.
        progress: Where to show what happens.
        errors: Is appended to.
    """
    lost = Lost()
    common = workshop.for_workers()
    missing = [left for u in units if (left := u.left(workshop, wanted))]
    progress.start("artefacts", len(missing))
    for _, wave in itertools.groupby(missing, key=lambda u: u.wave):
        ready = [u for u in wave if u.trials & (wanted - lost.doomed.keys())]
        payloads = [{**common, **u.payload} for u in ready]
        # Poisons and purified rows are many, and share networks; trainings are few.
        many = any(u.stage != "networks" for u in ready)
        run = executor.stream if many else executor.units
        for done in run(make_unit, payloads, resources):
            unit = ready[done.index]
            if not done.error:
                progress.advance(f"{unit.stage}: {unit.label}", done.seconds)
                continue
            first = done.error.split("\n", 1)[0]
            errors.append(f"{unit.label}: {first}")
            progress.advance(f"{unit.label} FAILED: {first}")
            # Snapshots before the failure are kept.
            lost.add(unit.left(workshop, wanted) or unit, wanted, done.error)
    return lost
