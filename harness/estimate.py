"""What a plan may cost: measured on a few batches here, and taken from what was made before."""

from __future__ import annotations

import json
import statistics
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from harness.artifacts import LABEL
from harness.core.data import ImageSet
from harness.core.device import pick_device, use_threads
from harness.core.params import ComponentSpec, construct
from harness.core.protocols import CLASSIFIERS
from harness.core.seeds import stream
from harness.core.spec import TrialSpec, digest
from harness.plan import STAGES, Plan, counts
from harness.study import StudySpec
from harness.training import build_model, fit
from harness.workshop import Workshop

BATCHES = 4  # timed after as many to warm up


def training_seconds(spec: ComponentSpec, train: ImageSet, device: str, threads: int) -> float:
    """Return the time one training may take, from a few batches of it on this machine."""
    use_threads(threads)
    classifier = construct(CLASSIFIERS, spec, {})
    recipe = classifier.recipe
    rows = min(len(train), BATCHES * recipe.batch_size)
    part = train.take(np.arange(rows))
    model = build_model(classifier.build, train.num_classes, train.image_shape, stream(0))
    ends: list[float] = []
    fit(
        model, part, replace(recipe, epochs=2), stream(0),
        device=pick_device(device), on_epoch=lambda *_: ends.append(time.perf_counter()),
    )  # fmt: skip
    seconds: float = (ends[1] - ends[0]) * len(train) / rows * recipe.epochs
    return seconds


def _history(workshop: Workshop) -> dict[str, list[float]]:
    """Return the seconds of all artefacts in the store, by kind and component."""
    found: dict[str, list[float]] = defaultdict(list)
    for path in workshop.store.root.glob(f"*/*/{LABEL}"):
        label = json.loads(path.read_text())
        found[_bucket(label["key"])].append(float(label["seconds"]))
    return found


def _bucket(key: dict[str, Any]) -> str:
    """Group artefacts that should cost alike: a component's key without its seed and data."""
    part = key.get("attack") or key.get("defense") or key.get("model") or {}
    kept = {k: v for k, v in part.items() if k not in ("seed", "adv_label")}
    return f"{key['kind']} {digest(kept)}"


def estimate(plan: Plan, study: StudySpec, workshop: Workshop, run: Path) -> Table:
    """Return a table of stages: how many, how many are there already, and the cost of the rest."""
    history = _history(workshop)
    numbers = counts(plan, workshop, run)
    table = Table(box=None, pad_edge=False)
    for title in ("stage", "number", "there", "CPU or GPU minutes of the rest", "from"):
        table.add_column(title, justify="left" if title in ("stage", "from") else "right")
    for stage in STAGES:
        if stage not in numbers:
            continue
        total, there = numbers[stage]
        open_units = [u for u in plan.of_stage(stage) if not (u.key and workshop.store.has(u.key))]
        known = [history.get(_bucket(u.key)) for u in open_units if u.key]
        priced = [statistics.median(k) for k in known if k]
        minutes = f"{sum(priced) / 60:.1f}" if priced else "?" if open_units else "0"
        if priced and len(priced) < len(open_units):
            minutes = f"≥ {minutes}"
        source = "earlier ones in the store" if priced else "nothing like it made yet"
        table.add_row(stage, str(total), str(there), minutes, source if open_units else "")
    total, there = numbers["trials"]
    missing = [t for t in plan.trials if not (run / "records" / f"{t.spec_id}.json").exists()]
    seconds = _all_trainings(missing, study, workshop)
    source = f"{BATCHES} batches timed here, {study.resources.cpus} thread(s)"
    table.add_row("trials", str(total), str(there), f"{seconds / 60:.1f}", source)
    return table


def _all_trainings(trials: list[TrialSpec], study: StudySpec, workshop: Workshop) -> float:
    seconds: dict[str, float] = {}
    total = 0.0
    for trial in trials:
        key = digest([trial.classifier.to_json(), trial.dataset.to_json()])
        if key not in seconds:
            train = workshop.dataset(trial.dataset).train
            threads = study.resources.cpus
            seconds[key] = training_seconds(trial.classifier, train, workshop.device, threads)
        total += seconds[key]
    return total
