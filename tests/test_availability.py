"""Attacks on a whole training set: their patterns' mathematics, and that what is trained fails."""

from collections.abc import Callable

import numpy as np
import pytest

from attacks._class_patterns import scaled
from attacks._diff_augment import DiffAugment
from attacks._pgd import Pgd
from attacks.autoregressive import Autoregressive, draw_rules, residuals, scan, signals_of
from attacks.lsp import Clusters, Lsp, corners, enlarge
from attacks.ops import Ops, colours, find_pixels, pixel_scores
from attacks.tap import Tap
from harness.core.data import ImageSet
from harness.core.errors import DataError
from harness.core.seeds import stream
from harness.training import Predictor
from tests.tiny_victims import accuracy, smooth_images, victim

TRAIN, TEST = smooth_images(400, 1, contrast=12), smooth_images(200, 2, contrast=12)
PGD = Pgd(steps=20, step_255=2.0, random_start=True)
SHIFTS = DiffAugment(shift_px=1, flip=False)  # of images of 16 pixels; as the victim's


@pytest.fixture(scope="module")
def surrogate() -> Predictor:
    return victim(smooth_images(400, 3, contrast=12))


@pytest.fixture(scope="module")
def clean_accuracy() -> float:
    return accuracy(victim(TRAIN), TEST)


MAKERS: dict[str, Callable[[Predictor], object]] = {
    # 768 values at a root mean square of 12 have the length of the published 3072 at 6.
    "lsp": lambda _: Lsp(rms_255=12, patch_px=4),
    "ops": lambda _: Ops(),
    "autoregressive": lambda _: Autoregressive(),
    "tap": lambda s: Tap(surrogate=s, eps_255=16, pgd=PGD, augment=SHIFTS),
}


@pytest.mark.parametrize("name", MAKERS)
def test_what_is_trained_fails_on_clean_images(
    name: str, surrogate: Predictor, clean_accuracy: float
) -> None:
    attack = MAKERS[name](surrogate)
    poisoned = attack.poison(TRAIN, TEST, stream(0, "attack"))
    assert poisoned.probes == () and poisoned.goal == attack.goal == "availability"
    np.testing.assert_array_equal(poisoned.train.labels, TRAIN.labels)
    np.testing.assert_array_equal(poisoned.poison_ids, TRAIN.ids)
    again = attack.poison(TRAIN, TEST, stream(0, "attack"))
    assert again.train.digest == poisoned.train.digest != TRAIN.digest
    assert clean_accuracy > 0.8
    assert accuracy(victim(poisoned.train), TEST) < clean_accuracy - 0.15


# LSP


def test_patterns_have_the_published_length_before_clipping() -> None:
    shape = (3, 32, 32)
    clusters = Clusters.draw(10, 48, stream(0))
    features = clusters.sample(np.arange(40) % 10, stream(1))
    patterns = enlarge(features, shape, 8)
    assert patterns.shape == (40, *shape)
    wanted = 6 / 255 * np.sqrt(np.prod(shape))
    assert wanted == pytest.approx(1.304, abs=5e-4)
    lengths = np.linalg.norm(scaled(patterns, wanted).reshape(40, -1), axis=1)
    np.testing.assert_allclose(lengths, wanted)
    blocks = patterns.reshape(40, 3, 4, 8, 4, 8)
    assert np.all(blocks == blocks[:, :, :, :1, :, :1])
    np.testing.assert_array_equal(blocks[:, :, :, 0, :, 0].reshape(40, -1), features)


def grey(rows: int, side: int = 32, classes: int = 10) -> ImageSet:
    labels = np.arange(rows, dtype=np.int64) % classes
    images = np.full((rows, 3, side, side), 128, np.uint8)
    return ImageSet(images, labels, np.arange(rows, dtype=np.int64), classes)


def change(attack, images: ImageSet) -> np.ndarray:
    poisoned = attack.poison(images, images, stream(0)).train
    return (poisoned.images.astype(float) - images.images) / 255


@pytest.mark.parametrize(("attack", "length"), [(Lsp(), 1.304), (Autoregressive(), 1.0)])
def test_on_grey_images_the_length_is_kept_up_to_rounding(attack, length: float) -> None:
    added = change(attack, grey(20)).reshape(20, -1)
    np.testing.assert_allclose(np.linalg.norm(added, axis=1), length, rtol=0.02)
    assert len(np.unique(added, axis=0)) == 20  # of a class, and yet each its own


def test_a_linear_classifier_tells_the_classes_by_the_patterns() -> None:
    images = grey(600, 16)
    x = change(Lsp(), images).reshape(600, -1)
    wanted = np.eye(10)[images.labels]
    weights = np.linalg.lstsq(x[:300], wanted[:300], rcond=None)[0]
    assert np.mean((x[300:] @ weights).argmax(1) == images.labels[300:]) > 0.9


def test_the_corners_of_the_classes_all_differ() -> None:
    found = corners(8, 3, stream(0))
    assert len(np.unique(found, axis=0)) == 8 and set(np.unique(found)) == {-1.0, 1.0}
    with pytest.raises(DataError, match="9 classes need 9 different patterns"):
        corners(9, 3, stream(0))
    with pytest.raises(DataError, match="Lower patch_px"):
        Lsp(patch_px=32).check(grey(20), grey(20))


def test_sides_that_the_squares_do_not_divide_are_filled() -> None:
    assert enlarge(np.arange(12.0)[None], (3, 10, 12), 8).shape == (1, 3, 10, 12)


# OPS


def test_scores_are_mean_over_deviation_of_the_change() -> None:
    images = stream(0).integers(0, 256, (30, 3, 4, 5), dtype=np.uint8)
    images[:, :, 0, 0] = 0
    scores = pixel_scores(images)
    for index, colour in enumerate(colours(3)):
        change = np.abs(colour[:, None, None].astype(float) - images)
        mean, deviation = change.mean((0, 1)), change.std((0, 1))
        moving = deviation > 0
        np.testing.assert_allclose(scores[index][moving], (mean / deviation.clip(1e-9))[moving])
    assert scores[0, 0, 0] == 0  # black already
    assert np.isinf(scores[-1, 0, 0])  # white: all are moved alike, and far


def test_exactly_one_pixel_differs_and_it_is_the_classs() -> None:
    poisoned = Ops().poison(TRAIN, TEST, stream(0)).train
    differs = np.any(poisoned.images != TRAIN.images, axis=1)
    assert np.all(differs.sum((1, 2)) == 1)
    pairs = set()
    for label in range(4):
        places = np.unique(np.argwhere(differs[TRAIN.labels == label])[:, 1:], axis=0)
        assert len(places) == 1
        values = poisoned.images[TRAIN.labels == label][:, :, places[0, 0], places[0, 1]]
        assert len(np.unique(values, axis=0)) == 1 and set(np.unique(values)) <= {0, 255}
        pairs.add((*places[0].tolist(), *values[0].tolist()))
    assert len(pairs) == 4


def test_no_two_classes_share_place_and_colour() -> None:
    images = stream(0).integers(0, 256, (1, 3, 2, 2), dtype=np.uint8).repeat(32, 0)
    same = ImageSet(images, np.arange(32, dtype=np.int64), np.arange(32, dtype=np.int64), 32)
    chosen = {(r, c, *colour.tolist()) for r, c, colour in find_pixels(same).values()}
    assert len(chosen) == 32
    with pytest.raises(DataError, match="more than pixels times colours"):
        Ops().check(ImageSet(images, same.labels, same.ids, 33), TEST)


# Autoregressive


def test_every_pixel_follows_from_its_neighbours_by_the_rule() -> None:
    rules = draw_rules(3, 24, stream(0))
    np.testing.assert_allclose(rules.sum(1), 1)
    signal = scan(rules, stream(1).standard_normal((24, 24, 3)))
    for row, column in ((2, 2), (10, 7), (23, 23)):
        window = signal[row - 2 : row + 1, column - 2 : column + 1].reshape(9, 3)
        np.testing.assert_allclose(window[8], (rules.T * window[:8]).sum(0))
    assert float(residuals(rules, signal).diagonal().max()) < 1e-9


@pytest.mark.parametrize(("count", "least"), [(10, 0.15), (40, 0.08)])
def test_rules_neither_diverge_nor_die_nor_repeat_each_other(count: int, least: float) -> None:
    rules = draw_rules(count, 36, stream(0))
    signals = signals_of(rules.repeat(5, 0)[:, None], 32, 32, stream(1))[:, 0]
    assert np.abs(signals).max() < 50
    assert signals[:, 16:, 16:].std((1, 2)).reshape(count, 5).mean(1).min() > 0.03
    missed = residuals(rules, signals.transpose(1, 2, 0)).reshape(count, count, 5).mean(2)
    np.testing.assert_allclose(missed.diagonal(), 0, atol=1e-9)
    assert missed[~np.eye(count, dtype=bool)].min() > least


def test_a_filter_tells_a_class_by_its_signal() -> None:
    added = change(Autoregressive(l2=8.0), grey(30, 16, 3))
    labels = np.arange(30) % 3
    own = [added[labels == label].transpose(1, 2, 3, 0) for label in range(3)]
    for label in range(3):  # a rule fitted to a class explains that class and not the others
        windows = np.lib.stride_tricks.sliding_window_view(own[label][0], (3, 3), (0, 1))
        flat = windows.reshape(-1, 9)
        rule = np.linalg.lstsq(flat[:, :8], flat[:, 8], rcond=None)[0]
        missed = [float(residuals(rule[None], other[0]).mean()) for other in own]
        assert int(np.argmin(missed)) == label


# TAP


@pytest.mark.parametrize("aim", ["next_class", "away"])
def test_images_show_another_class_within_the_bound(aim: str, surrogate: Predictor) -> None:
    attack = Tap(surrogate=surrogate, aim=aim, eps_255=16, pgd=PGD, augment=SHIFTS)
    poisoned = attack.poison(TRAIN, TEST, stream(0))
    moved = poisoned.train.images.astype(int) - TRAIN.images
    assert 0 < np.abs(moved).max() <= 16 == attack.bounds(TRAIN).eps_255
    seen = surrogate(poisoned.train.images)
    if aim == "next_class":
        assert poisoned.details["loss"] < 0.5 * poisoned.details["loss_before"]
        assert np.mean(seen == (TRAIN.labels + 1) % 4) > 0.8
    else:
        assert poisoned.details["loss"] > 2 * poisoned.details["loss_before"]
        assert np.mean(seen == TRAIN.labels) < 0.2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s: Lsp(rms_255=0), "rms_255"),
        (lambda s: Lsp(patch_px=0), "patch_px"),
        (lambda s: Autoregressive(l2=-1.0), "l2 is a length"),
        (lambda s: Tap(surrogate=s, eps_255=300), "eps_255"),
    ],
)
def test_impossible_parameters_are_refused(make, message: str, surrogate: Predictor) -> None:
    with pytest.raises(DataError, match=message):
        make(surrogate)
