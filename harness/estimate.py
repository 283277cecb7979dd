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
from harness.core.errors import UsageError
from harness.core.params import ComponentSpec, construct
from harness.core.protocols import ATTACKS, CLASSIFIERS, DEFENSES
from harness.core.registry import one_message
from harness.core.seeds import stream
from harness.core.spec import TrialSpec, digest
from harness.labels import names_of
from harness.plan import Plan
from harness.study import StudySpec
from harness.together import joins
from harness.training import build_model, fit
from harness.units import STAGES, Unit
from harness.work import finished
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
        try:
            label = json.loads(path.read_text())
            found[_bucket(label["key"])].append(float(label["seconds"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, UsageError):
            continue  # an estimate can do without; whoever needs the artefact is told
    return found


def _bucket(key: dict[str, Any]) -> str:
    """Group artefacts that should cost alike: a component's key without seed, data and target."""
    part = key.get("attack") or key.get("defense") or key.get("model") or {}
    target = ATTACKS.get(part["name"]).factory.target_field if "attack" in key else None
    kept = {k: v for k, v in part.items() if k not in ("seed", target)}
    return f"{key['kind']} {digest(kept)}"


def _bucket_of(unit: Unit, workshop: Workshop) -> str:
    if unit.key is not None:
        return _bucket(unit.key)
    defense = ComponentSpec.from_json(unit.payload["defense"])
    identity = workshop.component_identity(DEFENSES.get(defense.name), defense)
    return _bucket({"kind": "purified", "defense": identity})


def overview(plan: Plan, study: StudySpec) -> Table:
    """Return a table of what the trials are made of."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    names = [names_of(t, study.labels) for t in plan.trials]
    for role in ("dataset", "attack", "defense", "classifier"):
        table.add_row(role, ", ".join(dict.fromkeys(n[role] for n in names)))
    targets = sorted({t.target for t in plan.trials if t.target is not None})
    if targets:
        table.add_row("target", ", ".join(map(str, targets)))
    for kind in ("poison", "purify", "victim"):
        seeds = sorted({getattr(t.seeds, kind) for t in plan.trials})
        table.add_row(f"{kind} seed", ", ".join(map(str, seeds)))
    if chains := dict.fromkeys(u.passes for u in plan.units if u.parts):
        table.add_row("one chain", "; ".join(chains))
    return table


def estimate(plan: Plan, study: StudySpec, workshop: Workshop, run: Path) -> Table:
    """Return a table of stages: how many pieces, how many a run would still do, and their cost.

    The cost is in minutes of one trial's CPUs or GPU: divide by how many run side by side.
    """
    history = _history(workshop)
    trials = [t for t in plan.trials if finished(run, t.spec_id) is None]
    table = Table(box=None, pad_edge=False)
    for title in ("stage", "number", "left", "minutes left", "known from"):
        table.add_column(title, justify="left" if title in ("stage", "known from") else "right")
    for stage in STAGES:
        number = sum(u.stage == stage for u in plan.units)
        wanted = {t.spec_id for t in trials}
        needed = plan.of_stage(stage, wanted)
        left = [rest for u in needed if (rest := u.left(workshop, wanted))]
        if number:
            known = [history.get(_bucket_of(u, workshop)) for u in left]
            table.add_row(stage, str(number), str(len(left)), *_priced(known))
    seconds = _all_trainings(trials, study, workshop)
    source = f"{BATCHES} batches timed here, {study.resources.cpus} thread(s)"
    priced = (f"{seconds / 60:.1f}", source) if trials else ("0", "")
    table.add_row("trials", str(len(plan.trials)), str(len(trials)), *priced)
    return table


def _priced(known: list[list[float] | None]) -> tuple[str, str]:
    """Return the minutes that units may take, given the seconds of others like each of them."""
    if not known:
        return "0", ""
    priced = [statistics.median(k) for k in known if k]
    if not priced:
        return "?", "nothing like it made yet"
    least = "" if len(priced) == len(known) else "≥ "
    return f"{least}{sum(priced) / 60:.1f}", "earlier ones in the store"


def _all_trainings(trials: list[TrialSpec], study: StudySpec, workshop: Workshop) -> float:
    seconds: dict[str, float] = {}
    total = 0.0
    for trial in trials:
        key = digest([trial.classifier.to_json(), trial.dataset.to_json()])
        if key not in seconds:
            train = workshop.dataset(trial.dataset).train
            threads = study.resources.cpus
            seconds[key] = training_seconds(trial.classifier, train, workshop.device, threads)
        total += seconds[key] / cheaper(trial, workshop)
    return total


def cheaper(trial: TrialSpec, workshop: Workshop) -> float:
    """Return how many times cheaper than a whole training a victim's training is.

    One whose features are fixed computes them once, forwards, which is a third of an epoch; its
    head, trained with others, costs next to nothing.
    """
    defense = workshop.component(DEFENSES, trial.defense, check=True)
    with one_message("defense", DEFENSES.get(trial.defense.name)):
        hooks = defense.hooks()
    if not joins(trial, workshop, hooks):
        return 1.0
    epochs: int = construct(CLASSIFIERS, trial.classifier, {}).recipe.epochs
    return 3.0 * epochs
