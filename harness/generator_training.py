"""``train-generator``: any generator on any dataset, with checkpoints, progress and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from rich.console import Console

from harness.artifacts import Store
from harness.core.device import pick_device, use_threads
from harness.core.errors import UsageError
from harness.core.files import write_aside
from harness.core.params import complete, complete_dataset, construct
from harness.core.pixels import to_bytes
from harness.core.protocols import GENERATORS
from harness.core.values import Json
from harness.workshop import Workshop

GRID = 8  # images per side of a sample grid


def _yaml(text: str, what: str) -> Json:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{what} {text!r} is no valid YAML: {error}") from error


def parse_assignments(assignments: tuple[str, ...]) -> dict[str, Json]:
    """Turn ``recipe.lr=3e-4`` and the like into nested parameters."""
    params: dict[str, Json] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set takes KEY=VALUE, for example nf=32; got {text!r}.")
        node = params
        *parents, last = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = _yaml(value, "--set")
    return params


def train(
    kind: str,
    dataset: str,
    out: Path,
    assignments: tuple[str, ...],
    seed: int,
    threads: int,
    device: str,
    console: Console,
) -> None:
    """Train a generator and write its folder: weights, configuration, sample grids.

    Args:
        kind: Registered generator.
        dataset: Name or YAML mapping of a dataset; its training images are used, not its labels.
        out: Folder; with a checkpoint of the same training in it, training goes on.
        assignments: ``key=value`` parameters of the generator.
        seed: Of weights, batches and noise.
        threads: CPU threads.
        device: ``auto``, ``cpu`` or ``cuda[:i]``.
        console: Where progress is shown.
    """
    spec = complete(GENERATORS, {"name": kind, **parse_assignments(assignments)}, "generator")
    source = complete_dataset(_yaml(dataset, "--dataset"), "--dataset")
    generator = construct(GENERATORS, spec, {})
    where = str(pick_device(device))
    use_threads(threads)
    out = out.expanduser().resolve()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {str(out)!r} cannot be written: {error.strerror}.") from error
    images = Workshop(Store(out)).dataset(source).train.images
    console.print(f"{kind} on {source.name}: {len(images)} images of {images.shape[1:]}")
    _save_grid(out / "data.png", images[: GRID * GRID])

    def show(progress: Any) -> None:
        share = progress.iteration / progress.iterations
        console.print(
            f"update {progress.iteration}/{progress.iterations} ({share:.0%}), "
            f"{progress.seconds:.0f} s, energy gap {progress.gap:+.1f}"
        )
        if progress.iteration % 500 == 0 or progress.iteration == progress.iterations:
            pixels = to_bytes(progress.chains.add(1).div(2))
            _save_grid(out / f"samples_{progress.iteration:06d}.png", pixels[: GRID * GRID])

    model = generator.train(
        images, seed, device=where, checkpoint=out / "training.safetensors", on_progress=show
    )
    note = {**spec.to_json(), "dataset": source.to_json(), "seed": seed}
    note["torch"] = str(torch.__version__)
    generator.save(out, model, note)
    console.print(f"written: {out}. In a study: {{path: {out}}}")


def _save_grid(path: Path, images: np.ndarray) -> None:
    """Write images (N, 3, H, W) as one PNG, GRID a row, each pixel four wide."""
    count, channels, height, width = images.shape
    rows = -(-count // GRID)
    sheet = np.zeros((rows * height, GRID * width, channels), np.uint8)
    for index, image in enumerate(images):
        top, left = index // GRID * height, index % GRID * width
        sheet[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    picture = Image.fromarray(sheet.repeat(4, 0).repeat(4, 1).squeeze())
    write_aside(path, lambda aside: picture.save(aside, format="PNG"))
