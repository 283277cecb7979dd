"""The rules that every component must keep, held against one of them on real data.

Each check runs the component with the small parameters that its class gives as ``example``, on the
embedded dataset ``shapes``. They are the same for what comes with the project and what does not.
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from harness.artifacts import Store
from harness.catalogue import registry_of
from harness.core.data import Dataset, ImageSet, PoisonedSet, Probe
from harness.core.device import use_threads
from harness.core.errors import UsageError
from harness.core.params import ComponentSpec, check_offers, complete
from harness.core.protocols import CLASSIFIERS, DATASETS, Oracle
from harness.core.registry import Entry, Registry
from harness.core.seeds import stream
from harness.poisons import changed_rows
from harness.snapshots import snapshot_parameter
from harness.workshop import Workshop

T = TypeVar("T")
DATA: dict[str, Any] = {"name": "shapes", "train": 300, "test": 100}


class Violation(UsageError):
    """A component breaks a rule."""


def _require(holds: bool, rule: str) -> str:
    if not holds:
        raise Violation(f"violated: {rule}.")
    return rule


def check_component(kind: str, name: str) -> Iterator[str]:
    """Yield each rule that the component keeps, as it is found.

    Raises:
        Violation: At the first rule that it breaks.
        UsageError: If there is no such component, or it lacks a part of its kind's contract.
    """
    entry = registry_of(kind).get(name)
    check_offers(registry_of(kind).kind, entry)
    try:
        yield from _documented(entry)
        yield loads_alone(entry.origin)
        yield from check_behaviour(kind, name)
    except Violation as violation:
        raise Violation(f"{registry_of(kind).kind} {name!r} {violation}") from None


def check_behaviour(kind: str, name: str) -> Iterator[str]:
    """Yield each rule on what the component does (see :func:`check_component`)."""
    registry = registry_of(kind)
    use_threads(1)
    checks = {
        "attack": _attack,
        "defense": _defense,
        "classifier": _classifier,
        "dataset": _dataset,
        "generator": _generator,
        "scenario": _scenario,
    }
    with tempfile.TemporaryDirectory() as folder:
        workshop = Workshop(Store(Path(folder)), "cpu")
        yield from checks[registry.kind](registry, registry.get(name), workshop)


def _documented(entry: Entry[Any]) -> Iterator[str]:
    own = not entry.summary.startswith(f"{entry.factory.__name__}(")  # what dataclasses make up
    fits = own and 0 < len(entry.summary) < 100
    yield _require(fits, "it has a one-line summary")
    undocumented = [p.name for p in entry.parameters.values() if not p.doc]
    yield _require(not undocumented, f"each parameter is documented {undocumented or ''}".strip())


def loads_alone(*modules: str) -> str:
    """Check that modules load in a fresh interpreter without ray and mlflow.

    An interpreter that has neither, as that of ``check-plugin``, has shown it already.
    """
    rule = "it loads without ray and mlflow"
    if not {"ray", "mlflow"} & sys.modules.keys() and set(modules) <= sys.modules.keys():
        return rule
    code = (
        f"import sys; sys.path[:] = {json.dumps(sys.path)}; import {', '.join(modules)}; "
        "bad = [m for m in ('ray', 'mlflow') if m in sys.modules]; "
        "sys.exit(f'it loads {bad}' if bad else 0)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return _require(run.returncode == 0, f"{rule} {run.stderr}".strip())


def _example(registry: Registry[Any], entry: Entry[Any]) -> ComponentSpec:
    return complete(registry, {"name": entry.name, **entry.factory.example}, "example")


def _build(registry: Registry[Any], entry: Entry[Any], workshop: Workshop) -> Any:
    return workshop.component(registry, _example(registry, entry))


def _data(workshop: Workshop) -> Dataset:
    return workshop.dataset(complete(DATASETS, DATA, "dataset"))


def _same(a: ImageSet, b: ImageSet) -> bool:
    return a.digest == b.digest


def _untouched(call: Callable[..., T], data: Dataset, *arguments: Any) -> T:
    """Call a component and check that the data are what they were."""

    def content() -> list[bytes]:
        sets = (data.train, data.test)
        return [a.tobytes() for s in sets for a in (s.images, s.labels, s.ids)]

    before = content()
    try:
        result = call(*arguments)
    except ValueError as error:  # numpy's, on arrays that may not be written
        _require("read-only" not in str(error), f"its input is untouched ({error})")
        raise
    _require(content() == before, "its input is untouched")
    return result


def _true_labels(probe: Probe, test: ImageSet) -> bool:
    known = np.isin(probe.images.ids, test.ids).all()
    return bool(known) and np.array_equal(
        probe.images.labels, test.labels[test.positions(probe.images.ids)]
    )


def _attack(registry: Registry[Any], entry: Entry[Any], workshop: Workshop) -> Iterator[str]:
    attack, data = _build(registry, entry, workshop), _data(workshop)
    target = entry.parameters.get(attack.target_field) if attack.target_field else None
    open_target = attack.target_field is None or (target is not None and target.required)
    yield _require(open_target, "its target_field is None or a parameter without a default")
    attack.check(data.train, data.test)
    rng = stream(0, "attack")
    poisoned: PoisonedSet = _untouched(attack.poison, data, data.train, data.test, rng)
    yield "its input is untouched"
    train = poisoned.train
    yield _require(np.array_equal(train.ids, data.train.ids), "it keeps rows, order and ids")
    rows = changed_rows(data.train, train)
    relabelled = np.flatnonzero(train.labels != data.train.labels)
    touched = train.ids[np.union1d(rows, relabelled)]
    yield _require(bool(np.isin(touched, poisoned.poison_ids).all()), "only poisons differ")
    bounds = attack.bounds(data.train)
    yield _require(len(poisoned.poison_ids) <= bounds.rows, "it keeps its budget")
    if entry.name != "none":
        yield _require(len(touched) > 0, "it changes something")
    if bounds.keeps_labels:
        yield _require(not len(relabelled), "it keeps labels, as it says")
    if bounds.eps_255 is not None and len(rows):
        moved = train.images[rows].astype(int) - data.train.images[rows]
        yield _require(int(np.abs(moved).max()) <= bounds.eps_255, "it keeps its Linf bound")
    again = attack.poison(data.train, data.test, stream(0, "attack"))
    same_probes = all(
        _same(p.images, q.images) for p, q in zip(poisoned.probes, again.probes, strict=True)
    )
    yield _require(_same(train, again.train) and same_probes, "the same seed, the same bytes")
    yield _require(poisoned.goal == attack.goal, "it pursues the goal that it declares")
    truthful = all(_true_labels(probe, data.test) for probe in poisoned.probes)
    yield _require(truthful, "its probes are test images with their true labels")


def _defense(registry: Registry[Any], entry: Entry[Any], workshop: Workshop) -> Iterator[str]:
    spec, data = _example(registry, entry), _data(workshop)
    defense, train = workshop.component(registry, spec), data.train
    if isinstance(defense, Oracle):
        defense = defense.told(train.ids[::10])
        yield "it is an oracle, and told of the poisoned rows"
    defense.check(train)
    purified: ImageSet = _untouched(defense.purify, data, train, stream(0, "defense"))
    yield "its input is untouched"
    kept = np.isin(purified.ids, train.ids).all()
    yield _require(bool(kept) and len(purified) <= len(train), "it makes up no row")
    labels = train.labels[train.positions(purified.ids)]
    yield _require(np.array_equal(labels, purified.labels), "it keeps labels")
    hooks = defense.hooks()
    if entry.name != "none":
        moved = len(purified) < len(train) or not np.array_equal(purified.images, train.images)
        yield _require(moved or len(hooks) > 0, "it does something")
    again = defense.purify(train, stream(0, "defense"))
    yield _require(_same(purified, again), "the same seed, the same bytes")
    if defense.rowwise:
        rows = np.arange(5, len(train), 7)
        part = defense.purify(train.take(rows), stream(0, "defense"))
        same = np.array_equal(part.images, purified.images[rows])
        yield _require(same, "row-wise: a row's bytes do not depend on the other rows")

    if snapshot_parameter(spec) is not None:
        yield _passes(registry, spec, train, workshop)


def _passes(
    registry: Registry[Any], spec: ComponentSpec, train: ImageSet, workshop: Workshop
) -> str:
    """Check that a chain, on its way, makes what separate purifications make."""
    name = str(snapshot_parameter(spec))
    values = [1, 2, spec.params[name] + 2]
    walker = workshop.component(registry, spec)
    passed = list(walker.snapshots(train, stream(0, "defense"), values))
    alone = [
        workshop.component(registry, spec.with_params(**{name: value})).purify(
            train, stream(0, "defense")
        )
        for value in values
    ]
    same = len(passed) == len(alone) and all(map(_same, passed, alone))
    return _require(same, f"a chain over {name} passes what each value gives alone")


def _classifier(registry: Registry[Any], entry: Entry[Any], workshop: Workshop) -> Iterator[str]:
    classifier = _build(registry, entry, workshop)
    for channels, classes in ((3, 10), (1, 4)):
        model = classifier.build(classes, (channels, 32, 32)).eval()
        linear = isinstance(getattr(model, "head", None), nn.Linear)
        yield _require(hasattr(model, "features") and linear, "it has features and a linear head")
        x = torch.rand(2, channels, 32, 32)
        with torch.inference_mode():
            logits, features = model(x), model.features(x)
        yield _require(
            tuple(logits.shape) == (2, classes),
            f"logits are (B, {classes}) for {channels} channels",
        )
        yield _require(
            features.ndim == 2 and features.shape[1] == model.head.in_features,
            "features are what the head reads",
        )
        yield _require(not torch.equal(logits[0], logits[1]), "different images, different logits")
    learned = copy.deepcopy(model)
    loss = torch.nn.functional.cross_entropy(learned.train()(x), torch.tensor([0, 1]))
    gradients = torch.autograd.grad(loss, list(learned.parameters()), allow_unused=True)
    yield _require(all(g is not None for g in gradients), "every parameter gets a gradient")


def _dataset(registry: Registry[Any], entry: Entry[Any], workshop: Workshop) -> Iterator[str]:
    if entry.factory.example is None:
        yield "needs a download or a path: only its documentation and imports are checked"
        return
    first, second = (_build(registry, entry, workshop).load() for _ in range(2))
    yield _require(_same(first.train, second.train), "the same rows every time")
    yield _require(_same(first.test, second.test), "the same test rows every time")
    both = np.concatenate([first.train.ids, first.test.ids])
    yield _require(len(np.unique(both)) == len(both), "ids are unique over train and test")
    present = np.unique(first.train.labels)
    yield _require(len(present) == first.train.num_classes, "every class has training rows")


def _generator(registry: Registry[Any], entry: Entry[Any], workshop: Workshop) -> Iterator[str]:
    generator = _build(registry, entry, workshop)
    images = _data(workshop).train.images[:64]
    models = [generator.train(images, 0, device="cpu") for _ in range(2)]
    states = [m.state_dict() for m in models]
    same = all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    yield _require(same, "the same seed, the same weights")
    with tempfile.TemporaryDirectory() as folder:
        generator.save(Path(folder), models[0], {})
        loaded = generator.load(Path(folder)).state_dict()
    same = all(torch.equal(states[0][k].cpu(), loaded[k]) for k in states[0])
    yield _require(same and loaded.keys() == states[0].keys(), "what is saved is what is loaded")
    yield _require(
        getattr(entry.factory.produces, "resource_kind", "") == "generator",
        "what it produces can be a parameter",
    )


def _scenario(registry: Registry[Any], entry: Entry[Any], workshop: Workshop) -> Iterator[str]:
    scenario, data = _build(registry, entry, workshop), _data(workshop)
    raw = {"name": "hlb_xs", "widths": [8, 8, 8], "recipe": {"epochs": 2, "batch_size": 32}}
    classifier = workshop.component(CLASSIFIERS, complete(CLASSIFIERS, raw, "example"))
    start = None
    if scenario.pretrained:
        start = workshop.resource("classifier", {**raw, "dataset": DATA, "seed": 0})
        before = {k: t.clone() for k, t in start.model.state_dict().items()}
    trained = [
        _untouched(scenario.train, data, classifier, start, data.train, stream(0, "train"))
        for _ in range(2)
    ]
    logits = [p.logits(data.test.images) for p in trained]
    yield _require(np.array_equal(*logits), "the same seed, the same victim")
    yield _require(logits[0].shape == (len(data.test), 10), "it predicts the classes of the data")
    if start is not None:
        after = start.model.state_dict()
        same = all(torch.equal(before[k], after[k]) for k in before)
        yield _require(same, "the weights it starts from are untouched")
