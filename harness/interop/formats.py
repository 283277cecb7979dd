"""The formats in which poisons have been published, by name, and how each is recognised."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import DataError, nearest
from harness.interop._array_sets import picture_files, read_ntga, read_pictures, read_trigger_file
from harness.interop._pickled_sets import read_metapoison, read_setups, read_toxic
from harness.interop._torch_sets import (
    TOOLBOX_FILES,
    read_bullseye,
    read_purified,
    read_split,
    read_toolbox,
)
from harness.interop.foreign import Foreign
from harness.interop.limits import Limits

# Objects of BackdoorBench's own classes: to read them is to run its code.
_BACKDOORBENCH = ("attack_result.pt", "defense_result.pt", "bd_train_dataset", "bd_test_dataset")


@dataclass(frozen=True, slots=True)
class Format:
    """One published format.

    Attributes:
        name: As in ``--format``.
        summary: What it looks like.
        fits: Whether a path looks like it.
        read: Reads a path, with the companion that some formats need, within limits.
    """

    name: str
    summary: str
    fits: Callable[[Path], bool]
    read: Callable[[Path, Path | None, Limits], Foreign]


def _named(pattern: str) -> Callable[[Path], bool]:
    return lambda path: path.is_file() and re.fullmatch(pattern, path.name) is not None


def _is_bullseye(path: Path) -> bool:
    if path.is_dir():
        return any(path.glob("poison_*.pth"))
    return _named(r"poison_\d+\.pth")(path)


_ALL = (
    Format(
        "toxic",
        "folder with poisons.pickle, base_indices.pickle and target.pickle or source.pickle "
        "(poisoning-benchmark, gradient matching, EPIC, PureGen)",
        lambda path: (path / "poisons.pickle").is_file(),
        read_toxic,
    ),
    Format(
        "toxic_setups",
        "pickle of setups (poisoning-benchmark: cifar10_from_scratch.pickle)",
        _named(r".*(from_scratch|transfer_learning|setups).*\.(pickle|pkl)"),
        read_setups,
    ),
    Format("bullseye", "poison_00799.pth, or a folder of them", _is_bullseye, read_bullseye),
    Format("bullseye_split", "CIFAR10_TRAIN_Split.pth", _named(r"(?i).*split.*\.pth"), read_split),
    Format(
        "puregen_purified",
        "purified set <key>.pt, or purified poisons <i>.pth, of PureGen",
        _named(r"\d+\.pth|.*\.pt"),
        read_purified,
    ),
    Format("ntga", "x_train_….npy with y_train_….npy beside it", _named(r"x_.*\.npy"), read_ntga),
    Format(
        "narcissus", "trigger best_noise_lab3.npy", _named(r"(?![xy]_).*\.npy"), read_trigger_file
    ),
    Format(
        "backdoor_toolbox",
        "folder with imgs, labels and poison_indices",
        lambda path: all((path / name).is_file() for name in TOOLBOX_FILES),
        read_toolbox,
    ),
    Format(
        "apbench",
        "folder of <index>.png, or with such a folder data",
        lambda path: path.is_dir() and bool(picture_files(path)),
        read_pictures,
    ),
    Format("metapoison", "pickle with xtrain, ytrain, …", _named(r".*\.(pickle|pkl)"),
           read_metapoison),
)  # fmt: skip
FORMATS = {form.name: form for form in _ALL}


def find_format(source: Path, name: str = "auto") -> Format:
    """Return the format of a path, by its name or by what it looks like.

    Raises:
        DataError: If there is no such format, or the path looks like none.
    """
    if not source.exists():
        raise DataError(f"{str(source)!r} does not exist.")
    if source.name in _BACKDOORBENCH or any((source / n).exists() for n in _BACKDOORBENCH):
        raise DataError(
            f"{str(source)!r} is of BackdoorBench: it holds objects of its own classes, and to "
            "read them is to run its code. Export its images there as PNG or .npz instead."
        )
    if name != "auto":
        if name not in FORMATS:
            raise DataError(
                f"unknown format {name!r}.{nearest(name, FORMATS)} "
                f"Allowed: auto, {', '.join(FORMATS)}."
            )
        return FORMATS[name]
    for form in _ALL:
        if form.fits(source):
            return form
    known = "; ".join(f"{form.name}: {form.summary}" for form in _ALL)
    raise DataError(f"{str(source)!r} looks like no known format. {known}.")


def parts(source: Path, name: str = "auto") -> list[tuple[int | None, Path, Format]]:
    """Return the sets that a path holds: itself, or one per numbered folder or file in it.

    Raises:
        DataError: If it holds none (see :func:`find_format`).
    """
    if source.is_dir() and not any(form.fits(source) for form in _ALL):
        numbered = [(number_of(p), p) for p in source.iterdir()]
        found = [(n, p) for n, p in numbered if n is not None]
        if found and len({n for n, _ in found}) == len(found):
            return [(n, p, find_format(p, name)) for n, p in sorted(found)]
    return [(None, source, find_format(source, name))]


def number_of(path: Path) -> int | None:
    """Return the number in a name like ``17``, ``17.pth`` or ``best_noise_lab3.npy``."""
    pattern = r"(\d{1,6})" if path.is_dir() else r"(?:.*lab)?(\d{1,6})\.(?:pth|npy)"
    found = re.fullmatch(pattern, path.name)
    return int(found[1]) if found else None
