"""How long the paper's whole jobs take on one GPU, and how much of its peak they use.

Ours does the whole job; the straightforward side does a part of it, on fewer images, from which its
time is extrapolated (each row says from how many). The aims are seconds on one H200; the floors are
those at its published peak of 989 TFLOP/s. That the two sides agree is shown by the benchmark that
each job is named after.

    python benchmarks/whole_jobs.py --device cuda --out whole_jobs.json
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import classifier_training
import ddpm_purification
import ebm_purification
import ebm_training
import numpy as np
import torch
from _frame import STRAIGHTFORWARD, TYPES, Case, Form, native, parser, run
from torch import Tensor

from defenses._purify import langevin_steps, purify_images
from generative.ddpm import Diffusion, NoisePredictor
from generative.ebm import EBM, EBMConfig, FoldedEnergy
from generative.ebm_training import EBMRecipe, train_ebm
from generative.unet import UNetConfig, published
from harness.core.data import ImageSet
from harness.core.protocols import CLASSIFIERS
from harness.core.seeds import stream
from harness.training import build_model, fit

Plain = Callable[[int], object]  # a number of images → the job on so many
# A type of activations, a number of images, whether to compile → likewise.
Ours = Callable[[str, int, bool], object]


def _images(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)


def _compiles(arguments: argparse.Namespace) -> bool:
    """Return whether compiled forms are wanted, and torch finds the compilers that it needs."""
    if not arguments.compile:
        return False
    try:
        torch.compile(lambda x: x + 1)(torch.ones(2, device=arguments.device))
    except Exception as error:  # noqa: BLE001 (the other forms are measured all the same)
        print(f"nothing is compiled: {error}", file=sys.stderr)
        return False
    return True


def _case(
    what: str, benchmark: str, plain: Plain, ours: Ours, rows: int, arguments: argparse.Namespace,
    *, per_image: bool = False, aim_s: float | None = None, floor_s: float | None = None,
    batch: int | None = None,
) -> Case:  # fmt: skip
    """Return the case of a job on ``rows`` images; aim and floor are those of its full size.

    ``batch`` is how many go through a network at once, where torch is to compile that network.
    """
    few, precision = min(arguments.sample, rows), native(arguments.device)[-1]
    count = rows if per_image else 1.0
    part = count * few / rows
    forms = [
        Form(
            STRAIGHTFORWARD, lambda: plain(few), part,
            f"extrapolated from {few:,} of {rows:,} images", "fp32",
        ),
    ]  # fmt: skip
    brief = [(False, few)]  # so many images
    if batch and _compiles(arguments):
        brief.append((True, min(rows, batch + rows % batch)))  # a whole batch, and the last one
    for compiled, some in brief:
        forms.append(
            Form(
                f"ours, {precision}" + ", compiled" * compiled,
                lambda compiled=compiled: ours(precision, rows, compiled),  # type: ignore[misc]
                count, f"all {rows:,} images", precision,
                lambda compiled=compiled, some=some: ours(precision, some, compiled),  # type: ignore[misc]
                count * some / rows, compiled,
            )
        )  # fmt: skip
    if not arguments.full:
        aim_s = floor_s = None
    unit = "image" if per_image else "job"
    by = f"shown by {benchmark}.py"
    return Case(what, unit, forms, lambda: {"agreement": by}, aim_s=aim_s, floor_s=floor_s)


def langevin(arguments: argparse.Namespace) -> Case:
    """Return the purification of CIFAR-10 with the energy network."""
    rows, steps, device = arguments.images, arguments.langevin_steps, arguments.device
    model, images = ebm_purification.network(arguments.nf, 0, device), _images(rows, 0)

    def plain(count: int) -> object:
        return ebm_purification.straightforward(images[:count], model, steps)

    def ours(precision: str, count: int, compiled: bool) -> object:
        energy, ids = FoldedEnergy(model, TYPES[precision]), np.arange(count)
        if compiled:
            energy._gradient = torch.compile(energy._gradient, dynamic=False)  # type: ignore[method-assign]
        some, batch = images[:count], arguments.batch
        purifier = langevin_steps(energy, steps)
        return purify_images(some, ids, purifier, 0, batch_size=batch, device=device)

    what = f"Langevin purification, {rows:,} images, {steps} steps, nf {arguments.nf}"
    return _case(
        what, "ebm_purification", plain, ours, rows, arguments, aim_s=30, floor_s=5,
        batch=arguments.batch,
    )  # fmt: skip


def diffusion(arguments: argparse.Namespace) -> Case:
    """Return the purification of CIFAR-10 with the published noise predictor."""
    rows, steps, device = arguments.images, arguments.ddpm_steps, arguments.device
    config = published(arguments.unet) if arguments.unet else UNetConfig()
    model, images = ddpm_purification.network(config, 0, device), _images(rows, 0)
    net = ddpm_purification.PlainUNet(model.unet)

    def plain(count: int) -> object:
        return ddpm_purification.straightforward(images[:count], net, steps)

    def ours(precision: str, count: int, compiled: bool) -> object:
        net = NoisePredictor(model, TYPES[precision])
        if compiled:
            net._unet.predict = torch.compile(net._unet.predict, dynamic=False)  # type: ignore[method-assign]

        def purifier(x: Tensor, noise: Iterator[Tensor]) -> Tensor:
            return Diffusion(steps=steps).purify(x, net, noise)

        some, ids, batch = images[:count], np.arange(count), arguments.batch
        return purify_images(some, ids, purifier, 0, batch_size=batch, device=device)

    name = (
        f"the published network, width {arguments.unet}" if arguments.unet else "the small network"
    )
    what = f"Diffusion purification, {rows:,} images, {steps} steps, {name}"
    return _case(
        what, "ddpm_purification", plain, ours, rows, arguments, aim_s=150, floor_s=29,
        batch=arguments.batch,
    )  # fmt: skip


def _training(
    name: str, what: str, epochs: int | None, floor_s: float, arguments: argparse.Namespace
) -> Case:
    rows, device = arguments.images, arguments.device
    labels = np.random.default_rng(1).integers(0, 10, rows)
    train = ImageSet(_images(rows, 0), labels, np.arange(rows), 10)
    classifier = CLASSIFIERS.get(name).factory()
    recipe = classifier.recipe if epochs is None else replace(classifier.recipe, epochs=epochs)
    recipe = replace(recipe, lr=0.01)  # random labels; the rate has no part in the time
    model = build_model(classifier.build, 10, (3, 32, 32), stream(0, "benchmark"))

    def plain(count: int) -> object:
        part = train.take(np.arange(count))
        return classifier_training.straightforward(copy.deepcopy(model), part, recipe, 0, device)

    def ours(precision: str, count: int, compiled: bool) -> object:
        part, some = train.take(np.arange(count)), replace(recipe, precision=precision)
        net = copy.deepcopy(model)
        net = torch.compile(net, dynamic=False) if compiled else net  # type: ignore[assignment]
        return fit(net, part, some, stream(0, "train"), device=device)

    what = f"{what}, {rows:,} images, batch {recipe.batch_size}"
    return _case(
        what, "classifier_training", plain, ours, rows, arguments, floor_s=floor_s,
        batch=recipe.batch_size,
    )  # fmt: skip


def epoch(arguments: argparse.Namespace) -> Case:
    """Return one epoch of the paper's classifier; its floor is that of 200 epochs, 34 s, / 200."""
    return _training(arguments.epoch_of, f"One epoch of {arguments.epoch_of}", 1, 0.17, arguments)


def airbench(arguments: argparse.Namespace) -> Case:
    """Return a whole training of the class of airbench94: 0.36 PFLOP."""
    name = arguments.training_of
    return _training(name, f"A whole training of {name}", arguments.epochs, 0.4, arguments)


def energy_training(arguments: argparse.Namespace) -> Case:
    """Return the training rate of the energy network; 8.4 million images have a floor of 574 s."""
    chain, batch, device = arguments.chain_steps, arguments.train_batch, arguments.device
    rows = arguments.updates * batch
    images, config = _images(rows, 0), EBMConfig(nf=arguments.nf)

    def plain(count: int) -> object:
        updates = max(1, count // batch)
        return ebm_training.straightforward(EBM(config), images, updates, batch, chain, device)

    def ours(precision: str, count: int, _: bool) -> object:
        recipe = EBMRecipe(
            iterations=max(1, count // batch), batch_size=batch, bank_size=max(batch, 1000),
            chain_steps=chain,
        )  # fmt: skip
        return train_ebm(images, config, recipe, 0, device=device, precision=precision)

    what = f"Training an energy network, nf {arguments.nf}, chains of {chain} steps, batch {batch}"
    floor_s = 574 / (70_000 * 120)
    return _case(
        what, "ebm_training", plain, ours, rows, arguments, per_image=True, floor_s=floor_s
    )


# The longest last: a machine may be lent for less time than all of them take.
JOBS = {
    "langevin": langevin, "epoch": epoch, "airbench": airbench,
    "energy_training": energy_training, "diffusion": diffusion,
}  # fmt: skip


def cases(arguments: argparse.Namespace) -> Iterator[Case]:
    """Yield one case per job."""
    given = vars(arguments)
    arguments.full = all(given[name] == value for name, value in FULL.items())
    for job in arguments.jobs:
        yield JOBS[job](arguments)


# The sizes that aims and floors are of.
FULL = {
    "images": 50_000, "nf": 128, "unet": 128, "langevin_steps": 150, "ddpm_steps": 75,
    "epoch_of": "resnet18", "training_of": "airbench_learned_stem", "epochs": None,
    "chain_steps": 100,
}  # fmt: skip


def main() -> None:
    """Do the jobs; smaller ones than the paper's have no aim."""
    made = parser(__doc__, device="cuda")
    made.add_argument("--compile", action="store_true", help="also by torch.compile, once compiled")
    made.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    made.add_argument("--images", type=int, default=FULL["images"])
    made.add_argument("--sample", type=int, default=2048, help="images of the straightforward side")
    made.add_argument("--batch", type=int, default=2048, help="images in flight, purifying")
    made.add_argument("--nf", type=int, default=FULL["nf"], help="width of the energy network")
    made.add_argument("--unet", type=int, default=FULL["unet"], help="width; 0: the small network")
    made.add_argument("--langevin-steps", type=int, default=FULL["langevin_steps"])
    made.add_argument("--ddpm-steps", type=int, default=FULL["ddpm_steps"])
    made.add_argument("--epoch-of", default=FULL["epoch_of"], help="classifier")
    made.add_argument("--training-of", default=FULL["training_of"], help="classifier")
    made.add_argument("--epochs", type=int, help="of the whole training; its recipe's by default")
    made.add_argument("--chain-steps", type=int, default=FULL["chain_steps"])
    made.add_argument("--train-batch", type=int, default=128, help="of the energy network")
    made.add_argument("--updates", type=int, default=40, help="of the energy network")
    run("whole_jobs", made, cases)


if __name__ == "__main__":
    main()
