"""AVATAR: its stochastic equation against what can be computed by hand."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from defenses.avatar import Avatar, beta, deviation, reverse_sde
from generative.ddpm import DDPM, alpha_bar, diffuse
from generative.noise import row_noise
from generative.unet import UNetConfig
from harness.core.data import ImageSet
from harness.core.errors import DataError
from harness.core.seeds import stream

SHAPE = (3, 32, 32)
SMALL = UNetConfig(block_out_channels=(8, 16, 16), norm_num_groups=4, attention_head_dim=8)


@dataclass
class Constant:
    """A network that says the same everywhere."""

    says: float
    horizon: int = 1000

    def noise(self, x: torch.Tensor, t: int) -> torch.Tensor:
        return torch.full_like(x, self.says)


@dataclass
class Gaussian:
    """The perfect network for pixels that are normal with mean 0 and a known deviation."""

    deviation: float
    horizon: int = 1000

    def noise(self, x: torch.Tensor, t: int) -> torch.Tensor:
        level = alpha_bar(t)
        return np.sqrt(1 - level) * x / (level * self.deviation**2 + 1 - level)


def silence() -> Iterator[torch.Tensor]:
    while True:
        yield torch.zeros(1, *SHAPE)


def normal(seed: int) -> Iterator[torch.Tensor]:
    return row_noise(seed, np.arange(32), SHAPE)


def test_the_noise_of_the_equation_is_nearly_that_of_the_time_steps() -> None:
    discrete = np.array([np.sqrt(1 - alpha_bar(i)) for i in range(1000)])
    continuous = np.array([deviation((i + 1) / 1000) for i in range(1000)])
    apart = np.abs(continuous / discrete - 1)
    assert apart.max() < 0.05 and apart[50:].max() < 0.01
    assert deviation(0) == 0 and deviation(1) == pytest.approx(1, abs=1e-4)
    assert beta(0) == 0.1 and beta(1) == 20


def test_one_step_by_hand() -> None:
    # t = 0.001, dt = 0.00099, b = 0.1199: b dt = 1.18701e-4; deviation(t) = 0.01048542.
    x = torch.full((1, *SHAPE), 0.5)
    moved = reverse_sde(x, 1, Constant(0.2), iter([torch.ones(1, *SHAPE)]))
    expected = 0.5 * (1 + 1.18701e-4 / 2) - 0.2 * 1.18701e-4 / 0.01048542 + np.sqrt(1.18701e-4)
    assert float(moved[0, 0, 0, 0]) == pytest.approx(expected, abs=1e-6)
    assert float(x.min()) == 0.5  # the input is not changed


def test_without_score_and_noise_images_grow_as_the_schedule_shrank_them() -> None:
    moved = reverse_sde(torch.ones(1, *SHAPE), 100, Constant(0), silence())
    assert float(moved.mean()) == pytest.approx(1 / np.sqrt(alpha_bar(99)), rel=2e-3)


@pytest.mark.parametrize("width", [0.2, 0.5])
def test_the_perfect_network_gives_the_distribution_of_the_data_back(width: float) -> None:
    noise = normal(0)
    x0 = width * next(normal(1)).clone()
    x = reverse_sde(diffuse(x0, 99, next(noise)), 100, Gaussian(width), noise)
    assert float(x.std()) == pytest.approx(width, rel=0.01)
    assert float(x.mean()) == pytest.approx(0, abs=0.01 * width)
    kept = float((x * x0).mean() / x0.square().mean())
    # Of independent noise, E[x0 | x_t] keeps this share, and the way back keeps it too.
    level = alpha_bar(99)
    assert kept == pytest.approx(level * width**2 / (level * width**2 + 1 - level), abs=0.02)


def test_more_steps_than_the_horizon_are_refused() -> None:
    x = torch.zeros(1, *SHAPE)
    with pytest.raises(DataError, match=r"1\.\.30, the network's horizon; got 31"):
        reverse_sde(x, 31, Constant(0, horizon=30), silence())
    images = np.zeros((2, *SHAPE), np.uint8)
    train = ImageSet(images, np.zeros(2, np.int64), np.arange(2), 1)
    defense = Avatar(ddpm=DDPM(SMALL, horizon=30))
    with pytest.raises(DataError, match="horizon of 30 time steps; 100 are too many"):
        defense.check(train)
    with pytest.raises(DataError, match="horizon of 30"):
        defense.purify(train, stream(0))
    with pytest.raises(DataError, match=r"diffusion steps must lie in 1\.\.999; got 0"):
        Avatar(ddpm=DDPM(SMALL), steps=0)
