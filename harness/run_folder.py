"""The folder of a run: what it says of its study, and whether a later call may go on with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.core.errors import DataError, UsageError
from harness.core.facts import facts_json
from harness.core.files import write_text
from harness.core.params import ComponentSpec
from harness.core.paths import check_writable
from harness.core.protocols import ATTACKS, CLASSIFIERS, DEFENSES
from harness.core.registry import Registry
from harness.core.spec import PROTOCOL, digest
from harness.core.values import Json
from harness.labels import label_of, names_of
from harness.plan import Plan
from harness.run_sessions import KEY
from harness.study import StudySpec
from harness.workshop import Workshop

_ROLES = ("dataset", "scenario", "attack", "defense", "classifier")

FREE = ("title", "resources")  # keys of a study that decide no number, and may change


def describe_run(
    study: StudySpec, plan: Plan, workshop: Workshop, command: str, *, partial: bool
) -> dict[str, Json]:
    """Return what ``study.json`` is to say."""
    return {
        "name": study.name,
        "title": study.title,
        "study": study.raw,
        "overrides": list(study.overrides),
        "command": command,
        "partial": partial,
        "protocol": PROTOCOL,
        "inputs": _inputs(study, workshop),
        "components": facts_json((r, getattr(t, r).name) for t in plan.trials for r in _ROLES),
        "trials": [
            {"spec_id": t.spec_id, "labels": names_of(t, study.labels)} for t in plan.trials
        ],
    }


def _inputs(study: StudySpec, workshop: Workshop) -> dict[str, str]:
    """Return digests of what the study's words stand for: images, weights, the components' code.

    A path does not tell when the file behind it becomes another one, nor a name its code.
    """
    found = {}
    for spec in study.datasets:
        data = workshop.dataset(spec)
        found[f"dataset {label_of(spec, study.labels)}"] = digest(
            [data.train.digest, data.test.digest]
        )
    groups: list[tuple[Registry[Any], tuple[ComponentSpec, ...]]] = [
        (ATTACKS, study.attacks), (DEFENSES, study.defenses), (CLASSIFIERS, study.classifiers),
    ]  # fmt: skip
    for registry, group in groups:
        for spec in group:
            identity = workshop.component_identity(registry.get(spec.name), spec)
            found[f"{registry.kind} {label_of(spec, study.labels)}"] = digest(identity)
    return found


def check_run(run: Path, described: dict[str, Json]) -> None:
    """Check that a run can be kept in a folder; write nothing.

    Raises:
        UsageError: If the folder cannot be written, or holds a run of something else; says of what.
    """
    check_writable(run, "run folder")
    path = run / "study.json"
    if not path.exists():
        return
    try:
        earlier = json.loads(path.read_text())
        if "trajectories" in earlier:
            raise UsageError(f"{str(run)!r} holds trajectories, no trials. Give another --out.")
        differing = _differing(earlier, json.loads(json.dumps(described)))
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise DataError(f"{str(path)!r} is damaged: {error}; give another --out.") from error
    if differing:
        raise UsageError(
            f"{str(run)!r} holds a run of something else: {differing}. "
            "Give another --out, or the same study to go on with it."
        )


def _differing(earlier: dict[str, Json], now: dict[str, Json]) -> str:
    """Return what keeps a run from being gone on with, or ""."""
    before, after = earlier["study"], now["study"]
    keys = [k for k in sorted({*before, *after}) if before.get(k) != after.get(k)]
    keys = [k for k in keys if k not in FREE]
    if keys:
        return f"{', '.join(keys)} of the study differ"
    if earlier["protocol"] != now["protocol"]:
        return f"its protocol is {earlier['protocol']}, and this version's is {now['protocol']}"
    others = [k for k, v in now["inputs"].items() if earlier["inputs"].get(k) != v]
    if others:
        return f"{', '.join(others)} changed: the code, or a file that it reads"
    ids = [[t["spec_id"] for t in run["trials"]] for run in (earlier, now)]
    if any(a != b for a, b in zip(*ids, strict=False)):  # one may be longer: --limit
        return "its trials differ, by a default or by where a path of the study leads"
    return ""


def open_run(run: Path, described: dict[str, Json]) -> None:
    """Write what the run is of into its folder, and keep what stands there of earlier calls.

    Raises:
        UsageError: If the folder cannot be written.
    """
    path = run / "study.json"
    try:
        earlier = json.loads(path.read_text()) if path.exists() else {}
        said = {**described, **({KEY: earlier[KEY]} if KEY in earlier else {})}
        write_text(path, json.dumps(said, indent=1, sort_keys=True) + "\n")
    except OSError as error:
        raise UsageError(f"run folder {str(run)!r} cannot be written: {error.strerror}.") from error
