"""How fast FRIENDS makes friendly noise, against the straightforward form in the same run.

Both take the same updates of the same noise against the same network, in evaluation mode. The
straightforward side is the published loop: batches of 128, float32, NCHW order, the gradient of the
weights computed along with that of the noise. Ours is ``friendly_noise``.

    OMP_NUM_THREADS=1 python benchmarks/friends_generation.py --out friends_generation.json
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from _frame import STRAIGHTFORWARD, TYPES, Case, Form, native, parser, run
from numpy.typing import NDArray
from torch import Tensor, nn

from defenses._friendly_noise import LEVELS, PUBLISHED_BATCH, FriendlySearch, friendly_noise
from harness.core.protocols import CLASSIFIERS
from harness.core.seeds import stream
from harness.training import build_model


def straightforward(
    model: nn.Module,
    images: NDArray[np.uint8],
    search: FriendlySearch,
    seed: int,
    dtype: torch.dtype,
) -> Tensor:
    """Return friendly noise (N, C, H, W) in units of [0, 1], as the published code makes it.

    Its loss is the mean over a batch; of fewer rows than 128 the rate is lower accordingly.
    """
    device, rng = next(model.parameters()).device, np.random.default_rng(seed)
    eps, made = search.eps_255 / 255, []
    for begin in range(0, len(images), PUBLISHED_BATCH):
        x = torch.tensor(images[begin : begin + PUBLISHED_BATCH]).to(device, dtype) / 255
        start = torch.from_numpy(2 * rng.random(x.shape, dtype=np.float32) - 1).to(device, dtype)
        delta = (start * search.start_255 / 255).requires_grad_()
        with torch.no_grad():
            wanted = F.log_softmax(model(x), 1)
        rate = search.lr * len(x) / PUBLISHED_BATCH
        sgd = torch.optim.SGD([delta], lr=rate, momentum=search.momentum, nesterov=True)
        for _ in range(search.steps):
            noise = delta.clamp(-eps, eps)
            changed = F.log_softmax(model((x + noise).clamp(0, 1)), 1)
            harm = F.kl_div(changed, wanted, reduction="batchmean", log_target=True)
            loss = harm - search.mu * noise.square().mean()
            sgd.zero_grad()
            loss.backward()
            sgd.step()
        made.append(delta.detach().clamp(-eps, eps))
        model.zero_grad()
    return torch.cat(made)


def cases(arguments: argparse.Namespace) -> Iterator[Case]:
    """Yield one case per classifier."""
    for name in arguments.classifiers:
        yield _case(name, arguments)


def _case(name: str, arguments: argparse.Namespace) -> Case:
    device, seed = arguments.device, arguments.seed
    source = np.random.default_rng(seed)
    images = source.integers(0, 256, (max(arguments.batches), 3, 32, 32), dtype=np.uint8)
    build = CLASSIFIERS.get(name).factory().build
    model = build_model(build, 10, (3, 32, 32), stream(seed, "benchmark")).to(device).eval()
    ordered = copy.deepcopy(model).to(memory_format=torch.channels_last)

    def search(batch: int = 1, steps: int = arguments.steps) -> FriendlySearch:
        return FriendlySearch(steps=steps, batch_size=batch)

    def check() -> dict[str, float | bool | str]:
        """Compare the stored noise after some updates in float64; a level is 1/8 grey level."""
        doubled = copy.deepcopy(model).double()
        doubled.register_forward_pre_hook(lambda _, inputs: tuple(x.double() for x in inputs))
        few, some = images[:8], search(8, min(5, arguments.steps))
        found = friendly_noise(doubled, few, some, np.random.default_rng(seed))
        expected = straightforward(doubled, few, some, seed, torch.float64) / found.unit
        apart = float((found.levels.double() - expected).abs().max())
        moved = float(expected.abs().mean() / LEVELS)
        return {"levels apart, worst": apart, "noise, share of eps": moved, "equal": apart < 0.51}

    forms = []
    for batch in arguments.batches:
        options = {"count": batch * arguments.steps, "variant": f"batch {batch}"}

        def work(batch: int = batch) -> object:
            return straightforward(model, images[:batch], search(), seed, torch.float32)

        forms.append(Form(STRAIGHTFORWARD, work, precision="fp32", **options))
        for p in native(device):

            def work(batch: int = batch, p: str = p) -> object:
                rng = np.random.default_rng(seed)
                return friendly_noise(ordered, images[:batch], search(batch), rng, TYPES[p])

            forms.append(Form(f"ours, {p}", work, precision=p, **options))
    return Case(f"Friendly noise, {name}", "image and step", forms, check)


def main() -> None:
    """Compare the forms for each classifier."""
    made = parser(__doc__)
    made.add_argument("--classifiers", nargs="+", default=["resnet18", "hlb_s"], help="names")
    made.add_argument("--batches", type=int, nargs="+", default=[128], help="images")
    made.add_argument("--steps", type=int, default=3, help="updates; 30 are published")
    run("friends_generation", made, cases)


if __name__ == "__main__":
    main()
