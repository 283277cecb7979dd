"""Gradient Matching: its gradient, its poisons, the setups it draws, and its effect."""

import copy
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attacks._diff_augment import DiffAugment
from attacks._gradient_matching import Crafted, Matching, Problem, craft, matching_loss, prepare
from attacks._setups import (
    Setup,
    check_setup,
    choose_bases,
    draw_setup,
    mean_losses,
    predicted_labels,
    read_setup,
)
from attacks.gradient_matching import GradientMatching
from harness.classifiers.hlb_xs import HlbXs
from harness.core.data import ImageSet, PoisonedSet
from harness.core.errors import DataError
from harness.core.pixels import to_bytes, to_float
from harness.core.recipe import Recipe
from harness.core.seeds import stream, subseed
from harness.datasets.shapes import Shapes
from harness.training import Predictor, build_model, fit

CLASSES = (0, 4, 5)  # disc, plus, star: learned within seconds


def some_classes(images: ImageSet) -> ImageSet:
    rows = images.take(np.isin(images.labels, CLASSES))
    labels = np.searchsorted(CLASSES, rows.labels).astype(np.int64)
    return ImageSet(rows.images, labels, rows.ids, len(CLASSES))


DATA = Shapes(train=2400, test=500).load()
TRAIN, TEST = some_classes(DATA.train), some_classes(DATA.test)
PRETRAINING, TRANSFER = TRAIN.take(np.arange(560)), TRAIN.take(np.arange(560, 720))
AUGMENT = DiffAugment(shift_px=2, whole=True, border="reflection")  # as the victim's own
QUICK = Matching(iterations=12, restarts=1, step=0.2, score_every=4, augment=AUGMENT)


def smooth_net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.GELU(),
        nn.AvgPool2d(4), nn.Flatten(), nn.Linear(16, 5),
    )  # fmt: skip
    return net.double().eval()


def smooth_problem(nets: int = 1, batch_size: int = 4) -> Problem:
    draw = stream(1)
    images = torch.from_numpy(draw.random((7, 3, 8, 8)))
    surrogates = tuple(prepare(smooth_net(), images[0], 3) for _ in range(nets))
    return Problem(
        surrogates, images[1:], torch.full((6,), 3), torch.full((3, 1, 1), 0.4).double(),
        DiffAugment(shift_px=1.5), batch_size,
    )  # fmt: skip


# The gradient


def test_the_gradient_in_the_perturbation_matches_finite_differences() -> None:
    problem = smooth_problem()
    rng = stream(2)
    delta = torch.from_numpy(rng.normal(size=problem.base.shape) * 0.02)
    draws = problem.augment.draw((6,), rng)

    def loss(d: torch.Tensor) -> float:
        total = 0.0
        for part in (slice(0, 4), slice(4, 6)):
            x = problem.augment.apply(problem.base[part] + d[part], draws[part], problem.mean)
            (which,) = problem.surrogates
            total += float(matching_loss(which, x, problem.labels[part]).detach())
        return total

    gradient = problem.gradient(delta[None], draws[None])[0]
    for _ in range(12):
        way = torch.from_numpy(rng.normal(size=delta.shape))
        slope = (loss(delta + 1e-5 * way) - loss(delta - 1e-5 * way)) / 2e-5
        assert slope == pytest.approx(float((gradient * way).sum()), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("nets", [1, 2])
def test_several_restarts_in_one_pass_have_the_gradients_of_each_alone(nets: int) -> None:
    problem, rng = smooth_problem(nets), stream(3)
    deltas = torch.from_numpy(rng.normal(size=(3, *problem.base.shape)) * 0.02)
    draws = problem.augment.draw((3, 6), rng)
    together = problem.gradient(deltas, draws)
    for run in range(3):
        (alone,) = problem.gradient(deltas[run][None], draws[run][None])
        torch.testing.assert_close(together[run], alone, rtol=1e-9, atol=1e-15)
        assert not torch.equal(alone, together[run - 1])


def test_the_loss_is_zero_for_the_target_itself_and_two_for_the_opposite_gradient() -> None:
    net, image = smooth_net(), torch.rand(3, 8, 8).double()
    which = prepare(net, image, 3)
    same = matching_loss(which, image[None], torch.tensor([3]))
    assert float(same.detach()) == pytest.approx(0, abs=1e-12)
    opposite = replace(which, wanted=tuple(-w for w in which.wanted))
    assert float(matching_loss(opposite, image[None], torch.tensor([3])).detach()) == pytest.approx(
        2
    )


def test_an_ensemble_of_equal_networks_gives_the_signs_of_one() -> None:
    one, three = smooth_problem(1), smooth_problem(3)
    delta, draws = torch.zeros_like(one.base)[None], one.augment.draw((1, 6), stream(0))
    a, b = one.gradient(delta, draws), three.gradient(delta, draws)
    torch.testing.assert_close(b, 3 * a)
    assert torch.equal(a.sign(), b.sign())


def test_preparing_leaves_the_network_alone() -> None:
    net = smooth_net().requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    problem = replace(smooth_problem(), surrogates=(prepare(net, torch.rand(3, 8, 8).double(), 1),))
    problem.gradient(torch.zeros_like(problem.base)[None], problem.augment.draw((1, 6), stream(0)))
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in net.parameters())


def test_the_step_falls_where_the_published_one_does() -> None:
    rates = [Matching().rate(i) for i in range(250)]
    falls = [i for i in range(1, 250) if rates[i] != rates[i - 1]]
    assert falls == [93, 156, 218]
    assert rates[-1] == pytest.approx(0.4e-3)


# The augmentation


def test_whole_shifts_over_a_reflected_border_are_those_of_the_victims_crops() -> None:
    x = torch.rand(4, 3, 9, 11)
    draws = AUGMENT.draw((4,), stream(3))
    shifted = AUGMENT.apply(x, draws, torch.zeros(3, 1, 1))
    padded = F.pad(x, (2, 2, 2, 2), mode="reflect")
    for image, out, (dx, dy, mirror) in zip(padded, shifted, draws.tolist(), strict=True):
        left, top = 2 + int(dx), 2 + int(dy)
        crop = image[:, top : top + 9, left : left + 11]
        if mirror < 0:  # the grid is mirrored before it is shifted: the shift is of the result
            crop = crop.flip(2)
        torch.testing.assert_close(out, crop, rtol=0, atol=1e-5)
    assert {d[2] for d in draws.tolist()} == {-1.0, 1.0}


def test_what_a_shift_uncovers_has_the_mean_colour_and_parts_of_pixels_blur() -> None:
    mean = torch.tensor([0.2, 0.5, 0.7]).view(3, 1, 1)
    x = torch.rand(1, 3, 8, 8)
    published = DiffAugment()
    out = published.apply(x, torch.tensor([[2.0, 0.0, 1.0]]), mean)
    torch.testing.assert_close(out[..., :6], x[..., 2:], rtol=0, atol=1e-5)
    torch.testing.assert_close(out[..., 6:], mean.expand(1, 3, 8, 2), rtol=0, atol=1e-5)
    half = published.apply(x, torch.tensor([[0.5, 0.0, 1.0]]), mean)
    torch.testing.assert_close(half[..., :7], (x[..., :7] + x[..., 1:]) / 2, rtol=0, atol=1e-5)


def test_draws_fill_the_range_of_the_published_code() -> None:
    draws = DiffAugment().draw((4000,), stream(0)).numpy()
    assert draws[:, :2].min() < -3.9 and draws[:, :2].max() > 3.9
    assert np.abs(draws[:, :2]).max() <= 4 and abs(draws[:, 2].mean()) < 0.05
    assert np.all(DiffAugment(flip=False).draw((9,), stream(0)).numpy()[:, 2] == 1)


# Crafting, on a network that was trained


@pytest.fixture(scope="module")
def surrogate() -> Predictor:
    recipe = Recipe(epochs=8, lr=0.1, crop_pad=2, batch_size=32, precision="fp32")
    rng = stream(0, "train")
    model = build_model(HlbXs(widths=(16, 32, 32)).build, 3, (3, 32, 32), rng)
    return fit(model, PRETRAINING, recipe, rng)


def problem_of(surrogate: Predictor, count: int = 8) -> Problem:
    rows = np.flatnonzero(TRANSFER.labels == 2)[:count]
    target = to_float(TEST.images[TEST.labels == 1][:1])[0]
    return Problem(
        (prepare(surrogate.model, target, 2),), to_float(TRANSFER.images[rows]),
        torch.full((count,), 2), torch.full((3, 1, 1), 0.5), AUGMENT, 512,
    )  # fmt: skip


def test_the_poisons_match_better_than_their_random_start(surrogate: Predictor) -> None:
    problem = problem_of(surrogate)
    crafted = craft(problem, 16, QUICK, stream(0))
    assert crafted.loss_after < 0.8 * crafted.loss_before
    moved = crafted.images.astype(int) - to_bytes(problem.base)
    assert np.abs(moved).max() == 16
    # What is reported is the loss of the stored bytes, under augmentations shared by all scores.
    fixed = AUGMENT.draw((4, 8), stream(subseed(stream(0)), "score"))
    stored = to_float(crafted.images) - problem.base
    assert problem.score(stored, fixed) == pytest.approx(crafted.loss_after, rel=1e-3)


def test_a_network_without_finite_gradients_is_refused_and_no_random_start_returned() -> None:
    problem = smooth_problem()
    with torch.no_grad():
        problem.surrogates[0].parameters[0][0] = torch.nan
    with pytest.raises(DataError, match="matching loss is not finite"):
        craft(problem, 16, QUICK, stream(0))


def test_the_best_of_all_restarts_is_kept(surrogate: Predictor) -> None:
    problem = problem_of(surrogate, 4)

    def best_of(restarts: int) -> Crafted:
        return craft(problem, 16, replace(QUICK, iterations=3, restarts=restarts), stream(0))

    runs = [best_of(n) for n in range(1, 6)]
    losses = [run.loss_after for run in runs]
    assert losses == sorted(losses, reverse=True) and len(set(losses)) > 1
    for newest, (fewer, more) in enumerate(pairwise(runs), start=1):
        # One restart more changes nothing, unless it is the better one.
        assert (more.restart == newest) == (more.loss_after < fewer.loss_after)
        assert more.restart == newest or np.array_equal(fewer.images, more.images)


def test_restarts_at_once_are_those_made_one_by_one(surrogate: Predictor) -> None:
    problem = problem_of(surrogate, 4)
    settings = replace(QUICK, iterations=2, restarts=3)
    alone = [craft(problem, 16, settings, stream(0), [number]) for number in range(3)]
    best = min(alone, key=lambda crafted: crafted.loss_after)
    together = craft(problem, 16, replace(settings, restarts_at_once=2), stream(0))
    assert together.restart == best.restart
    assert together.loss_after == pytest.approx(best.loss_after, abs=1e-4)
    # A step is a sign, which rounding may turn over where the gradient is about 0.
    assert np.mean(together.images == best.images) > 0.99


def test_a_group_of_restarts_is_one_attempt(surrogate: Predictor) -> None:
    matching = replace(QUICK, iterations=2, restarts=3, restarts_at_once=2)
    attack = attack_of(surrogate, 0, matching=matching)
    assert attack.tries() == 2
    tries = [attack.attempt(TRANSFER, TEST, stream(0), number) for number in range(2)]
    assert {crafted.details["restart"] for crafted in tries} <= {0, 1, 2}
    assert tries[1].details["restart"] == 2
    whole, best = attack.poison(TRANSFER, TEST, stream(0)), attack.best(tries)
    np.testing.assert_array_equal(whole.train.images, best.train.images)


def attack_of(surrogate: Predictor, target: int, **changes: object) -> GradientMatching:
    settings = {"budget": 0.1, "bases": "highest_loss", "matching": QUICK, **changes}
    return GradientMatching(target=target, surrogates=(surrogate,), **settings)


def test_poisons_keep_bound_label_and_rows(surrogate: Predictor) -> None:
    attack = attack_of(surrogate, 1, eps_255=8)
    poisoned = attack.poison(TRANSFER, TEST, stream(0, "attack"))
    rows = TRANSFER.positions(poisoned.poison_ids)
    moved = poisoned.train.images.astype(int) - TRANSFER.images
    assert len(rows) == 16 and np.abs(moved).max() == 8
    assert np.flatnonzero(np.any(moved, axis=(1, 2, 3))).tolist() == rows.tolist()
    (probe,) = poisoned.probes
    assert probe.name == "target" and len(probe.images) == 1
    np.testing.assert_array_equal(poisoned.train.labels, TRANSFER.labels)
    assert np.all(TRANSFER.labels[rows] == probe.adv_labels)
    details = poisoned.details
    assert details["matching_loss"] < details["matching_loss_before"]
    assert details["surrogate0_label_of_target"] == probe.images.labels[0]
    again = attack.poison(TRANSFER, TEST, stream(0, "attack"))
    np.testing.assert_array_equal(again.train.images, poisoned.train.images)
    assert again.details == details


def test_the_poisons_turn_their_target_and_clean_training_does_not(surrogate: Predictor) -> None:
    recipe = Recipe(
        epochs=6, lr=0.05, warmup=0.1, batch_size=32, crop_pad=2, label_smoothing=0,
        precision="fp32",
    )  # fmt: skip

    def fine_tuned(train: ImageSet) -> Predictor:
        model = copy.deepcopy(surrogate.model).requires_grad_(True)
        return fit(model, train, recipe, stream(0, "victim"))

    matching = replace(
        QUICK, iterations=30, step=0.15, score_every=15, milestones=(0.6, 0.85), decay=0.2
    )
    crafted = [
        attack_of(surrogate, target, budget=0.12, matching=matching).poison(
            TRANSFER, TEST, stream(0, "attack")
        )
        for target in range(6)
    ]
    clean = fine_tuned(TRANSFER)

    def given(predict: Predictor, poisoned: PoisonedSet) -> bool:
        probe = poisoned.probes[0]
        return bool(predict(probe.images.images)[0] == probe.adv_labels[0])

    assert sum(given(fine_tuned(p.train), p) for p in crafted) >= 4
    assert sum(given(clean, p) for p in crafted) <= 1


# Setups


def test_a_setup_depends_on_its_number_and_the_seed_alone() -> None:
    ten = [draw_setup(DATA.test, n, 5) for n in range(10)]
    assert [draw_setup(DATA.test, n, 5) for n in (9, 3)] == [ten[9], ten[3]]
    assert len({s.target_row for s in ten}) > 5
    assert [draw_setup(DATA.test, n, 6) for n in range(10)] != ten


def test_classes_of_setups_are_uniform_pairs_of_different_ones() -> None:
    setups = [draw_setup(DATA.test, n, 0) for n in range(600)]
    for setup in setups:
        assert setup.true_label != setup.adv_label
        assert DATA.test.labels[setup.target_row] == setup.true_label
    for field in ("true_label", "adv_label"):
        counts = np.bincount([getattr(s, field) for s in setups], minlength=10)
        assert counts.min() > 30 and counts.max() < 95  # 60 expected, s.e. 7.3
    fixed = draw_setup(DATA.test, 0, 0, true_label=6, adv_label=8)
    assert (fixed.true_label, fixed.adv_label) == (6, 8)


def test_no_target_is_misread_or_given_the_adversarys_label_already() -> None:
    predicted = stream(0).integers(0, 10, size=(2, len(DATA.test)))
    known = np.all(predicted == DATA.test.labels, axis=0)
    predicted[:, :40], known[:40] = DATA.test.labels[:40], True
    for number in range(100):
        setup = draw_setup(DATA.test, number, 0, known=known, predicted=predicted)
        assert known[setup.target_row]
        free = draw_setup(DATA.test, number, 0, predicted=predicted)
        assert not np.any(predicted[:, free.target_row] == free.adv_label)
    with pytest.raises(DataError, match="no test image of 500 can be the target of setup 4: 0 are"):
        draw_setup(DATA.test, 4, 0, known=np.zeros(500, bool))


def test_bases_are_chosen_by_rule(surrogate: Predictor) -> None:
    of_class = np.flatnonzero(TRANSFER.labels == 2)
    scores = mean_losses((surrogate,), TRANSFER.take(of_class))
    hardest = choose_bases(TRANSFER, 2, 3, "highest_loss", stream(0), scores)
    assert sorted(scores)[-3:] == sorted(scores[np.isin(of_class, hardest)])
    assert choose_bases(TRANSFER, 2, 3, "first", stream(0)).tolist() == of_class[:3].tolist()
    drawn = {tuple(choose_bases(TRANSFER, 2, 3, "random", stream(s))) for s in range(9)}
    assert len(drawn) > 5 and np.all(np.isin(list(drawn), of_class))
    with pytest.raises(DataError, match=f"99 poisons are more than the {len(of_class)} rows"):
        choose_bases(TRANSFER, 2, 99, "random", stream(0))
    with pytest.raises(DataError, match="needs one score"):
        choose_bases(TRANSFER, 2, 3, "highest_loss", stream(0))


def test_losses_are_meaned_over_networks_and_labels_given_by_each(surrogate: Predictor) -> None:
    images = TRANSFER.take(np.arange(20))
    logits = torch.from_numpy(surrogate.logits(images.images)).double()
    rows = torch.arange(20)
    expected = logits.logsumexp(1) - logits[rows, torch.from_numpy(images.labels.copy())]
    np.testing.assert_allclose(mean_losses((surrogate,) * 2, images), expected, atol=1e-6)
    assert predicted_labels((surrogate,) * 2, images.images).shape == (2, 20)


def published(path: Path, **changes: object) -> Path:
    row = int(np.flatnonzero(TEST.labels == 1)[3])
    bases = np.flatnonzero(TRANSFER.labels == 2)[[4, 0, 2]].tolist()
    setup = {"true_label": 1, "target_row": row, "adv_label": 2, "base_rows": bases, **changes}
    path.write_text(json.dumps([setup]))
    return path


def test_a_published_setup_gives_target_and_rows(surrogate: Predictor, tmp_path: Path) -> None:
    path = published(tmp_path / "setups.json")
    attack = attack_of(surrogate, 0, setups=path)
    poisoned = attack.poison(TRANSFER, TEST, stream(0, "attack"))
    setup = read_setup(path, 0)
    assert poisoned.poison_ids.tolist() == TRANSFER.ids[list(setup.base_rows)].tolist()
    assert poisoned.details["target_row"] == setup.target_row
    assert attack.bounds(TRANSFER).rows == 3


@pytest.mark.parametrize(
    ("number", "changes", "message"),
    [
        (1, {}, r"have the numbers 0..0; got 1"),
        (0, {"base_rows": []}, "a list of at least one"),
        (0, {"target_row": 1.5}, "must hold whole numbers"),
        (0, {"base_row": [1]}, "must have exactly the keys"),
    ],
)
def test_a_file_of_setups_that_breaks_a_rule_is_refused(
    tmp_path: Path, number: int, changes: dict, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_setup(published(tmp_path / "setups.json", **changes), number)


def test_what_is_no_file_of_setups_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read as JSON"):
        read_setup(tmp_path / "none.json", 0)
    (tmp_path / "empty.json").write_text("{}")
    with pytest.raises(DataError, match="must be a list of setups"):
        read_setup(tmp_path / "empty.json", 0)


@pytest.mark.parametrize(
    ("setup", "message"),
    [
        (Setup(150, 0, 1, (0,)), r"target_row is 150; the test set has 0..149"),
        (Setup(0, int(TEST.labels[0] + 1) % 3, 1, (0,)), "another dataset, or in another"),
        (Setup(0, *[int(TEST.labels[0])] * 2, (0,)), "adv_label is the target's true label"),
        (Setup(0, int(TEST.labels[0]), 11, (4, 4)), "some base_rows stand twice"),
        (Setup(0, int(TEST.labels[0]), 11, (4, 160)), r"base_rows reach 4..160"),
        (Setup(0, int(TEST.labels[0]), 11, (4,)), r"are not of class 11"),
    ],
)
def test_a_setup_of_other_data_is_refused(setup: Setup, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_setup(setup, TRANSFER, TEST)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s: GradientMatching(target=0, surrogates=()), "at least one network"),
        (lambda s: attack_of(s, -1), "number of a setup, from 0; got -1"),
        (lambda s: attack_of(s, 0, eps_255=0), "eps_255 is in grey levels"),
        (lambda s: attack_of(s, 0, budget=0.0), "budget is a share"),
        (lambda s: attack_of(s, 0, budget=0.5).check(TRANSFER, TEST), "asks for 80 poisons"),
        (lambda s: Matching(restarts=0), "are at least 1"),
        (lambda s: Matching(restarts_at_once=0), "are at least 1"),
        (lambda s: Matching(step=0.0), "in shares of the bound"),
        (lambda s: DiffAugment(shift_px=-1), "must not be negative"),
    ],
)
def test_impossible_parameters_are_refused(make, message: str, surrogate: Predictor) -> None:
    with pytest.raises(DataError, match=message):
        make(surrogate)


def test_surrogates_of_other_classes_are_refused() -> None:
    """Their gradient of a label is that of another class."""
    net = build_model(HlbXs(widths=(8, 8, 8)).build, 7, TRAIN.image_shape, stream(0)).eval()
    with pytest.raises(DataError, match="knows 7 classes; the data have 3"):
        attack_of(Predictor(net), 0, correct_only=False).poison(TRANSFER, TEST, stream(0))
