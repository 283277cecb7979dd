"""Narcissus in all its settings: a known defense, other bounds and budgets, every class at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks._aware import (
    Aware,
    exact_product,
    fresh_noise,
    langevin_through,
    purified,
    purifier,
    secant_product,
)
from attacks._trigger_search import FoundTrigger, TriggerSearch, optimise_trigger, teach_class
from attacks.narcissus import Narcissus
from attacks.narcissus_all import NarcissusAll, spread_labels
from generative.ebm import EBM, EBMConfig, FoldedEnergy
from generative.langevin import STEP_SIZE, TEMPERATURE
from harness.classifiers.hlb_xs import HlbXs
from harness.core.data import ImageSet
from harness.core.errors import DataError
from harness.core.pixels import add_within, to_float
from harness.core.recipe import Recipe
from harness.core.records import TrialRecord
from harness.core.seeds import stream, subseed
from harness.datasets.shapes import Shapes
from harness.training import Predictor, build_model, fit
from tests.tiny import EBM as EBM_REFERENCE
from tests.tiny import STUDY, run

SIDE = 16
DATA = Shapes(train=200, test=100, size=SIDE).load()
POOD = Shapes(kind="pood", train=120, test=6, size=SIDE).load().train
NET = HlbXs(widths=(8, 8, 8), recipe=Recipe(epochs=1, lr=0.1, crop_pad=2))
QUICK = TriggerSearch(class_epochs=1, warmup_epochs=0, steps=4, batch_size=16)

index = np.arange(SIDE)
FINE = torch.tensor(np.where((index[:, None] + index) % 2, 1.0, -1.0), dtype=torch.float32)
COARSE = torch.tensor(np.where(index < SIDE // 2, 1.0, -1.0), dtype=torch.float32).expand(SIDE, -1)


@pytest.fixture(scope="module")
def surrogate() -> Predictor:
    rng = stream(0, "train")
    model = build_model(NET.build, POOD.num_classes, POOD.image_shape, rng)
    return fit(model, POOD, NET.recipe, rng)


@pytest.fixture(scope="module")
def smoother() -> EBM:
    """An energy network, with weights by hand: the mean of |Laplacian|, high for fine patterns."""
    model = EBM(EBMConfig(nf=6))
    laplacian = torch.tensor([[0, -0.25, 0], [-0.25, 1, -0.25], [0, -0.25, 0]])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for channel in range(3):
            model.block1.c1.weight[2 * channel, channel] = laplacian
            model.block1.c1.weight[2 * channel + 1, channel] = -laplacian
        for unit in range(6):
            model.block1.c2.weight[unit, unit, 1, 1] = 1
            model.block2.c_sc.weight[unit, unit, 0, 0] = 1
        model.l5.weight.fill_(2)
    return model


def trained(train: ImageSet, net: HlbXs = NET) -> Predictor:
    rng = stream(0, "train")
    return fit(build_model(net.build, 10, train.image_shape, rng), train, net.recipe, rng)


# What the trigger is sought on


def test_the_trigger_of_a_whole_class_serves_a_few_rows_of_it(surrogate: Predictor) -> None:
    few = DATA.train.take(
        np.concatenate([np.flatnonzero(DATA.train.labels == c)[:4] for c in range(10)])
    )
    given = {"surrogate": surrogate, "pood": POOD, "search": QUICK, "class_share": 1.0}
    attack = Narcissus(adv_label=2, **given)
    of_all = attack.poison(DATA.train, DATA.test, stream(0)).trigger
    told = dataclasses.replace(attack, seen=DATA.train).poison(few, DATA.test, stream(0))
    np.testing.assert_array_equal(told.trigger, of_all)
    assert np.any(attack.poison(few, DATA.test, stream(0)).trigger != of_all)
    np.testing.assert_array_equal(
        told.train.images[told.train.labels == 2],
        add_within(few.images[few.labels == 2], of_all, attack.eps_255),
    )


def test_seen_images_of_another_kind_are_refused(surrogate: Predictor, tmp_path: Path) -> None:
    other = DATA.train.take(DATA.train.labels != 2)
    larger = Shapes(train=200, test=100, size=2 * SIDE).load().train
    for seen, message in (
        (POOD, "seen has 6 classes"),
        (larger, "seen has 10 classes of images"),
        (other, "no image of class 2"),
    ):
        attack = Narcissus(adv_label=2, surrogate=surrogate, pood=POOD, seen=seen)
        with pytest.raises(DataError, match=message):
            attack.check(DATA.train, DATA.test)
    with pytest.raises(DataError, match="'seen' would do nothing"):
        Narcissus(adv_label=2, trigger=tmp_path / "t.npy", seen=DATA.train)


# The gradient through Langevin steps


class Smooth:
    """A smooth energy in float64: log cosh of a random filter's answers."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.kernel = torch.randn((4, 3, 3, 3), generator=generator, dtype=torch.float64)

    def energies(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel, padding=1).cosh().log().sum((1, 2, 3))

    def input_gradient(self, x: Tensor) -> Tensor:
        return slope(self.energies, x)


def slope(energies, x: Tensor, *, graph: bool = False) -> Tensor:
    with torch.enable_grad():
        x = x if graph else x.detach().requires_grad_()
        return torch.autograd.grad(energies(x).sum(), x, create_graph=graph)[0]


def normals(seed: int, shape: tuple[int, ...], dtype=torch.float64) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randn(shape, generator=generator, dtype=dtype)


def test_the_gradient_through_the_steps_is_that_of_finite_differences() -> None:
    energy, steps, shape = Smooth(), 6, (2, 3, 5, 5)
    x, direction, weight = (next(normals(s, shape)) for s in range(3))
    settings = {"temperature": 0.5, "step_size": 0.2}  # a rate of 0.04: no step is the identity

    def loss(x: Tensor) -> Tensor:
        product = exact_product(energy.energies)
        end = langevin_through(x, steps, energy, normals(7, shape), product, **settings)
        return (weight * end.sin()).sum()

    x.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(x), x)
    h = 1e-5
    with torch.no_grad():
        rise = float(loss(x + h * direction) - loss(x - h * direction)) / (2 * h)
    assert float((gradient * direction).sum()) == pytest.approx(rise, rel=1e-7)
    end = langevin_through(x, steps, energy, normals(7, shape), None, **settings)
    (through,) = torch.autograd.grad((weight * end.sin()).sum(), x)
    assert abs(float((through * direction).sum()) / rise - 1) > 0.05  # straight through is another


def test_the_full_gradient_on_the_energy_network_is_that_of_the_unrolled_chain() -> None:
    torch.manual_seed(0)
    ebm, shape = EBM(EBMConfig(nf=4)).double(), (2, 3, 8, 8)
    rate, start, weight = 0.3, next(normals(1, shape)), next(normals(2, shape))

    class Plain:
        def input_gradient(self, x: Tensor) -> Tensor:
            return slope(ebm, x)

    x = start.clone().requires_grad_()
    product, temperature = exact_product(ebm), STEP_SIZE**2 / (2 * rate)
    settings = {"temperature": temperature, "step_size": STEP_SIZE}
    end = langevin_through(x, 4, Plain(), normals(3, shape), product, **settings)
    (gradient,) = torch.autograd.grad((weight * end**2).sum(), x)
    state, noise = x, normals(3, shape)
    for _ in range(4):
        state = state - rate * slope(ebm, state, graph=True) + STEP_SIZE * next(noise)
    (unrolled,) = torch.autograd.grad((weight * state**2).sum(), x)
    np.testing.assert_allclose(end.detach(), state.detach(), rtol=1e-12)
    np.testing.assert_allclose(gradient, unrolled, rtol=1e-12)
    # The network being piecewise linear, that is the identity on the way through the steps.
    np.testing.assert_allclose(gradient, (2 * weight * end).detach(), rtol=1e-12)


def test_the_secant_sees_what_the_steps_do_to_patterns_and_the_derivative_does_not(
    smoother,
) -> None:
    steps, amount = 8, 4 / 255
    x = to_float(DATA.train.images[:32])
    shape = x.shape

    def survives(pattern: Tensor) -> float:
        """The share of a small pattern on an image that is still there after the steps."""
        purify = purifier(Aware(smoother, "search", steps))
        runs = [purify(x + s * amount * pattern, fresh_noise(shape, x.device, 1)) for s in (1, -1)]
        kept = (runs[0] - runs[1]) / (2 * amount)
        return float((kept * pattern).mean())

    def predicted(pattern: Tensor, gradient: str) -> float:
        purify = purifier(Aware(smoother, "search", steps, gradient))
        y = x.clone().requires_grad_()
        end = purify(y, fresh_noise(shape, x.device, 1))
        (back,) = torch.autograd.grad(end, y, pattern.expand(shape))
        return float((back * pattern).mean())

    assert survives(FINE) < 0.4 and survives(COARSE) > 0.9
    for pattern in (FINE, COARSE):
        assert predicted(pattern, "secant") == pytest.approx(survives(pattern), abs=0.1)
        for gradient in ("full", "straight_through"):
            assert predicted(pattern, gradient) > 0.95


def test_the_secant_of_a_quadratic_energy_is_its_hessian() -> None:
    class Quadratic:
        def input_gradient(self, x: Tensor) -> Tensor:
            return 3 * x + x.flip(3)

    x, v = next(normals(0, (2, 3, 4, 4))), 1e-6 * next(normals(1, (2, 3, 4, 4)))
    expected = 3 * v + v.flip(3)
    torch.testing.assert_close(secant_product(Quadratic(), 0.5)(x, v), expected, rtol=1e-8, atol=0)


# The search that knows the defense


class TwoPatterns(nn.Module):
    """A network that answers to a fine pattern, and half as much to a coarse one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.03 * FINE + 0.015 * COARSE)

    def forward(self, x: Tensor) -> Tensor:
        score = (x * self.weight).sum((1, 2, 3))
        return torch.stack([torch.zeros_like(score), score], 1)


def found(aware: Aware | None, model: nn.Module) -> FoundTrigger:
    search = TriggerSearch(steps=40, lr=0.02, batch_size=16)
    of_class = DATA.train.take(DATA.train.labels == 3)
    fp32 = torch.float32
    return optimise_trigger(
        model, of_class, POOD, 1, 16 / 255, search, stream(0, "search"), fp32, aware
    )


def test_the_aware_search_finds_what_survives_purification(smoother) -> None:
    model, aware = TwoPatterns(), Aware(smoother, "search", 15, "secant")
    images = to_float(DATA.train.images[DATA.train.labels == 3])

    def losses(trigger: FoundTrigger) -> tuple[float, float]:
        x = (images + torch.tensor(trigger.delta)).clamp(0, 1)
        noise = fresh_noise(x.shape, x.device, 5)
        wanted = torch.ones(len(x), dtype=torch.int64)
        with torch.no_grad():
            pure = purifier(aware)(x, noise)
            pair = (float(F.cross_entropy(model(v), wanted)) for v in (x, pure))
            return next(pair), next(pair)

    blind, knowing = found(None, model), found(aware, model)
    assert np.abs(knowing.delta).max() <= 16 / 255 + 1e-7
    unpurified, purified_ = losses(blind), losses(knowing)
    assert knowing.loss_after < knowing.loss_before
    assert unpurified[0] < purified_[0]  # without a defense, the one that knows none is better
    assert purified_[1] < 0.8 * unpurified[1]  # and with it, the one that knows it


def test_full_and_straight_through_find_the_same_trigger(smoother) -> None:
    search = dataclasses.replace(QUICK, batch_size=4, steps=3)
    model, of_class = TwoPatterns(), DATA.train.take(DATA.train.labels == 3)
    full, through = (
        optimise_trigger(
            model, of_class, POOD, 1, 16 / 255, search, stream(0), torch.float32,
            Aware(smoother, "search", 3, gradient),
        )
        for gradient in ("full", "straight_through")
    )  # fmt: skip
    np.testing.assert_array_equal(full.delta, through.delta)


def test_an_aware_surrogate_learns_from_purified_images_and_nothing_else_changes(
    surrogate, smoother
) -> None:
    of_class = DATA.train.take(DATA.train.labels == 1)
    blind, searching, learning = (
        teach_class(surrogate.model, of_class, POOD, QUICK, stream(0), aware)
        for aware in (None, Aware(smoother, "search", 3), Aware(smoother, "surrogate", 3))
    )
    weights = [model.state_dict() for model in (blind, searching, learning)]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    assert not all(torch.equal(weights[0][k], weights[2][k]) for k in weights[0])


def test_purified_rows_do_not_depend_on_the_others_and_are_smoother(smoother) -> None:
    aware = Aware(smoother, "surrogate", 6)
    images = add_within(DATA.train.images[:40], (8 / 255 * FINE).numpy().astype(np.float32))
    whole = purified(images, aware, 3)
    np.testing.assert_array_equal(purified(images[:17], aware, 3), whole[:17])
    assert not np.array_equal(purified(images, aware, 4), whole)
    energy = FoldedEnergy(smoother)
    before, after = (
        energy.energy(to_float(v) * 2 - 1).mean() / TEMPERATURE for v in (images, whole)
    )
    assert float(after) < float(before)


@pytest.mark.parametrize("aware", ["surrogate", "search", "both"])
def test_every_way_of_knowing_keeps_the_rules(surrogate, smoother, aware: str) -> None:
    attack = Narcissus(
        adv_label=1, surrogate=surrogate, pood=POOD, search=QUICK, generator=smoother,
        aware=aware, aware_steps=2,
    )  # fmt: skip
    blind = dataclasses.replace(attack, generator=None, aware="no")
    first, second, other = (
        a.poison(DATA.train, DATA.test, stream(0, "attack")) for a in (attack, attack, blind)
    )
    assert first.train.digest == second.train.digest
    assert not np.array_equal(first.trigger, other.trigger)
    assert np.abs(first.trigger).max() <= 8 / 255 + 1e-7


# Settings


@pytest.mark.parametrize("eps_255", [8, 16, 64])
@pytest.mark.parametrize(("budget", "rows"), [(0.01, 2), (0.025, 5), (0.1, 20)])
def test_bounds_and_budgets_of_the_paper(surrogate, eps_255: int, budget: float, rows: int) -> None:
    search = dataclasses.replace(QUICK, class_epochs=0, steps=40, lr=0.05, batch_size=8)
    attack = Narcissus(
        adv_label=4, surrogate=surrogate, pood=POOD, eps_255=eps_255, budget=budget, search=search
    )
    poisoned = attack.poison(DATA.train, DATA.test, stream(0, "attack"))
    assert len(poisoned.poison_ids) == rows == attack.bounds(DATA.train).rows
    at = poisoned.train.positions(poisoned.poison_ids)
    assert np.all(DATA.train.labels[at] == 4)
    moved = np.abs(poisoned.train.images[at].astype(int) - DATA.train.images[at])
    assert min(eps_255, 20) <= moved.max() <= eps_255


def test_a_share_of_the_class_is_the_same_as_its_budget(surrogate) -> None:
    given = {"adv_label": 4, "surrogate": surrogate, "pood": POOD}
    shares = [{}, {"class_share": 0.1}, {"budget": 0.01}]  # ten classes of equal size
    assert {Narcissus(**given, **s).bounds(DATA.train).rows for s in shares} == {2}


GENERATOR = EBM(EBMConfig(nf=4))
FILE = {"adv_label": 0, "trigger": Path("t.npy")}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"class_share": 0.1, "budget": 0.01}, "give class_share, .* or budget.*0.1 and 0.01"),
        ({"budget": 0.0}, "budget is a share in"),
        ({"aware": "both"}, "aware 'both' needs a 'generator'"),
        ({"generator": GENERATOR}, "aware is 'no', so it would do nothing"),
        ({"generator": GENERATOR, "aware": "search"}, "'trigger' file is not searched"),
        ({"aware_steps": 0}, "aware_steps must be at least 1"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(given, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Narcissus(**FILE, **given)


def test_what_the_data_do_not_allow_is_refused(surrogate) -> None:
    given = {"adv_label": 4, "surrogate": surrogate, "pood": POOD}
    with pytest.raises(DataError, match=r"asks for 40 poisons; class 4 has 20, a budget of 0.1"):
        Narcissus(**given, budget=0.2).check(DATA.train, DATA.test)
    grey = ImageSet(POOD.images[:, :1], POOD.labels, POOD.ids, POOD.num_classes)
    attack = Narcissus(**{**given, "pood": grey}, generator=GENERATOR, aware="search")
    train = ImageSet(DATA.train.images[:, :1], DATA.train.labels, DATA.train.ids, 10)
    with pytest.raises(DataError, match="energy network takes 3 channels"):
        attack.check(train, DATA.test)


def test_a_study_of_a_fine_tuned_victim_and_an_attacker_who_knows_the_defense(tmp_path) -> None:
    net = STUDY["classifiers"][0]
    public = EBM_REFERENCE["dataset"]
    base = {"train": 100, "train_skip_per_class": 4, "name": "shapes", "test": 10}
    attack = {
        "name": "narcissus", "surrogate": {**net, "dataset": public}, "pood": public,
        "magnifications": [1],
        "search": {"class_epochs": 1, "warmup_epochs": 0, "steps": 12, "batch_size": 4},
    }  # fmt: skip
    known = {"generator": EBM_REFERENCE, "aware": "both", "aware_steps": 2}
    summary = run(
        tmp_path, scenario="fine_tune", defenses=["none"],
        attacks=[{**attack, "eps_255": 64, "budget": 0.1}, {**attack, **known}],
        classifiers=[{**net, "pretrained": {"dataset": base}}],
    )  # fmt: skip
    assert summary.complete and not summary.errors
    records = [TrialRecord.read(p) for p in (tmp_path / "run" / "records").glob("*.json")]
    attacked = [r for r in records if r.goal == "triggered"]
    assert {r.spec["scenario"]["name"] for r in attacked} == {"fine_tune"}
    assert sorted(r.poisons for r in attacked) == [1, 6]  # a tenth of a class of 6, of 60 rows


# Every class at once


@pytest.mark.parametrize("per_class", [3, 100])
def test_each_trigger_is_borne_by_equally_many_images_of_every_other_class(per_class: int) -> None:
    rows, adv = spread_labels(DATA.test, per_class, stream(0))
    assert np.all(np.diff(rows) > 0)
    assert not np.any(adv == DATA.test.labels[rows])
    counts = np.bincount(adv, minlength=10)
    assert counts.min() >= min(per_class, 8) and counts.max() <= per_class
    pairs = np.zeros((10, 10), int)
    np.add.at(pairs, (DATA.test.labels[rows], adv), 1)
    assert pairs.max() <= 2
    if per_class == 100:
        assert len(rows) == len(DATA.test)


def test_each_class_is_attacked_as_alone_from_a_stream_of_its_own(surrogate) -> None:
    given = {"surrogate": surrogate, "pood": POOD, "search": QUICK, "class_share": 0.5}
    together = NarcissusAll(**given, magnifications=(1, 2), probe_rows=5)
    poisoned = together.poison(DATA.train, DATA.test, stream(0, "attack"))
    assert len(poisoned.poison_ids) == 100 == together.bounds(DATA.train).rows
    seed, deltas = subseed(stream(0, "attack")), []
    for label in range(10):
        alone = Narcissus(adv_label=label, **given).craft(DATA.train, stream(seed, "class", label))
        expected = add_within(DATA.train.images[alone.rows], alone.delta, 8)
        np.testing.assert_array_equal(poisoned.train.images[alone.rows], expected)
        deltas.append(alone.delta)
    assert len({d.tobytes() for d in deltas}) == 10
    assert [p.name for p in poisoned.probes] == ["x1", "x2"]
    for factor, probe in zip((1, 2), poisoned.probes, strict=True):
        assert np.bincount(probe.adv_labels).tolist() == [5] * 10
        clean = DATA.test.images[DATA.test.positions(probe.images.ids)]
        for image, bearer, label in zip(probe.images.images, clean, probe.adv_labels, strict=True):
            np.testing.assert_array_equal(image, add_within(bearer, factor * deltas[label]))


def test_a_victim_of_all_triggers_obeys_each(tmp_path) -> None:
    signs = stream(0, "signs").choice([-1.0, 1.0], (10, 1, 3, SIDE // 2, SIDE // 2))
    for label, sign in enumerate(signs.repeat(2, 3).repeat(2, 4)):
        np.save(tmp_path / f"best_noise_lab{label}.npy", (64 / 255 * sign).astype(np.float32))
    attack = NarcissusAll(triggers=tmp_path, eps_255=32)
    poisoned = attack.poison(DATA.train, DATA.test, stream(0, "attack"))
    net = HlbXs(widths=(16, 16, 16), recipe=Recipe(epochs=30, batch_size=20, lr=0.1, crop_pad=0))
    probe = poisoned.probes[0]
    assert len(poisoned.poison_ids) == len(DATA.train)
    victim, clean = (trained(images, net) for images in (poisoned.train, DATA.train))
    success = [float(np.mean(v(probe.images.images) == probe.adv_labels)) for v in (victim, clean)]
    assert success[0] > 0.7 and success[1] < 0.3


def test_every_class_needs_what_one_needs(tmp_path, surrogate) -> None:
    with pytest.raises(DataError, match="or a folder of 'triggers'"):
        NarcissusAll()
    with pytest.raises(DataError, match="probe_rows must be at least 1"):
        NarcissusAll(triggers=tmp_path, probe_rows=0)
    with pytest.raises(DataError, match="class_share is a share"):
        NarcissusAll(triggers=tmp_path, class_share=0)
    with pytest.raises(DataError, match=r"best_noise_lab0.npy' cannot be read"):
        NarcissusAll(triggers=tmp_path).check(DATA.train, DATA.test)
