"""Run folders from hand-made records, for the tests of the report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.core.records import Movement, Outcome, Stage, TrialRecord

CLASSES = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def outcome(probe: str, hits: int, total: int, label: str, target: int | None) -> Outcome:
    return Outcome(f"id-{label}-{target}", label, target, probe, total, hits, total - hits)


def record(
    attack: str = "none",
    defense: str = "none",
    *,
    goal: str = "none",
    target: int | None = None,
    poison: int = 0,
    purify: int = 0,
    victim: int = 0,
    correct: int = 750,
    rows: int = 1000,
    class_correct: int = 60,
    probes: dict[str, tuple[int, int]] | None = None,
    floors: Sequence[Outcome] = (),
    movement: Movement | None = None,
    dataset: str = "cifar10_mini",
    classifier: str = "hlb_xs",
    scenario: str = "from_scratch",
    **changes: Any,
) -> TrialRecord:
    """Return a finished trial; ``probes`` maps a probe's name to (successes, images)."""
    spec = {
        "dataset": {"name": dataset},
        "attack": {"name": attack.split()[0]},
        "defense": {"name": defense.split()[0]},
        "classifier": {"name": classifier},
        "scenario": {"name": scenario},
        "seeds": {"poison": poison, "purify": purify, "victim": victim},
        "target": target,
    }
    labels = {"dataset": dataset, "attack": attack, "defense": defense, "classifier": classifier}
    identity = json.dumps([spec, labels], sort_keys=True)
    moved = 500 if defense != "none" else 0
    distance = 1.5 if defense != "none" else 0.0
    values: dict[str, Any] = {
        "spec": spec,
        "spec_id": hashlib.sha256(identity.encode()).hexdigest()[:12],
        "goal": goal,
        "test_rows": rows,
        "test_correct": correct,
        "class_rows": (rows // 10,) * 10,
        "class_correct": (class_correct,) * 10,
        "outcomes": (
            *(outcome(name, *pair, attack, target) for name, pair in (probes or {}).items()),
            *floors,
        ),
        "poisons": 0 if attack == "none" else 50,
        "train_rows": 500,
        "movement": movement
        or Movement(500, 500, moved, distance, 2 * distance, 50, min(moved, 50)),
        "curves": {"loss": [2.0, 1.0 + correct / 1e4], "rows": [500, 500]},
        "stages": {"train": Stage(40.0, 900.0), "purify": Stage(20.0 if moved else 0.0, 100.0)},
        "environment": {"python": "3.11.7", "torch": "2.11.0", "threads": 1},
        "labels": labels,
        "class_names": CLASSES,
    }
    return TrialRecord(**(values | changes))


def write_run(folder: Path, records: Iterable[TrialRecord], study: Any = None) -> Path:
    """Write records, and a study file where there is one; return the folder."""
    (folder / "records").mkdir(parents=True)
    for one in records:
        (folder / "records" / f"{one.spec_id}.json").write_text(one.to_json())
    if study is not None:
        (folder / "study.json").write_text(json.dumps(study))
    return folder


def write_samples(folder: Path, spec_id: str, stages: dict[str, np.ndarray]) -> None:
    (folder / "samples").mkdir(exist_ok=True)
    np.savez_compressed(folder / "samples" / f"{spec_id}.npz", **stages)
