"""A trial record as flat names and numbers, as experiment trackers want them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from harness.core.records import TrialRecord
from harness.core.values import Json
from harness.report.varied import flat

COMPONENTS = ("dataset", "scenario", "attack", "defense", "classifier")
RAN_ON = ("commit", "device", "processor")


def run_name(record: TrialRecord) -> str:
    """Return the trial in a few words: ``narcissus → jpeg quality=50 · target 2 · seed 0``."""
    spec, seeds = record.spec, record.spec["seeds"]
    attack, defense = (record.labels.get(k, spec[k]["name"]) for k in ("attack", "defense"))
    parts = [f"{attack} → {defense}"]
    if spec["target"] is not None:
        parts.append(f"target {spec['target']}")
    same = len(set(seeds.values())) == 1
    shown = seeds["victim"] if same else "/".join(str(seeds[k]) for k in sorted(seeds))
    return " · ".join([*parts, f"seed {shown}"])


def params_of(record: TrialRecord) -> dict[str, str]:
    """Return what the trial was asked to do: ``attack``, ``attack.eps_255``, ``seed.poison``, …

    What is nested has dotted names, as ``--set`` has them: ``defense.ebm.recipe.iterations``,
    ``defense.parts.0.steps``. Each is then an axis or a filter of its own.
    """
    spec = record.spec
    params: dict[str, Any] = {}
    for role in COMPONENTS:
        params[role] = spec[role]["name"]
        params |= flat({k: v for k, v in spec[role].items() if k != "name"}, role)
    params["target"] = spec["target"]
    params |= {f"seed.{k}": v for k, v in spec["seeds"].items()}
    return _as_text(params)


def spec_params(spec: Mapping[str, Json]) -> dict[str, str]:
    """Return the plain values of any spec under dotted names (see :func:`params_of`)."""
    return _as_text(flat(spec))


def _as_text(params: Mapping[str, Any]) -> dict[str, str]:
    return {
        re.sub(r"\[(\d+)\]", r".\1", name): str(value)
        for name, value in params.items()
        if value is not None
    }


def tags_of(record: TrialRecord) -> dict[str, str]:
    """Return on what a trial ran, and its short names: ``puregen.commit``, ``puregen.attack``, …"""
    ran_on = {name: str(record.environment.get(name) or "") for name in RAN_ON}
    named = {name: text for name, text in ran_on.items() if text}
    return {f"puregen.{name}": text for name, text in (named | record.labels).items()}


def study_tags(study: Mapping[str, Json]) -> dict[str, str]:
    """Return what a study repeats, if anything: ``puregen.reproduces`` and ``puregen.paper``."""
    given = study.get("reproduces")
    given = given if isinstance(given, Mapping) else {}
    named = {"puregen.reproduces": given.get("item"), "puregen.paper": given.get("paper")}
    return {name: str(text) for name, text in named.items() if text}


def metrics_of(record: TrialRecord) -> dict[str, float]:
    """Return what a finished trial measured; rates are shares in [0, 1]. Of a failed one, nothing.

    ``poison_success`` is that on the first probe; the others add their name
    (``poison_success_x2``). A trial without an attack has none.
    """
    if record.status != "ok":
        return {}
    metrics = {"natural_accuracy": record.natural_accuracy, "poisons": float(record.poisons)}
    if record.best_accuracy is not None:
        metrics["best_accuracy"] = record.best_accuracy
    target = record.spec["target"]
    rows = dict(enumerate(record.class_rows)).get(target, 0)
    if record.goal == "triggered" and rows:
        metrics["attacked_class_accuracy"] = record.class_correct[target] / rows
    if record.goal != "none":
        for index, probe in enumerate(record.outcomes):
            if probe.trials:
                name = "poison_success" if index == 0 else f"poison_success_{probe.probe}"
                metrics[name] = probe.successes / probe.trials
    if record.movement is not None:
        moved = record.movement
        l2 = {"l2_clean": moved.clean_l2, "l2_poison": moved.poison_l2}
        metrics |= {name: value for name, value in l2.items() if value is not None}
        metrics["rows_kept"] = float(moved.rows_out)
        metrics["rows_changed"] = float(moved.rows_changed)
        metrics["poison_kept"] = float(moved.poison_kept)
        if moved.poison_changed is not None:
            metrics["poison_changed"] = float(moved.poison_changed)
    for stage, cost in record.stages.items():
        metrics[f"seconds_{stage}"] = cost.seconds
        metrics[f"peak_mib_{stage}"] = cost.peak_mib
        if cost.gpu_peak_mib:
            metrics[f"gpu_peak_mib_{stage}"] = cost.gpu_peak_mib
    return metrics | {f"detail.{name}": value for name, value in record.details.items()}


def curves_of(record: TrialRecord) -> Iterator[tuple[str, int, float]]:
    """Yield name, epoch (the first is 1) and value of each point of the record's curves."""
    for name, values in record.curves.items():
        for epoch, value in enumerate(values, start=1):
            yield name, epoch, value
