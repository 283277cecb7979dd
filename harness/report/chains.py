"""Which defenses of a run are snapshots of one chain, in words."""

from __future__ import annotations

import json
from collections.abc import Sequence

from harness.report.trials import Trial, natural_key


def chain_notes(trials: Sequence[Trial]) -> list[str]:
    """Return a sentence per chain that more than one defense of a run lies on."""
    chains: dict[str, tuple[str, set[str]]] = {}
    for trial in trials:
        spec = trial.record.spec.get("defense")
        if not isinstance(spec, dict) or not isinstance(spec.get("name"), str):
            continue
        along = trial.facts.of("defense", spec["name"]).chain
        if along is not None:
            shared = {name: value for name, value in spec.items() if name != along}
            chain = chains.setdefault(json.dumps(shared, sort_keys=True), (along, set()))
            chain[1].add(trial.defense)
    return [
        f"{', '.join(sorted(labels, key=natural_key))}: snapshots of one chain, which share their "
        f"noise, so that points along {along} are correlated; seconds of purification are those "
        "from its start, and the largest holds the others."
        for along, labels in chains.values() if len(labels) > 1
    ]  # fmt: skip
