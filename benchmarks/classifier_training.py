"""How fast a classifier is trained, against the straightforward form in the same run.

Both do the same updates of the same network on the same number of images, by the same recipe:
schedule, Nesterov momentum, decay, label smoothing, augmentation. The straightforward side is the
usual loop: float32, NCHW order, crop and flip image by image, the loss read back in each update.
Ours is ``fit``.

    OMP_NUM_THREADS=1 python benchmarks/classifier_training.py --out classifier_training.json
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from _frame import STRAIGHTFORWARD, Case, Form, native, parser, run
from torch import Tensor, nn

from harness.core.data import ImageSet
from harness.core.protocols import CLASSIFIERS
from harness.core.recipe import Recipe
from harness.core.seeds import stream
from harness.training import build_model, fit

TARGETS = {"resnet18": 2.0}
UPDATES = 3  # that are compared: a one-cycle schedule ends at a rate of 0
UPDATE_TOLERANCE = 1e-5  # the loss itself is float32 in ``fit``


def augmented(images: Tensor, recipe: Recipe, rng: np.random.Generator) -> Tensor:
    """Return shifted, mirrored and cut images (B, C, H, W), one image after the other."""
    crops, colour = [], images.mean((0, 2, 3))[:, None, None]
    pad, border = recipe.crop_pad, "reflect" if recipe.border == "reflect" else "constant"
    _, _, height, width = images.shape
    for image in images:
        if recipe.flip and rng.random() < 0.5:
            image = image.flip(2)
        if pad:
            y, x = rng.integers(0, 2 * pad + 1, 2)
            image = F.pad(image, (pad,) * 4, mode=border)[:, y : y + height, x : x + width]
        if recipe.cutout:
            y, x = rng.integers(0, (height, width)) - recipe.cutout // 2
            image = image.clone()
            image[:, max(0, y) : y + recipe.cutout, max(0, x) : x + recipe.cutout] = colour
        crops.append(image)
    return torch.stack(crops)


def sgd(model: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """Return torch's own optimiser, as the recipe says."""
    if recipe.optimizer != "sgd":
        raise ValueError(f"the straightforward loop is written for SGD, not {recipe.optimizer}")
    parameters = list(model.parameters())
    bare = [p for p in parameters if recipe.decayed == "weights" and p.ndim <= 1]
    decayed = [p for p in parameters if recipe.decayed == "all" or p.ndim > 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}]
    groups += [{"params": bare, "weight_decay": 0.0}] if bare else []
    nesterov = recipe.nesterov and recipe.momentum > 0
    return torch.optim.SGD(
        groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=nesterov, foreach=False
    )


def straightforward(
    model: nn.Module, train: ImageSet, recipe: Recipe, seed: int, device: str
) -> list[float]:
    """Train a network in place; return the losses."""
    model = model.to(device).train()
    optimizer, rng, losses = sgd(model, recipe), np.random.default_rng(seed), []
    starts = range(0, len(train), recipe.batch_size)
    for epoch in range(recipe.epochs):
        order = rng.permutation(len(train))
        for index, start in enumerate(starts):
            progress = (epoch + (index + 1) / len(starts)) / recipe.epochs
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate(progress, epoch)
            rows = order[start : start + recipe.batch_size]
            x = torch.tensor(train.images[rows]).float() / 255
            x = augmented(x, recipe, rng).to(device)
            y = torch.tensor(train.labels[rows]).to(device)
            loss = F.cross_entropy(model(x), y, label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


def _doubled(model: nn.Module) -> nn.Module:
    """Return a copy that computes in float64 on whatever it is given."""
    doubled = copy.deepcopy(model).double()
    doubled.register_forward_pre_hook(lambda _, inputs: tuple(x.double() for x in inputs))
    return doubled


def update_error(model: nn.Module, train: ImageSet, recipe: Recipe, device: str) -> float:
    """Return how far ``fit`` and the loop are apart after updates by the same recipe, in float64.

    One batch of all rows per epoch and no augmentation: then no form draws anything that changes
    the sums, only the order of their terms.

    Returns:
        The largest difference of any weight or statistic, as a share of the size of its change.
    """
    recipe = replace(
        recipe,
        epochs=UPDATES,
        batch_size=len(train),
        flip=False,
        crop_pad=0,
        cutout=0,
        precision="fp32",
    )
    before, plain, ours = (_doubled(model).to(device) for _ in range(3))
    straightforward(plain, train, recipe, 0, device)
    fit(ours, train, recipe, stream(0, "train"), device=device)
    start, expected = before.state_dict(), plain.state_dict()
    return max(
        float((found - expected[k]).norm() / (expected[k] - start[k]).norm().clamp_min(1e-12))
        for k, found in ours.state_dict().items()
        if found.is_floating_point() and not torch.equal(expected[k], start[k])
    )


def cases(arguments: argparse.Namespace) -> Iterator[Case]:
    """Yield one case per classifier."""
    for name in arguments.classifiers:
        yield _case(name, arguments)


def _case(name: str, arguments: argparse.Namespace) -> Case:
    device, seed = arguments.device, arguments.seed
    source = np.random.default_rng(seed)
    rows = arguments.updates * max(arguments.batches)
    images = source.integers(0, 256, (rows, 3, 32, 32), dtype=np.uint8)
    train = ImageSet(images, source.integers(0, 10, rows), np.arange(rows), 10)
    classifier = CLASSIFIERS.get(name).factory()
    model = build_model(classifier.build, 10, (3, 32, 32), stream(seed, "benchmark"))

    def recipe(batch: int, precision: str) -> Recipe:
        return replace(classifier.recipe, epochs=1, batch_size=batch, precision=precision, lr=0.01)

    def part(batch: int) -> ImageSet:
        return train.take(np.arange(arguments.updates * batch))

    def ours(batch: int, precision: str) -> object:
        rng = stream(seed, "train")
        some = recipe(batch, precision)
        return fit(copy.deepcopy(model), part(batch), some, rng, device=device)

    def check() -> dict[str, float | bool | str]:
        """Compare the losses of a first batch in the order and type of each side, and updates."""
        x = torch.tensor(images[:16]).to(device).float() / 255
        y = torch.tensor(train.labels[:16]).to(device)
        plain = copy.deepcopy(model).to(device).train()
        ordered = copy.deepcopy(model).to(device, memory_format=torch.channels_last).train()
        with torch.no_grad():
            expected = float(F.cross_entropy(plain(x), y))
            x = x.contiguous(memory_format=torch.channels_last)
            found = float(F.cross_entropy(ordered(x), y))
            with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
                logits = ordered(x)
            low = float(F.cross_entropy(logits.float(), y))
        moved = update_error(model, train.take(np.arange(len(y))), recipe(16, "fp32"), device)
        return {
            "loss error, fp32": abs(found / expected - 1),
            "loss error, bf16": abs(low / expected - 1),
            f"change of weights in {UPDATES} updates, error in float64": moved,
            "equal": abs(found / expected - 1) < 1e-4 and moved < UPDATE_TOLERANCE,
        }

    forms = []
    for batch in arguments.batches:
        options = {"count": arguments.updates * batch, "variant": f"batch {batch}"}

        def work(batch: int = batch) -> object:
            some = recipe(batch, "fp32")
            return straightforward(copy.deepcopy(model), part(batch), some, seed, device)

        forms.append(Form(STRAIGHTFORWARD, work, precision="fp32", **options))
        for p in native(device):

            def work(batch: int = batch, p: str = p) -> object:
                return ours(batch, p)

            forms.append(Form(f"ours, {p}", work, precision=p, **options))
    return Case(f"Training {name}", "image", forms, check, TARGETS.get(name))


def main() -> None:
    """Compare the forms for each classifier."""
    made = parser(__doc__)
    made.add_argument("--classifiers", nargs="+", default=["resnet18", "hlb_s"], help="names")
    made.add_argument("--batches", type=int, nargs="+", default=[128], help="batch sizes")
    made.add_argument("--updates", type=int, default=2, help="per run")
    run("classifier_training", made, cases)


if __name__ == "__main__":
    main()
