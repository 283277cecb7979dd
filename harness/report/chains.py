"""Which defenses of a run are snapshots of one chain, in words."""

from __future__ import annotations

from collections.abc import Sequence

from harness.core.errors import UsageError
from harness.report.trials import Trial, natural_key


def chain_notes(trials: Sequence[Trial]) -> list[str]:
    """Return a sentence per chain that more than one defense of a run lies on."""
    from harness.core.params import ComponentSpec  # with torch: not before it is needed
    from harness.core.spec import digest
    from harness.snapshots import chain_of, snapshot_parameter

    chains: dict[str, tuple[str, set[str]]] = {}
    for trial in trials:
        spec = trial.record.spec.get("defense")
        if not isinstance(spec, dict) or not isinstance(spec.get("name"), str):
            continue
        parameters = {k: v for k, v in spec.items() if k != "name"}
        defense = ComponentSpec(spec["name"], parameters)
        try:
            along = snapshot_parameter(defense)
        except UsageError:  # of a plugin that is not installed where the report is made
            continue
        if along is not None:
            chain = chains.setdefault(digest(chain_of(defense)), (along, set()))
            chain[1].add(trial.defense)
    return [
        f"{', '.join(sorted(labels, key=natural_key))}: snapshots of one chain, which share their "
        f"noise, so that points along {along} are correlated; seconds of purification are those "
        "from its start, and the largest holds the others."
        for along, labels in chains.values() if len(labels) > 1
    ]  # fmt: skip
