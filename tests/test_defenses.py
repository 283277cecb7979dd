"""Defenses: what they change, and their effect on real images."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from defenses._purify import energy_steps, langevin_steps, purify_images
from defenses.jpeg import Jpeg, compress
from defenses.none import NoDefense
from defenses.puregen_ebm import PuregenEbm
from generative.checkpoints import load_ebm
from generative.diagnostics import check_purifier
from generative.ebm import EBM, EBMConfig, FoldedEnergy
from generative.langevin import STEP_SIZE, langevin
from generative.noise import row_noise
from harness.core.data import ImageSet
from harness.core.errors import DataError
from harness.core.seeds import stream
from harness.datasets.shapes import Shapes
from harness.sweeps import folder

TRAIN = Shapes(train=60, test=10).load().train


def real_images(shared_data, rows: int) -> ImageSet:
    archive = np.load(shared_data / "data" / "cifar10_mini.npz")
    pixels = np.ascontiguousarray(archive["x_test"][:rows].transpose(0, 3, 1, 2))
    return ImageSet(pixels, archive["y_test"][:rows].astype(np.int64), np.arange(rows), 10)


def test_jpeg_equals_an_encoder_called_by_hand() -> None:
    image = TRAIN.images[0]
    buffer = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(buffer, "JPEG", quality=25)
    expected = np.asarray(Image.open(buffer)).transpose(2, 0, 1)
    np.testing.assert_array_equal(compress(image, 25, "4:2:0"), expected)


def test_lower_jpeg_quality_keeps_less_of_a_perturbation(shared_data) -> None:
    images = real_images(shared_data, 64)
    rng = np.random.default_rng(0)
    noise = rng.choice([-8, 8], images.images.shape)
    attacked = np.clip(images.images.astype(int) + noise, 0, 255).astype(np.uint8)

    def kept(quality: int) -> float:
        clean = Jpeg(quality=quality).purify(images, stream(0)).images.astype(float)
        other = Jpeg(quality=quality).purify(images.with_images(attacked), stream(0)).images
        return float(np.mean((other - clean) * noise) / 64)

    low, middle, high = kept(25), kept(50), kept(90)
    assert low < middle < high
    assert low < 0.5 * high


def test_jpeg_takes_grey_images() -> None:
    grey = ImageSet(TRAIN.images[:, :1].copy(), TRAIN.labels, TRAIN.ids, 10)
    assert Jpeg(quality=10).purify(grey, stream(0)).images.shape == grey.images.shape


@pytest.mark.parametrize("quality", [0, 101])
def test_a_quality_outside_the_scale_is_refused(quality: int) -> None:
    with pytest.raises(DataError, match=r"1\.\.100"):
        Jpeg(quality=quality)


def test_no_defense_returns_what_it_was_given() -> None:
    assert NoDefense().purify(TRAIN, stream(0)) is TRAIN


@pytest.fixture(scope="module")
def shapes_ebm() -> EBM:
    return load_ebm(folder() / "weights" / "shapes_ebm")


def test_langevin_removes_a_perturbation_and_keeps_the_image(shapes_ebm: EBM) -> None:
    images = Shapes(train=10, test=48).load().test.images
    x = torch.tensor(images).float() / 127.5 - 1
    energy = FoldedEnergy(shapes_ebm)

    def purify(z: torch.Tensor) -> torch.Tensor:
        return langevin(z, 75, energy, row_noise(0, np.arange(len(z)), (3, 32, 32)))

    found = check_purifier(purify, x)
    assert found.retention_fine < 0.5  # without energy it would be 1
    assert found.psnr > 25.3 + 0.5  # 25.3 dB is what the noise of 75 steps alone leaves


def test_two_langevin_steps_per_call_leave_what_single_ones_leave(shapes_ebm: EBM) -> None:
    images = Shapes(train=10, test=48).load().test.images
    x, ids = torch.tensor(images).float() / 127.5 - 1, np.arange(len(images))

    def found(step: int, per_call: int) -> tuple[float, float]:
        """Diagnose 72 steps as so many longer ones, and with so many per call of the network."""
        purifier = energy_steps(
            shapes_ebm, 72 // step, "fp32", 3e-5, STEP_SIZE * step**0.5, per_call
        )
        measured = check_purifier(lambda z: purifier(z, row_noise(1, ids, (3, 32, 32))), x)
        return measured.retention_fine, measured.psnr

    single, double, longer = found(1, 1), found(1, 2), found(2, 1)
    assert double[0] == pytest.approx(single[0], rel=0.01)  # of a pattern; longer steps leave 3 %
    assert longer[0] > 1.015 * single[0]  # more, and so they would with any noise
    assert double[1] == pytest.approx(single[1], abs=0.1)


def test_out_of_range_pixels_saturate_and_never_wrap() -> None:
    class Push:
        def input_gradient(self, x: torch.Tensor) -> torch.Tensor:
            return torch.full_like(x, -2.0)  # every step adds 1.56

    images = np.full((2, 3, 8, 8), 250, np.uint8)
    purified = purify_images(images, np.arange(2), langevin_steps(Push(), 2), 0)
    assert purified.min() == 255


def test_a_row_is_purified_alike_alone_in_company_and_in_another_order() -> None:
    steps = langevin_steps(FoldedEnergy(EBM(EBMConfig(nf=8))), 8)
    whole = purify_images(TRAIN.images, TRAIN.ids, steps, 5)
    order = np.random.default_rng(0).permutation(len(TRAIN))[:17]
    part = purify_images(TRAIN.images[order], TRAIN.ids[order], steps, 5, batch_size=4)
    np.testing.assert_array_equal(part, whole[order])
    other_seed = purify_images(TRAIN.images, TRAIN.ids, steps, 6)
    assert not np.array_equal(other_seed, whole)


def test_images_that_the_network_cannot_take_are_refused() -> None:
    odd = ImageSet(np.zeros((2, 3, 30, 30), np.uint8), np.zeros(2, np.int64), np.arange(2), 1)
    with pytest.raises(DataError, match="divisible by 4"):
        PuregenEbm(ebm=EBM(EBMConfig(nf=8))).check(odd)
    twelve = ImageSet(np.zeros((2, 3, 12, 12), np.uint8), np.zeros(2, np.int64), np.arange(2), 1)
    PuregenEbm(ebm=EBM(EBMConfig(nf=8))).check(twelve)
    with pytest.raises(DataError, match="divisible by 8"):
        PuregenEbm(ebm=EBM(EBMConfig(nf=8, patch_size=2))).check(twelve)


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"temperature": 0.0}, {"step_size": -1.0}, {"steps": 5, "steps_per_call": 2}],
)
def test_impossible_parameters_are_refused(wrong: dict) -> None:
    with pytest.raises(DataError):
        PuregenEbm(ebm=EBM(EBMConfig(nf=8)), **wrong)
