"""Training a network to predict the noise in images, up to a limited noise level.

One update: images, each at a random noise level below the horizon; the loss is the mean squared
error of the predicted noise (DDPM, arXiv 2006.11239, algorithm 1). Purification starts far below
the top of the schedule, so all of the network's capacity goes to the levels that it passes
(PureGen, arXiv 2405.18627, section 3.3).

With several workers, each predicts the noise of fixed rows of every batch, and gradients are
exchanged, nothing else.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from generative.ddpm import DDPM, TIME_STEPS, alpha_bar
from generative.learner import Learner, updates
from generative.row_order import RowOrder
from generative.unet import UNetConfig
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
from harness.core.optimizers import AdamW
from harness.core.parallel import Workers, check_share, take_part
from harness.core.ranges import at_least, below_one, positive
from harness.core.seeds import stream, torch_generator


@dataclass(frozen=True, slots=True, kw_only=True)
class DDPMRecipe:
    """How a noise predictor is trained. The defaults suit minutes on a CPU.

    The published recipe is lr 1e-4, warm-up 500, batch 256, 150 epochs of 70,000 images, no
    averaging, no mirroring, horizon 250.

    Attributes:
        iterations: Updates.
        batch_size: Images per update.
        lr: Peak rate of AdamW: linear warm-up, then cosine to 0.
        warmup: Updates of warm-up.
        weight_decay: Of AdamW.
        ema: Decay of the averaged weights, which are the result; 0 is none.
        horizon: Noise levels 0..horizon-1 are trained, in 1..1000.
        flip: Mirror half of the images.
        crop_pad: Shift images by up to so many pixels each way, over a mirrored border.
    """

    iterations: int = 1200
    batch_size: int = 64
    lr: float = 1e-3
    warmup: int = 50
    weight_decay: float = 0.01
    ema: float = 0.995
    horizon: int = 250
    flip: bool = True
    crop_pad: int = 0

    def __post_init__(self) -> None:
        at_least(1, iterations=self.iterations, batch_size=self.batch_size)
        positive(lr=self.lr)
        at_least(0, warmup=self.warmup, weight_decay=self.weight_decay, crop_pad=self.crop_pad)
        below_one(ema=self.ema)
        if not 1 <= self.horizon <= TIME_STEPS:
            raise DataError(f"horizon must lie in 1..{TIME_STEPS}; got {self.horizon}.")

    def rate(self, iteration: int) -> float:
        """Return the learning rate of an update, counted from 0."""
        if iteration < self.warmup:
            return self.lr * (iteration + 1) / self.warmup
        share = (iteration - self.warmup) / max(1, self.iterations - self.warmup)
        return self.lr * 0.5 * (1 + math.cos(math.pi * share))

    def decay(self, iteration: int) -> float:
        """Return the decay of the average: short at first, so that it forgets the random start."""
        return min(self.ema, (1 + iteration) / (10 + iteration))


@dataclass(frozen=True, slots=True)
class Progress:
    """What the updates since the last report showed: numbers for a log, images for a picture.

    Attributes:
        iteration: Updates done.
        iterations: Updates in all.
        seconds: Since the training began, or went on.
        loss: Mean squared error of the noise, per pixel; 1 is that of predicting none.
        images: float32 (B, C, H, W) about in [-1, 1]: the last batch as the network sees it
            without its noise, each image from another noise level.
    """

    iteration: int
    iterations: int
    seconds: float
    loss: float
    images: Tensor

    @property
    def summary(self) -> str:
        """The figure that a log shows."""
        return f"loss {self.loss:.4f}"


def check_training(images: NDArray[np.uint8], config: UNetConfig, recipe: DDPMRecipe) -> None:
    """Check that a network of this shape can be trained on these images.

    Raises:
        DataError: If there are fewer images than a batch, or their shape does not suit network or
            crops.
    """
    if len(images) < recipe.batch_size:
        raise DataError(f"{len(images)} images are fewer than a batch of {recipe.batch_size}.")
    check_crop(recipe.crop_pad, images.shape[2:])
    _, channels, height, width = images.shape
    if channels != config.in_channels or height % config.divisor or width % config.divisor:
        raise DataError(
            f"the network takes {config.in_channels} channels and sides divisible by "
            f"{config.divisor}; images are {images.shape[1:]}."
        )


def fitted(config: UNetConfig, images: NDArray[np.uint8]) -> UNetConfig:
    """Return the shape of a network that is trained on these images: it knows their size."""
    height, width = images.shape[2:]
    return replace(config, sample_size=height if height == width else None)


def train_ddpm(
    images: NDArray[np.uint8],
    config: UNetConfig,
    recipe: DDPMRecipe,
    seed: int,
    *,
    device: str = "auto",
    precision: Precision = "auto",
    checkpoint: Path | None = None,
    checkpoint_every: int = 250,
    on_progress: Callable[[Progress], None] | None = None,
    progress_every: int = 50,
) -> DDPM:
    """Train a noise predictor on images and return the averaged one.

    Inside :func:`harness.core.parallel.together`, workers that all call this with the same
    arguments share each update, and the first of them writes ``checkpoint``; each is shown its own
    rows.

    Args:
        images: uint8 (N, C, H, W); labels play no part.
        config: Shape of the network; its ``sample_size`` becomes that of square images.
        recipe: Updates, rates, noise levels.
        seed: Seed of initial weights, batches and noise.
        device: ``auto``, ``cpu`` or ``cuda[:i]``.
        precision: Type of the network's activations; weights and loss stay float32.
        checkpoint: File that is written every ``checkpoint_every`` updates; where it exists with
            the same configuration, recipe and seed, training goes on from it.
        on_progress: Called every ``progress_every`` updates and at the last.

    Raises:
        DataError: If there are fewer images than a batch, their shape does not suit the network,
            the workers cannot share a batch equally, or the loss stops being finite.
    """
    check_training(images, config, recipe)
    config = fitted(config, images)
    workers = take_part()
    check_share(recipe.batch_size, workers.count)
    where = pick_device(device)
    run = _Run(images, config, recipe, seed, where, pick_dtype(precision, where), workers)
    identity = {"config": asdict(config), "recipe": asdict(recipe), "seed": seed}
    began = time.perf_counter()
    total, count = torch.zeros((), device=where), 0
    for iteration in updates(
        run.learner, recipe.iterations, identity, checkpoint, checkpoint_every
    ):
        loss, estimates = run.update(iteration)
        total, count = total + loss, count + 1
        done = iteration + 1
        if done % progress_every == 0 or done == recipe.iterations:
            mean = float(total) / count
            if not math.isfinite(mean):
                raise DataError(
                    f"training diverged at update {done}: the loss is not finite; lower lr."
                )
            if on_progress:
                seconds = time.perf_counter() - began
                on_progress(Progress(done, recipe.iterations, seconds, mean, estimates()))
            total, count = torch.zeros_like(total), 0
    return run.learner.average.eval()


class _Run:
    """The state of a training and its one update."""

    def __init__(
        self,
        images: NDArray[np.uint8],
        config: UNetConfig,
        recipe: DDPMRecipe,
        seed: int,
        device: torch.device,
        dtype: torch.dtype,
        workers: Workers,
    ) -> None:
        self.workers = workers
        self.recipe, self.seed, self.device, self.dtype = recipe, seed, device, dtype
        self.images = torch.tensor(images).to(device)
        self.order = RowOrder(len(images), recipe.batch_size, seed, "ddpm", "order")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(stream(seed, "ddpm", "init").integers(2**31)))
            self.model = channels_last(DDPM(config, recipe.horizon).to(device))
        adam = AdamW(
            self.model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True
        )
        self.learner = Learner(self.model, adam, workers)
        self.learner.average.requires_grad_(False)
        levels = torch.tensor([alpha_bar(t) for t in range(recipe.horizon)], device=device)
        self.signal, self.sigma = levels.sqrt(), (1 - levels).sqrt()

    def _rows(self, iteration: int) -> Tensor:
        return on_device(torch.from_numpy(self.order.rows(iteration)), self.device)

    def update(self, iteration: int) -> tuple[Tensor, Callable[[], Tensor]]:
        """Do one update; return its loss, and a function that gives the denoised batch."""
        # A generator of its own per update: training that goes on needs no stored random state.
        rng = torch_generator(self.seed, "ddpm", "update", iteration, device=self.device)
        x0 = self.images[self._rows(iteration)].float().div_(127.5).sub_(1)
        count = len(x0)
        if self.recipe.flip:
            mirror = torch.rand(count, generator=rng, device=self.device) < 0.5
            x0 = torch.where(mirror[:, None, None, None], x0.flip(3), x0)
        x0 = random_crop(x0, self.recipe.crop_pad, stream(self.seed, "ddpm", "crop", iteration))
        # Each batch covers the horizon evenly: uniform all the same, with less variance.
        place = torch.rand(count, generator=rng, device=self.device)
        place = (torch.arange(count, device=self.device) + place) / count
        t = place.mul_(self.recipe.horizon).long().clamp_(max=self.recipe.horizon - 1)
        z = torch.randn(x0.shape, generator=rng, device=self.device)
        mine = self.workers.share(count)
        x0, t, z = x0[mine], t[mine], z[mine]
        signal, sigma = (s[t][:, None, None, None] for s in (self.signal, self.sigma))
        x = signal * x0 + sigma * z
        lower = self.dtype != torch.float32
        with true_float32(self.dtype):
            with torch.autocast(self.device.type, dtype=self.dtype, enabled=lower):
                predicted = self.model(x, t)
            loss = F.mse_loss(predicted.float(), z)
            recipe = self.recipe
            loss = self.learner.update(loss, recipe.rate(iteration), recipe.decay(iteration))
        return loss, lambda: (x - sigma * predicted.detach().float()) / signal
