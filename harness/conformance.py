"""The rules that every component must keep, held against one of them on real data.

Each check runs the component with the small parameters that its class gives as ``example``, on the
embedded dataset ``shapes``. They are the same for what comes with the project and what does not.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from harness.artifacts import Store
from harness.catalogue import registry_of
from harness.conformance_calls import call
from harness.conformance_fresh import Fresh, fresh_interpreter
from harness.conformance_hooks import IDLE, hooks_of, hooks_outcome
from harness.conformance_outcomes import (
    build_example,
    example_data,
    example_spec,
    first_weights,
    of_array,
    of_dataset,
    of_defense,
    of_poisons,
    of_weights,
    start_of,
    told_example,
    train_generator,
    victim,
    victims_logits,
)
from harness.conformance_process import left_alone, process_wide
from harness.conformance_rules import Violation, require
from harness.core.data import Dataset, ImageSet, PoisonedSet, Probe
from harness.core.device import use_threads
from harness.core.params import ComponentSpec, check_offers, networks
from harness.core.protocols import Bounds, Oracle
from harness.core.registry import Entry, Registry, attribute_docs
from harness.core.seeds import stream
from harness.poisons import changed_rows
from harness.snapshots import snapshot_parameter
from harness.workshop import Workshop, purified_wrong

Elsewhere = Callable[[str], Iterator[str]]  # from what was made here to the rules kept elsewhere
NOBODYS_SEED = 7_316_298_104_553  # of which no component would think
FROM_RNG = "draw from the rng that it is given, and from what is derived from it, alone"


def check_component(kind: str, name: str) -> Iterator[str]:
    """Yield each rule that the component keeps, as it is found.

    Raises:
        Violation: At the first rule that it breaks.
        UsageError: If there is no such component, or it lacks a part of its kind's contract.
    """
    registry = registry_of(kind)
    before = process_wide()
    entry = registry.get(name)
    check_offers(registry.kind, entry)
    try:
        left_alone(before, "its import")
        yield from _documented(entry)
        with fresh_interpreter([(registry.kind, name)]) as fresh:
            yield from check_behaviour(kind, name, fresh)
            yield fresh.loads_alone()
    except Violation as violation:
        raise Violation(f"{registry.kind} {name!r} {violation}") from violation


def check_behaviour(kind: str, name: str, fresh: Fresh | None = None) -> Iterator[str]:
    """Yield each rule on what the component does (see :func:`check_component`).

    Args:
        kind: Of the component.
        name: Of the component.
        fresh: A fresh interpreter that runs it, too; without one, this one is believed.
    """
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

    def elsewhere(made: str) -> Iterator[str]:
        if fresh is not None:
            yield fresh.makes(registry.kind, name, made)

    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        torch.manual_seed(NOBODYS_SEED)  # a component that seeds torch is found by the difference
        workshop = Workshop(Store(Path(folder)), "cpu")
        yield from checks[registry.kind](registry, registry.get(name), workshop, elsewhere)


def _documented(entry: Entry[Any]) -> Iterator[str]:
    own = not entry.summary.startswith(f"{entry.factory.__name__}(")  # what dataclasses make up
    fits = own and 0 < len(entry.summary) < 100
    yield require(fits, "it has a one-line summary", "its docstring's first line, under 100 long")
    parameters = call(entry, lambda: entry.parameters, what="reading its fields")
    undocumented = [p.name for p in parameters.values() if not p.doc]
    yield require(not undocumented, f"each parameter is documented {undocumented or ''}".strip())
    known = {*parameters, *dir(entry.factory)}
    stale = [name for name in attribute_docs(entry.doc) if name not in known]
    yield require(not stale, f"each documented attribute is there {stale or ''}".strip())


def _same(a: ImageSet, b: ImageSet) -> bool:
    return a.digest == b.digest


def _untouched(
    entry: Entry[Any],
    data: Dataset,
    method: Callable[..., Any],
    *arguments: Any,
    returns: Any = object,
) -> Any:
    """Call a component and check that the data are what they were."""

    def content() -> list[bytes]:
        sets = (data.train, data.test)
        return [a.tobytes() for s in sets for a in (s.images, s.labels, s.ids)]

    before = content()
    try:
        result = call(entry, method, *arguments, returns=returns)
    except Violation as violation:
        error = violation.__cause__  # numpy's, on arrays that may not be written
        written = isinstance(error, ValueError) and "read-only" in str(error)
        require(not written, f"its input is untouched ({error})")
        raise
    require(content() == before, "its input is untouched")
    return result


def _before_networks(
    registry: Registry[Any], entry: Entry[Any], workshop: Workshop, look: Callable[[Any], Any]
) -> Iterator[str]:
    """Check what is done with a component when a study is checked, its networks not being there."""
    spec = example_spec(registry, entry)
    if networks(entry, spec):
        build = partial(workshop.component, registry, spec, check=True)
        call(entry, lambda: look(build()), what="a study's check")
        yield "a study can be checked before its networks are trained"


def _true_labels(probe: Probe, test: ImageSet) -> bool:
    known = np.isin(probe.images.ids, test.ids).all()
    return bool(known) and np.array_equal(
        probe.images.labels, test.labels[test.positions(probe.images.ids)]
    )


def _attack(
    registry: Registry[Any], entry: Entry[Any], workshop: Workshop, elsewhere: Elsewhere
) -> Iterator[str]:
    attack, data = build_example(registry, entry, workshop), example_data(workshop)
    target = entry.parameters.get(attack.target_field) if attack.target_field else None
    open_target = attack.target_field is None or (target is not None and target.required)
    rule = "its target_field is None or a parameter without a default"
    yield require(open_target, rule, f"it is {attack.target_field!r}")
    both = (data.train, data.test)
    yield from _before_networks(registry, entry, workshop, lambda a: a.check(*both))
    call(entry, attack.check, *both)
    poisoned: PoisonedSet = _untouched(
        entry, data, attack.poison, *both, stream(0, "attack"), returns=PoisonedSet
    )
    yield "its input is untouched"
    bounds: Bounds = call(entry, attack.bounds, data.train, returns=Bounds)
    yield from _poisons(entry, data, poisoned, bounds)
    again = call(entry, attack.poison, *both, stream(0, "attack"), returns=PoisonedSet)
    made = of_poisons(poisoned)
    yield require(made == of_poisons(again), "the same seed, the same bytes", FROM_RNG)
    yield from elsewhere(made)
    yield require(poisoned.goal == attack.goal, "it pursues the goal that it declares")
    truthful = all(_true_labels(probe, data.test) for probe in poisoned.probes)
    yield require(truthful, "its probes are test images with their true labels")


def _poisons(
    entry: Entry[Any], data: Dataset, poisoned: PoisonedSet, bounds: Bounds
) -> Iterator[str]:
    train = poisoned.train
    yield require(np.array_equal(train.ids, data.train.ids), "it keeps rows, order and ids")
    same = train.images.shape == data.train.images.shape
    same = same and train.num_classes == data.train.num_classes
    was, now = (f"{s.image_shape} and {s.num_classes}" for s in (data.train, train))
    but = f"they were {was}; they are {now}"
    yield require(same, "it keeps the images' shape and the number of classes", but)
    rows = changed_rows(data.train, train)
    relabelled = np.flatnonzero(train.labels != data.train.labels)
    touched = train.ids[np.union1d(rows, relabelled)]
    strays = int((~np.isin(touched, poisoned.poison_ids)).sum())
    but = f"{strays} rows do whose ids are not in poison_ids"
    yield require(not strays, "only poisons differ", but)
    poisons = len(poisoned.poison_ids)
    but = f"{poisons} poisons; its bounds say {bounds.rows}"
    yield require(poisons <= bounds.rows, "it keeps its budget", but)
    if entry.name != "none":
        yield require(len(touched) > 0, "it changes something")
    if bounds.keeps_labels:
        but = f"{len(relabelled)} differ"
        yield require(not len(relabelled), "it keeps labels, as it says", but)
    if bounds.eps_255 is not None and len(rows):
        moved = int(np.abs(train.images[rows].astype(int) - data.train.images[rows]).max())
        but = f"a byte moved by {moved}; its bounds say {bounds.eps_255}"
        yield require(moved <= bounds.eps_255, "it keeps its Linf bound", but)


def _defense(
    registry: Registry[Any], entry: Entry[Any], workshop: Workshop, elsewhere: Elsewhere
) -> Iterator[str]:
    spec, data = example_spec(registry, entry), example_data(workshop)
    defense, train = build_example(registry, entry, workshop), data.train
    if isinstance(defense, Oracle):
        defense = told_example(entry, defense, train)
        yield "it is an oracle, and told of the poisoned rows"
    yield from _before_networks(registry, entry, workshop, lambda d: (d.check(train), d.hooks()))
    call(entry, defense.check, train)

    def purify(rows: ImageSet) -> ImageSet:
        done: ImageSet = call(entry, defense.purify, rows, stream(0, "defense"), returns=ImageSet)
        return done

    purified: ImageSet = _untouched(
        entry, data, defense.purify, train, stream(0, "defense"), returns=ImageSet
    )
    yield "its input is untouched"
    wrong = purified_wrong(train, purified, rowwise=defense.rowwise)
    said = f" (it {wrong})" if wrong else ""
    yield require(not wrong, f"it changes pixels or leaves rows out, and nothing else{said}")
    hooks = hooks_of(entry, defense)
    in_training = hooks_outcome(entry, defense, purified)
    if entry.name != "none":
        moved = len(purified) < len(train) or not np.array_equal(purified.images, train.images)
        but = "no pixel and no row" + (f"; {IDLE}" if hooks else ", and it has no hooks")
        yield require(moved or in_training.acts, "it does something", but)
    if hooks:
        yield "its hooks return positions of rows, and batches of images"
        same = in_training == hooks_outcome(entry, defense, purified)
        yield require(same, "the same seed, the same batches", FROM_RNG)
    yield require(_same(purified, purify(train)), "the same seed, the same bytes", FROM_RNG)
    yield from elsewhere(of_defense(purified, in_training.digest))
    if defense.rowwise:
        rows = np.arange(5, len(train), 7)
        same = np.array_equal(purify(train.take(rows)).images, purified.images[rows])
        rule = "row-wise: a row's bytes do not depend on the other rows"
        but = "with seed = subseed(rng), stream(seed, id) draws for a row alone"
        yield require(same, rule, but)
    if snapshot_parameter(spec) is not None:
        yield _passes(registry, entry, spec, train, workshop)


def _passes(
    registry: Registry[Any],
    entry: Entry[Any],
    spec: ComponentSpec,
    train: ImageSet,
    workshop: Workshop,
) -> str:
    """Check that a chain, on its way, makes what separate purifications make."""
    name = str(snapshot_parameter(spec))
    values = [1, 2, spec.params[name] + 2]
    walker = workshop.component(registry, spec)

    def walk() -> list[ImageSet]:
        return list(walker.snapshots(train, stream(0, "defense"), values))

    passed = call(entry, walk, what="snapshots")
    alone = [
        call(
            entry, workshop.component(registry, spec.with_params(**{name: value})).purify, train,
            stream(0, "defense"), returns=ImageSet,
        )
        for value in values
    ]  # fmt: skip
    same = len(passed) == len(alone) and all(map(_same, passed, alone))
    return require(same, f"a chain over {name} passes what each value gives alone")


def _classifier(
    registry: Registry[Any], entry: Entry[Any], workshop: Workshop, elsewhere: Elsewhere
) -> Iterator[str]:
    classifier = build_example(registry, entry, workshop)
    for channels, classes in ((3, 10), (1, 4)):
        model = call(entry, classifier.build, classes, (channels, 32, 32), returns=nn.Module).eval()
        linear = isinstance(getattr(model, "head", None), nn.Linear)
        yield require(hasattr(model, "features") and linear, "it has features and a linear head")
        x = torch.rand(2, channels, 32, 32)
        with torch.inference_mode():
            logits = call(entry, model, x, returns=torch.Tensor, what="its network")
            features = call(entry, model.features, x, returns=torch.Tensor)
            alone = torch.cat([call(entry, model, one[None], what="its network") for one in x])
        yield require(
            tuple(logits.shape) == (2, classes),
            f"logits are (B, {classes}) for {channels} channels",
        )
        likely = bool((logits >= 0).all()) and torch.allclose(logits.sum(1), torch.ones(2))
        yield require(not likely, "it returns logits, no probabilities", "leave softmax out")
        same = torch.allclose(logits, alone, rtol=1e-3, atol=1e-4)
        rule = "in evaluation, an image's logits depend on that image alone"
        yield require(same, rule, "no statistics of the batch, no dropout")
        yield require(
            features.ndim == 2 and features.shape[1] == model.head.in_features,
            "features are what the head reads",
        )
        yield require(not torch.equal(logits[0], logits[1]), "different images, different logits")
    gradients = call(entry, partial(_gradients, model, x), what="training its network")
    yield require(all(g is not None for g in gradients), "every parameter gets a gradient")
    weights, others = (of_weights(first_weights(entry, classifier, seed)) for seed in (0, 1))
    yield require(weights != others, "another seed, other first weights", "build sets no seed")
    yield from elsewhere(weights)


def _gradients(model: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    learned = copy.deepcopy(model).train()
    loss = torch.nn.functional.cross_entropy(learned(x), torch.tensor([0, 1]))
    return torch.autograd.grad(loss, list(learned.parameters()), allow_unused=True)


def _dataset(
    registry: Registry[Any], entry: Entry[Any], workshop: Workshop, elsewhere: Elsewhere
) -> Iterator[str]:
    if entry.factory.example is None:
        yield "needs a download or a path: only its documentation and imports are checked"
        return
    first, second = (
        call(entry, build_example(registry, entry, workshop).load, returns=Dataset)
        for _ in range(2)
    )
    yield require(_same(first.train, second.train), "the same rows every time")
    yield require(_same(first.test, second.test), "the same test rows every time")
    yield from elsewhere(of_dataset(first))
    both = np.concatenate([first.train.ids, first.test.ids])
    yield require(len(np.unique(both)) == len(both), "ids are unique over train and test")
    present = np.unique(first.train.labels)
    yield require(len(present) == first.train.num_classes, "every class has training rows")


def _generator(
    registry: Registry[Any], entry: Entry[Any], workshop: Workshop, elsewhere: Elsewhere
) -> Iterator[str]:
    generator = build_example(registry, entry, workshop)
    models = [train_generator(entry, generator, workshop) for _ in range(2)]
    made, again = map(of_weights, models)
    yield require(made == again, "the same seed, the same weights")
    yield from elsewhere(made)
    with tempfile.TemporaryDirectory() as folder:
        call(entry, generator.save, Path(folder), models[0], {})
        loaded = call(entry, generator.load, Path(folder), returns=nn.Module)
    yield require(of_weights(loaded) == made, "what is saved is what is loaded")
    yield require(
        getattr(entry.factory.produces, "resource_kind", "") == "generator",
        "what it produces can be a parameter",
    )


def _scenario(
    registry: Registry[Any], entry: Entry[Any], workshop: Workshop, elsewhere: Elsewhere
) -> Iterator[str]:
    scenario, data = build_example(registry, entry, workshop), example_data(workshop)
    start = start_of(scenario, workshop)
    if start is not None:
        before = of_weights(start.model)
    trained = [
        _untouched(entry, data, partial(victim, entry, scenario, workshop)) for _ in range(2)
    ]
    logits = [victims_logits(entry, p, workshop) for p in trained]
    yield require(np.array_equal(logits[0], logits[1]), "the same seed, the same victim")
    yield from elsewhere(of_array(logits[0]))
    yield require(logits[0].shape == (len(data.test), 10), "it predicts the classes of the data")
    if start is not None:
        same = before == of_weights(start.model)
        yield require(same, "the weights it starts from are untouched")
