"""Trajectories: the defenses' own chains, distances from the mathematics, and the figures."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from defenses._purify import energy_steps
from defenses.puregen_ddpm import PuregenDdpm
from defenses.puregen_ebm import PuregenEbm
from generative.checkpoints import load_ebm
from generative.ddpm import DDPM, NoisePredictor
from generative.ebm import EBM, EBMConfig, FoldedEnergy
from generative.noise import row_noise
from generative.trajectory import (
    Chain,
    Trajectory,
    as_noisy,
    crossing,
    diffusion_chain,
    langevin_chain,
    trace,
)
from generative.unet import UNetConfig
from harness import sweeps
from harness.core.data import ImageSet
from harness.core.device import pick_dtype
from harness.core.errors import DataError
from harness.core.pixels import add_within, to_bytes
from harness.core.seeds import stream, subseed
from harness.datasets.shapes import Shapes
from harness.report.trajectory_band import band
from harness.report.trajectory_figure import distances, draw, energies, facts, write

SHAPE = (3, 32, 32)
SMALL = UNetConfig(block_out_channels=(8, 16, 16), norm_num_groups=4, attention_head_dim=8)
GREY = 128 / 127.5 - 1


class Flat:
    """No energy at all."""

    def input_gradient(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x)


class Bowl:
    """Energy |x - grey|²/2: clean images lie at its bottom."""

    def input_gradient(self, x: torch.Tensor) -> torch.Tensor:
        return x - GREY

    def energy(self, x: torch.Tensor) -> torch.Tensor:
        return (x - GREY).square().flatten(1).sum(1) / 2


def images(count: int) -> ImageSet:
    return Shapes(train=count, test=10).load().train


def signs(clean: np.ndarray, eps_255: int = 8) -> np.ndarray:
    pattern = stream(0, "pattern").integers(0, 2, SHAPE) * 2 - 1
    return add_within(clean, (pattern * eps_255 / 255).astype(np.float32), eps_255)


def random_ebm() -> EBM:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return EBM(EBMConfig(nf=8)).eval()


def states(chain: Chain, train: ImageSet, steps: list[int], seed: int) -> list[torch.Tensor]:
    """What a chain makes of clean and poisoned rows together, as :func:`trace` runs it."""
    x = torch.tensor(np.concatenate([train.images, signs(train.images)])).float().div(127.5).sub(1)
    ids = np.concatenate([train.ids, train.ids])

    def noise() -> Iterator[torch.Tensor]:
        return row_noise(seed, ids, SHAPE)

    return [state.clone() for state in chain(x, steps, noise)]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_snapshot_is_what_the_energy_defense_returns(precision) -> None:
    train, ebm = images(12), random_ebm()
    poisoned = train.with_images(signs(train.images))
    seed = subseed(stream(3, "defense"))
    energy = FoldedEnergy(ebm, pick_dtype(precision, torch.device("cpu")))
    steps = [1, 18]  # noise is drawn for 16 steps at once
    for count, state in zip(steps, states(langevin_chain(energy), train, steps, seed), strict=True):
        purifier = energy_steps(ebm, count, precision)
        x = torch.tensor(train.images).float().div(127.5).sub(1)
        exact = purifier(x, row_noise(seed, train.ids, SHAPE))
        assert torch.equal(state[:12], exact)
        defense = PuregenEbm(ebm=ebm, steps=count, precision=precision)
        stored = [defense.purify(s, stream(3, "defense")).images for s in (train, poisoned)]
        np.testing.assert_array_equal(to_bytes(state.add(1).div(2)), np.concatenate(stored))


def test_a_snapshot_is_what_the_diffusion_defense_returns() -> None:
    train = images(10)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ddpm = DDPM(SMALL, horizon=30).eval()
    seed = subseed(stream(3, "defense"))
    chain = diffusion_chain(NoisePredictor(ddpm))
    steps = [2, 9]
    for count, state in zip(steps, states(chain, train, steps, seed), strict=True):
        defense = PuregenDdpm(ddpm=ddpm, steps=count, precision="fp32")
        stored = defense.purify(train, stream(3, "defense")).images
        np.testing.assert_array_equal(to_bytes(state[:10].add(1).div(2)), stored)


def test_distances_are_those_of_the_states() -> None:
    train, ebm = images(12), random_ebm()
    poisoned, energy, steps = signs(train.images), FoldedEnergy(ebm), [3, 6]
    chain = langevin_chain(energy)
    found = trace(train.images, poisoned, train.ids, chain, steps, 5, scorer=energy)
    assert found.steps == (0, 3, 6)
    x, p = (torch.tensor(a).float() / 127.5 - 1 for a in (train.images, poisoned))
    for row, state in enumerate(states(chain, train, steps, 5), 1):
        clean, freed = state.clamp(-1, 1).chunk(2)
        for got, a, b in (
            (found.clean_moved, x, clean),
            (found.clean_to_poison, x, freed),
            (found.poison_moved, p, freed),
        ):
            expected = (a - b).div(2).square().sum((1, 2, 3)).sqrt()
            np.testing.assert_allclose(got[row], expected.numpy(), rtol=1e-5)
        np.testing.assert_allclose(found.energy_clean[row], energy.energy(clean), rtol=1e-4)
        np.testing.assert_allclose(found.energy_poison[row], energy.energy(freed), rtol=1e-4)
    small = trace(train.images, poisoned, train.ids, chain, [6, 3], 5, scorer=energy, batch_size=6)
    np.testing.assert_allclose(small.poison_moved, found.poison_moved, rtol=1e-5)


def flat_grey(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    clean = np.full((count, *SHAPE), 128, np.uint8)
    return clean, signs(clean), np.arange(count)


def test_without_energy_all_move_by_their_noise_alone() -> None:
    clean, poisoned, ids = flat_grey(8)
    found = trace(clean, poisoned, ids, langevin_chain(Flat()), [10, 40], 0)
    expected = 0.0125 / 2 * np.sqrt(np.array([0, 10, 40]) * 3 * 32 * 32)
    np.testing.assert_allclose(found.clean_moved.mean(1), expected, rtol=0.01)
    np.testing.assert_allclose(found.poison_moved, found.clean_moved, rtol=1e-4)
    moved = np.sqrt(expected**2 + 3072 * (8 / 255) ** 2)
    np.testing.assert_allclose(found.clean_to_poison.mean(1), moved, rtol=0.01)
    assert found.energy_clean is None and found.told_apart(0) is None
    assert found.nearest == 0 and found.freed is None


def test_in_a_bowl_the_crossing_is_where_half_of_the_poison_is_gone() -> None:
    """Psi(p) - grey = (1 - r)^K d + noise: nearer to clean once (1 - r)^K < 1/2."""
    clean, poisoned, ids = flat_grey(16)
    temperature = 1e-3
    rate = 0.0125**2 / (2 * temperature)
    chain = langevin_chain(Bowl(), temperature=temperature)
    found = trace(clean, poisoned, ids, chain, list(range(1, 31)), 0, scorer=Bowl())
    assert found.freed == pytest.approx(np.log(0.5) / np.log(1 - rate), abs=0.15)
    assert found.outmoved == 0  # the bowl pulls at poisons alone, from the first step on
    assert found.told_apart(0) == 1
    assert found.told_apart(30) == pytest.approx(1)  # clean images lay at the very bottom
    after = found.energy_poison[30].mean() / found.energy_clean[30].mean()
    assert after == pytest.approx(1, abs=0.05)


def test_crossings() -> None:
    steps, zero = [0, 5, 10, 20], np.zeros((4, 1), np.float32)

    def of(*ahead: float) -> float | None:
        return crossing(steps, np.float32(ahead)[:, None], zero)

    assert of(-1, 1, 1, 1) == 2.5
    assert of(-1, 1, -1, 3) == 12.5  # the last time, if it goes back
    assert of(0, 1, 1, 1) == 0
    assert of(1, 1, 1, 1) == 0
    assert of(-1, 1, 1, -1) is None


def test_bands_and_ranks_by_hand() -> None:
    line = band(np.float32([[1, 2, 3], [0, 0, 0]]))
    np.testing.assert_allclose(line.mean, [2, 0])
    np.testing.assert_allclose(line.error, [1 / np.sqrt(3), 0])
    quantile = 4.302653  # of t with 2 degrees of freedom, at 97.5 %: from a printed table
    np.testing.assert_allclose(line.high, [2 + quantile / np.sqrt(3), 0], rtol=1e-6)
    np.testing.assert_allclose(line.low, [2 - quantile / np.sqrt(3), 0], rtol=1e-6)
    clean, poison = np.float32([[1, 2, 3]]), np.float32([[2, 4, 0]])
    found = Trajectory((0,), clean, clean, clean, clean, poison)
    assert found.told_apart(0) == pytest.approx((1.5 + 3 + 0) / 9)  # a tie is half


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"poisoned": np.zeros((4, 3, 8, 8), np.uint8)}, r"\(4, 3, 32, 32\), poisoned ones \(4, 3"),
        ({"poisoned": np.full((4, *SHAPE), 128, np.uint8)}, "are the clean ones"),
        ({"steps": []}, "must be positive"),
        ({"steps": [3, 0]}, r"must be positive; got \[3, 0\]"),
    ],
)
def test_what_cannot_be_traced(change, why) -> None:
    clean, poisoned, ids = flat_grey(4)
    given = {"poisoned": poisoned, "steps": [1], **change}
    with pytest.raises(DataError, match=why):
        trace(clean, given["poisoned"], ids, langevin_chain(Flat()), given["steps"], 0)
    with pytest.raises(DataError, match="at least 2 images; got 1"):
        trace(clean[:1], poisoned[:1], ids[:1], langevin_chain(Flat()), [1], 0)


@pytest.fixture(scope="module")
def shipped() -> Trajectory:
    """What the shipped energy network does to a fine pattern on images it was made for."""
    train, ebm = images(32), load_ebm(sweeps.folder() / "weights" / "shapes_ebm")
    fast = FoldedEnergy(ebm, pick_dtype("auto", torch.device("cpu")))
    return trace(
        train.images, signs(train.images), train.ids, langevin_chain(fast), [10, 30, 80], 0,
        scorer=FoldedEnergy(ebm),
    )  # fmt: skip


def test_a_trained_network_leads_poisons_back(shipped: Trajectory) -> None:
    means = [shipped.energy_poison[i].mean() for i in range(4)]
    assert means[0] > means[1] > means[2] > means[3]
    clean = shipped.energy_clean[0].mean()
    assert means[3] - clean < 0.3 * (means[0] - clean)
    assert shipped.told_apart(0) > 0.8
    assert shipped.told_apart(3) < 0.65
    assert shipped.freed is not None and 30 < shipped.freed < 80
    assert np.all(shipped.poison_moved[1:].mean(1) > shipped.clean_moved[1:].mean(1))


def test_figures_show_the_numbers(shipped: Trajectory, tmp_path: Path) -> None:
    figure = distances(shipped, "Langevin steps")
    ax = figure.axes[0]
    drawn = {line.get_label(): line.get_ydata() for line in ax.lines if len(line.get_xdata()) > 1}
    np.testing.assert_allclose(drawn["clean → purified poison"], band(shipped.clean_to_poison).mean)
    np.testing.assert_allclose(drawn["poison → purified poison"], band(shipped.poison_moved).mean)
    for filled, values in zip(
        ax.collections,
        (shipped.clean_moved, shipped.poison_moved, shipped.clean_to_poison),
        strict=True,
    ):
        last = [y for x, y in filled.get_paths()[0].vertices if x == 80]
        found = stats.ttest_1samp(values[-1].astype(np.float64), 0).confidence_interval(0.95)
        assert (min(last), max(last)) == pytest.approx((found.low, found.high))
    [note] = [t.get_text() for t in ax.texts if t.get_text().startswith("from step")]
    assert note.startswith(f"from step {shipped.freed:.0f} on: purified poison nearer to clean")
    histograms = energies(shipped, "Langevin steps", 1)
    assert histograms is not None
    after = shipped.energy_poison[1].mean()
    labels = [text.get_text() for ax in histograms.axes for text in ax.texts]
    assert f"poisoned, purified by 10 Langevin steps: mean {after:.4g}" in labels
    shares = [p.get_data().values.sum() for ax in histograms.axes for p in ax.patches]
    np.testing.assert_allclose(shares, 1)
    assert len(histograms.axes) == 5  # noise as large as the poison, too
    drawings = draw(shipped, "Langevin steps", 80)
    files = write(drawings, tmp_path)
    assert [f.name for f in files] == [
        "distances.svg", "distances.png", "energies.svg", "energies.png",
    ]  # fmt: skip
    assert files[1].read_bytes().startswith(b"\x89PNG")
    assert [d.svg for d in draw(shipped, "Langevin steps", 80)] == [d.svg for d in drawings]


def test_no_energies_no_histogram(shipped: Trajectory) -> None:
    bare = Trajectory(
        shipped.steps, shipped.clean_moved, shipped.clean_to_poison, shipped.poison_moved
    )
    assert energies(bare, "time steps") is None
    assert [d.name for d in draw(bare, "time steps")] == ["distances"]


def test_noise_is_as_large_as_the_poison() -> None:
    clean, poisoned, _ = flat_grey(6)
    noisy = as_noisy(clean, poisoned, stream(0, "noisy"))
    size = np.sqrt(np.square(noisy.astype(np.float64) - clean).sum((1, 2, 3)))
    np.testing.assert_allclose(size, 8 * np.sqrt(3072), rtol=0.01)
    assert abs((noisy.astype(np.float64) - clean).mean()) < 0.3  # white, no shift


def by_hand() -> Trajectory:
    """Poisons come nearest at step 20, are nearer to clean than to poison from 10 on."""
    steps = (0, 10, 20, 30)
    spread = np.float32([0.9, 1.1])

    def curve(*means: float) -> np.ndarray:
        return np.float32(means)[:, None] * spread

    return Trajectory(
        steps, curve(0, 0.2, 0.4, 0.6), curve(2, 1, 0.5, 0.7), curve(0, 1, 2, 3),
        curve(1, 1, 1, 1), curve(5, 4, 3, 2), np.float32([4.5, 5.5]),
    )  # fmt: skip


def test_minimum_and_crossing_are_marked_and_named() -> None:
    found = by_hand()
    ax = distances(found, "Langevin steps").axes[0]
    marks = {
        line.get_marker(): (line.get_xdata()[0], line.get_ydata()[0])
        for line in ax.lines
        if len(line.get_xdata()) == 1
    }
    assert marks["D"] == (20, pytest.approx(0.5))
    assert found.freed == 10 and marks["o"][0] in (10, found.outmoved)
    said = facts(found, "Langevin steps", 20)
    assert said["distances"]["minimum"] == {
        "curve": "clean_to_poison", "step": 20, "l2": pytest.approx(0.5),
    }  # fmt: skip
    assert said["distances"]["crossings"]["freed"] == 10
    assert "after 20 Langevin steps (diamond; L2 0.50)" in said["distances"]["caption"]
    assert said["energies"]["mean"] == pytest.approx(
        {"clean": 1, "noisy": 5, "poisoned": 5, "poisoned_purified": 3, "clean_purified": 1}
    )
    assert said["energies"]["clean_below_purified_below_poisoned"] is True
    drawn = draw(found, "Langevin steps", 20)
    assert [d.caption for d in drawn] == [said[d.name]["caption"] for d in drawn]
    assert found.ordered(0) is False  # nothing is purified yet
