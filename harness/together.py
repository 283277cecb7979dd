"""Trials that share a network and differ in little else, trained as one problem."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from harness.core.data import ImageSet
from harness.core.device import pick_device
from harness.core.errors import FAILURES
from harness.core.params import construct
from harness.core.protocols import CLASSIFIERS, SCENARIOS, Classifier, TrainingHook
from harness.core.seeds import stream
from harness.core.spec import TrialSpec, digest
from harness.trial import Prepared, TrialResult, Victim, finish, judge, prepare
from harness.workshop import Workshop

MOST = 16  # trials of one piece of work: few enough that many workers all have some
MOST_ROWS = 200_000  # training images held at once


class Trained(Victim, Protocol):
    """A victim that knows how well it fits."""

    @property
    def loss(self) -> float:
        """Mean loss on its training set, at the end."""
        ...


@runtime_checkable
class TrainsTogether(Protocol):
    """A scenario that can train victims as one problem, each as it would be alone."""

    def joins(self, classifier: Classifier, hooks: Sequence[TrainingHook]) -> bool:
        """Whether a victim with this recipe and defense can be among them."""
        ...

    def train_many(
        self,
        classifier: Classifier,
        start: Any,
        trains: Sequence[ImageSet],
        rngs: Sequence[np.random.Generator],
        *,
        device: torch.device | str = "cpu",
    ) -> Sequence[Trained]:
        """Train one victim per training set."""
        ...


def groups(trials: Sequence[TrialSpec]) -> list[list[TrialSpec]]:
    """Cut trials into pieces of work, in their order: alone, or together where that may help."""
    found: list[list[TrialSpec]] = []
    last: object = None
    for trial in trials:
        key = _shared(trial) if _may_join(trial) else None
        if key is not None and key == last and len(found[-1]) < MOST:
            found[-1].append(trial)
        else:
            found.append([trial])
        last = key
    return found


def run_together(
    specs: Sequence[TrialSpec],
    workshop: Workshop,
    labels: Sequence[dict[str, str]],
    kept: Sequence[Path] | None = None,
    without: Sequence[Set[str]] | None = None,
) -> Iterator[tuple[int, TrialResult | BaseException]]:
    """Run trials and yield each one's place and result, or what it failed with.

    Args:
        specs: Trials that agree in dataset, scenario and classifier.
        workshop: Where everything comes from.
        labels: Short names of attacks, per trial.
        kept: Where each one's training is kept on its way, if it is trained alone.
        without: What each is not judged on; see :func:`harness.trial.prepare`.
    """
    joint: dict[int, Prepared] = {}
    for place, spec in enumerate(specs):
        try:
            prepared = prepare(spec, workshop, without[place] if without else frozenset())
            if not joins(spec, workshop, prepared.hooks):
                path = kept[place] if kept else None
                yield place, finish(prepared, workshop, labels[place], path)
                continue
        except FAILURES as error:  # a failure takes no other trial with it
            yield place, error
            continue
        joint[place] = prepared
        if len(joint) * len(prepared.purified) >= MOST_ROWS:
            yield from _finish_joint(joint, workshop, labels)
            joint = {}
    yield from _finish_joint(joint, workshop, labels)


def _finish_joint(
    joint: dict[int, Prepared], workshop: Workshop, labels: Sequence[dict[str, str]]
) -> Iterator[tuple[int, TrialResult | BaseException]]:
    if not joint:
        return
    victims: Sequence[Trained] = ()
    try:
        victims = _train_joint(list(joint.values()), workshop)
    except FAILURES as error:
        if len(joint) == 1:
            yield next(iter(joint)), error
            return
    # By now the error is gone, and with it what its frames held: alone, each has all the memory.
    if not victims:  # whose fault it is shows when each is alone
        for place, prepared in joint.items():
            yield from _finish_joint({place: prepared}, workshop, labels)
        return
    for (place, prepared), victim in zip(joint.items(), victims, strict=True):
        try:
            result = judge(prepared, workshop, victim, _curves(prepared, victim), labels[place])
        except FAILURES as error:  # a failure takes no other trial with it
            yield place, error
        else:
            yield place, result


def _train_joint(prepared: Sequence[Prepared], workshop: Workshop) -> Sequence[Trained]:
    spec = prepared[0].spec
    scenario = workshop.component(SCENARIOS, spec.scenario)
    began = time.perf_counter()
    trained: Sequence[Trained] = scenario.train_many(
        construct(CLASSIFIERS, spec.classifier, {}), workshop.start(spec.classifier),
        [one.purified for one in prepared],
        [stream(one.spec.seeds.victim, "train") for one in prepared],
        device=pick_device(workshop.device),
    )  # fmt: skip
    share = (time.perf_counter() - began) / len(prepared)
    for one in prepared:
        one.cost.note("train", share)
    return trained


def _curves(prepared: Prepared, victim: Trained) -> dict[str, list[float]]:
    """Return curves of one point: where the training ended."""
    test = prepared.data.test
    found = {
        "loss": [victim.loss],
        "rows": [float(len(prepared.purified))],
        "test_accuracy": [float(np.mean(victim(test.images) == test.labels))],
    }
    for probe in prepared.poisoned.probes[:1]:
        hit = victim(probe.images.images) == probe.adv_labels
        found[f"success_{probe.name}"] = [float(np.mean(hit))]
    return found


def _may_join(trial: TrialSpec) -> bool:
    return issubclass(SCENARIOS.get(trial.scenario.name).factory, TrainsTogether)


def joins(spec: TrialSpec, workshop: Workshop, hooks: Sequence[TrainingHook]) -> bool:
    """Whether a trial's victim, with these hooks of its defense, is trained with others as one."""
    scenario = workshop.component(SCENARIOS, spec.scenario)
    if not isinstance(scenario, TrainsTogether):
        return False
    return scenario.joins(construct(CLASSIFIERS, spec.classifier, {}), hooks)


def _shared(trial: TrialSpec) -> tuple[str, ...]:
    parts = (trial.dataset, trial.scenario, trial.classifier)
    return tuple(digest(part.to_json()) for part in parts)
