"""What a component must offer, and the registries that know them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from harness.core.data import Dataset, Goal, ImageSet, PoisonedSet
from harness.core.recipe import Recipe
from harness.core.registry import Registry


@dataclass(frozen=True, slots=True)
class Bounds:
    """What an attack promises of its poisons; the conformance kit holds it to them.

    Attributes:
        rows: Largest number of rows that it changes.
        eps_255: Largest change of one byte (Linf), or None for no bound.
        keeps_labels: Whether it is clean-label.
    """

    rows: int
    eps_255: int | None
    keeps_labels: bool


class Attack(Protocol):
    """An attack on training data: a frozen dataclass whose fields are its parameters.

    Class attributes:
        goal: How its success is counted.
        target_field: The field that a study's ``targets`` fill, or None.
        example: Small parameters with which the conformance kit runs it.
    """

    goal: ClassVar[Goal]
    target_field: ClassVar[str | None]
    example: ClassVar[Mapping[str, Any]]

    def check(self, train: ImageSet, test: ImageSet) -> None:
        """Raise a UsageError now for anything that these data make impossible."""
        ...

    def bounds(self, train: ImageSet) -> Bounds:
        """Return what holds for the poisons of this training set."""
        ...

    def poison(self, train: ImageSet, test: ImageSet, rng: np.random.Generator) -> PoisonedSet:
        """Return the poisoned training set and the probes that judge the attack."""
        ...


@runtime_checkable
class Restarted(Protocol):
    """An attack that tries several times and keeps the best try; each is a unit of work.

    Its ``poison`` is ``best`` of ``attempt`` for every number below ``tries()``.
    """

    def tries(self) -> int:
        """Return how many times it tries."""
        ...

    def attempt(
        self, train: ImageSet, test: ImageSet, rng: np.random.Generator, number: int
    ) -> PoisonedSet:
        """Return what one try makes; ``rng`` is that of ``poison``."""
        ...

    def best(self, tries: Sequence[PoisonedSet]) -> PoisonedSet:
        """Return the best of all tries, the first of equal ones."""
        ...


class TrainingHook(Protocol):
    """A defense's part in the training loop; what it returns is checked (harness.core.hooks)."""

    def before_epoch(
        self, epoch: int, train: ImageSet, model: nn.Module, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Return the positions in ``train`` to train on this epoch, each once, in any order."""
        ...

    def on_batch(self, x: Tensor, rows: NDArray[np.int64], rng: np.random.Generator) -> Tensor:
        """Return a batch, float32 (B, C, H, W) in [0, 1], changed or not, before augmentation.

        Noise may leave the range; shape, type and device stay.
        ``rows`` are the batch's positions in ``train``.
        """
        ...


class Defense(Protocol):
    """A defense: it changes the training set, the training, or both; it is told of no poison.

    Class attributes:
        rowwise: Whether a purified image depends on its own pixels, its id and the random stream
            alone. Then the harness purifies a clean image once for all attacks.
        example: Small parameters with which the conformance kit runs it.
    """

    rowwise: ClassVar[bool]
    example: ClassVar[Mapping[str, Any]]

    def check(self, train: ImageSet) -> None:
        """Raise a UsageError now for anything that these data make impossible."""
        ...

    def purify(self, train: ImageSet, rng: np.random.Generator) -> ImageSet:
        """Return the set to train on: other pixels, fewer rows, or the same."""
        ...

    def hooks(self) -> Sequence[TrainingHook]:
        """Return this defense's hooks for one training; often none."""
        ...


@runtime_checkable
class Oracle(Protocol):
    """A defense that is told what no defense knows; its docstring says so in the first line."""

    def told(self, poison_ids: NDArray[np.int64]) -> Defense:
        """Return the defense that knows the ids of the poisoned rows."""
        ...


class Snapshots(Protocol):
    """A row-wise defense that walks a chain, along which one of its parameters grows.

    What it makes with a small value of that parameter is passed on the way to a larger one. So
    defenses that differ in nothing else are made by one chain, at the cost of the longest.

    Class attributes:
        snapshots_over: Name of the parameter, an ``int``.
    """

    snapshots_over: ClassVar[str]

    def snapshots(
        self, train: ImageSet, rng: np.random.Generator, values: Sequence[int]
    ) -> Iterator[ImageSet]:
        """Yield, for each of ascending values, the bytes that ``purify`` returns with that value.

        Each is yielded before the chain goes on; ``rng`` is that of ``purify``.
        """
        ...


class Classifier(Protocol):
    """An architecture with the recipe it is trained by.

    Class attributes:
        example: Small parameters with which the conformance kit runs it.
    """

    example: ClassVar[Mapping[str, Any]]

    @property
    def recipe(self) -> Recipe:
        """How it is trained unless the study says otherwise."""
        ...

    def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        """Return a network: float (B, C, H, W) in [0, 1] → logits (B, num_classes).

        It has ``features(x)`` (B, D) and the linear layer ``head``.
        """
        ...


class Generator(Protocol):
    """A kind of generative model that can be trained on images and loaded again.

    Class attributes:
        produces: Type of the trained model; it has ``resource_kind = "generator"``.
        example: Small parameters with which the conformance kit runs it.

    A class may have ``check(images)`` too, which raises a UsageError where it cannot be trained on
    these images; it is called before anything is started or written. And ``untrained(images)``,
    which returns the model that training on them would, without its values: attacks and defenses
    are then checked against it before it is trained.
    """

    produces: ClassVar[type]
    example: ClassVar[Mapping[str, Any]]

    def train(
        self,
        images: NDArray[np.uint8],
        seed: int,
        *,
        device: str = "auto",
        checkpoint: Path | None = None,
        on_progress: Callable[[Any], None] | None = None,
    ) -> Any:
        """Train on uint8 (N, C, H, W) and return the model; goes on from ``checkpoint``.

        ``on_progress`` is told ``iteration``, ``iterations``, ``seconds``, ``summary`` (a text)
        and ``images`` (float (B, C, H, W) in [-1, 1], for a picture).
        """
        ...

    @staticmethod
    def save(folder: Path, model: Any, note: Mapping[str, Any]) -> None:
        """Write a trained model into a folder, with a note of how it came to be."""
        ...

    @staticmethod
    def load(path: Path, device: str = "cpu") -> Any:
        """Read a model that :meth:`save` wrote, or a published checkpoint of this kind."""
        ...


class DatasetSource(Protocol):
    """A source of images.

    Class attributes:
        example: Small parameters with which the conformance kit runs it, or None where it needs a
            download.
    """

    example: ClassVar[Mapping[str, Any] | None]

    def load(self) -> Dataset:
        """Return its training and test set; the same rows in the same order every time."""
        ...


class Scenario(Protocol):
    """How a victim comes to its weights.

    Class attributes:
        pretrained: Whether the victim starts from weights that its classifier names.
        example: Small parameters with which the conformance kit runs it.
    """

    pretrained: ClassVar[bool]
    example: ClassVar[Mapping[str, Any]]

    def train(
        self,
        classifier: Classifier,
        start: Any,
        train: ImageSet,
        rng: np.random.Generator,
        *,
        hooks: Sequence[TrainingHook] = (),
        device: Any = "cpu",
        on_epoch: Callable[[Any, nn.Module], None] | None = None,
        checkpoint: Any = None,
    ) -> Any:
        """Train a victim and return it as a :class:`harness.training.Predictor`.

        ``start`` is a predictor with the pretrained weights, or None; ``checkpoint`` is where the
        training is kept on its way (:class:`harness.training.Checkpoint`), or None. A scenario
        without that argument is right too: its trials begin anew when they are killed.
        """
        ...


ATTACKS: Registry[Attack] = Registry("attack", "attacks")
DEFENSES: Registry[Defense] = Registry("defense", "defenses")
CLASSIFIERS: Registry[Classifier] = Registry("classifier", "harness.classifiers")
DATASETS: Registry[DatasetSource] = Registry("dataset", "harness.datasets")
GENERATORS: Registry[Generator] = Registry("generator", "generative.trainers")
SCENARIOS: Registry[Scenario] = Registry("scenario", "harness.scenarios")
REGISTRIES: dict[str, Registry[Any]] = {
    r.kind: r for r in (ATTACKS, DEFENSES, CLASSIFIERS, DATASETS, GENERATORS, SCENARIOS)
}
