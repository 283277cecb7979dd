"""Image sets, probes and poisoned sets: what they hold, and what they refuse to hold."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.data import Dataset, ImageSet, PoisonedSet, Probe
from harness.core.errors import DataError


def image_set(rows: int = 6, classes: int = 3, first_id: int = 100) -> ImageSet:
    rng = np.random.default_rng(0)
    return ImageSet(
        rng.integers(0, 256, (rows, 3, 4, 4), np.uint8),
        np.arange(rows, dtype=np.int64) % classes,
        np.arange(first_id, first_id + rows, dtype=np.int64),
        classes,
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.zeros((6, 3, 4, 4))}, r"images must be uint8 .* got float64 \(6, 3, 4, 4\)"),
        ({"images": np.zeros((6, 4, 4), np.uint8)}, r"got uint8 \(6, 4, 4\)"),
        ({"labels": np.zeros(6, np.int32)}, r"labels must be int64 of shape \(6,\); got int32"),
        ({"labels": np.zeros(5, np.int64)}, r"got int64 \(5,\)"),
        ({"labels": np.full(6, 3)}, r"labels must lie in 0\.\.2; got 3\.\.3"),
        ({"labels": np.full(6, -1)}, r"got -1\.\.-1"),
        ({"ids": np.zeros(6, np.int64)}, "ids must be unique"),
        ({"ids": np.arange(6.0)}, "ids must be int64"),
    ],
)
def test_what_an_image_set_refuses(changes, message) -> None:
    with pytest.raises(DataError, match=message):
        replace(image_set(), **changes)


@pytest.mark.parametrize("name", ["images", "labels", "ids"])
def test_an_image_set_cannot_be_written(name) -> None:
    with pytest.raises(ValueError, match="read-only"):
        getattr(image_set(), name)[0] = 0


def test_rows_by_position_by_mask_and_none() -> None:
    whole = image_set()
    part = whole.take([4, 1])
    assert part.ids.tolist() == [104, 101]
    np.testing.assert_array_equal(part.images, whole.images[[4, 1]])
    assert whole.take(whole.labels == 2).ids.tolist() == [102, 105]
    assert len(whole.take([])) == 0
    assert whole.take([]).num_classes == 3
    with pytest.raises(DataError, match="unique"):
        whole.take([1, 1])


@settings(deadline=None)
@given(st.permutations(range(100, 106)), st.integers(0, 6))
def test_positions_finds_ids_in_any_order(ids, count) -> None:
    whole = replace(image_set(), ids=np.array(ids))
    wanted = np.array(sorted(ids)[:count], dtype=np.int64)
    np.testing.assert_array_equal(whole.ids[whole.positions(wanted)], wanted)


@pytest.mark.parametrize("rows", [6, 0])
def test_positions_refuses_ids_that_are_not_there(rows) -> None:
    with pytest.raises(DataError, match="not in this set"):
        image_set(rows).positions(np.array([99]))


def test_the_digest_tells_every_part_apart() -> None:
    base = image_set()
    pixels = base.images.copy()
    pixels[5, 2, 3, 3] ^= 1
    others = [
        base,
        base.with_images(pixels),
        base.with_images(base.images.reshape(6, 3, 2, 8)),
        replace(base, labels=np.roll(base.labels, 1)),
        replace(base, ids=base.ids + 1),
        replace(base, num_classes=4),
    ]
    for one, other in combinations(others, 2):
        assert one.digest != other.digest
    assert image_set().digest == base.digest
    turned = np.ascontiguousarray(base.images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert base.with_images(turned).digest == base.digest


@pytest.mark.parametrize(
    ("train", "test", "names", "message"),
    [
        (image_set(classes=3), image_set(classes=2), "abc", "train has 3 classes, test 2"),
        (image_set(), image_set(), "ab", "2 class names"),
        (image_set(), image_set(2).take([0]).with_images(np.zeros((1, 1, 4, 4), np.uint8)), "abc",
         r"train images are \(3, 4, 4\)"),
    ],
)  # fmt: skip
def test_what_a_dataset_refuses(train, test, names, message) -> None:
    with pytest.raises(DataError, match=message):
        Dataset(train, test, tuple(names))


def test_a_dataset_may_have_no_test_rows() -> None:
    assert len(Dataset(image_set(), image_set(0), ("a", "b", "c")).test) == 0


@pytest.mark.parametrize(
    ("adv_labels", "message"),
    [
        (np.array([1, 1, 1]), "true label is the adversary's"),
        (np.array([1.0, 2.0, 0.0]), "adv_labels must be int64"),
        (np.array([1]), r"of shape \(3,\)"),
        (np.array([1, 2, 3]), r"must lie in 0\.\.2; got 1\.\.3"),
    ],
)
def test_what_a_probe_refuses(adv_labels, message) -> None:
    with pytest.raises(DataError, match=message):
        Probe("x1", image_set(3), adv_labels)


def test_a_probe_without_images_has_no_rate() -> None:
    with pytest.raises(DataError, match="success over none"):
        Probe("x1", image_set(0), np.empty(0, np.int64))


@pytest.mark.parametrize(
    ("ids", "probes", "message"),
    [
        ([99], 1, "not in this set"),
        ([100, 100], 1, "one per row"),
        ([100.0], 1, "must be int64"),
        ([100], 0, "a triggered attack needs at least one probe"),
        ([100], 2, "names of their own; got x1, x1"),
    ],
)
def test_what_a_poisoned_set_refuses(ids, probes, message) -> None:
    probe = Probe("x1", image_set(3, first_id=500), np.array([1, 2, 0]))
    with pytest.raises(DataError, match=message):
        PoisonedSet(image_set(), np.array(ids), (probe,) * probes, "triggered")


def test_a_goal_that_there_is_not() -> None:
    with pytest.raises(DataError, match="goal must be one of none, triggered, targeted, availab"):
        PoisonedSet(image_set(), np.array([100]), (), "chaos")
