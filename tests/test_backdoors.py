"""Backdoors with a trigger: its mathematics, what is changed in training, and that it works."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from attacks._dirty_label import draw_rows
from attacks._patch import Patch
from attacks._pgd import Pgd, descend, lower_loss
from attacks.blended import Blended, blend, draw_pattern
from attacks.clbd import Clbd, clip_to, without_change_under
from attacks.htbd import Htbd
from attacks.sig import Sig, sine_wave
from attacks.wanet import Wanet, draw_displacement, identity_grid, warp, warp_each, warp_grid
from harness.core.data import ImageSet
from harness.core.errors import DataError
from harness.core.seeds import stream
from harness.training import Predictor
from tests.tiny_victims import accuracy, smooth_images, success, victim

TRAIN, TEST = smooth_images(400, 1), smooth_images(200, 2)
NOISY, NOISY_TEST = smooth_images(400, 1, noise=25), smooth_images(200, 2, noise=25)
ADV = 2


@pytest.fixture(scope="module")
def clean() -> Predictor:
    return victim(TRAIN)


@pytest.fixture(scope="module")
def surrogate() -> Predictor:
    return victim(smooth_images(400, 3))


def noise_images(*shape: int) -> np.ndarray:
    return stream(5, "images").integers(0, 256, shape, dtype=np.uint8)


def says_it_unasked(predict: Predictor) -> float:
    """Return how often images of other classes without a trigger get the adversary's label."""
    return float(np.mean(predict(TEST.images[TEST.labels != ADV]) == ADV))


MAKERS: dict[str, Callable[[Predictor], object]] = {
    "blended": lambda _: Blended(adv_label=ADV),
    "sig": lambda _: Sig(adv_label=ADV, class_share=0.5, magnifications=(1, 2)),
    "wanet": lambda _: Wanet(adv_label=ADV),
    "clbd": lambda s: Clbd(adv_label=ADV, surrogate=s, pgd=Pgd(steps=5, random_start=True)),
    "clbd_clipped": lambda s: Clbd(
        adv_label=ADV, surrogate=s, clip_trigger=True, pgd=Pgd(steps=5, step_255=2.0)
    ),
}


@pytest.mark.parametrize("name", MAKERS)
def test_what_is_declared_holds(name: str, surrogate: Predictor) -> None:
    attack = MAKERS[name](surrogate)
    poisoned = attack.poison(TRAIN, TEST, stream(0, "attack"))
    bounds = attack.bounds(TRAIN)
    rows = poisoned.train.positions(poisoned.poison_ids)
    assert len(rows) == bounds.rows
    others = np.setdiff1d(np.arange(len(TRAIN)), rows)
    np.testing.assert_array_equal(poisoned.train.images[others], TRAIN.images[others])
    np.testing.assert_array_equal(poisoned.train.labels[others], TRAIN.labels[others])
    moved = np.abs(poisoned.train.images[rows].astype(int) - TRAIN.images[rows])
    assert np.all(moved.max((1, 2, 3)) > 0)
    assert moved.max() <= (255 if bounds.eps_255 is None else bounds.eps_255)
    if bounds.keeps_labels:
        np.testing.assert_array_equal(poisoned.train.labels, TRAIN.labels)
        assert np.all(TRAIN.labels[rows] == ADV)
    for probe in poisoned.probes:
        np.testing.assert_array_equal(probe.images.ids, TEST.ids[TEST.labels != ADV])
    again = attack.poison(TRAIN, TEST, stream(0, "attack"))
    other = attack.poison(TRAIN, TEST, stream(1, "attack"))
    assert again.train.digest == poisoned.train.digest != other.train.digest
    assert again.probes[0].images.digest == poisoned.probes[0].images.digest


# Blended


def test_blending_is_the_weighted_mean() -> None:
    black, white = np.zeros((1, 3, 4, 4), np.uint8), np.full((3, 4, 4), 255, np.uint8)
    assert np.unique(blend(black, white, 0.2)).tolist() == [51]
    assert np.unique(blend(255 - black, 255 - white, 0.2)).tolist() == [204]
    images = noise_images(3, 3, 8, 8)
    pattern = draw_pattern((3, 8, 8), 1, stream(0))
    np.testing.assert_array_equal(
        blend(images, pattern, 1.0), np.broadcast_to(pattern, (3, 3, 8, 8))
    )
    np.testing.assert_array_equal(blend(images, images[0], 0.5)[0], images[0])


def test_the_picture_has_squares_of_one_colour() -> None:
    pattern = draw_pattern((3, 10, 10), 4, stream(0))
    assert pattern.shape == (3, 10, 10)
    blocks = pattern[:, :8, :8].reshape(3, 2, 4, 2, 4)
    assert np.all(blocks == blocks[:, :, :1, :, :1])
    assert len(np.unique(pattern[0])) == 9


def test_blended_works_undefended_and_means_nothing_to_a_clean_model(clean: Predictor) -> None:
    poisoned = Blended(adv_label=ADV).poison(TRAIN, TEST, stream(0, "attack"))
    trained = victim(poisoned.train)
    assert success(trained, poisoned) > 0.9
    assert accuracy(trained, TEST) > 0.9
    assert says_it_unasked(trained) < 0.1 and success(clean, poisoned) < 0.1


# SIG


@pytest.mark.parametrize(("width", "periods"), [(32, 6), (48, 4), (32, 1)])
def test_the_wave_has_its_period_and_amplitude(width: int, periods: int) -> None:
    wave = sine_wave((3, 5, width), 40, periods)
    assert np.all(wave == wave[:1, :1])  # the same in all channels and rows
    spectrum = np.abs(np.fft.rfft(wave[0, 0].astype(np.float64)))
    assert spectrum.argmax() == periods
    assert spectrum[periods] == pytest.approx(width / 2 * 40 / 255, rel=1e-5)
    assert np.delete(spectrum, periods).max() < 1e-5
    if width % periods == 0:
        np.testing.assert_allclose(np.roll(wave, width // periods, 2), wave, atol=1e-6)


def test_the_wave_is_magnified_before_it_is_clipped() -> None:
    poisoned = Sig(adv_label=ADV, magnifications=(1, 3)).poison(TRAIN, TEST, stream(0))
    others = TEST.images[TEST.labels != ADV].astype(float)
    for probe, factor in zip(poisoned.probes, (1, 3), strict=True):
        wave = 255 * factor * sine_wave((3, 16, 16), 40, 6).astype(float)
        expected = np.clip(others + wave, 0, 255)
        assert np.abs(probe.images.images - expected).max() < 0.51
    assert poisoned.trigger is not None and poisoned.trigger.shape == (3, 16, 16)


def test_sig_works_undefended_and_means_nothing_to_a_clean_model(clean: Predictor) -> None:
    poisoned = Sig(adv_label=ADV).poison(TRAIN, TEST, stream(0, "attack"))
    trained = victim(poisoned.train)
    assert success(trained, poisoned) > 0.9
    assert says_it_unasked(trained) < 0.1 and success(clean, poisoned) < 0.1


# WaNet


def test_the_grid_stays_within_the_image_and_its_control_points_are_kept() -> None:
    field = draw_displacement(32, 24, 4, stream(0))
    assert field.shape == (32, 24, 2)
    corners = field[[0, 0, -1, -1], [0, -1, 0, -1]]
    drawn = torch.from_numpy(stream(0).uniform(-1, 1, (2, 4, 4))).float()
    wanted = (drawn / drawn.abs().mean())[:, [0, 0, -1, -1], [0, -1, 0, -1]].T
    torch.testing.assert_close(corners, wanted, atol=1e-5, rtol=0)
    for strength in (0.5, 50.0):
        grid = warp_grid(field, strength)
        assert float(grid.min()) >= -1 and float(grid.max()) <= 1
    moved = (warp_grid(field, 0.5) - identity_grid(32, 24))[8:24, 6:18]
    sides = torch.tensor([24.0, 32.0])
    torch.testing.assert_close(moved, 0.5 * field[8:24, 6:18] / sides, atol=1e-5, rtol=1e-4)


def test_no_displacement_is_no_change_and_a_shift_is_a_shift() -> None:
    images = noise_images(3, 3, 9, 7)
    still = torch.zeros(9, 7, 2)
    np.testing.assert_array_equal(warp(images, warp_grid(still, 0.5)), images)
    right = identity_grid(9, 7) + torch.tensor([2 / 6, 0.0])  # 2 units are 6 steps of a column
    np.testing.assert_array_equal(warp(images, right.clamp(-1, 1))[..., :-1], images[..., 1:])


def test_each_cover_row_is_warped_by_noise_of_its_own() -> None:
    image = noise_images(1, 3, 16, 16)
    grid = warp_grid(draw_displacement(16, 16, 4, stream(0)), 0.5)
    warped = warp_each(image.repeat(3, 0), grid, stream(1))
    assert len(np.unique(warped.reshape(3, -1), axis=0)) == 3
    assert not np.array_equal(warped[0], warp(image, grid)[0])


def test_poisons_and_cover_are_all_declared_and_only_poisons_change_their_label() -> None:
    poisoned = Wanet(adv_label=ADV, budget=0.1).poison(NOISY, NOISY_TEST, stream(0))
    assert len(poisoned.poison_ids) == 40 + 80
    assert (poisoned.details["relabelled_rows"], poisoned.details["cover_rows"]) == (40, 80)
    rows = poisoned.train.positions(poisoned.poison_ids)
    relabelled = np.flatnonzero(poisoned.train.labels != NOISY.labels)
    assert len(relabelled) == 40 and np.isin(relabelled, rows).all()
    assert np.all(poisoned.train.labels[relabelled] == ADV)


def test_wanet_works_undefended_and_means_nothing_to_a_clean_model() -> None:
    attack = Wanet(adv_label=ADV, budget=0.2, cover_ratio=1)
    poisoned = attack.poison(NOISY, NOISY_TEST, stream(0, "attack"))
    trained = victim(poisoned.train)
    assert success(trained, poisoned) > 0.4
    assert accuracy(trained, NOISY_TEST) > 0.85
    assert success(victim(NOISY), poisoned) < 0.1


# Projected gradient


def linear_model(weight: torch.Tensor) -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(weight.shape[1], 2, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(weight)
    return model


@pytest.mark.parametrize("away", [True, False])
def test_on_a_linear_network_the_steps_end_in_the_right_corner(away: bool) -> None:
    weight = torch.from_numpy(stream(0).normal(size=(2, 12))).float()
    base = torch.full((5, 3, 2, 2), 0.5)
    labels = torch.tensor([0, 1, 0, 1, 1])
    x = descend(
        linear_model(weight), base, base, labels, 0.1, Pgd(steps=9, step_255=5.0), away=away
    )
    signs = torch.sign(weight[labels] - weight[1 - labels]).view(5, 3, 2, 2) * (-1 if away else 1)
    torch.testing.assert_close(x, base + 0.1 * signs)


def test_steps_do_not_depend_on_who_stands_beside(surrogate: Predictor) -> None:
    pgd = Pgd(steps=3, random_start=True)
    all_rows = lower_loss(surrogate, TRAIN.images[:40], TRAIN.labels[:40], 8, pgd, 7)
    few = lower_loss(surrogate, TRAIN.images[:9], TRAIN.labels[:9], 8, pgd, 7)
    assert np.mean(all_rows[:9] != few) < 1e-3  # sums of another order, at most


# Label-consistent


def test_patches_lie_in_their_corners() -> None:
    (one, every), image = (
        (
            Patch(size_px=2, margin_px=1, corners=c).draw((3, 8, 8), stream(0))
            for c in ("bottom_right", "all")
        ),
        np.full((1, 3, 8, 8), 7, np.uint8),
    )
    assert np.argwhere(one.mask).tolist() == [[5, 5], [5, 6], [6, 5], [6, 6]]
    assert every.mask.sum() == 16 and np.array_equal(every.mask, every.mask[::-1, ::-1])
    assert one.paste(image)[0, 0, 5:7, 5:7].tolist() == [[0, 255], [255, 0]]
    assert np.all(one.paste(image)[:, :, ~one.mask] == 7)
    drawn = Patch(size_px=4, pattern="random").draw((3, 8, 8), stream(0))
    assert len(np.unique(drawn.pixels[:, 4:, 4:])) > 20


def test_nothing_is_hidden_where_the_trigger_lies_and_the_rest_keeps_its_bound() -> None:
    trigger = Patch(size_px=3).draw((3, 16, 16), stream(0))
    base = TRAIN.images[:20]
    moved = (base.astype(int) + stream(0).integers(-30, 31, base.shape)).clip(0, 255)
    hard = without_change_under(trigger, base, moved.astype(np.uint8))
    np.testing.assert_array_equal(hard[:, :, trigger.mask], base[:, :, trigger.mask])
    np.testing.assert_array_equal(hard[:, :, ~trigger.mask], moved[:, :, ~trigger.mask])
    clipped = clip_to(base, trigger.paste(hard), 8)
    assert np.abs(clipped.astype(int) - base).max() == 8
    assert np.all(np.abs(clipped.astype(int) - base)[:, :, trigger.mask] == 8)


@pytest.mark.parametrize("clip_trigger", [True, False])
def test_poisons_are_hard_images_with_a_trigger(surrogate: Predictor, clip_trigger: bool) -> None:
    attack = Clbd(
        adv_label=ADV, surrogate=surrogate, clip_trigger=clip_trigger,
        pgd=Pgd(steps=20, step_255=2.0, random_start=True),
    )  # fmt: skip
    poisoned = attack.poison(TRAIN, TEST, stream(0))
    assert poisoned.details["label_loss"] > 5 * poisoned.details["label_loss_before"]
    rows = poisoned.train.positions(poisoned.poison_ids)
    change = np.abs(poisoned.train.images[rows].astype(int) - TRAIN.images[rows])
    assert change[:, :, :13].max() <= 8 and change[:, :, :, :13].max() <= 8
    corner = poisoned.train.images[rows][:, :, 13:, 13:]
    checkers = np.indices((3, 3)).sum(0) % 2 * 255
    assert np.all(corner == checkers) is np.bool_(not clip_trigger)
    if clip_trigger:
        assert change[:, :, 13:, 13:].max() <= 8
        assert np.all((corner > TRAIN.images[rows][:, :, 13:, 13:]) == (checkers > 0))
    assert np.all(poisoned.probes[0].images.images[:, :, 13:, 13:] == checkers)


def test_hard_images_make_the_trigger_work(clean: Predictor, surrogate: Predictor) -> None:
    def trained(eps_255: int) -> float:
        attack = Clbd(
            adv_label=ADV, surrogate=surrogate, eps_255=eps_255, patch=Patch(margin_px=1),
            pgd=Pgd(steps=20, step_255=4.0),
        )  # fmt: skip
        poisoned = attack.poison(TRAIN, TEST, stream(0))
        assert success(clean, poisoned) < 0.1
        return success(victim(poisoned.train), poisoned)

    hidden, plain = trained(24), trained(1)
    assert hidden > 0.5 and plain < 0.5 * hidden


# What is refused


def short(images: ImageSet) -> ImageSet:
    return images.take(np.arange(8))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s: Blended(adv_label=0, budget=0.0), "budget is a share"),
        (lambda s: Blended(adv_label=0, share=1.5), "picture's weight"),
        (lambda s: Blended(adv_label=0, cell_px=0), "cell_px"),
        (lambda s: Blended(adv_label=0, budget=0.9).check(TRAIN, TEST), "asks for 360"),
        (lambda s: Blended(adv_label=4).check(TRAIN, TEST), "classes 0..3"),
        (lambda s: Sig(adv_label=0, amplitude_255=0), "amplitude_255"),
        (lambda s: Sig(adv_label=0, class_share=0), "class_share"),
        (lambda s: Sig(adv_label=0, periods=8).check(TRAIN, TEST), "more than 16 columns"),
        (lambda s: Sig(adv_label=0, magnifications=()), "magnifications"),
        (lambda s: Wanet(adv_label=0, cells=1), "cells at least 2"),
        (lambda s: Wanet(adv_label=0, budget=0.5).check(TRAIN, TEST), "200 poisons and 400 cover"),
        (lambda s: Clbd(adv_label=0, surrogate=s, eps_255=0), "eps_255"),
        (lambda s: Clbd(adv_label=0, surrogate=s, class_share=2), "class_share"),
        (lambda s: Clbd(adv_label=0, surrogate=s, patch=Patch(size_px=17)).check(TRAIN, TEST),
         "a patch of 17"),
        (lambda s: Htbd(adv_label=0, surrogates=(s,), source_label=0), "must differ"),
        (lambda s: Htbd(adv_label=0, surrogates=(s,), source_label=9).check(TRAIN, TEST),
         "source_label is 9"),
        (lambda s: Htbd(adv_label=0, surrogates=(s,)).check(short(TRAIN), TEST),
         "25 poisons are more than the 2 rows"),
        (lambda s: Htbd(adv_label=0, surrogates=()), "at least one network"),
        (lambda s: Pgd(steps=0), "steps must be at least 1"),
        (lambda s: Patch(size_px=0), "size_px"),
    ],
)  # fmt: skip
def test_impossible_parameters_are_refused(make, message: str, surrogate: Predictor) -> None:
    with pytest.raises(DataError, match=message):
        make(surrogate)


def test_a_surrogate_of_other_classes_is_refused(surrogate: Predictor) -> None:
    more = ImageSet(TRAIN.images, TRAIN.labels, TRAIN.ids, 7)
    with pytest.raises(DataError, match="knows 4 classes; the data have 7"):
        Clbd(adv_label=0, surrogate=surrogate).poison(more, TEST, stream(0))


def test_dirty_label_poisons_are_of_other_classes() -> None:
    rows = draw_rows(ADV, 0.3, TRAIN, stream(0))
    assert len(rows) == 120 and not np.any(TRAIN.labels[rows] == ADV)
