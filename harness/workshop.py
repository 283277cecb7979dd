"""Makes what trials need, each thing once: datasets, trained networks, poisons, purified rows.

What is costly goes into the store, so that another trial, worker or run finds it there; what was
read last stays in this process's memory too.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from generative.hub import weights_folder
from harness.artifacts import Made, Store
from harness.classifier_weights import load_weights
from harness.core.data import Dataset, ImageSet, PoisonedSet
from harness.core.device import channels_last, pick_device, pick_dtype, use_device
from harness.core.errors import FAILURES, DataError, NoEffect, UsageError
from harness.core.files import file_digest, read_arrays, write_arrays
from harness.core.params import ComponentSpec, construct, is_trained, references
from harness.core.protocols import (
    ATTACKS,
    CLASSIFIERS,
    DATASETS,
    DEFENSES,
    GENERATORS,
    REGISTRIES,
    DatasetSource,
    Oracle,
    Restarted,
)
from harness.core.registry import Entry, Registry, failure
from harness.core.seeds import stream
from harness.core.spec import digest
from harness.core.subset import per_class
from harness.core.values import Json, is_path
from harness.poisons import changed_rows, check_poison, pack, unpack
from harness.recent import Recent
from harness.snapshots import snapshot_parameter
from harness.training import Predictor, build_model, fit

BLOCK = 512  # clean rows purified, kept and lost as one; it changes no byte
# What stays in memory.
KEPT_DATASETS = 6  # a trial may want its own, public ones, and what these were cut from
KEPT_POISONED_SETS = 4
KEPT_NETWORK_BYTES = 2**30  # of a GPU that several processes may share


class NotTrainedYet(UsageError, AttributeError):
    """A component looks at a network before it is there; an AttributeError for ``hasattr``."""


class Deferred:
    """Stands for a network of which nothing is known yet: when the driver checks a component."""

    def __getattr__(self, name: str) -> Any:
        raise NotTrainedYet(
            f"it asks for {name!r} of a network that is not trained yet when a study is checked: "
            "construction, check() and hooks() do without; poison() and purify() may ask."
        )

    def __call__(self, *_: Any) -> Any:
        """Refuse to be called, as a network that is not there."""
        return self.__getattr__("__call__")


@dataclass
class Workshop:
    """One process's access to datasets, networks and the store.

    Attributes:
        store: Where artefacts are kept.
        device: Where networks run: ``auto``, ``cpu`` or ``cuda[:i]``.
        here: Whether they do so in this process. The driver of a cluster, which may have no GPU,
            reads them on its CPU, to check them.
    """

    store: Store
    device: str = "auto"
    here: bool = True
    _identities: dict[str, Json] = field(default_factory=dict)
    _datasets: Recent[Dataset] = field(default_factory=lambda: Recent(KEPT_DATASETS))
    _blocks: WeakKeyDictionary[ImageSet, list[ImageSet]] = field(default_factory=WeakKeyDictionary)
    _networks: Recent[Any] = field(
        default_factory=lambda: Recent(KEPT_NETWORK_BYTES, _weight_bytes)
    )
    _poisoned: Recent[tuple[PoisonedSet, Made]] = field(
        default_factory=lambda: Recent(KEPT_POISONED_SETS)
    )

    def __post_init__(self) -> None:
        # For components that have no network, whose device they would take.
        use_device(self.device if self.here else "cpu")

    def _identity(self, name: str, make: Callable[[], Json]) -> Json:
        """Return what stands for something; it is a few words, and all of them are kept."""
        if name not in self._identities:
            self._identities[name] = make()
        return self._identities[name]

    # Datasets

    def dataset(self, spec: ComponentSpec) -> Dataset:
        """Return a dataset after its subset keys, loaded where it is not kept in memory."""
        name = digest(spec.to_json())
        return self._datasets.get(name, lambda: _load(self.component(DATASETS, spec), spec))

    # Resources: what a parameter can refer to

    def identity(self, kind: str, reference: Mapping[str, Json]) -> Json:
        """Return what a reference stands for, by content: data and weights by their digest."""
        if kind == "dataset":
            data = ComponentSpec.from_json(reference)
            name = f"dataset {digest(data.to_json())}"
            return self._identity(name, lambda: {"dataset": self.dataset(data).train.digest})
        if kind == "defense":
            spec = ComponentSpec.from_json(reference)
            return self.component_identity(DEFENSES.get(spec.name), spec)
        if is_trained(reference):
            return self._trained_key(kind, reference)
        place = ("path", "hub", "revision", "recipe")
        rest = {k: v for k, v in reference.items() if k not in place}
        return {"weights": file_digest(weights_folder(reference)), **rest}

    def _trained_key(self, kind: str, reference: Mapping[str, Json]) -> dict[str, Json]:
        parts = {k: v for k, v in reference.items() if k != "dataset"}
        parts["code"] = REGISTRIES[kind].get(reference["name"]).code
        return self.store.key(
            kind, {"model": parts, "data": self.identity("dataset", reference["dataset"])}
        )

    def prepare(self, kind: str, reference: Mapping[str, Json]) -> Made | None:
        """Make a resource so that the store has it; None where there is nothing to make."""
        return self._trained(kind, reference)[1] if is_trained(reference) else None

    def check_trained(self, kind: str, reference: Mapping[str, Json]) -> None:
        """Check what can be checked of a training before it: its parameters and its data."""
        component = construct(REGISTRIES[kind], _component(reference), {})
        train = self.dataset(ComponentSpec.from_json(reference["dataset"])).train
        if kind == "generator":
            check_generator(component, train.images)

    def resource(self, kind: str, reference: Mapping[str, Json]) -> Any:
        """Return a resource: the image set, the trained classifier, the generator, the defense."""
        if kind == "dataset":
            return self.dataset(ComponentSpec.from_json(reference)).train
        if kind == "defense":
            return self.component(DEFENSES, ComponentSpec.from_json(reference))
        name = f"{kind} {digest(dict(reference))}"
        return self._networks.get(name, lambda: self._read_model(kind, reference))

    def _read_model(self, kind: str, reference: Mapping[str, Json]) -> Any:
        if is_trained(reference):
            return self._trained(kind, reference)[0]
        if kind == "classifier":
            return self._published(reference)
        generator = GENERATORS.get(reference["name"]).factory
        return generator.load(weights_folder(reference), str(self._torch_device))

    @property
    def _torch_device(self) -> torch.device:
        return pick_device(self.device if self.here else "cpu")

    def _trained(self, kind: str, reference: Mapping[str, Json]) -> tuple[Any, Made]:
        train_and_read = self._classifier if kind == "classifier" else self._generator
        return train_and_read(reference, self._trained_key(kind, reference))

    def _classifier(
        self, reference: Mapping[str, Json], key: dict[str, Json]
    ) -> tuple[Predictor, Made]:
        images = self.resource("dataset", reference["dataset"])
        classifier = construct(CLASSIFIERS, _component(reference), {})
        device = self._torch_device
        rng = stream(int(reference["seed"]), "classifier")
        model = build_model(classifier.build, images.num_classes, images.image_shape, rng)

        def make(folder: Path) -> None:
            fit(model, images, classifier.recipe, rng, device=device)
            arrays = {name: t.cpu().numpy() for name, t in model.state_dict().items()}
            write_arrays(folder / "weights.npz", arrays)

        def read(folder: Path) -> Predictor:
            arrays = read_arrays(folder / "weights.npz")
            model.load_state_dict({name: torch.from_numpy(a) for name, a in arrays.items()})
            ready = channels_last(model.to(device)).eval()
            return Predictor(ready, pick_dtype(classifier.recipe.precision, device))

        return self.store.recall(key, make, read)

    def _published(self, reference: Mapping[str, Json]) -> Predictor:
        """Return a classifier with weights from a file."""
        own = {k: v for k, v in reference.items() if k not in ("path", "mean", "std")}
        classifier = construct(CLASSIFIERS, ComponentSpec.from_json(own), {})
        device = self._torch_device
        model = load_weights(
            classifier, Path(reference["path"]), reference.get("mean"), reference.get("std")
        )
        ready = channels_last(model.to(device)).eval()
        return Predictor(ready, pick_dtype(classifier.recipe.precision, device))

    def _generator(self, reference: Mapping[str, Json], key: dict[str, Json]) -> tuple[Any, Made]:
        generator = construct(GENERATORS, _component(reference), {})

        def make(folder: Path) -> None:
            images = self.resource("dataset", reference["dataset"]).images
            # Outside the artefact's folder: a training that is killed goes on from here.
            checkpoint = self.store.folder(key).with_suffix(".training.safetensors")
            seed, device = int(reference["seed"]), str(self._torch_device)
            model = generator.train(images, seed, device=device, checkpoint=checkpoint)
            generator.save(folder, model, dict(reference))
            checkpoint.unlink(missing_ok=True)

        return self.store.recall(key, make, lambda f: generator.load(f, str(self._torch_device)))

    # Components

    def component(
        self, registry: Registry[Any], spec: ComponentSpec, *, check: bool = False
    ) -> Any:
        """Build a component; with ``check``, without training any network."""
        loaded: dict[str, Any] = {}
        for reference in references(registry.get(spec.name), spec):
            value = self._referred(reference.kind, reference.raw, check)
            if reference.many:
                loaded[reference.parameter] = (*loaded.get(reference.parameter, ()), value)
            else:
                loaded[reference.parameter] = value
        return construct(registry, spec, loaded)

    def _referred(self, kind: str, raw: Mapping[str, Json], check: bool) -> Any:
        if kind == "defense":
            return self.component(DEFENSES, ComponentSpec.from_json(raw), check=check)
        if check and kind != "dataset" and is_trained(raw):
            return self._untrained(kind, raw)
        return self.resource(kind, raw)

    def _untrained(self, kind: str, reference: Mapping[str, Json]) -> Any:
        """Return what stands for a network that is checked before it is trained."""
        if kind == "generator":
            generator = construct(GENERATORS, _component(reference), {})
            if hasattr(generator, "untrained"):
                return generator.untrained(self.resource("dataset", reference["dataset"]).images)
        return Deferred()

    def start(self, classifier: ComponentSpec) -> Predictor | None:
        """Return the weights that a victim starts from, or None for one without."""
        reference = classifier.params.get("pretrained")
        return None if reference is None else self.resource("classifier", reference)

    def component_identity(self, entry: Entry[Any], spec: ComponentSpec) -> Json:
        """Return a component's spec with references and files replaced by their content."""
        name = f"{entry.origin} {digest(spec.to_json())}"
        return self._identity(name, lambda: self._component_identity(entry, spec))

    def _component_identity(self, entry: Entry[Any], spec: ComponentSpec) -> Json:
        params = dict(spec.params)
        for reference in references(entry, spec):
            name, identity = reference.parameter, self.identity(reference.kind, reference.raw)
            if reference.many:
                before = params[name] if isinstance(params[name], tuple) else ()
                params[name] = (*before, identity)
            else:
                params[name] = identity
        for name, parameter in entry.parameters.items():
            if is_path(parameter.type) and params.get(name) is not None:
                params[name] = {"file": file_digest(Path(params[name]))}
        return {"name": spec.name, "code": entry.code, **params}

    # Poisons

    def poison_key(self, data: Dataset, attack: ComponentSpec, seed: int) -> dict[str, Json]:
        """Return the key of an attack's poisons on a dataset."""
        return self.store.key(
            "poison",
            {
                "attack": self.component_identity(ATTACKS.get(attack.name), attack),
                "train": data.train.digest,
                "test": data.test.digest,
                "seed": seed,
            },
        )

    def poisoned(self, data: Dataset, attack: ComponentSpec, seed: int) -> tuple[PoisonedSet, Made]:
        """Return the poisoned set of an attack: from memory, the store, or crafted now."""
        if attack.name == "none":
            crafted = self.component(ATTACKS, attack).poison(data.train, data.test, stream(seed))
            return crafted, Made(False, 0.0)
        key = self.poison_key(data, attack, seed)

        def make(folder: Path) -> None:
            build = self.component(ATTACKS, attack)
            if self.tries(attack) > 1:
                numbers = range(build.tries())
                crafted = build.best([self.attempt(data, attack, seed, n)[0] for n in numbers])
            else:
                crafted = build.poison(data.train, data.test, stream(seed, "attack"))
            try:
                check_poison(data.train, crafted, build.bounds(data.train))
            except UsageError as error:
                raise type(error)(f"attack {attack.name!r}: {error}") from None
            write_arrays(folder / "poison.npz", pack(crafted))

        def read(folder: Path) -> PoisonedSet:
            return unpack(read_arrays(folder / "poison.npz"), data.train)

        name = digest(key)
        there = name in self._poisoned
        crafted, made = self._poisoned.get(name, lambda: self.store.recall(key, make, read))
        return crafted, replace(made, reused=made.reused or there)

    def tries(self, attack: ComponentSpec) -> int:
        """Return how many times an attack tries, each a unit of work; 1 for most."""
        if not issubclass(ATTACKS.get(attack.name).factory, Restarted):
            return 1
        build: Restarted = self.component(ATTACKS, attack, check=True)
        return build.tries()

    def attempt(
        self, data: Dataset, attack: ComponentSpec, seed: int, number: int
    ) -> tuple[PoisonedSet, Made]:
        """Return one try of an attack that tries several times."""

        def make(folder: Path) -> None:
            build = self.component(ATTACKS, attack)
            rng = stream(seed, "attack")
            crafted = build.attempt(data.train, data.test, rng, number)
            write_arrays(folder / "poison.npz", pack(crafted))

        def read(folder: Path) -> PoisonedSet:
            return unpack(read_arrays(folder / "poison.npz"), data.train)

        return self.store.recall(self.try_key(data, attack, seed, number), make, read)

    def try_key(
        self, data: Dataset, attack: ComponentSpec, seed: int, number: int
    ) -> dict[str, Json]:
        """Return the key of one try."""
        return {**self.poison_key(data, attack, seed), "kind": "try", "number": number}

    # Purified rows

    def purified(
        self,
        data: Dataset,
        poisoned: PoisonedSet,
        defense: ComponentSpec,
        seed: int,
        earlier: Sequence[int] = (),
    ) -> tuple[ImageSet, Made]:
        """Return the purified training set.

        A row-wise defense sees each clean row once for all attacks, and then only those that an
        attack changed; the result is the same as of one call on the whole set. Only an oracle is
        told which rows are poisoned. Of the rows that an attack changed, the store has then also
        what the defense's chain was at ``earlier`` values of the parameter it runs over.
        """
        train = poisoned.train
        if defense.name == "none":
            return train, Made(False, 0.0)
        told = self._told(defense, poisoned)
        if is_rowwise(defense):
            purified, made = self._purify_by_row(data, train, defense, seed, earlier)
        else:
            purified, made = self._purify(train, defense, seed, told)
        same = np.array_equal(purified.images, train.images)
        if same and told is None and not self.component(DEFENSES, defense).hooks():
            raise NoEffect(f"defense {defense.name!r} changed no byte and dropped no row.")
        return purified, made

    def _told(self, defense: ComponentSpec, poisoned: PoisonedSet) -> NDArray[np.int64] | None:
        """Return the poisoned rows' ids for an oracle, and nothing for any other defense."""
        oracle = issubclass(DEFENSES.get(defense.name).factory, Oracle)
        return np.sort(poisoned.poison_ids) if oracle else None

    def _purify_by_row(
        self,
        data: Dataset,
        poisoned: ImageSet,
        defense: ComponentSpec,
        seed: int,
        earlier: Sequence[int],
    ) -> tuple[ImageSet, Made]:
        blocks = [self._purify(block, defense, seed) for block in self.blocks(data.train)]
        images = np.concatenate([block.images for block, _ in blocks])
        costs = [made for _, made in blocks]
        changed = changed_rows(data.train, poisoned)
        if len(changed):
            rest, made = self._purify_chain(poisoned.take(changed), defense, seed, earlier)
            images[changed] = rest.images
            costs.append(made)
        total = Made(all(m.reused for m in costs), sum(m.seconds for m in costs))
        return poisoned.with_images(images), total

    def has_purified(
        self, data: Dataset, poisoned: PoisonedSet, defense: ComponentSpec, seed: int
    ) -> bool:
        """Whether the store has what a defense makes of the rows that an attack changed."""
        train = poisoned.train
        if is_rowwise(defense):
            changed = changed_rows(data.train, train)
            if not len(changed):
                return True
            train = train.take(changed)
        told = self._told(defense, poisoned)
        return self.store.has(self.purify_key(train, defense, seed, told))

    def purify_key(
        self,
        images: ImageSet,
        defense: ComponentSpec,
        seed: int,
        told: NDArray[np.int64] | None = None,
    ) -> dict[str, Json]:
        """Return the key of some rows after a defense."""
        identity = self.component_identity(DEFENSES.get(defense.name), defense)
        parts: dict[str, Json] = {"defense": identity, "input": images.digest, "seed": seed}
        if told is not None:
            parts["told"] = told.tolist()
        return self.store.key("purified", parts)

    def _purify(
        self,
        images: ImageSet,
        defense: ComponentSpec,
        seed: int,
        told: NDArray[np.int64] | None = None,
    ) -> tuple[ImageSet, Made]:
        def purify() -> ImageSet:
            build = self.component(DEFENSES, defense)
            if told is not None:
                build = build.told(told)
            done: ImageSet = build.purify(images, stream(seed, "defense"))
            return done

        key = self.purify_key(images, defense, seed, told)
        return self._recall_purified(key, images, defense, purify)

    def _purify_chain(
        self, images: ImageSet, defense: ComponentSpec, seed: int, earlier: Sequence[int]
    ) -> tuple[ImageSet, Made]:
        """Purify rows, and keep what they were where the chain passed earlier values.

        A snapshot is made while the next one waits for it, so that each artefact's seconds are
        those of the chain up to it.
        """
        if not earlier:
            return self._purify(images, defense, seed)
        over = str(snapshot_parameter(defense))
        keys = {
            value: self.purify_key(images, defense.with_params(**{over: value}), seed)
            for value in sorted({*earlier, defense.params[over]})
        }
        *before, last = keys
        values = [*(v for v in before if not self.store.has(keys[v])), last]

        def walk() -> Iterator[tuple[int, ImageSet]]:
            build = self.component(DEFENSES, defense)
            passed = build.snapshots(images, stream(seed, "defense"), values)
            yield from zip(values, passed, strict=True)

        chain = walk()

        def recall(index: int) -> tuple[ImageSet, Made]:
            def go_on() -> ImageSet:
                if index:
                    recall(index - 1)
                return next(rows for value, rows in chain if value == values[index])

            return self._recall_purified(keys[values[index]], images, defense, go_on)

        found = recall(len(values) - 1)
        for value in values[:-1]:  # where another process had made the last one meanwhile
            if not self.store.has(keys[value]):
                self._purify(images, defense.with_params(**{over: value}), seed)
        return found

    def _recall_purified(
        self,
        key: dict[str, Json],
        images: ImageSet,
        defense: ComponentSpec,
        purify: Callable[[], ImageSet],
    ) -> tuple[ImageSet, Made]:
        def make(folder: Path) -> None:
            done = purify()
            _check_purified(images, done, defense.name, rowwise=is_rowwise(defense))
            arrays: dict[str, NDArray[Any]] = {
                "images": done.images,
                "labels": done.labels,
                "ids": done.ids,
            }
            write_arrays(folder / "rows.npz", arrays)

        def read(folder: Path) -> ImageSet:
            arrays = read_arrays(folder / "rows.npz")
            return ImageSet(num_classes=images.num_classes, **arrays)

        return self.store.recall(key, make, read)

    def blocks(self, train: ImageSet) -> list[ImageSet]:
        """Return the clean rows in the fixed blocks in which they are purified and kept."""
        if train not in self._blocks:  # whose digests cost more than they do
            self._blocks[train] = list(_blocks(train))
        return self._blocks[train]

    def purify_block(
        self,
        data: Dataset,
        defense: ComponentSpec,
        seed: int,
        block: int,
        earlier: Sequence[int] = (),
    ) -> Made:
        """Purify one block of the clean rows, so that the store has it.

        It then has what the defense's chain was at ``earlier`` values of its parameter, too.
        """
        return self._purify_chain(self.blocks(data.train)[block], defense, seed, earlier)[1]


def best_of(try_key: dict[str, Json]) -> dict[str, Json]:
    """Return the key of the poisons that a try is one of."""
    return {k: v for k, v in try_key.items() if k != "number"} | {"kind": "poison"}


def is_rowwise(defense: ComponentSpec) -> bool:
    """Whether a defense, and each that it is made of, looks at a row alone."""
    entry = DEFENSES.get(defense.name)
    parts = [r.raw for r in references(entry, defense) if r.kind == "defense"]
    return bool(entry.factory.rowwise) and all(
        is_rowwise(ComponentSpec.from_json(part)) for part in parts
    )


def _blocks(train: ImageSet) -> Iterator[ImageSet]:
    for start in range(0, len(train), BLOCK):
        part = slice(start, start + BLOCK)  # a view: no copy of the pixels
        yield ImageSet(train.images[part], train.labels[part], train.ids[part], train.num_classes)


def _check_purified(before: ImageSet, after: ImageSet, name: str, *, rowwise: bool) -> None:
    broken = purified_wrong(before, after, rowwise=rowwise)
    if broken:
        raise DataError(f"defense {name!r} {broken}.")


def _cut(images: ImageSet, part: str, spec: ComponentSpec) -> ImageSet:
    """Return the rows of a part that the subset keys of a dataset leave."""
    count = spec.params.get(f"{part}_per_class")
    skip = spec.params.get(f"{part}_skip_per_class", 0)
    if count is None and not skip:
        return images
    try:
        return per_class(images, count, skip)
    except DataError as error:
        key = f"{part}_per_class" if count is not None else f"{part}_skip_per_class"
        raise DataError(f"dataset {spec.name!r}, {key}: {error}") from None


def purified_wrong(before: ImageSet, after: ImageSet, *, rowwise: bool) -> str:
    """Return what a defense did beside changing pixels and leaving rows out, or ""."""
    if not len(after):
        return "left no row"
    if rowwise and not np.array_equal(before.ids, after.ids):
        return "is row-wise, and did not keep the rows and their order"
    if not np.isin(after.ids, before.ids).all():
        return "made up rows"
    if not np.array_equal(before.labels[before.positions(after.ids)], after.labels):
        return "changed labels"
    if before.image_shape != after.image_shape or before.num_classes != after.num_classes:
        return "changed the images' shape or the number of classes"
    return ""


def _load(source: DatasetSource, spec: ComponentSpec) -> Dataset:
    try:
        data = source.load()
    except UsageError:
        raise
    except FAILURES as error:
        raise failure(f"dataset {spec.name!r}", DATASETS.get(spec.name), error) from error
    train, test = _cut(data.train, "train", spec), _cut(data.test, "test", spec)
    empty = np.flatnonzero(np.bincount(train.labels, minlength=train.num_classes) == 0)
    if len(empty):
        names = ", ".join(data.class_names[i] for i in empty[:5])
        raise DataError(f"dataset {spec.name!r}: {len(empty)} classes have no row ({names}).")
    return Dataset(train, test, data.class_names)


def check_generator(generator: Any, images: NDArray[np.uint8]) -> None:
    """Check that a generator can be trained on images, as far as its kind has a check of that."""
    check = getattr(generator, "check", None)
    if check is not None:
        check(images)


def _weight_bytes(network: Any) -> int:
    """Return what a network takes; a generator that is no module of torch counts as nothing."""
    module = network.model if isinstance(network, Predictor) else network
    if not isinstance(module, nn.Module):
        return 0
    return sum(weights.nbytes for weights in itertools.chain(module.parameters(), module.buffers()))


def _component(reference: Mapping[str, Json]) -> ComponentSpec:
    own = {k: v for k, v in reference.items() if k not in ("dataset", "seed")}
    return ComponentSpec.from_json(own)
