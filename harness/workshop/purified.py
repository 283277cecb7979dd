"""Purified rows, each purified once: the clean ones for all attacks together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from harness.artifacts import Made
from harness.core.data import Dataset, ImageSet, PoisonedSet
from harness.core.errors import DataError, NoEffect
from harness.core.files import read_arrays, write_arrays
from harness.core.params import ComponentSpec, references
from harness.core.protocols import DEFENSES, Oracle
from harness.core.seeds import stream
from harness.core.values import Json
from harness.poisons import changed_rows
from harness.snapshots import snapshot_parameter
from harness.workshop.poisons import Poisons

BLOCK = 512  # clean rows purified, kept and lost as one; it changes no byte


@dataclass
class Workshop(Poisons):
    """One process's access to the store: purified rows, poisons, networks, components, datasets."""

    _blocks: WeakKeyDictionary[ImageSet, list[ImageSet]] = field(default_factory=WeakKeyDictionary)

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
