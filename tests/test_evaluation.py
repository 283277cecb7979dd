"""From predictions to counts, against counts made by hand."""

import numpy as np
import pytest

from attacks.badnets import BadNets
from harness.core.data import ImageSet, Probe
from harness.core.seeds import stream
from harness.datasets.shapes import Shapes
from harness.evaluation import count_per_class, count_probes, movement

# One pixel per image says what the classifier below answers.
LABELS = np.array([0, 0, 1, 1, 1, 3])
ANSWERS = np.array([0, 2, 1, 1, 0, 3], np.uint8)


def predict(images: np.ndarray) -> np.ndarray:
    return images[:, 0, 0, 0].astype(np.int64)


def rows(values: np.ndarray, labels: np.ndarray) -> ImageSet:
    images = np.broadcast_to(values[:, None, None, None], (len(values), 3, 2, 2))
    return ImageSet(images.copy(), labels, np.arange(len(values)), 4)


def test_counts_per_class() -> None:
    assert count_per_class(predict, rows(ANSWERS, LABELS)) == ((2, 3, 0, 1), (1, 2, 0, 1))


def test_counts_on_a_probe() -> None:
    wanted = np.array([2, 2, 0, 2, 0, 2])  # right twice: rows 1 and 4
    probe = Probe("x1", rows(ANSWERS, LABELS), wanted)
    [outcome] = count_probes(predict, [probe], attack="id", label="a", target=2)
    assert (outcome.trials, outcome.successes, outcome.correct) == (6, 2, 4)
    assert (outcome.attack, outcome.label, outcome.target, outcome.probe) == ("id", "a", 2, "x1")


def test_an_attack_is_not_judged_on_the_adversarys_class() -> None:
    data = Shapes(train=60, test=40).load()
    poisoned = BadNets(adv_label=3).poison(data.train, data.test, stream(0))
    [probe] = poisoned.probes
    assert len(probe.images) == 36
    assert 3 not in probe.images.labels
    [outcome] = count_probes(
        lambda images: np.full(len(images), 3), [probe], attack="", label="", target=3
    )
    assert (outcome.successes, outcome.correct) == (36, 0)


def test_movement_by_hand() -> None:
    before = rows(np.array([0, 0, 0, 0], np.uint8), np.array([0, 1, 2, 3]))
    kept = before.take([3, 0, 1])  # row 2, a poison, is dropped
    images = kept.images.copy()
    images[0, 0, 0, 0] = 51  # row 3: one byte by a fifth
    images[2, :, :, :] = 255  # row 1: all 12 values by one
    moved = movement(before, kept.with_images(images), np.array([2, 3]))
    assert (moved.rows_in, moved.rows_out, moved.rows_changed, moved.poison_kept) == (4, 3, 2, 1)
    assert moved.poison_changed == 1  # row 3, one of the two that changed
    assert moved.poison_l2 == pytest.approx(0.2)
    assert moved.clean_l2 == pytest.approx(12**0.5 / 2)  # rows 0 and 1
    assert not moved.nothing_moved


def test_movement_of_nothing() -> None:
    before = rows(ANSWERS, LABELS)
    moved = movement(before, before, np.empty(0, np.int64))
    assert moved.nothing_moved
    assert (moved.clean_l2, moved.poison_l2, moved.poison_kept) == (0.0, None, 0)
    assert moved.poison_changed == 0
    assert not movement(before, before.take([0]), np.empty(0, np.int64)).nothing_moved
