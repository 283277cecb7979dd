"""Diffusion: its schedule, its samplers against the mathematics, and its training."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from generative.checkpoints import load_training
from generative.ddpm import (
    DDPM,
    SAMPLERS,
    Diffusion,
    NoisePredictor,
    Sampler,
    alpha_bar,
    coefficients,
    denoise,
    diffuse,
    time_grid,
)
from generative.ddpm_training import DDPMRecipe, Progress, train_ddpm
from generative.noise import row_noise
from generative.unet import UNetConfig
from harness.core.errors import DataError, UsageError
from harness.core.seeds import torch_generator
from harness.datasets.shapes import Shapes

SHAPE = (3, 32, 32)
TINY = UNetConfig(
    block_out_channels=(16, 32),
    down_block_types=("DownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "UpBlock2D"),
    norm_num_groups=8,
    attention_head_dim=16,
)
FEW = DDPMRecipe(iterations=6, batch_size=8, warmup=2)


def normal(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch_generator(seed))


def endless(shape: tuple[int, ...], seed: int = 1) -> Iterator[torch.Tensor]:
    rng = torch_generator(seed)
    while True:
        yield torch.randn(shape, generator=rng)


@dataclass
class Knows:
    """A perfect network: it knows the images, so it knows the noise in them."""

    x0: torch.Tensor
    horizon: int = 1000
    calls: int = 0

    def noise(self, x: torch.Tensor, t: int) -> torch.Tensor:
        self.calls += 1
        level = alpha_bar(t)
        return (x - np.sqrt(level) * self.x0) / np.sqrt(1 - level)


@dataclass
class Gaussian:
    """The perfect network for pixels that are normal with mean 0 and a known deviation."""

    deviation: float
    horizon: int = 1000

    def noise(self, x: torch.Tensor, t: int) -> torch.Tensor:
        level = alpha_bar(t)
        return np.sqrt(1 - level) * x / (level * self.deviation**2 + 1 - level)


@pytest.mark.parametrize(
    ("t", "level", "sigma"),
    [(50, 0.96995, 0.1733), (74, 0.93912, 0.2467), (125, 0.84399, 0.3950), (249, 0.52409, 0.6899)],
)
def test_noise_levels(t: int, level: float, sigma: float) -> None:
    assert alpha_bar(t) == pytest.approx(level, abs=6e-6)
    assert np.sqrt(1 - alpha_bar(t)) == pytest.approx(sigma, abs=6e-5)
    x = diffuse(torch.ones(64, *SHAPE), t, normal((64, *SHAPE)))
    assert float(x.mean()) == pytest.approx(np.sqrt(level), abs=0.01)
    assert float(x.std()) == pytest.approx(sigma, rel=0.01)


@pytest.mark.parametrize(
    ("t", "image", "state", "noise"),
    [
        (74, 0.025076, 0.974912, 0.039189),
        (49, 0.036603, 0.963393, 0.032206),
        (24, 0.068205, 0.931794, 0.023212),
        (1, 0.545285, 0.454715, 0.007385),
        (0, 1.0, 0.0, 0.0),
    ],
)
def test_ancestral_coefficients(t: int, image: float, state: float, noise: float) -> None:
    found = coefficients(t, t - 1, 1.0)
    assert (found.image, found.state, found.noise) == pytest.approx((image, state, noise), abs=1e-5)


@pytest.mark.parametrize(("t", "to"), [(74, 73), (74, 59), (124, 4), (9, -1)])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_coefficients_are_those_of_ddim_written_with_the_noise(t: int, to: int, eta: float) -> None:
    """sqrt(abar') x0 + sqrt(1 - abar' - s²) n + s z, with x = sqrt(abar) x0 + sqrt(1 - abar) n."""
    low, high = alpha_bar(t), alpha_bar(to)
    s = eta * np.sqrt((1 - high) / (1 - low)) * np.sqrt(1 - low / high)
    x0, n = 0.3, -1.2
    x = np.sqrt(low) * x0 + np.sqrt(1 - low) * n
    step = coefficients(t, to, eta)
    expected = np.sqrt(high) * x0 + np.sqrt(1 - high - s**2) * n
    assert step.image * x0 + step.state * x == pytest.approx(expected, rel=1e-9)
    assert step.noise == pytest.approx(s, rel=1e-9)


def test_ddim_with_all_its_noise_is_the_ancestral_sampler() -> None:
    x0 = normal((4, *SHAPE)).clamp(-1, 1)
    x, model = diffuse(x0, 74, normal((4, *SHAPE), 2)), Gaussian(0.5)
    one = denoise(x, 74, model, endless(x.shape), "ancestral")
    other = denoise(x, 74, model, endless(x.shape), Sampler(eta=1.0))
    assert torch.equal(one, other)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("calls", [None, 15, 1])
def test_a_network_that_knows_the_noise_gives_the_image_back(sampler: str, calls: int) -> None:
    x0 = normal((2, *SHAPE)).clamp(-1, 1)
    model = Knows(x0)
    noisy = diffuse(x0, 74, normal(x0.shape, 3))
    before = noisy.clone()
    found = denoise(noisy, 74, model, endless(x0.shape), sampler, calls)
    torch.testing.assert_close(found, x0, rtol=0, atol=2e-5)
    assert model.calls == (calls or 75)
    assert torch.equal(noisy, before)


@pytest.mark.parametrize(
    ("sampler", "calls"),
    [
        ("ancestral", None),
        ("ddim", 75),
        ("dpmpp_2m", 12),
        ("dpmpp_2m_sde", 25),
        ("dpmpp_2m_sde_half", 12),
    ],
)
def test_samplers_end_at_the_distribution_of_the_images(sampler: str, calls: int | None) -> None:
    """For normal pixels all is known: what starts as noisy images ends with their deviation."""
    deviation, shape = 0.2, (16, *SHAPE)  # 5 deviations below 1: nothing is clamped
    x0 = deviation * normal(shape)
    x = diffuse(x0, 149, normal(shape, 4))
    found = denoise(x, 149, Gaussian(deviation), endless(shape), sampler, calls)
    assert float(found.std()) == pytest.approx(deviation, rel=0.04)
    kept = float((found * x0).mean() / x0.square().mean())
    level = alpha_bar(149)
    share = level * deviation**2 / (level * deviation**2 + 1 - level)
    expected = share if SAMPLERS[sampler].eta else np.sqrt(share)  # noise again, or none
    assert kept == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(("start", "calls"), [(24, 4), (49, 8), (74, 12)])
@pytest.mark.parametrize("deviation", [0.05, 0.1, 0.2])
def test_half_an_extrapolation_spreads_images_as_all_steps_do(
    start: int, calls: int, deviation: float
) -> None:
    """A sixth of the calls, with which the ancestral sampler errs more than twice as much."""
    shape = (32, *SHAPE)
    x = diffuse(deviation * normal(shape), start, normal(shape, 4))

    def spread(sampler: str, calls: int | None = None) -> float:
        found = denoise(x, start, Gaussian(deviation), endless(shape), sampler, calls)
        return float(found.std()) / deviation

    whole = spread("ancestral")
    wrong = {name: abs(spread(name, calls) - whole) for name in SAMPLERS}
    half = wrong.pop("dpmpp_2m_sde_half")
    assert half < 0.02
    assert 2 * half < wrong["ancestral"]
    assert sum(half < other for other in wrong.values()) >= 3


def test_second_order_needs_fewer_calls() -> None:
    shape = (8, *SHAPE)
    x, model = diffuse(0.2 * normal(shape), 199, normal(shape, 5)), Gaussian(0.2)
    exact = denoise(x, 199, model, endless(shape), "ddim")

    def error(sampler: str) -> float:
        return float((denoise(x, 199, model, endless(shape), sampler, 10) - exact).norm())

    assert error("dpmpp_2m") < 0.5 * error("ddim")


def test_the_published_start_is_one_level_noisier() -> None:
    x0 = torch.zeros(64, *SHAPE)

    class Remembers(Gaussian):
        def noise(self, x: torch.Tensor, t: int) -> torch.Tensor:
            seen.append((t, float(x.std())))
            return x / np.sqrt(1 - alpha_bar(t))

    for start, sigma in (("consistent", 0.2467), ("faithful", 0.2498)):
        seen: list[tuple[int, float]] = []
        Diffusion(steps=75, start=start).purify(x0, Remembers(1.0), endless(x0.shape))
        assert [t for t, _ in seen] == list(range(74, -1, -1))
        assert seen[0][1] == pytest.approx(sigma, abs=5e-4)


def test_grids() -> None:
    assert time_grid(74, 15) == list(range(74, 0, -5))
    assert time_grid(9) == list(range(9, -1, -1))
    assert len(set(time_grid(124, 37))) == 37


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "1..999; got 0"),
        ({"steps": 1000}, "1..999; got 1000"),
        ({"network_calls": 0}, "1..75.*got 0"),
        ({"network_calls": 76}, "1..75.*got 76"),
    ],
)
def test_impossible_diffusions_are_refused(change: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Diffusion(**change)


def test_a_time_beyond_the_horizon_and_an_unknown_sampler_are_refused() -> None:
    x = torch.zeros(1, *SHAPE)
    with pytest.raises(DataError, match=r"0\.\.249 .* got 250"):
        denoise(x, 250, Knows(x, horizon=250), endless(x.shape))
    with pytest.raises(UsageError, match="Did you mean 'dpmpp_2m'"):
        denoise(x, 5, Knows(x), endless(x.shape), "dpm_2m")


# Training


def images(rows: int = 48) -> np.ndarray:
    return Shapes(kind="pood", train=rows, test=6).load().train.images


@pytest.fixture(scope="module")
def trained() -> tuple[DDPM, list[Progress]]:
    """A small network after a few seconds of training on shapes, and what it reported."""
    reports: list[Progress] = []
    recipe = DDPMRecipe(iterations=100, batch_size=16, lr=4e-3, warmup=20, ema=0.97)
    model = train_ddpm(images(400), TINY, recipe, 0, device="cpu", on_progress=reports.append)
    return model, reports


def test_training_lowers_the_loss(trained: tuple[DDPM, list[Progress]]) -> None:
    model, reports = trained
    assert [r.iteration for r in reports] == [50, 100]
    assert reports[-1].loss < 0.75 * reports[0].loss < 0.75
    assert reports[-1].images.shape == (16, *SHAPE)
    assert (model.horizon, model.config.sample_size) == (250, 32)


@pytest.mark.parametrize(("sampler", "calls"), [("ancestral", 25), ("ddim", 15), ("dpmpp_2m", 8)])
def test_it_denoises_images_of_other_kinds(
    trained: tuple[DDPM, list[Progress]], sampler: str, calls: int
) -> None:
    x = torch.tensor(Shapes(train=20, test=48).load().test.images).float() / 127.5 - 1
    noisy = diffuse(x, 74, normal(x.shape))

    def psnr(y: torch.Tensor) -> float:
        return float(-10 * ((y.clamp(-1, 1) - x) / 2).square().mean((1, 2, 3)).log10().mean())

    found = denoise(noisy, 74, NoisePredictor(trained[0]), endless(x.shape), sampler, calls)
    gain = {"ancestral": 1.2, "ddim": 2.5, "dpmpp_2m": 2.5}[sampler]
    assert psnr(found) > psnr(noisy / np.sqrt(alpha_bar(74))) + gain


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_predictions_do_not_depend_on_the_batch(
    trained: tuple[DDPM, list[Progress]], dtype: torch.dtype
) -> None:
    model, ids = NoisePredictor(trained[0], dtype), np.arange(40)
    x = torch.tensor(images(40)).float() / 127.5 - 1

    def purify(rows: slice) -> torch.Tensor:
        noise = row_noise(0, ids[rows], SHAPE)
        return Diffusion(steps=30, network_calls=10).purify(x[rows], model, noise)

    whole = purify(slice(None))
    for rows in (slice(7, 9), slice(5, 12), slice(20, 40)):
        assert torch.equal(purify(rows), whole[rows])


def test_training_goes_on_from_a_checkpoint_as_if_never_stopped(tmp_path: Path) -> None:
    whole = train_ddpm(images(), TINY, FEW, 3, device="cpu")
    path = tmp_path / "training.safetensors"

    class Stop(Exception):
        pass

    def stop(progress: Progress) -> None:
        raise Stop

    with pytest.raises(Stop):
        train_ddpm(
            images(), TINY, FEW, 3, device="cpu", checkpoint=path, checkpoint_every=2,
            on_progress=stop, progress_every=5,
        )  # fmt: skip
    config = {**asdict(TINY), "sample_size": 32}
    assert load_training(path, {"config": config, "recipe": asdict(FEW), "seed": 3})[1] == 4
    rest = train_ddpm(images(), TINY, FEW, 3, device="cpu", checkpoint=path)
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(rest.state_dict()[name], tensor, rtol=0, atol=0)


def test_a_training_that_diverges_says_so_and_keeps_no_checkpoint(tmp_path: Path) -> None:
    path, recipe = tmp_path / "training.safetensors", replace(FEW, lr=1e30, warmup=0)
    with pytest.raises(DataError, match="diverged at update 6"):
        train_ddpm(images(), TINY, recipe, 0, device="cpu", checkpoint=path)
    assert not path.exists()


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "training.safetensors"
    train_ddpm(images(), TINY, FEW, 0, device="cpu", checkpoint=path)
    with pytest.raises(DataError, match="another seed"):
        train_ddpm(images(), TINY, FEW, 1, device="cpu", checkpoint=path)


def test_training_data_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(DataError, match="fewer than a batch"):
        train_ddpm(images()[:4], TINY, FEW, 0, device="cpu")
    with pytest.raises(DataError, match="divisible by 4"):
        train_ddpm(images()[:, :, :30], TINY, FEW, 0, device="cpu")
    with pytest.raises(DataError, match="3 channels"):
        train_ddpm(images()[:, :1], TINY, FEW, 0, device="cpu")
    with pytest.raises(DataError, match="crop_pad must be at least 0"):
        train_ddpm(images(), TINY, replace(FEW, crop_pad=-1), 0, device="cpu")


def test_crops_change_what_is_learned() -> None:
    cropped, plain = (
        train_ddpm(images(), TINY, recipe, 0, device="cpu").unet.conv_in.weight
        for recipe in (replace(FEW, crop_pad=4), FEW)
    )
    assert not torch.equal(cropped, plain)


def test_the_rate_warms_up_and_falls_to_zero() -> None:
    recipe = DDPMRecipe(iterations=100, warmup=10, lr=1.0)
    rates = [recipe.rate(i) for i in range(100)]
    assert rates[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert rates[55] == pytest.approx(0.5, abs=0.01)
    assert 0 < rates[-1] < 1e-3
