"""The procedural dataset: stable rows, visible and learnable shapes."""

import numpy as np
import pytest
import torch

from harness.core.errors import DataError
from harness.core.protocols import CLASSIFIERS, DATASETS
from harness.core.recipe import Recipe
from harness.core.seeds import stream
from harness.datasets.shapes import BLOCK, SHAPES, Shapes
from harness.training import fit


def test_the_registry_knows_it_and_its_parameters():
    entry = DATASETS.get("shapes")
    assert entry.factory is Shapes
    assert entry.parameters["train"].default == 2000
    assert all(p.doc for p in entry.parameters.values())
    data = entry.factory(**Shapes.example).load()
    assert (len(data.train), len(data.test)) == (40, 20)


@pytest.mark.parametrize(("kind", "classes"), [("classes", 10), ("pood", 6)])
def test_rows_are_balanced_and_ids_are_unique_over_both_splits(kind, classes):
    data = Shapes(kind=kind, train=25, test=13).load()
    assert data.train.images.shape == (25, 3, 32, 32)
    assert data.train.images.dtype == np.uint8
    assert len(data.class_names) == classes
    np.testing.assert_array_equal(data.train.labels, np.arange(25) % classes)
    np.testing.assert_array_equal(data.test.labels, np.arange(13) % classes)
    assert len({*data.train.ids.tolist(), *data.test.ids.tolist()}) == 25 + 13


@pytest.mark.parametrize("few", [1, 7, BLOCK, BLOCK + 1])
def test_more_rows_keep_the_first_ones(few):
    many = Shapes(train=BLOCK + 30, test=BLOCK + 5).load()
    fewer = Shapes(train=few, test=few).load()
    rows = np.arange(few)
    assert fewer.train.digest == many.train.take(rows).digest
    assert fewer.test.digest == many.test.take(rows).digest


def test_seed_kind_and_split_have_pictures_of_their_own():
    base = Shapes(train=30, test=30).load()
    others = [
        base.test.images,
        Shapes(train=30, test=0, seed=1).load().train.images,
        Shapes(train=30, test=0, kind="pood").load().train.images,
    ]
    for images in others:
        same = (images == base.train.images).reshape(30, -1).mean(1)
        assert same.max() < 0.2
    # No picture stands twice, neither within a block nor in the next one.
    rows = Shapes(train=2 * BLOCK, test=0).load().train.images.reshape(2 * BLOCK, -1)
    assert len(np.unique(rows, axis=0)) == 2 * BLOCK


def test_bytes_are_those_of_the_first_release():
    # Published numbers hold for these pictures; another digest is another dataset.
    data = Shapes(train=60, test=0).load()
    assert data.train.digest[:16] == "2d542ed3c4f73909"


def test_shapes_stand_out_from_their_background():
    data = Shapes(train=1000, test=0).load().train
    discs = data.images[data.labels == 0] / 255.0
    inside = discs[:, :, 15:18, 15:18].mean((2, 3))  # wherever the disc is, it covers the middle
    corners = [
        discs[:, :, i, j] for i in (slice(2), slice(-2, None)) for j in (slice(2), slice(-2, None))
    ]
    outside = np.mean([corner.mean((2, 3)) for corner in corners], axis=0)
    distance = np.linalg.norm(inside - outside, axis=1)
    assert distance.min() > 0.15
    assert distance.mean() > 0.5


@pytest.mark.parametrize("kind", SHAPES)
def test_distances_are_signed_and_true_to_scale_at_the_edge(kind):
    axis = np.linspace(-1.5, 1.5, 601)
    x, y = np.meshgrid(axis, axis)
    for name, function in SHAPES[kind].items():
        distance = function(x, y)
        area = (distance < 0).mean() * 9
        assert 0.3 < area < 2.5, name
        assert distance[[0, 0, -1, -1], [0, -1, 0, -1]].min() > 0, name
        down, across = np.gradient(distance, axis, axis)
        slope = np.hypot(down, across)[np.abs(distance) < 0.03]
        # An anti-aliased edge is one pixel wide only where the distance grows by 1 per unit.
        assert np.mean(np.abs(slope - 1) < 0.25) > 0.9, name


def test_no_two_shapes_of_a_kind_cover_alike():
    axis = np.linspace(-1.2, 1.2, 121)
    x, y = np.meshgrid(axis, axis)
    radius, turns = np.hypot(x, y), np.linspace(0, 2 * np.pi, 73)[:-1]
    for shapes in SHAPES.values():
        masks = {n: [f(np.cos(t) * x + np.sin(t) * y, np.cos(t) * y - np.sin(t) * x) < 0
                     for t in turns] for n, f in shapes.items()}  # fmt: skip
        for a in shapes:
            for b in shapes:
                if a < b:
                    differ = min(np.mean((masks[a][0] ^ m)[radius < 1]) for m in masks[b])
                    assert differ > 0.04, (a, b)


def test_another_size_shows_the_same_classes():
    data = Shapes(train=20, test=10, size=64).load()
    assert data.train.image_shape == (3, 64, 64)
    np.testing.assert_array_equal(data.train.labels, np.arange(20) % 10)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"train": 0}, "train must be at least 1"),
        ({"test": -1}, "test not negative"),
        ({"size": 33}, "even number"),
        ({"size": 6}, "at least 8"),
        ({"seed": -1}, "seed"),
    ],
)
def test_impossible_parameters_are_refused(params, message):
    with pytest.raises(DataError, match=message):
        Shapes(**params)


def test_a_small_network_learns_the_classes():
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        data = Shapes(test=300).load()
        recipe = Recipe(epochs=10, lr=0.1, batch_size=64, crop_pad=2)
        model = CLASSIFIERS.get("hlb_xs").factory(widths=(16, 32, 32)).build(10, (3, 32, 32))
        predictor = fit(model, data.train, recipe, stream(0, "train"))
        accuracy = np.mean(predictor.logits(data.test.images).argmax(1) == data.test.labels)
    finally:
        torch.set_num_threads(threads)
    assert accuracy > 0.6
