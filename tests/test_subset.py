"""Cutting image sets down by position."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.data import ImageSet
from harness.core.errors import DataError
from harness.core.subset import first, per_class


def image_set(labels, num_classes):
    labels = np.array(labels, np.int64)
    images = np.zeros((len(labels), 1, 2, 2), np.uint8)
    return ImageSet(images, labels, np.arange(len(labels)) + 100, num_classes)


def test_first_keeps_the_order_and_all_rows_of_a_smaller_set():
    images = image_set([2, 0, 1, 0], 3)
    np.testing.assert_array_equal(first(images, 2).ids, [100, 101])
    assert first(images, 9).digest == images.digest


def test_per_class_takes_the_first_of_each_in_the_order_of_the_set():
    images = image_set([2, 0, 1, 0, 2, 2, 0, 1], 3)
    cut = per_class(images, 2)
    np.testing.assert_array_equal(cut.ids, [100, 101, 102, 103, 104, 107])
    assert cut.num_classes == 3


def test_a_small_class_keeps_all_and_an_empty_one_is_an_error():
    cut = per_class(image_set([0, 0, 0, 1], 2), 2)
    np.testing.assert_array_equal(cut.labels, [0, 0, 1])
    with pytest.raises(DataError, match="class 1, 3 has no row"):
        per_class(image_set([0, 2, 0], 4), 2)


@pytest.mark.parametrize("cut", [first, per_class])
@pytest.mark.parametrize("count", [0, -3])
def test_counts_below_one_are_refused(cut, count):
    with pytest.raises(DataError, match="at least 1"):
        cut(image_set([0], 1), count)


@given(st.lists(st.integers(0, 3), min_size=1), st.integers(1, 5))
def test_per_class_agrees_with_counting_row_by_row(labels, count):
    labels = [0, 1, 2, 3, *labels]
    kept, seen = [], {}
    for row, label in enumerate(labels):
        seen[label] = seen.get(label, 0) + 1
        if seen[label] <= count:
            kept.append(row + 100)
    if count > max(seen.values()):
        with pytest.raises(DataError, match=f"the largest has {max(seen.values())}"):
            per_class(image_set(labels, 4), count)
    else:
        assert per_class(image_set(labels, 4), count).ids.tolist() == kept


def test_per_class_leaves_the_first_of_each_out():
    images = image_set([2, 0, 1, 0, 2, 2, 0, 1], 3)
    np.testing.assert_array_equal(per_class(images, 1, skip=1).ids, [103, 104, 107])
    np.testing.assert_array_equal(per_class(images, None, skip=1).ids, [103, 104, 105, 106, 107])
    with pytest.raises(DataError, match=r"cannot take 3 rows .* has 2 after the first 1"):
        per_class(images, 3, skip=1)
