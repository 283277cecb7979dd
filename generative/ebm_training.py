"""Training an energy network by contrastive divergence with persistent chains.

One update: a batch of noisy images is the positive phase; as many states of a persistent bank,
moved by some Langevin steps, are the negative phase; the loss is the difference of their mean
energies over the temperature (PureGen, arXiv 2405.18627, algorithm 2).

With several workers, each moves the chains, and computes the energies, of fixed rows of every
batch, B of ``count`` equal parts. Two things are exchanged per update: the moved chains, so that
each worker keeps the whole bank (B states), and the gradients (as many numbers as weights). Weights
and bank are thus the same everywhere, a checkpoint does not know how many workers there were, and a
training may go on with another number of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from generative.ebm import EBM, EBMConfig, FoldedEnergy, check_energy_takes, folded_energy
from generative.langevin import TEMPERATURE, langevin
from generative.learner import Learner, updates
from generative.row_order import RowOrder
from harness.core.augment import check_crop, random_crop
from harness.core.device import (
    Precision,
    channels_last,
    on_device,
    pick_device,
    pick_dtype,
    true_float32,
)
from harness.core.errors import DataError
from harness.core.optimizers import Adam, all_at_once
from harness.core.parallel import Workers, check_share, take_part
from harness.core.ranges import at_least, below_one, positive
from harness.core.seeds import stream, torch_generator


@dataclass(frozen=True, slots=True, kw_only=True)
class EBMRecipe:
    """How an energy network is trained. The defaults suit minutes on a CPU.

    The published recipe is nf 128, lr 1e-4, batch 128, 100 chain steps, bank 10,000, rejuvenation
    0.05, 120 epochs of 70,000 images, no averaging (its code, not its paper). On a budget of
    minutes, many small updates at a higher rate with short chains purify far better.

    Attributes:
        iterations: Updates.
        batch_size: Images, and chains, per update.
        lr: Peak rate of Adam: linear warm-up, then cosine to ``lr / 100``.
        warmup: Updates of warm-up.
        chain_steps: Langevin steps of the negative chains per update.
        bank_size: Persistent states, which start at noisy images.
        rejuvenation: Probability that a state is replaced by a noisy image after an update.
        data_noise: Standard deviation added to images, in units of [-1, 1].
        ema: Decay of the averaged weights, which are the result; 0 is none.
        flip: Mirror half of the images.
        crop_pad: Shift images by up to so many pixels each way, over a mirrored border.
    """

    iterations: int = 2261
    batch_size: int = 32
    lr: float = 3e-4
    warmup: int = 50
    chain_steps: int = 10
    bank_size: int = 2000
    rejuvenation: float = 0.1
    data_noise: float = 1.5e-2
    ema: float = 0.99
    flip: bool = True
    crop_pad: int = 0

    def __post_init__(self) -> None:
        at_least(
            1, iterations=self.iterations, batch_size=self.batch_size, chain_steps=self.chain_steps
        )
        positive(lr=self.lr)
        at_least(0, warmup=self.warmup, data_noise=self.data_noise, crop_pad=self.crop_pad)
        below_one(ema=self.ema)
        if self.bank_size < self.batch_size:
            raise DataError(
                f"bank_size must be at least batch_size; got {self.bank_size} < {self.batch_size}."
            )
        if not 0 <= self.rejuvenation <= 1:
            raise DataError(f"rejuvenation must lie in [0, 1]; got {self.rejuvenation}.")


@dataclass(frozen=True, slots=True)
class Progress:
    """What an update showed: numbers for a log, and the chains for a picture.

    Attributes:
        iteration: Updates done.
        iterations: Updates in all.
        seconds: Since the training began, or went on.
        gap: Mean energy of data minus that of chains, over T; near 0 when chains look like data.
        images: float32 (B, C, H, W) about in [-1, 1]: the chains.
    """

    iteration: int
    iterations: int
    seconds: float
    gap: float
    images: Tensor

    @property
    def summary(self) -> str:
        """The figure that a log shows."""
        return f"energy gap {self.gap:+.1f}"


def check_training(images: NDArray[np.uint8], config: EBMConfig, recipe: EBMRecipe) -> None:
    """Check that a network of this shape can be trained on these images.

    Raises:
        DataError: If there are fewer images than a batch, or their shape does not suit network or
            crops.
    """
    if len(images) < recipe.batch_size:
        raise DataError(f"{len(images)} images are fewer than a batch of {recipe.batch_size}.")
    _, channels, height, width = images.shape
    check_energy_takes(config, (channels, height, width))
    check_crop(recipe.crop_pad, images.shape[2:])


def train_ebm(
    images: NDArray[np.uint8],
    config: EBMConfig,
    recipe: EBMRecipe,
    seed: int,
    *,
    device: str = "auto",
    precision: Precision = "auto",
    checkpoint: Path | None = None,
    checkpoint_every: int = 250,
    on_progress: Callable[[Progress], None] | None = None,
    progress_every: int = 50,
) -> EBM:
    """Train an energy network on images and return the averaged one.

    Inside :func:`harness.core.parallel.together`, workers that all call this with the same
    arguments share each update, and the first of them writes ``checkpoint``.

    Args:
        images: uint8 (N, 3, H, W), H and W divisible by 4; labels play no part.
        config: Shape of the network.
        recipe: Updates, rates, chains.
        seed: Seed of initial weights, batches and noise.
        device: ``auto``, ``cpu`` or ``cuda[:i]``.
        precision: Type of the network's activations; weights and states stay float32.
        checkpoint: File that is written every ``checkpoint_every`` updates; where it exists with
            the same configuration, recipe and seed, training goes on from it.
        on_progress: Called every ``progress_every`` updates and at the last.

    Raises:
        DataError: If there are fewer images than a batch, the workers cannot share a batch equally,
            or energies stop being finite.
    """
    check_training(images, config, recipe)
    where = pick_device(device)
    dtype = pick_dtype(precision, where)
    workers = take_part()
    check_share(recipe.batch_size, workers.count)
    run = _Run(images, config, recipe, seed, where, dtype, workers)
    identity = {"config": asdict(config), "recipe": asdict(recipe), "seed": seed}
    began = time.perf_counter()
    for iteration in updates(
        run.learner, recipe.iterations, identity, checkpoint, checkpoint_every, {"bank": run.bank}
    ):
        gap, chains = run.update(iteration)
        done = iteration + 1
        if done % progress_every == 0 or done == recipe.iterations:
            value = float(gap)
            if not math.isfinite(value):
                raise DataError(
                    f"training diverged at update {done}: the energies are not finite; "
                    "lower lr or raise data_noise."
                )
            if on_progress:
                seconds = time.perf_counter() - began
                on_progress(Progress(done, recipe.iterations, seconds, value, chains))
    return run.learner.average


class _Run:
    """The state of a training and its one update."""

    def __init__(
        self,
        images: NDArray[np.uint8],
        config: EBMConfig,
        recipe: EBMRecipe,
        seed: int,
        device: torch.device,
        dtype: torch.dtype,
        workers: Workers,
    ) -> None:
        self.workers = workers
        self.recipe, self.seed, self.device, self.dtype = recipe, seed, device, dtype
        self.images = torch.tensor(images).to(device)
        self.order = RowOrder(len(images), recipe.batch_size, seed, "ebm", "order")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(stream(seed, "ebm", "init").integers(2**31)))
            self.model = channels_last(EBM(config).to(device))
        parameters = list(self.model.parameters())
        adam = Adam(parameters, lr=recipe.lr, **all_at_once(parameters))
        self.learner = Learner(self.model, adam, workers)
        rng = torch_generator(seed, "ebm", "bank", device=device)
        rows = torch.randint(len(images), (recipe.bank_size,), generator=rng, device=device)
        self.bank = self._noisy(self._scaled(rows), rng)

    def _scaled(self, rows: Tensor) -> Tensor:
        return self.images[rows].float().div_(127.5).sub_(1)

    def _noisy(self, x: Tensor, rng: torch.Generator) -> Tensor:
        noise = torch.randn(x.shape, generator=rng, device=self.device)
        return x + self.recipe.data_noise * noise

    def _rate(self, iteration: int) -> float:
        r = self.recipe
        if iteration < r.warmup:
            return r.lr * (iteration + 1) / r.warmup
        share = (iteration - r.warmup) / max(1, r.iterations - r.warmup)
        return r.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))

    def _rows(self, iteration: int) -> Tensor:
        return on_device(torch.from_numpy(self.order.rows(iteration)), self.device)

    def update(self, iteration: int) -> tuple[Tensor, Tensor]:
        r = self.recipe
        # A generator of its own per update: training that goes on needs no stored random state.
        rng = torch_generator(self.seed, "ebm", "update", iteration, device=self.device)
        clean = self._scaled(self._rows(iteration))
        if r.flip:
            mirror = torch.rand(len(clean), generator=rng, device=self.device) < 0.5
            clean = torch.where(mirror[:, None, None, None], clean.flip(3), clean)
        clean = random_crop(clean, r.crop_pad, stream(self.seed, "ebm", "crop", iteration))
        positive = self._noisy(clean, rng)
        slots = torch.randperm(r.bank_size, generator=rng, device=self.device)[: r.batch_size]
        mine = self.workers.share(r.batch_size)
        negative = self.workers.join(self._chains(self.bank[slots[mine]], mine, rng))
        renewed = torch.rand(len(slots), generator=rng, device=self.device) < r.rejuvenation
        fresh = self._noisy(positive, rng)
        self.bank[slots] = torch.where(renewed[:, None, None, None], fresh, negative)
        with true_float32(self.dtype):
            gap = self._step(positive[mine], negative[mine], self._rate(iteration))
        return gap, negative

    def _chains(self, states: Tensor, mine: slice, rng: torch.Generator) -> Tensor:
        shape = (self.recipe.batch_size, *states.shape[1:])

        def noise() -> Iterator[Tensor]:
            while True:
                yield torch.randn(shape, generator=rng, device=self.device)[mine]

        energy = FoldedEnergy(self.model, self.dtype)
        return langevin(states, self.recipe.chain_steps, energy, noise())

    def _step(self, positive: Tensor, negative: Tensor, lr: float) -> Tensor:
        both = torch.cat([positive, negative]).contiguous(memory_format=torch.channels_last)
        lower = self.dtype != torch.float32
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=lower):
            energy = folded_energy(self.model, both)
        loss = (energy[: len(positive)].mean() - energy[len(positive) :].mean()) / TEMPERATURE
        return self.learner.update(loss, lr, self.recipe.ema)
