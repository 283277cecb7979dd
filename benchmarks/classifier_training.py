"""How fast a classifier is trained, against the straightforward form in the same run.

Both do the same updates of the same network on the same number of images. The straightforward side
is the usual loop: float32, NCHW order, crop and flip image by image, the loss read back in each
update. Ours is ``fit``.

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


def augmented(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Return crops of images padded by 4 px, some mirrored, one image after the other."""
    crops = []
    for image in images:
        y, x = rng.integers(0, 9, 2)
        crop = F.pad(image, (4, 4, 4, 4))[:, y : y + image.shape[1], x : x + image.shape[2]]
        crops.append(crop.flip(2) if rng.random() < 0.5 else crop)
    return torch.stack(crops)


def straightforward(
    model: nn.Module, train: ImageSet, recipe: Recipe, seed: int, device: str
) -> list[float]:
    """Train one epoch; return the losses."""
    model = copy.deepcopy(model).to(device).train()
    sgd = torch.optim.SGD(
        model.parameters(), lr=recipe.lr, momentum=recipe.momentum,
        weight_decay=recipe.weight_decay, foreach=False,
    )  # fmt: skip
    rng, losses = np.random.default_rng(seed), []
    order = rng.permutation(len(train))
    for start in range(0, len(train), recipe.batch_size):
        rows = order[start : start + recipe.batch_size]
        x = augmented(torch.tensor(train.images[rows]).float() / 255, rng).to(device)
        y = torch.tensor(train.labels[rows]).to(device)
        loss = F.cross_entropy(model(x), y)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        losses.append(loss.item())
    return losses


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

    def check() -> dict[str, float | bool]:
        """Compare the losses of a first batch, in the order and type of each side."""
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
        return {
            "loss error, fp32": abs(found / expected - 1),
            "loss error, bf16": abs(low / expected - 1),
            "equal": abs(found / expected - 1) < 1e-4,
        }

    forms = []
    for batch in arguments.batches:
        options = {"count": arguments.updates * batch, "variant": f"batch {batch}"}

        def work(batch: int = batch) -> object:
            return straightforward(model, part(batch), recipe(batch, "fp32"), seed, device)

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
