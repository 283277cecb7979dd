"""Blur, grey, fewer levels, total variation, augmentation: numbers, and effect on real images."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from scipy.ndimage import median_filter as reference_median
from scipy.optimize import minimize
from torchvision.transforms import v2

from defenses._auto_augment import OPERATIONS
from defenses.autoaugment import CIFAR10_POLICY, AutoAugment, apply_steps
from defenses.bit_depth import BitDepth, level_table
from defenses.grayscale import Grayscale
from defenses.median_blur import MedianBlur, median_filter
from defenses.tvm import Tvm, minimise, objective, row_masks
from harness.core.data import ImageSet
from harness.core.errors import DataError
from harness.core.pixels import to_float
from harness.core.seeds import stream
from harness.datasets.shapes import Shapes

TRAIN = Shapes(train=60, test=10).load().train
GREY = ImageSet(TRAIN.images[:, :1].copy(), TRAIN.labels, TRAIN.ids, 10)


@pytest.fixture(scope="module")
def real(shared_data) -> ImageSet:
    archive = np.load(shared_data / "data" / "cifar10_mini.npz")
    pixels = np.ascontiguousarray(archive["x_test"][:64].transpose(0, 3, 1, 2))
    return ImageSet(pixels, archive["y_test"][:64].astype(np.int64), np.arange(64), 10)


def purify(defense: Any, train: ImageSet, seed: int = 0) -> np.ndarray:
    return defense.purify(train, stream(seed)).images


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = np.mean((a.astype(float) - b) ** 2, axis=(1, 2, 3))
    return float(np.mean(10 * np.log10(255**2 / error)))


def retention(defense: Any, train: ImageSet, seed: int = 0) -> float:
    """Share of a random ±8 pattern that the defense leaves, 1 where it does nothing."""
    pattern = np.random.default_rng(seed).choice([-8, 8], train.images.shape)
    base = train.images.clip(8, 247)  # so that nothing is clipped
    clean = train.with_images(base)
    other = train.with_images((base.astype(int) + pattern).astype(np.uint8))
    left = purify(defense, other).astype(float) - purify(defense, clean)
    return float(np.mean(left * pattern) / 64)


# Median blur


@pytest.mark.parametrize("window", [3, 5])
def test_the_median_is_scipys(window: int) -> None:
    expected = reference_median(TRAIN.images, size=(1, 1, window, window), mode="reflect")
    np.testing.assert_array_equal(median_filter(TRAIN.images, window), expected)


def test_a_median_removes_single_pixels_and_keeps_edges() -> None:
    image = np.zeros((1, 1, 8, 8), np.uint8)
    image[..., 4:] = 200
    speckled = image.copy()
    speckled[0, 0, 2, 2] = speckled[0, 0, 5, 6] = 255
    np.testing.assert_array_equal(median_filter(speckled, 3), image)


# Grayscale


def test_grey_is_the_luminance_of_image_libraries() -> None:
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (4, 3, 64, 64), dtype=np.uint8)
    train = ImageSet(colours, np.zeros(4, np.int64), np.arange(4), 1)
    for image, grey in zip(colours, purify(Grayscale(), train), strict=True):
        expected = np.asarray(Image.fromarray(image.transpose(1, 2, 0)).convert("L"))
        for channel in grey:
            np.testing.assert_array_equal(channel, expected)


def test_grey_stays_grey() -> None:
    grey = purify(Grayscale(), TRAIN)
    np.testing.assert_array_equal(purify(Grayscale(), TRAIN.with_images(grey)), grey)


# Bit depth


@pytest.mark.parametrize("bits", [1, 2, 5])
def test_the_nearest_levels_are_evenly_spaced(bits: int) -> None:
    table = level_table(bits).astype(int)
    levels = np.unique(table)
    assert len(levels) == 2**bits and levels[0] == 0 and levels[-1] == 255
    assert np.ptp(np.diff(levels)) <= 1
    distances = np.abs(np.arange(256)[:, None] - levels)
    np.testing.assert_array_equal(np.abs(np.arange(256) - table), distances.min(1))


@pytest.mark.parametrize("bits", [1, 2, 5])
def test_the_top_bits_are_those_of_image_libraries(bits: int) -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    expected = np.asarray(ImageOps.posterize(Image.fromarray(values), bits))
    np.testing.assert_array_equal(level_table(bits, "top_bits"), expected.ravel())


# Total variance minimisation


def variation(images: np.ndarray) -> float:
    pixels = images.astype(float)
    return float(np.abs(np.diff(pixels, axis=2)).mean() + np.abs(np.diff(pixels, axis=3)).mean())


def test_the_gradient_is_that_of_the_objective() -> None:
    x = to_float(TRAIN.images[:3]).double()
    mask = torch.from_numpy(row_masks(0, TRAIN.ids[:3], (3, 32, 32), 0.3)).double()
    z = x.add(0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)))
    z.requires_grad_()
    value, gradient = objective(z, x, mask, 0.5)
    (expected,) = torch.autograd.grad(value.sum(), [z])
    torch.testing.assert_close(gradient, expected)


def test_masks_keep_the_given_share() -> None:
    masks = row_masks(0, np.arange(40), (3, 32, 32), 0.3)
    assert masks.mean() == pytest.approx(0.3, abs=0.005)
    assert not np.array_equal(masks[0], masks[1])


def test_tvm_goes_as_far_as_ten_iterations_of_lbfgs(real: ImageSet) -> None:
    x = to_float(real.images[:6])
    mask = torch.from_numpy(row_masks(0, real.ids[:6], (3, 32, 32), 0.3)).float()
    ours = minimise(x, mask, 0.5, 50, 0.01)
    theirs = torch.empty_like(x)
    for row, channel in np.ndindex(6, 3):
        one, kept = (a[row, channel].double()[None, None] for a in (x, mask))

        def value(flat: np.ndarray, one=one, kept=kept) -> tuple[float, np.ndarray]:
            z = torch.from_numpy(flat).view_as(one)
            loss, gradient = objective(z, one, kept, 0.5)
            return float(loss), gradient.numpy().ravel()

        start = one.numpy().ravel()
        found = minimize(value, start, jac=True, method="L-BFGS-B", options={"maxiter": 10})
        theirs[row, channel] = torch.from_numpy(found.x).view(32, 32)
    before, reached, wanted = (
        float(objective(z, x, mask, 0.5)[0].mean()) for z in (x, ours, theirs)
    )
    assert wanted < 0.5 * before
    assert reached == pytest.approx(wanted, rel=0.15)
    errors = [float((z.clamp(0, 1) - x).square().mean()) for z in (ours, theirs)]
    assert abs(10 * np.log10(errors[0] / errors[1])) < 1.5  # dB


def test_tvm_smooths_and_keeps_the_image(real: ImageSet) -> None:
    smooth = purify(Tvm(), real)
    assert variation(smooth) < 0.4 * variation(real.images)
    assert 17 < psnr(smooth, real.images) < 25
    assert psnr(purify(Tvm(lr=0.003), real), real.images) > 24


def test_the_noise_of_tvm_depends_on_the_seed() -> None:
    assert not np.array_equal(purify(Tvm(), TRAIN, 0), purify(Tvm(), TRAIN, 1))


# All that purify


@pytest.mark.parametrize(
    "defense",
    [MedianBlur(), Grayscale(), BitDepth(), Tvm(steps=10)],
    ids=lambda d: type(d).__name__,
)
def test_a_row_is_purified_alike_alone_in_company_and_in_another_order(defense) -> None:
    whole = purify(defense, TRAIN)
    assert whole.dtype == np.uint8 and not np.array_equal(whole, TRAIN.images)
    order = np.random.default_rng(0).permutation(len(TRAIN))[:17]
    np.testing.assert_array_equal(purify(defense, TRAIN.take(order)), whole[order])
    np.testing.assert_array_equal(purify(defense, TRAIN.take([3])), whole[[3]])
    assert len(purify(defense, TRAIN.take([]))) == 0
    copies = np.concatenate([TRAIN.images] * 10)  # more rows than a batch
    many = ImageSet(copies, np.zeros(600, np.int64), np.arange(600), 10)
    first = ImageSet(TRAIN.images, TRAIN.labels, np.arange(60), 10)
    np.testing.assert_array_equal(purify(defense, many)[:60], purify(defense, first))


@pytest.mark.parametrize(
    ("defense", "low", "high"),
    [
        (MedianBlur(), 0.05, 0.25),
        (MedianBlur(window=5), 0.0, 0.1),
        (Grayscale(), 0.31, 0.36),  # a third: what three independent channels have in common
        (Tvm(), 0.0, 0.12),
    ],
)
def test_a_fine_perturbation_is_removed(real: ImageSet, defense, low: float, high: float) -> None:
    assert low < retention(defense, real) < high


def test_fewer_levels_hide_a_perturbation_in_most_pixels(real: ImageSet) -> None:
    pattern = np.random.default_rng(0).choice([-8, 8], real.images.shape)
    moved = real.with_images((real.images.astype(int) + pattern).clip(0, 255).astype(np.uint8))
    unmoved = {}
    for bits in (2, 5):
        defense = BitDepth(bits=bits)
        unmoved[bits] = np.mean(purify(defense, moved) == purify(defense, real))
    assert unmoved[2] > 0.85  # 8 of 85 levels lie near a border
    assert unmoved[5] < 0.3


# AutoAugment


def test_the_policy_is_torchvisions() -> None:
    theirs = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)._policies
    assert [[(n, p, k or 0) for n, p, k in pair] for pair in theirs] == [
        list(pair) for pair in CIFAR10_POLICY
    ]


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("source", [TRAIN, GREY], ids=["colour", "grey"])
def test_an_operation_is_torchvisions(name: str, source: ImageSet) -> None:
    reference = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)
    images = source.images[:20]
    levels = np.arange(20) % 10
    signs = np.repeat([1.0, -1.0], 10)
    steps = [(name, 1.0, int(level)) for level in levels]
    ours = apply_steps(to_float(images), steps, np.zeros(20), signs).numpy() * 255
    space, signed = reference._AUGMENTATION_SPACE[name]
    for image, level, sign, found in zip(images, levels, signs, ours, strict=True):
        scale = space(10, 32, 32)
        strength = float(scale[level]) if scale is not None else 0.0
        strength *= sign if signed else 1
        expected = reference._apply_image_or_video_transform(
            torch.tensor(image), name, strength, reference.interpolation, reference._fill
        )
        off = np.abs(found - expected.numpy())
        # Theirs truncates to bytes, and some shears fall right between two pixels.
        assert np.mean(off > 2.01) <= (0.02 if "Shear" in name else 0), (level, sign)


def augmented(x: torch.Tensor, seed: int = 0) -> torch.Tensor:
    (hook,) = AutoAugment().hooks()
    return hook.on_batch(x, np.arange(len(x)), stream(seed))


def test_augmentation_changes_images_and_repeats_itself(real: ImageSet) -> None:
    x = to_float(real.images).contiguous(memory_format=torch.channels_last)
    before = x.clone()
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = augmented(x)
    assert torch.equal(torch.get_rng_state(), states[0])
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert torch.equal(x, before)
    assert torch.equal(first, augmented(x)) and not torch.equal(first, augmented(x, 1))
    assert first.min() >= 0 and first.max() <= 1
    changed = (first - x).abs().mean((1, 2, 3)) > 1 / 255
    assert 0.5 < changed.float().mean() < 1
    assert augmented(to_float(GREY.images)).shape == GREY.images.shape


def test_each_image_has_a_draw_of_its_own() -> None:
    one = to_float(TRAIN.images[:1]).expand(200, -1, -1, -1)
    different = {image.numpy().tobytes() for image in augmented(one)}
    assert 25 < len(different) < 200


def test_augmentation_is_of_the_training_alone() -> None:
    assert AutoAugment().purify(TRAIN, stream(0)) is TRAIN


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MedianBlur(window=4), "window must be odd and at least 3; got 4"),
        (lambda: MedianBlur(window=33).check(TRAIN), "got 33"),
        (lambda: Grayscale().check(GREY), "needs 3 channels"),
        (lambda: BitDepth(bits=8), r"bits must lie in 1\.\.7; got 8"),
        (lambda: Tvm(keep=0.0), r"probability in \(0, 1\]"),
        (lambda: Tvm(steps=0), "steps must be at least 1"),
        (lambda: AutoAugment().check(TRAIN.with_images(TRAIN.images[:, :2].copy())), "1 or 3"),
    ],
)
def test_impossible_parameters_are_refused(make, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make()
