"""Work for the tests of Ray Data and Ray Train, at module level so that workers find it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from generative.ebm import EBMConfig
from generative.ebm_training import EBMRecipe, train_ebm
from generative.trainers.ebm import Ebm
from harness.classifier_training import train_share
from harness.core.parallel import together
from harness.datasets.shapes import Shapes
from harness.purify.job import purify_chunk


def note(folder: Path, what: str) -> None:
    with (folder / "log").open("a") as log:
        log.write(what + "\n")


def obey(folder: Path, step: str) -> None:
    """Take the order for a step away, if there is one, and do what it says."""
    taken = folder / f"{step}.taken"
    try:
        (folder / step).rename(taken)
    except FileNotFoundError:
        return
    if taken.read_text() == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    raise ValueError(f"{step} was told to fail")


def purify_noting(payload: dict[str, Any]) -> dict[str, Any]:
    """Purify a chunk, note that, note each time that a network is read, and obey orders."""
    folder = Path(payload["notes"])
    if Ebm.load.__name__ == "load":
        read = Ebm.load

        def noted(path: Path, device: str = "cpu") -> Any:
            note(folder, f"read by {os.getpid()}")
            obey(folder, f"chunk {_current['start']}")  # in the middle of a chunk
            return read(path, device)

        Ebm.load = staticmethod(noted)
    _current["start"] = payload["start"]
    obey(folder, f"chunk {payload['start']}")
    done = purify_chunk(payload)
    note(folder, f"made {payload['start']}")
    return done


_current: dict[str, int] = {}
RECIPE = EBMRecipe(iterations=6, batch_size=8, bank_size=16, chain_steps=2)


def train_ebm_here(
    payload: dict[str, Any], workers: Any, device: str, tell: Callable[[str], None]
) -> None:
    """Train a tiny energy network; each worker keeps its weights; orders are obeyed in between."""
    folder = Path(payload["folder"])
    images = Shapes(kind="pood", train=48, test=6).load().train.images

    def show(progress: Any) -> None:
        if workers.rank == 0:
            tell(f"update {progress.iteration}")
            note(folder, f"update {progress.iteration}")
        obey(folder, f"update {progress.iteration} of {workers.rank}")

    with together(workers):
        model = train_ebm(
            images, EBMConfig(nf=8), RECIPE, 3, device=device, checkpoint=folder / "x.safetensors",
            checkpoint_every=2, on_progress=show, progress_every=1,
        )  # fmt: skip
    arrays = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    np.savez(folder / f"worker{workers.rank}.npz", **arrays)
    note(folder, f"{asdict(workers)}")


def train_classifier_here(
    payload: dict[str, Any], workers: Any, device: str, tell: Callable[[str], None]
) -> None:
    """Do one worker's share of a classifier's training, and obey orders for the end of an epoch."""

    def told(line: str) -> None:
        tell(line)
        obey(Path(payload["out"]), line.partition(",")[0].replace("/", " of "))

    train_share(payload, workers, device, told)
