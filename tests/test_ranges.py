"""Numbers of recipes that no training can have."""

import math

import pytest

from generative.ddpm_training import DDPMRecipe
from generative.ebm_training import EBMRecipe
from harness.core.errors import DataError
from harness.core.recipe import Recipe


@pytest.mark.parametrize("recipe", [Recipe, EBMRecipe, DDPMRecipe])
@pytest.mark.parametrize("lr", [0.0, -1.0, math.inf, math.nan])
def test_no_learning_rate_but_a_positive_one(recipe, lr) -> None:
    with pytest.raises(DataError, match=f"^lr must be positive.*; got {lr}"):
        recipe(lr=lr)


@pytest.mark.parametrize(
    ("recipe", "numbers", "message"),
    [
        (Recipe, {"epochs": 0}, "epochs must be at least 1; got 0"),
        (Recipe, {"momentum": -1.0}, r"momentum must lie in \[0, 1\); got -1.0"),
        (Recipe, {"momentum": 1e9}, "momentum must lie in"),
        (Recipe, {"warmup": 1.0}, "warmup must lie in"),
        (Recipe, {"label_smoothing": math.nan}, "label_smoothing must lie in"),
        (Recipe, {"weight_decay": -1.0}, "weight_decay must be at least 0; got -1.0"),
        (Recipe, {"weight_decay": math.inf}, "weight_decay must be at least 0 and finite; got inf"),
        (Recipe, {"cutout": -1}, "cutout must be at least 0; got -1"),
        (Recipe, {"milestones": (50, 10)}, r"milestones must ascend; got \(50, 10\)"),
        (Recipe, {"milestones": (50, 50)}, "milestones must ascend"),
        (Recipe, {"milestones": (-3, 10)}, "milestones must be at least 1"),
        (EBMRecipe, {"chain_steps": 0}, "chain_steps must be at least 1; got 0"),
        (EBMRecipe, {"warmup": -1}, "warmup must be at least 0; got -1"),
        (EBMRecipe, {"data_noise": -0.1}, "data_noise must be at least 0; got -0.1"),
        (EBMRecipe, {"ema": 1.0}, r"ema must lie in \[0, 1\); got 1.0"),
        (EBMRecipe, {"rejuvenation": 2.0}, r"rejuvenation must lie in \[0, 1\]; got 2.0"),
        (DDPMRecipe, {"weight_decay": -1.0}, "weight_decay must be at least 0"),
        (DDPMRecipe, {"warmup": -1}, "warmup must be at least 0"),
        (DDPMRecipe, {"crop_pad": -1}, "crop_pad must be at least 0"),
    ],
)
def test_numbers_out_of_range_are_named(recipe, numbers, message) -> None:
    with pytest.raises(DataError, match=f"^{message}"):
        recipe(**numbers)


def test_milestones_may_lie_beyond_the_last_epoch() -> None:
    assert Recipe(epochs=2, schedule="multistep", milestones=(5, 10)).rate(1.0, 1) == 0.3
