"""Makes what trials need, each thing once: datasets, trained networks, poisons, purified rows.

What is costly goes into the store, so that another trial, worker or run finds it there; what is
read often stays in this process's memory too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from harness.artifacts import Made, Store
from harness.core.data import Dataset, ImageSet, PoisonedSet, Probe
from harness.core.device import channels_last, pick_device, pick_dtype
from harness.core.errors import DataError, NoEffect
from harness.core.files import file_digest, read_arrays, write_arrays
from harness.core.params import ComponentSpec, construct, references
from harness.core.protocols import ATTACKS, CLASSIFIERS, DATASETS, DEFENSES, GENERATORS
from harness.core.registry import Entry, Registry
from harness.core.seeds import stream
from harness.core.spec import digest
from harness.core.subset import per_class
from harness.core.values import Json, is_path
from harness.training import Predictor, build_model, fit

BLOCK = 512  # clean rows purified, kept and lost as one; it changes no byte
RECENT = 4  # poisoned sets kept in memory


class Deferred:
    """Stands for a resource that is not needed yet: when the driver only checks a component."""


@dataclass
class Workshop:
    """One process's access to datasets, networks and the store.

    Attributes:
        store: Where artefacts are kept.
        device: Where networks run: ``auto``, ``cpu`` or ``cuda[:i]``.
    """

    store: Store
    device: str = "auto"
    _memory: dict[str, Any] = field(default_factory=dict)
    _recent: dict[str, Any] = field(default_factory=dict)

    def _remember(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._memory:
            self._memory[name] = make()
        return self._memory[name]

    def _remember_recent(self, name: str, make: Callable[[], Any]) -> Any:
        """Remember the last few only: for what is as large as a training set."""
        if name not in self._recent:
            self._recent[name] = make()
            while len(self._recent) > RECENT:
                self._recent.pop(next(iter(self._recent)))
        return self._recent[name]

    # Datasets

    def dataset(self, spec: ComponentSpec) -> Dataset:
        """Return a dataset, loaded once per process, after its subset keys."""
        name = f"dataset {digest(spec.to_json())}"
        data: Dataset = self._remember(name, lambda: _load(spec))
        return data

    # Resources: what a parameter can refer to

    def identity(self, kind: str, reference: Mapping[str, Json]) -> Json:
        """Return what a reference stands for, by content: data and weights by their digest."""
        if kind == "dataset":
            train = self.dataset(ComponentSpec.from_json(reference)).train
            return {"dataset": train.digest}
        if "path" in reference:
            return {"weights": file_digest(Path(reference["path"]))}
        return self._trained_key(kind, reference)

    def _trained_key(self, kind: str, reference: Mapping[str, Json]) -> dict[str, Json]:
        parts = {k: v for k, v in reference.items() if k != "dataset"}
        return self.store.key(
            kind, {"model": parts, "data": self.identity("dataset", reference["dataset"])}
        )

    def prepare(self, kind: str, reference: Mapping[str, Json]) -> Made | None:
        """Make a resource so that the store has it; None where there is nothing to make."""
        if kind == "dataset" or "path" in reference:
            return None
        return self._trained(kind, reference)[1]

    def resource(self, kind: str, reference: Mapping[str, Json]) -> Any:
        """Return a resource: the image set, the trained classifier, the generator."""
        if kind == "dataset":
            return self.dataset(ComponentSpec.from_json(reference)).train
        name = f"{kind} {digest(dict(reference))}"
        return self._remember(name, lambda: self._read_model(kind, reference))

    def _read_model(self, kind: str, reference: Mapping[str, Json]) -> Any:
        if "path" in reference:
            return GENERATORS.get("ebm").factory.load(Path(reference["path"]), self._torch_device)
        return self._trained(kind, reference)[0]

    @property
    def _torch_device(self) -> str:
        return str(pick_device(self.device))

    def _trained(self, kind: str, reference: Mapping[str, Json]) -> tuple[Any, Made]:
        train_and_read = self._classifier if kind == "classifier" else self._generator
        return train_and_read(reference, self._trained_key(kind, reference))

    def _classifier(
        self, reference: Mapping[str, Json], key: dict[str, Json]
    ) -> tuple[Predictor, Made]:
        images = self.resource("dataset", reference["dataset"])
        classifier = construct(CLASSIFIERS, _component(reference), {})
        device = pick_device(self.device)
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

    def _generator(self, reference: Mapping[str, Json], key: dict[str, Json]) -> tuple[Any, Made]:
        generator = construct(GENERATORS, _component(reference), {})

        def make(folder: Path) -> None:
            images = self.resource("dataset", reference["dataset"]).images
            # Outside the artefact's folder: a training that is killed goes on from here.
            checkpoint = self.store.folder(key).with_suffix(".training.safetensors")
            model = generator.train(
                images, int(reference["seed"]), device=self._torch_device, checkpoint=checkpoint
            )
            generator.save(folder, model, dict(reference))
            checkpoint.unlink(missing_ok=True)

        return self.store.recall(key, make, lambda f: generator.load(f, self._torch_device))

    # Components

    def component(
        self, registry: Registry[Any], spec: ComponentSpec, *, check: bool = False
    ) -> Any:
        """Build a component; with ``check``, without training or reading any network."""
        entry = registry.get(spec.name)
        loaded = {
            name: Deferred() if check and kind != "dataset" else self.resource(kind, reference)
            for name, (kind, reference) in references(entry, spec).items()
        }
        return construct(registry, spec, loaded)

    def component_identity(self, entry: Entry[Any], spec: ComponentSpec) -> Json:
        """Return a component's spec with references and files replaced by their content."""
        params = dict(spec.params)
        for name, (kind, reference) in references(entry, spec).items():
            params[name] = self.identity(kind, reference)
        for name, parameter in entry.parameters.items():
            if is_path(parameter.type) and params.get(name) is not None:
                params[name] = {"file": file_digest(Path(params[name]))}
        return {"name": spec.name, **params}

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
            crafted = build.poison(data.train, data.test, stream(seed, "attack"))
            if not len(crafted.poison_ids):
                raise NoEffect(f"attack {attack.name!r} changed no row.")
            write_arrays(folder / "poison.npz", _pack_poison(crafted))

        def read(folder: Path) -> PoisonedSet:
            return _unpack_poison(read_arrays(folder / "poison.npz"), data)

        name = f"poison {digest(key)}"
        found: tuple[PoisonedSet, Made] = self._remember_recent(
            name, lambda: self.store.recall(key, make, read)
        )
        return found

    # Purified rows

    def purified(
        self, data: Dataset, poisoned: ImageSet, defense: ComponentSpec, seed: int
    ) -> tuple[ImageSet, Made]:
        """Return the purified training set.

        A row-wise defense sees each clean row once for all attacks, and then only those that an
        attack changed; the result is the same as of one call on the whole set.
        """
        if defense.name == "none":
            return poisoned, Made(False, 0.0)
        entry = DEFENSES.get(defense.name)
        if not entry.factory.rowwise:
            return self._purify(poisoned, entry, defense, seed)
        blocks = [self._purify(b, entry, defense, seed) for b in self._blocks(data)]
        images = np.concatenate([block.images for block, _ in blocks])
        changed = changed_rows(data.train, poisoned)
        costs = [made for _, made in blocks]
        if len(changed):
            images = images.copy()
            rest, made = self._purify(poisoned.take(changed), entry, defense, seed)
            images[changed] = rest.images
            costs.append(made)
        if np.array_equal(images, poisoned.images):
            raise NoEffect(f"defense {defense.name!r} changed no byte of the training set.")
        total = Made(all(m.reused for m in costs), sum(m.seconds for m in costs))
        return poisoned.with_images(images), total

    def purify_key(self, images: ImageSet, defense: ComponentSpec, seed: int) -> dict[str, Json]:
        """Return the key of some rows after a defense."""
        identity = self.component_identity(DEFENSES.get(defense.name), defense)
        parts = {"defense": identity, "input": images.digest, "seed": seed}
        return self.store.key("purified", parts)

    def _purify(
        self, images: ImageSet, entry: Entry[Any], defense: ComponentSpec, seed: int
    ) -> tuple[ImageSet, Made]:
        key = self.purify_key(images, defense, seed)

        def make(folder: Path) -> None:
            build = self.component(DEFENSES, defense)
            done: ImageSet = build.purify(images, stream(seed, "defense"))
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

    def _blocks(self, data: Dataset) -> list[ImageSet]:
        name = f"blocks {data.train.digest}"
        blocks: list[ImageSet] = self._remember(name, lambda: clean_blocks(data.train))
        return blocks

    def purify_block(self, data: Dataset, defense: ComponentSpec, seed: int, block: int) -> Made:
        """Purify one block of the clean rows, so that the store has it."""
        rows = self._blocks(data)[block]
        return self._purify(rows, DEFENSES.get(defense.name), defense, seed)[1]


def clean_blocks(train: ImageSet) -> list[ImageSet]:
    """Return the clean rows in the fixed blocks in which they are purified and kept."""
    return [
        train.take(np.arange(i, min(i + BLOCK, len(train)))) for i in range(0, len(train), BLOCK)
    ]


def changed_rows(clean: ImageSet, poisoned: ImageSet) -> NDArray[np.int64]:
    """Return the positions of the rows whose pixels an attack changed.

    Raises:
        DataError: If the attack added, removed or reordered rows.
    """
    if not np.array_equal(clean.ids, poisoned.ids):
        raise DataError("an attack must keep the rows and their order.")
    different = np.any(clean.images != poisoned.images, axis=(1, 2, 3))
    return np.flatnonzero(different).astype(np.int64)


def _load(spec: ComponentSpec) -> Dataset:
    data: Dataset = construct(DATASETS, spec, {}).load()
    train, test = data.train, data.test
    if "train_per_class" in spec.params:
        train = per_class(train, spec.params["train_per_class"])
    if "test_per_class" in spec.params:
        test = per_class(test, spec.params["test_per_class"])
    empty = np.flatnonzero(np.bincount(train.labels, minlength=train.num_classes) == 0)
    if len(empty):
        names = ", ".join(data.class_names[i] for i in empty[:5])
        raise DataError(f"dataset {spec.name!r}: {len(empty)} classes have no row ({names}).")
    return Dataset(train, test, data.class_names)


def _component(reference: Mapping[str, Json]) -> ComponentSpec:
    own = {k: v for k, v in reference.items() if k not in ("dataset", "seed")}
    return ComponentSpec.from_json(own)


def _pack_poison(crafted: PoisonedSet) -> dict[str, NDArray[Any]]:
    """Return the changed rows and the probes as plain arrays."""
    rows = crafted.train.positions(crafted.poison_ids)
    arrays: dict[str, NDArray[Any]] = {
        "poison_ids": crafted.poison_ids,
        "images": crafted.train.images[rows],
        "labels": crafted.train.labels[rows],
        "goal": np.array(crafted.goal),
        "probe_names": np.array([p.name for p in crafted.probes], dtype=np.str_),
        "detail_names": np.array(list(crafted.details), dtype=np.str_),
        "detail_values": np.array(list(crafted.details.values()), dtype=np.float64),
    }
    if crafted.trigger is not None:
        arrays["trigger"] = crafted.trigger
    for index, probe in enumerate(crafted.probes):
        arrays[f"probe{index}_images"] = probe.images.images
        arrays[f"probe{index}_labels"] = probe.images.labels
        arrays[f"probe{index}_ids"] = probe.images.ids
        arrays[f"probe{index}_adv"] = probe.adv_labels
    return arrays


def _unpack_poison(arrays: Mapping[str, NDArray[Any]], data: Dataset) -> PoisonedSet:
    clean = data.train
    rows = clean.positions(arrays["poison_ids"])
    images, labels = clean.images.copy(), clean.labels.copy()
    images[rows], labels[rows] = arrays["images"], arrays["labels"]
    probes = tuple(
        Probe(
            str(name),
            ImageSet(
                arrays[f"probe{i}_images"],
                arrays[f"probe{i}_labels"],
                arrays[f"probe{i}_ids"],
                clean.num_classes,
            ),
            arrays[f"probe{i}_adv"],
        )
        for i, name in enumerate(arrays["probe_names"])
    )
    return PoisonedSet(
        ImageSet(images, labels, clean.ids, clean.num_classes),
        arrays["poison_ids"],
        probes,
        str(arrays["goal"]),  # type: ignore[arg-type]
        dict(
            zip(map(str, arrays["detail_names"]), map(float, arrays["detail_values"]), strict=True)
        ),
        arrays.get("trigger"),
    )
