"""How the cost of purification grows with images, steps, width and resolution, one at a time.

Everything else stays as it is while one of them grows; the cost is fitted by a power of it. A power
of 1 is proportional; below 1 the smaller runs do not fill the device, or pay for what is needed
once. The form is ours, in the type that the device computes in.

    OMP_NUM_THREADS=1 python benchmarks/scaling.py --out scaling.json
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
from _frame import TYPES, Case, Form, native, parser, run
from ddpm_purification import network as noise_network
from ebm_purification import network as energy_network

from defenses._purify import diffusion_steps, langevin_steps, purify_images
from generative.ddpm import Diffusion
from generative.ebm import FoldedEnergy
from generative.unet import UNetConfig, published

AXES = {
    "images": "images",
    "steps": "steps",
    "nf": "width",
    "widths": "width",
    "resolutions": "side in px",
}


def cases(arguments: argparse.Namespace) -> Iterator[Case]:
    """Yield one case per model and axis."""
    for work, name, axes in (
        (_langevin, "Langevin purification", ("images", "steps", "nf", "resolutions")),
        (_diffusion, "Diffusion purification", ("images", "steps", "widths", "resolutions")),
    ):
        for axis in axes:
            values = getattr(arguments, axis)
            if len(values) > 1:
                forms = [work(axis, value, arguments) for value in values]
                growth = (AXES[axis], values)
                yield Case(f"{name}, {AXES[axis]}", "run", forms, dict, growth=growth)


def _sizes(axis: str, value: int, arguments: argparse.Namespace) -> tuple[int, int, int]:
    """Return images, steps and side of a run: the first of each axis but the one that grows."""
    some = {name: getattr(arguments, name)[0] for name in ("images", "steps")}
    some |= {"resolutions": 32, axis: value}
    return some["images"], some["steps"], some["resolutions"]


def _images(count: int, side: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    source = np.random.default_rng(seed)
    return source.integers(0, 256, (count, 3, side, side), dtype=np.uint8), np.arange(count)


def _langevin(axis: str, value: int, arguments: argparse.Namespace) -> Form:
    count, steps, side = _sizes(axis, value, arguments)
    nf = value if axis == "nf" else arguments.width
    device, precision = arguments.device, native(arguments.device)[-1]
    energy = FoldedEnergy(energy_network(nf, arguments.seed, device), TYPES[precision])
    rows, batch = _images(count, side, arguments.seed), arguments.batch

    def work() -> object:
        purifier = langevin_steps(energy, steps)
        return purify_images(*rows, purifier, 0, batch_size=batch, device=device)

    return Form(f"ours, {precision}", work, variant=str(value), precision=precision)


def _diffusion(axis: str, value: int, arguments: argparse.Namespace) -> Form:
    count, steps, side = _sizes(axis, value, arguments)
    config = UNetConfig()
    if axis == "widths":  # the published shape: a tenth of the images keeps it to seconds
        config, count = published(value), max(1, count // 10)
    device, precision = arguments.device, native(arguments.device)[-1]
    model = noise_network(config, arguments.seed, device)
    purifier = diffusion_steps(model, Diffusion(steps=steps), precision)
    rows, batch = _images(count, side, arguments.seed), arguments.batch

    def work() -> object:
        return purify_images(*rows, purifier, 0, batch_size=batch, device=device)

    return Form(f"ours, {precision}", work, variant=str(value), precision=precision)


def main() -> None:
    """Measure each axis; an axis of one value is left out."""
    made = parser(__doc__)
    made.add_argument("--images", type=int, nargs="+", default=[64, 128, 256], help="the first "
                      "is used on the other axes")  # fmt: skip
    made.add_argument("--steps", type=int, nargs="+", default=[4, 8, 16], help="likewise")
    made.add_argument("--nf", type=int, nargs="+", default=[16, 32, 64, 128], help="energy network")
    made.add_argument(
        "--widths", type=int, nargs="+", default=[32, 64, 128], help="published U-Net"
    )
    made.add_argument("--resolutions", type=int, nargs="+", default=[16, 32, 64], help="px")
    made.add_argument("--width", type=int, default=32, help="nf on the other axes")
    made.add_argument("--batch", type=int, default=64, help="images in flight")
    run("scaling", made, cases)


if __name__ == "__main__":
    main()
