"""What was run: every component of a run, with all its parameters and what stood behind them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from harness.report.collect import Run
from harness.report.table import Entry, Head, Table
from harness.report.trials import Trial

_ROLES = ("dataset", "scenario", "attack", "defense", "classifier")
_PER_TRIAL = frozenset({"target", "true_label", "adv_label"})  # of an attack: the trials have them

_HEADS = (
    Head("Part", numeric=False), Head("Label", "As the tables call it.", numeric=False),
    Head("What it is", numeric=False),
    Head("Parameters", "All of them, those that the study leaves to their defaults as well.",
         numeric=False),
    Head("Identity", "SHA-256, its first 16 digits: of a dataset the images and labels; of the "
         "others the code, the parameters, and the networks and data that they name.",
         numeric=False),
)  # fmt: skip


def component_table(run: Run) -> Table:
    """Return one row per component and label, in the order of the trials."""
    seen: dict[tuple[str, str, str], None] = {}
    for role in _ROLES:
        for trial in run.trials:
            name, parameters = _parameters(trial, role)
            if name != "none":
                seen.setdefault((role, getattr(trial, role), f"{name}\n{parameters}"))
    return Table(_HEADS, tuple(_row(run, *key) for key in seen))


def _parameters(trial: Trial, role: str) -> tuple[str, str]:
    """Return name and parameters, as YAML in one line."""
    spec = trial.record.spec.get(role)
    if not isinstance(spec, Mapping):
        return str(spec or "none"), ""
    own = {k: v for k, v in spec.items() if k not in ("name", *_PER_TRIAL)}
    return str(spec.get("name", "none")), ", ".join(f"{k}: {flow(v)}" for k, v in own.items())


def flow(value: Any) -> str:
    """Return a value as YAML in one line."""
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=10**9,
                          default_flow_style=True)  # fmt: skip
    return text.removesuffix("\n").removesuffix("\n...")


def _row(run: Run, role: str, label: str, of: str) -> tuple[Entry, ...]:
    name, _, parameters = of.partition("\n")
    identity = str(run.study.inputs.get(f"{role} {label}", ""))[:16]
    what = " ".join(
        part for part in (run.study.facts.of(role, name).summary, _rows(run, role, label)) if part
    )
    return tuple(Entry(text, text) for text in (role, label, what, parameters, identity))


def _rows(run: Run, role: str, label: str) -> str:
    """Return how many images a dataset has, as far as its trials tell."""
    trials = [t for t in run.trials if t.ok and t.dataset == label]
    if role != "dataset" or not trials:
        return ""
    train = max(t.record.movement.rows_in if t.record.movement else t.record.train_rows
                for t in trials)  # fmt: skip
    first = trials[0].record
    return (
        f"{train:,} training and {first.test_rows:,} test images, {len(first.class_rows)} classes."
    )
