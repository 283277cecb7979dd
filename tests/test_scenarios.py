"""How victims come to their weights: from scratch, on frozen features, from pretrained weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from harness.classifier_weights import load_weights
from harness.core.data import ImageSet
from harness.core.errors import DataError, UsageError
from harness.core.files import write_arrays
from harness.core.protocols import CLASSIFIERS, SCENARIOS
from harness.core.recipe import Recipe
from harness.core.seeds import stream
from harness.training import Predictor
from tests.tiny import component, run, workshop

TRAIN = {"name": "shapes", "train": 1000, "test": 20}
OTHER = {"name": "shapes", "train": 1200, "train_skip_per_class": 100, "test": 200}
NET = {"name": "hlb_xs", "widths": [16, 32, 32]}
HEAD = {
    "optimizer": "adam", "lr": 0.02, "epochs": 30, "schedule": "multistep", "flip": False,
    "crop_pad": 0, "label_smoothing": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    shop = workshop(tmp_path_factory.mktemp("start"))
    changes = {"epochs": 12, "lr": 0.1, "batch_size": 32, "crop_pad": 2}
    recipe = {**component("classifier", NET).params["recipe"], **changes}
    reference = {**NET, "recipe": recipe, "dataset": TRAIN, "seed": 0}
    return shop.resource("classifier", reference)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory):
    return workshop(tmp_path_factory.mktemp("data")).dataset(component("dataset", OTHER))


def victim(scenario: str, start: Predictor, train: ImageSet, recipe: dict, **given) -> Predictor:
    classifier = CLASSIFIERS.get("hlb_xs").factory(widths=(16, 32, 32), recipe=Recipe(**recipe))
    made = SCENARIOS.get(scenario).factory(**given)
    return made.train(classifier, start, train, stream(0, "train"))


def accuracy(predict: Predictor, images: ImageSet) -> float:
    return float(np.mean(predict(images.images) == images.labels))


def changed(start: Predictor, now: Predictor) -> set[str]:
    before, after = start.model.state_dict(), now.model.state_dict()
    same_shape = {k for k in before if before[k].shape == after[k].shape}
    return {k for k in same_shape if not torch.equal(before[k], after[k])} | (
        set(before) ^ set(after) | set(before) - same_shape
    )


def test_two_halves_of_a_transfer_split_share_no_row(data, tmp_path) -> None:
    first = {**OTHER, "train_skip_per_class": 0, "train_per_class": 100}
    other = workshop(tmp_path).dataset(component("dataset", first)).train
    assert not set(other.ids) & set(data.train.ids)
    assert len(other) == 1000
    assert len(data.train) == 200


@pytest.mark.parametrize("augmented", [False, True])
def test_linear_transfer_trains_the_head_alone(start, data, augmented) -> None:
    recipe = {**HEAD, "flip": augmented}
    predict = victim("linear_transfer", start, data.train, recipe)
    assert changed(start, predict) == {"head.weight", "head.bias"}
    assert accuracy(predict, data.test) > 0.8 * accuracy(start, data.test) > 0.3  # chance: 0.1
    features = start.features(data.test.images)
    np.testing.assert_allclose(predict.features(data.test.images), features, atol=0.05)


def test_the_head_on_features_is_that_on_images(start, data) -> None:
    recipe = Recipe(**HEAD, precision="fp32")
    classifier = CLASSIFIERS.get("hlb_xs").factory(widths=(16, 32, 32), recipe=recipe)
    scenario = SCENARIOS.get("linear_transfer").factory()
    slow = scenario.train(classifier, start, data.train, stream(0, "train"))
    assert scenario.joins(classifier, [])
    [fast] = scenario.train_many(classifier, start, [data.train], [stream(0, "train")])
    logits = [p.logits(data.test.images) for p in (fast, slow)]
    assert not np.array_equal(*logits)  # another start and another order of rows
    assert np.corrcoef(logits[0].ravel(), logits[1].ravel())[0, 1] > 0.97


@pytest.mark.parametrize("change", [{"flip": True}, {"crop_pad": 2}, {"cutout": 8}])
def test_features_are_fixed_only_where_images_are(change: dict) -> None:
    recipe = Recipe(**{**HEAD, **change})
    classifier = CLASSIFIERS.get("hlb_xs").factory(widths=(16, 32, 32), recipe=recipe)
    assert not SCENARIOS.get("linear_transfer").factory().joins(classifier, [])


def test_new_classes_get_a_new_head(start, data) -> None:
    half = data.train.take(data.train.labels < 4)
    few = ImageSet(half.images, half.labels, half.ids, 4)
    predict = victim("linear_transfer", start, few, HEAD)
    assert predict.logits(few.images).shape[1] == 4
    assert accuracy(predict, few) > 0.6
    with pytest.raises(DataError, match="head has 10 classes, the data 4; give head: new"):
        victim("fine_tune", start, few, {"epochs": 1})
    tuned = victim("fine_tune", start, few, {"epochs": 2, "lr": 0.05}, head="new")
    assert tuned.logits(few.images).shape[1] == 4


def test_fine_tuning_trains_everything(start, data) -> None:
    recipe = {"epochs": 6, "lr": 0.02, "label_smoothing": 0.0, "crop_pad": 0, "flip": False}
    before = {k: t.clone() for k, t in start.model.state_dict().items()}
    tuned = victim("fine_tune", start, data.train, recipe)
    assert changed(start, tuned) >= {"head.weight", "body.0.weight", "body.2.2.running_mean"}
    frozen = victim("fine_tune", start, data.train, recipe, batch_norm="frozen")
    statistics = {k for k in before if "running" in k}
    assert statistics
    assert not statistics & changed(start, frozen)
    affine = {k.replace("running_mean", kind) for k in statistics for kind in ("weight", "bias")}
    assert affine & changed(start, frozen)
    fixed = victim("fine_tune", start, data.train, recipe, batch_norm="fixed")
    others = {name for name, _ in start.model.named_parameters()} - affine
    assert changed(start, fixed) == others
    assert all(torch.equal(before[k], t) for k, t in start.model.state_dict().items())
    assert accuracy(tuned, data.train) > accuracy(start, data.train)


def test_a_study_of_transfer(tmp_path: Path) -> None:
    start = {"recipe": {"epochs": 3}, "dataset": {**TRAIN, "train_per_class": 30}}
    summary = run(
        tmp_path,
        scenario={"name": "linear_transfer"},
        dataset=OTHER,
        classifiers=[{**NET, "recipe": HEAD, "pretrained": start}],
    )
    assert not summary.failed
    assert summary.done == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scenario": "linear_transfer"}, r"classifiers\[0\] \(hlb_xs\): .* needs 'pretrained'"),
        ({"scenario": "linear"}, "Did you mean 'linear_transfer'"),
        (
            {"classifiers": [{**NET, "pretrained": {"dataset": TRAIN}}]},
            "scenario 'from_scratch' takes no 'pretrained'",
        ),
        ({"scenario": {"name": "fine_tune", "head": "both"}}, "scenario .*'keep' or 'new'"),
    ],
)
def test_what_a_study_of_transfer_refuses(tmp_path, changes, message) -> None:
    with pytest.raises(UsageError, match=message):
        run(tmp_path, **changes)


def test_weights_from_files(start, tmp_path) -> None:
    tensors = start.model.state_dict()
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), np.uint8)
    expected = Predictor(start.model).logits(images)
    classifier = CLASSIFIERS.get("hlb_xs").factory(widths=(16, 32, 32))
    write_arrays(tmp_path / "w.npz", {k: t.numpy() for k, t in tensors.items()})
    save_file({k: t.contiguous() for k, t in tensors.items()}, tmp_path / "w.safetensors")
    published = {
        "module." + k.removeprefix("body.").replace("head.", "linear."): t
        for k, t in tensors.items()
        if k not in ("mean", "std")
    }
    torch.save({"net": published, "acc": 90.0, "epoch": 3}, tmp_path / "w.t7")
    for name in ("w.npz", "w.safetensors", "w.t7"):
        read = Predictor(load_weights(classifier, tmp_path / name).eval())
        np.testing.assert_allclose(read.logits(images), expected, rtol=1e-5)
    other = load_weights(classifier, tmp_path / "w.t7", (0.5,) * 3, (0.2,) * 3)
    assert not np.allclose(Predictor(other.eval()).logits(images), expected)


def test_weights_that_do_not_fit(start, tmp_path) -> None:
    classifier = CLASSIFIERS.get("hlb_xs").factory(widths=(16, 32, 32))
    tensors = {k: t.numpy() for k, t in start.model.state_dict().items()}
    cases = {
        "gone": None,
        "no linear head": {"x": np.zeros(3)},
        "lack 'body.0.bias'": {k: t for k, t in tensors.items() if k != "body.0.bias"},
        r"body.0.weight is \(1, 2\)": {**tensors, "body.0.weight": np.zeros((1, 2))},
        "have 'more'": {**tensors, "more": np.zeros(1)},
    }
    for message, arrays in cases.items():
        path = tmp_path / "w.npz"
        if arrays is not None:
            write_arrays(path, arrays)
        with pytest.raises(DataError, match="do not exist" if arrays is None else message):
            load_weights(classifier, path)
    torch.save({"net": {"head.weight": _Bomb()}}, tmp_path / "bomb.pth")
    with pytest.raises(DataError, match="cannot be read as tensors alone"):
        load_weights(classifier, tmp_path / "bomb.pth")
    assert not Path("exploded").exists()


class _Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))
