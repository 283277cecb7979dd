"""Attacks on features: hidden triggers and Feature Collision, and heads that learn the poisons."""

import copy
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch

from attacks._collision import Collision, craft
from attacks._patch import Patch
from attacks.feature_collision import FeatureCollision
from attacks.htbd import Hiding, Htbd, match
from harness.core.data import ImageSet
from harness.core.errors import DataError
from harness.core.seeds import stream
from harness.training import Predictor, fit
from tests.tiny_victims import RECIPE, accuracy, smooth_images, success, victim

TRANSFER, TEST = smooth_images(120, 2), smooth_images(300, 1)
HEAD = replace(RECIPE, epochs=16, crop_pad=0, label_smoothing=0.0)


@pytest.fixture(scope="module")
def extractor() -> Predictor:
    return victim(smooth_images(400, 3))


def with_new_head(extractor: Predictor, train: ImageSet) -> Predictor:
    """Return the victim of a transfer: the features as they are, the head trained on."""
    model = copy.deepcopy(extractor.model)
    head = list(model.head.parameters())
    return fit(model, train, HEAD, stream(0, "head"), trainable=head, frozen_statistics=True)


@pytest.fixture(scope="module")
def clean(extractor: Predictor) -> Predictor:
    return with_new_head(extractor, TRANSFER)


# Hidden trigger


def test_the_matching_is_a_permutation_and_the_best_one() -> None:
    features, wanted = (torch.from_numpy(stream(s).normal(size=(6, 4))) for s in (0, 1))
    chosen = match([features], [wanted])
    assert sorted(chosen.tolist()) == list(range(6))
    cost = (features[:, None] - wanted[None]).square().sum(2).numpy()
    best = min(cost[range(6), list(p)].sum() for p in permutations(range(6)))
    assert cost[range(6), chosen].sum() == pytest.approx(best)
    order = stream(2).permutation(6)
    assert match([wanted[order]], [wanted]).tolist() == order.tolist()
    ties = torch.zeros(6, 4)  # where the closest pair is not one pair
    assert sorted(match([ties], [ties]).tolist()) == list(range(6))
    both = match([features, 9 * wanted[order]], [wanted, 9 * wanted])
    assert both.tolist() == order.tolist()  # networks are weighed together


def hidden(extractor: Predictor, **changes: object) -> Htbd:
    patch = Patch(size_px=5, margin_px=2, pattern="random")
    return Htbd(
        **{
            "adv_label": 2, "surrogates": (extractor,), "source_label": 1, "eps_255": 16,
            "poisons": 20, "patch": patch, "hiding": Hiding(iterations=100), **changes,
        }
    )  # fmt: skip


def test_a_hidden_trigger_works_and_means_nothing_to_a_clean_head(
    extractor: Predictor, clean: Predictor
) -> None:
    attack = hidden(extractor)
    poisoned = attack.poison(TRANSFER, TEST, stream(0))
    rows = poisoned.train.positions(poisoned.poison_ids)
    assert len(rows) == 20 and np.all(TRANSFER.labels[rows] == 2)
    moved = poisoned.train.images[rows].astype(int) - TRANSFER.images[rows]
    assert 0 < np.abs(moved).max() <= 16 == attack.bounds(TRANSFER).eps_255
    details = poisoned.details
    assert details["feature_distance"] < 0.4 * details["feature_distance_before"]
    source, everything = poisoned.probes
    assert set(source.images.labels) == {1} and set(everything.images.labels) == {0, 1, 3}
    victim_of_it = with_new_head(extractor, poisoned.train)
    assert success(victim_of_it, poisoned) > 0.5
    assert accuracy(victim_of_it, TEST) > 0.9
    assert success(clean, poisoned) < 0.1


def test_hidden_triggers_are_drawn_from_the_seed_alone(extractor: Predictor) -> None:
    attack = hidden(extractor, source_label=None, poisons=6, hiding=Hiding(iterations=5))
    first, again, other = (attack.poison(TRANSFER, TEST, stream(s)) for s in (0, 0, 1))
    assert first.train.digest == again.train.digest != other.train.digest
    assert first.probes[0].images.digest == again.probes[0].images.digest
    assert int(first.details["source_label"]) in (0, 1, 3)


def test_a_small_source_class_is_drawn_with_replacement(extractor: Predictor) -> None:
    few = TRANSFER.take(np.flatnonzero((TRANSFER.labels != 1) | (np.arange(120) < 12)))
    attack = hidden(extractor, hiding=Hiding(iterations=2))
    assert len(attack.poison(few, TEST, stream(0)).poison_ids) == 20


def test_losses_of_surrogates_of_other_classes_are_refused(extractor: Predictor) -> None:
    train, test = (ImageSet(d.images, d.labels, d.ids, 7) for d in (TRANSFER, TEST))
    with pytest.raises(DataError, match="knows 4 classes; the data have 7"):
        hidden(extractor, bases="highest_loss").poison(train, test, stream(0))
    attack = hidden(extractor, hiding=Hiding(iterations=2))  # features serve all the same
    assert len(attack.poison(train, test, stream(0)).poison_ids) == 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"match_every": 0}, "match_every"), ({"lr": 0.0}, "lr must be"), ({"decay": 2.0}, "decay")],
)
def test_impossible_hidings_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Hiding(**changes)


# Feature Collision


@pytest.mark.parametrize("eps_255", [8, 16, None])
@pytest.mark.parametrize("step", [1e-3, 1e3])
def test_the_objective_never_rises_and_falls_in_the_end(
    extractor: Predictor, eps_255: int | None, step: float
) -> None:
    bases, target = TRANSFER.images[TRANSFER.labels == 2][:8], TEST.images[1]
    crafted = craft(target, bases, [extractor], eps_255, Collision(step=step))
    assert crafted.history.shape == (121, 8)
    assert np.all(np.diff(crafted.history, axis=0) <= 0)
    assert np.all(crafted.history[-1] < crafted.history[0])
    assert np.all(crafted.distance < crafted.distance_before)
    if eps_255 is not None:
        assert np.abs(crafted.images.astype(int) - bases).max() <= eps_255
        np.testing.assert_allclose(crafted.distance, crafted.history[-1], rtol=0.1)


def test_each_image_has_its_own_steps(extractor: Predictor) -> None:
    bases, target = TRANSFER.images[TRANSFER.labels == 2][:6], TEST.images[1]
    collision = Collision(step=1.0, iterations=30)
    together = craft(target, bases, [extractor], 16, collision)
    alone = craft(target, bases[3:4], [extractor], 16, collision)
    np.testing.assert_allclose(alone.history[:, 0], together.history[:, 3], rtol=0.02)


def test_the_start_shows_the_target_faintly_and_keeps_the_bound(extractor: Predictor) -> None:
    bases, target = TRANSFER.images[:4], TEST.images[1]
    still = Collision(iterations=1, step=1e-12)
    image = craft(target, bases, [extractor], None, still).images.astype(float)
    assert np.abs(image - (0.3 * target + 0.7 * bases)).max() < 0.51
    bound = craft(target, bases, [extractor], 8, still).images.astype(int) - bases
    wanted = np.clip(0.3 * (target.astype(float) - bases), -8, 8)
    assert np.abs(bound - wanted).max() < 0.51


def test_a_weight_on_pixels_keeps_poisons_near_their_bases(extractor: Predictor) -> None:
    bases, target = TRANSFER.images[TRANSFER.labels == 2][:8], TEST.images[1]
    far, near = (
        np.square(
            craft(target, bases, [extractor], None, Collision(beta=beta)).images - 1.0 * bases
        )
        for beta in (0.01, 4.0)
    )
    assert near.mean() < 0.7 * far.mean()


def collision_on(extractor: Predictor, number: int, **changes: object) -> FeatureCollision:
    return FeatureCollision(
        **{"target": number, "surrogates": (extractor,), "eps_255": 16, "poisons": 8, **changes}
    )


def test_heads_that_learn_the_poisons_take_the_target_along(
    extractor: Predictor, clean: Predictor
) -> None:
    won = floor = 0.0
    for number in range(5):
        poisoned = collision_on(extractor, number, eps_255=24).poison(TRANSFER, TEST, stream(0))
        assert poisoned.details["feature_distance"] < poisoned.details["feature_distance_before"]
        won += success(with_new_head(extractor, poisoned.train), poisoned)
        floor += success(clean, poisoned)
    assert won >= 4 and floor == 0


@pytest.mark.parametrize("bases", ["first", "random", "nearest"])
def test_collisions_are_rows_of_one_class_within_the_bound(
    extractor: Predictor, bases: str
) -> None:
    attack = collision_on(extractor, 1, bases=bases, collision=Collision(iterations=10))
    poisoned = attack.poison(TRANSFER, TEST, stream(0))
    wanted = int(poisoned.probes[0].adv_labels[0])
    rows = poisoned.train.positions(poisoned.poison_ids)
    assert len(rows) == attack.bounds(TRANSFER).rows == 8
    assert np.all(TRANSFER.labels[rows] == wanted)
    moved = poisoned.train.images.astype(int) - TRANSFER.images
    assert 0 < np.abs(moved).max() <= 16 and not np.any(np.delete(moved, rows, axis=0))
    again = attack.poison(TRANSFER, TEST, stream(0))
    assert again.train.digest == poisoned.train.digest


def test_published_setups_give_target_and_rows(extractor: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "setups.json"
    path.write_text('[{"true_label": 1, "target_row": 1, "adv_label": 2, "base_rows": [10, 6]}]')
    attack = collision_on(extractor, 0, setups=path, collision=Collision(iterations=2))
    poisoned = attack.poison(TRANSFER, TEST, stream(0))
    assert poisoned.poison_ids.tolist() == TRANSFER.ids[[10, 6]].tolist()
    assert attack.bounds(TRANSFER).rows == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"surrogates": ()}, "at least one network"),
        ({"eps_255": 0}, "1..255, or None"),
        ({"poisons": 0}, "poisons must be"),
        ({"target": -1}, "number of a setup"),
    ],
)
def test_impossible_collisions_are_refused(
    extractor: Predictor, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        FeatureCollision(**{"target": 0, "surrogates": (extractor,), **changes})


def test_too_few_rows_and_impossible_steps_are_refused(extractor: Predictor) -> None:
    with pytest.raises(DataError, match="the smallest class has 30 rows"):
        collision_on(extractor, 0, poisons=31).check(TRANSFER, TEST)
    with pytest.raises(DataError, match="watermark in"):
        Collision(watermark=1.0)
    with pytest.raises(DataError, match="shrink in"):
        Collision(shrink=1.0)
