"""Hidden-trigger backdoor: poisons that look like their class and feel like triggered images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks._patch import Patch
from attacks._pgd import check_classes
from attacks._setups import BaseRule, choose_bases, mean_losses
from attacks._surrogate_features import FeatureReader
from attacks._triggered import check_label, triggered_probes
from harness.core.data import Goal, ImageSet, PoisonedSet
from harness.core.errors import DataError
from harness.core.optimizers import Adam
from harness.core.pixels import add_within, to_float
from harness.core.protocols import ATTACKS, Bounds
from harness.core.seeds import stream, subseed
from harness.training import Predictor


@dataclass(frozen=True, slots=True, kw_only=True)
class Hiding:
    """How poisons are crafted.

    The published code takes 5,000 plain gradient steps of 0.001, whose length hangs on the scale of
    the network's features; Adam's does not.

    Attributes:
        iterations: Updates of the poisons.
        lr: Step of Adam as a share of the bound.
        decay: Factor on the step, applied ``decays`` times at even distances.
        decays: See ``decay``; 2 x 0.95 in the published 5,000 iterations.
        match_every: Iterations between two matchings of poisons with triggered images.
    """

    iterations: int = 1000
    lr: float = 0.08
    decay: float = 0.95
    decays: int = 2
    match_every: int = 10

    def __post_init__(self) -> None:
        if min(self.iterations, self.match_every) < 1 or self.decays < 0:
            raise DataError(
                "iterations and match_every must be at least 1, and decays not negative; "
                f"got {self.iterations}, {self.match_every} and {self.decays}."
            )
        if not self.lr > 0 or not 0 < self.decay <= 1:
            raise DataError(
                f"lr must be above 0 and decay in (0, 1]; got {self.lr} and {self.decay}."
            )

    def rate(self, iteration: int) -> float:
        """Return the step of an iteration, in shares of the bound.

        >>> [round(Hiding(iterations=30).rate(i), 4) for i in (0, 9, 10, 29)]
        [0.08, 0.08, 0.076, 0.0722]
        """
        passed = iteration * (self.decays + 1) // self.iterations
        return self.lr * self.decay**passed


def match(features: Sequence[Tensor], wanted: Sequence[Tensor]) -> NDArray[np.int64]:
    """Return which wanted feature each poison shall approach, (P,): all different.

    The sum of squared distances, over networks too, is the smallest of all ways to pair them.
    (The published code takes the closest pair again and again.)

    Args:
        features: Of each network (P, D).
        wanted: Of each network (P, D).
    """
    from scipy.optimize import linear_sum_assignment  # slow to import, and needed nowhere else

    pairs = zip(features, wanted, strict=True)
    cost = torch.stack([torch.cdist(f.double(), w.double()).square() for f, w in pairs]).sum(0)
    _, chosen = linear_sum_assignment(cost.cpu().numpy())
    return np.asarray(chosen, np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Crafted:
    """Poisons, and how near they came.

    Attributes:
        images: uint8 (P, C, H, W), within the bound of the bases.
        distance_before, distance: Mean squared distance in feature space of the bases, and of
            ``images``, from the triggered images that they are matched with.
    """

    images: NDArray[np.uint8]
    distance_before: float
    distance: float


def craft(
    bases: NDArray[np.uint8],
    triggered: NDArray[np.uint8],
    surrogates: Sequence[Predictor],
    eps_255: int,
    hiding: Hiding,
) -> Crafted:
    """Move images until their features are those of triggered images, one each; no draw is made.

    Args:
        bases: uint8 (P, C, H, W), of the adversary's class.
        triggered: uint8 (P, C, H, W), of the source class with the trigger.
        surrogates: Networks whose features are matched; they are copied.
        eps_255: Linf bound in grey levels.
        hiding: Settings.

    Source: Saha et al. 2020, arXiv 1910.00033, algorithm 1.
    """
    readers = [
        FeatureReader(s, with_map=False, layer="", dropout=0.0, repeats=1) for s in surrogates
    ]
    device = readers[0].device
    start = to_float(bases, device).contiguous(memory_format=torch.channels_last)
    wanted = _features(readers, to_float(triggered, device))
    x = _optimise(start, readers, wanted, eps_255 / 255, hiding)
    delta: NDArray[np.float32] = (x - start).cpu().numpy()
    images = add_within(bases, delta, eps_255)
    found = Crafted(
        images,
        _distance(_features(readers, start), wanted),
        _distance(_features(readers, to_float(images, device)), wanted),
    )
    if not np.isfinite(found.distance):
        raise DataError("the poisons' features are not finite; lower lr, or look at the networks.")
    return found


def _features(readers: Sequence[FeatureReader], x: Tensor) -> list[Tensor]:
    """Return each network's features of images (P, C, H, W): (P, D)."""
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        return [reader.read(x, 1)[-1][0] for reader in readers]


def _distance(features: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    chosen = torch.from_numpy(match(features, wanted)).to(features[0].device)
    each = [(f - w[chosen]).square().sum(1) for f, w in zip(features, wanted, strict=True)]
    return float(torch.stack(each).mean())


def _optimise(
    start: Tensor,
    readers: Sequence[FeatureReader],
    wanted: Sequence[Tensor],
    eps: float,
    hiding: Hiding,
) -> Tensor:
    low, high = (start - eps).clamp_(min=0), (start + eps).clamp_(max=1)
    x = start.clone().requires_grad_()
    adam = Adam([x])
    aims = list(wanted)
    for iteration in range(hiding.iterations):
        # All networks at once: the matching needs the features of all before any loss.
        features = [reader.read(x, 1)[-1][0] for reader in readers]
        if iteration % hiding.match_every == 0:
            chosen = torch.from_numpy(match([f.detach() for f in features], wanted)).to(x.device)
            aims = [w[chosen] for w in wanted]
        # The sum: Adam takes no notice of its scale, and an image's step not of its neighbours.
        losses = [(f - a).square().sum() for f, a in zip(features, aims, strict=True)]
        (x.grad,) = torch.autograd.grad(torch.stack(losses).sum(), [x])
        adam.param_groups[0]["lr"] = eps * hiding.rate(iteration)
        adam.step()
        with torch.no_grad():
            x.clamp_(low, high)
    return x.detach()


@ATTACKS.register(paper="arXiv:1910.00033")
@dataclass(frozen=True, slots=True, kw_only=True)
class Htbd:
    """Perturbs images of a class to have the features of triggered images of another class.

    Clean-label, and the trigger appears in no training image. For victims that transfer: a head on
    the attacker's features that learns the poisons' label gives it to triggered images too. At test
    time images of the *source* class with the trigger shall get ``adv_label``; a second probe asks
    all other classes.

    Attributes:
        adv_label: Class of the poisons; the label that the attacker wants to see.
        surrogates: Trained networks whose features are matched together.
        source_label: Class whose triggered images are attacked; drawn unless given.
        eps_255: Linf bound in grey levels; 16 in the paper, 8 in *Just How Toxic*.
        poisons: Images that are perturbed; 25 in *Just How Toxic*'s transfer, 500 from scratch.
        bases: Which rows of the class: ``random`` ones, the ``first`` ones, or those of
            ``highest_loss`` under the surrogates.
        patch: The trigger; 5 pixels from the corner of 32 published, so that no crop loses it.
        hiding: How poisons are crafted.
    """

    adv_label: int
    surrogates: tuple[Predictor, ...]
    source_label: int | None = None
    eps_255: int = 8
    poisons: int = 25
    bases: BaseRule = "random"
    patch: Patch = field(default_factory=lambda: Patch(size_px=5, margin_px=5, pattern="random"))
    hiding: Hiding = field(default_factory=Hiding)

    goal: ClassVar[Goal] = "triggered"
    target_field: ClassVar[str | None] = "adv_label"
    example: ClassVar[Mapping[str, Any]] = {
        "adv_label": 0,
        "surrogates": [
            {
                "name": "hlb_xs",
                "widths": [8, 8, 8],
                "recipe": {"epochs": 2, "lr": 0.1},
                "dataset": {"name": "shapes", "train": 120, "test": 12},
            }
        ],
        "poisons": 5,
        "hiding": {"iterations": 20},
    }

    def __post_init__(self) -> None:
        if not self.surrogates:
            raise DataError("surrogates must hold at least one network.")
        if not 1 <= self.eps_255 <= 255:
            raise DataError(f"eps_255 is in grey levels, 1..255; got {self.eps_255}.")
        if self.poisons < 1:
            raise DataError(f"poisons must be at least 1; got {self.poisons}.")
        if self.source_label == self.adv_label:
            raise DataError(f"source_label and adv_label must differ; both are {self.adv_label}.")

    def check(self, train: ImageSet, test: ImageSet) -> None:
        """Check labels, patch and number of rows against the data."""
        check_label(self.adv_label, train)
        self.patch.check(train)
        rows = int(np.sum(train.labels == self.adv_label))
        if self.poisons > rows:
            raise DataError(f"{self.poisons} poisons are more than the {rows} rows of the class.")
        eligible = self._sources(train, test)
        if self.source_label is None and not len(eligible):
            raise DataError("no other class has both training and test images.")
        if self.source_label is not None and self.source_label not in eligible:
            raise DataError(
                f"source_label is {self.source_label}; classes with training and test images are "
                f"{', '.join(map(str, eligible))}."
            )

    def _sources(self, train: ImageSet, test: ImageSet) -> NDArray[np.int64]:
        return np.setdiff1d(np.intersect1d(train.labels, test.labels), [self.adv_label])

    def bounds(self, train: ImageSet) -> Bounds:
        """Return that the poisons are rows of one class, labels kept, within ``eps_255``."""
        return Bounds(rows=self.poisons, eps_255=self.eps_255, keeps_labels=True)

    def poison(self, train: ImageSet, test: ImageSet, rng: np.random.Generator) -> PoisonedSet:
        """Choose source class and rows, craft, and probe triggered test images."""
        self.check(train, test)
        seed = subseed(rng)
        trigger = self.patch.draw(train.image_shape, stream(seed, "patch"))
        source = self.source_label
        if source is None:
            source = int(stream(seed, "source").choice(self._sources(train, test)))
        rows = self._rows(train, stream(seed, "bases"))
        of_source = np.flatnonzero(train.labels == source)
        # With replacement only where the class is too small: the matching needs as many as poisons.
        again = len(of_source) < self.poisons
        sources = stream(seed, "sources").choice(of_source, self.poisons, replace=again)
        triggered = trigger.paste(train.images[sources])
        crafted = craft(train.images[rows], triggered, self.surrogates, self.eps_255, self.hiding)
        images = train.images.copy()
        images[rows] = crafted.images
        details = {
            "source_label": float(source),
            "feature_distance_before": crafted.distance_before,
            "feature_distance": crafted.distance,
        }
        of_test = (("source", test.take(test.labels == source)), ("all", test))
        probes = [
            probe
            for name, images in of_test
            for probe in triggered_probes(images, self.adv_label, [(name, trigger.paste)])
        ]
        return PoisonedSet(
            train.with_images(images), train.ids[rows], tuple(probes), self.goal, details
        )

    def _rows(self, train: ImageSet, rng: np.random.Generator) -> NDArray[np.int64]:
        scores = None
        if self.bases == "highest_loss":
            for surrogate in self.surrogates:
                check_classes(surrogate, train)
            scores = mean_losses(self.surrogates, train.take(train.labels == self.adv_label))
        return choose_bases(train, self.adv_label, self.poisons, self.bases, rng, scores)
