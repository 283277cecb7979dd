"""A trial record under the names by which tables group and pair it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from harness.core.errors import DataError
from harness.core.facts import Facts
from harness.core.records import TrialRecord

Setting = tuple[str, str, str]
"""Labels of dataset, scenario and classifier: within one setting, trials are compared."""

PairKey = tuple[int | None, int | None, int | None]
"""(target, poison seed, victim seed): trials that agree in it differ by their defense alone."""

Ties = Literal["all", "target", "none"]


@dataclass(frozen=True, slots=True)
class Trial:
    """A record under the names by which tables group it.

    Attributes:
        record: What the trial measured.
        dataset, scenario, classifier, attack, defense: Labels; the component's name where there
            is none.
        target: The attacked target, or None.
        seeds: ``poison``, ``purify``, ``victim``.
        facts: What its run says of the components.
        ties: What intervals mind: ``all`` that trials share. Only where the report of an earlier
            version is checked, ``target`` (seeds of a target hang together, one seed of several
            targets does not) or ``none``.
    """

    record: TrialRecord
    dataset: str
    scenario: str
    classifier: str
    attack: str
    defense: str
    target: int | None
    seeds: Mapping[str, int]
    facts: Facts = field(default_factory=Facts, repr=False)
    ties: Ties = "all"

    @classmethod
    def of(cls, record: TrialRecord, facts: Facts | None = None) -> Trial:
        """Name a record.

        Args:
            record: As it was read.
            facts: What the study file says of its components; None for one that says nothing.

        Raises:
            DataError: If its spec is no mapping or its counts contradict each other: a wrong
                number must not reach a table.
        """
        spec = record.spec
        if not isinstance(spec, dict):
            raise DataError(f"record {record.spec_id!r} has no spec.")
        _check_counts(record)
        kinds = ("dataset", "scenario", "classifier", "attack", "defense")
        names = {k: record.labels.get(k) or _component(spec, k) for k in kinds}
        seeds = spec.get("seeds")
        return cls(
            record, names["dataset"], names["scenario"], names["classifier"], names["attack"],
            names["defense"],
            target=spec.get("target"), seeds=seeds if isinstance(seeds, dict) else {},
            facts=facts or Facts(),
        )  # fmt: skip

    @property
    def ok(self) -> bool:
        """Whether it finished and measured something."""
        return self.record.status == "ok" and self.record.test_rows > 0

    @property
    def attacked(self) -> bool:
        """Whether an attack ran."""
        return _component(self.record.spec, "attack") != "none"

    @property
    def defended(self) -> bool:
        """Whether a defense ran."""
        return _component(self.record.spec, "defense") != "none"

    @property
    def setting(self) -> Setting:
        """Dataset, scenario and classifier."""
        return self.dataset, self.scenario, self.classifier

    def pair_key(self, target: int | None) -> PairKey:
        """Return what a trial shares with its undefended twin.

        The purification seed is no part of it: an undefended trial does not depend on it.
        """
        return target, self.seeds.get("poison"), self.seeds.get("victim")

    def seconds(self, stage: str) -> float | None:
        """Return the cost of a stage, or None where it did not run."""
        found = self.record.stages.get(stage)
        return found.seconds if found else None


def labels_of(trials: Iterable[Trial], field: str) -> tuple[str, ...]:
    """Return the distinct values of a label field, in order of first appearance."""
    return tuple(dict.fromkeys(getattr(t, field) for t in trials))


def natural_key(text: str) -> tuple[tuple[int, float, str], ...]:
    """Return a sort key that puts ``steps=50`` before ``steps=100``.

    >>> sorted(["k=100", "k=50"], key=natural_key)
    ['k=50', 'k=100']
    """
    parts = re.split(r"(\d+(?:\.\d+)?)", text)
    return tuple((0, float(p), "") if i % 2 else (1, 0.0, p) for i, p in enumerate(parts))


def _component(spec: Mapping[str, Any], kind: str) -> str:
    component = spec.get(kind)
    name = component.get("name") if isinstance(component, dict) else component
    return name if isinstance(name, str) else "none"


def _check_counts(record: TrialRecord) -> None:
    pairs = [("test images", record.test_correct, record.test_rows)]
    pairs += [
        (f"class {index}", *pair)
        for index, pair in enumerate(zip(record.class_correct, record.class_rows, strict=False))
    ]
    for outcome in record.outcomes:
        name = f"probe {outcome.probe!r}"
        pairs += [
            (name, outcome.successes, outcome.trials),
            (name, outcome.correct, outcome.trials),
        ]
    for name, part, whole in pairs:
        if not 0 <= part <= whole:
            raise DataError(f"record {record.spec_id!r} counts {part} of {whole} for {name}.")
