"""Trained generators: which there are, and what one is.

A generator is given by the folder, or the weights file, that a study refers to with ``path``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from generative.hub import weights_folder
from harness import sweeps
from harness.artifacts import LABEL, Store
from harness.core.data import Dataset, ImageSet
from harness.core.errors import DataError, UsageError
from harness.core.files import file_digest
from harness.core.params import ComponentSpec, Reference, is_trained, references
from harness.core.protocols import ATTACKS, DEFENSES, GENERATORS
from harness.core.records import TrialRecord
from harness.core.registry import Entry
from harness.core.spec import digest
from harness.core.values import Json
from harness.interop.commands import load_dataset
from harness.study import StudySpec
from harness.workshop import Workshop

CONFIG = "config.json"


def list_generators(store: Store) -> list[dict[str, Json]]:
    """Return what is known of each trained generator: those in a store, and those shipped.

    One that cannot be read is listed with its ``error``.
    """
    in_store = sorted(label.parent for label in store.root.glob(f"generator/*/{LABEL}"))
    shipped = sorted(p for p in (sweeps.folder() / "weights").glob("*") if p.is_dir())
    return [
        {"origin": origin, **_summary(path)}
        for origin, folders in (("store", in_store), ("shipped", shipped))
        for path in folders
    ]


def _summary(path: Path) -> dict[str, Json]:
    try:
        found = describe_generator(path)
    except UsageError as error:
        return {"name": path.name, "path": str(path), "error": str(error)}
    return {k: v for k, v in found.items() if k not in ("config", "files")}


def generators_table(found: list[dict[str, Json]]) -> Table:
    """Return what :func:`list_generators` found as a table."""
    table = Table(box=None, pad_edge=False)
    for column in ("name", "kind", "where", "trained on", "parameters", "MB", "digest"):
        table.add_column(column, style="bold" if column == "name" else None, no_wrap=True)
    for item in found:
        if "error" in item:
            table.add_row(item["name"], "", item["origin"], f"({item['error']})")
            continue
        size = f"{item['bytes'] / 1e6:.1f}"
        cells = (item["dataset"], f"{item['parameters']:,}", size, item["digest"][:12])
        table.add_row(item["name"], item["kind"], item["origin"], *cells)
    return table


def describe_generator(path: Path) -> dict[str, Json]:
    """Return all that is known of a trained generator, as plain values.

    ``digest`` is what a study's identity has of it.

    Raises:
        DataError: If it is of no known kind, missing or damaged.
    """
    path = path.expanduser()
    kind, model = load_generator(path)
    config = read_config(path)
    trained = config.pop("trained", None)
    trained = trained if isinstance(trained, dict) else {}
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.is_file())
    return {
        "name": path.name,
        "kind": kind,
        "path": str(path.resolve()),
        "dataset": _dataset_name(trained.get("dataset")),
        "parameters": sum(t.numel() for t in model.state_dict().values()),
        "bytes": sum(file.stat().st_size for file in files),
        "digest": file_digest(path),
        "config": config,
        "trained": trained,
        "files": {file.name: file_digest(file) for file in files},
    }


def generators_of(study: StudySpec, workshop: Workshop) -> list[Path]:
    """Return where the generators that a study names are, each once; not those still to train."""
    found: dict[Path, None] = {}
    for part in study.parts:
        for registry, specs in ((ATTACKS, part.attacks), (DEFENSES, part.defenses)):
            for spec in specs:
                for reference in _generators(registry.get(spec.name), spec):
                    found[_path_of(reference.raw, workshop)] = None
    for one in study.trajectories:
        for raw in (one.generator, one.energy):
            if raw is not None:
                found[_path_of(raw, workshop)] = None
    return [path for path in found if path.exists()]


def generators_used(run: Path, workshop: Workshop) -> dict[Path, list[str]]:
    """Return where the generators that the trials of a run used are, each with the trials' ids."""
    found: dict[Path, list[str]] = {}
    paths: dict[str, Path] = {}
    for file in sorted((run / "records").glob("*.json")):
        try:
            record = TrialRecord.read(file)
        except DataError:  # the report names it
            continue
        for registry, role in ((ATTACKS, "attack"), (DEFENSES, "defense")):
            spec = ComponentSpec.from_json(record.spec[role])
            for reference in _generators(registry.get(spec.name), spec):
                key = digest(reference.raw)
                if key not in paths:
                    paths[key] = _path_of(reference.raw, workshop)
                trials = found.setdefault(paths[key], [])
                if record.spec_id not in trials:
                    trials.append(record.spec_id)
    return found


def generators_followed(run: Path) -> dict[str, list[str]]:
    """Return which trajectories of a run went through a generator, or were judged by it.

    Returns:
        Names of trajectories by the digest of the generator's files: they are what was used, also
        where a path has come to hold other weights.
    """
    found: dict[str, list[str]] = {}
    for file in sorted((run / "trajectories").glob("*/trajectory.json")):
        try:
            note = json.loads(file.read_text())
            networks = [note["generator"], note["energy"]]
            digests = {network["digest"] for network in networks if network is not None}
        except (OSError, ValueError, KeyError, TypeError):  # the report names it
            continue
        for content in digests:
            found.setdefault(content, []).append(file.parent.name)
    return found


def _generators(entry: Entry[Any], spec: ComponentSpec) -> Iterator[Reference]:
    for reference in references(entry, spec):
        if reference.kind == "defense":
            part = ComponentSpec.from_json(reference.raw)
            yield from _generators(DEFENSES.get(part.name), part)
        elif reference.kind == "generator":
            yield reference


def _path_of(reference: Mapping[str, Json], workshop: Workshop) -> Path:
    if is_trained(reference):
        return workshop.store.bring(workshop.identity("generator", reference))
    return weights_folder(reference)


def _dataset_name(reference: Json) -> str:
    if not isinstance(reference, dict):
        return "unknown"
    name, path = str(reference.get("name", "unknown")), reference.get("path")
    return f"{name} {Path(path).name}" if isinstance(path, str) else name


def generator_text(found: Mapping[str, Json]) -> str:
    """Return what :func:`describe_generator` found, for people."""
    lines = [
        f"{found['name']} ({found['kind']}): {found['parameters']:,} parameters",
        f"path: {found['path']}",
        f"trained on: {found['dataset']}",
        f"digest: {found['digest']}",
    ]
    for title in ("config", "trained", "files"):
        if found[title]:
            lines += [f"{title}:"]
            lines += [f"  {key}: {_as_text(value)}" for key, value in found[title].items()]
    return "\n".join([*lines, f"In a study: {{path: {found['path']}}}"])


def _as_text(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def read_config(path: Path) -> dict[str, Json]:
    """Return the configuration beside a generator's weights; empty where there is none.

    Raises:
        DataError: If it is damaged.
    """
    file = path / CONFIG if path.is_dir() else path.with_name(CONFIG)
    try:
        raw = json.loads(file.read_text()) if file.is_file() else {}
    except (OSError, ValueError) as error:
        raise DataError(f"{str(file)!r} is no valid configuration: {error}") from error
    return raw if isinstance(raw, dict) else {}


def load_generator(path: Path, device: str = "cpu") -> tuple[str, Any]:
    """Return kind and model of a trained generator.

    The kind is the one that its note names; without a note, the one that can read it.

    Raises:
        DataError: If no kind can; says why each cannot.
    """
    path = path.expanduser()
    if not path.exists():
        raise DataError(f"{str(path)!r} does not exist.")
    trained = read_config(path).get("trained")
    noted = trained.get("name") if isinstance(trained, dict) else None
    names = [noted] if noted in GENERATORS.names() else GENERATORS.names()
    reasons = []
    for name in names:
        try:
            return name, GENERATORS.get(name).factory.load(path, device)
        except UsageError as error:
            reasons.append(f"{name}: {error}")
    raise DataError(f"{str(path)!r} is no trained generator. {' '.join(reasons)}")


def images_of(dataset: str) -> Dataset:
    """Return a dataset given as on the command line: a name, or a YAML mapping."""
    data, _ = load_dataset(dataset)
    if data is None:
        raise UsageError("give a dataset.")
    return data


def first_images(data: Dataset, count: int) -> ImageSet:
    """Return the first test images, or training images where there are no others."""
    images = data.test if len(data.test) else data.train
    return images.take(np.arange(min(count, len(images))))
