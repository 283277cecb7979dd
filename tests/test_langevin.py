"""Langevin dynamics and its noise."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from generative import noise
from generative.langevin import STEP_SIZE, langevin
from generative.noise import row_noise
from harness.core.errors import DataError

SHAPE = (3, 8, 8)


class Flat:
    """No energy at all."""

    def input_gradient(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x)


class Bowl:
    """Energy x²/2 per pixel."""

    def input_gradient(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_without_energy_the_steps_are_pure_diffusion() -> None:
    ids = np.arange(64)
    x = torch.zeros(64, *SHAPE)
    moved = langevin(x, 150, Flat(), row_noise(0, ids, SHAPE))
    assert float(moved.std()) == pytest.approx(0.0125 * np.sqrt(150), rel=0.02)
    assert float(x.abs().max()) == 0  # the input is not changed


def test_the_gradient_coefficient_is_the_published_one() -> None:
    x = torch.ones(1, *SHAPE)
    silent = iter([torch.zeros(1, *SHAPE)])
    moved = langevin(x, 1, Bowl(), silent)
    torch.testing.assert_close(moved, x * (1 - 0.78125))


def test_a_bowl_reaches_its_stationary_variance() -> None:
    # x ← (1-r) x + s z has variance s² / (1 - (1-r)²) for r = s²/(2T).
    temperature, step = 1e-3, 1.25e-2
    rate = step**2 / (2 * temperature)
    expected = step / np.sqrt(1 - (1 - rate) ** 2)
    ids = np.arange(64)
    source = row_noise(1, ids, SHAPE)
    moved = langevin(torch.zeros(64, *SHAPE), 200, Bowl(), source, temperature=temperature)
    assert float(moved.std()) == pytest.approx(expected, rel=0.02)


def variance(steps_per_call: int, rate: float) -> float:
    """Return the variance in a bowl after many steps, by their size; the rate is that of one."""
    temperature, ids = STEP_SIZE**2 / (2 * rate), np.arange(64)
    moved = langevin(
        torch.zeros(64, *SHAPE), 240, Bowl(), row_noise(1, ids, SHAPE),
        temperature=temperature, steps_per_call=steps_per_call,
    )  # fmt: skip
    return float(moved.var()) / temperature


@pytest.mark.parametrize(("steps_per_call", "rate"), [(2, 0.5), (2, 0.9), (3, 0.4), (4, 0.4)])
def test_long_steps_keep_the_variance_of_single_ones(steps_per_call: int, rate: float) -> None:
    single, longer = 1 / (1 - rate / 2), 1 / (1 - steps_per_call * rate / 2)
    assert variance(1, rate) == pytest.approx(single, rel=0.03)
    found = variance(steps_per_call, rate)
    early = 1 - (steps_per_call - 1) / (steps_per_call + 1) * steps_per_call * rate
    assert found == pytest.approx(early**2 * longer, rel=0.03)
    assert abs(found - single) < 0.75 * abs(longer - single)


def test_long_steps_cover_the_same_time_with_fewer_calls() -> None:
    source = row_noise(0, np.arange(64), SHAPE)
    moved = langevin(torch.zeros(64, *SHAPE), 150, Flat(), source, steps_per_call=3)
    assert float(moved.std()) == pytest.approx(STEP_SIZE * np.sqrt(150), rel=0.02)
    quiet = iter([torch.zeros(1, *SHAPE)] * 2)  # a third call would have no noise
    moved = langevin(torch.ones(1, *SHAPE), 4, Bowl(), quiet, temperature=1e-3, steps_per_call=2)
    torch.testing.assert_close(moved, torch.full((1, *SHAPE), (1 - 2 * 0.078125) ** 2))


@pytest.mark.parametrize(("steps", "steps_per_call"), [(5, 2), (4, 0), (1, 2)])
def test_calls_that_do_not_cover_the_steps_are_refused(steps: int, steps_per_call: int) -> None:
    with pytest.raises(DataError, match="steps_per_call"):
        langevin(torch.zeros(1, *SHAPE), steps, Flat(), iter(()), steps_per_call=steps_per_call)


@pytest.fixture(params=["cpu", "gpu"])
def source_of(request, monkeypatch) -> Callable[..., Iterator[torch.Tensor]]:
    """The noise of each kind of device; that of a GPU is drawn on the CPU here, as it is there."""
    if request.param == "gpu":
        monkeypatch.setattr(noise, "_fill_on_cpu", noise._fill_on_device)
    return row_noise


def test_noise_of_a_row_depends_on_seed_and_id_alone(source_of) -> None:
    def draw(ids: list[int], seed: int = 0, steps: int = 40) -> torch.Tensor:
        source = source_of(seed, np.array(ids), SHAPE)
        return torch.stack([next(source).clone() for _ in range(steps)], 1)

    together, alone = draw([5, 700, 7, 64, 9]), draw([7])
    assert torch.equal(together[2], alone[0])
    assert torch.equal(together[3], draw([63, 64, 65])[1])
    assert len(torch.unique(together[:, 0, 0, 0, 0])) == 5
    assert not torch.equal(draw([7], seed=1)[0], alone[0])


def test_noise_is_standard_normal_and_fresh_at_every_step(source_of) -> None:
    source = source_of(0, np.arange(60, 68), (3, 32, 32))
    steps = torch.stack([next(source).clone() for _ in range(33)])
    assert float(steps.mean()) == pytest.approx(0, abs=0.005)
    assert float(steps.std()) == pytest.approx(1, abs=0.005)
    flat = steps.flatten(1)
    correlation = torch.corrcoef(flat)
    assert float((correlation - torch.eye(33)).abs().max()) < 0.05
