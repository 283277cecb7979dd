"""A training by two processes of Ray Train, one of which is killed on the way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from generative.ebm import EBMConfig
from generative.ebm_training import train_ebm
from harness.classifier_training import train_share
from harness.core.errors import UsageError
from harness.core.parallel import Workers
from harness.datasets.shapes import Shapes
from harness.study import Resources
from tests.stream_functions import RECIPE, train_classifier_here, train_ebm_here
from tests.test_classifier_training import accuracy, silent, what

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("local_ray")]
ONE = Resources(cpus=1)


def test_two_workers_one_of_which_dies(tmp_path: Path) -> None:
    """All begin again at the last checkpoint, and end with the weights of one worker."""
    from harness.cluster.train import train_together

    (tmp_path / "update 5 of 1").write_text("die")  # the last checkpoint is that of update 4
    lines: list[str] = []
    train_together(
        train_ebm_here, {"folder": str(tmp_path)},
        workers=2, resources=ONE, folder=tmp_path, tell=lines.append,
    )  # fmt: skip
    assert (tmp_path / "update 5 of 1.taken").exists()
    log = (tmp_path / "log").read_text().splitlines()
    updates = [int(line.split()[1]) for line in log if line.startswith("update")]
    assert updates[:4] == [1, 2, 3, 4]
    assert updates[-2:] == [5, 6]
    assert len(updates) <= 8  # nothing before the checkpoint was done again
    assert lines[:4] + lines[-2:] == [f"update {n}" for n in (1, 2, 3, 4, 5, 6)]
    assert log[-2:] != [] and {"{'rank': 0, 'count': 2}", "{'rank': 1, 'count': 2}"} <= {*log}
    assert not list(tmp_path.glob(".train-*"))

    images = Shapes(kind="pood", train=48, test=6).load().train.images
    alone = train_ebm(images, EBMConfig(nf=8), RECIPE, 3, device="cpu").state_dict()
    with np.load(tmp_path / "worker0.npz") as a, np.load(tmp_path / "worker1.npz") as b:
        for name, tensor in alone.items():
            np.testing.assert_array_equal(a[name], b[name])
            torch.testing.assert_close(torch.from_numpy(a[name]), tensor, rtol=1e-2, atol=1e-4)


def test_a_classifier_by_two_workers_one_of_which_dies(tmp_path: Path) -> None:
    """It goes on from the end of the epoch before, and is as good as that of one worker."""
    from harness.cluster.train import train_together

    both = what(tmp_path / "two")
    (tmp_path / "two" / "epoch 3 of 8").write_text("die")  # before its checkpoint
    lines: list[str] = []
    train_together(
        train_classifier_here, both,
        workers=2, resources=ONE, folder=tmp_path, tell=lines.append,
    )  # fmt: skip
    assert (tmp_path / "two" / "epoch 3 of 8.taken").exists()
    told = [line.partition(",")[0] for line in lines]
    assert told[:-1] == [f"epoch {n}/8" for n in (1, 2, 3, 3, 4, 5, 6, 7, 8)]
    train_share(what(tmp_path / "one"), Workers(), "cpu", silent)
    assert accuracy(tmp_path / "one") > 0.6  # chance: 0.25
    assert abs(accuracy(tmp_path / "one") - accuracy(tmp_path / "two")) < 0.1


def test_more_workers_than_there_is_room_for(tmp_path: Path) -> None:
    from harness.cluster.train import train_together

    with pytest.raises(UsageError, match=r"3 workers of 1 CPUs and 0 GPUs .* room for 2"):
        train_together(
            train_ebm_here, {}, workers=3, resources=ONE, folder=tmp_path, tell=lambda line: None
        )
