"""In what two runs differ before anything was measured: studies, inputs, software, machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from harness.report.collect import Run

_NO_NUMBER = frozenset({"name", "title", "resources", "vars"})  # keys that decide no number
MISSING = "-"


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting that two runs do not share; ``-`` stands for one that a run does not have."""

    setting: str
    first: str
    second: str


def differing_settings(first: Run, second: Run) -> tuple[Difference, ...]:
    """Return what differs, the studies' own words first, then inputs, then environments."""
    left, right = _settings(first), _settings(second)
    names = dict.fromkeys([*left, *right])
    pairs = [(name, left.get(name, MISSING), right.get(name, MISSING)) for name in names]
    order = {part: i for i, part in enumerate(("study", "protocol", "input", "environment"))}
    pairs.sort(key=lambda pair: order.get(pair[0].split(" ")[0], len(order)))
    return tuple(Difference(*pair) for pair in pairs if pair[1] != pair[2])


def _settings(run: Run) -> dict[str, str]:
    study = {key: value for key, value in run.study.study.items() if key not in _NO_NUMBER}
    found = {f"study {name}": value for name, value in _flat(study)}
    if run.study.protocol:
        found["protocol"] = run.study.protocol
    found |= {f"input {name}": str(value)[:12] for name, value in run.study.inputs.items()}
    found |= _environments(trial.record.environment for trial in run.trials)
    return found | ({"partial": "yes"} if run.partial else {})


def _environments(found: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return every value that a trial of the run had, joined: a run may span several machines."""
    values: dict[str, dict[str, None]] = {}
    for environment in found:
        for name, value in _flat(environment):
            values.setdefault(f"environment {name}", {})[value] = None
    return {name: " | ".join(sorted(seen)) for name, seen in values.items()}


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield dotted names; a component in a list stands under its place, as ``--set`` names it."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _flat(part, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list) and any(isinstance(part, Mapping) for part in value):
        for index, part in enumerate(value):
            yield from _flat(part, f"{prefix}.{index}")
    else:
        yield prefix, str(value)
