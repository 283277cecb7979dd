"""Datasets, components and the networks that they refer to, each read or trained once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from generative.hub import weights_folder
from harness.artifacts import Made, Store
from harness.classifier_weights import load_weights
from harness.core.data import Dataset
from harness.core.device import channels_last, pick_device, pick_dtype, use_device
from harness.core.errors import DataError
from harness.core.files import file_digest, read_arrays, write_arrays
from harness.core.params import ComponentSpec, construct, is_trained, references
from harness.core.protocols import CLASSIFIERS, DATASETS, DEFENSES, GENERATORS, REGISTRIES
from harness.core.registry import Entry, Registry
from harness.core.seeds import stream
from harness.core.spec import digest
from harness.core.values import Json, is_path
from harness.recent import Recent
from harness.training import Predictor, build_model, fit
from harness.workshop.deferred import Deferred
from harness.workshop.loading import Outline, load_dataset

# What stays in memory.
KEPT_DATASETS = 6  # a trial may want its own, public ones, and what these were cut from
KEPT_NETWORK_BYTES = 2**30  # of a GPU that several processes may share


@dataclass
class Networks:
    """One process's access to datasets, components and networks.

    Attributes:
        store: Where artefacts are kept.
        device: Where networks run: ``auto``, ``cpu`` or ``cuda[:i]``.
        here: Whether they do so in this process. The driver of a cluster, which may have no GPU,
            reads them on its CPU, to check them.
        outlines: Of datasets, by the hash of their specs. Workers are told those that the driver
            has read: a key needs the digest of the data that a network was trained on, which may
            be far larger than the victims', and nothing else of it.
        session: Name of a driver's workshop and of those that work for it. What one has read of
            files stays as it was; another run has another workshop, and reads them anew.
    """

    store: Store
    device: str = "auto"
    here: bool = True
    outlines: dict[str, Outline] = field(default_factory=dict)
    session: str = field(default_factory=lambda: uuid4().hex)
    _identities: dict[str, Json] = field(default_factory=dict)
    _datasets: Recent[Dataset] = field(default_factory=lambda: Recent(KEPT_DATASETS))
    _networks: Recent[Any] = field(
        default_factory=lambda: Recent(KEPT_NETWORK_BYTES, _weight_bytes)
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
        """Return a dataset after its subset keys, loaded where it is not kept in memory.

        Raises:
            DataError: If it is not what was read under this spec before, here or by the driver.
        """
        name = digest(spec.to_json())
        return self._datasets.get(name, lambda: self._read_dataset(name, spec))

    def _read_dataset(self, name: str, spec: ComponentSpec) -> Dataset:
        data = load_dataset(self.component(DATASETS, spec), spec)
        found = Outline.of(data.train)
        if self.outlines.setdefault(name, found) != found:
            raise DataError(
                f"dataset {spec.name!r} is not what was read when the study was checked: its files "
                "have changed, or this node has others."
            )
        return data

    def outline(self, reference: Mapping[str, Json]) -> Outline:
        """Return what is known of a dataset; it is read only where nothing is."""
        spec = ComponentSpec.from_json(reference)
        name = digest(spec.to_json())
        if name not in self.outlines:
            self.dataset(spec)
        return self.outlines[name]

    def for_workers(self) -> dict[str, Json]:
        """Return what a process has to be told to work for this one."""
        outlines = {name: asdict(outline) for name, outline in self.outlines.items()}
        where = {"store": self.store.address, "device": self.device}
        return {**where, "session": self.session, "outlines": outlines}

    # Resources: what a parameter can refer to

    def identity(self, kind: str, reference: Mapping[str, Json]) -> Json:
        """Return what a reference stands for, by content: data and weights by their digest."""
        if kind == "dataset":
            return {"dataset": self.outline(reference).digest}
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
        rows = self.outline(reference["dataset"])
        classifier = construct(CLASSIFIERS, _component(reference), {})
        device = self._torch_device
        rng = stream(int(reference["seed"]), "classifier")
        model = build_model(classifier.build, rows.num_classes, rows.image_shape, rng)

        def make(folder: Path) -> None:
            images = self.resource("dataset", reference["dataset"])
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
