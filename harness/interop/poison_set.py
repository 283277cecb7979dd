"""A set of poisons as the project keeps it: plain arrays and a JSON, with checksums.

====================  ============================================================================
file                  content
====================  ============================================================================
``poisons.npz``       ``images`` uint8 (P, H, W, C), ``labels`` int64 (P,), ``base_ids`` int64 (P,)
``target.npz``        optional: ``images`` uint8 (T, H, W, C), ``true_labels`` int64 (T,)
``trigger.npz``       optional: ``delta`` float32 (C, H, W) in units of [0, 1], or ``patch`` uint8
                      (h, w, C) and ``xy`` int64 (2,): column and row of its top left pixel
``meta.json``         the fields of :class:`Meta`, and the SHA-256 of each other file
====================  ============================================================================

Images stand here as a PNG holds them, channels last; in memory they are channels first.
"""

from __future__ import annotations

import json
import math
import tokenize
import typing
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from harness.core.data import Goal
from harness.core.errors import DataError, nearest
from harness.core.files import file_digest, read_arrays, write_arrays, write_text

FORMAT = "puregen-bench poisons 1"
META, POISONS, TARGET, TRIGGER = "meta.json", "poisons.npz", "target.npz", "trigger.npz"
UNKNOWN = -1  # as a base id: it is not known which training row the poison was made of
ASSUMED = "assumed"  # as the note `clean_label_is`: no data were there to compare labels with
_LARGEST_META = 1 << 20
_LARGEST_ARRAYS = 8 << 30

Note = str | int | float | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """What is known of a set of poisons.

    Attributes:
        goal: What the attacker wants (see :class:`harness.core.data.PoisonedSet`).
        adv_label: Label that the attacker wants to see; None for availability attacks.
        attack: Name of the attack, "" if unknown.
        dataset: Name of the dataset that ``base_ids`` refer to, "" if unknown.
        eps_255: Linf bound that the attack promises, in grey levels (25.5 for 0.1); None for none.
        clean_label: Whether each poison keeps the label of its base.
        source: File or address that it comes from.
        source_sha256: Checksum of that.
        notes: Further plain values: seeds, victim, what a reader found.
    """

    goal: Goal
    adv_label: int | None = None
    attack: str = ""
    dataset: str = ""
    eps_255: float | None = None
    clean_label: bool = True
    source: str = ""
    source_sha256: str = ""
    notes: dict[str, Note] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.goal not in get_args(Goal) or self.goal == "none":
            allowed = [goal for goal in get_args(Goal) if goal != "none"]
            raise DataError(f"goal must be one of {', '.join(allowed)}; got {self.goal!r}.")
        if self.adv_label is None and self.goal != "availability":
            raise DataError(f"a {self.goal} set needs adv_label, the label that is wanted.")
        if self.adv_label is not None and self.adv_label < 0:
            raise DataError(f"adv_label must be a class from 0 on; got {self.adv_label}.")
        if self.eps_255 is not None and not 0 < self.eps_255 <= 255:
            raise DataError(f"eps_255 is in grey levels, in (0, 255]; got {self.eps_255}.")


@dataclass(frozen=True, eq=False)
class Target:
    """Test images that one set of poisons aims at.

    Attributes:
        images: uint8 (T, C, H, W), without trigger.
        true_labels: int64 (T,).
    """

    images: NDArray[np.uint8]
    true_labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        _check_rows(self.images, {"true_labels": self.true_labels}, "target")
        if not len(self.images):
            raise DataError("a target needs an image.")


@dataclass(frozen=True, eq=False)
class Delta:
    """A trigger that is added to an image.

    Attributes:
        values: float32 (C, H, W) in units of [0, 1].
    """

    values: NDArray[np.float32]

    def __post_init__(self) -> None:
        v = self.values
        if v.dtype != np.float32 or v.ndim != 3 or not np.isfinite(v).all():
            raise DataError(
                f"a trigger's delta must be finite float32 (C, H, W); got {v.dtype} {v.shape}."
            )


@dataclass(frozen=True, eq=False)
class Patch:
    """A trigger that is pasted over an image.

    Attributes:
        pixels: uint8 (C, h, w).
        xy: Column and row of its top left pixel.
    """

    pixels: NDArray[np.uint8]
    xy: tuple[int, int]

    def __post_init__(self) -> None:
        if self.pixels.dtype != np.uint8 or self.pixels.ndim != 3 or not self.pixels.size:
            raise DataError(
                "a trigger's patch must be uint8 (C, h, w); "
                f"got {self.pixels.dtype} {self.pixels.shape}."
            )
        if min(self.xy) < 0:
            raise DataError(f"a patch lies at a column and row from 0 on; got {self.xy}.")

    def paste(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a copy of (N, C, H, W) with the patch.

        Raises:
            DataError: If it does not lie within the images.
        """
        (x, y), (channels, height, width) = self.xy, self.pixels.shape
        inside = y + height <= images.shape[2] and x + width <= images.shape[3]
        if channels != images.shape[1] or not inside:
            raise DataError(
                f"a patch of {self.pixels.shape} at column {x}, row {y} does not lie within images "
                f"of {images.shape[1:]}."
            )
        pasted = images.copy()
        pasted[:, :, y : y + height, x : x + width] = self.pixels
        return pasted


Trigger = Delta | Patch


@dataclass(frozen=True, eq=False)
class PoisonSet:
    """Poisons, the clean rows they replace, and what judges them.

    Attributes:
        images: uint8 (P, C, H, W).
        labels: int64 (P,), the labels that the poisons are trained on.
        base_ids: int64 (P,), id of the training row that each replaces, the index of the row in
            its published order; ``UNKNOWN`` where that is not known. Not checked for sense here:
            :mod:`harness.interop.lint` does.
        meta: What is known of it.
        target: Images that it aims at; None means all test images of other classes.
        trigger: Put onto the target, or onto those test images.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    base_ids: NDArray[np.int64]
    meta: Meta
    target: Target | None = None
    trigger: Trigger | None = None

    def __post_init__(self) -> None:
        _check_rows(self.images, {"labels": self.labels, "base_ids": self.base_ids}, "poisons")
        if not len(self.images):
            raise DataError("a set of poisons needs at least one.")
        if self.target is not None and self.target.images.shape[1:] != self.images.shape[1:]:
            raise DataError(
                f"poisons are of {self.images.shape[1:]}, "
                f"the target of {self.target.images.shape[1:]}; they must agree."
            )
        if self.meta.goal == "triggered" and self.trigger is None and self.target is None:
            raise DataError("a triggered set needs a trigger, or images that bear it.")
        if self.meta.goal == "targeted" and self.target is None:
            raise DataError("a targeted set needs a target.")

    def __len__(self) -> int:
        return len(self.images)


def _check_rows(
    images: NDArray[np.uint8], columns: Mapping[str, NDArray[np.int64]], what: str
) -> None:
    if images.dtype != np.uint8 or images.ndim != 4:
        raise DataError(
            f"images of {what} must be uint8 (N, C, H, W); got {images.dtype} {images.shape}."
        )
    if images.shape[1] not in (1, 3) or 0 in images.shape[2:]:
        raise DataError(f"images of {what} must have 1 or 3 channels; got {images.shape}.")
    for name, column in columns.items():
        if column.dtype != np.int64 or column.shape != (len(images),):
            raise DataError(
                f"{name} of {what} must be int64 ({len(images)},); "
                f"got {column.dtype} {column.shape}."
            )


# Files


def write_poison_set(folder: Path, poisons: PoisonSet) -> None:
    """Write a set into a folder; ``meta.json`` comes last and tells that it is whole."""
    (folder / META).unlink(missing_ok=True)
    contents: dict[str, dict[str, NDArray[Any]]] = {
        POISONS: {
            "images": _channels_last(poisons.images),
            "labels": poisons.labels,
            "base_ids": poisons.base_ids,
        }
    }
    if poisons.target is not None:
        contents[TARGET] = {
            "images": _channels_last(poisons.target.images),
            "true_labels": poisons.target.true_labels,
        }
    if isinstance(poisons.trigger, Delta):
        contents[TRIGGER] = {"delta": poisons.trigger.values}
    elif isinstance(poisons.trigger, Patch):
        patch = np.ascontiguousarray(poisons.trigger.pixels.transpose(1, 2, 0))
        contents[TRIGGER] = {"patch": patch, "xy": np.array(poisons.trigger.xy, np.int64)}
    for name in (TARGET, TRIGGER):
        if name not in contents:
            (folder / name).unlink(missing_ok=True)
    for name, arrays in contents.items():
        write_arrays(folder / name, arrays)
    sums = {name: file_digest(folder / name) for name in contents}
    text = {"format": FORMAT, **asdict(poisons.meta), "sha256": sums}
    write_text(folder / META, json.dumps(text, indent=1, allow_nan=False) + "\n")


def read_poison_set(folder: Path) -> PoisonSet:
    """Read a set from a folder.

    Raises:
        DataError: If a file is missing, damaged or another one than was written, or breaks a rule.
    """
    raw = read_meta(folder)
    sums = raw.pop("sha256", None)
    if not isinstance(sums, dict) or POISONS not in sums or set(sums) - {POISONS, TARGET, TRIGGER}:
        raise DataError(f"{str(folder / META)!r} lists no checksums of the files beside it.")
    for name, expected in sums.items():
        if file_digest(folder / name) != expected:
            raise DataError(f"{str(folder / name)!r} is not the file that meta.json stands for.")
    try:
        return _assembled(folder, _meta(raw), sums)
    except (DataError, KeyError) as error:
        text = f"{error} is missing." if isinstance(error, KeyError) else str(error)
        raise DataError(f"poisons {str(folder)!r}: {text}") from None


def is_poison_set(folder: Path) -> bool:
    """Whether a folder holds a set."""
    return (folder / META).is_file()


def sets_below(folder: Path) -> list[Path]:
    """Return the folders somewhat below one that hold a set or numbered sets, for a message."""
    metas = [p for depth in ("*", "*/*", "*/*/*") for p in folder.glob(f"{depth}/{META}")]
    sets = [p.parent for p in metas]
    return sorted({p.parent if p.name.isdecimal() else p for p in sets} - {folder})


def no_set(folder: Path) -> str:
    """Return the message that a folder holds no set, and where there is one."""
    names = [p.parent.name for p in folder.glob(f"*/{META}") if p.parent.name.isdecimal()]
    if names:
        numbers = ", ".join(sorted(names, key=int)[:20]) + (", …" if len(names) > 20 else "")
        return (
            f"{str(folder)!r} holds no set of poisons itself; its sets have the numbers {numbers}."
        )
    below = sets_below(folder)
    if not below:
        return (
            f"{str(folder)!r} holds no set of poisons: it has no {META}. "
            "'import-poisons' makes one from published files."
        )
    listed = ", ".join(repr(str(p)) for p in below[:4]) + (", …" if len(below) > 4 else "")
    return f"{str(folder)!r} holds no set of poisons itself; give one below it: {listed}."


def read_meta(folder: Path) -> dict[str, Any]:
    """Read what a set says of itself, whatever has become of its files.

    Raises:
        DataError: If it is missing, or not of this project's form.
    """
    path = folder / META
    try:
        if path.stat().st_size > _LARGEST_META:
            raise DataError(f"{str(path)!r} is too large to be one.")
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(no_set(folder)) from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{str(path)!r} cannot be read as JSON: {error}") from None
    if not isinstance(raw, dict) or raw.pop("format", None) != FORMAT:
        raise DataError(f"{str(path)!r} is not of the format {FORMAT!r}.")
    return raw


def _meta(raw: dict[str, Any]) -> Meta:
    kinds = typing.get_type_hints(Meta)
    for name, value in raw.items():
        if name not in kinds:
            raise DataError(f"{META} has an unknown {name!r}.{nearest(name, kinds)}")
        wanted = dict if name == "notes" else str if name == "goal" else kinds[name]
        number = name == "eps_255" and type(value) is int
        if not (isinstance(value, wanted) or number) or (
            isinstance(value, bool) and name != "clean_label"
        ):
            raise DataError(f"{META}: {name} is {str(value)[:40]!r}, of the wrong type.")
    if "goal" not in raw:
        raise DataError(f"{META} has no goal.")
    return Meta(**raw)


def _assembled(folder: Path, meta: Meta, sums: Mapping[str, str]) -> PoisonSet:
    arrays = _arrays(folder / POISONS)
    target, trigger = None, None
    if TARGET in sums:
        aimed = _arrays(folder / TARGET)
        target = Target(_channels_first(aimed["images"]), aimed["true_labels"])
    if TRIGGER in sums:
        trigger = _trigger(_arrays(folder / TRIGGER))
    images = _channels_first(arrays["images"])
    return PoisonSet(images, arrays["labels"], arrays["base_ids"], meta, target, trigger)


def _trigger(arrays: Mapping[str, NDArray[Any]]) -> Trigger:
    if "delta" in arrays:
        return Delta(arrays["delta"])
    patch, xy = arrays["patch"], arrays["xy"]
    if xy.shape != (2,) or xy.dtype != np.int64 or patch.ndim != 3:
        raise DataError("a trigger is a delta, or a patch (h, w, C) at xy (2,).")
    return Patch(np.ascontiguousarray(patch.transpose(2, 0, 1)), (int(xy[0]), int(xy[1])))


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read an ``.npz`` after a look at how large it will be."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(info.file_size for info in archive.infolist())
            for info in archive.infolist():
                with archive.open(info) as member:
                    _check_header(member, info.file_size, path)
    except (
        OSError, ValueError, EOFError, NotImplementedError, SyntaxError, tokenize.TokenError,
        zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        raise DataError(f"{str(path)!r} cannot be read as .npz: {str(error)[:100]!a}") from None
    if size > _LARGEST_ARRAYS:
        raise DataError(f"{str(path)!r} would take {size} bytes of memory.")
    return read_arrays(path)


def _check_header(member: Any, size: int, path: Path) -> None:
    """Raise unless a member's shape is that of its bytes: memory is taken by the shape."""
    np.lib.format.read_magic(member)
    shape, _, dtype = np.lib.format.read_array_header_1_0(member)
    if math.prod(shape) * dtype.itemsize > size:
        raise DataError(f"{str(path)!r} declares a shape {shape} that its bytes do not fill.")


def _channels_last(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1))


def _channels_first(images: NDArray[Any]) -> NDArray[Any]:
    if images.ndim != 4:
        raise DataError(f"images must be uint8 (N, H, W, C); got {images.dtype} {images.shape}.")
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
