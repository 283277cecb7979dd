"""Published poisons: each format is read to the byte, checked, replayed, and written again."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from attacks._setups import read_setup
from attacks.narcissus import Narcissus, read_trigger
from attacks.published import Published
from harness.core.data import ImageSet
from harness.core.errors import DataError, UsageError
from harness.core.protocols import ATTACKS
from harness.core.seeds import stream
from harness.datasets.npz import Npz
from harness.interop.assemble import Choices, assemble
from harness.interop.commands import export_poisons, import_poisons, lint_poisons
from harness.interop.export import export, poison_set_of
from harness.interop.foreign import Foreign
from harness.interop.formats import FORMATS, find_format, parts
from harness.interop.isolated import read_isolated
from harness.interop.limits import Limits
from harness.interop.lint import lint
from harness.interop.matching import nearest_rows, same_rows
from harness.interop.poison_set import (
    UNKNOWN,
    Delta,
    Meta,
    Patch,
    PoisonSet,
    Target,
    read_poison_set,
    write_poison_set,
)
from tests._foreign import (
    ADV,
    TRUE,
    checkers,
    dump,
    example_set,
    perturbed,
    pil,
    pil_pairs,
    shapes,
    write_bullseye,
    write_split,
    write_toxic,
)

DATA = shapes()
TRAIN, TEST = DATA.train, DATA.test
POISONS, ROWS = perturbed(DATA)
TARGET_ROW = int(np.flatnonzero(TEST.labels == TRUE)[0])
TARGET = pil(TEST.images[TARGET_ROW])
SHAPES = "{name: shapes, train: 300, test: 100}"
LIMITS = Limits()


def read(path: Path, companion: Path | None = None) -> Foreign:
    return find_format(path).read(path, companion, LIMITS)


def rebuilt(foreign: Foreign, **choices: Any) -> PoisonSet:
    return assemble(foreign, Choices(**choices), TRAIN)


# Formats


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "kind", [list, np.array, torch.tensor, lambda r: [np.int64(i) for i in r], tuple]
)
def test_toxic_pickles_of_every_age(tmp_path: Path, protocol: int, kind: Any) -> None:
    folder = write_toxic(
        tmp_path / "0", POISONS, kind(ROWS.tolist()), (TARGET, TRUE), protocol,
        perturbation_norms=[8 / 255] * len(ROWS),
    )  # fmt: skip
    found = read(folder)
    np.testing.assert_array_equal(found.arrays["images"], POISONS)
    np.testing.assert_array_equal(found.arrays["base_ids"], ROWS)
    np.testing.assert_array_equal(found.arrays["target_images"][0], TEST.images[TARGET_ROW])
    assert found.arrays["labels"].tolist() == [ADV] * len(ROWS)
    poisons = rebuilt(found)
    assert (poisons.meta.goal, poisons.meta.adv_label, poisons.meta.eps_255) == ("targeted", 1, 8.0)
    assert lint(poisons, TRAIN, TEST) == []


@pytest.mark.parametrize("tensor", [torch.tensor, np.array, lambda p: np.array(p, np.float32)])
def test_a_patch_is_pasted_at_column_and_row(tmp_path: Path, tensor: Any) -> None:
    patch = np.random.default_rng(0).integers(0, 256, (3, 5, 5))
    target = (TARGET, TRUE, tensor((patch / 255).tolist()), [27, 11])
    poisons = rebuilt(read(write_toxic(tmp_path / "0", POISONS, ROWS, target)))
    assert isinstance(poisons.trigger, Patch)
    write_poison_set(tmp_path / "set", poisons)
    (probe,) = Published(folder=tmp_path / "set", number=0).poison(TRAIN, TEST, stream(0)).probes
    expected = TEST.images[TARGET_ROW].copy()
    expected[:, 11:16, 27:32] = patch
    np.testing.assert_array_equal(probe.images.images[0], expected)
    assert probe.images.ids.tolist() == [TEST.ids[TARGET_ROW]]


def test_source_images_of_epic(tmp_path: Path) -> None:
    rows = np.flatnonzero(TEST.labels == TRUE)[:3]
    patched = TEST.images[rows].copy()
    patched[:, :, -4:, -4:] = 255
    folder = write_toxic(
        tmp_path / "0", POISONS, ROWS, None, source=pil_pairs(patched, [TRUE] * 3)
    )  # fmt: skip
    write_poison_set(tmp_path / "set", rebuilt(read(folder)))
    attack = Published(folder=tmp_path / "set", number=0)
    (probe,) = attack.poison(TRAIN, TEST, stream(0)).probes
    np.testing.assert_array_equal(probe.images.images, patched)
    assert probe.images.ids.tolist() == [-1, -2, -3] and attack.goal == "triggered"


@pytest.mark.parametrize("legacy", [False, True])
def test_bullseye_with_its_split(tmp_path: Path, legacy: bool) -> None:
    """Floats in other statistics, rows in another order: base, target and bytes come back."""
    big = shapes()
    split = write_split(tmp_path / "CIFAR10_TRAIN_Split.pth", big, legacy)
    others = read(split).arrays["others_images"]
    labels = read(split).arrays["others_labels"]
    positions = np.flatnonzero(labels == ADV)[:4]
    signs = np.random.default_rng(2).choice((-25, 25), (4, 3, 32, 32))
    images = np.clip(others[positions].astype(int) + signs, 0, 255).astype(np.uint8)
    write_bullseye(tmp_path / "x" / "poison_00050.pth", images[:1], [0], legacy)
    write_bullseye(tmp_path / "x" / "poison_00799.pth", images, positions.tolist(), legacy)
    poisons = rebuilt(read(tmp_path / "x", split))
    np.testing.assert_array_equal(poisons.images, images)
    bases = TRAIN.images[TRAIN.positions(poisons.base_ids)]
    np.testing.assert_array_equal(bases, others[positions])
    assert poisons.meta.eps_255 == 25.5 and poisons.meta.goal == "availability"  # no number


def test_bullseye_without_its_split_finds_the_nearest_rows(tmp_path: Path) -> None:
    path = write_bullseye(tmp_path / "poison_00799.pth", POISONS, [3, 1, 4, 15, 9, 2])
    assert rebuilt(read(path)).base_ids.tolist() == ROWS.tolist()
    assert set(assemble(read(path), Choices()).base_ids) == {UNKNOWN}


def test_the_target_of_bullseye_is_the_image_after_the_victims_fifty(tmp_path: Path) -> None:
    frogs = np.random.default_rng(0).integers(0, 256, (53, 3, 4, 4), dtype=np.uint8)
    others = [(pil(image), 6) for image in frogs] + [(pil(frogs[0] // 2), 8)] * 2
    torch.save({"clean_train": others[:1], "others": others}, tmp_path / "split.pth")
    path = write_bullseye(tmp_path / "2" / "poison_00001.pth", frogs[:1], [53])
    found = read(path, tmp_path / "split.pth").arrays
    np.testing.assert_array_equal(found["target_images"], frogs[52:53])
    np.testing.assert_array_equal(found["base_images"], [frogs[0] // 2])
    write_bullseye(tmp_path / "9" / "poison_00001.pth", frogs[:1], [53])
    with pytest.raises(DataError, match="target 9 is none of its 3"):
        read(tmp_path / "9" / "poison_00001.pth", tmp_path / "split.pth")


def test_a_split_becomes_two_datasets(tmp_path: Path) -> None:
    split = write_split(tmp_path / "CIFAR10_TRAIN_Split.pth", DATA)
    lines, _ = import_poisons(split, tmp_path / "out", SHAPES)
    assert "150 of them in the training set" in lines[1]
    loaded = Npz(path=tmp_path / "out" / "others.npz", num_classes=10).load().train
    ids = np.load(tmp_path / "out" / "others.npz")["train_ids"]
    np.testing.assert_array_equal(loaded.images, TRAIN.images[TRAIN.positions(ids)])
    np.testing.assert_array_equal(loaded.labels, TRAIN.labels[TRAIN.positions(ids)])


@pytest.mark.parametrize("levels", [8, 16])
def test_a_narcissus_trigger_becomes_poisons_of_its_class(tmp_path: Path, levels: int) -> None:
    path = tmp_path / f"best_noise_lab{ADV}.npy"
    np.save(path, 2 * checkers(levels)[None])
    poisons = rebuilt(read(path))
    attack = Narcissus(adv_label=ADV, trigger=path, eps_255=levels).poison(TRAIN, TEST, stream(0))
    rows = TRAIN.positions(poisons.base_ids)
    assert sorted(poisons.base_ids) == sorted(attack.poison_ids)
    np.testing.assert_array_equal(poisons.images, attack.train.images[rows])
    assert poisons.meta.eps_255 == levels
    assert len(rebuilt(read(path), count=5, select="first")) == 5
    with pytest.raises(DataError, match="needs the clean dataset"):
        assemble(read(path), Choices())
    with pytest.raises(DataError, match="99 poisons were asked for"):
        rebuilt(read(path), count=99)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ntga_rows_are_found_again_in_another_order(tmp_path: Path, dtype: type) -> None:
    order = np.random.default_rng(0).permutation(len(TRAIN))[:200]
    signs = np.random.default_rng(1).choice((-8, 8), (200, 3, 32, 32))
    levels = np.clip(TRAIN.images[order].astype(int) + signs, 0, 255)
    x = (levels / 255).transpose(0, 2, 3, 1).astype(dtype)
    np.save(tmp_path / "x_train_cifar10_ntga_cnn_best.npy", x)
    np.save(tmp_path / "y_train_cifar10.npy", np.eye(10)[TRAIN.labels[order]].astype(dtype))
    np.save(tmp_path / "y_val_cifar10.npy", np.eye(10))
    path = tmp_path / "x_train_cifar10_ntga_cnn_best.npy"
    poisons = rebuilt(read(path))
    np.testing.assert_array_equal(poisons.images, levels)  # truncation would lower a third of them
    np.testing.assert_array_equal(poisons.base_ids, TRAIN.ids[order])
    assert [f.level for f in lint(poisons, TRAIN)] == ["warning"]  # 100 rows stay clean
    assert "no known base row" in str(lint(assemble(read(path), Choices()))[0])


def test_metapoison_rows_are_those_that_differ(tmp_path: Path) -> None:
    order = np.argsort(TRAIN.labels, kind="stable")
    images = TRAIN.images.copy()
    images[ROWS] = POISONS
    x = images[order].transpose(0, 2, 3, 1).astype(np.float32) + np.float32(1e-3)
    package = {
        "xtrain": np.clip(x, 0, 255), "ytrain": TRAIN.labels[order],
        "xtarget": TEST.images[[TARGET_ROW]].transpose(0, 2, 3, 1), "ytarget": [TRUE],
        "ytargetadv": np.array([ADV]), "xvalid": x[:2], "yvalid": [0, 1],
    }  # fmt: skip
    poisons = rebuilt(read(dump(tmp_path / "package.pkl", package)))
    assert sorted(poisons.base_ids) == ROWS.tolist()
    assert lint(poisons, TRAIN, TEST) == []
    unchanged = {**package, "xtrain": TRAIN.images.transpose(0, 2, 3, 1)}
    with pytest.raises(DataError, match="every image of it is a clean one"):
        rebuilt(read(dump(tmp_path / "package.pkl", unchanged)))


def test_pictures_of_apbench_take_their_labels_from_the_dataset(tmp_path: Path) -> None:
    folder = tmp_path / "lsp_poisons" / "data"
    folder.mkdir(parents=True)
    for row, image in zip(ROWS, POISONS, strict=True):
        pil(image).save(folder / f"{row}.png")
    poisons = rebuilt(read(folder.parent))
    np.testing.assert_array_equal(poisons.images, POISONS)
    assert poisons.base_ids.tolist() == ROWS.tolist() and set(poisons.labels) == {ADV}
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(folder / "7.png")
    with pytest.raises(DataError, match="is of shape"):
        read(folder.parent)


def test_backdoor_toolbox(tmp_path: Path) -> None:
    images, labels = TRAIN.images.copy(), TRAIN.labels.copy()
    rows = np.flatnonzero(TRAIN.labels != ADV)[5:9]
    images[rows, :, -3:, -3:] = 255
    labels[rows] = ADV
    torch.save(torch.from_numpy(images).float() / 255, tmp_path / "imgs")
    torch.save(torch.from_numpy(labels), tmp_path / "labels")
    torch.save(rows.tolist(), tmp_path / "poison_indices")
    poisons = rebuilt(read(tmp_path))
    np.testing.assert_array_equal(poisons.images, images[rows])
    assert not poisons.meta.clean_label and poisons.meta.adv_label == ADV
    assert not [f for f in lint(poisons, TRAIN) if f.level == "error"]
    torch.save([10**6], tmp_path / "poison_indices")
    with pytest.raises(DataError, match="do not name rows"):
        read(tmp_path)


def test_purified_sets_of_puregen(tmp_path: Path) -> None:
    smooth = [(pil(image // 4 * 4), torch.tensor(int(y)))
              for image, y in zip(TRAIN.images, TRAIN.labels, strict=True)]  # fmt: skip
    torch.save(smooth, tmp_path / "EBM[Steps[150]].pt")
    whole = rebuilt(read(tmp_path / "EBM[Steps[150]].pt"))
    np.testing.assert_array_equal(whole.images, TRAIN.images // 4 * 4)
    np.testing.assert_array_equal(whole.labels, TRAIN.labels)

    rows = [(pil(image), torch.tensor(ADV)) for image in POISONS]
    torch.save((rows, ROWS, ADV), tmp_path / "3.pth")
    original = rebuilt(read(write_toxic(tmp_path / "raw", POISONS, ROWS, (TARGET, TRUE))))
    purified = assemble(read(tmp_path / "3.pth"), Choices(), TRAIN, like=original)
    assert purified.meta.goal == "targeted" and purified.meta.eps_255 is None
    torch.save((rows, ROWS, 2 * checkers()), tmp_path / "4.pth")
    triggered = rebuilt(read(tmp_path / "4.pth"))
    assert isinstance(triggered.trigger, Delta)
    np.testing.assert_allclose(triggered.trigger.values, checkers(), rtol=1e-6)


def test_setups_become_what_attacks_read(tmp_path: Path) -> None:
    setups = [
        {"target class": np.int64(7), "target index": np.int64(7762), "base class": 3,
         "base indices": np.array([2386, 37215, 23942])},
        {"target class": 1, "target index": np.int64(5), "base class": np.int64(0),
         "base indices": np.array([4, 2])},
    ]  # fmt: skip
    path = dump(tmp_path / "cifar10_from_scratch.pickle", setups, 3)
    assert "2 setups" in import_poisons(path, tmp_path / "setups.json")[0][0]
    first, second = (read_setup(tmp_path / "setups.json", number) for number in (0, 1))
    assert (first.true_label, first.target_row, first.adv_label) == (7, 7762, 3)
    assert first.base_rows == (2386, 37215, 23942) and second.base_rows == (4, 2)


def test_numbered_sets_are_imported_each(tmp_path: Path) -> None:
    for number in (0, 1, 10):
        write_toxic(tmp_path / "in" / str(number), POISONS, ROWS, (TARGET, TRUE))
    assert [n for n, _, _ in parts(tmp_path / "in")] == [0, 1, 10]
    lines, errors = import_poisons(tmp_path / "in", tmp_path / "out", SHAPES)
    assert not errors
    assert "6 poisons of 3x32x32, targeted to label 1, clean-label, eps 8/255 (toxic)" in lines[0]
    text, errors = lint_poisons(tmp_path / "out", SHAPES)
    assert errors == 0 and [line.partition(": ")[0][-2:] for line in text[:3]] == ["/0", "/1", "10"]
    exported = export_poisons(tmp_path / "out", tmp_path / "again", "toxic")
    assert len(exported) == 3 and (tmp_path / "again" / "10" / "target.pickle").is_file()


@pytest.mark.parametrize(
    ("name", "form", "message"),
    [
        ("nothing.xyz", "auto", "looks like no known format. toxic: folder with"),
        ("nothing.xyz", "toxik", "Did you mean 'toxic'"),
        ("missing", "auto", "does not exist"),
    ],
)
def test_what_no_format_fits(tmp_path: Path, name: str, form: str, message: str) -> None:
    (tmp_path / "nothing.xyz").touch()
    with pytest.raises(DataError, match=message):
        find_format(tmp_path / name, form)


# There and back


@pytest.mark.parametrize("patch", [False, True])
def test_what_is_exported_as_toxic_is_what_their_tools_load_and_ours_reads(
    tmp_path: Path, patch: bool
) -> None:
    trigger = Patch(np.arange(75, dtype=np.uint8).reshape(3, 5, 5), (27, 11)) if patch else None
    meta = Meta(goal="targeted", adv_label=ADV, eps_255=8.0)
    target = Target(TEST.images[[TARGET_ROW]], np.array([TRUE]))
    before = PoisonSet(POISONS, np.full(6, ADV), ROWS, meta, target, trigger)
    export(before, tmp_path, "toxic")
    with (tmp_path / "poisons.pickle").open("rb") as file:
        image, label = pickle.load(file)[0]
    np.testing.assert_array_equal(np.asarray(image).transpose(2, 0, 1), POISONS[0])
    assert label == ADV
    after = rebuilt(read(tmp_path), eps_255=8.0)
    same_set(before, after)


def same_set(a: PoisonSet, b: PoisonSet) -> None:
    for name in ("images", "labels", "base_ids"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert (a.target is None) == (b.target is None) and type(a.trigger) is type(b.trigger)
    if a.target is not None and b.target is not None:
        np.testing.assert_array_equal(a.target.images, b.target.images)
        np.testing.assert_array_equal(a.target.true_labels, b.target.true_labels)
    if isinstance(a.trigger, Patch) and isinstance(b.trigger, Patch):
        np.testing.assert_array_equal(a.trigger.pixels, b.trigger.pixels)
        assert a.trigger.xy == b.trigger.xy
    if isinstance(a.trigger, Delta) and isinstance(b.trigger, Delta):
        np.testing.assert_array_equal(a.trigger.values, b.trigger.values)


def test_every_grey_level_survives_the_floats_of_bullseye(tmp_path: Path) -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16).repeat(3, axis=1)
    meta = Meta(goal="availability", adv_label=ADV)
    export(PoisonSet(levels, np.array([ADV]), np.array([0]), meta), tmp_path, "bullseye")
    np.testing.assert_array_equal(read(tmp_path).arrays["images"], levels)
    loaded = torch.load(tmp_path / "poison_00000.pth", weights_only=True)
    assert loaded["poison"][0][0].shape == (3, 16, 16) and loaded["idx"] == [0]


def test_triggers_and_pictures_there_and_back(tmp_path: Path) -> None:
    before = example_set()
    (path,) = export(before, tmp_path, "narcissus")
    np.testing.assert_allclose(read_trigger(path, 8), checkers(), rtol=1e-6)
    export(before, tmp_path / "p", "png")
    after = rebuilt(read(tmp_path / "p"))
    order = np.argsort(before.base_ids)
    np.testing.assert_array_equal(after.images, before.images[order])
    export(before, tmp_path / "n", "numpy")
    np.testing.assert_array_equal(np.load(tmp_path / "n" / "base_indices.npy"), before.base_ids)
    with pytest.raises(DataError, match="an additive trigger"):
        export(before, tmp_path, "toxic")
    with pytest.raises(DataError, match="Did you mean 'narcissus'"):
        export(before, tmp_path, "narcisus")


def test_what_our_attacks_craft_is_replayed_to_the_byte(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", 2 * checkers()[None])
    attack = Narcissus(adv_label=ADV, trigger=tmp_path / "t.npy")
    crafted = attack.poison(TRAIN, TEST, stream(0))
    poisons = poison_set_of(crafted, attack.bounds(TRAIN), "narcissus", "shapes")
    write_poison_set(tmp_path / "set", poisons)
    same_set(poisons, read_poison_set(tmp_path / "set"))
    again = Published(folder=tmp_path / "set", number=0).poison(TRAIN, TEST, stream(1))
    assert again.train.digest == crafted.train.digest
    for one, other in zip(crafted.probes, again.probes, strict=True):
        assert (one.name, one.images.digest) == (other.name, other.images.digest)


@pytest.mark.parametrize("trigger", [None, Delta(checkers()), Patch(POISONS[0, :, :4, :4], (1, 2))])
@pytest.mark.parametrize("aimed", [True, False])
def test_the_own_form_keeps_everything(tmp_path: Path, trigger: Any, aimed: bool) -> None:
    goal = "targeted" if aimed else "triggered" if trigger else "availability"
    meta = Meta(goal=goal, adv_label=ADV, eps_255=25.5, notes={"seed": 3, "net": "R18", "x": None})
    target = Target(TEST.images[:2], TEST.labels[:2]) if aimed else None
    before = PoisonSet(POISONS, np.full(6, ADV), ROWS, meta, target, trigger)
    write_poison_set(tmp_path, example_set())  # what is left of an older set goes away
    write_poison_set(tmp_path, before)
    after = read_poison_set(tmp_path)
    same_set(before, after)
    assert after.meta == meta


# The linter


def changed(**changes: Any) -> PoisonSet:
    """A sound set with something changed."""
    meta = {"goal": "targeted", "adv_label": ADV, "eps_255": 8.0}
    meta |= {k: changes.pop(k) for k in list(changes) if k in (*meta, "clean_label")}
    parts = {
        "images": POISONS, "labels": np.full(6, ADV), "base_ids": ROWS,
        "target": Target(TEST.images[[TARGET_ROW]], np.array([TRUE])), "trigger": None,
    }  # fmt: skip
    return PoisonSet(**{**parts, **changes}, meta=Meta(**meta))


def blank() -> np.ndarray:
    images = POISONS.copy()
    images[0] = 7
    return images


def closer(levels: int) -> np.ndarray:
    return perturbed(DATA, levels=levels)[0]


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({}, None),
        ({"eps_255": 7.0}, "note: poisons: they move a byte by 8, one level more"),
        ({"eps_255": 6.0}, "error: bases: 6 of 6 poisons differ from their base by up to 8"),
        ({"eps_255": None}, "note: poisons: they move a byte by up to 8"),
        ({"base_ids": np.array([*ROWS[:5], ROWS[0]])}, "error: bases: 1 rows are replaced twice"),
        ({"base_ids": np.array([*ROWS[:5], 300])}, "error: bases: 1 of 6 ids are not in the train"),
        ({"base_ids": np.array([*ROWS[:5], -1])}, "error: bases: 1 of 6 poisons have no known"),
        ({"base_ids": np.array([*ROWS[:5], -7])}, "error: bases: ids reach down to -7"),
        ({"base_ids": ROWS + 1}, "error: bases: .* have another label than their base"),
        ({"images": POISONS[:, :1]}, None),
        ({"images": TRAIN.images[ROWS]}, "error: poisons: no poison differs from its base"),
        ({"images": np.concatenate([POISONS[:5], POISONS[:1]])},
         "warning: poisons: 1 of 6 images repeat"),
        ({"images": blank()}, "warning: poisons: 1 of 6 images are of one colour"),
        ({"labels": np.full(6, 12), "adv_label": 12}, "error: poisons: labels reach 12"),
        ({"labels": np.array([ADV] * 5 + [2])}, "warning: poisons: 1 of 6 labels are not adv_lab"),
        ({"target": Target(TEST.images[[TARGET_ROW]], np.array([3]))},
         "error: target: 1 of its images have another label in the test set"),
        ({"target": Target(TEST.images[[TARGET_ROW]], np.array([ADV]))},
         "error: target: its true label is adv_label"),
        ({"target": Target(TEST.images[[TARGET_ROW]], np.array([99]))},
         "error: target: its labels leave the classes"),
        ({"target": Target(TEST.images[[TARGET_ROW]] // 2, np.array([TRUE]))},
         "note: target: 1 of its 1 images are not in the test set"),
        ({"target": Target(TRAIN.images[[9]], TRAIN.labels[[9]])},
         "warning: target: 1 of its 1 images are trained on"),
        ({"trigger": Delta(2 * checkers())},
         r"error: trigger: it reaches 16 .* units of \[-1, 1\]"),
        ({"trigger": Delta(checkers(4))}, "warning: trigger: it reaches 4 grey levels of the 8"),
        ({"trigger": Delta(0 * checkers())}, "error: trigger: it is zero"),
        ({"trigger": Delta(checkers(side=16))}, "error: trigger: it is of"),
        ({"trigger": Patch(POISONS[0, :, :5, :5], (28, 0))}, "error: trigger: a patch of"),
    ],
)  # fmt: skip
def test_the_linter_finds(changes: dict[str, Any], finding: str | None) -> None:
    if "images" in changes and changes["images"].shape[1] == 1:
        grey = Target(TEST.images[[TARGET_ROW], :1], np.array([TRUE]))
        found = lint(changed(**changes, target=grey), TRAIN, TEST)
        finding = "error: poisons: they are of"
    else:
        found = lint(changed(**changes), TRAIN, TEST)
    if finding is None:
        assert found == []
    else:
        assert any(re.match(finding, str(f)) for f in found), found


def test_images_that_show_a_trigger_are_in_no_test_set() -> None:
    shown = Target(TEST.images[[TARGET_ROW]] // 2, np.array([TRUE]))
    said = [str(found) for found in lint(changed(goal="triggered", target=shown), TRAIN, TEST)]
    assert not [line for line in said if "not in the test set" in line]


def test_labels_that_differ_are_a_dirty_label_set_only_where_pictures_agree(tmp_path: Path) -> None:
    """Of other data, or of another order of their rows, it is no attack but a mistake."""
    rows = np.flatnonzero(TRAIN.labels != ADV)[:6]
    stamped = TRAIN.images[rows].copy()
    stamped[:, :, -5:, -5:] = 255
    foreign = read(write_toxic(tmp_path / "0", stamped, rows, (TARGET, TRUE)))
    dirty = rebuilt(foreign)
    assert not dirty.meta.clean_label and dirty.meta.eps_255 is None
    assert [f for f in lint(dirty, TRAIN) if f.level == "error"] == []
    assert rebuilt(foreign, clean_label=True).meta.clean_label
    mistaken = assemble(foreign, Choices(), other_order())
    assert mistaken.meta.clean_label
    assert [f.level for f in lint(mistaken, other_order()) if "another label" in f.what] == [
        "error"
    ]


def test_a_backdoor_of_the_toolbox_may_keep_labels(tmp_path: Path) -> None:
    images = TRAIN.images.copy()
    rows = np.flatnonzero(TRAIN.labels == ADV)[:4]
    images[rows, :, -3:, -3:] = 255
    torch.save(torch.from_numpy(images).float() / 255, tmp_path / "imgs")
    torch.save(torch.from_numpy(TRAIN.labels.copy()), tmp_path / "labels")
    torch.save(rows.tolist(), tmp_path / "poison_indices")
    assert rebuilt(read(tmp_path)).meta.clean_label


def test_rows_are_found_by_their_bytes_and_by_nearness() -> None:
    order = np.array([7, 3, 299])
    assert same_rows(TRAIN.images[order], TRAIN.images).tolist() == order.tolist()
    assert same_rows(POISONS, TRAIN.images).tolist() == [UNKNOWN] * 6
    labels = np.full(6, ADV)
    assert nearest_rows(POISONS, labels, TRAIN, 8).tolist() == ROWS.tolist()
    assert nearest_rows(POISONS, labels, TRAIN, 7).tolist() == [UNKNOWN] * 6
    assert nearest_rows(POISONS, np.full(6, TRUE), TRAIN, 8).tolist() == [UNKNOWN] * 6


# The attack


def test_the_example_in_the_package_is_what_its_recipe_makes() -> None:
    attack = ATTACKS.get("published").factory(**{
        **Published.example, "folder": Path(Published.example["folder"])
    })  # fmt: skip
    stored = read_poison_set(attack.folder)
    same_set(example_set(), stored)
    assert stored.meta == example_set().meta
    assert lint(stored, TRAIN, TEST) == []


def test_published_poisons_take_the_place_of_their_bases(tmp_path: Path) -> None:
    write_poison_set(tmp_path / "5", changed())
    write_poison_set(tmp_path / "0", example_set())
    attack = Published(folder=tmp_path, number=5)
    shuffled = TRAIN.take(np.random.default_rng(0).permutation(len(TRAIN)))  # ids decide, not rows
    poisoned = attack.poison(shuffled, TEST, stream(0))
    rows = shuffled.positions(ROWS)
    np.testing.assert_array_equal(poisoned.train.images[rows], POISONS)
    rest = np.setdiff1d(np.arange(len(TRAIN)), rows)
    np.testing.assert_array_equal(poisoned.train.images[rest], shuffled.images[rest])
    (probe,) = poisoned.probes
    assert (probe.name, attack.goal, probe.adv_labels.tolist()) == ("target", "targeted", [ADV])
    assert attack.bounds(TRAIN).eps_255 == 9 and attack.bounds(TRAIN).keeps_labels
    triggered = Published(folder=tmp_path, number=0, magnifications=(1, 4))
    assert [p.name for p in triggered.poison(TRAIN, TEST, stream(0)).probes] == ["x1", "x4"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: Published(folder=f, number=-1), "number counts from 0"),
        (lambda f: Published(folder=f, number=0, magnifications=()), "magnifications are positive"),
        (lambda f: Published(folder=f, number=3).check(TRAIN, TEST), "one set of poisons, number"),
        (lambda f: Published(folder=f / "x", number=0).check(TRAIN, TEST), "holds no set of poi"),
        (lambda f: Published(folder=f, number=0).check(TRAIN.take(np.arange(20)), TEST),
         "do not fit these data. bases: .* ids are not in the training set"),
        (lambda f: Published(folder=f, number=0).check(other_order(), TEST),
         "another order of its rows"),
    ],
)  # fmt: skip
def test_poisons_that_do_not_fit_are_refused_before_anything_runs(
    tmp_path: Path, make: Any, message: str
) -> None:
    write_poison_set(tmp_path, changed())
    with pytest.raises(DataError, match=message):
        make(tmp_path)


def test_a_set_that_is_not_among_the_numbered_ones(tmp_path: Path) -> None:
    for number in ("10", "2"):
        write_poison_set(tmp_path / number, changed())
    with pytest.raises(DataError, match=r"itself; its sets have the numbers 2, 10\."):
        Published(folder=tmp_path, number=0).check(TRAIN, TEST)


def other_order() -> ImageSet:
    return ImageSet(TRAIN.images[::-1], TRAIN.labels[::-1], TRAIN.ids, 10)


# The commands


def test_import_is_isolated_and_says_where_it_comes_from(tmp_path: Path) -> None:
    folder = write_toxic(tmp_path / "raw", POISONS, ROWS, (TARGET, TRUE))
    found = read_isolated(folder, "toxic")
    np.testing.assert_array_equal(found.arrays["images"], POISONS)
    import_poisons(folder, tmp_path / "set", choices=Choices(attack="gradient_matching"))
    meta = json.loads((tmp_path / "set" / "meta.json").read_text())
    assert (meta["source"], meta["attack"], len(meta["source_sha256"])) == (
        "raw", "gradient_matching", 64,
    )  # fmt: skip
    with pytest.raises(DataError, match="of the project's own form already"):
        import_poisons(tmp_path / "set", tmp_path / "again")
    with pytest.raises(UsageError, match="holds other files"):
        import_poisons(folder, tmp_path)
    other = write_toxic(tmp_path / "other", POISONS[::-1], ROWS, (TARGET, TRUE))
    with pytest.raises(UsageError, match=r"holds poisons of another source \(raw\)"):
        import_poisons(other, tmp_path / "set")
    assert json.loads((tmp_path / "set" / "meta.json").read_text()) == meta
    import_poisons(folder, tmp_path / "set", choices=Choices(attack="again"))
    assert json.loads((tmp_path / "set" / "meta.json").read_text())["attack"] == "again"
    text, errors = lint_poisons(tmp_path / "set", "{name: shapes, train: 10, test: 10}")
    assert errors == 1 and text[-1] == "errors: 1"


def test_every_format_has_a_summary() -> None:
    assert all(form.summary and name == form.name for name, form in FORMATS.items())
