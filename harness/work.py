"""What an executor runs: plain payloads in, plain results out, everything else through files.

These functions are the same in this process and in a worker on another node.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness.artifacts import Made
from harness.core.errors import DataError
from harness.core.files import write_arrays, write_text
from harness.core.params import ComponentSpec
from harness.core.records import TrialRecord
from harness.core.spec import TrialSpec
from harness.core.values import Json
from harness.execution import described
from harness.remote_store import open_store
from harness.together import run_together
from harness.workshop import Outline, Workshop

logger = logging.getLogger(__name__)


@lru_cache(maxsize=1)  # what was read for an earlier run is freed
def workshop_of(store: str, device: str, session: str = "") -> Workshop:
    """Return this process's workshop: what it has read stays for the next piece of work.

    That of another session is another one: between two runs, files may have changed.
    """
    return Workshop(open_store(store), device, session=session)


def workshop_for(payload: Mapping[str, Json]) -> Workshop:
    """Return this process's workshop, which then knows what the driver told of datasets.

    ``payload``: among others, what :meth:`harness.workshop.Workshop.for_workers` gives.
    """
    workshop = workshop_of(payload["store"], payload["device"], payload.get("session", ""))
    for name, outline in payload.get("outlines", {}).items():
        workshop.outlines.setdefault(name, Outline.from_json(outline))
    return workshop


def make_unit(payload: dict[str, Json]) -> dict[str, Json]:
    """Make one artefact that trials need, so that the store has it.

    ``payload``: what :func:`workshop_for` takes, ``unit`` (resource, try, poison, block or
    changed) and the arguments of that unit.
    """
    workshop = workshop_for(payload)
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
    earlier = payload.get("earlier", ())
    return workshop.purify_block(data, defense, payload["seed"], payload["block"], earlier)


def _changed(workshop: Workshop, payload: dict[str, Json]) -> Made:
    data = workshop.dataset(ComponentSpec.from_json(payload["dataset"]))
    attack = ComponentSpec.from_json(payload["attack"])
    poisoned, _ = workshop.poisoned(data, attack, payload["poison_seed"])
    defense = ComponentSpec.from_json(payload["defense"])
    earlier = payload.get("earlier", ())
    return workshop.purified(data, poisoned, defense, payload["seed"], earlier)[1]


_UNITS = {
    "resource": _resource, "try": _try, "poison": _poison, "block": _block, "changed": _changed,
}  # fmt: skip


def do_trials(payload: dict[str, Json]) -> dict[str, Json]:
    """Run trials and write their records and pictures into the run's folder, atomically.

    ``payload``: what :func:`workshop_for` takes, ``run`` (folder), ``partial``, and ``trials``: for
    each its ``trial`` (spec), ``labels`` (short names of attacks by id), ``names`` (by role) and
    ``without`` (see :func:`harness.trial.prepare`). Returns ``errors``: what trials failed with, by
    spec id.
    """
    workshop = workshop_for(payload)
    run, trials = Path(payload["run"]), payload["trials"]
    specs = [TrialSpec.from_json(each["trial"]) for each in trials]
    going = [i for i, s in enumerate(specs) if not settled(run, s.spec_id)]  # after a crash
    specs, trials = [specs[i] for i in going], [trials[i] for i in going]
    errors: dict[str, Json] = {}
    kept = [checkpoint_path(run, spec.spec_id) for spec in specs]
    labels = [each["labels"] for each in trials]
    without = [frozenset(each.get("without", ())) for each in trials]
    for place, result in run_together(specs, workshop, labels, kept, without):
        spec_id = specs[place].spec_id
        if isinstance(result, BaseException):
            errors[spec_id] = described(result)
            del result  # its frames hold the memory of the trial, which the next one needs
            continue
        names: dict[str, Any] = {"labels": trials[place]["names"], "partial": payload["partial"]}
        record = result.record.with_values(**names)
        write_arrays(samples_path(run, spec_id), result.samples)
        write_text(record_path(run, spec_id), record.to_json())  # last: it says that all is there
        kept[place].unlink(missing_ok=True)
    return {"errors": errors}


def finished(run: Path, spec_id: str) -> TrialRecord | None:
    """Return the good record of a trial; a failed or damaged one is run again."""
    path = record_path(run, spec_id)
    if not path.exists():
        return None
    try:
        record = TrialRecord.read(path)
    except DataError as error:
        logger.warning("%s; the trial runs again", error)
        return None
    return record if record.status == "ok" and record.spec_id == spec_id else None


def settled(run: Path, spec_id: str) -> bool:
    """Whether a trial has a good record to which nothing can be added."""
    record = finished(run, spec_id)
    return record is not None and not record.unjudged


def record_path(run: Path, spec_id: str) -> Path:
    """Return where a trial's record is, or will be."""
    return run / "records" / f"{spec_id}.json"


def samples_path(run: Path, spec_id: str) -> Path:
    """Return where a trial's pictures are, or will be."""
    return run / "samples" / f"{spec_id}.npz"


def checkpoint_path(run: Path, spec_id: str) -> Path:
    """Return where a trial's training is kept while it lasts."""
    return run / "checkpoints" / f"{spec_id}.safetensors"
