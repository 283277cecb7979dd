"""FRIENDS: its noise is large, bounded and minded little, and it takes a weak trigger's effect."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from defenses._friendly_noise import FriendlySearch, friendly_noise
from defenses._random_noise import Noise, add_noise
from defenses.friends import Friends
from defenses.random_noise import RandomNoise
from harness.classifiers.hlb_xs import HlbXs
from harness.core.data import ImageSet
from harness.core.errors import DataError
from harness.core.recipe import Recipe
from harness.core.seeds import stream
from harness.training import Predictor, build_model, fit
from tests.easy_images import prototypes

NET = HlbXs(
    widths=(8, 16, 16),
    recipe=Recipe(epochs=8, lr=0.2, batch_size=32, crop_pad=0, label_smoothing=0.0),
)
TEST = prototypes(200, noise=30, seed=5)
SEARCH = FriendlySearch(mu=16)


def trained(train: ImageSet, defense=None, seed: int = 0, recipe: Recipe = NET.recipe) -> Predictor:
    rng = stream(seed, "train")
    model = build_model(NET.build, 4, train.image_shape, rng)
    return fit(model, train, recipe, rng, hooks=defense.hooks() if defense else ())


def triggered(images: np.ndarray) -> np.ndarray:
    """Add a checkerboard of plus and minus three grey levels."""
    i = np.arange(images.shape[-1])
    pattern = np.where((i[:, None] + i) % 2, 3, -3)
    return np.clip(images.astype(int) + pattern, 0, 255).astype(np.uint8)


def poisoned(clean: ImageSet) -> ImageSet:
    """A tenth of the rows are of other classes and have the trigger and the label 0."""
    images, labels = clean.images.copy(), clean.labels.copy()
    rows = np.flatnonzero(labels != 0)[: len(clean) // 10]
    images[rows], labels[rows] = triggered(images[rows]), 0
    return ImageSet(images, labels, clean.ids, 4)


def test_a_weak_trigger_works_undefended_and_no_more_with_friends() -> None:
    train, test = poisoned(prototypes(400, noise=2, seed=0)), prototypes(200, noise=2, seed=5)
    recipe = replace(NET.recipe, epochs=16)  # in fewer, not every victim has learned the trigger
    others = test.take(test.labels != 0)

    def success(predict: Predictor) -> float:
        return float(np.mean(predict(triggered(others.images)) == 0))

    defended = trained(train, Friends(begin_epoch=2, mu=16), recipe=recipe)
    assert success(trained(train, recipe=recipe)) > 0.8
    assert success(defended) < 0.2
    assert np.mean(defended(test.images) == test.labels) > 0.95
    assert (
        success(trained(train, RandomNoise(), recipe=recipe)) > 0.5
    )  # it takes more than random noise


@pytest.fixture(scope="module")
def victim() -> Predictor:
    return trained(prototypes(400, noise=30, seed=0))


def divergence(predict: Predictor, noise: torch.Tensor) -> float:
    """Mean KL divergence of the answer to a changed image from that to the image itself."""
    x = torch.tensor(TEST.images).float() / 255
    with torch.no_grad():
        before, after = (predict.model(z).log_softmax(1) for z in (x, (x + noise).clamp(0, 1)))
    return float(F.kl_div(after, before, reduction="batchmean", log_target=True))


@pytest.mark.parametrize("mu", [1.0, 16.0])
def test_friendly_noise_grows_within_its_bound_and_is_minded_little(
    victim: Predictor, mu: float
) -> None:
    search = FriendlySearch(mu=mu)
    stored = friendly_noise(victim.model, TEST.images, search, stream(0))
    assert stored.levels.dtype == torch.int8
    noise = stored.of(np.arange(len(TEST)))
    assert noise.abs().max() <= 16 / 255
    size = noise.square().mean().sqrt()
    assert size > 1.1 * (8 / 255) / 3**0.5  # of the uniform noise that it began with
    signs = torch.randint(0, 2, noise.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert divergence(victim, noise) < 0.25 * divergence(victim, size * signs)


def test_friendly_noise_depends_on_the_seed_and_not_on_the_batch(victim: Predictor) -> None:
    def levels(seed: int = 0, **changes: object) -> torch.Tensor:
        search = replace(SEARCH, steps=10, **changes)
        return friendly_noise(victim.model, TEST.images, search, stream(seed)).levels

    whole = levels()
    assert torch.equal(whole, levels())
    assert not torch.equal(whole, levels(1))
    # Sums of other batches round differently: a level here and there, never another noise.
    apart = (whole.int() - levels(batch_size=48).int()).abs().float()
    assert apart.mean() < 0.05


def test_the_search_is_published_sgd_on_a_linear_network() -> None:
    """Mean over 128 rows at rate 100, Nesterov 0.9, as torch computes it, on one row repeated."""
    weight = torch.tensor(np.random.default_rng(0).normal(0, 0.2, (4, 48)), dtype=torch.float32)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 4, bias=False)).eval()
    model[1].weight.data = weight
    images = np.full((128, 3, 4, 4), 100, np.uint8)
    search = FriendlySearch(steps=5, mu=1.0)
    ours = friendly_noise(model, images, search, stream(0)).of(np.arange(128))

    start = stream(0).random(images.shape, dtype=np.float32)
    delta = torch.from_numpy((2 * start - 1) * np.float32(8 / 255)).requires_grad_()
    sgd = torch.optim.SGD([delta], lr=100, momentum=0.9, nesterov=True)
    x = torch.tensor(images).float() / 255
    wanted = model(x).softmax(1).detach()
    for _ in range(5):
        noise = delta.clamp(-16 / 255, 16 / 255)
        answer = model((x + noise).clamp(0, 1)).log_softmax(1)
        loss = F.kl_div(answer, wanted, reduction="batchmean") - noise.square().mean()
        sgd.zero_grad()
        loss.backward()
        sgd.step()
    expected = delta.detach().clamp(-16 / 255, 16 / 255)
    moved = (expected - torch.from_numpy((2 * start - 1) * np.float32(8 / 255))).abs().max()
    assert moved > 20 * 16 / 255 / 127
    torch.testing.assert_close(ours, expected, atol=0.51 * 16 / 255 / 127, rtol=0)


def test_the_victims_weights_stay_and_are_trained_on() -> None:
    model = build_model(NET.build, 4, TEST.image_shape, stream(0)).eval()
    model.body[0].weight.requires_grad_(False)
    flags = [p.requires_grad for p in model.parameters()]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    friendly_noise(model, TEST.images[:16], replace(SEARCH, steps=2), stream(0))
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_batches_get_their_own_rows_noise_from_the_begin_epoch_on(victim: Predictor) -> None:
    (hook,) = Friends(begin_epoch=3, noise="none", steps=3, mu=16).hooks()
    rows = np.array([7, 150, 3])
    x = torch.tensor(TEST.images[rows]).float() / 255
    model = victim.model
    assert len(hook.before_epoch(2, TEST, model, stream(0, 2))) == len(TEST)
    assert torch.equal(hook.on_batch(x, rows, stream(0)), x)
    hook.before_epoch(3, TEST, model, stream(0, 3))
    search = FriendlySearch(steps=3, mu=16)
    stored = friendly_noise(model, TEST.images, search, stream(0, 3), victim.dtype)
    expected = (x + stored.of(rows)).clamp(0, 1)
    assert torch.equal(hook.on_batch(x, rows, stream(0)), expected)
    hook.before_epoch(4, TEST, model, stream(0, 4))  # once only
    assert torch.equal(hook.on_batch(x, rows, stream(0)), expected)


@pytest.mark.usefixtures("torchs_precision")
@pytest.mark.parametrize(("precision", "setting"), [("fp32", "ieee"), ("bf16", "tf32")])
def test_friendly_noise_in_float32_is_not_rounded_to_tf32(precision: str, setting: str) -> None:
    model, seen = build_model(NET.build, 4, TEST.image_shape, stream(0)).eval(), []

    def watch(*_: object) -> None:
        seen.append(torch.backends.cudnn.conv.fp32_precision)

    model.register_forward_hook(watch)
    (hook,) = Friends(begin_epoch=0, steps=2, precision=precision).hooks()
    hook.before_epoch(0, TEST.take(np.arange(16)), model, stream(0))
    assert len(seen) == 3 and set(seen) == {setting}


@pytest.mark.parametrize(("kind", "spread"), [("bernoulli", 1), ("gaussian", 1), ("uniform", 3)])
def test_random_noise_has_its_law_and_is_not_clamped(kind: Noise, spread: int) -> None:
    x = torch.ones(64, 3, 16, 16)
    noise = (add_noise(x, kind, 8 / 255, stream(0)) - x) * 255
    assert noise.square().mean() == pytest.approx(64 / spread, rel=0.02)
    assert abs(float(noise.mean())) < 0.15
    assert noise.max() > 7.9  # white became brighter than white
    if kind == "bernoulli":
        assert noise.abs().sub(8).abs().max() < 1e-3
    if kind == "uniform":
        assert noise.abs().max() <= 8.001
    assert torch.equal(add_noise(x, kind, 0.1, stream(0)), add_noise(x, kind, 0.1, stream(0)))
    assert not torch.equal(add_noise(x, kind, 0.1, stream(0)), add_noise(x, kind, 0.1, stream(1)))


def test_the_same_seed_gives_the_same_victim() -> None:
    train = prototypes(80, noise=30, seed=0)
    short = replace(NET.recipe, epochs=2)
    defense = Friends(begin_epoch=1, steps=3)

    def weights(seed: int) -> torch.Tensor:
        return trained(train, defense, seed, short).model.head.weight.detach()

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Friends(steps=0), "at least 1"),
        (lambda: Friends(eps_255=0), "grey levels"),
        (lambda: Friends(momentum=1.0), "momentum"),
        (lambda: RandomNoise(eps_255=-1), "grey levels"),
    ],
)
def test_impossible_parameters_are_refused(make, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make()
