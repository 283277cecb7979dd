"""The poison linter: does a set fit its data, and does it keep what it promises?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.core.data import ImageSet
from harness.interop.matching import same_rows
from harness.interop.poison_set import ASSUMED, UNKNOWN, Delta, Patch, PoisonSet

Level = Literal["error", "warning", "note"]
SLACK_255 = 1  # grey levels: exporters that truncate lose one


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that the linter saw.

    Attributes:
        level: ``error``: it cannot be used, or would be another attack than it says; ``warning``:
            its numbers may mislead; ``note``: good to know.
        what: One sentence.
        where: Which part: ``poisons``, ``bases``, ``target``, ``trigger``.
    """

    level: Level
    what: str
    where: str

    def __str__(self) -> str:
        return f"{self.level}: {self.where}: {self.what}"


def lint(
    poisons: PoisonSet, train: ImageSet | None = None, test: ImageSet | None = None
) -> list[Finding]:
    """Return what is wrong or remarkable, errors first.

    Args:
        poisons: The set.
        train: Clean training set that it is for; without one, bases are not looked at.
        test: Test set; without one, the target is not looked for.
    """
    found = [*_images(poisons), *_ids(poisons), *_trigger(poisons)]
    if train is not None:
        found += _against_train(poisons, train)
    elif poisons.meta.notes.get("clean_label_is") == ASSUMED:
        text = (
            "whether their labels are those of their bases is assumed from the format; import with "
            "--dataset, whose labels tell, or with --clean-label or --dirty-label."
        )
        found.append(Finding("warning", text, "poisons"))
    if test is not None:
        found += _against_test(poisons, test)
    order = {"error": 0, "warning": 1, "note": 2}
    return sorted(found, key=lambda finding: order[finding.level])


def _images(poisons: PoisonSet) -> Iterator[Finding]:
    flat = poisons.images.reshape(len(poisons), -1)
    blank = int(np.sum(flat.min(axis=1) == flat.max(axis=1)))
    if blank:
        yield Finding("warning", f"{blank} of {len(poisons)} images are of one colour.", "poisons")
    twice = len(poisons) - len({row.tobytes() for row in flat})
    if twice:
        level: Level = "error" if twice == len(poisons) - 1 else "warning"
        yield Finding(level, f"{twice} of {len(poisons)} images repeat another one.", "poisons")
    wanted = poisons.meta.adv_label
    if wanted is not None and poisons.meta.goal != "availability":
        others = int(np.sum(poisons.labels != wanted))
        if others:
            text = f"{others} of {len(poisons)} labels are not adv_label, {wanted}."
            yield Finding("warning", text, "poisons")
    if poisons.labels.min() < 0:
        yield Finding("error", f"labels reach down to {poisons.labels.min()}.", "poisons")


def _ids(poisons: PoisonSet) -> Iterator[Finding]:
    ids = poisons.base_ids
    known = ids[ids != UNKNOWN]
    if len(known) < len(ids):
        text = (
            f"{len(ids) - len(known)} of {len(ids)} poisons have no known base row; "
            "import with the dataset to find it."
        )
        yield Finding("error", text, "bases")
    if len(known) and known.min() < 0:
        yield Finding("error", f"ids reach down to {known.min()}.", "bases")
    twice = len(known) - len(np.unique(known))
    if twice:
        yield Finding("error", f"{twice} rows are replaced twice.", "bases")


def _trigger(poisons: PoisonSet) -> Iterator[Finding]:
    trigger, eps = poisons.trigger, poisons.meta.eps_255
    if isinstance(trigger, Delta):
        if trigger.values.shape != poisons.images.shape[1:]:
            text = f"it is of {trigger.values.shape}, the images of {poisons.images.shape[1:]}."
            yield Finding("error", text, "trigger")
        reach = float(np.abs(trigger.values).max()) * 255
        if not reach:
            yield Finding("error", "it is zero.", "trigger")
        elif eps is not None and reach > eps + 0.01:
            hint = " It may be in units of [-1, 1]." if abs(reach / eps - 2) < 0.1 else ""
            text = f"it reaches {reach:.4g} grey levels; eps_255 is {eps:g}.{hint}"
            yield Finding("error", text, "trigger")
        elif eps is not None and reach < 0.6 * eps:
            text = (
                f"it reaches {reach:.4g} grey levels of the {eps:g} that it may; check its units."
            )
            yield Finding("warning", text, "trigger")
    if isinstance(trigger, Patch):
        (x, y), (channels, height, width) = trigger.xy, trigger.pixels.shape
        fits = y + height <= poisons.images.shape[2] and x + width <= poisons.images.shape[3]
        if not fits or channels != poisons.images.shape[1]:
            text = f"a patch of {trigger.pixels.shape} at column {x}, row {y} leaves the image."
            yield Finding("error", text, "trigger")


def _against_train(poisons: PoisonSet, train: ImageSet) -> Iterator[Finding]:
    if poisons.images.shape[1:] != train.image_shape:
        text = f"they are of {poisons.images.shape[1:]}, training images of {train.image_shape}."
        yield Finding("error", text, "poisons")
        return
    wanted = poisons.meta.adv_label
    highest = max(int(poisons.labels.max()), wanted if wanted is not None else 0)
    if highest >= train.num_classes:
        text = f"labels reach {highest}; the data have the classes 0..{train.num_classes - 1}."
        yield Finding("error", text, "poisons")
    known = poisons.base_ids != UNKNOWN
    here = known & np.isin(poisons.base_ids, train.ids)
    if np.sum(here) < np.sum(known):
        text = (
            f"{int(np.sum(known & ~here))} of {len(poisons)} ids are not in the training set of "
            f"{len(train)} rows (ids {train.ids.min()}..{train.ids.max()})."
        )
        yield Finding("error", text, "bases")
    if here.any():
        yield from _against_bases(poisons, train, here)
    if poisons.meta.goal == "availability" and len(poisons) < len(train):
        text = f"{len(train) - len(poisons)} of {len(train)} training rows stay clean."
        yield Finding("warning", text, "bases")


def _against_bases(
    poisons: PoisonSet, train: ImageSet, here: NDArray[np.bool_]
) -> Iterator[Finding]:
    rows = train.positions(poisons.base_ids[here])
    relabelled = int(np.sum(train.labels[rows] != poisons.labels[here]))
    if relabelled and poisons.meta.clean_label:
        text = (
            f"{relabelled} of {len(rows)} have another label than their base, and the set says "
            "clean-label: another dataset, another order of its rows, or a dirty-label attack "
            "(import-poisons --dirty-label)."
        )
        yield Finding("error", text, "bases")
    moved = np.abs(poisons.images[here].astype(np.int16) - train.images[rows]).max(axis=(1, 2, 3))
    still, eps = int(np.sum(moved == 0)), poisons.meta.eps_255
    if still == len(moved) and not relabelled:
        yield Finding("error", "no poison differs from its base.", "poisons")
    elif still:
        yield Finding("warning", f"{still} of {len(moved)} poisons are their base.", "poisons")
    if eps is not None:
        beyond = int(np.sum(moved > eps + SLACK_255))
        if beyond:
            text = (
                f"{beyond} of {len(moved)} poisons differ from their base by up to {moved.max()} "
                f"grey levels; eps_255 is {eps:g}."
            )
            yield Finding("error", text, "bases")
        elif moved.max() > eps:
            text = f"they move a byte by {moved.max()}, one level more than eps_255 {eps:g}."
            yield Finding("note", text, "poisons")
    else:
        yield Finding("note", f"they move a byte by up to {moved.max()}.", "poisons")
    if poisons.target is not None:
        trained_on = int(np.sum(same_rows(poisons.target.images, train.images) != UNKNOWN))
        if trained_on:
            text = f"{trained_on} of its {len(poisons.target.images)} images are trained on."
            yield Finding("warning", text, "target")


def _against_test(poisons: PoisonSet, test: ImageSet) -> Iterator[Finding]:
    target = poisons.target
    if target is None:
        if (
            len(test)
            and poisons.meta.goal == "triggered"
            and np.all(test.labels == poisons.meta.adv_label)
        ):
            yield Finding("error", "no test image is of another class.", "target")
        return
    if np.any(target.true_labels == poisons.meta.adv_label):
        text = f"its true label is adv_label, {poisons.meta.adv_label}: nothing to attack."
        yield Finding("error", text, "target")
    if target.true_labels.min() < 0 or target.true_labels.max() >= test.num_classes:
        text = f"its labels leave the classes 0..{test.num_classes - 1}."
        yield Finding("error", text, "target")
    rows = same_rows(target.images, test.images)
    there = rows != UNKNOWN
    wrong = int(np.sum(test.labels[rows[there]] != target.true_labels[there]))
    if wrong:
        yield Finding(
            "error", f"{wrong} of its images have another label in the test set.", "target"
        )
    if not there.all() and poisons.meta.goal != "triggered":  # those are altered
        text = f"{int(np.sum(~there))} of its {len(rows)} images are not in the test set."
        yield Finding("note", text, "target")
