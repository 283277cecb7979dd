"""``train-generator``: any generator on any dataset, with checkpoints, progress and pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from harness.artifacts import Store
from harness.core.device import pick_device, use_threads
from harness.core.errors import UsageError
from harness.core.files import write_aside
from harness.core.parallel import Workers, check_share, together
from harness.core.params import ComponentSpec, construct
from harness.core.pixels import to_bytes
from harness.core.protocols import GENERATORS
from harness.core.values import Json
from harness.shared_training import (
    CHECKPOINT,
    NOTE,
    check_workers,
    on_ray,
    open_folder,
    read_specs,
    same_training,
)
from harness.workshop import Workshop, check_generator

GRID = 8  # images per side of a sample grid


def train(
    kind: str,
    dataset: str,
    out: Path,
    assignments: tuple[str, ...],
    seed: int,
    threads: int,
    device: str,
    console: Console,
    workers: int = 1,
    address: str | None = None,
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
        workers: How many processes share each update; more than one run on Ray.
        address: Of the Ray of several workers; None starts one.
    """
    spec, source = read_specs(GENERATORS, kind, assignments, dataset)
    check_workers(workers, device, address)
    if workers == 1:
        device = str(pick_device(device))
    use_threads(threads)
    out = open_folder(out)
    train_set = Workshop(Store(out)).dataset(source).train
    images = train_set.images
    what: dict[str, Json] = {
        "generator": spec.to_json(), "dataset": source.to_json(), "seed": seed, "out": str(out),
    }  # fmt: skip
    check_generator(construct(GENERATORS, spec, {}), images)
    recipe = what["generator"].get("recipe") or {}
    if "batch_size" in recipe:
        check_share(recipe["batch_size"], workers)
    shape = " x ".join(map(str, images.shape[1:]))

    def tell(line: str) -> None:
        console.print(line, markup=False)

    with same_training(out / NOTE, {**_note(what), "images": train_set.digest}):
        console.print(f"{kind} on {source.name}: {len(images)} images of {shape}")
        _save_grid(out / "data.png", images[: GRID * GRID])
        if workers == 1:
            train_share(what, Workers(), device, tell, images)
        else:
            on_ray(train_share, what, workers, threads, device, address, tell)
    tell(f"written: {out}. In a study: {{path: {out}}}")


def train_share(
    what: dict[str, Json],
    workers: Workers,
    device: str,
    tell: Callable[[str], None],
    images: NDArray[np.uint8] | None = None,
) -> None:
    """Do one worker's share of a training; the first worker writes the folder.

    ``what``: ``generator`` and ``dataset`` (specs), ``seed``, ``out``. Without ``images`` the
    dataset is read.

    Raises:
        UsageError: If the generator does not know how to share a training.
    """
    out, spec = Path(what["out"]), ComponentSpec.from_json(what["generator"])
    generator = construct(GENERATORS, spec, {})
    if images is None:
        source = ComponentSpec.from_json(what["dataset"])
        images = Workshop(Store(out)).dataset(source).train.images

    def show(progress: Any) -> None:
        if workers.rank:  # it is called all the same: all have to notice together what goes wrong
            return
        share = progress.iteration / progress.iterations
        tell(
            f"update {progress.iteration}/{progress.iterations} ({share:.0%}), "
            f"{progress.seconds:.0f} s, {progress.summary}"
        )
        if progress.iteration % 500 == 0 or progress.iteration == progress.iterations:
            pixels = to_bytes(progress.images.add(1).div(2))
            _save_grid(out / f"samples_{progress.iteration:06d}.png", pixels[: GRID * GRID])

    with together(workers) as taken_part:
        model = generator.train(
            images, what["seed"],
            device=device, checkpoint=out / CHECKPOINT, on_progress=show,
        )  # fmt: skip
    if workers.count > 1 and not taken_part:
        raise UsageError(f"generator {spec.name!r} is trained by one worker only; got --workers.")
    if workers.rank == 0:
        generator.save(out, model, _note(what))


def _note(what: dict[str, Json]) -> dict[str, Json]:
    """Return what a generator's folder says of its making."""
    return {**what["generator"], "dataset": what["dataset"], "seed": what["seed"]}


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
