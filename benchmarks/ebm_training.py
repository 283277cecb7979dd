"""How fast an energy network is trained, against the straightforward form in the same run.

Both do the same updates: chains of Langevin steps from a bank, the contrastive loss, Adam.
The straightforward side is the published loop: float32, NCHW order, gradients by autograd, two
numbers read back per update for its log. Ours is ``train_ebm``, with what surrounds the updates.

    OMP_NUM_THREADS=1 python benchmarks/ebm_training.py --out ebm_training.json
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from _draws import Draws
from _frame import STRAIGHTFORWARD, Case, Form, native, parser, run
from _kinks import TOLERANCE, Comparison, compare
from ebm_purification import apart, golden, gradient
from numpy.typing import NDArray
from torch import Tensor

from generative.ebm import EBM, EBMConfig, FoldedEnergy, folded_energy
from generative.ebm_training import EBMRecipe, train_ebm
from generative.langevin import STEP_SIZE, TEMPERATURE
from harness.core.seeds import stream

TARGET = 3.0
DATA_NOISE = 1.5e-2
RATE = 1e-4
REJUVENATION = 0.05
CHANGE_TOLERANCE = 1e-3  # one weight in 2,000 may go the other way: see _moved_apart
ROWS = 16  # of a check: what goes through the folded network at once on any device


def straightforward(
    model: EBM, images: NDArray[np.uint8], updates: int, batch: int, chain: int, device: str
) -> list[float]:
    """Train a network in place as the published code does; return the logged numbers."""
    model = model.to(device)
    adam = torch.optim.Adam(model.parameters(), lr=RATE)
    data = torch.tensor(images).float() / 127.5 - 1
    bank = data[torch.randint(len(data), (batch,))]
    bank = bank + DATA_NOISE * torch.randn(bank.shape)
    losses = []
    for update in range(updates):
        clean = data[update * batch : (update + 1) * batch].to(device)
        positive = clean + DATA_NOISE * torch.randn_like(clean)
        slots = torch.randperm(len(bank))[:batch]
        x = bank[slots].to(device)
        moved = 0.0
        for _ in range(chain):
            x = x.detach().requires_grad_()
            gradient = torch.autograd.grad(model(x).sum() / TEMPERATURE, x)[0]
            x = x - STEP_SIZE**2 / 2 * gradient + STEP_SIZE * torch.randn_like(x)
            moved += STEP_SIZE**2 / 2 * gradient.flatten(1).norm(dim=1).mean()
        negative = x.detach()
        renewed = (torch.rand(batch) < REJUVENATION)[:, None, None, None]
        fresh = positive + DATA_NOISE * torch.randn_like(positive)
        bank[slots] = torch.where(renewed, fresh.cpu(), negative.cpu())
        loss = (model(positive).mean() - model(negative).mean()) / TEMPERATURE
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses += [loss.item(), float(moved)]
    return losses


def cases(arguments: argparse.Namespace) -> Iterator[Case]:
    """Yield one case per width."""
    for nf in arguments.nf:
        yield _case(nf, arguments)


def _worst(found: list[Tensor], expected: list[Tensor]) -> Tensor:
    """Return, as one number (1,), how far the gradient of any weight is off, of its norm."""
    pairs = zip(found, expected, strict=True)
    return torch.stack([(a - b).norm() / b.norm().clamp_min(1e-12) for a, b in pairs]).max()[None]


def _moved_apart(found: list[Tensor], expected: list[Tensor]) -> Tensor:
    """Return (1,): by how much the changes of all weights are apart, as a share of their size.

    Adam's first update is about the rate times the sign of the gradient, so that a weight whose
    gradient is nearly 0 may go either way: sums of sizes show how many do, a norm exaggerates them.
    """
    off = sum((a - b).abs().sum() for a, b in zip(found, expected, strict=True))
    return torch.as_tensor(off / sum(b.abs().sum() for b in expected))[None]


def slopes(model: EBM, x: Tensor, energy: Callable[[EBM, Tensor], Tensor]) -> list[Tensor]:
    """Return the gradients of the weights, of the mean energy of images."""
    return list(torch.autograd.grad(energy(model, x).mean(), list(model.parameters())))


def _plain_energy(model: EBM, x: Tensor) -> Tensor:
    return model(x)[:, 0]


def one_update(images: NDArray[np.uint8], nf: int, chain: int, device: str) -> Comparison:
    """Compare the weights after one update from the same weights and the same random numbers."""
    recipe = EBMRecipe(
        iterations=1, batch_size=len(images), bank_size=len(images), chain_steps=chain, lr=RATE,
        warmup=1, rejuvenation=REJUVENATION, data_noise=DATA_NOISE, ema=0.0, flip=False,
    )  # fmt: skip

    def trained(recipe: EBMRecipe) -> EBM:
        return train_ebm(images, EBMConfig(nf=nf), recipe, 0, device=device, precision="fp32")

    still = trained(replace(recipe, lr=1e-30))  # leaves the weights that a training starts from
    order = stream(0, "ebm", "order", 0).permutation(len(images))
    draws: list[Tensor] = []

    def change(model: EBM) -> list[Tensor]:
        pairs = zip(model.parameters(), still.parameters(), strict=True)
        return [(now - before).detach() for now, before in pairs]

    def ours() -> list[Tensor]:
        with Draws() as noted:
            model = trained(recipe)
        # The loop is given the images in the order of the epoch: there the bank's have other rows.
        rows = torch.from_numpy(np.argsort(order)).to(noted.made[0].device)
        draws[:] = [rows[noted.made[0]], *noted.made[1:]]
        return change(model)

    def plain() -> list[Tensor]:
        model = copy.deepcopy(still).to(memory_format=torch.contiguous_format)
        with Draws(draws):
            straightforward(model, images[order], 1, len(images), chain, device)
        return change(model)

    def apart_in_calls(masks: list[Tensor]) -> list[Tensor]:
        """Ours takes the energies of images and chains at once, the published loop in turn."""
        both = masks[8 * chain :]
        halves = [m[: len(images)] for m in both], [m[len(images) :] for m in both]
        return [*masks[: 8 * chain], *halves[0], *halves[1]]

    return compare(plain, ours, _moved_apart, apart_in_calls, CHANGE_TOLERANCE)


def agreement(
    images: NDArray[np.uint8], nf: int, chain: int, seed: int, device: str
) -> dict[str, float | bool | str]:
    """Compare the gradients of weights and chains, and the weights after an update.

    In float64, and in float32 but for units at their kinks; at the published width also on what
    :func:`ebm_purification.golden` makes, in float32 and without exception.
    """
    torch.manual_seed(seed)
    model = EBM(EBMConfig(nf=nf)).to(device)
    x = torch.tensor(images).to(device).float() / 127.5 - 1
    fast = FoldedEnergy(model)

    def off(model: EBM, x: Tensor) -> float:
        folded, plain = (slopes(model, x, energy) for energy in (folded_energy, _plain_energy))
        moved = FoldedEnergy(model, x.dtype).input_gradient(x)
        return max(float(_worst(folded, plain)), float(apart(moved, gradient(model, x)).max()))

    weights = compare(
        lambda: slopes(model, x, _plain_energy), lambda: slopes(model, x, folded_energy), _worst
    )
    chains = compare(lambda: gradient(model, x), lambda: fast.input_gradient(x), apart)
    update = one_update(images, nf, chain, device)
    exact = off(copy.deepcopy(model).double(), x.double())
    found: dict[str, float | bool | str] = {
        **weights.named("weight gradient"),
        **chains.named("chain gradient"),
        **update.named("weight change"),
        "gradient error, float64": exact,
    }
    equal = weights.equal and chains.equal and update.equal and exact < 1e-6
    if nf == 128:
        published, waves = golden(device)
        found["golden values, worst"] = off(published.requires_grad_(), waves)
        equal = equal and found["golden values, worst"] < TOLERANCE
    return {**found, "equal": equal}


def _case(nf: int, arguments: argparse.Namespace) -> Case:
    updates, chain, device = arguments.updates, arguments.chain_steps, arguments.device
    source = np.random.default_rng(arguments.seed)
    rows = updates * max(arguments.batches)
    images = source.integers(0, 256, (rows, 3, 32, 32), dtype=np.uint8)

    def ours(batch: int, precision: str) -> EBM:
        recipe = EBMRecipe(iterations=updates, batch_size=batch, bank_size=batch, chain_steps=chain)
        return train_ebm(images, EBMConfig(nf=nf), recipe, 0, device=device, precision=precision)

    def check() -> dict[str, float | bool | str]:
        return agreement(images[:ROWS], nf, min(chain, 3), arguments.seed, device)

    forms = []
    for batch in arguments.batches:
        options = {"count": updates * batch, "variant": f"batch {batch}"}

        def work(batch: int = batch) -> object:
            return straightforward(EBM(EBMConfig(nf=nf)), images, updates, batch, chain, device)

        forms.append(Form(STRAIGHTFORWARD, work, precision="fp32", **options))
        for p in native(device):

            def work(batch: int = batch, p: str = p) -> object:
                return ours(batch, p)

            forms.append(Form(f"ours, {p}", work, precision=p, **options))
    what = f"Training an energy network, nf {nf}, chains of {chain} steps"
    return Case(what, "image", forms, check, TARGET)


def main() -> None:
    """Compare the forms for each width."""
    made = parser(__doc__)
    made.add_argument("--nf", type=int, nargs="+", default=[128, 32], help="widths")
    made.add_argument("--batches", type=int, nargs="+", default=[32, 128], help="batch sizes")
    made.add_argument("--chain-steps", type=int, default=10, help="Langevin steps per update")
    made.add_argument("--updates", type=int, default=2, help="per run")
    run("ebm_training", made, cases)


if __name__ == "__main__":
    main()
