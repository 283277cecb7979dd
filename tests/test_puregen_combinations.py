"""PureGen with the diffusion model, and with both: what each changes, and what it leaves alone."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from defenses import _purify
from defenses._purify import in_flight, in_turn, purify_images, score
from defenses.none import NoDefense
from defenses.puregen_ddpm import PuregenDdpm
from defenses.puregen_ebm import PuregenEbm
from defenses.puregen_filt import PuregenFilt, highest
from defenses.puregen_naive import PuregenNaive
from defenses.puregen_reps import PuregenReps
from generative.checkpoints import load_ebm, save_ebm
from generative.ddpm import DDPM, NoisePredictor, diffuse
from generative.ddpm_checkpoints import save_ddpm
from generative.ebm import EBM, EBMConfig, FoldedEnergy
from generative.langevin import langevin
from generative.noise import row_noise
from generative.unet import UNetConfig
from harness.core.batches import AtMost
from harness.core.data import ImageSet
from harness.core.errors import DataError
from harness.core.pixels import to_bytes
from harness.core.protocols import DEFENSES
from harness.core.seeds import stream, subseed
from harness.datasets.shapes import Shapes
from harness.sweeps import folder
from tests.tiny import component, workshop

TRAIN = Shapes(train=48, test=10).load().train
SMALL = UNetConfig(
    block_out_channels=(8, 16), norm_num_groups=4, attention_head_dim=8, sample_size=32,
    down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
)  # fmt: skip


@pytest.fixture(scope="module")
def ebm() -> EBM:
    return load_ebm(folder() / "weights" / "shapes_ebm")


@pytest.fixture(scope="module")
def ddpm() -> DDPM:
    torch.manual_seed(0)
    model = DDPM(SMALL, horizon=60)
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape)
    return model


def purified(defense, train: ImageSet = TRAIN, seed: int = 0) -> np.ndarray:
    return defense.purify(train, stream(seed, "defense")).images


def by_hand(train: ImageSet, *stages) -> np.ndarray:
    """Apply stages x, noise → x to all rows at once, as floats from the first to the last."""
    x = torch.tensor(train.images).float() / 127.5 - 1
    noise = row_noise(subseed(stream(0, "defense")), train.ids, train.image_shape)
    for stage in stages:
        x = stage(x, noise)
    return to_bytes((x + 1) / 2)


def energy(ebm: EBM, steps: int):
    return lambda x, noise: langevin(x, steps, FoldedEnergy(ebm), noise)


def ancestral(ddpm: DDPM, steps: int):
    """The published loop, written out: noise to level T - 1, then T steps with clamped images."""
    betas = np.linspace(1e-4, 0.02, 1000)
    bars = np.append(np.cumprod(1 - betas), 1.0)  # the last one is that of level -1
    model = NoisePredictor(ddpm)

    def stage(x, noise):
        x = diffuse(x, steps - 1, next(noise))
        for t in range(steps - 1, -1, -1):
            x0 = (x - np.sqrt(1 - bars[t]) * model.noise(x, t)) / np.sqrt(bars[t])
            beta = 1 - bars[t] / bars[t - 1]
            mean = np.sqrt(bars[t - 1]) * beta / (1 - bars[t]) * x0.clamp(-1, 1)
            mean = mean + np.sqrt(1 - beta) * (1 - bars[t - 1]) / (1 - bars[t]) * x
            variance = (1 - bars[t - 1]) / (1 - bars[t]) * beta
            x = mean + (np.sqrt(variance) * next(noise) if t else 0)
        return x

    return stage


def nearly(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether images are the same up to rounding: one level in a few pixels."""
    moved = np.abs(a.astype(int) - b)
    return moved.max() <= 1 and (moved > 0).mean() < 1e-3


def test_ddpm_is_the_published_loop(ddpm: DDPM) -> None:
    found = purified(PuregenDdpm(ddpm=ddpm, steps=20, precision="fp32"))
    assert nearly(found, by_hand(TRAIN, ancestral(ddpm, 20)))
    assert np.abs(found.astype(int) - TRAIN.images).mean() > 5


def test_naive_is_the_ebm_then_the_ddpm_without_rounding(ebm: EBM, ddpm: DDPM) -> None:
    naive = PuregenNaive(ebm=ebm, ddpm=ddpm, ebm_steps=10, ddpm_steps=10, precision="fp32")
    found = purified(naive)
    assert nearly(found, by_hand(TRAIN, energy(ebm, 10), ancestral(ddpm, 10)))
    assert not nearly(found, by_hand(TRAIN, ancestral(ddpm, 10), energy(ebm, 10)))


def test_reps_repeats_both(ebm: EBM, ddpm: DDPM) -> None:
    reps = PuregenReps(ebm=ebm, ddpm=ddpm, ebm_steps=4, ddpm_steps=6, repeats=3, precision="fp32")
    stages = [energy(ebm, 4), ancestral(ddpm, 6)] * 3
    assert nearly(purified(reps), by_hand(TRAIN, *stages))
    once = PuregenNaive(ebm=ebm, ddpm=ddpm, ebm_steps=4, ddpm_steps=6, precision="fp32")
    assert np.array_equal(purified(replace(reps, repeats=1)), purified(once))


def test_stages_hand_on_what_no_byte_can_hold() -> None:
    def half_a_level(x: torch.Tensor, noise: object) -> torch.Tensor:
        return x + 0.4 / 127.5

    images, ids = TRAIN.images[:2] // 2, TRAIN.ids[:2]
    once = purify_images(images, ids, half_a_level, 0)
    thrice = purify_images(images, ids, in_turn([half_a_level], 3), 0)
    assert np.array_equal(once, images)
    assert np.array_equal(thrice, images + 1)

    def push(x: torch.Tensor, noise: object) -> torch.Tensor:
        return x + 3

    assert purify_images(images, ids, push, 0).min() == 255  # and saturates, never wraps


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["ddpm", "naive", "reps"])
def test_a_row_is_purified_alike_alone_in_company_and_in_another_order(
    ebm: EBM, ddpm: DDPM, kind: str, precision: str
) -> None:
    both = {"ebm": ebm, "ddpm": ddpm, "ebm_steps": 3, "precision": precision}
    defense = {
        "ddpm": PuregenDdpm(ddpm=ddpm, steps=20, network_calls=5, precision=precision),
        "naive": PuregenNaive(**both, ddpm_steps=10, sampler="dpmpp_2m_sde", network_calls=4),
        "reps": PuregenReps(**both, ddpm_steps=3, repeats=2),
    }[kind]
    whole = purified(defense)
    order = np.random.default_rng(0).permutation(len(TRAIN))[:13]
    part = purified(replace(defense, batch_size=4), TRAIN.take(order))
    np.testing.assert_array_equal(part, whole[order])
    assert not np.array_equal(purified(defense, seed=1), whole)


def test_images_in_flight_are_those_asked_for_or_suit_the_device(
    ebm: EBM, ddpm: DDPM, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = (3, 32, 32)
    assert in_flight(7, shape, ebm, ddpm) == 7
    assert in_flight(None, (5, 3, 256, 256), ebm, ddpm) == AtMost(128)
    monkeypatch.setattr(_purify, "device_of", lambda model: torch.device("cuda"))
    assert in_flight(7, shape, ebm) == 7
    assert in_flight(None, (50_000, *shape), ebm) == AtMost(2048)
    assert in_flight(None, shape, ddpm) == in_flight(None, shape, ebm, ddpm) == AtMost(1024)
    assert in_flight(None, (3, 64, 64), ebm) == AtMost(512)
    assert in_flight(None, (3, 16, 16), ddpm) == AtMost(1024)
    assert in_flight(None, (3, 1024, 1024), ddpm) == AtMost(16)


# Filter


def test_highest() -> None:
    scores = np.float32([3, 1, 2, 5, 4, 5, 0])
    assert highest(scores, 0.3).tolist() == [3, 5]
    assert highest(scores, 1.0).tolist() == list(range(7))
    assert highest(np.zeros(5, np.float32), 0.4).tolist() == [0, 1]
    assert len(highest(np.arange(100, dtype=np.float32), 0.29)) == 29


def test_scores_are_the_energies_whatever_the_batch(ebm: EBM) -> None:
    x = torch.tensor(TRAIN.images).float() / 127.5 - 1
    expected = ebm(x)[:, 0].detach().numpy()
    for batch_size in (7, 100):
        np.testing.assert_allclose(
            score(TRAIN.images, ebm, batch_size=batch_size), expected, rtol=1e-5, atol=1e-6
        )


def test_the_filter_purifies_the_noisy_rows_and_keeps_the_bytes_of_the_others(
    ebm: EBM, ddpm: DDPM
) -> None:
    rng = np.random.default_rng(0)
    noisy = np.sort(rng.permutation(len(TRAIN))[:12])
    images = TRAIN.images.copy()
    pattern = rng.choice([-24, 24], images[noisy].shape)
    images[noisy] = np.clip(images[noisy].astype(int) + pattern, 0, 255).astype(np.uint8)
    train = TRAIN.with_images(images)

    defense = PuregenFilt(ebm=ebm, ddpm=ddpm, share=0.25, steps=20, precision="fp32")
    found = purified(defense, train)
    changed = np.flatnonzero((found != images).any((1, 2, 3)))
    np.testing.assert_array_equal(changed, noisy)
    whole = purified(PuregenDdpm(ddpm=ddpm, steps=20, precision="fp32"), train)
    np.testing.assert_array_equal(found[noisy], whole[noisy])


def test_a_filter_that_takes_all_is_the_ddpm_alone(ebm: EBM, ddpm: DDPM) -> None:
    filtered = PuregenFilt(ebm=ebm, ddpm=ddpm, share=1.0, steps=10)
    np.testing.assert_array_equal(purified(filtered), purified(PuregenDdpm(ddpm=ddpm, steps=10)))


def test_only_none_does_nothing(ebm: EBM, ddpm: DDPM) -> None:
    assert NoDefense().purify(TRAIN, stream(0)) is TRAIN
    with pytest.raises(DataError, match=r"\(0, 1\]; got 0.* 'none'"):
        PuregenFilt(ebm=ebm, ddpm=ddpm, share=0.0)
    with pytest.raises(DataError, match="none of them"):
        PuregenFilt(ebm=ebm, ddpm=ddpm, share=0.02, steps=5).check(TRAIN)


# What cannot be


def test_steps_beyond_the_horizon_are_refused(ebm: EBM, ddpm: DDPM) -> None:
    for defense in (
        PuregenDdpm(ddpm=ddpm, steps=61),
        PuregenNaive(ebm=ebm, ddpm=ddpm, ddpm_steps=61),
        PuregenReps(ebm=ebm, ddpm=ddpm, ddpm_steps=61),
        PuregenFilt(ebm=ebm, ddpm=ddpm, steps=61),
    ):
        with pytest.raises(DataError, match="horizon of 60 time steps; 61 are too many"):
            defense.check(TRAIN)


def to_train(kind: str, **parts) -> dict:
    """A reference to a network that no one has trained yet."""
    return {"name": kind, **parts, "dataset": {"name": "shapes", "kind": "pood", "train": 48}}


@pytest.mark.parametrize("lies_in", ["a file", "the future"])
def test_a_network_is_checked_before_anything_starts(tmp_path, lies_in: str) -> None:
    unet = {k: v for k, v in asdict(SMALL).items() if k != "sample_size"}
    noise, steep = to_train("ddpm", unet=unet, recipe={"horizon": 60}), to_train("ebm", nf=8)
    steep["patch_size"] = 2
    if lies_in == "a file":
        save_ddpm(tmp_path / "ddpm", DDPM(SMALL, 60), {})
        save_ebm(tmp_path / "ebm", EBM(EBMConfig(nf=8, patch_size=2)), {})
        noise, steep = {"path": str(tmp_path / "ddpm")}, {"path": str(tmp_path / "ebm")}
    shop = workshop(tmp_path)

    def check(side: int, name: str, **parameters) -> None:
        images = np.ascontiguousarray(TRAIN.images[:, :, :side, :side])
        spec = component("defense", {"name": name, **parameters})
        shop.component(DEFENSES, spec, check=True).check(TRAIN.with_images(images))

    check(32, "puregen_naive", ddpm_steps=60, ddpm=noise, ebm=steep)
    with pytest.raises(DataError, match="horizon of 60 time steps; 61 are too many"):
        check(32, "puregen_ddpm", steps=61, ddpm=noise)
    with pytest.raises(DataError, match="trained on 32x32 images; these are 16x16"):
        check(16, "puregen_ddpm", steps=60, ddpm=noise)
    with pytest.raises(DataError, match="sides divisible by 8"):
        check(28, "puregen_ebm", ebm=steep)
    assert not list(tmp_path.glob("store/generator/*"))


def test_images_of_another_size_are_refused(ddpm: DDPM) -> None:
    train = TRAIN.with_images(np.ascontiguousarray(TRAIN.images[:, :, :16, :16]))
    with pytest.raises(DataError, match="trained on 32x32 images; these are 16x16"):
        PuregenDdpm(ddpm=ddpm, steps=5).check(train)
    free = DDPM(replace(SMALL, sample_size=None))
    PuregenDdpm(ddpm=free, steps=5).check(train)
    grey = TRAIN.with_images(TRAIN.images[:, :1].copy())
    with pytest.raises(DataError, match="takes 3 channels"):
        PuregenDdpm(ddpm=free, steps=5).check(grey)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "1..999; got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1; got 0"),
        ({"network_calls": 80}, "1..75"),
    ],
)
def test_impossible_parameters_are_refused(ddpm: DDPM, wrong: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        PuregenDdpm(ddpm=ddpm, **wrong)


@pytest.mark.parametrize("wrong", [{"ebm_steps": 0}, {"repeats": 0}, {"temperature": 0.0}])
def test_impossible_combinations_are_refused(ebm: EBM, ddpm: DDPM, wrong: dict) -> None:
    with pytest.raises(DataError, match=f"{next(iter(wrong))} must be"):
        PuregenReps(ebm=ebm, ddpm=ddpm, **wrong)


def test_the_ebm_alone_is_what_it_was(ebm: EBM) -> None:
    found = purified(PuregenEbm(ebm=ebm, steps=5, precision="fp32"))
    assert np.array_equal(found, by_hand(TRAIN, energy(ebm, 5)))
