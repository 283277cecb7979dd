"""Bullseye Polytope: its mathematics, its bounds, and that a head trained on it errs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attacks._polytope import (
    Crafting,
    bullseye_loss,
    collision_loss,
    convex_loss,
    craft,
    fit_coefficients,
    nearest_on_simplex,
    project_simplex,
    squared_distances,
)
from attacks._setups import choose_bases, draw_setup, predicted_labels
from attacks._surrogate_features import FeatureReader
from attacks.bullseye_polytope import BullseyePolytope
from harness.classifiers._base import GlobalMeanPool, ImageClassifier
from harness.classifiers.hlb_xs import HlbXs
from harness.classifiers.resnet9 import ResNet9
from harness.classifiers.resnet18 import ResNet18
from harness.classifiers.vit import ViT
from harness.core.data import ImageSet
from harness.core.errors import DataError
from harness.core.pixels import to_float
from harness.core.recipe import Recipe
from harness.core.seeds import stream, torch_generator
from harness.datasets.shapes import Shapes
from harness.linear_head import train_heads
from harness.training import Predictor, build_model, fit

DATA = Shapes(train=1300, test=200).load()
PRETRAIN, TRANSFER = (DATA.train.take(np.arange(a, b)) for a, b in ((0, 1000), (1000, 1300)))
NET = HlbXs(widths=(16, 32, 32), recipe=Recipe(epochs=8, lr=0.2, crop_pad=2, precision="fp32"))


@pytest.fixture(scope="module")
def extractor() -> Predictor:
    rng = stream(0, "train")
    return fit(build_model(NET.build, 10, (3, 32, 32), rng), PRETRAIN, NET.recipe, rng)


def linear_net(outputs: int = 6, side: int = 4) -> Predictor:
    """Features are a linear function of the pixels."""
    body = nn.Sequential(nn.Flatten(), nn.Linear(3 * side * side, outputs, bias=False))
    with torch.no_grad():
        body[1].weight.copy_(torch.from_numpy(stream(5).normal(size=body[1].weight.shape)))
    return Predictor(ImageClassifier(body, nn.Linear(outputs, 2)).eval())


def noise_images(*shape: int, seed: int = 0) -> np.ndarray:
    return stream(seed, "images").integers(0, 256, shape, dtype=np.uint8)


def features_of(predictor: Predictor, images: np.ndarray) -> Tensor:
    with torch.no_grad():
        return predictor.model.features(to_float(images))


# Mathematics


def test_the_simplex_projection_is_the_nearest_point() -> None:
    v = torch.from_numpy(stream(0).normal(size=(200, 6)) * 2)
    p = project_simplex(v)
    assert float(p.min()) >= 0
    torch.testing.assert_close(p.sum(1), torch.ones(200, dtype=p.dtype))
    torch.testing.assert_close(project_simplex(p), p)
    others = torch.from_numpy(stream(1).dirichlet(np.full(6, 0.5), size=500))
    gap = torch.cdist(v, others).min(1).values - (v - p).norm(dim=1)
    assert float(gap.min()) >= 0
    # Obtuse angles to all points of the simplex: what makes it the projection on a convex set.
    angles = torch.einsum("nd,nmd->nm", v - p, others - p[:, None])
    assert float(angles.max()) < 1e-9


def test_the_hulls_nearest_point_is_found() -> None:
    corners = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])[None]
    for target, expected in (
        ([0.5, 1.0], [0.25, 0.25, 0.5]),  # inside
        ([2.0, 2.0], [0.0, 0.5, 0.5]),  # before an edge
        ([5.0, -1.0], [0.0, 1.0, 0.0]),  # before a corner
    ):
        (c,) = fit_coefficients([corners], [torch.tensor([target])], None, steps=400)
        torch.testing.assert_close(c, torch.tensor([expected]), rtol=0, atol=1e-4)


def test_the_form_never_grows_along_the_way() -> None:
    a = torch.from_numpy(stream(0).normal(size=(7, 5, 5)))
    gram = a @ a.mT
    c = torch.full((7, 5), 0.2, dtype=gram.dtype)
    for _ in range(30):
        further = nearest_on_simplex(gram, c, 1)
        values = [torch.einsum("ni,nij,nj->n", p, gram, p) for p in (c, further)]
        assert bool((values[1] <= values[0] + 1e-12).all())
        c = further


def test_each_position_of_a_map_counts_by_its_own_length() -> None:
    """A position of a tenth of the length counts as much; a silent one has no part."""
    target = torch.zeros(1, 2, 2, 2)  # one target, two channels, 2x2 positions
    target[0, 0] = torch.tensor([[10.0, 1.0], [2.0, 0.0]])
    features = target[:, None].repeat(1, 2, 1, 1, 1)
    features[:, :, 1, 0, 0], features[:, :, 1, 0, 1], features[:, :, 1, 1, 1] = 5.0, 3.0, 7.0
    features.requires_grad_()
    for loss in (bullseye_loss(features, target), collision_loss(features, target)):
        torch.testing.assert_close(loss.detach(), torch.tensor([(0.5 + 3.0 + 0.0) / 3]))
        (gradient,) = torch.autograd.grad(loss.sum(), [features])
        assert bool(gradient.isfinite().all())
        assert not gradient[..., 1, 1].any()


@pytest.mark.parametrize("shape", [(7,), (5, 3, 2)])
def test_with_equal_coefficients_the_forms_agree(shape: tuple[int, ...]) -> None:
    rng = stream(0)
    features = torch.from_numpy(rng.normal(size=(4, 3, *shape)))
    target = torch.from_numpy(rng.normal(size=(4, *shape)))
    convex = convex_loss(features, target, torch.full((4, 3), 1 / 3, dtype=features.dtype))
    if len(shape) == 1:  # of maps the bullseye's length is a mean over positions, another norm
        torch.testing.assert_close(convex, bullseye_loss(features, target).square() / 2)
    best = fit_coefficients([features], [target], None, 500)[0]
    assert bool((convex_loss(features, target, best) <= convex).all())
    one = features[:, :1]
    torch.testing.assert_close(collision_loss(one, target), bullseye_loss(one, target))
    assert bool((bullseye_loss(features, target) <= collision_loss(features, target)).all())


def test_one_poison_of_a_linear_net_without_a_bound_reaches_the_target() -> None:
    bases, target = noise_images(1, 1, 3, 4, 4), noise_images(1, 3, 4, 4, seed=1)
    found = craft(target, bases, [linear_net()], 255, Crafting(iterations=600, lr=0.005), [0])
    assert found.loss_before[0] > 0.3
    assert found.loss_after[0] < 0.02  # what rounding to bytes leaves
    assert np.any(found.images[0, 0] != target[0])  # other pixels, the same features


def test_each_poison_collides_where_the_mean_would_do() -> None:
    bases, target = noise_images(1, 4, 3, 4, 4), noise_images(1, 3, 4, 4, seed=1)
    net = linear_net()
    goal = features_of(net, target)

    def farthest(center: str) -> float:
        settings = Crafting(iterations=200, lr=0.01, center=center)
        poisons = craft(target, bases, [net], 255, settings, [0]).images[0]
        return float((features_of(net, poisons) - goal).norm(dim=1).max() / goal.norm())

    assert farthest("each") < 0.05
    assert farthest("mean") > 0.2


# The search


@pytest.mark.parametrize("crafting", [
    Crafting(iterations=12),
    Crafting(iterations=12, center="convex", mode="end_to_end"),
    Crafting(iterations=12, center="each", mode="end_to_end", layer="body.2"),
    Crafting(iterations=12, mode="end_to_end", dropout=0.2, net_repeat=2),
])  # fmt: skip
def test_many_targets_at_once_are_each_alone_and_within_the_bound(
    extractor: Predictor, crafting: Crafting
) -> None:
    targets = DATA.test.images[:3]
    bases = TRANSFER.images[:12].reshape(3, 4, 3, 32, 32)
    together = craft(targets, bases, [extractor], 9, crafting, [0, 1, 2])
    moved = together.images.astype(int) - bases
    assert np.abs(moved).max() == 9
    assert np.all(together.loss_after < together.loss_before)
    again = craft(targets, bases, [extractor], 9, crafting, [0, 1, 2])
    np.testing.assert_array_equal(together.images, again.images)
    alone = craft(targets[1:2], bases[1:2], [extractor], 9, crafting, [1])
    # Sums of another order differ in the last bit, and Adam makes much of the smallest gradients.
    assert np.mean(together.images[1] != alone.images[0]) < 0.01
    np.testing.assert_allclose(together.loss_after[1], alone.loss_after[0], rtol=1e-2)


def test_the_loss_of_two_networks_is_the_mean_of_both(extractor: Predictor) -> None:
    other = build_model(NET.build, 10, (3, 32, 32), stream(1))
    nets = [extractor, Predictor(other.eval())]
    settings = Crafting(iterations=3)
    given = DATA.test.images[:1], TRANSFER.images[None, :3]
    both, first, second = (
        craft(*given, chosen, 16, settings, [0]) for chosen in (nets, nets[:1], nets[1:])
    )
    expected = (first.loss_before + second.loss_before) / 2
    np.testing.assert_allclose(both.loss_before, expected, rtol=1e-5)


def test_the_surrogate_is_left_as_it_was(extractor: Predictor) -> None:
    before = {k: v.clone() for k, v in extractor.model.state_dict().items()}
    crafting = Crafting(iterations=2, mode="end_to_end", dropout=0.3)
    craft(DATA.test.images[:1], TRANSFER.images[None, :2], [extractor], 8, crafting, [0])
    assert all(torch.equal(before[k], v) for k, v in extractor.model.state_dict().items())
    assert all(p.requires_grad for p in extractor.model.parameters())
    assert not any(m._forward_pre_hooks for m in extractor.model.modules())


def test_dropout_scatters_features_around_their_mean() -> None:
    body = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 3), GlobalMeanPool())
    net = Predictor(ImageClassifier(body, nn.Linear(8, 2)).eval())  # linear: no bias of the mean
    x = to_float(noise_images(2, 3, 6, 6))

    def apart(repeats: int) -> float:
        reader = FeatureReader(net, with_map=False, layer="", dropout=0.25, repeats=repeats)
        with torch.no_grad():
            (clear,) = reader.read(x, 2)
            (drawn,) = reader.read(x, 2, [torch_generator(s) for s in range(2)])
        torch.testing.assert_close(clear[:, 0], net.model.features(x))
        return float((drawn - clear).norm() / clear.norm())

    assert apart(1) > 0.02
    assert apart(1024) < 0.2 * apart(1)


@pytest.mark.parametrize(
    ("net", "layer", "shape"),
    [
        (ResNet9(width=4), "", (32, 4, 4)),
        (ResNet18(), "", (512, 4, 4)),
        (ResNet18(), "body.layer4.0", (512, 4, 4)),
        (ResNet18(), "body.layer3", (256, 8, 8)),
    ],
)
def test_every_network_offers_a_map(net: ResNet9 | ResNet18, layer: str, shape: tuple) -> None:
    predictor = Predictor(net.build(10, (3, 32, 32)).eval())
    reader = FeatureReader(predictor, with_map=True, layer=layer, dropout=0.0, repeats=1)
    with torch.no_grad():
        maps, features = reader.read(torch.rand(2, 3, 32, 32), 2)
    assert maps.shape == (2, 1, *shape)
    assert features.shape == (2, 1, predictor.model.head.in_features)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"with_map": True, "dropout": 0.0}, "name the 'layer'"),
        ({"with_map": False, "dropout": 0.2}, "the surrogate has 1. Give dropout 0"),
    ],
)
def test_a_single_convolution_has_no_map_and_no_place_for_dropout(settings, message: str) -> None:
    """What it reads is the image: matching that, or dropping nothing, would be another attack."""
    tokens = ViT(width=16, mlp_width=16, layers=1, heads=2).build(10, (3, 32, 32)).eval()
    with pytest.raises(DataError, match=message):
        FeatureReader(Predictor(tokens), layer="", repeats=1, **settings)


# The effect


def head_labels(
    extractor: Predictor, sets: list[tuple[np.ndarray, np.ndarray]], images: np.ndarray
) -> np.ndarray:
    """Train one head per (rows, poisons in their place); return each head's label of its image."""
    clean = features_of(extractor, TRANSFER.images)
    parts = [clean.clone() for _ in sets]
    for part, (rows, poisons) in zip(parts, sets, strict=True):
        part[rows] = features_of(extractor, poisons)
    recipe = Recipe(
        optimizer="adam", lr=0.02, epochs=40, schedule="multistep", milestones=(20, 30),
        label_smoothing=0.0,
    )  # fmt: skip
    rngs = [stream(i, "head") for i in range(len(sets))]
    labels = torch.tensor(TRANSFER.labels)
    heads = train_heads(torch.stack(parts), labels, 10, recipe, rngs)
    own = features_of(extractor, images)[:, None]
    return heads.logits(own)[:, 0].argmax(1).numpy()


def test_heads_that_learn_the_poisons_take_the_target_along(extractor: Predictor) -> None:
    predicted = predicted_labels([extractor], DATA.test.images)
    known = np.all(predicted == DATA.test.labels, axis=0)
    setups = [draw_setup(DATA.test, i, 0, known=known, predicted=predicted) for i in range(12)]
    rows = [choose_bases(TRANSFER, s.adv_label, 5, "first", stream(0)) for s in setups]
    targets = DATA.test.images[[s.target_row for s in setups]]
    bases = np.stack([TRANSFER.images[r] for r in rows])
    wanted = np.array([s.adv_label for s in setups])

    def taken(poisons: np.ndarray) -> np.ndarray:
        sets = list(zip(rows, poisons, strict=True))
        return head_labels(extractor, sets, targets) == wanted

    # Which head errs on clean data depends on the processor: such a target shows nothing.
    fair = np.flatnonzero(~taken(bases))[:10]
    assert len(fair) == 10

    def successes(poisons: np.ndarray) -> int:
        return int(np.sum(taken(poisons)[fair]))

    def crafted(center: str) -> np.ndarray:
        settings = Crafting(iterations=60, lr=0.1, center=center)
        return craft(targets, bases, [extractor], 25, settings, range(12)).images

    bullseye = successes(crafted("mean"))
    assert bullseye >= 7
    # The paper's point: a target anywhere in the hull need not be classified as its corners are.
    assert successes(crafted("convex")) < bullseye


def test_the_attack_hands_on_one_target_and_its_poisons(extractor: Predictor) -> None:
    attack = BullseyePolytope(
        target=3, surrogates=(extractor,), crafting=Crafting(iterations=40), bases="random"
    )
    poisoned = attack.poison(TRANSFER, DATA.test, stream(0, "attack"))
    (probe,) = poisoned.probes
    assert poisoned.goal == "targeted" and probe.name == "target" and len(probe.images) == 1
    (true,), (wanted,) = probe.images.labels, probe.adv_labels
    assert extractor(probe.images.images)[0] == true  # correct_only
    rows = poisoned.train.positions(poisoned.poison_ids)
    assert len(rows) == 5 and np.all(TRANSFER.labels[rows] == wanted)
    moved = poisoned.train.images.astype(int) - TRANSFER.images
    assert set(np.flatnonzero(np.abs(moved).max((1, 2, 3)))) == set(rows)
    assert np.abs(moved).max() <= 25
    details = poisoned.details
    assert details["crafting_loss"] < 0.5 * details["crafting_loss_before"]
    assert details["feature_distance"] == details["crafting_loss"]  # linear, mean
    assert details["surrogate0_label_of_target"] == true
    again = attack.poison(TRANSFER, DATA.test, stream(0, "attack"))
    assert again.train.digest == poisoned.train.digest
    targets = {
        replace(attack, target=t)._setup(TRANSFER, DATA.test, stream(0, "attack"))[0].target_row
        for t in range(6)
    }
    assert len(targets) > 3


def test_the_nearest_bases_are_the_nearest(extractor: Predictor) -> None:
    attack = BullseyePolytope(
        target=0, surrogates=(extractor, extractor), bases="nearest", true_label=2, adv_label=7
    )
    setup, rows = attack._setup(TRANSFER, DATA.test, stream(0, "attack"))
    assert (setup.true_label, setup.adv_label) == (2, 7)
    of_class = np.flatnonzero(TRANSFER.labels == 7)
    goal = features_of(extractor, DATA.test.images[[setup.target_row]])
    far = (features_of(extractor, TRANSFER.images[of_class]) - goal).square().sum(1).numpy()
    assert set(rows) == set(of_class[np.argsort(far)[:5]])
    summed = squared_distances(
        DATA.test.images[setup.target_row], TRANSFER.images[of_class], [extractor, extractor]
    )
    np.testing.assert_allclose(summed, 2 * far, rtol=1e-3)


# What is refused


def small(classes: int = 10) -> Predictor:
    return Predictor(HlbXs(widths=(8, 8, 8)).build(classes, (3, 32, 32)).eval())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"surrogates": ()}, "at least one network"),
        ({"target": -1}, "number of a setup"),
        ({"eps_255": 0}, "eps_255 is in grey levels"),
        ({"poisons": 0}, "poisons must be at least 1"),
        ({"poisons": 31}, "the smallest class has 30 rows"),
        ({"poisons": 31, "adv_label": 4}, "class 4 has 30 rows"),
        ({"true_label": 10}, r"true_label is 10; the data have the classes 0\.\.9"),
        ({"true_label": 3, "adv_label": 3}, "must differ"),
        ({"surrogates": (small(4),)}, "correct_only: false"),
    ],
)
def test_impossible_parameters_are_refused(change: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        attack = BullseyePolytope(**{"target": 0, "surrogates": (small(),), **change})
        attack.poison(TRANSFER, DATA.test, stream(0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"iterations": 0}, "at least 1"),
        ({"lr": 0.0}, "lr positive"),
        ({"dropout": 1.0}, "dropout is a rate"),
        ({"net_repeat": 3}, "repeats the same numbers"),
        ({"layer": "body"}, "only mode 'end_to_end'"),
        ({"layer": "body.9", "mode": "end_to_end"}, "has no layer 'body.9'"),
        ({"layer": "body.5", "mode": "end_to_end"}, "must give maps"),
    ],
)
def test_impossible_settings_are_refused(settings: dict, message: str) -> None:
    given = DATA.test.images[:1], TRANSFER.images[None, :2], [small()]
    with pytest.raises(DataError, match=message):
        craft(*given, 8, Crafting(**settings), [0])


def test_surrogates_of_other_classes_serve_when_correctness_is_not_asked_for() -> None:
    attack = BullseyePolytope(
        target=0, surrogates=(small(4),), correct_only=False, crafting=Crafting(iterations=2)
    )
    assert isinstance(attack.poison(TRANSFER, DATA.test, stream(0)).train, ImageSet)
