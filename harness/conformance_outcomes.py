"""What a component makes of the example data and a fixed seed, as a digest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from harness.conformance_calls import call
from harness.conformance_hooks import hooks_outcome
from harness.conformance_rules import require
from harness.core.data import Dataset, ImageSet, PoisonedSet
from harness.core.params import ComponentSpec, complete
from harness.core.protocols import CLASSIFIERS, DATASETS, Oracle
from harness.core.registry import Entry, Registry
from harness.core.seeds import stream
from harness.training import build_model
from harness.workshop import Workshop

DATA: dict[str, Any] = {"name": "shapes", "train": 300, "test": 100}
VICTIM: dict[str, Any] = {
    "name": "hlb_xs", "widths": [8, 8, 8], "recipe": {"epochs": 2, "batch_size": 32},
}  # fmt: skip


def example_data(workshop: Workshop) -> Dataset:
    """Return the data that components are run on."""
    return workshop.dataset(complete(DATASETS, DATA, "dataset"))


def example_spec(registry: Registry[Any], entry: Entry[Any]) -> ComponentSpec:
    """Return a component with the parameters of its example."""
    example = entry.factory.example
    require(isinstance(example, Mapping), f"example is a mapping; it is {example!r}")
    return complete(registry, {"name": entry.name, **example}, "example")


def build_example(registry: Registry[Any], entry: Entry[Any], workshop: Workshop) -> Any:
    """Return a component with the parameters of its example, built."""
    spec = example_spec(registry, entry)
    return call(entry, partial(workshop.component, registry, spec), what="its construction")


def told_example(entry: Entry[Any], defense: Any, train: ImageSet) -> Any:
    """Return a defense, an oracle told of some rows."""
    if not isinstance(defense, Oracle):
        return defense
    return call(entry, defense.told, train.ids[::10])


def outcome(registry: Registry[Any], entry: Entry[Any], workshop: Workshop) -> str:
    """Run a component, and return what it makes as a digest; "" for what is not run."""
    if entry.factory.example is None:
        return ""
    return _OUTCOMES[registry.kind](entry, build_example(registry, entry, workshop), workshop)


def _attack(entry: Entry[Any], attack: Any, workshop: Workshop) -> str:
    data, rng = example_data(workshop), stream(0, "attack")
    return of_poisons(call(entry, attack.poison, data.train, data.test, rng, returns=PoisonedSet))


def _defense(entry: Entry[Any], defense: Any, workshop: Workshop) -> str:
    train = example_data(workshop).train
    told, rng = told_example(entry, defense, train), stream(0, "defense")
    purified = call(entry, told.purify, train, rng, returns=ImageSet)
    return of_defense(purified, hooks_outcome(entry, told, purified).digest)


def _classifier(entry: Entry[Any], classifier: Any, workshop: Workshop) -> str:
    return of_weights(first_weights(entry, classifier))


def first_weights(entry: Entry[Any], classifier: Any, seed: int = 0) -> nn.Module:
    """Return a network as a seed makes it."""
    build = partial(build_model, classifier.build, 10, (3, 32, 32), stream(seed, "model"))
    model: nn.Module = call(entry, build, returns=nn.Module, what="build")
    return model


def _dataset(entry: Entry[Any], source: Any, workshop: Workshop) -> str:
    return of_dataset(call(entry, source.load, returns=Dataset))


def _generator(entry: Entry[Any], generator: Any, workshop: Workshop) -> str:
    return of_weights(train_generator(entry, generator, workshop))


def train_generator(entry: Entry[Any], generator: Any, workshop: Workshop) -> nn.Module:
    """Return a generator trained with the seed 0."""
    images = example_data(workshop).train.images[:64]
    train = partial(generator.train, images, 0, device="cpu")
    model: nn.Module = call(entry, train, returns=nn.Module, what="train")
    return model


def _scenario(entry: Entry[Any], scenario: Any, workshop: Workshop) -> str:
    return of_array(victims_logits(entry, victim(entry, scenario, workshop), workshop))


def victim(entry: Entry[Any], scenario: Any, workshop: Workshop) -> Any:
    """Return a victim that a scenario trains."""
    classifier = workshop.component(CLASSIFIERS, complete(CLASSIFIERS, VICTIM, "example"))
    train, rng = example_data(workshop).train, stream(0, "train")
    return call(entry, scenario.train, classifier, start_of(scenario, workshop), train, rng)


def victims_logits(entry: Entry[Any], trained: Any, workshop: Workshop) -> NDArray[np.float32]:
    """Return what a victim says of the test images."""
    images = example_data(workshop).test.images
    logits: NDArray[np.float32] = call(
        entry, lambda: trained.logits(images), returns=np.ndarray, what="the victim's logits"
    )
    return logits


def start_of(scenario: Any, workshop: Workshop) -> Any:
    """Return the weights that a scenario's victim starts from, or None."""
    if not scenario.pretrained:
        return None
    return workshop.resource("classifier", {**VICTIM, "dataset": DATA, "seed": 0})


_OUTCOMES: dict[str, Callable[[Entry[Any], Any, Workshop], str]] = {
    "attack": _attack,
    "defense": _defense,
    "classifier": _classifier,
    "dataset": _dataset,
    "generator": _generator,
    "scenario": _scenario,
}


def of_poisons(made: PoisonedSet) -> str:
    """Return the digest of a poisoned set."""
    parts = [made.train.digest, made.goal, of_array(made.poison_ids)]
    for probe in made.probes:
        parts += [probe.name, probe.images.digest, of_array(probe.adv_labels)]
    if made.trigger is not None:
        parts.append(of_array(made.trigger))
    return _of(*parts)


def of_defense(purified: ImageSet, hooks: str) -> str:
    """Return the digest of what a defense makes of rows and in a training."""
    return _of(purified.digest, hooks)


def of_dataset(data: Dataset) -> str:
    """Return the digest of a dataset."""
    return _of(data.train.digest, data.test.digest)


def of_weights(model: nn.Module) -> str:
    """Return the digest of a network's weights."""
    state = model.state_dict()
    return _of(*(part for k in state for part in (k, of_array(state[k].cpu().numpy()))))


def of_array(array: NDArray[Any]) -> str:
    """Return the digest of an array."""
    content = np.ascontiguousarray(array).tobytes()
    return _of(f"{array.dtype} {array.shape}", hashlib.sha256(content).hexdigest())


def _of(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
