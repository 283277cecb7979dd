"""One trial: poison, purify, train, evaluate. This file is the benchmark in one page."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from harness.artifacts import Made
from harness.checkpoint import TrainingFile
from harness.core.data import Dataset, ImageSet, PoisonedSet
from harness.core.device import forget_gpu_peak, gpu_peak_mib, pick_device, pick_dtype
from harness.core.errors import DataError
from harness.core.params import construct
from harness.core.protocols import ATTACKS, CLASSIFIERS, DEFENSES, SCENARIOS, TrainingHook
from harness.core.records import BEST_EPOCH, Outcome, Stage, TrialRecord
from harness.core.seeds import stream
from harness.core.spec import TrialSpec, attack_id, floor_id
from harness.environment import environment
from harness.evaluation import count_per_class, count_probes, movement
from harness.training import Epoch, Predictor
from harness.workshop import Workshop


class Victim(Protocol):
    """A trained network as a function of stored images."""

    @property
    def dtype(self) -> torch.dtype:
        """Type of its activations."""
        ...

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return predicted labels, int64 (N,), of uint8 images (N, C, H, W)."""
        ...


WATCHED = 300  # test images, and triggered ones, at most, that curves look at after each epoch
KEEP_SECONDS = 30.0  # of training that a trial which is killed loses, and one epoch, at most
SAMPLES = 8  # poisoned rows kept as pictures: before, poisoned, purified


@dataclass(frozen=True, slots=True)
class TrialResult:
    """A record, and the pictures that go with it (uint8 (k, C, H, W) by stage)."""

    record: TrialRecord
    samples: dict[str, NDArray[np.uint8]]


def run_trial(
    spec: TrialSpec, workshop: Workshop, labels: dict[str, str] | None = None
) -> TrialResult:
    """Run one trial and return what it measured.

    Args:
        spec: What to run.
        workshop: Where datasets, networks, poisons and purified rows come from.
        labels: Short names of attacks for tables, by their id.
    """
    return finish(prepare(spec, workshop), workshop, labels)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A trial up to its training.

    Attributes:
        spec: What to run.
        data: Clean.
        poisoned: What the attack made of it.
        purified: What the defense made of that.
        hooks: How the defense acts in the training.
        cost: Of the stages so far.
        without: What it is not judged on.
    """

    spec: TrialSpec
    data: Dataset
    poisoned: PoisonedSet
    purified: ImageSet
    hooks: Sequence[TrainingHook]
    cost: Costs
    without: Set[str] = frozenset()


def prepare(spec: TrialSpec, workshop: Workshop, without: Set[str] = frozenset()) -> Prepared:
    """Poison and purify.

    Args:
        spec: What to run.
        workshop: Where everything comes from.
        without: Attacks (see :func:`harness.core.spec.floor_id`) whose poisons could not be made:
            a trial without an attack is not judged on them.
    """
    cost = Costs()
    data = workshop.dataset(spec.dataset)
    with cost.stage("poison") as stage:
        poisoned, made = workshop.poisoned(data, spec.attack, spec.seeds.poison)
        stage.reuse(made)
    with cost.stage("purify") as stage:
        purified, made = workshop.purified(data, poisoned, spec.defense, spec.seeds.purify)
        stage.reuse(made)
    hooks = workshop.component(DEFENSES, spec.defense).hooks()
    if hooks is None:
        raise DataError(f"defense {spec.defense.name!r}: hooks returned None; () is no hook.")
    return Prepared(spec, data, poisoned, purified, hooks, cost, without)


def finish(
    prepared: Prepared,
    workshop: Workshop,
    labels: dict[str, str] | None = None,
    kept: Path | None = None,
) -> TrialResult:
    """Train the victim and evaluate it; ``kept`` is where its training is kept on its way."""
    with prepared.cost.stage("train"):
        predict, curves = train_victim(prepared, workshop, kept)
    return judge(prepared, workshop, predict, curves, labels)


def judge(
    prepared: Prepared,
    workshop: Workshop,
    predict: Victim,
    curves: dict[str, list[float]],
    labels: dict[str, str] | None = None,
) -> TrialResult:
    """Evaluate a trained victim and write everything down."""
    spec, data, poisoned = prepared.spec, prepared.data, prepared.poisoned
    with prepared.cost.stage("evaluate"):
        class_rows, class_correct = count_per_class(predict, data.test)
        outcomes = _outcomes(prepared, workshop, predict, labels or {})
    record = TrialRecord(
        spec=spec.to_json(),
        spec_id=spec.spec_id,
        goal=poisoned.goal,
        test_rows=sum(class_rows),
        test_correct=sum(class_correct),
        class_rows=class_rows,
        class_correct=class_correct,
        class_names=data.class_names,
        outcomes=tuple(outcomes),
        poisons=len(poisoned.poison_ids),
        train_rows=len(poisoned.train),
        movement=movement(poisoned.train, prepared.purified, poisoned.poison_ids),
        hooks=len(prepared.hooks),
        curves=curves,
        details=poisoned.details,
        stages=prepared.cost.stages,
        environment=environment(pick_device(workshop.device), predict.dtype),
        unjudged=tuple(sorted(prepared.without)),
    )
    return TrialResult(record, _samples(data.train, poisoned, prepared.purified))


def train_victim(
    prepared: Prepared, workshop: Workshop, kept: Path | None = None
) -> tuple[Victim, dict[str, list[float]]]:
    """Train the victim; test images are looked at for curves only, nothing is chosen by them."""
    spec, test = prepared.spec, prepared.data.test
    classifier = construct(CLASSIFIERS, spec.classifier, {})
    device = pick_device(workshop.device)
    dtype = pick_dtype(classifier.recipe.precision, device)
    curves: dict[str, list[float]] = {"loss": [], "rows": [], "test_accuracy": []}
    probes = prepared.poisoned.probes[:1]
    curves |= {f"success_{probe.name}": [] for probe in probes}
    all_of_it = prepared.poisoned.goal in BEST_EPOCH
    tested = (test, test.labels) if all_of_it else _a_few(test, test.labels)
    watched = [_a_few(p.images, p.adv_labels) for p in probes]

    def share(now: Predictor, images: ImageSet, wanted: NDArray[np.int64]) -> float:
        return float(np.mean(now(images.images) == wanted))

    def on_epoch(epoch: Epoch, model: nn.Module) -> None:
        now = Predictor(model, dtype)
        curves["loss"].append(epoch.loss)
        curves["rows"].append(float(epoch.rows))
        curves["test_accuracy"].append(share(now, *tested))
        for probe, some in zip(probes, watched, strict=True):
            curves[f"success_{probe.name}"].append(share(now, *some))

    scenario = workshop.component(SCENARIOS, spec.scenario)
    kept_on_the_way: dict[str, TrainingFile] = {}
    # Of what a hook remembers nothing is kept; and a scenario may do without.
    takes = "checkpoint" in signature(scenario.train).parameters
    if kept is not None and takes and not prepared.hooks:
        kept_on_the_way["checkpoint"] = TrainingFile(
            kept, {"spec_id": spec.spec_id}, curves=curves, every_seconds=KEEP_SECONDS, strict=False
        )
    predict = scenario.train(
        classifier, workshop.start(spec.classifier), prepared.purified,
        stream(spec.seeds.victim, "train"), hooks=prepared.hooks, device=device, on_epoch=on_epoch,
        **kept_on_the_way,
    )  # fmt: skip
    return predict, curves


def _a_few(images: ImageSet, wanted: NDArray[np.int64]) -> tuple[ImageSet, NDArray[np.int64]]:
    """Draw what curves look at after each epoch: all of it takes a quarter of a small training.

    What is reported uses all images: the rates of the trained victim, and the accuracy after the
    best epoch.
    """
    rows = np.sort(stream(0, "watched").permutation(len(images))[:WATCHED])
    return images.take(rows), wanted[rows]


def _outcomes(
    prepared: Prepared, workshop: Workshop, predict: Victim, labels: dict[str, str]
) -> list[Outcome]:
    """Count on the attack's probes, and for a control on those of every attack: its floor."""
    spec, probes = prepared.spec, prepared.poisoned.probes
    judged = [(spec.attack, probes)] if probes else []
    for attack, seed in spec.floors:
        if floor_id(attack, seed) not in prepared.without:
            judged.append((attack, workshop.poisoned(prepared.data, attack, seed)[0].probes))
    found = []
    for attack, probes in judged:
        name = attack_id(attack)
        field = ATTACKS.get(attack.name).factory.target_field
        target = attack.params[field] if field else None
        label = labels.get(name, attack.name)
        found += count_probes(predict, probes, attack=name, label=label, target=target)
    return found


def _samples(
    clean: ImageSet, poisoned: PoisonedSet, purified: ImageSet
) -> dict[str, NDArray[np.uint8]]:
    """Return a few poisoned rows that the defense kept, at the three stages."""
    kept = poisoned.poison_ids[np.isin(poisoned.poison_ids, purified.ids)][:SAMPLES]
    if not len(kept):
        kept = purified.ids[:SAMPLES]
    stages = {"clean": clean, "poisoned": poisoned.train, "purified": purified}
    return {name: part.images[part.positions(kept)] for name, part in stages.items()}


@dataclass
class _Running:
    reused: bool = False
    seconds: float | None = None

    def reuse(self, made: Made) -> None:
        """Report what the artefact cost when it was made, not what reading it cost."""
        self.reused = made.reused
        self.seconds = made.seconds


@dataclass
class Costs:
    """What the stages of a trial took."""

    stages: dict[str, Stage] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[_Running]:
        """Measure a stage."""
        forget_gpu_peak()
        running, began = _Running(), time.perf_counter()
        yield running
        elapsed = time.perf_counter() - began
        seconds = elapsed if running.seconds is None else running.seconds
        self.note(name, seconds, running.reused)

    def note(self, name: str, seconds: float, reused: bool = False) -> None:
        """Write down what a stage took."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
        self.stages[name] = Stage(seconds, peak, reused, gpu_peak_mib())
