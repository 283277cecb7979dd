"""The order in which a training goes through its rows."""

from __future__ import annotations

import numpy as np

from generative.row_order import RowOrder
from harness.core.seeds import stream


def test_an_epoch_takes_no_row_twice_and_the_next_one_another_order() -> None:
    order = RowOrder(23, 5, 0, "order")
    first, second = (np.concatenate([order.rows(4 * e + b) for b in range(4)]) for e in range(2))
    for epoch, rows in enumerate((first, second)):
        assert len(set(rows.tolist())) == 20
        np.testing.assert_array_equal(rows, stream(0, "order", epoch).permutation(23)[:20])
    assert not np.array_equal(first, second)


def test_rows_depend_on_the_update_alone() -> None:
    walked = RowOrder(23, 5, 0, "order")
    rows = [walked.rows(i) for i in range(12)]
    for i in (11, 3, 4):
        np.testing.assert_array_equal(RowOrder(23, 5, 0, "order").rows(i), rows[i])
        np.testing.assert_array_equal(walked.rows(i), rows[i])
    assert not np.array_equal(RowOrder(23, 5, 1, "order").rows(0), rows[0])
