"""``train-classifier``: a classifier on a whole dataset, by one process or by several."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from safetensors.torch import save_file
from torch import nn

from harness.artifacts import Store
from harness.checkpoint import TrainingFile
from harness.core.data import Dataset
from harness.core.device import pick_device, use_threads
from harness.core.files import write_aside, write_text
from harness.core.parallel import Workers
from harness.core.params import ComponentSpec, construct
from harness.core.protocols import CLASSIFIERS
from harness.core.seeds import stream
from harness.core.values import Json
from harness.evaluation import count_per_class
from harness.plan import check_classifier
from harness.shared_training import (
    CHECKPOINT,
    NOTE,
    check_workers,
    on_ray,
    open_folder,
    read_specs,
    same_training,
)
from harness.training import Epoch, build_model, check_parts, fit
from harness.workshop import Workshop

WEIGHTS, RESULT = "weights.safetensors", "result.json"


def train(
    name: str,
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
    """Train a classifier and write its folder: weights, and what it does on the test images.

    Args:
        name: Registered classifier.
        dataset: Name or YAML mapping of a dataset.
        out: Folder; with a checkpoint of the same training in it, training goes on.
        assignments: ``key=value`` parameters of the classifier.
        seed: Of weights, order and augmentation: with the same seed a study that names this
            network as ``pretrained`` trains it to the same weights, but for rounding.
        threads: CPU threads of each worker.
        device: ``auto``, ``cpu`` or ``cuda[:i]``.
        console: Where progress is shown.
        workers: How many processes share each batch; more than one run on Ray.
        address: Of the Ray of several workers; None starts one.
    """
    spec, source = read_specs(CLASSIFIERS, name, assignments, dataset)
    check_workers(workers, device, address)
    if workers == 1:
        device = str(pick_device(device))
    use_threads(threads)
    out = open_folder(out)
    data = Workshop(Store(out)).dataset(source)
    what: dict[str, Json] = {
        "classifier": spec.to_json(), "dataset": source.to_json(), "seed": seed, "out": str(out),
    }  # fmt: skip
    note = {k: v for k, v in what.items() if k != "out"}
    check_classifier(spec, data)
    check_parts(construct(CLASSIFIERS, spec, {}).recipe, len(data.train), workers)

    def tell(line: str) -> None:
        console.print(line, markup=False)

    with same_training(out / NOTE, {**note, "images": data.train.digest}):
        console.print(f"{name} on {source.name}: {len(data.train)} images")
        if workers == 1:
            train_share(what, Workers(), device, tell, data)
        else:
            on_ray(train_share, what, workers, threads, device, address, tell)
    tell(f"written: {out}. In a study: pretrained: {{path: {out / WEIGHTS}}}")


def train_share(
    what: dict[str, Json],
    workers: Workers,
    device: str,
    tell: Callable[[str], None],
    data: Dataset | None = None,
) -> None:
    """Do one worker's share of a training; the first worker writes the folder.

    ``what``: ``classifier`` and ``dataset`` (specs), ``seed``, ``out``. Without ``data`` the
    dataset is read.
    """
    out = Path(what["out"])
    classifier = construct(CLASSIFIERS, ComponentSpec.from_json(what["classifier"]), {})
    if data is None:
        data = Workshop(Store(out)).dataset(ComponentSpec.from_json(what["dataset"]))
    rng = stream(what["seed"], "classifier")
    model = build_model(classifier.build, data.train.num_classes, data.train.image_shape, rng)
    began = time.perf_counter()

    def show(epoch: Epoch, _: nn.Module) -> None:
        if not workers.rank:
            done, seconds = epoch.epoch + 1, time.perf_counter() - began
            tell(f"epoch {done}/{classifier.recipe.epochs}, {seconds:.0f} s, loss {epoch.loss:.4f}")

    identity = {k: what[k] for k in ("classifier", "dataset", "seed")}
    predict = fit(
        model, data.train, classifier.recipe, rng, device=device, on_epoch=show, workers=workers,
        checkpoint=TrainingFile(out / CHECKPOINT, identity, writes=workers.rank == 0),
    )  # fmt: skip
    if workers.rank:
        return
    tensors = {n: t.detach().cpu().contiguous() for n, t in model.state_dict().items()}
    write_aside(out / WEIGHTS, lambda aside: save_file(tensors, aside))
    rows, correct = count_per_class(predict, data.test)
    right = zip(data.class_names, correct, rows, strict=True)
    result = {
        "test_rows": sum(rows),
        "test_correct": sum(correct),
        "class_accuracy": {name: c / n for name, c, n in right if n},
        "workers": workers.count,
    }
    write_text(out / RESULT, json.dumps(result, indent=1) + "\n")
    if sum(rows):
        tell(f"accuracy {sum(correct) / sum(rows):.1%} on {sum(rows)} test images")
