"""What an executor runs: plain payloads in, plain results out, everything else through files.

These functions are the same in this process and in a worker on another node.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from harness.artifacts import Made, Store
from harness.core.files import write_arrays, write_text
from harness.core.params import ComponentSpec
from harness.core.spec import TrialSpec
from harness.core.values import Json
from harness.trial import run_trial
from harness.workshop import Workshop


@cache
def workshop_of(store: str, device: str) -> Workshop:
    """Return this process's workshop: what it has read stays for the next piece of work."""
    return Workshop(Store(Path(store)), device)


def make_unit(payload: dict[str, Json]) -> dict[str, Json]:
    """Make one artefact that trials need, so that the store has it.

    ``payload``: ``store``, ``device``, ``unit`` (resource, try, poison, block or changed) and the
    arguments of that unit.
    """
    workshop = workshop_of(payload["store"], payload["device"])
    made = _UNITS[payload["unit"]](workshop, payload)
    return {"reused": made.reused, "seconds": made.seconds}


def _resource(workshop: Workshop, payload: dict[str, Json]) -> Made:
    return workshop.prepare(payload["kind"], payload["reference"]) or Made(True, 0.0)


def _poison(workshop: Workshop, payload: dict[str, Json]) -> Made:
    data = workshop.dataset(ComponentSpec.from_json(payload["dataset"]))
    attack = ComponentSpec.from_json(payload["attack"])
    return workshop.poisoned(data, attack, payload["seed"])[1]


def _try(workshop: Workshop, payload: dict[str, Json]) -> Made:
    data = workshop.dataset(ComponentSpec.from_json(payload["dataset"]))
    attack = ComponentSpec.from_json(payload["attack"])
    return workshop.attempt(data, attack, payload["seed"], payload["number"])[1]


def _block(workshop: Workshop, payload: dict[str, Json]) -> Made:
    data = workshop.dataset(ComponentSpec.from_json(payload["dataset"]))
    defense = ComponentSpec.from_json(payload["defense"])
    return workshop.purify_block(data, defense, payload["seed"], payload["block"])


def _changed(workshop: Workshop, payload: dict[str, Json]) -> Made:
    data = workshop.dataset(ComponentSpec.from_json(payload["dataset"]))
    attack = ComponentSpec.from_json(payload["attack"])
    poisoned, _ = workshop.poisoned(data, attack, payload["poison_seed"])
    defense = ComponentSpec.from_json(payload["defense"])
    return workshop.purified(data, poisoned, defense, payload["seed"])[1]


_UNITS = {
    "resource": _resource, "try": _try, "poison": _poison, "block": _block, "changed": _changed,
}  # fmt: skip


def do_trial(payload: dict[str, Json]) -> dict[str, Json]:
    """Run one trial and write its record and pictures into the run's folder, atomically.

    ``payload``: ``store``, ``device``, ``run`` (folder), ``trial`` (spec), ``labels`` (short names
    of attacks by id), ``names`` (short names by role) and ``partial``.
    """
    workshop = workshop_of(payload["store"], payload["device"])
    spec = TrialSpec.from_json(payload["trial"])
    result = run_trial(spec, workshop, payload["labels"])
    values: dict[str, Any] = {"labels": payload["names"], "partial": payload["partial"]}
    record = result.record.with_values(**values)
    run = Path(payload["run"])
    write_arrays(samples_path(run, spec.spec_id), result.samples)
    write_text(record_path(run, spec.spec_id), record.to_json())  # last: it says that all is there
    return {"spec_id": spec.spec_id}


def record_path(run: Path, spec_id: str) -> Path:
    """Return where a trial's record is, or will be."""
    return run / "records" / f"{spec_id}.json"


def samples_path(run: Path, spec_id: str) -> Path:
    """Return where a trial's pictures are, or will be."""
    return run / "samples" / f"{spec_id}.npz"
