"""NTGA: its kernels against finite networks, its gradient against differences, and its effect."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attacks import _ntga_search
from attacks._ntga_search import Labelled, Objective, gram_matrix
from attacks._ntk import BIAS_VARIANCE, RIDGE, WEIGHT_VARIANCE, tangent_kernel, trained_weights
from attacks.ntga import Ntga, blocks
from harness.classifiers.hlb_xs import HlbXs
from harness.core.data import ImageSet, PoisonedSet
from harness.core.errors import DataError
from harness.core.recipe import Recipe
from harness.core.seeds import stream
from harness.datasets.shapes import Shapes
from harness.training import build_model, fit

DATA = Shapes(train=200, test=20).load()
SMALL = {"block_size": 80, "validation_rows": 40}
W, B = math.sqrt(WEIGHT_VARIANCE), math.sqrt(BIAS_VARIANCE)


def random_images(count: int, side: int = 8, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    base = torch.rand((count, 3, side, side), generator=draw, dtype=torch.float64)
    return base * torch.linspace(0.3, 1, count, dtype=torch.float64)[:, None, None, None]


# Kernels


class Normals:
    """Standard normal parameters of a finite network, remembered to differentiate by them."""

    def __init__(self, seed: int) -> None:
        self.draw = torch.Generator().manual_seed(seed)
        self.made: list[Tensor] = []

    def __call__(self, *shape: int) -> Tensor:
        values = torch.randn(shape, generator=self.draw, dtype=torch.float64)
        self.made.append(values.requires_grad_())
        return values


def dense(normal: Normals, x: Tensor, width: int) -> Tensor:
    return W / math.sqrt(x.shape[1]) * x @ normal(x.shape[1], width) + B * normal(width)


def conv(normal: Normals, x: Tensor, width: int) -> Tensor:
    weight = W / math.sqrt(25 * x.shape[1]) * normal(width, x.shape[1], 5, 5)
    return F.conv2d(F.pad(x, (1, 2, 1, 2)), weight, B * normal(width), stride=2)


def finite_network(surrogate: str, normal: Normals, x: Tensor) -> Tensor:
    """Outputs (N,) of one random network in the tangent parameterisation."""
    if surrogate == "fnn":
        x = x.flatten(1)
        for _ in range(5):
            x = torch.erf(dense(normal, x, 256))
        return (x * torch.randn(256, generator=normal.draw, dtype=x.dtype)).sum(1) / 16
    x = conv(normal, x, 96).relu()
    x = conv(normal, x, 96).relu().flatten(1)
    for width in (256, 256, 1):
        x = dense(normal, x, width)
    return x[:, 0]


@pytest.mark.parametrize("surrogate", ["cnn", "fnn"])
def test_a_kernel_is_the_mean_over_random_wide_networks(surrogate) -> None:
    x, nets = random_images(4), 40
    found = []
    for seed in range(nets):
        normal = Normals(seed)
        outputs = finite_network(surrogate, normal, x)
        rows = [torch.autograd.grad(out, normal.made, retain_graph=True) for out in outputs]
        jacobian = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
        found.append(jacobian @ jacobian.T)
    kernel = tangent_kernel(surrogate, (3, 8, 8))
    exact = gram_matrix(kernel, [kernel.features(x)])
    spread = torch.stack(found).std(0) / math.sqrt(nets)
    mean = torch.stack(found).mean(0)
    assert float((spread / exact).max()) < 0.04  # else the next line says little
    assert float(((mean - exact).abs() / exact).max()) < 0.08


@pytest.mark.parametrize("surrogate", ["cnn", "fnn"])
@pytest.mark.parametrize("side", [8, 7])
def test_a_kernel_is_symmetric_positive_and_the_same_in_tiles(surrogate, side) -> None:
    x = random_images(13, side)
    kernel = tangent_kernel(surrogate, (3, side, side))
    whole = gram_matrix(kernel, [kernel.features(x)])
    assert torch.equal(whole, whole.T)
    values = torch.linalg.eigvalsh(whole)
    assert float(values[0]) > -1e-6 * float(values[-1])
    tiles = gram_matrix(kernel, [kernel.features(part) for part in x.split(5)])
    torch.testing.assert_close(tiles, whole)
    single = gram_matrix(kernel, [kernel.features(x.float())])
    torch.testing.assert_close(single, whole, rtol=1e-4, atol=0)


# Training


def test_a_surrogate_starts_at_zero_follows_the_flow_and_ends_in_kernel_regression() -> None:
    x = random_images(12)
    kernel = tangent_kernel("cnn", (3, 8, 8))
    gram = gram_matrix(kernel, [kernel.features(x)])
    targets = F.one_hot(torch.arange(12) % 3, 3).double()
    eye = torch.eye(12, dtype=torch.float64)
    regular = gram + RIDGE * gram.trace() / 12 * eye
    assert float(trained_weights(gram, targets, 0.0).abs().max()) == 0
    torch.testing.assert_close(
        trained_weights(gram, targets, math.inf), torch.linalg.solve(regular, targets)
    )
    for time in (0.5, 8.0, 4096.0):
        moved = targets - torch.linalg.matrix_exp(-regular * time / 36) @ targets
        torch.testing.assert_close(
            trained_weights(gram, targets, time), torch.linalg.solve(regular, moved)
        )


@pytest.mark.parametrize("time", [0.0, 3.0, 500.0, math.inf])
def test_the_slope_of_the_training_is_right_for_equal_eigenvalues_too(time) -> None:
    targets = F.one_hot(torch.arange(6) % 2, 2).double()
    rough = torch.randn((6, 6), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for root in (rough, torch.linalg.qr(rough)[0]):  # of the second, all six are 1
        assert torch.autograd.gradcheck(
            lambda r: trained_weights(r @ r.T, targets, time), root.clone().requires_grad_()
        )


@pytest.mark.parametrize(("surrogate", "time"), [("cnn", 8.0), ("cnn", 300.0), ("fnn", 4096.0)])
def test_the_gradient_is_that_of_finite_differences(monkeypatch, surrogate, time) -> None:
    kernel = tangent_kernel(surrogate, (3, 8, 8))
    # Four images per side: 10 images and 7 judges make whole and broken tiles.
    monkeypatch.setitem(_ntga_search.VALUES_PER_TILE, "cpu", 16 * kernel.values_per_pair)
    judges = Labelled(random_images(7, seed=1), torch.arange(7) % 3)
    objective, y = Objective(kernel, judges, 3, time), torch.arange(10) % 3
    x = random_images(10)
    gradient = objective.gradient(Labelled(x, y))
    for seed in range(3):
        way = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)
        step = 1e-4 * way
        up, down = (objective.loss(Labelled(x + s * step, y)) for s in (1, -1))
        slope = 7 * (up - down) / 2e-4
        assert slope == pytest.approx(float((gradient * way).sum()), rel=2e-5)


def test_the_order_of_the_images_of_a_block_does_not_matter() -> None:
    judges = Labelled(random_images(7, seed=1), torch.arange(7) % 3)
    objective = Objective(tangent_kernel("cnn", (3, 8, 8)), judges, 3, 8.0)
    x, y, order = random_images(10), torch.arange(10) % 3, torch.randperm(10)
    gradient = objective.gradient(Labelled(x, y))
    mixed = objective.gradient(Labelled(x[order], y[order]))
    torch.testing.assert_close(mixed, gradient[order])


# The attack


def attacked(seed: int = 0, **parameters) -> PoisonedSet:
    attack = Ntga(**SMALL | parameters)
    return attack.poison(DATA.train, DATA.test, stream(seed, "attack"))


@pytest.mark.parametrize("surrogate", ["cnn", "fnn"])
def test_one_step_moves_every_byte_by_the_bound_unless_it_is_clipped(surrogate) -> None:
    poisoned = attacked(surrogate=surrogate)
    images = poisoned.train.images.astype(int)
    moved = images - DATA.train.images
    assert np.all((np.abs(moved) == 8) | (images == 0) | (images == 255))
    assert np.abs(moved).max() == 8
    assert poisoned.poison_ids.tolist() == DATA.train.ids.tolist()
    assert poisoned.details["form_one_step"] == poisoned.details["steps"] == 1
    assert poisoned.details["loss"] > poisoned.details["loss_before"]


def test_several_steps_keep_the_bound_and_do_no_worse_than_one() -> None:
    one, many = attacked(), attacked(form="multi_step", steps=3)
    moved = many.train.images.astype(int) - DATA.train.images
    assert np.abs(moved).max() == 8
    assert many.details["steps"] == 3 and "form_multi_step" in many.details
    assert many.details["loss"] > 0.999 * one.details["loss"] > one.details["loss_before"]


def test_the_same_seed_gives_the_same_bytes_and_another_others() -> None:
    first, second, other = attacked(3), attacked(3), attacked(4)
    assert first.train.digest == second.train.digest != other.train.digest


def test_blocks_cover_all_rows_once_and_are_judged_by_others() -> None:
    found = list(blocks(105, 25, 30, seed=7))
    assert [len(block) for block, _ in found] == [25, 25, 25, 25, 5]
    assert sorted(np.concatenate([block for block, _ in found])) == list(range(105))
    for block, judges in found:
        assert len(np.unique(judges)) == 30
        assert not np.isin(judges, block).any()
    assert found[2][1].tolist() == found[4][1].tolist()  # all but the first share their judges


def test_a_block_depends_on_no_other() -> None:
    poisoned = attacked().train
    attack, seed = Ntga(**SMALL), int(stream(0, "attack").integers(0, 2**63 - 1))
    for rows, judges in reversed(list(blocks(200, 80, 40, seed))):
        alone = attack.perturbed(DATA.train.take(rows), attack.objective(DATA.train.take(judges)))
        np.testing.assert_array_equal(alone, poisoned.images[rows])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"eps_255": 0}, "eps_255 is in grey levels"),
        ({"steps": 10}, "one_step has 1 step; for 10 set form to 'multi_step'"),
        ({"form": "multi_step", "steps": 0}, "steps must be at least 1"),
        ({"time": 0.0}, "time must be positive"),
        ({"time": math.inf}, "time must be positive and finite"),
        ({"block_size": 0}, "block_size and validation_rows"),
        ({"block_size": 180}, "of 200 training rows 20 lie outside a block of 180"),
        ({"block_size": 512}, "of 200 training rows 0 lie outside"),
    ],
)
def test_impossible_parameters_are_refused(parameters, message) -> None:
    with pytest.raises(DataError, match=message):
        Ntga(**SMALL | parameters).check(DATA.train, DATA.test)


# The effect, on real images


CLASSES = (0, 1, 7)  # airplane, automobile, horse
NET = HlbXs(widths=(16, 32, 32), recipe=Recipe(epochs=8, lr=0.2, flip=False, crop_pad=0))


def some_classes(images: np.ndarray, labels: np.ndarray, most: int, first_id: int) -> ImageSet:
    rows = np.flatnonzero(np.isin(labels, CLASSES))[:most]
    pixels = np.ascontiguousarray(images[rows].transpose(0, 3, 1, 2))
    renamed = np.searchsorted(CLASSES, labels[rows]).astype(np.int64)
    return ImageSet(pixels, renamed, np.arange(first_id, first_id + len(rows)), len(CLASSES))


def accuracy(train: ImageSet, test: ImageSet) -> float:
    rng = stream(0, "train")
    predict = fit(build_model(NET.build, 3, train.image_shape, rng), train, NET.recipe, rng)
    return float(np.mean(predict(test.images) == test.labels))


def test_training_on_the_poisons_fails_on_clean_images_and_noise_does_not(
    shared_data: Path,
) -> None:
    archive = np.load(shared_data / "data" / "cifar10_mini.npz")
    train = some_classes(archive["x_train"], archive["y_train"], 600, 0)
    test = some_classes(archive["x_test"], archive["y_test"], 1000, 10**6)
    attack = Ntga(eps_255=16, block_size=200, validation_rows=400)
    poisoned = attack.poison(train, test, stream(0, "attack")).train
    signs = stream(0, "noise").choice([-16, 16], train.images.shape)
    noisy = train.with_images((train.images + signs).clip(0, 255).astype(np.uint8))
    clean = accuracy(train, test)
    assert clean > 0.8
    assert accuracy(noisy, test) > clean - 0.08
    assert accuracy(poisoned, test) < clean - 0.13
