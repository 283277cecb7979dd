"""The line's point, on real images: the attack works undefended, and each defense lowers it."""

from pathlib import Path

import numpy as np
import pytest

from attacks.narcissus import Narcissus
from defenses.jpeg import Jpeg
from defenses.puregen_ebm import PuregenEbm
from generative.checkpoints import load_ebm
from harness.classifiers.hlb_xs import HlbXs
from harness.core.data import ImageSet, PoisonedSet
from harness.core.recipe import Recipe
from harness.core.seeds import stream
from harness.sweeps import folder
from harness.training import Predictor, build_model, fit

CLASSES = (0, 1, 7)  # airplane, automobile, horse
NET = HlbXs(widths=(16, 32, 32), stem=8, recipe=Recipe(epochs=16, lr=0.2, batch_size=32))


def some_classes(images: np.ndarray, labels: np.ndarray, most: int, first_id: int) -> ImageSet:
    rows = np.flatnonzero(np.isin(labels, CLASSES))[:most]
    pixels = np.ascontiguousarray(images[rows].transpose(0, 3, 1, 2))
    renamed = np.searchsorted(CLASSES, labels[rows]).astype(np.int64)
    return ImageSet(pixels, renamed, np.arange(first_id, first_id + len(rows)), len(CLASSES))


def trained(train: ImageSet) -> Predictor:
    rng = stream(0, "train")
    model = build_model(NET.build, train.num_classes, train.image_shape, rng)
    return fit(model, train, NET.recipe, rng)


def success(predict: Predictor, poisoned: PoisonedSet) -> float:
    probe = poisoned.probes[0]
    return float(np.mean(predict(probe.images.images) == probe.adv_labels))


def checkers(side_px: int) -> np.ndarray:
    """A pattern of squares at plus and minus 8 grey levels, in the units of published files."""
    index = np.arange(32) // side_px
    signs = np.where((index[:, None] + index[None]) % 2, 1, -1)
    return np.broadcast_to(signs * 16 / 255, (1, 3, 32, 32)).astype(np.float32)


@pytest.fixture(scope="module")
def data(shared_data: Path) -> tuple[ImageSet, ImageSet]:
    archive = np.load(shared_data / "data" / "cifar10_mini.npz")
    train = some_classes(archive["x_train"], archive["y_train"], 600, 0)
    return train, some_classes(archive["x_test"], archive["y_test"], 300, 10**6)


@pytest.fixture(scope="module")
def clean_victim(data: tuple[ImageSet, ImageSet]) -> Predictor:
    return trained(data[0])


# Each against a pattern that it can take away; neither takes away every pattern.
@pytest.mark.parametrize(("name", "side_px"), [("jpeg", 1), ("puregen_ebm", 2)])
def test_the_attack_works_undefended_and_the_defense_lowers_it(
    data: tuple[ImageSet, ImageSet],
    clean_victim: Predictor,
    tmp_path: Path,
    name: str,
    side_px: int,
) -> None:
    train, test = data
    np.save(tmp_path / "trigger.npy", checkers(side_px))
    attack = Narcissus(adv_label=2, trigger=tmp_path / "trigger.npy", class_share=1.0)
    poisoned = attack.poison(train, test, stream(0, "attack"))
    undefended = trained(poisoned.train)
    assert success(undefended, poisoned) > 0.7
    assert success(clean_victim, poisoned) < 0.25  # the pattern means nothing to a clean model

    ebm = load_ebm(folder() / "weights" / "shapes_ebm")
    purifier = PuregenEbm(ebm=ebm, steps=70, temperature=7e-5)
    defense = {"jpeg": Jpeg(quality=25), "puregen_ebm": purifier}[name]
    defended = trained(defense.purify(poisoned.train, stream(0, "defense")))
    assert success(defended, poisoned) < 0.5 * success(undefended, poisoned)

    def accuracy(predict: Predictor) -> float:
        return float(np.mean(predict(test.images) == test.labels))

    assert accuracy(defended) > accuracy(undefended) + 0.05
