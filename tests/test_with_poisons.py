"""A generator's training images with poisons among them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from attacks.narcissus_all import NarcissusAll
from harness.core.errors import UsageError
from tests.tiny import STUDY, CommandLine, component, workshop, write_study


def test_rows_are_replaced_and_a_generator_is_trained_on_them(
    tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    cli = CommandLine(monkeypatch, capsys)
    raw = {"name": "narcissus_all", **NarcissusAll.example}
    data = {"name": "shapes", "train": 120, "test": 60}
    study = write_study(tmp_path, dataset=data, attacks=[raw], targets=None)
    arguments = ("--in-process", "--store", "store")
    assert cli("craft", study, *arguments, "--out", "poisons") == 0, cli.err
    folder = tmp_path / "poisons" / "narcissus_all-seed0" / "0"
    spec = {"name": "with_poisons", "clean": data, "poisons": str(folder)}
    shop = workshop(tmp_path)
    clean = shop.dataset(component("dataset", data)).train
    mixed = shop.dataset(component("dataset", spec)).train
    np.testing.assert_array_equal(mixed.labels, clean.labels)
    step = np.abs(mixed.images.astype(int) - clean.images).reshape(len(clean), -1).max(1)
    assert 0 < np.count_nonzero(step) <= len(clean)
    assert step.max() <= NarcissusAll.example.get("eps_255", 8)
    given = ("ebm", "--dataset", json.dumps(spec), "--out", "ebm")
    changes = ("nf=8", "recipe.iterations=2", "recipe.batch_size=8", "recipe.bank_size=16")
    sets = [part for change in changes for part in ("--set", change)]
    assert cli("train-generator", *given, *sets, "--set", "recipe.chain_steps=1") == 0, cli.err


def test_a_set_for_other_data_is_refused(tmp_path) -> None:
    spec = {"name": "with_poisons", "clean": STUDY["dataset"], "poisons": str(tmp_path / "gone")}
    with pytest.raises(UsageError, match="gone"):
        workshop(tmp_path).dataset(component("dataset", spec))
