"""Training one classifier: one process, one device, data and augmentation as tensors on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from harness.core.augment import random_crop, random_cutout, random_flip
from harness.core.batches import AtMost, Batches
from harness.core.data import ImageSet
from harness.core.device import channels_last, on_device, pick_dtype, true_float32
from harness.core.errors import DataError
from harness.core.hooks import CheckedHook
from harness.core.optimizers import SGD, Adam, all_at_once
from harness.core.parallel import Workers, gradients
from harness.core.protocols import TrainingHook
from harness.core.recipe import Recipe
from harness.core.seeds import stream, subseed

ALONE = Workers()
# Images that a trained network is asked about at once. Fewer of them may round otherwise, as the
# last ones of a set do.
_ASKED = AtMost(512)


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one pass over the training rows showed.

    Attributes:
        epoch: Counted from 0.
        loss: Mean training loss over the rows, with label smoothing, of the augmented images.
        rows: Rows trained on; fewer than the set where a hook left some out.
    """

    epoch: int
    loss: float
    rows: int


class Checkpoint(Protocol):
    """Where a training is kept after each epoch, and found again."""

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
        """Put back what was kept, and return how many epochs it has behind it; 0 for nothing."""
        ...

    def keep(self, model: nn.Module, optimizer: torch.optim.Optimizer, epochs: int) -> None:
        """Keep a training that has so many epochs behind it."""
        ...


@dataclass(frozen=True, slots=True)
class Predictor:
    """A trained network as a function of stored images.

    Attributes:
        model: The network, in evaluation mode.
        dtype: Type of its activations.
    """

    model: nn.Module
    dtype: torch.dtype = torch.float32

    resource_kind: ClassVar[str] = "classifier"

    def logits(
        self, images: NDArray[np.uint8], batch_size: int | AtMost = _ASKED
    ) -> NDArray[np.float32]:
        """Return logits, float32 (N, num_classes), of uint8 images (N, C, H, W)."""
        return self._map(self.model, images, batch_size)

    def features(
        self, images: NDArray[np.uint8], batch_size: int | AtMost = _ASKED
    ) -> NDArray[np.float32]:
        """Return what the network's head reads, float32 (N, D), of uint8 images (N, C, H, W)."""
        return self._map(lambda x: self.model.features(x), images, batch_size)  # type: ignore[operator]

    def _map(
        self,
        network: Callable[[Tensor], Tensor],
        images: NDArray[np.uint8],
        batch_size: int | AtMost,
    ) -> NDArray[np.float32]:
        device = next(self.model.parameters()).device
        self.model.eval()
        parts: list[Tensor] = []

        def ask(part: slice) -> None:
            x = on_device(torch.tensor(images[part]), device).float().div_(255)
            x = x.contiguous(memory_format=torch.channels_last)
            with _autocast(device, self.dtype):
                parts.append(network(x).float())

        with torch.inference_mode(), true_float32(self.dtype):
            Batches(len(images), batch_size).each(ask)
            return np.concatenate([part.cpu().numpy() for part in parts])

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return predicted labels, int64 (N,)."""
        labels: NDArray[np.int64] = self.logits(images).argmax(1).astype(np.int64)
        return labels


def _autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def build_model(
    build: Callable[[int, tuple[int, int, int]], nn.Module],
    num_classes: int,
    image_shape: tuple[int, int, int],
    rng: np.random.Generator,
) -> nn.Module:
    """Build a network whose initial weights depend on ``rng`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(subseed(rng))
        return build(num_classes, image_shape)


def fit(
    model: nn.Module,
    train: ImageSet,
    recipe: Recipe,
    rng: np.random.Generator,
    *,
    hooks: Sequence[TrainingHook] = (),
    device: torch.device | str = "cpu",
    trainable: Sequence[nn.Parameter] | None = None,
    frozen_statistics: bool = False,
    on_epoch: Callable[[Epoch, nn.Module], None] | None = None,
    workers: Workers = ALONE,
    checkpoint: Checkpoint | None = None,
) -> Predictor:
    """Train a network in place and return it as a predictor.

    Several workers that call this with the same arguments share each batch: their gradients are
    those of the whole, but for batch normalisation, whose statistics are those of each worker's
    rows in training, and the mean of all workers' where it is used.

    Args:
        model: Float (B, C, H, W) in [0, 1] → logits.
        train: Rows to train on.
        recipe: Optimiser, schedule, augmentation.
        rng: Source of order, augmentation and of what hooks draw.
        hooks: A defense's part; see :class:`TrainingHook`.
        device: Where to train.
        trainable: Parameters to update; all of the model's unless given.
        frozen_statistics: Train in evaluation mode: batch normalisation keeps its statistics.
        on_epoch: Called after each epoch.
        workers: Who shares the training; by default this process is alone.
        checkpoint: Where the training is kept after each epoch, and from which it goes on: to the
            very end that it would have come to without a stop.

    Raises:
        DataError: If there are no rows, the loss stops being finite, or a hook returns what is no
            part of a training.
    """
    if not len(train):
        raise DataError("the training set is empty; there is nothing to train on.")
    check_parts(recipe, len(train), workers.count)
    device = torch.device(device)
    dtype = pick_dtype(recipe.precision, device)
    model = channels_last(model.to(device))
    images, labels = torch.tensor(train.images).to(device), torch.tensor(train.labels).to(device)
    parameters = list(model.parameters() if trainable is None else trainable)
    optimizer = make_optimizer(parameters, recipe)
    running = [b for name, b in model.named_buffers() if "running_" in name]
    seed = subseed(rng)
    checked = [CheckedHook(hook) for hook in hooks]
    done = checkpoint.restore(model, optimizer) if checkpoint else 0
    for epoch in range(done, recipe.epochs):
        rows = np.arange(len(train), dtype=np.int64)
        for hook in checked:
            model.eval()
            chosen = hook.before_epoch(epoch, train, model, stream(seed, "hook", epoch))
            rows = np.intersect1d(rows, chosen)
        if not len(rows):
            raise DataError(f"the defense left no row to train on in epoch {epoch}.")
        model.train(not frozen_statistics)
        order = stream(seed, "order", epoch).permutation(rows)
        noise = stream(seed, "augment", epoch)
        total = torch.zeros((), device=device)
        batches = [
            order[i : i + recipe.batch_size] for i in range(0, len(order), recipe.batch_size)
        ]
        if len(batches) > 1 and len(batches[-1]) < 2 * workers.count:
            batches.pop()  # batch normalisation has no variance over one row
        for index, batch in enumerate(batches):
            progress = (epoch + (index + 1) / len(batches)) / recipe.epochs
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate(min(progress, 1.0), epoch)
            where = on_device(torch.from_numpy(batch), device)
            x = images[where].float().div_(255)
            for hook in checked:
                x = hook.on_batch(x, batch, noise)
            x = augment(x, recipe, noise)
            with true_float32(dtype):
                loss = _step(model, x, labels[where], recipe, optimizer, dtype, workers)
            total += loss * len(batch)
        for hook in checked:
            hook.check_values()
        if workers.count > 1:
            workers.average([total, *running])
        mean = float(total) / sum(map(len, batches))
        if not np.isfinite(mean):
            raise DataError(
                f"training diverged in epoch {epoch}: the loss is not finite; lower lr."
            )
        if on_epoch:
            on_epoch(Epoch(epoch, mean, len(rows)), model)
        if checkpoint:
            checkpoint.keep(model, optimizer, epoch + 1)
    return Predictor(model.eval(), dtype)


def check_parts(recipe: Recipe, rows: int, workers: int) -> None:
    """Check that each of several workers has two rows of a batch: one has no variance.

    Raises:
        DataError: If not.
    """
    if workers > 1 and min(recipe.batch_size, rows) < 2 * workers:
        raise DataError(
            f"{workers} workers need two rows each of a batch; batch_size is "
            f"{recipe.batch_size}, and there are {rows} rows."
        )


def make_optimizer(
    parameters: Sequence[Tensor], recipe: Recipe, axes: int = 1
) -> torch.optim.Optimizer:
    """Return the recipe's optimiser of these parameters.

    Args:
        parameters: What it updates.
        recipe: Its kind and numbers.
        axes: Most axes of a bias, a shift or a scale; one more where several are stacked.
    """
    groups: list[dict[str, Any]]
    groups = [{"params": list(parameters), "weight_decay": recipe.weight_decay}]
    if recipe.decayed == "weights":
        groups[0]["params"] = [p for p in parameters if p.ndim > axes]
        groups.append({"params": [p for p in parameters if p.ndim <= axes], "weight_decay": 0.0})
    if recipe.optimizer == "adam":
        betas = (recipe.momentum, 0.999)
        return Adam(groups, lr=recipe.lr, betas=betas, **all_at_once(parameters))
    return SGD(
        groups, lr=recipe.lr, momentum=recipe.momentum,
        nesterov=recipe.nesterov and recipe.momentum > 0, **all_at_once(parameters),
    )  # fmt: skip


def augment(x: Tensor, recipe: Recipe, rng: np.random.Generator) -> Tensor:
    """Flip, crop and cut a batch as the recipe says; channels-last."""
    if recipe.flip:
        x = random_flip(x, rng)
    mode = "reflect" if recipe.border == "reflect" else "constant"
    x = random_crop(x, recipe.crop_pad, rng, mode)
    x = random_cutout(x, recipe.cutout, rng)
    return x.contiguous(memory_format=torch.channels_last)


def _step(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    recipe: Recipe,
    optimizer: torch.optim.Optimizer,
    dtype: torch.dtype,
    workers: Workers = ALONE,
) -> Tensor:
    """Update the network, and return the loss; of several workers, the mean is that of all rows."""
    rows = len(x)
    if workers.count > 1:
        x, y = x[workers.part(rows)], y[workers.part(rows)]
    with _autocast(x.device, dtype):
        logits = model(x)
    loss = F.cross_entropy(logits.float(), y, label_smoothing=recipe.label_smoothing)
    if workers.count > 1:
        loss = loss * (len(x) * workers.count / rows)  # parts may differ by a row
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if workers.count > 1:
        workers.average(gradients([p for g in optimizer.param_groups for p in g["params"]]))
    optimizer.step()
    return loss.detach()
