"""From what a foreign file holds to a :class:`PoisonSet`, with the help of the clean data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from harness.core.data import Goal, ImageSet
from harness.core.errors import DataError
from harness.core.pixels import add_within
from harness.interop.foreign import Foreign
from harness.interop.lint import SLACK_255
from harness.interop.matching import made_of, nearest_rows, same_rows
from harness.interop.poison_set import (
    ASSUMED,
    UNKNOWN,
    Delta,
    Meta,
    Patch,
    PoisonSet,
    Target,
    Trigger,
)

FARTHEST_255 = 32  # where no bound is known: published clean-label sets stay within it
CLASS_SHARE = 0.1  # of the class, as PureGen poisons it with Narcissus


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What a user adds to what the file says.

    Attributes:
        attack: Name of the attack; "" takes what the format implies.
        dataset: Name of the dataset that the rows are of.
        eps_255: Linf bound in grey levels; None takes the format's, or what is measured.
        adv_label: The adversary's label, for a trigger whose name does not say it.
        count: How many poisons to make with a trigger; None is a tenth of the class.
        select: Which rows of the class, for a trigger.
        clean_label: Whether the poisons keep their labels; None asks the data, or else the format.
    """

    attack: str = ""
    dataset: str = ""
    eps_255: float | None = None
    adv_label: int | None = None
    count: int | None = None
    select: Literal["last", "first"] = "last"
    clean_label: bool | None = None


def assemble(
    foreign: Foreign,
    choices: Choices,
    train: ImageSet | None = None,
    *,
    like: PoisonSet | None = None,
    source: str = "",
    source_sha256: str = "",
) -> PoisonSet:
    """Return a set of poisons.

    Args:
        foreign: What a reader found.
        choices: What the user adds.
        train: Clean training set; needed by formats that do not say which rows they poison.
        like: Another set whose target and trigger are this one's, too (purified poisons).
        source: File that it comes from.
        source_sha256: Checksum of that.

    Raises:
        DataError: If something is missing that the format needs, or does not fit.
    """
    arrays, facts = foreign.arrays, foreign.facts
    adv_label = choices.adv_label if choices.adv_label is not None else facts.get("adv_label")
    eps = choices.eps_255 if choices.eps_255 is not None else facts.get("eps_255")
    target, trigger = _judges(arrays, like)
    kind = facts.get("kind")
    if kind == "trigger":
        rows = _rows_for_trigger(train, adv_label, choices)
        images, labels, base_ids = _triggered(rows, arrays["delta"], int(np.ceil(float(eps or 0))))
    elif kind == "trainset":
        images, labels, base_ids = _changed(arrays, train, eps)
    elif kind == "poisons":
        images, labels, base_ids = _poisons(arrays, train, eps)
    else:
        raise DataError(f"{source!r} holds no poisons.")
    goal, noted = _goal(facts.get("goal"), target, trigger, like)
    clean_label, known = choices.clean_label, True
    if clean_label is None:
        clean_label, known = _keeps_labels(
            (images, labels, base_ids), train, bool(facts.get("clean_label"))
        )
    if not known:
        noted["clean_label_is"] = ASSUMED
    if eps is None and clean_label and not facts.get("purified") and train is not None:
        eps = _measured(images, base_ids, train)
        noted["eps_255_is"] = "measured"
    if facts.get("purified"):
        noted["purified"] = True
    if "norms" in arrays:
        noted["largest_published_norm"] = float(arrays["norms"].max())
    meta = Meta(
        goal=goal,
        adv_label=None if adv_label is None else int(adv_label),
        attack=choices.attack or str(facts.get("attack") or ""),
        dataset=choices.dataset,
        eps_255=None if eps is None else float(eps),
        clean_label=clean_label,
        source=source,
        source_sha256=source_sha256,
        notes=noted,
    )
    return PoisonSet(images, labels, base_ids, meta, target, trigger)


Rows = tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]


def _keeps_labels(rows: Rows, train: ImageSet | None, usual: bool) -> tuple[bool, bool]:
    """Return whether poisons keep the labels of their bases, and whether the data tell so.

    Args:
        rows: Images, labels and base ids.
        train: Clean training set.
        usual: What is usual in the format.
    """
    images, labels, base_ids = rows
    if train is None or images.shape[1:] != train.image_shape:
        return usual, False
    here = np.isin(base_ids, train.ids)
    if not here.any():
        return usual, False
    bases = train.positions(base_ids[here])
    changed = train.labels[bases] != labels[here]
    if not changed.any():
        return True, True
    # Labels differ also where data or their order are others; the linter is to say so.
    return usual and not made_of(images[here][changed], bases[changed], train), True


def _judges(
    arrays: dict[str, NDArray[Any]], like: PoisonSet | None
) -> tuple[Target | None, Trigger | None]:
    target = like.target if like else None
    trigger = like.trigger if like else None
    if "target_images" in arrays:
        target = Target(arrays["target_images"], arrays["target_labels"])
    if "delta" in arrays:
        trigger = Delta(arrays["delta"])
    elif "patch" in arrays:
        x, y = arrays["xy"]
        trigger = Patch(arrays["patch"], (int(x), int(y)))
    return target, trigger


def _goal(
    said: Any, target: Target | None, trigger: Trigger | None, like: PoisonSet | None
) -> tuple[Goal, dict[str, Any]]:
    """Return the goal; a set whose file holds nothing to judge it by is judged by accuracy."""
    if target is None and trigger is None:
        known = {"judged_by": "accuracy alone: the files hold neither target nor trigger"}
        return "availability", known if said else {}
    if like is not None:
        return like.meta.goal, {}
    return ("targeted" if said == "targeted" and target is not None else "triggered"), {}


def _needed(train: ImageSet | None, why: str) -> ImageSet:
    if train is None:
        raise DataError(f"this format needs the clean dataset: {why}.")
    return train


def _rows_for_trigger(train: ImageSet | None, adv_label: Any, choices: Choices) -> ImageSet:
    train = _needed(train, "a trigger is added to some of its rows")
    if adv_label is None:
        raise DataError("the trigger's name does not say its class; give the adversary's label.")
    of_class = np.flatnonzero(train.labels == adv_label)
    count = choices.count
    if count is None:
        count = max(1, round(CLASS_SHARE * len(of_class)))
    if not 1 <= count <= len(of_class):
        raise DataError(f"{count} poisons were asked for; class {adv_label} has {len(of_class)}.")
    return train.take(of_class[:count] if choices.select == "first" else of_class[-count:])


def _triggered(rows: ImageSet, delta: NDArray[np.float32], eps_255: int) -> Rows:
    if delta.shape != rows.image_shape:
        raise DataError(f"the trigger is of {delta.shape}, the images are of {rows.image_shape}.")
    return add_within(rows.images, delta, eps_255), rows.labels, rows.ids


def _changed(arrays: dict[str, NDArray[Any]], train: ImageSet | None, eps: Any) -> Rows:
    """Return the rows of a whole training set that are no clean rows, with their bases."""
    train = _needed(train, "it holds a whole training set, and the poisons are what differs")
    changed = np.flatnonzero(same_rows(arrays["images"], train.images) == UNKNOWN)
    if not len(changed):
        raise DataError("every image of it is a clean one of this dataset.")
    if len(changed) == len(arrays["images"]):
        raise DataError("no image of it is a clean one of this dataset: it is of another one.")
    images, labels = arrays["images"][changed], arrays["labels"][changed]
    return images, labels, _nearest(images, labels, train, eps)


def _poisons(arrays: dict[str, NDArray[Any]], train: ImageSet | None, eps: Any) -> Rows:
    images = arrays["images"]
    if "labels" not in arrays:
        train = _needed(train, "labels are those of its rows")
        return images, train.labels[train.positions(arrays["base_ids"])], arrays["base_ids"]
    labels = arrays["labels"]
    if "base_ids" in arrays:
        return images, labels, arrays["base_ids"]
    if train is None:
        return images, labels, np.full(len(images), UNKNOWN, np.int64)
    if "base_images" in arrays:
        positions = same_rows(arrays["base_images"], train.images)
        return images, labels, _ids(positions, train)
    return images, labels, _nearest(images, labels, train, eps)


def _ids(positions: NDArray[np.int64], train: ImageSet) -> NDArray[np.int64]:
    ids: NDArray[np.int64] = np.where(positions == UNKNOWN, UNKNOWN, train.ids[positions])
    return ids


def _nearest(
    images: NDArray[np.uint8], labels: NDArray[np.int64], train: ImageSet, eps: Any
) -> NDArray[np.int64]:
    if images.shape[1:] != train.image_shape:
        raise DataError(f"its images are of {images.shape[1:]}, the data of {train.image_shape}.")
    bound = FARTHEST_255 if eps is None else float(eps) + SLACK_255
    return _ids(nearest_rows(images, labels, train, bound), train)


def _measured(
    images: NDArray[np.uint8], base_ids: NDArray[np.int64], train: ImageSet
) -> float | None:
    """Return the largest change of a byte, or None where there is nothing to compare."""
    here = np.isin(base_ids, train.ids)
    if not here.any() or images.shape[1:] != train.image_shape:
        return None
    bases = train.images[train.positions(base_ids[here])]
    moved = int(np.abs(images[here].astype(np.int16) - bases).max())
    return float(moved) if moved else None
