"""How fast an energy network is trained, against the straightforward form in the same run.

Both do the same updates: chains of Langevin steps from a bank, the contrastive loss, Adam.
The straightforward side is the published loop: float32, NCHW order, gradients by autograd, two
numbers read back per update for its log. Ours is ``train_ebm``, with what surrounds the updates.

    OMP_NUM_THREADS=1 python benchmarks/ebm_training.py --out ebm_training.json
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator

import numpy as np
import torch
from _frame import STRAIGHTFORWARD, Case, Form, native, parser, run
from numpy.typing import NDArray
from torch import Tensor

from generative.ebm import EBM, EBMConfig, FoldedEnergy, folded_energy
from generative.ebm_training import EBMRecipe, train_ebm
from generative.langevin import STEP_SIZE, TEMPERATURE

TARGET = 3.0
DATA_NOISE = 1.5e-2


def straightforward(
    images: NDArray[np.uint8], nf: int, updates: int, batch: int, chain: int, device: str
) -> list[float]:
    """Train as the published code does; return the logged losses."""
    model = EBM(EBMConfig(nf=nf)).to(device)
    adam = torch.optim.Adam(model.parameters(), lr=1e-4)
    data = torch.tensor(images).float() / 127.5 - 1
    bank = data[:batch] + DATA_NOISE * torch.randn(batch, *data.shape[1:])
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
        renewed = (torch.rand(batch) < 0.05)[:, None, None, None]
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


def _errors(model: EBM, x: Tensor) -> tuple[float, float]:
    """Return how far the gradients of weights and of images are off, as shares of their norms."""
    weights = list(model.parameters())
    exact = torch.autograd.grad(model(x).mean(), weights)
    folded = torch.autograd.grad(folded_energy(model, x).mean(), weights)
    off = max(
        float((a - b).norm() / b.norm().clamp_min(1e-12))
        for a, b in zip(folded, exact, strict=True)
    )
    x = x.clone().requires_grad_()
    slope = torch.autograd.grad(model(x).sum(), x)[0]
    moved = FoldedEnergy(model, x.dtype).input_gradient(x.detach()) - slope
    return off, float(moved.norm() / slope.norm())


def _case(nf: int, arguments: argparse.Namespace) -> Case:
    updates, chain, device = arguments.updates, arguments.chain_steps, arguments.device
    source = np.random.default_rng(arguments.seed)
    rows = updates * max(arguments.batches)
    images = source.integers(0, 256, (rows, 3, 32, 32), dtype=np.uint8)

    def ours(batch: int, precision: str) -> EBM:
        recipe = EBMRecipe(iterations=updates, batch_size=batch, bank_size=batch, chain_steps=chain)
        return train_ebm(images, EBMConfig(nf=nf), recipe, 0, device=device, precision=precision)

    def check() -> dict[str, float | bool]:
        """Compare one update's gradients of weights, and what moves the chains.

        In float64, and in float32, where a unit at the kink of its ReLU may fall on either side.
        """
        torch.manual_seed(arguments.seed)
        model = EBM(EBMConfig(nf=nf)).to(device)
        x = torch.tensor(images[:16]).to(device).float() / 127.5 - 1
        exact = max(_errors(copy.deepcopy(model).double(), x.double()))
        off, moved = _errors(model, x)
        return {
            "weight gradient error": off,
            "chain gradient error": moved,
            "worst in float64": exact,
            "equal": exact < 1e-6 and max(off, moved) < 1e-4,
        }

    forms = []
    for batch in arguments.batches:
        options = {"count": updates * batch, "variant": f"batch {batch}"}

        def work(batch: int = batch) -> object:
            return straightforward(images, nf, updates, batch, chain, device)

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
