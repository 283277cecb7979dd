"""Every registered defense does on real images what it is for, and none is a no-op."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from defenses._friendly_noise import friendly_noise
from defenses._purify import score
from defenses.autoaugment import AutoAugment
from defenses.avatar import Avatar
from defenses.bit_depth import BitDepth
from defenses.chain import Chain
from defenses.epic import Epic
from defenses.friends import Friends
from defenses.grayscale import Grayscale
from defenses.jpeg import Jpeg
from defenses.median_blur import MedianBlur
from defenses.none import NoDefense
from defenses.perfect_filter import PerfectFilter
from defenses.puregen_ddpm import PuregenDdpm
from defenses.puregen_ebm import PuregenEbm
from defenses.puregen_filt import PuregenFilt
from defenses.puregen_naive import PuregenNaive
from defenses.puregen_reps import PuregenReps
from defenses.random_noise import RandomNoise
from defenses.tvm import Tvm
from generative.checkpoints import load_ebm
from generative.ddpm import DDPM
from generative.ddpm_training import DDPMRecipe, train_ddpm
from generative.ebm import EBM
from generative.unet import UNetConfig
from harness.classifiers.hlb_xs import HlbXs
from harness.core.data import ImageSet
from harness.core.pixels import to_float
from harness.core.protocols import DEFENSES
from harness.core.recipe import Recipe
from harness.core.seeds import stream
from harness.sweeps import folder
from harness.training import Predictor, build_model, fit

EPS = 8  # grey levels
ROWS = 16
CLASSES = (0, 1, 7)  # airplane, automobile, horse
UNET = UNetConfig(
    block_out_channels=(16,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    norm_num_groups=4, attention_head_dim=16,
)  # fmt: skip
DDPM_RECIPE = DDPMRecipe(iterations=70, batch_size=16, lr=4e-3, warmup=10, ema=0.95, horizon=40)
NET = HlbXs(widths=(8, 16, 16), recipe=Recipe(epochs=6, lr=0.2, batch_size=32))


class Real:
    """Real images, and small networks trained once on such."""

    def __init__(self, shared: Path) -> None:
        self._data = shared / "data"
        archive = np.load(self._data / "cifar10_mini.npz")
        test = archive["x_test"].transpose(0, 3, 1, 2)
        images = np.ascontiguousarray(test[:ROWS]).clip(
            EPS, 255 - EPS
        )  # so that nothing is clipped
        self.images = ImageSet(
            images, archive["y_test"][:ROWS].astype(np.int64), np.arange(ROWS), 10
        )
        labels = archive["y_train"]
        rows = np.flatnonzero(np.isin(labels, CLASSES))[:300]
        pixels = np.ascontiguousarray(archive["x_train"][rows].transpose(0, 3, 1, 2))
        renamed = np.searchsorted(CLASSES, labels[rows]).astype(np.int64)
        self.classes = ImageSet(pixels, renamed, np.arange(len(rows)), len(CLASSES))
        self.pattern = np.random.default_rng(0).choice([-EPS, EPS], images.shape)

    def perturbed(self) -> ImageSet:
        return self.images.with_images((self.images.images + self.pattern).astype(np.uint8))

    @cached_property
    def ebm(self) -> EBM:
        return load_ebm(folder() / "weights" / "shapes_ebm")

    @cached_property
    def ddpm(self) -> DDPM:
        public = np.load(self._data / "pood32.npz")["images"][:1000].transpose(0, 3, 1, 2)
        return train_ddpm(np.ascontiguousarray(public), UNET, DDPM_RECIPE, 0, device="cpu")

    @cached_property
    def victim(self) -> Predictor:
        rng = stream(0, "train")
        model = build_model(NET.build, len(CLASSES), self.classes.image_shape, rng)
        return fit(model, self.classes, NET.recipe, rng)


@pytest.fixture(scope="module")
def real(shared_data: Path) -> Real:
    return Real(shared_data)


def purify(defense: Any, train: ImageSet) -> np.ndarray:
    return defense.purify(train, stream(0, "defense")).images


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = np.mean((a.astype(float) - b) ** 2, axis=(1, 2, 3))
    return float(np.mean(10 * np.log10(255**2 / error)))


@dataclass(frozen=True)
class Purifies:
    """Less than a share of a random ±8 pattern is left, and the images stay what they are."""

    make: Callable[[Real], Any]
    retention: float
    psnr: float

    def __call__(self, real: Real) -> None:
        defense = self.make(real)
        clean = purify(defense, real.images)
        left = purify(defense, real.perturbed()).astype(float) - clean
        retention = float(np.mean(left * real.pattern)) / EPS**2
        assert -0.1 < retention < self.retention
        assert psnr(clean, real.images.images) > self.psnr


def fewer_levels_hide_a_pattern_in_most_pixels(real: Real) -> None:
    clean = purify(BitDepth(bits=2), real.images)
    assert len(np.unique(clean)) == 4
    assert np.mean(purify(BitDepth(bits=2), real.perturbed()) == clean) > 0.85
    assert psnr(clean, real.images.images) > 17


def the_filter_purifies_the_perturbed_half(real: Real) -> None:
    """And gives the others back byte for byte."""
    moved = np.arange(ROWS) % 2 == 0
    clean = real.images.images
    images = clean.copy()
    images[moved] = (clean[moved].astype(int) + 2 * real.pattern[moved]).clip(0, 255)
    found = purify(
        PuregenFilt(ebm=real.ebm, ddpm=real.ddpm, share=0.5, steps=20),
        real.images.with_images(images),
    )
    changed = (found != images).any((1, 2, 3))
    energies = score(images, real.ebm)
    assert changed.sum() == ROWS // 2
    assert energies[changed].min() > energies[~changed].max()
    assert changed[moved].mean() > 0.7
    purified = changed & moved
    pattern = images[purified].astype(float) - clean[purified]
    left = found[purified].astype(float) - clean[purified]
    assert (left * pattern).sum() / (pattern**2).sum() < 0.75


def epic_drops_planted_rows_and_keeps_clean_ones(real: Real) -> None:
    """Of pictures that the victim knows, the plainest of each class has another class's label."""
    model = real.victim.model.eval()
    with torch.no_grad():
        confidence = model(to_float(real.classes.images)).softmax(1).numpy()
    known = confidence.argmax(1) == real.classes.labels
    train = real.classes.take(known)
    own = confidence[known].max(1)
    planted = [int(np.argmax(np.where(train.labels == c, own, 0))) for c in range(len(CLASSES))]
    labels = train.labels.copy()
    labels[planted] = (labels[planted] + 1) % len(CLASSES)
    train = ImageSet(train.images, labels, train.ids, len(CLASSES))
    (hook,) = Epic(every=1, subset_share=0.2).hooks()
    assert len(hook.before_epoch(0, train, model, stream(0))) == len(train)  # before drop_after
    kept = hook.before_epoch(1, train, model, stream(0))
    assert not np.isin(planted, kept).any()
    assert len(kept) > 0.92 * len(train)  # a fifth are medoids, and could go


def friendly_noise_is_bounded_large_and_minded_little(real: Real) -> None:
    model, images = real.victim.model.eval(), real.classes.images[:32]
    defense = Friends(begin_epoch=0, noise="none", steps=15, mu=16)
    (hook,) = defense.hooks()
    few = real.classes.take(np.arange(32))
    hook.before_epoch(0, few, model, stream(0))
    x = to_float(images)
    seen = hook.on_batch(x, np.arange(32), stream(0))
    assert (seen - x).abs().max() <= 16.01 / 255
    noise = friendly_noise(model, images, defense.search, stream(0)).of(np.arange(32))
    torch.testing.assert_close(seen, (x + noise).clamp(0, 1))
    size = noise.square().mean().sqrt()
    assert size > 1.1 * (8 / 255) / 3**0.5  # of the uniform noise that it began with

    def minded(added: torch.Tensor) -> float:
        with torch.no_grad():
            before, after = (model(z).log_softmax(1) for z in (x, (x + added).clamp(0, 1)))
        return float((before.exp() * (before - after)).sum(1).mean())

    signs = torch.from_numpy(np.random.default_rng(0).choice([-1, 1], x.shape)).float()
    assert minded(noise) < 0.5 * minded(size * signs)


def random_noise_is_of_its_size_and_drawn_anew(real: Real) -> None:
    (hook,) = RandomNoise(eps_255=EPS).hooks()
    x = to_float(real.images.images)
    first, second = (hook.on_batch(x, np.arange(ROWS), stream(i)) for i in range(2))
    assert ((first - x).abs() * 255 - EPS).abs().max() < 1e-3
    assert abs(float((first - x).mean()) * 255) < 0.2
    assert 0.45 < float((first != second).float().mean()) < 0.55


def augmentation_changes_batches_and_keeps_rows_and_labels(real: Real) -> None:
    assert AutoAugment().purify(real.images, stream(0)) is real.images
    (hook,) = AutoAugment().hooks()
    rows = hook.before_epoch(0, real.images, torch.nn.Identity(), stream(0))
    np.testing.assert_array_equal(rows, np.arange(ROWS))
    x = to_float(real.images.images)
    seen = hook.on_batch(x, rows, stream(0))
    changed = (seen - x).abs().mean((1, 2, 3)) > 1 / 255
    assert 0.5 < changed.float().mean() < 1
    assert not torch.equal(seen, hook.on_batch(x, rows, stream(1)))


def the_oracle_drops_the_poisons_alone(real: Real) -> None:
    poisons = np.array([3, 9, 14])
    images = real.images.images.copy()
    images[poisons] = real.perturbed().images[poisons]
    train = real.images.with_images(images)
    left = PerfectFilter().told(train.ids[poisons]).purify(train, stream(0))
    np.testing.assert_array_equal(left.ids, np.setdiff1d(np.arange(ROWS), poisons))
    np.testing.assert_array_equal(left.images, real.images.take(left.ids).images)
    np.testing.assert_array_equal(left.labels, real.images.take(left.ids).labels)


def a_chain_is_its_parts_in_turn(real: Real) -> None:
    parts = (Jpeg(quality=50), MedianBlur())
    found = purify(Chain(parts=parts), real.images)
    first = parts[0].purify(real.images, stream(0))
    np.testing.assert_array_equal(found, purify(parts[1], first))
    other = parts[1].purify(real.images, stream(0))
    assert not np.array_equal(found, purify(parts[0], other))
    (hook,) = Chain(parts=(Jpeg(), RandomNoise())).hooks()
    x = to_float(real.images.images)
    assert not torch.equal(hook.on_batch(x, np.arange(ROWS), stream(0)), x)
    Purifies(lambda _: Chain(parts=parts), 0.2, 20)(real)


def none_changes_nothing(real: Real) -> None:
    assert NoDefense().purify(real.images, stream(0)) is real.images
    assert not NoDefense().hooks()


# What noise of these steps leaves alone: 26.3 dB (60 Langevin steps), 28.4 dB (20 time steps).
EFFECTS: dict[str, Callable[[Real], None]] = {
    "autoaugment": augmentation_changes_batches_and_keeps_rows_and_labels,
    "avatar": Purifies(lambda r: Avatar(ddpm=r.ddpm, steps=20), 0.75, 26),
    "bit_depth": fewer_levels_hide_a_pattern_in_most_pixels,
    "chain": a_chain_is_its_parts_in_turn,
    "epic": epic_drops_planted_rows_and_keeps_clean_ones,
    "friends": friendly_noise_is_bounded_large_and_minded_little,
    "grayscale": Purifies(lambda _: Grayscale(), 0.4, 17),
    "jpeg": Purifies(lambda _: Jpeg(quality=25), 0.4, 22),
    "median_blur": Purifies(lambda _: MedianBlur(), 0.25, 20),
    "none": none_changes_nothing,
    "perfect_filter": the_oracle_drops_the_poisons_alone,
    "puregen_ddpm": Purifies(lambda r: PuregenDdpm(ddpm=r.ddpm, steps=20), 0.75, 26),
    "puregen_ebm": Purifies(lambda r: PuregenEbm(ebm=r.ebm, steps=60), 0.7, 26.8),
    "puregen_filt": the_filter_purifies_the_perturbed_half,
    "puregen_naive": Purifies(
        lambda r: PuregenNaive(ebm=r.ebm, ddpm=r.ddpm, ebm_steps=20, ddpm_steps=10), 0.7, 26
    ),
    "puregen_reps": Purifies(
        lambda r: PuregenReps(ebm=r.ebm, ddpm=r.ddpm, ebm_steps=5, ddpm_steps=5, repeats=3),
        0.75, 26,
    ),
    "random_noise": random_noise_is_of_its_size_and_drawn_anew,
    "tvm": Purifies(lambda _: Tvm(), 0.12, 17),
}  # fmt: skip


def test_every_registered_defense_has_its_effect_asserted_here() -> None:
    assert set(DEFENSES.names()) == set(EFFECTS)


@pytest.mark.parametrize("name", EFFECTS)
def test_the_defense_does_what_it_is_for(real: Real, name: str) -> None:
    EFFECTS[name](real)
