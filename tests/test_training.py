"""Training of classifiers: it learns, repeats itself, and gives hooks their part."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from harness.classifiers.hlb_xs import HlbXs
from harness.core.augment import random_crop, random_cutout, random_flip
from harness.core.data import ImageSet
from harness.core.errors import DataError
from harness.core.recipe import Recipe
from harness.core.seeds import stream
from harness.datasets.shapes import Shapes
from harness.training import Predictor, augment, build_model, fit, make_optimizer

NET = HlbXs(widths=(8, 16, 16), recipe=Recipe(epochs=2, lr=0.1, crop_pad=2))
DATA = Shapes(train=300, test=100).load()


def trained(seed: int = 0, recipe: Recipe = NET.recipe, **options: object) -> Predictor:
    rng = stream(seed, "train")
    model = build_model(NET.build, DATA.train.num_classes, DATA.train.image_shape, rng)
    return fit(model, DATA.train, recipe, rng, **options)


def weights(predictor: Predictor) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in predictor.model.parameters()])


def test_a_classifier_learns_real_images(shared_data) -> None:
    archive = np.load(shared_data / "data" / "cifar10_mini.npz")
    keep = np.isin(archive["y_train"], (1, 6))  # automobiles and frogs
    pixels = archive["x_train"][keep].transpose(0, 3, 1, 2)
    labels = (archive["y_train"][keep] == 6).astype(np.int64)
    train = ImageSet(np.ascontiguousarray(pixels), labels, np.arange(len(labels)), 2)
    rng = stream(0, "train")
    model = build_model(NET.build, 2, train.image_shape, rng)
    predict = fit(model, train.take(np.arange(800)), replace(NET.recipe, epochs=4), rng)
    held_out = train.take(np.arange(800, len(train)))
    assert np.mean(predict(held_out.images) == held_out.labels) > 0.8


def test_the_same_seed_gives_the_same_weights_and_another_one_others() -> None:
    assert torch.equal(weights(trained(0)), weights(trained(0)))
    assert not torch.equal(weights(trained(0)), weights(trained(1)))


class Recorder:
    """Keeps the even rows, brightens them, and notes what it saw."""

    def __init__(self) -> None:
        self.rows: set[int] = set()
        self.largest = 0.0

    def before_epoch(self, epoch, train, model, rng):
        assert not model.training
        return np.arange(0, len(train), 2)

    def on_batch(self, x, rows, rng):
        self.rows |= set(map(int, rows))
        self.largest = max(self.largest, float(x.max()))
        return (x + 0.1).clamp(0, 1)


def test_a_hook_chooses_rows_and_changes_batches() -> None:
    hook = Recorder()
    epochs = []
    defended = trained(0, hooks=[hook], on_epoch=lambda e, _: epochs.append(e))
    assert hook.rows == set(range(0, 300, 2))
    assert hook.largest <= 1
    assert [e.rows for e in epochs] == [150, 150]
    assert not torch.equal(weights(defended), weights(trained(0)))


class Wrong:
    """A hook that returns what it is given."""

    def __init__(self, rows=np.arange, batch=lambda x: x) -> None:
        self.rows, self.batch = rows, batch

    def before_epoch(self, epoch, train, model, rng):
        return self.rows(len(train))

    def on_batch(self, x, rows, rng):
        return self.batch(x)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (lambda n: np.arange(n) + n // 2, "150 lie outside, such as 300: ids are no positions"),
        (lambda n: np.arange(n) - 1, "1 lie outside, such as -1"),
        (lambda n: np.zeros(n, int), "299 stand there again"),
        (
            lambda n: np.ones(n, bool),
            r"got bool \(300,\); np.flatnonzero makes positions of a mask",
        ),
        (lambda n: np.arange(n) / 1, r"got float64 \(300,\)"),
        (lambda n: np.arange(n)[:, None], r"got int64 \(300, 1\)"),
        (lambda n: None, "got None"),
    ],
)
def test_a_hook_that_returns_no_positions_is_named(rows, message) -> None:
    with pytest.raises(DataError, match=f"hook tests.test_training.Wrong: before_epoch.*{message}"):
        trained(0, hooks=[Wrong(rows)])


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (lambda x: x * 255, r"finite values in \[0, 1\].*got 0\.\.255"),
        (lambda x: x.masked_fill(x == x.max(), torch.nan), r"finite values.*got nan\.\.nan"),
        (lambda x: x / 0, "finite values.*inf|finite values.*nan"),
        (lambda x: x[:1], r"\(64, 3, 32, 32\) torch.float32 cpu; got \(1, 3, 32, 32\)"),
        (lambda x: x.double(), "got .* torch.float64 cpu"),
        (lambda x: x.byte(), "got .* torch.uint8 cpu"),
        (lambda x: x.to("meta"), "got .* meta"),
        (lambda x: x.numpy(), "must return a batch; got ndarray"),
        (lambda x: None, "must return a batch; got None"),
    ],
)
def test_a_hook_that_returns_no_batch_is_named(batch, message) -> None:
    recipe = replace(NET.recipe, batch_size=64)
    with pytest.raises(DataError, match=f"hook tests.test_training.Wrong: on_batch.*({message})"):
        trained(0, recipe, hooks=[Wrong(batch=batch)])


def test_a_hook_may_leave_the_range_by_noise() -> None:
    rng = np.random.default_rng(0)
    noise = Wrong(batch=lambda x: x + torch.from_numpy(rng.normal(size=x.shape)).float())
    trained(0, hooks=[noise])


def test_only_the_given_parameters_are_trained() -> None:
    rng = stream(0, "train")
    model = build_model(NET.build, 10, DATA.train.image_shape, rng)
    body = [p.clone() for p in model.body.parameters()]
    head = model.head.weight.clone()
    fit(model, DATA.train, NET.recipe, rng, trainable=list(model.head.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(body, model.body.parameters(), strict=True))
    assert not torch.equal(head, model.head.weight)


def test_a_training_that_diverges_says_so() -> None:
    with pytest.raises(DataError, match="diverged"):
        trained(0, recipe=replace(NET.recipe, lr=1e30, precision="fp32"))


@pytest.mark.usefixtures("torchs_precision")
@pytest.mark.parametrize(("precision", "setting"), [("fp32", "ieee"), ("bf16", "tf32")])
def test_a_training_in_float32_is_not_rounded_to_tf32(precision: str, setting: str) -> None:
    rng, seen = stream(0, "train"), []
    model = build_model(NET.build, 10, DATA.train.image_shape, rng)

    def watch(*_: object) -> None:
        seen.append(torch.backends.cudnn.conv.fp32_precision)

    model.register_forward_hook(watch)
    next(model.parameters()).register_hook(watch)  # in the backward pass
    few = DATA.train.take(np.arange(32))
    fit(model, few, replace(NET.recipe, epochs=1, precision=precision), rng)(few.images)
    assert len(seen) >= 3 and set(seen) == {setting}
    assert torch.backends.cudnn.conv.fp32_precision == "tf32"  # as before


def test_no_rows_to_train_on_is_an_error() -> None:
    rng = stream(0)
    model = build_model(NET.build, 10, DATA.train.image_shape, rng)
    with pytest.raises(DataError, match="empty"):
        fit(model, DATA.train.take([]), NET.recipe, rng)


def test_augmentation_moves_whole_images() -> None:
    x = torch.arange(4 * 3 * 8 * 8).float().view(4, 3, 8, 8)
    flipped = random_flip(x, stream(3))
    for before, after in zip(x, flipped, strict=True):
        assert torch.equal(after, before) or torch.equal(after, before.flip(2))
    assert random_crop(x, 0, stream(0)) is x
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2), mode="reflect")
    windows = [padded[:, :, dy : dy + 8, dx : dx + 8] for dy in range(5) for dx in range(5)]
    cropped = random_crop(x, 2, stream(0))
    for index, image in enumerate(cropped):
        assert any(torch.equal(image, w[index]) for w in windows)
    black = torch.nn.functional.pad(x + 1, (2, 2, 2, 2))
    windows = [black[:, :, dy : dy + 8, dx : dx + 8] for dy in range(5) for dx in range(5)]
    for index, image in enumerate(random_crop(x + 1, 2, stream(0), "constant")):
        assert any(torch.equal(image, w[index]) for w in windows)


def test_cutout_paints_one_square_with_the_mean_colour() -> None:
    x = torch.arange(60 * 3 * 8 * 8).float().view(60, 3, 8, 8)
    cut = random_cutout(x, 4, stream(0))
    mean, corners = x.mean((0, 2, 3)), set()
    for before, after in zip(x, cut, strict=True):
        rows, columns = torch.nonzero((before != after).all(0), as_tuple=True)
        height, width = (int(i.max() - i.min()) + 1 for i in (rows, columns))
        assert len(rows) == height * width  # one rectangle, cut off where it leaves the image
        assert 2 <= height <= 4 and 2 <= width <= 4
        assert torch.equal(after[:, rows, columns], mean[:, None].expand(-1, len(rows)))
        corners.add((int(rows.min()), int(columns.min())))
    assert len(corners) > 20
    assert random_cutout(x, 0, stream(0)) is x


def test_recipes_augment_as_they_say() -> None:
    x = torch.ones((40, 3, 8, 8))
    plain = Recipe(flip=False, crop_pad=0)
    assert torch.equal(augment(x, plain, stream(0)), x)
    assert (augment(x, replace(plain, crop_pad=2, border="black"), stream(0)) == 0).any()
    assert torch.equal(augment(x, replace(plain, crop_pad=2), stream(0)), x)
    ramp = torch.linspace(0, 1, 64).view(1, 1, 8, 8).expand(40, 3, 8, 8)
    assert not torch.equal(augment(ramp, replace(plain, cutout=3), stream(0)), ramp)


def test_biases_and_norms_can_be_left_without_decay() -> None:
    model = build_model(NET.build, 10, DATA.train.image_shape, stream(0))
    both = make_optimizer(list(model.parameters()), Recipe(decayed="weights")).param_groups
    assert [group["weight_decay"] for group in both] == [5e-4, 0.0]
    names = {id(p): name for name, p in model.named_parameters()}
    free = {names[id(p)].rsplit(".", 1)[1] for p in both[1]["params"] if p.ndim == 1}
    assert free == {"weight", "bias"}  # of norms, and of the stem
    assert all(p.ndim > 1 for p in both[0]["params"])
    assert sum(len(group["params"]) for group in both) == len(names)
    [one] = make_optimizer(list(model.parameters()), Recipe(nesterov=False)).param_groups
    assert (one["nesterov"], one["weight_decay"]) == (False, 5e-4)


def test_the_schedule_warms_up_and_ends_at_zero() -> None:
    recipe = Recipe(lr=1.0, warmup=0.25)
    assert recipe.rate(0.125, 0) == 0.5
    assert recipe.rate(1.0, 11) == 0.0
    steps = Recipe(lr=1.0, schedule="multistep", milestones=(2, 4))
    rates = [steps.rate(0.5, epoch) for epoch in range(6)]
    np.testing.assert_allclose(rates, [1, 1, 0.1, 0.1, 0.01, 0.01])
