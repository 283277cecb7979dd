"""One trajectory as a piece of work: measured into the store, written into a run's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from generative.hub import weights_folder
from generative.trajectory import from_arrays, to_arrays
from harness.artifacts import Made
from harness.core.device import pick_device, pick_dtype
from harness.core.files import file_digest, read_arrays, write_arrays, write_text
from harness.core.params import is_trained
from harness.core.values import Json
from harness.environment import environment
from harness.generator_tools import load_generator
from harness.generator_trajectory import Followed, follow
from harness.trajectory_files import ARRAYS, read_note, write_trajectory
from harness.trajectory_plan import Planned, identities, plan_one, poisoned_pair
from harness.trajectory_spec import TrajectorySpec
from harness.work import workshop_for
from harness.workshop import Workshop

ABOUT = "about.json"


@dataclass(frozen=True, slots=True)
class Measured:
    """A trajectory as the store has it.

    Attributes:
        done: The curves.
        about: By which networks, on which images, where.
        made: What that did cost, now or earlier.
    """

    done: Followed
    about: dict[str, Json]
    made: Made


def follow_trajectory(payload: dict[str, Json]) -> dict[str, Json]:
    """Measure a trajectory, unless the store has it, and write its folder.

    ``payload``: ``store``, ``device``, ``run`` (folder) and ``trajectory`` (its spec).
    """
    workshop = workshop_for(payload)
    planned = plan_one(TrajectorySpec.from_json(payload["trajectory"]), workshop)
    measured = measure(planned, workshop)
    note = {
        **measured.about,
        "name": planned.spec.name,
        "key": planned.identity,
        "spec": planned.spec.to_json(),
        "identities": identities(planned, workshop),
        "seed": planned.spec.seed,
        "temperature": planned.temperature,
        "seconds": measured.made.seconds,
        "peak_mib": measured.made.peak_mib,
    }
    done = measured.done
    folder = folder_of(Path(payload["run"]), planned.spec.name)
    write_trajectory(folder, done.found, done.unit, done.usual, note)
    return {"reused": measured.made.reused}


def folder_of(run: Path, name: str) -> Path:
    """Return where a run has a trajectory."""
    return run / "trajectories" / name


def is_written(run: Path, planned: Planned) -> bool:
    """Whether a run has the trajectory, whole and of the same networks, images and settings."""
    note = read_note(folder_of(run, planned.spec.name))
    return note is not None and note.get("key") == planned.identity


def measure(planned: Planned, workshop: Workshop) -> Measured:
    """Return what a trajectory measured: from the store, or now."""
    spec, device = planned.spec, pick_device(workshop.device)

    def make(folder: Path) -> None:
        model, about_it = _network(spec.generator, workshop)
        judge, about_judge = _network(spec.energy, workshop) if spec.energy else (model, None)
        clean, poisoned, what = poisoned_pair(spec, workshop)
        done = follow(
            model, judge, clean, poisoned, steps=planned.steps, temperature=planned.temperature,
            seed=spec.seed, device=device,
        )  # fmt: skip
        about = {
            "generator": about_it,
            "energy": about_judge,
            "dataset": spec.dataset.name,
            "poisons": what,
            "images": len(clean),
            "unit": done.unit,
            "usual": done.usual,
            "environment": environment(device, pick_dtype("auto", device)),
        }
        write_arrays(folder / ARRAYS, to_arrays(done.found))
        write_text(folder / ABOUT, json.dumps(about))

    def read(folder: Path) -> tuple[Followed, dict[str, Json]]:
        about = json.loads((folder / ABOUT).read_text())
        found = from_arrays(read_arrays(folder / ARRAYS))
        return Followed(found, about.pop("unit"), about.pop("usual")), about

    (done, about), made = workshop.store.recall(planned.key, make, read)
    return Measured(done, about, made)


def _network(reference: Mapping[str, Json], workshop: Workshop) -> tuple[Any, dict[str, Json]]:
    """Return a generator, and what it is: its kind, and the digest of its files."""
    if is_trained(reference):
        kind, model = str(reference["name"]), workshop.resource("generator", reference)
        path = workshop.store.bring(workshop.identity("generator", reference))
    else:
        path = weights_folder(reference)
        kind, model = load_generator(path, str(pick_device(workshop.device)))
    return model, {"kind": kind, "digest": file_digest(path)}
