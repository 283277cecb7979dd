"""Making the artefacts that trials need, wave by wave."""

from __future__ import annotations

import itertools
from collections.abc import Sequence, Set

from harness.core.values import Json
from harness.execution import Executor
from harness.progress import Progress
from harness.study import Resources
from harness.units import Unit
from harness.work import make_unit
from harness.workshop import Workshop


def make_units(
    units: Sequence[Unit],
    wanted: Set[str],
    workshop: Workshop,
    executor: Executor,
    resources: Resources,
    progress: Progress,
    errors: list[str],
) -> dict[str, str]:
    """Make what the store lacks and return, by id, why some trials cannot run.

    Args:
        units: In the order of their waves.
        wanted: Ids of the trials to make them for; a unit that fails dooms those that need it.
        workshop: Knows what is there.
        executor: Where units are made.
        resources: What one unit may use.
        progress: Where to show what happens.
        errors: Is appended to.
    """
    doomed: dict[str, str] = {}
    common: dict[str, Json] = {"store": workshop.store.address, "device": workshop.device}
    missing = [left for u in units if (left := u.left(workshop, wanted))]
    progress.start("artefacts", len(missing))
    for _, wave in itertools.groupby(missing, key=lambda u: u.wave):
        ready = [u for u in wave if u.trials & (wanted - doomed.keys())]
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
            lost = unit.left(workshop, wanted) or unit  # snapshots before the failure are kept
            for spec_id in lost.trials & wanted:
                doomed.setdefault(spec_id, f"{unit.label}: {done.error}")
    return doomed
