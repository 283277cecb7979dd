"""Crafting as a stage of its own, and what it writes for others to read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from harness.interop.poison_set import read_poison_set
from tests.tiny import STUDY, CommandLine, write_study


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path) -> CommandLine:
    monkeypatch.chdir(tmp_path)
    return CommandLine(monkeypatch, capsys)


HERE = ("--in-process", "--store", "store")


def test_poisons_are_crafted_once_and_used_by_every_defense(cli, tmp_path) -> None:
    study = write_study(tmp_path, targets=[0, 1])
    assert cli("craft", study, *HERE) == 0
    assert "artefacts 2/2" in cli.out
    # Attack, target, seed and rows; a fifth of 60.
    assert [line.split()[:4] for line in cli.out.splitlines() if line.startswith("badnets")] == [
        ["badnets", "0", "0", "12"],
        ["badnets", "1", "0", "12"],
    ]
    made = {p: p.stat().st_mtime_ns for p in Path("store/poison").glob("*/poison.npz")}
    assert len(made) == 2
    assert not list(Path("store").glob("purified/*"))
    assert cli("craft", study, *HERE) == 0
    assert "every poison is there already" in cli.out
    assert cli("run", study, *HERE, "--no-tracking") == 0
    assert "poisons:" not in cli.out
    assert {p: p.stat().st_mtime_ns for p in Path("store/poison").glob("*/poison.npz")} == made


def test_sets_of_several_datasets_are_all_written(cli, tmp_path) -> None:
    """One attack on two datasets is two sets, and neither takes the other's folder."""
    sizes = (60, 80)
    parts = [{"dataset": {**STUDY["dataset"], "train": rows}} for rows in sizes]
    study = write_study(tmp_path, targets=[0], parts=parts)
    assert cli("craft", study, *HERE, "--out", "poisons") == 0
    folders = [Path(f"poisons/badnets_on_shapes_train={rows}-seed0/0") for rows in sizes]
    assert [len(read_poison_set(folder)) for folder in folders] == [12, 16]
    assert cli.out.count("badnets on shapes") == 2


def test_what_is_written_can_be_linted_exported_and_run(cli, tmp_path) -> None:
    study = write_study(tmp_path, targets=[0, 1])
    assert cli("craft", study, *HERE, "--out", "poisons") == 0
    folder = Path("poisons/badnets-seed0")
    first = read_poison_set(folder / "0")
    assert (len(first), first.meta.attack, first.meta.adv_label) == (12, "badnets", 0)
    data = json.dumps(STUDY["dataset"])
    assert cli("lint-poisons", folder, "--dataset", data) == 0
    assert "errors: 0" in cli.out
    assert cli("export-poisons", folder, "--out", "others", "--format", "numpy") == 0
    exported = list(Path("others/0").iterdir())
    assert exported
    replayed = {"name": "published", "folder": str(folder.resolve())}
    for name, changes in (("tiny", {}), ("replayed", {"attacks": [replayed]})):
        path = write_study(tmp_path / name, name=name, targets=[0, 1], **changes)
        assert cli("run", path, *HERE, "--no-tracking") == 0
    counts = {}
    for name in ("tiny", "replayed"):
        records = [json.loads(p.read_text()) for p in Path("runs", name, "records").glob("*.json")]
        counts[name] = {
            (r["spec"]["target"], r["spec"]["defense"]["name"]): r["outcomes"][0]["successes"]
            for r in records
            if r["spec"]["attack"]["name"] != "none"
        }
    assert counts["tiny"] == counts["replayed"]


def test_a_dirty_label_set_comes_back_as_one(cli, tmp_path) -> None:
    """Labels of the data tell; formats without labels refuse the set."""
    data = "{name: shapes, train: 100, test: 50}"
    study = write_study(tmp_path, targets=[2], dataset={"name": "shapes", "train": 100, "test": 50})
    assert cli("craft", study, *HERE, "--out", "poisons/mine") == 0
    assert cli("export-poisons", "poisons/mine", "--out", "ex", "--format", "toxic") == 2
    assert "give one below it: 'poisons/mine/badnets-seed0'." in cli.err
    ours = "poisons/mine/badnets-seed0/2"
    for form in ("png", "narcissus"):
        assert cli("export-poisons", ours, "--out", form, "--format", form) == 2
        assert "holds no labels" in cli.err and not Path(form).exists()
    assert cli("export-poisons", ours, "--out", "ex", "--format", "toxic") == 0
    assert "warning: poisons: format 'toxic' does not say that labels were changed" in cli.out
    assert cli("import-poisons", "ex", "--out", "im", "--dataset", data) == 0
    before, after = read_poison_set(Path(ours)), read_poison_set(Path("im"))
    assert not before.meta.clean_label and not after.meta.clean_label
    assert (after.meta.adv_label, after.meta.eps_255) == (2, before.meta.eps_255)
    np.testing.assert_array_equal(after.images, before.images)
    assert cli("lint-poisons", "im", "--dataset", data) == 0
    # Without data nothing tells, which is said; the user may.
    assert cli("import-poisons", "ex", "--out", "assumed") == 0
    assert "is assumed from the format" in cli.out
    assert cli("lint-poisons", "assumed", "--dataset", data) == 1
    assert cli("import-poisons", "ex", "--out", "told", "--dirty-label") == 0
    assert "assumed" not in cli.out and "dirty-label" in cli.out
    assert cli("lint-poisons", "told", "--dataset", data) == 0
    # A set that fails its checks is no success.
    assert cli("import-poisons", "ex", "--out", "w", "--dataset", data, "--clean-label") == 1
    assert "have another label than their base" in cli.out and "errors: 1" in cli.out


def test_imported_triggers(cli, tmp_path) -> None:
    delta = np.sign(np.random.default_rng(0).normal(size=(1, 3, 32, 32))) * 16 / 255
    np.save("best_noise_lab3.npy", delta.astype(np.float32))
    data = json.dumps(STUDY["dataset"])
    arguments = ("--out", "set", "--dataset", data, "--count", 4)
    assert cli("import-poisons", "best_noise_lab3.npy", *arguments) == 0
    made = read_poison_set(Path("set"))
    assert (len(made), made.meta.adv_label, made.meta.eps_255) == (4, 3, 8.0)
    Path("bad.pickle").write_bytes(b"cos\nsystem\n(S'touch canary'\ntR.")
    assert cli("import-poisons", "bad.pickle", "--out", "x", "--format", "toxic_setups") == 2
    assert "os.system" in cli.err
    assert not Path("canary").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("craft", "{study}", "--set", "attacks=none"), "no attack to craft"),
        (("craft", "{study}", "--set", "attacks.0.budget=2"), "budget"),
        (("import-poisons", "gone", "--out", "x"), "'gone' does not exist"),
        (("import-poisons", "tiny.yaml", "--out", "x", "--format", "toxi"), "Did you mean 'toxic'"),
        (("lint-poisons", "gone"), "holds no set of poisons"),
        (
            ("craft", "{study}", "--out", "tiny.yaml/x"),
            "'.*x/badnets-seed0/0' cannot be written: '.*tiny.yaml' is",
        ),
        (("craft", "{study}", "--out", "taken"), "badnets-seed0' is no folder"),
        (
            (
                "explain",
                "{study}",
                "--attack",
                "badnets",
                "--defense",
                "jpeg",
                "--out",
                "tiny.yaml",
            ),
            "--out 'tiny.yaml' cannot be written: 'tiny.yaml' is no folder",
        ),
        (("import-poisons", "taken", "--out", "tiny.yaml/x"), "'tiny.yaml' is no folder"),
        (("import-poisons", "taken", "--out", "tiny.yaml/x.json"), "'tiny.yaml' is no folder"),
        (("export-poisons", "taken", "--out", "tiny.yaml/x", "--format", "png"), "is no folder"),
        (("export-poisons", "gone", "--out", "x", "--format", "numpy"), "holds no set of poisons"),
    ],
)
def test_what_is_refused(cli, tmp_path, arguments, message) -> None:
    study = write_study(tmp_path)
    Path("taken").mkdir()
    Path("taken/badnets-seed0").touch()
    given = [str(study) if a == "{study}" else a for a in arguments]
    extra = HERE if given[0] == "craft" else ()
    assert cli(*given, *extra) == 2
    assert re.search(message, cli.err), cli.err
    assert not list(Path().glob("store/*/*"))  # nothing was made
