"""Distances of sets of images, against the formula and on images that differ in a known way."""

import numpy as np
import pytest
import scipy.linalg

from generative.feature_distance import (
    RandomFeatures,
    feature_distance,
    frechet_distance,
    inception_distance,
)
from harness.classifiers.hlb_xs import HlbXs
from harness.core.errors import DataError, UsageError
from harness.core.seeds import stream
from harness.datasets.shapes import Shapes
from harness.training import Predictor, build_model


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return Shapes(train=240, test=10).load().train.images


def noisy(images: np.ndarray, levels: float, seed: int = 0) -> np.ndarray:
    moved = images + stream(seed, "noise").normal(0, levels, images.shape)
    return moved.round().clip(0, 255).astype(np.uint8)


def test_frechet_distance_is_that_of_the_formula() -> None:
    rng = stream(0)
    a = rng.normal(size=(200, 6)) @ rng.normal(size=(6, 6))
    b = rng.normal(size=(150, 6)) @ rng.normal(size=(6, 6)) + 1
    s1, s2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    means = np.square(a.mean(0) - b.mean(0)).sum()
    expected = means + np.trace(s1 + s2 - 2 * scipy.linalg.sqrtm(s1 @ s2).real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_by_hand() -> None:
    rows = stream(0).normal(size=(50, 3))
    assert frechet_distance(rows, rows) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(rows, rows + np.array([1, 2, 0])) == pytest.approx(5)
    scaled = rows.mean(0) + 3 * (rows - rows.mean(0))  # (3 s - s)² summed over the variances
    assert frechet_distance(rows, scaled) == pytest.approx(4 * np.trace(np.cov(rows.T)))
    assert frechet_distance(np.array([[0.0], [2]]), np.array([[5.0], [7]])) == pytest.approx(25)


def test_fewer_rows_than_features_will_do() -> None:
    rng = stream(0)
    a, b = rng.normal(size=(10, 40)), rng.normal(size=(12, 40))
    # tr sqrt(S1 S2) is the nuclear norm of A B', A and B centred, over sqrt(n-1) sqrt(m-1).
    centred = [rows - rows.mean(0) for rows in (a, b)]
    cross = np.linalg.norm(centred[0] @ centred[1].T, "nuc") / np.sqrt(9 * 11)
    expected = np.square(a.mean(0) - b.mean(0)).sum() - 2 * cross
    expected += np.trace(np.cov(a.T)) + np.trace(np.cov(b.T))
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("a", "b", "why"),
    [
        (np.ones((1, 3)), np.ones((4, 3)), "N at least 2"),
        (np.ones((4, 2)), np.ones((4, 3)), r"\(4, 2\), \(4, 3\)"),
        (np.full((4, 3), np.nan), np.ones((4, 3)), "not finite"),
    ],
)
def test_other_features_are_refused(a: np.ndarray, b: np.ndarray, why: str) -> None:
    with pytest.raises(DataError, match=why):
        frechet_distance(a, b)


def test_random_features_are_the_same_for_everyone(images: np.ndarray) -> None:
    features = RandomFeatures()(images[:20])
    assert features.shape == (20, 112) and features.dtype == np.float32
    np.testing.assert_array_equal(features, RandomFeatures()(images[:20]))
    np.testing.assert_allclose(features[7:9], RandomFeatures()(images[7:9]), rtol=1e-5, atol=1e-6)
    assert not np.allclose(features, RandomFeatures(seed=1)(images[:20]))
    assert RandomFeatures(channels=1)(images[:2, :1]).shape == (2, 112)


def test_random_features_see_noise_blur_and_colour(images: np.ndarray) -> None:
    half = feature_distance(images[:120], images[120:])  # what chance makes of the same kind
    little, more = (feature_distance(images[:120], noisy(images[120:], s)) for s in (8, 24))
    assert 0 < half < little < more
    blocks = images.reshape(-1, 3, 8, 4, 8, 4).mean((3, 5)).repeat(4, 2).repeat(4, 3)
    assert feature_distance(images[:120], blocks[120:].astype(np.uint8)) > 1.5 * half
    darker = images[120:] // 2
    assert feature_distance(images[:120], darker) > 10 * half


def test_features_of_a_classifier(images: np.ndarray) -> None:
    build = HlbXs(widths=(8, 8, 8)).build
    predictor = Predictor(build_model(build, 10, (3, 32, 32), stream(0)).eval())
    near = feature_distance(images[:120], noisy(images[:120], 2), predictor.features)
    far = feature_distance(images[:120], noisy(images[:120], 40), predictor.features)
    assert 0 <= near < far / 10


def test_the_fid_says_what_it_lacks(images: np.ndarray) -> None:
    with pytest.raises(UsageError, match=r"torchmetrics\[image\]|Inception's weights as"):
        inception_distance(images[:4], images[4:8])
