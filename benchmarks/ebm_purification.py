"""How fast Langevin purification is, against the straightforward form in the same run.

Both take Langevin steps on the same random energy network, from uint8 images to uint8 images. The
straightforward side computes in float32 and NCHW order, as the network is written, and its gradient
comes from autograd; its noise is one ``randn`` per step. Ours is what the defense runs.

    OMP_NUM_THREADS=1 python benchmarks/ebm_purification.py --out ebm_purification.json
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator

import numpy as np
import torch
from _frame import STRAIGHTFORWARD, TYPES, Case, Form, native, parser, run
from _kinks import TOLERANCE, compare
from numpy.typing import NDArray
from torch import Tensor

from defenses._purify import langevin_steps, purify_images
from generative.ebm import EBM, EBMConfig, FoldedEnergy
from generative.langevin import STEP_SIZE, TEMPERATURE
from generative.noise import row_noise

TARGETS = {128: 4.5, 32: 2.2}
GOLDEN_ENERGIES = (183.45580, 185.97267)  # of :func:`golden`


def network(nf: int, seed: int, device: str) -> EBM:
    """Return an energy network of random weights and biases."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = EBM(EBMConfig(nf=nf)).requires_grad_(False)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.uniform_(-0.1, 0.1)
    return model.to(device)


def golden(device: str) -> tuple[EBM, Tensor]:
    """Return a network of the published width and two images that anyone can make: sines.

    None of its units is at its kink, so that every form has the same gradient in float32.
    """
    model = EBM().requires_grad_(False)
    for index, (name, values) in enumerate(sorted(model.state_dict().items())):
        wave = torch.sin(0.01 * torch.arange(values.numel(), dtype=torch.float64) + index)
        factor = 0.1 if values.ndim == 1 else (3 * values.shape[0] / values.numel()) ** 0.5
        model.get_parameter(name).copy_((factor * wave).reshape(values.shape))
    x = torch.sin(0.05 * torch.arange(2 * 3 * 32 * 32, dtype=torch.float64))
    return model.to(device), x.reshape(2, 3, 32, 32).float().to(device)


def gradient(model: EBM, x: Tensor) -> Tensor:
    """Return dE/dx by autograd."""
    x = x.detach().requires_grad_()
    return torch.autograd.grad(model(x).sum(), x)[0]


def straightforward(
    images: NDArray[np.uint8], model: EBM, steps: int, noise: Iterator[Tensor] | None = None
) -> NDArray[np.uint8]:
    """Return purified images, as the published code computes them (but rounded and clamped)."""
    device = model.l5.weight.device
    x = torch.tensor(images).to(device).float() / 127.5 - 1
    for _ in range(steps):
        z = torch.randn_like(x) if noise is None else next(noise)
        x = x - STEP_SIZE**2 / 2 * gradient(model, x) / TEMPERATURE + STEP_SIZE * z
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()


def cases(arguments: argparse.Namespace) -> Iterator[Case]:
    """Yield a case of equal steps per width, and of the last one also one of fewer calls."""
    for nf in arguments.nf:
        yield _case(nf, arguments)
    yield _fewer_calls(arguments.nf[-1], arguments)


def apart(found: Tensor, expected: Tensor) -> Tensor:
    """Return by how much the gradient of each image is off, relative to its norm."""
    norms = expected.flatten(1).norm(dim=1)
    return (found - expected).flatten(1).norm(dim=1) / norms


def agreement(model: EBM, x: Tensor) -> dict[str, float | bool | str]:
    """Compare energies and gradients of images: in float64, and in float32 but for units at kinks.

    At the published width also those of :func:`golden`, in float32 and without exception.
    """
    fast, energies = FoldedEnergy(model), model(x)[:, 0]
    error = float(((fast.energy(x) - energies) / energies).abs().max())
    single = compare(lambda: gradient(model, x), lambda: fast.input_gradient(x), apart)
    doubled = copy.deepcopy(model).double()
    folded = FoldedEnergy(doubled, torch.float64).input_gradient(x.double())
    exact = float(apart(folded, gradient(doubled, x.double())).max())
    found: dict[str, float | bool | str] = {"energy error": error, **single.named("gradient")}
    found["gradient error, float64"] = exact
    equal = error < TOLERANCE and single.equal and exact < 1e-6
    if model.config.nf == 128:
        published, waves = golden(str(x.device))
        fast = FoldedEnergy(published)
        off = apart(fast.input_gradient(waves), gradient(published, waves))
        wanted = torch.tensor(GOLDEN_ENERGIES, device=x.device)
        energies = torch.stack([fast.energy(waves), published(waves)[:, 0]])
        worst = max(float(off.max()), float((energies / wanted - 1).abs().max()))
        found["golden values, worst"] = worst
        equal = equal and worst < TOLERANCE
    return {**found, "equal": equal}


def _images(count: int, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)


def _case(nf: int, arguments: argparse.Namespace) -> Case:
    steps, device = arguments.steps, arguments.device
    model = network(nf, arguments.seed, device)
    images = _images(max(arguments.batches), arguments.seed)
    ids = np.arange(len(images))

    def ours(batch: int, precision: str) -> NDArray[np.uint8]:
        energy = FoldedEnergy(model, TYPES[precision])
        rows = images[:batch], ids[:batch]
        purifier = langevin_steps(energy, steps)
        return purify_images(*rows, purifier, 0, batch_size=batch, device=device)

    def check() -> dict[str, float | bool | str]:
        few = images[:16]
        x = torch.tensor(few).to(device).float() / 127.5 - 1
        z = row_noise(0, ids[:16], (3, 32, 32), device)
        plain = straightforward(few, model, steps, z).astype(int)
        return {
            **agreement(model, x),
            "grey levels apart, fp32": float(np.abs(ours(16, "fp32") - plain).mean()),
            "grey levels apart, bf16": float(np.abs(ours(16, "bf16") - plain).mean()),
        }

    forms = []
    for batch in arguments.batches:
        some = images[:batch]
        options = {"count": batch * steps, "variant": f"batch {batch}"}
        forms.append(
            Form(
                STRAIGHTFORWARD,
                lambda some=some: straightforward(some, model, steps),
                precision="fp32",
                **options,
            )
        )
        forms += [
            Form(
                f"ours, {precision}",
                lambda batch=batch, precision=precision: ours(batch, precision),
                precision=precision,
                **options,
            )
            for precision in native(device)
        ]
    what = f"Langevin purification, nf {nf}, {steps} steps"
    return Case(what, "image and step", forms, check, TARGETS.get(nf))


def _fewer_calls(nf: int, arguments: argparse.Namespace) -> Case:
    """Return the case of two steps per call: what they do to images is not compared here."""
    steps, device, batch = arguments.steps, arguments.device, max(arguments.batches)
    model, images = network(nf, arguments.seed, device), _images(batch, arguments.seed)
    forms = [
        Form(
            STRAIGHTFORWARD,
            lambda: straightforward(images, model, steps),
            count=batch * steps,
            precision="fp32",
        )
    ]
    for precision in native(device):

        def work(precision: str = precision) -> object:
            energy = FoldedEnergy(model, TYPES[precision])
            purifier = langevin_steps(energy, steps, steps_per_call=2)
            rows = images, np.arange(batch)
            return purify_images(*rows, purifier, 0, batch_size=batch, device=device)

        side = f"ours, {precision}, `steps_per_call: 2`"
        forms.append(Form(side, work, count=batch * steps, precision=precision))
    what = f"Langevin purification, nf {nf}, {steps} steps, two per call"
    effect = "longer steps, not the same images: docs/defenses.md has what they do"
    return Case(what, "image and step", forms, lambda: {"effect": effect})


def main() -> None:
    """Compare the forms for each width."""
    made = parser(__doc__)
    made.add_argument("--nf", type=int, nargs="+", default=[128, 32], help="widths")
    made.add_argument("--batches", type=int, nargs="+", default=[64, 128], help="batch sizes")
    made.add_argument("--steps", type=int, default=16, help="Langevin steps per run")
    run("ebm_purification", made, cases)


if __name__ == "__main__":
    main()
