"""Batches that do not fit in memory: fewer rows at once, and the same bytes."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from defenses._purify import purify_images, score, snapshot_images
from defenses.avatar import Avatar
from defenses.puregen_ddpm import PuregenDdpm
from defenses.puregen_ebm import PuregenEbm
from defenses.puregen_filt import PuregenFilt
from defenses.puregen_naive import PuregenNaive
from defenses.puregen_reps import PuregenReps
from generative.ddpm import DDPM, NoisePredictor
from generative.ebm import EBM, EBMConfig, FoldedEnergy
from generative.unet import UNetConfig
from harness.classifiers.hlb_xs import HlbXs
from harness.core import batches
from harness.core.batches import AtMost, Batches
from harness.core.seeds import stream
from harness.datasets.shapes import Shapes
from harness.training import Predictor

TRAIN = Shapes(train=70, test=10).load().train
FULL = "CUDA out of memory. Tried to allocate 2.00 GiB."
SMALL = UNetConfig(
    block_out_channels=(8, 16), norm_num_groups=4, attention_head_dim=8, sample_size=32,
    down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
)  # fmt: skip


@pytest.fixture(autouse=True)
def unwarned() -> None:
    batches._warn.cache_clear()


@pytest.fixture(scope="module")
def networks() -> dict[str, Any]:
    torch.manual_seed(0)
    return {"ebm": EBM(EBMConfig(nf=4)).eval(), "ddpm": DDPM(SMALL, horizon=20)}


class Memory:
    """Holds so many rows, behind a method of a network; more are noticed in the third call."""

    def __init__(self, rows: int, patience: int = 2) -> None:
        self.rows, self.patience = rows, patience
        self.failed, self._seen = list[int](), 0

    def behind(self, monkeypatch: pytest.MonkeyPatch, kind: type, name: str) -> None:
        real = getattr(kind, name)

        def narrow(network: Any, x: Tensor, *rest: Any) -> Any:
            self._seen += len(x) > self.rows
            if self._seen > self.patience:
                self._seen = 0
                self.failed.append(len(x))
                raise torch.OutOfMemoryError(FULL)
            return real(network, x, *rest)

        monkeypatch.setattr(kind, name, narrow)


def test_fewer_rows_from_the_same_one_on_and_the_size_stays(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tried, done = list[slice](), list[int]()

    def work(part: slice) -> None:
        tried.append(part)
        if part.stop - part.start > 40:
            raise torch.OutOfMemoryError(FULL)
        done.extend(range(part.start, part.stop))

    cut = Batches(110, AtMost(2048))
    cut.each(work)
    assert tried[:2] == [slice(0, 110), slice(0, 48)]
    assert tried[2:] == [slice(start, min(start + 16, 110)) for start in range(0, 110, 16)]
    assert done == list(range(110))
    tried.clear()
    cut.each(work)
    assert {part.stop - part.start for part in tried} == {16, 14}
    Batches(110, AtMost(2048)).each(work)
    assert caplog.messages == ["110 images at once do not fit in memory; went on with 16"]
    assert caplog.records[0].levelno == logging.WARNING


@pytest.mark.parametrize(
    ("size", "sizes"), [(64, [64]), (AtMost(16), [16]), (AtMost(64), [64, 32, 16])]
)
def test_where_no_fewer_are_tried_torch_says_why(
    size: int | AtMost, sizes: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    tried = list[int]()

    def work(part: slice) -> None:
        tried.append(part.stop)
        raise torch.OutOfMemoryError(FULL)

    with pytest.raises(torch.OutOfMemoryError, match=FULL):
        Batches(100, size).each(work)
    assert tried == sizes
    assert not caplog.messages


def test_what_a_batch_held_is_free_before_fewer_are_tried() -> None:
    held = list[weakref.ref[Tensor]]()

    def network(x: Tensor) -> None:
        inner = x + 1
        held.append(weakref.ref(inner))
        if len(x) > 16:
            raise torch.OutOfMemoryError(FULL)

    def work(part: slice) -> None:
        assert not [ref for ref in held if ref() is not None]
        network(torch.zeros(part.stop - part.start))

    Batches(64, AtMost(64)).each(work)
    assert len(held) == 6


@pytest.mark.parametrize("kind", ["ebm", "ddpm", "naive", "filt", "avatar"])
def test_a_purification_that_runs_out_of_memory_gives_the_same_bytes(
    kind: str, networks: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ebm, ddpm = {"ebm": networks["ebm"]}, {"ddpm": networks["ddpm"]}
    defense: Any = {
        "ebm": PuregenEbm(**ebm, steps=20),  # more than a draw of noise holds
        "ddpm": PuregenDdpm(**ddpm, steps=10, sampler="dpmpp_2m_sde", network_calls=5),
        "naive": PuregenNaive(**ebm, **ddpm, ebm_steps=3, ddpm_steps=5),
        "filt": PuregenFilt(**ebm, **ddpm, share=0.9, steps=5),
        "avatar": Avatar(**ddpm, steps=5),
    }[kind]

    def made(batch_size: int | None = None) -> np.ndarray:
        images = replace(defense, batch_size=batch_size).purify(TRAIN, stream(0)).images
        return np.asarray(images)

    wanted, memory = made(), Memory(40)
    memory.behind(monkeypatch, FoldedEnergy, "input_gradient")
    memory.behind(monkeypatch, NoisePredictor, "noise")
    np.testing.assert_array_equal(made(), wanted)
    assert len(memory.failed) == 1
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
        made(64)  # as somebody asked for
    assert len(memory.failed) == 2
    np.testing.assert_array_equal(made(20), wanted)


@pytest.mark.parametrize("kind", ["ebm", "reps"])
def test_a_chain_that_runs_out_of_memory_on_its_way_gives_the_same_bytes(
    kind: str, networks: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    defense: Any = PuregenEbm(ebm=networks["ebm"])
    values = [1, 3, 18]
    if kind == "reps":
        defense, values = PuregenReps(**networks, ebm_steps=2, ddpm_steps=3), [1, 2, 4]
    wanted = [rows.images for rows in defense.snapshots(TRAIN, stream(0), values)]
    # Full at several moments: in a first piece of the chain, and between two others.
    for patience in (0, 2, 6):
        with monkeypatch.context() as patch:
            memory = Memory(40, patience)
            memory.behind(patch, FoldedEnergy, "input_gradient")
            memory.behind(patch, NoisePredictor, "noise")
            found = [rows.images for rows in defense.snapshots(TRAIN, stream(0), values)]
        assert len(memory.failed) == 1  # what fits is not asked again at the next value
        np.testing.assert_array_equal(found, wanted)


def test_a_purifier_that_works_in_place_begins_afresh() -> None:
    def purify(x: Tensor, noise: Iterator[Tensor]) -> Tensor:
        x.add_(next(noise))
        if len(x) > 40:
            raise torch.OutOfMemoryError(FULL)
        return x.add_(next(noise))

    images, ids = TRAIN.images[:64], TRAIN.ids[:64]
    wanted = purify_images(images, ids, purify, 3, batch_size=32)
    np.testing.assert_array_equal(purify_images(images, ids, purify, 3), wanted)
    passed = snapshot_images(images, ids, lambda _: purify, [1], 3)
    np.testing.assert_array_equal(next(passed), wanted)


def test_scores_and_predictions(networks: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(40, patience=0)
    wanted = score(TRAIN.images, networks["ebm"])
    memory.behind(monkeypatch, FoldedEnergy, "energy")
    np.testing.assert_array_equal(score(TRAIN.images, networks["ebm"]), wanted)
    with pytest.raises(torch.OutOfMemoryError):
        score(TRAIN.images, networks["ebm"], batch_size=64)
    assert len(memory.failed) == 2

    network = HlbXs(widths=(8, 8, 8)).build(10, TRAIN.image_shape)
    victim, asked = Predictor(network), Memory(40, patience=0)
    logits, features = victim.logits(TRAIN.images), victim.features(TRAIN.images)
    asked.behind(monkeypatch, type(network), "features")
    np.testing.assert_allclose(victim.logits(TRAIN.images), logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(victim.features(TRAIN.images), features, rtol=1e-5, atol=1e-6)
    with pytest.raises(torch.OutOfMemoryError):
        victim.logits(TRAIN.images, batch_size=64)
    assert asked.failed == [70, 70, 64]
