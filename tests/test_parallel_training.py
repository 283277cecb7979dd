"""Several workers compute the update of one: the arithmetic, by threads that exchange values."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from generative.ddpm_training import DDPMRecipe, train_ddpm
from generative.ebm import EBMConfig
from generative.ebm_training import EBMRecipe, train_ebm
from generative.unet import UNetConfig
from harness.core.errors import DataError
from harness.core.parallel import Workers, together
from harness.datasets.shapes import Shapes

EBM_RECIPE = EBMRecipe(iterations=6, batch_size=8, bank_size=16, chain_steps=2, ema=0.5)
DDPM_RECIPE = DDPMRecipe(iterations=6, batch_size=8, warmup=2)
UNET = UNetConfig(
    block_out_channels=(16, 32),
    down_block_types=("DownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "UpBlock2D"),
    norm_num_groups=8,
    attention_head_dim=16,
)


@dataclass
class Table:
    """Where threads lay what they exchange."""

    count: int
    places: dict[int, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.barrier = threading.Barrier(self.count, timeout=60)
        self.built = [threading.Event() for _ in range(self.count)]

    def exchange(self, rank: int, value: Any) -> list[Any]:
        self.places[rank] = value
        self.barrier.wait()
        found = [self.places[r] for r in range(self.count)]
        self.barrier.wait()
        return found


class Threads(Workers):
    __slots__ = ("table",)

    def __init__(self, rank: int, table: Table) -> None:
        super().__init__(rank, table.count)
        object.__setattr__(self, "table", table)

    def share(self, rows: int) -> slice:
        self.table.built[self.rank].set()
        return super().share(rows)

    def part(self, rows: int) -> slice:
        self.table.built[self.rank].set()
        return super().part(rows)

    def average(self, tensors: Sequence[Tensor]) -> None:
        lists = self.table.exchange(self.rank, [t.clone() for t in tensors])
        for tensor, parts in zip(tensors, zip(*lists, strict=True), strict=True):
            tensor.copy_(torch.stack(parts).mean(0))

    def join(self, rows: Tensor) -> Tensor:
        return torch.cat(self.table.exchange(self.rank, rows))


def by_threads(count: int, train: Callable[[], Any]) -> list[dict[str, Tensor]]:
    table, models = Table(count), dict[int, Any]()

    def work(rank: int) -> None:
        with together(Threads(rank, table)):
            models[rank] = train()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(count)]
    for thread, built in zip(threads, table.built, strict=True):
        thread.start()
        built.wait(60)  # threads share torch's global generator, from which networks are built
    for thread in threads:
        thread.join()
    return [models[rank].state_dict() for rank in range(count)]


def images() -> np.ndarray:
    return Shapes(kind="pood", train=48, test=6).load().train.images


def ebm(**more: Any) -> Any:
    return train_ebm(images(), EBMConfig(nf=8), EBM_RECIPE, 3, device="cpu", **more)


def ddpm(**more: Any) -> Any:
    return train_ddpm(images(), UNET, DDPM_RECIPE, 3, device="cpu", **more)


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("train", [ebm, ddpm])
def test_workers_compute_the_updates_of_one(train: Any, count: int) -> None:
    shared = by_threads(count, lambda: train(precision="fp32"))
    exact = train(precision="fp32").state_dict()
    for name, tensor in exact.items():
        for worker in shared[1:]:  # in step to the last bit
            assert torch.equal(worker[name], shared[0][name])
        torch.testing.assert_close(shared[0][name], tensor, rtol=1e-4, atol=1e-5)


def test_a_checkpoint_does_not_know_how_many_there_were(tmp_path: Path) -> None:
    """Begun by two, finished by one."""
    path = tmp_path / "training.safetensors"

    class Stop(Exception):
        pass

    def stop(progress: Any) -> None:
        raise Stop

    def half() -> Any:
        with pytest.raises(Stop):
            ebm(
                precision="fp32", checkpoint=path, checkpoint_every=4, on_progress=stop,
                progress_every=5,
            )  # fmt: skip
        return torch.nn.Module()

    by_threads(2, half)
    finished = ebm(precision="fp32", checkpoint=path).state_dict()
    for name, tensor in ebm(precision="fp32").state_dict().items():
        torch.testing.assert_close(finished[name], tensor, rtol=1e-4, atol=1e-5)


def test_a_batch_that_cannot_be_shared() -> None:
    with (
        together(Workers(0, 3)),
        pytest.raises(DataError, match=r"batch of 8 .* 3 workers; batch_size 6 or 9 can"),
    ):
        ebm()


def test_who_takes_part_is_known() -> None:
    with together(Workers()) as taken_part:
        assert taken_part == []
        ebm()
    assert taken_part == [Workers()]
