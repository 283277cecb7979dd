"""Training one classifier on its own: alone, by several workers, stopped and gone on with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from harness.classifier_training import train_share
from harness.core.errors import DataError
from harness.core.parallel import Workers, take_part
from harness.core.params import complete, complete_dataset
from harness.core.protocols import CLASSIFIERS
from harness.core.recipe import Recipe
from harness.core.seeds import stream
from harness.datasets.shapes import Shapes
from harness.training import fit
from tests.easy_images import prototypes
from tests.test_parallel_training import by_threads
from tests.tiny import CommandLine, write_study

RECIPE = {"epochs": 8, "lr": 0.1, "batch_size": 32, "crop_pad": 2, "precision": "fp32"}
NET = {"name": "hlb_xs", "widths": [8, 16, 16], "stem": 12, "recipe": RECIPE}


def what(out: Path, **recipe: object) -> dict:
    """Return what to train into a new folder, on images that lie beside it."""
    out.mkdir()
    train, test, beside = prototypes(400, 70, 1), prototypes(200, 70, 2), out.parent / "easy.npz"
    if not beside.exists():
        np.savez(
            beside, x_train=train.images, y_train=train.labels, x_test=test.images,
            y_test=test.labels,
        )  # fmt: skip
    classifier = complete(CLASSIFIERS, {**NET, "recipe": {**RECIPE, **recipe}}, "classifier")
    dataset = complete_dataset({"name": "npz", "path": str(beside)}, "dataset")
    return {
        "classifier": classifier.to_json(), "dataset": dataset.to_json(), "seed": 3,
        "out": str(out),
    }  # fmt: skip


def weights(out: Path) -> dict[str, Tensor]:
    return load_file(out / "weights.safetensors")


def accuracy(out: Path) -> float:
    result = json.loads((out / "result.json").read_text())
    return result["test_correct"] / result["test_rows"]


def silent(line: str) -> None:
    """Say nothing."""


def test_a_stopped_training_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(line: str) -> None:
        if line.startswith("epoch 3/"):  # the last checkpoint is that of epoch 2
            raise Stop

    train_share(what(tmp_path / "whole"), Workers(), "cpu", silent)
    stopped, lines = what(tmp_path / "stopped"), list[str]()
    with pytest.raises(Stop):
        train_share(stopped, Workers(), "cpu", stop)
    train_share(stopped, Workers(), "cpu", lines.append)
    assert [line.split(",")[0] for line in lines[:-1]] == [f"epoch {n}/8" for n in range(3, 9)]
    for name, tensor in weights(tmp_path / "whole").items():
        assert torch.equal(tensor, weights(tmp_path / "stopped")[name]), name


def test_adam_is_gone_on_with_too(tmp_path: Path) -> None:
    adam = {"optimizer": "adam", "lr": 0.01, "epochs": 2}
    train_share(what(tmp_path / "whole", **adam), Workers(), "cpu", silent)
    stopped = what(tmp_path / "stopped", **adam)

    def stop(line: str) -> None:
        if line.startswith("epoch 2/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_share(stopped, Workers(), "cpu", stop)
    train_share(stopped, Workers(), "cpu", silent)
    for name, tensor in weights(tmp_path / "whole").items():
        assert torch.equal(tensor, weights(tmp_path / "stopped")[name]), name


def test_two_workers_are_in_step_and_as_good_as_one(tmp_path: Path) -> None:
    train_share(what(tmp_path / "one"), Workers(), "cpu", silent)
    both = what(tmp_path / "two")

    def share() -> nn.Module:
        train_share(both, take_part(), "cpu", silent)
        return nn.Module()

    by_threads(2, share)
    assert json.loads((tmp_path / "two" / "result.json").read_text())["workers"] == 2
    assert accuracy(tmp_path / "one") > 0.6  # chance: 0.25
    assert abs(accuracy(tmp_path / "one") - accuracy(tmp_path / "two")) < 0.1


class Flat(nn.Module):
    """A network without statistics of a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3 * 16 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1))


@pytest.mark.parametrize("count", [2, 3])
def test_workers_compute_the_updates_of_one(count: int) -> None:
    """Of a batch of 32, three workers have parts of unequal size."""
    data = Shapes(train=600, test=10, size=16).load().train
    recipe = Recipe(epochs=2, lr=0.05, batch_size=32, crop_pad=2, precision="fp32")

    def train() -> nn.Module:
        model = Flat()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.linspace(-0.01, 0.01, parameter.numel()).view_as(parameter))
        fit(model, data, recipe, stream(1), workers=take_part())
        return model

    alone, first, *others = train().state_dict(), *by_threads(count, train)
    for name, tensor in alone.items():
        torch.testing.assert_close(first[name], tensor)
        assert all(torch.equal(first[name], state[name]) for state in others)  # in step


def test_batches_too_small_for_so_many_are_refused() -> None:
    data = Shapes(train=60, test=10, size=16).load().train
    recipe = Recipe(epochs=1, batch_size=4)
    with pytest.raises(DataError, match="3 workers need two rows each of a batch; batch_size is 4"):
        fit(Flat(), data, recipe, stream(1), workers=Workers(0, 3))


def test_on_the_command_line(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    cli = CommandLine(monkeypatch, capsys)
    data = "{name: shapes, train: 200, test: 100, size: 16}"
    given = ("train-classifier", "hlb_xs", "--dataset", data, "--out", "net")
    small = ("--set", "widths=[8, 8, 8]", "--set", "recipe.epochs=2", "--set", "recipe.lr=0.1")
    assert cli(*given, *small) == 0
    assert "epoch 2/2" in cli.out and "on 100 test images" in cli.out
    assert f"pretrained: {{path: {tmp_path / 'net' / 'weights.safetensors'}}}" in cli.out
    study = {
        "scenario": "linear_transfer",
        "dataset": {"name": "shapes", "train": 100, "test": 50, "size": 16},
        "classifiers": [
            {
                "name": "hlb_xs", "widths": [8, 8, 8],
                "pretrained": {"path": str(tmp_path / "net" / "weights.safetensors")},
                "recipe": {"epochs": 2, "flip": False, "crop_pad": 0},
            }
        ],
    }  # fmt: skip
    path = write_study(tmp_path, **study)
    assert cli("run", path, "--in-process", "--no-tracking", "--store", "store") == 0
    assert cli(*given, *small, "--set", "recipe.epochs=3") == 2
    assert "another classifier" in cli.err
    assert cli(*given, *small, "--seed", 1) == 2 and "another seed" in cli.err
    assert cli("train-classifier", "hlb_x", "--dataset", data, "--out", "other") == 2
    assert "Did you mean 'hlb_xs'" in cli.err and not (tmp_path / "other").exists()
    assert cli(*given, *small, "--address", "auto") == 2
    more = data.replace("200", "300")  # a checkpoint does not know its images
    assert cli("train-classifier", "hlb_xs", "--dataset", more, "--out", "net", *small) == 2
    assert "another dataset and images" in cli.err
    assert cli(*given[:-1], "new", *small, "--set", "recipe.batch_size=4", "--workers", 3) == 2
    assert "3 workers need two rows each" in cli.err
