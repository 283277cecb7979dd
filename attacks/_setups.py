"""Setups of triggerless attacks: which test image shall get which label, from which rows.

A setup has a number. Number 17 of a seed is the same whichever others are drawn, so that a study of
20 targets holds the study of 10, and attacks that draw from the same stream attack the same images.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from attacks._triggered import choose_rows
from harness.core.data import ImageSet, Probe
from harness.core.errors import DataError
from harness.core.seeds import stream
from harness.training import Predictor

BaseRule = Literal["random", "first", "highest_loss"]
_KEYS = ("true_label", "target_row", "adv_label", "base_rows")


@dataclass(frozen=True, slots=True)
class Setup:
    """One target of a triggerless attack.

    Attributes:
        target_row: Position of the target image in the test set.
        true_label: Its label.
        adv_label: Label that the attacker wants for it, another one.
        base_rows: Positions in the training set of the images that become poisons, where a file
            gives them; empty where the attack chooses.
    """

    target_row: int
    true_label: int
    adv_label: int
    base_rows: tuple[int, ...] = ()


def draw_setup(
    test: ImageSet,
    number: int,
    seed: int,
    *,
    known: NDArray[np.bool_] | None = None,
    predicted: NDArray[np.int64] | None = None,
    true_label: int | None = None,
    adv_label: int | None = None,
) -> Setup:
    """Draw a setup: a pair of classes, then a test image of the first, each uniformly.

    Args:
        test: Test set.
        number: Which setup, from 0; setups of one seed are drawn independently of each other.
        seed: Source of all setups (see :func:`harness.core.seeds.subseed`).
        known: bool (N,), rows that may be targets, for example those classified correctly.
        predicted: int64 (K, N), labels that K networks give the test images; an image that one of
            them already gives ``adv_label`` is no target.
        true_label, adv_label: Fixed classes instead of drawn ones.

    Raises:
        DataError: If no test image is left.
    """
    eligible = np.ones(len(test), bool) if known is None else known
    rng = stream(seed, "setup", number)
    # A permutation of all pairs, not one pair: where a class has no eligible image the next is
    # taken, and the drawn pair stays uniform over those that have one.
    for pair in rng.permutation(test.num_classes**2):
        true, wanted = divmod(int(pair), test.num_classes)
        if true == wanted or true_label not in (None, true) or adv_label not in (None, wanted):
            continue
        mask = eligible & (test.labels == true)
        if predicted is not None:
            mask &= ~np.any(predicted == wanted, axis=0)
        rows = np.flatnonzero(mask)
        if len(rows):
            return Setup(int(rng.choice(rows)), true, wanted)
    raise DataError(
        f"no test image of {len(test)} can be the target of setup {number}: "
        f"{int(eligible.sum())} are allowed, true_label {true_label}, adv_label {adv_label} "
        "(None: any)."
    )


def choose_bases(
    train: ImageSet,
    adv_label: int,
    count: int,
    rule: BaseRule,
    rng: np.random.Generator,
    scores: NDArray[np.floating[Any]] | None = None,
) -> NDArray[np.int64]:
    """Return the positions of ``count`` training rows of a class, ascending.

    Args:
        train: Training set.
        adv_label: The class.
        count: How many.
        rule: ``random`` ones, the ``first`` ones, or those of ``highest_loss``.
        rng: Source of the random ones.
        scores: Float (M,), one for each row of the class in order; for ``highest_loss``.

    Raises:
        DataError: If the class has too few rows or the scores are missing.
    """
    of_class = np.flatnonzero(train.labels == adv_label).astype(np.int64)
    if count > len(of_class):
        raise DataError(f"{count} poisons are more than the {len(of_class)} rows of {adv_label}.")
    if rule != "highest_loss":
        return choose_rows(of_class, count, rule, rng)
    if scores is None or scores.shape != of_class.shape:
        raise DataError("rule 'highest_loss' needs one score for each row of the class.")
    return np.sort(of_class[np.argsort(-scores, kind="stable")[:count]])


def read_setup(path: Path, number: int) -> Setup:
    """Read one setup of a published list, for example those of *Just How Toxic is Data Poisoning?*.

    Args:
        path: JSON, ``[{"true_label": 7, "target_row": 7762, "adv_label": 3, "base_rows": […]}, …]``
            with positions in the order of the published dataset.
        number: Which one, from 0.

    Raises:
        DataError: If the file is no such list or has no such number.
    """
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"setups {str(path)!r} cannot be read as JSON: {error}") from error
    if not isinstance(listed, list) or not listed:
        raise DataError(f"setups {str(path)!r} must be a list of setups with {', '.join(_KEYS)}.")
    if not 0 <= number < len(listed):
        raise DataError(
            f"setups {str(path)!r} have the numbers 0..{len(listed) - 1}; got {number}."
        )
    where, raw = f"setup {number} of {str(path)!r}", listed[number]
    if not isinstance(raw, dict) or set(raw) != set(_KEYS):
        given = ", ".join(map(str, raw)) if isinstance(raw, dict) else repr(raw)
        raise DataError(f"{where} must have exactly the keys {', '.join(_KEYS)}; got {given}.")
    bases = raw["base_rows"]
    numbers = [raw[key] for key in _KEYS[:3]] + (bases if isinstance(bases, list) else [None])
    if not bases or any(type(value) is not int for value in numbers):
        raise DataError(f"{where} must hold whole numbers, and base_rows a list of at least one.")
    return Setup(raw["target_row"], raw["true_label"], raw["adv_label"], tuple(bases))


def check_setup(setup: Setup, train: ImageSet, test: ImageSet, where: str = "setup") -> None:
    """Raise unless a setup fits the data.

    Raises:
        DataError: Says what does not fit; another dataset, or another order of its rows, shows in
            labels that are not those of the setup.
    """
    row, bases = setup.target_row, np.asarray(setup.base_rows, np.int64)
    if not 0 <= row < len(test):
        raise DataError(f"{where}: target_row is {row}; the test set has 0..{len(test) - 1}.")
    if test.labels[row] != setup.true_label:
        raise DataError(
            f"{where}: test row {row} has label {test.labels[row]}, not {setup.true_label}; "
            "this is another dataset, or in another order."
        )
    if setup.adv_label == setup.true_label:
        raise DataError(f"{where}: adv_label is the target's true label, {setup.true_label}.")
    if len(np.unique(bases)) != len(bases):
        raise DataError(f"{where}: some base_rows stand twice.")
    if np.any((bases < 0) | (bases >= len(train))):
        raise DataError(
            f"{where}: base_rows reach {bases.min()}..{bases.max()}; "
            f"the training set has 0..{len(train) - 1}."
        )
    if np.any(train.labels[bases] != setup.adv_label):
        raise DataError(
            f"{where}: some base_rows are not of class {setup.adv_label} (adv_label); "
            "this is another dataset, or in another order."
        )


def predicted_labels(
    predictors: Sequence[Predictor], images: NDArray[np.uint8]
) -> NDArray[np.int64]:
    """Return the labels that each network gives, int64 (K, N)."""
    return np.stack([predictor(images) for predictor in predictors])


def mean_losses(predictors: Sequence[Predictor], images: ImageSet) -> NDArray[np.float64]:
    """Return each image's cross-entropy with its label, meaned over networks, float64 (N,)."""
    labels = torch.tensor(images.labels)
    losses = [
        F.cross_entropy(
            torch.from_numpy(p.logits(images.images)).double(), labels, reduction="none"
        )
        for p in predictors
    ]
    mean: NDArray[np.float64] = torch.stack(losses).mean(0).numpy()
    return mean


def target_probe(test: ImageSet, setup: Setup) -> Probe:
    """Return the probe of a setup: its one test image."""
    return Probe("target", test.take([setup.target_row]), np.array([setup.adv_label], np.int64))
