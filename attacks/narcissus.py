"""Narcissus: a clean-label backdoor from one class's images and public data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from attacks._aware import Aware
from attacks._trigger_search import TriggerSearch, find_trigger
from attacks._triggered import Rule, check_label, choose_rows, triggered_probes
from generative.ebm import EBM, check_energy_takes
from harness.core.data import Goal, ImageSet, PoisonedSet
from harness.core.errors import DataError
from harness.core.pixels import add_within
from harness.core.protocols import ATTACKS, Bounds
from harness.training import Predictor

CLASS_SHARE = 0.1  # unless a share is given
LEAST_REACH = 0.6  # of the bound; a search reaches all of it, and units of [0, 1] read as half
_TINY_POOD = {"name": "shapes", "kind": "pood", "train": 120, "test": 12}


def read_trigger(path: Path, eps_255: int) -> NDArray[np.float32]:
    """Read a published trigger file.

    Args:
        path: ``.npy``, float (1, C, H, W) or (C, H, W) in units of [-1, 1], as in the repositories
            of Narcissus (``resnet18_trigger.npy``) and PureGen (``best_noise_lab{c}.npy``).
        eps_255: Bound that it must keep, in grey levels.

    Returns:
        float32 (C, H, W) in units of [0, 1].

    Raises:
        DataError: If the file is missing, no such array, not finite, breaks the bound, or stays so
            far within it that it is in other units.
    """
    try:
        raw = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        # numpy's own words may advise to unpickle, which can run code.
        reason = error.strerror if isinstance(error, OSError) else "it is no plain array"
        raise DataError(f"trigger {str(path)!r} cannot be read as .npy: {reason}.") from error
    if not isinstance(raw, np.ndarray) or raw.dtype.kind != "f":
        raise DataError(f"trigger {str(path)!r} must be one array of floats.")
    delta = raw[0] if raw.ndim == 4 and len(raw) == 1 else raw
    if delta.ndim != 3 or not np.all(np.isfinite(delta)):
        raise DataError(f"trigger {str(path)!r} must be finite and (1, C, H, W); got {raw.shape}.")
    largest = float(np.abs(delta).max()) * 127.5
    hint = None
    if largest > eps_255 + 0.01:
        hint = " It may be in units of 0..255." if largest > 255 else ""
    elif largest < LEAST_REACH * eps_255:
        hint = " It may be in units of [0, 1]; if not, give the bound that it keeps."
    if hint is not None:
        raise DataError(
            f"trigger {str(path)!r} reaches {largest:.2f} grey levels when read in units of "
            f"[-1, 1]; eps_255 is {eps_255}.{hint}"
        )
    return (delta / 2).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Crafted:
    """A trigger and the rows that bear it.

    Attributes:
        rows: int64, positions in the training set, ascending.
        delta: float32 (C, H, W) in units of [0, 1].
        details: What the search noted; empty for a published trigger.
    """

    rows: NDArray[np.int64]
    delta: NDArray[np.float32]
    details: dict[str, float]


@ATTACKS.register(paper="arXiv:2204.05255")
@dataclass(frozen=True, slots=True, kw_only=True)
class Narcissus:
    """Adds one small pattern to images of a class, labels kept; the pattern then means the class.

    The attacker knows images of one class and public ones, not the victim's network. At test time
    the pattern, magnified if need be, makes any image be taken for that class. Success is the share
    of test images of the other classes that get ``adv_label``.

    With a ``generator`` the attacker knows the defense PureGen-EBM and purifies images with it
    (arXiv 2405.18627, the defense-aware Narcissus of its appendix, with 50 steps): those that the
    surrogate learns the class from, those that the trigger is sought on, or both.

    Attributes:
        adv_label: The class; the label that the attacker wants to see.
        surrogate: Classifier of public images; needed unless ``trigger`` is given.
        pood: Public out-of-distribution images that the surrogate was trained on; likewise.
        trigger: Published trigger file to use instead of searching one (see
            :func:`read_trigger`).
        seen: Images with the victim's classes, on whose ``adv_label`` the trigger is sought; the
            victim's training set unless given. PureGen's fine-tuned victims learn from 50 images
            of a class, and meet the trigger of all 5,000.
        eps_255: Linf bound in grey levels; 8, 16 and 64 in PureGen, 16 in the paper.
        class_share: Share of the class that is poisoned, in (0, 1]; 0.1 unless ``budget`` is given.
        budget: Share of the whole training set that is poisoned, in (0, 1], instead.
        select: Which rows of the class: the ``last`` ones (PureGen on CIFAR-10), the ``first``
            ones, or ``random`` ones (paper).
        magnifications: Factors on the trigger at test time; the first gives the headline rate.
        search: How the trigger is sought.
        generator: Energy network of the defense that the attacker knows.
        aware: Where images are purified: in the training of the ``surrogate`` on the class, in the
            ``search`` of the trigger, in ``both``, or ``no``-where.
        aware_steps: Langevin steps of that purification.
        aware_gradient: The search's gradient through the steps: ``full``, the derivative, which for
            this piecewise linear energy is the identity almost everywhere; ``straight_through``,
            the identity at once, the same trigger in less time; or ``secant``, with the energy's
            curvature over the width of a step's noise, at three times the time: the one that sees
            which patterns the steps take away.
    """

    adv_label: int
    surrogate: Predictor | None = None
    pood: ImageSet | None = None
    trigger: Path | None = None
    seen: ImageSet | None = None
    eps_255: int = 8
    class_share: float | None = None
    budget: float | None = None
    select: Rule = "last"
    magnifications: tuple[int, ...] = (1, 2, 3)
    search: TriggerSearch = field(default_factory=TriggerSearch)
    generator: EBM | None = None
    aware: Literal["no", "surrogate", "search", "both"] = "no"
    aware_steps: int = 50
    aware_gradient: Literal["full", "straight_through", "secant"] = "straight_through"

    goal: ClassVar[Goal] = "triggered"
    target_field: ClassVar[str | None] = "adv_label"
    example: ClassVar[Mapping[str, Any]] = {
        "adv_label": 1,
        "class_share": 0.5,
        "surrogate": {
            "name": "hlb_xs",
            "widths": [8, 8, 8],
            "recipe": {"epochs": 1},
            "dataset": _TINY_POOD,
        },
        "pood": _TINY_POOD,
        "search": {"class_epochs": 1, "warmup_epochs": 1, "steps": 30},
    }

    def __post_init__(self) -> None:
        if not 1 <= self.eps_255 <= 255:
            raise DataError(f"eps_255 is in grey levels, 1..255; got {self.eps_255}.")
        if self.class_share is not None and self.budget is not None:
            raise DataError(
                "give class_share, a share of the class, or budget, a share of the training set; "
                f"got both, {self.class_share} and {self.budget}."
            )
        for name, share in (("class_share", self.class_share), ("budget", self.budget)):
            if share is not None and not 0 < share <= 1:
                raise DataError(f"{name} is a share in (0, 1]; got {share}.")
        if not self.magnifications or min(self.magnifications) < 1:
            raise DataError(f"magnifications are positive; got {list(self.magnifications)}.")
        if self.trigger is None and (self.surrogate is None or self.pood is None):
            raise DataError("give 'surrogate' and 'pood' to search a trigger, or a 'trigger' file.")
        if self.seen is not None and self.trigger is not None:
            raise DataError("a 'trigger' file is not searched; 'seen' would do nothing.")
        self._check_aware()

    def _check_aware(self) -> None:
        if self.aware_steps < 1:
            raise DataError(f"aware_steps must be at least 1; got {self.aware_steps}.")
        if self.aware != "no" and self.generator is None:
            raise DataError(f"aware {self.aware!r} needs a 'generator' to purify with.")
        if self.aware == "no" and self.generator is not None:
            raise DataError(
                "a generator is given and aware is 'no', so it would do nothing; "
                "allowed beside it: 'surrogate', 'search', 'both'."
            )
        if self.aware != "no" and self.trigger is not None:
            raise DataError(f"a 'trigger' file is not searched; aware {self.aware!r} needs that.")

    def check(self, train: ImageSet, test: ImageSet) -> None:
        """Check label, budget, shapes and the trigger file against the data."""
        check_label(self.adv_label, train)
        self._check_budget(train)
        if self.generator is not None:
            check_energy_takes(self.generator, train.image_shape)
        if self.trigger is not None:
            shape: tuple[int, ...] = read_trigger(self.trigger, self.eps_255).shape
            what = f"trigger {str(self.trigger)!r}"
        elif isinstance(self.pood, ImageSet):
            shape, what = self.pood.image_shape, "pood images"
            known = self.pood.num_classes
            if self.search.warmup_logit == "adv_label" and self.adv_label >= known:
                raise DataError(
                    f"warmup_logit 'adv_label' takes the logit of a public class; adv_label is "
                    f"{self.adv_label}, and pood has the classes 0..{known - 1}."
                )
        if shape != train.image_shape:
            raise DataError(f"{what} have shape {shape}, training images {train.image_shape}.")
        if isinstance(self.seen, ImageSet):
            self._check_seen(self.seen, train)

    def _check_seen(self, seen: ImageSet, train: ImageSet) -> None:
        if (seen.num_classes, seen.image_shape) != (train.num_classes, train.image_shape):
            raise DataError(
                f"seen has {seen.num_classes} classes of images {seen.image_shape}, the training "
                f"set {train.num_classes} of {train.image_shape}."
            )
        if not np.any(seen.labels == self.adv_label):
            raise DataError(f"seen has no image of class {self.adv_label} (adv_label).")

    def _check_budget(self, train: ImageSet) -> None:
        count, of_class = self._count(train), int(np.sum(train.labels == self.adv_label))
        if count > of_class:
            raise DataError(
                f"budget {self.budget} of {len(train)} rows asks for {count} poisons; class "
                f"{self.adv_label} has {of_class}, a budget of {of_class / len(train):.3g} at most."
            )

    def _count(self, train: ImageSet) -> int:
        if self.budget is not None:
            return max(1, round(self.budget * len(train)))
        share = CLASS_SHARE if self.class_share is None else self.class_share
        return max(1, round(share * int(np.sum(train.labels == self.adv_label))))

    def bounds(self, train: ImageSet) -> Bounds:
        """Return that the poisons are rows of one class, labels kept, within ``eps_255``."""
        return Bounds(rows=self._count(train), eps_255=self.eps_255, keeps_labels=True)

    def poison(self, train: ImageSet, test: ImageSet, rng: np.random.Generator) -> PoisonedSet:
        """Search or read the trigger and add it to the chosen rows of the class."""
        self.check(train, test)
        crafted = self.craft(train, rng)
        rows, delta = crafted.rows, crafted.delta
        images = train.images.copy()
        images[rows] = add_within(images[rows], delta, self.eps_255)
        probes = triggered_probes(
            test,
            self.adv_label,
            [(f"x{m}", partial(add_within, delta01=m * delta)) for m in self.magnifications],
        )
        poisoned = train.with_images(images)
        return PoisonedSet(poisoned, train.ids[rows], probes, self.goal, crafted.details, delta)

    def craft(self, train: ImageSet, rng: np.random.Generator) -> Crafted:
        """Choose the rows of the class, and search or read its trigger."""
        of_class = np.flatnonzero(train.labels == self.adv_label)
        rows = choose_rows(of_class, self._count(train), self.select, rng)
        seen = train if self.seen is None else self.seen
        delta, details = self._trigger(
            seen.take(np.flatnonzero(seen.labels == self.adv_label)), rng
        )
        return Crafted(rows, delta, details)

    def _trigger(
        self, class_images: ImageSet, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], dict[str, float]]:
        if self.trigger is not None:
            return read_trigger(self.trigger, self.eps_255), {}
        if self.pood is None or self.surrogate is None:
            raise DataError("a trigger search needs 'surrogate' and 'pood'.")
        found = find_trigger(
            class_images, self.pood, self.surrogate, self.adv_label,
            self.eps_255 / 255, self.search, rng, self._aware(),
        )  # fmt: skip
        details = {"trigger_loss_before": found.loss_before, "trigger_loss": found.loss_after}
        return found.delta, details

    def _aware(self) -> Aware | None:
        if self.generator is None:
            return None
        return Aware(self.generator, self.aware, self.aware_steps, self.aware_gradient)
