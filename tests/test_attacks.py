"""Attacks: their rules on poisons, probes and files, and their effect."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from attacks._trigger_search import TriggerSearch, find_trigger, with_new_class
from attacks._triggered import choose_rows, triggered_probes
from attacks.badnets import BadNets, stamp_patch
from attacks.narcissus import Narcissus, read_trigger
from harness.classifiers.hlb_xs import HlbXs
from harness.core.data import ImageSet
from harness.core.errors import DataError
from harness.core.pixels import add_within, to_bytes, to_float
from harness.core.recipe import Recipe
from harness.core.seeds import stream
from harness.datasets.shapes import Shapes
from harness.training import Predictor, build_model, fit

DATA = Shapes(train=1000, test=300).load()
POOD = Shapes(kind="pood", train=600, test=6).load().train
NET = HlbXs(widths=(16, 32, 32), recipe=Recipe(epochs=12, lr=0.1, crop_pad=2))


def victim(train: ImageSet, recipe: Recipe = NET.recipe) -> Predictor:
    rng = stream(0, "train")
    return fit(build_model(NET.build, train.num_classes, (3, 32, 32), rng), train, recipe, rng)


@pytest.fixture(scope="module")
def surrogate() -> Predictor:
    return victim(POOD, replace(NET.recipe, epochs=6))


def test_rounding_keeps_every_grey_level_and_truncation_would_not() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    np.testing.assert_array_equal(to_bytes(to_float(levels)), levels)
    pm1 = levels.astype(np.float32) / 255 * 2 - 1
    truncated = ((pm1 + 1) / 2 * 255).astype(np.uint8)
    assert int(np.sum(truncated != levels)) == 63


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_trigger_at_its_bound_moves_every_level_by_it_and_no_more(sign: int) -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    delta = np.full((1, 1, 16, 16), sign * 8 / 255, np.float32)
    moved = add_within(levels, delta, 8).astype(int)
    np.testing.assert_array_equal(moved, np.clip(levels.astype(int) + sign * 8, 0, 255))
    wild = add_within(levels, 10 * delta, 8).astype(int) - levels
    assert np.abs(wild).max() == 8


def test_rows_are_chosen_by_rule() -> None:
    eligible = np.array([2, 5, 7, 11])
    assert choose_rows(eligible, 2, "last", stream(0)).tolist() == [7, 11]
    assert choose_rows(eligible, 2, "first", stream(0)).tolist() == [2, 5]
    drawn = {tuple(choose_rows(eligible, 2, "random", stream(s)).tolist()) for s in range(20)}
    assert len(drawn) > 3
    with pytest.raises(DataError, match="5 poisons are more than the 4 rows"):
        choose_rows(eligible, 5, "last", stream(0))


def test_a_probe_leaves_out_the_class_that_the_attacker_wants() -> None:
    (probe,) = triggered_probes(DATA.test, 3, [("x1", lambda u8: u8)])
    assert len(probe.images) == int(np.sum(DATA.test.labels != 3))
    assert not np.any(probe.images.labels == 3)
    assert np.all(probe.adv_labels == 3)


def test_a_patch_covers_its_corner_and_nothing_else() -> None:
    images = np.zeros((2, 3, 8, 8), np.uint8)
    stamped = stamp_patch(images, 2, 1)
    assert stamped[:, :, 5:7, 5:7].min() == 255
    assert int(np.sum(stamped != 0)) == 2 * 3 * 4
    assert images.max() == 0


def test_badnets_works_undefended_and_its_trigger_means_nothing_to_a_clean_model() -> None:
    attack = BadNets(adv_label=2, budget=0.1, size_px=5, margin_px=4)
    poisoned = attack.poison(DATA.train, DATA.test, stream(0, "attack"))
    assert len(poisoned.poison_ids) == 100
    rows = poisoned.train.positions(poisoned.poison_ids)
    assert np.all(DATA.train.labels[rows] != 2) and np.all(poisoned.train.labels[rows] == 2)
    probe = poisoned.probes[0]

    def success(predict: Predictor) -> float:
        return float(np.mean(predict(probe.images.images) == probe.adv_labels))

    assert success(victim(poisoned.train)) > 0.8
    assert success(victim(DATA.train)) < 0.3


def test_a_found_trigger_makes_the_surrogate_surer_of_the_class(surrogate: Predictor) -> None:
    of_class = DATA.train.take(DATA.train.labels == 3)
    search = TriggerSearch(class_epochs=5, warmup_epochs=0, steps=120)
    found = find_trigger(of_class, POOD, surrogate, 3, 16 / 255, search, stream(0))
    assert found.loss_after < 0.85 * found.loss_before
    assert float(np.abs(found.delta).max()) <= 16 / 255 + 1e-7
    at_bound = float(np.mean(np.abs(found.delta) > 15.9 / 255))
    assert at_bound > 0.2


@pytest.mark.parametrize("warmup_logit", ["own", "adv_label"])
@pytest.mark.parametrize("project", [True, False])
def test_every_way_of_searching_keeps_the_bound(
    surrogate: Predictor, warmup_logit: str, project: bool
) -> None:
    search = TriggerSearch(
        class_epochs=1, warmup_epochs=1, steps=20, warmup_logit=warmup_logit, bn_mode="train",
        project=project,
    )  # fmt: skip
    attack = Narcissus(adv_label=1, surrogate=surrogate, pood=POOD, search=search)
    poisoned = attack.poison(DATA.train, DATA.test, stream(0, "attack"))
    rows = poisoned.train.positions(poisoned.poison_ids)
    moved = poisoned.train.images[rows].astype(int) - DATA.train.images[rows]
    assert 0 < np.abs(moved).max() <= 8
    last_of_class = np.flatnonzero(DATA.train.labels == 1)[-10:]
    assert rows.tolist() == last_of_class.tolist()


def test_magnified_triggers_are_magnified_before_they_are_clipped(tmp_path: Path) -> None:
    path = tmp_path / "trigger.npy"
    np.save(path, np.full((1, 3, 32, 32), 16 / 255, np.float32))  # 8/255 in [0, 1]
    attack = Narcissus(adv_label=0, trigger=path, magnifications=(1, 3))
    poisoned = attack.poison(DATA.train, DATA.test, stream(0))
    others = DATA.test.take(DATA.test.labels != 0)
    for probe, factor in zip(poisoned.probes, (1, 3), strict=True):
        expected = np.minimum(others.images.astype(int) + 8 * factor, 255)
        np.testing.assert_array_equal(probe.images.images, expected)


def save(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def test_a_published_trigger_is_read_in_its_units(tmp_path: Path) -> None:
    path = save(tmp_path / "t.npy", np.full((1, 3, 32, 32), 32 / 255, np.float32))
    np.testing.assert_allclose(read_trigger(path, 16), 16 / 255, rtol=1e-6)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((1, 3, 32, 32), 32 / 255, np.float32), "reaches 16.00 grey levels"),
        (np.full((1, 3, 32, 32), 8.0, np.float32), r"may be in units of 0\.\.255"),
        (np.full((1, 3, 32, 32), 8 / 255, np.float32), r"4\.00 .* in units of \[0, 1\]"),
        (np.zeros((1, 3, 32, 32), np.float32), "reaches 0.00 grey levels"),
        (np.full((1, 3, 32, 32), np.nan, np.float32), "must be finite"),
        (np.zeros((4, 3, 32, 32), np.float32), "must be finite and"),
        (np.zeros((1, 3, 32, 32), np.int64), "array of floats"),
        (np.array([{"a": 1}], dtype=object), "cannot be read"),
    ],
)
def test_a_trigger_file_that_breaks_a_rule_is_refused(
    tmp_path: Path, array: np.ndarray, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_trigger(save(tmp_path / "t.npy", array), 8)


def test_a_trigger_of_another_size_is_refused_before_anything_runs(tmp_path: Path) -> None:
    path = save(tmp_path / "t.npy", np.full((1, 3, 16, 16), 16 / 255, np.float32))
    with pytest.raises(DataError, match="have shape"):
        Narcissus(adv_label=0, trigger=path).check(DATA.train, DATA.test)


@pytest.mark.parametrize("known", [3, 9])
def test_a_surrogate_of_other_public_images_is_refused(surrogate: Predictor, known: int) -> None:
    """The logit that the trigger is sought for would be that of a public class, or none."""
    pood = ImageSet(POOD.images, POOD.labels % known, POOD.ids, known)
    attack = Narcissus(adv_label=1, surrogate=surrogate, pood=pood)
    with pytest.raises(DataError, match=f"knows 6 classes and pood has {known}"):
        attack.poison(DATA.train, DATA.test, stream(0))


def test_a_class_without_a_public_logit_of_its_number_is_refused(surrogate: Predictor) -> None:
    search = TriggerSearch(warmup_epochs=0, warmup_logit="adv_label")
    attack = Narcissus(adv_label=7, surrogate=surrogate, pood=POOD, search=search)
    with pytest.raises(DataError, match=r"adv_label is 7, and pood has the classes 0\.\.5"):
        attack.check(DATA.train, DATA.test)


def test_few_public_images_are_all_taken(surrogate: Predictor) -> None:
    search = TriggerSearch(class_epochs=0, warmup_epochs=0, steps=1, pood_share=0.5)
    of_class = DATA.train.take(DATA.train.labels == 3)
    few = POOD.take(np.arange(20))
    found = find_trigger(of_class, few, surrogate, 3, 16 / 255, search, stream(0))
    assert np.isfinite(found.loss_after)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Narcissus(adv_label=0), "give 'surrogate' and 'pood'"),
        (lambda: Narcissus(adv_label=0, trigger=Path("t"), eps_255=0), "eps_255 is in grey levels"),
        (lambda: Narcissus(adv_label=0, trigger=Path("t"), class_share=1.5), "class_share"),
        (lambda: BadNets(adv_label=0, budget=0.0), "budget is a share"),
        (lambda: BadNets(adv_label=10).check(DATA.train, DATA.test), "classes 0..9"),
        (lambda: BadNets(adv_label=0, budget=1.0).check(DATA.train, DATA.test), "asks for 1000"),
        (lambda: BadNets(adv_label=0, size_px=40).check(DATA.train, DATA.test), "patch of 40"),
    ],
)
def test_impossible_parameters_are_refused(make, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make()


def test_a_new_class_leaves_the_old_logits_alone(surrogate: Predictor) -> None:
    grown = Predictor(with_new_class(surrogate.model, POOD.num_classes, stream(0)), surrogate.dtype)
    before, after = (p.logits(DATA.test.images[:4]) for p in (surrogate, grown))
    assert after.shape == (4, POOD.num_classes + 1)
    np.testing.assert_allclose(after[:, :-1], before, rtol=1e-2, atol=1e-2)
